"""How a run is called: inside trio, or in a loop of its own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import trio

from blazen.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from blazen.engine.result import WorkflowResult
    from blazen.graph import Graph


def unguard_steps(graph: Graph) -> None:
    """Let Ctrl-C interrupt the steps themselves; the engine around them is protected from it."""
    for spec in graph.specs:
        for fn in (spec.fn, spec.on_error):
            if fn is not None and hasattr(fn, "__code__"):
                trio.lowlevel.disable_ki_protection(fn)


def _running_loop() -> str | None:
    """What event loop runs in this thread, if any."""
    if trio.lowlevel.in_trio_run():
        return "trio"
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return "asyncio"
    return None


def run_in_own_loop(name: str, call: Callable[[], Awaitable[WorkflowResult[Any]]]) -> WorkflowResult[Any]:
    """Run a workflow in the calling thread.

    Args:
        name: Of the workflow, for messages.
        call: Makes the run and waits for it; called inside the loop.

    Raises:
        ValidationError: An event loop runs in this thread already.
    """
    loop = _running_loop()
    if loop is not None:
        mend = "use `await workflow.run(...)`" if loop == "trio" else "call it in a thread: asyncio.to_thread(...)"
        raise ValidationError(f"workflow {name!r}: run_sync() inside a running {loop} loop; {mend}")

    async def main() -> WorkflowResult[Any]:
        return await call()

    return trio.run(main)
