"""How a run is called: inside trio, or in a loop of its own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import trio

from blazen.errors import ValidationError

if TYPE_CHECKING:
    from blazen.engine.result import WorkflowResult
    from blazen.events import Event
    from blazen.graph import Graph
    from blazen.workflow import Workflow


def unguard_steps(graph: Graph) -> None:
    """Let Ctrl-C interrupt the steps themselves; the engine around them is protected from it."""
    for spec in graph.specs:
        for fn in (spec.fn, spec.on_error):
            if hasattr(fn, "__code__"):
                trio.lowlevel.disable_ki_protection(fn)


def _running_loop() -> str | None:
    """What event loop runs in this thread, if any."""
    if trio.lowlevel.in_trio_run():
        return "trio"
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return "asyncio"
    return None


def run_in_own_loop(workflow: Workflow[Any], start: Event) -> WorkflowResult[Any]:
    """Run a workflow in the calling thread.

    Raises:
        ValidationError: An event loop runs in this thread already.
    """
    loop = _running_loop()
    if loop is not None:
        mend = "use `await workflow.run(...)`" if loop == "trio" else "call it in a thread: asyncio.to_thread(...)"
        raise ValidationError(f"workflow {workflow.name!r}: run_sync() inside a running {loop} loop; {mend}")

    async def main() -> WorkflowResult[Any]:
        return await workflow._new_run(None).execute(start)

    return trio.run(main)
