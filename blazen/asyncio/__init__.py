"""Workflows in asyncio: `import blazen.asyncio as ba`, then `await ba.run(workflow, ...)`.

The names are those of `Workflow`, as functions that take the workflow first. trio runs as a guest in the asyncio loop:
steps run in the same thread as the program, nothing has to be started, and nothing outlives the loop. Steps that need
asyncio themselves are declared with `@step(run="asyncio")`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from blazen.asyncio.guest import guest_of_running_loop
from blazen.asyncio.handler import RunHandler
from blazen.engine.calling import as_host
from blazen.errors import ValidationError
from blazen.retry import show
from blazen.workflow import Workflow

if TYPE_CHECKING:
    from blazen.engine.result import WorkflowResult
    from blazen.snapshot import Snapshot

Out = TypeVar("Out")
_P = ParamSpec("_P")
_T = TypeVar("_T")


async def run(workflow: Workflow[Out], input: Any = None, /, **fields: Any) -> WorkflowResult[Out]:
    """Run a workflow once and return what its `StopEvent` carried. Inside asyncio.

    Cancelling the caller's task cancels the run: each step is stopped at its next checkpoint, and its cleanup has
    finished before `asyncio.CancelledError` reaches you. So it is with `asyncio.timeout` and `asyncio.TaskGroup`.

    Args:
        workflow: Any workflow.
        input: Any object; `ev.data` of the `StartEvent`. Give either this or `fields`.
        **fields: The input as keywords.
    Raises:
        ValidationError: As of `Workflow.run`; or this is not called inside asyncio. No step has run.
        TimeoutError: The workflow's `timeout` ran out, or a step's.
        WorkflowError: A step raised, and that exception is the `__cause__`; or the run could not go on.
    """
    _check(workflow, "run")
    guest = guest_of_running_loop("blazen.asyncio.run()")
    begun = guest.inside(partial(as_host, partial(workflow.begin, input, fields)), asks=False)
    result: WorkflowResult[Out] = await guest.run(begun)
    return result


def run_with_handler(workflow: Workflow[Out], input: Any = None, /, **fields: Any) -> RunHandler[Out]:
    """A run to watch and steer: `async with ba.run_with_handler(workflow, ...) as handler`. Inside asyncio.

    Args:
        workflow: Any workflow.
        input: As of `run`.
        **fields: As of `run`.
    Raises:
        ValidationError: As of `run`.
    """
    _check(workflow, "run_with_handler")
    guest = guest_of_running_loop("blazen.asyncio.run_with_handler()")
    return RunHandler(guest, partial(workflow.run_with_handler, input, **fields))


def resume(workflow: Workflow[Out], snapshot: Snapshot | str, *, trust_native: bool = False) -> RunHandler[Out]:
    """Go on with a run where a snapshot of it was taken: `async with ba.resume(workflow, snapshot) as handler`.

    Args:
        workflow: One of the name and version that the snapshot is of.
        snapshot: As of `Workflow.resume`; one may come from a run under trio, and go on there.
        trust_native: As of `Workflow.resume`.
    Raises:
        ValidationError: As of `Workflow.resume`; or this is not called inside asyncio. Nothing has run.
    """
    _check(workflow, "resume")
    guest = guest_of_running_loop("blazen.asyncio.resume()")
    return RunHandler(guest, partial(workflow.resume, snapshot, trust_native=trust_native))


async def call(fn: Callable[_P, Awaitable[_T]], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Await an async function that needs trio, such as `blazen.recover` or a method of a store. Inside asyncio.

    It sees the caller's context variables. Cancelling the caller's task cancels it, and waits until it is out.

    Args:
        fn: The function.
        *args: Its arguments.
        **kwargs: Likewise.
    Raises:
        ValidationError: This is not called inside asyncio.
        Exception: What `fn` raises.
    """
    variables = copy_context()

    async def main() -> _T:
        before = [(variable, variable.set(value)) for variable, value in variables.items()]
        try:
            return await fn(*args, **kwargs)
        finally:
            for variable, token in before:
                variable.reset(token)

    result: _T = await guest_of_running_loop("blazen.asyncio.call()").run(main)
    return result


def _check(workflow: object, call: str) -> None:
    if not isinstance(workflow, Workflow):
        raise ValidationError(f"blazen.asyncio.{call}() takes a workflow first, got {show(workflow)}")


__all__ = ["RunHandler", "call", "resume", "run", "run_with_handler"]
