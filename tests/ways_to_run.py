"""The ways a run is driven inside: what the contract says must hold on each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from blazen import Workflow
from blazen.engine.result import WorkflowResult

# "run": steps share one cancel scope. "scoped": each worker has its own, as timeouts need. "handler": watched.
WAYS = ("run", "scoped", "handler")

every_way = pytest.mark.parametrize("way", WAYS)


async def run_to_end(way: str, steps: Sequence[Callable[..., Any]], **options: Any) -> WorkflowResult[Any]:
    """Run a workflow of these steps in one of the `WAYS` and return its result."""
    if way == "scoped":
        options.setdefault("step_timeout", 1e6)
    workflow: Workflow[Any] = Workflow("w", steps, **options)
    if way == "handler":
        async with workflow.run_with_handler() as handler:
            return await handler.result()
    return await workflow.run()
