"""How a run is called: inside trio, or in a loop of its own."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from trio.lowlevel import in_trio_task

from blazen.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from blazen.engine.result import WorkflowResult
    from blazen.graph import Graph

_T = TypeVar("_T")


def unguard_steps(graph: Graph) -> None:
    """Let Ctrl-C interrupt the steps themselves; the engine around them is protected from it."""
    for spec in graph.specs:
        for fn in (spec.fn, spec.on_error):
            if fn is not None and hasattr(fn, "__code__"):
                trio.lowlevel.disable_ki_protection(fn)


_making = threading.local()  # `runs` is True while what hosts trio makes a run


def in_trio() -> bool:
    """Whether runs can be made here: in a trio task, or by what hosts the trio loop."""
    return in_trio_task() or getattr(_making, "runs", False)


def as_host(make: Callable[[], _T]) -> _T:
    """Call what makes a run, for somebody who hosts the trio loop that it will live in."""
    _making.runs = True
    try:
        return make()
    finally:
        _making.runs = False


def _running_loop() -> str | None:
    """What event loop runs in this thread, if any."""
    asyncio = sys.modules.get("asyncio")
    if not in_trio_task() and asyncio is not None and asyncio._get_running_loop() is not None:
        return "asyncio"  # trio may be a guest in it
    return "trio" if trio.lowlevel.in_trio_run() else None


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
        mend = (
            "use `await workflow.run(...)`"
            if loop == "trio"
            else "use `await blazen.asyncio.run(workflow, ...)`, or call it in a thread: asyncio.to_thread(...)"
        )
        raise ValidationError(f"workflow {name!r}: run_sync() inside a running {loop} loop; {mend}")

    async def main() -> WorkflowResult[Any]:
        return await call()

    return trio.run(main)
