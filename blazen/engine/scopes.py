"""Cancel scopes around parts of a step: the bounded, shielded cleanup, and scopes that a step forgot to close."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from blazen.engine import failures
from blazen.engine.life import Happening
from blazen.errors import WorkflowError

if TYPE_CHECKING:
    from types import TracebackType

    from blazen._core.run import Context, Worker
    from blazen.engine.run import Run


class Cleanup:
    """`async with ctx.cleanup():` may await after an abort, for at most `grace` seconds."""

    __slots__ = ("_ctx", "_grace", "_run", "_scope")

    def __init__(self, run: Run, ctx: Context, grace: float) -> None:
        self._run = run
        self._ctx = ctx
        self._grace = grace

    async def __aenter__(self) -> None:
        self._scope = trio.CancelScope(shield=True, deadline=trio.current_time() + self._grace)
        self._scope.__enter__()
        self._run.cleaning.append(self._ctx)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._run.cleaning.remove(self._ctx)
        swallowed = self._scope.__exit__(kind, error, traceback)
        if self._scope.cancelled_caught:
            failures.cut_off(self._run, self._ctx, self._grace)
        return swallowed


def close_left_open(run: Run, ctx: Context, error: BaseException | None) -> BaseException | None:
    """Close the scopes that a step entered and did not leave, so that the worker can go on; the run fails.

    Children of a nursery among them are cancelled; `wait_for_left_open` waits for them.
    """
    worker = ctx.worker
    task = worker.task
    while task._cancel_status is not worker.status:
        status = task._cancel_status
        if status is None:
            break
        nursery = next((n for n in task.child_nurseries if n.cancel_scope is status._scope), None)
        if nursery is not None:
            nursery.cancel_scope.cancel()
            task._child_nurseries.remove(nursery)
            run.left_open = (*run.left_open, nursery)
        status._scope.__exit__(None, None, None)
    run.fail(
        WorkflowError(
            f"step {ctx.step.name!r} of workflow {run.router.workflow!r} ended and left a cancel scope or nursery open "
            "that it had entered: use `with` or `async with` inside the step",
            step=ctx.step.name,
            event_type=ctx.event.event_type,
            run_id=run.run_id,
        )
    )
    return error


async def wait_for_left_open(run: Run, worker: Worker) -> None:
    """Wait for the children of nurseries that steps of this worker left open; called when its run has ended."""
    for nursery in run.left_open:
        if nursery._parent_task is worker.task:
            # What leaving the nursery would do; its cancel scope has been left already.
            worker.task._child_nurseries.append(nursery)
            error = failures.without_cancelled(await nursery._nested_child_finished(None))
            if error is not None:
                run.happened(Happening.FAILURE if isinstance(error, Exception) else Happening.FATAL, error)
    run.left_open = tuple(nursery for nursery in run.left_open if nursery._parent_task is not worker.task)
