"""Steps that run in a thread: told to stop at once, waited for, and abandoned when they do not."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from blazen.engine import failures
from blazen.engine.life import Happening

if TYPE_CHECKING:
    from blazen._core.run import Context, Worker
    from blazen.engine.run import Run


@enable_ki_protection
async def run_step(run: Run, worker: Worker) -> None:
    """Run the worker's step in a thread and settle its outcome.

    The scope is shielded: whoever aborts the step tells it through its context, and cancels this scope only to abandon
    the thread. The sentinel sees the caller's cancellation meanwhile.
    """
    ctx = worker.ctx
    assert ctx is not None
    step = ctx.step
    variables = worker.variables
    arguments = ((ctx, ctx.event) if step.ctx_first else (ctx.event, ctx)) if step.wants_ctx else (ctx.event,)

    done = threading.Event()
    raised: list[BaseException] = []
    given_up = False
    runs_step = False

    def call() -> object:
        nonlocal runs_step
        try:
            if given_up:
                return None
            ctx.thread_started = True
            if ctx.cancelled:  # asked after the line above, which `abort_step` reads after it has told the step
                return None
            runs_step = True
            return variables.run(step.fn, *arguments)
        except BaseException as exc:
            raised.append(exc)
            raise
        finally:
            done.set()

    run.loop  # noqa: B018  # the door for the thread's messages; made here, on the loop's own thread
    run.start_sentinel()
    run.arm_run_deadline()
    run.arm_deadline(ctx)
    ctx.thread_started = False
    result: object = None
    error: BaseException | None = None
    with trio.CancelScope(shield=True) as scope:
        ctx.thread_scope = scope
        worker.wait_for_thread()
        try:
            result = await trio.to_thread.run_sync(call, abandon_on_cancel=True)
        except trio.Cancelled:
            raise
        except BaseException as exc:
            if isinstance(exc, Exception) or done.is_set():
                error = exc
            else:  # Ctrl-C reached the loop; the thread goes on
                run.happened(Happening.FATAL, exc)
                await _wait_for_thread(done)
                error = raised[0] if raised else None
    given_up = scope.cancelled_caught
    ctx.thread_scope = None
    if scope.cancelled_caught and runs_step:  # a thread that has begun too late for its step is nobody to leave behind
        ctx.refuse()
    try:
        worker.finish_thread(result, error)
    except Exception as exc:  # what the step returned cannot be dispatched, or memory ran out
        failures.broken_dispatch(run, worker, exc)


async def _wait_for_thread(done: threading.Event) -> None:
    """Wait for a thread that trio no longer waits for. A second Ctrl-C does not hurry it."""
    limiter = trio.CapacityLimiter(1)  # the common one may be used up by steps
    while not done.is_set():
        try:
            await trio.to_thread.run_sync(done.wait, abandon_on_cancel=True, limiter=limiter)
        except KeyboardInterrupt:
            limiter = trio.CapacityLimiter(1)


def abandon(ctx: Context, scope: trio.CancelScope) -> None:
    """The grace of the attempt in `scope` is over: leave its thread alone, and refuse what it does from now on."""
    if ctx.thread_scope is scope:  # else it has come out in time; a later attempt has a scope of its own
        ctx.refuse()
        scope.cancel()
