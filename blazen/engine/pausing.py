"""Pausing a run: nothing is dispatched, running steps are waited for or put back, and every clock stands still.

A step that waits in its middle, for an answer or an event, is not waited for; what it gets meanwhile it is given when
the run goes on.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from blazen._core import run as core
from blazen.engine.life import NAMES, Happening, State
from blazen.errors import ValidationError

if TYPE_CHECKING:
    from blazen._core.run import Context
    from blazen.engine.run import Run
    from blazen.engine.waits import Wait


class Pause:
    """What one run needs while it is pausing or paused."""

    __slots__ = ("back", "changed", "deferred", "left", "retries", "waiting_tasks", "waits")

    def __init__(self) -> None:
        self.changed = trio.Event()
        self.waiting_tasks = 0  # in `pause()`
        self.back: list[Context] = []  # aborted, to run again
        self.deferred: list[Wait] = []  # have been given what they wait for while the run was paused
        self.waits: list[tuple[Wait, float]] = []  # with a time limit, and the seconds that were left of it
        self.retries: list[tuple[Context, float]] = []  # likewise, of waits before a retry
        self.left = False  # the block has been left: the run is let go of when it is quiet


async def pause(run: Run, *, abort: bool) -> None:
    """Return when the run is paused.

    Raises:
        ValidationError: It has ended, before or meanwhile; it was resumed meanwhile; or one of its own steps asks.
    """
    refuse_ended(run, "pause()")
    if _inside_a_step(run):
        raise ValidationError("pause() is called by a step of the run: it would wait for itself; call it from outside")
    run.happened(Happening.PAUSE)
    paused = run.pause
    assert paused is not None
    if abort:
        for ctx in run.running():
            if ctx.holds == 0:
                run.abort_step(ctx, core.PUT_BACK)
    look_whether_quiet(run)
    paused.waiting_tasks += 1
    try:
        if run.life is State.PAUSING:
            await paused.changed.wait()
        else:
            await trio.lowlevel.checkpoint()
    except BaseException:
        if run.life is State.PAUSING and paused.waiting_tasks == 1:
            run.happened(Happening.RESUME)
        raise
    finally:
        paused.waiting_tasks -= 1
    if run.ending:
        await run.wait_until_over()
    refuse_ended(run, "pause()")
    if run.life is not State.PAUSED:
        raise ValidationError(f"pause(): run {run.run_id} was resumed before its snapshot was taken")


def _inside_a_step(run: Run) -> bool:
    """Whether the caller is a step of the run, or a task in a nursery that a step has opened."""
    steps = {worker.task for worker in run.workers if worker.ctx is not None}
    task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    while task is not None:
        if task in steps:
            return True
        task = None if task.parent_nursery is None else task.parent_nursery.parent_task
    return False


def leave(run: Run) -> None:
    """The block of the run is being left: one that is paused is let go of, once all who paused it have its snapshot."""
    if run.pause is not None:
        run.pause.left = True
        let_go_if_left(run)


def let_go_if_left(run: Run) -> None:
    """Cancel a paused run whose block has been left, unless somebody is still about to take its snapshot."""
    if run.life is State.PAUSED and run.pause is not None and run.pause.left and not run.pause.waiting_tasks:
        if run.ledger is not None:
            run.ledger.let_go("paused")
        else:
            run.cancel("paused")


def refuse_ended(run: Run, call: str) -> None:
    """Refuse a run that has ended, or is ending."""
    if run.ending or run.over:
        raise ValidationError(
            f"{call}: run {run.run_id} of workflow {run.router.workflow!r} has ended ({NAMES[run.life]}): there is "
            "nothing to pause or to go on with"
        )


def look_whether_quiet(run: Run) -> None:
    """Once nothing runs but what waits in its middle, the run is paused."""
    if run.life is State.PAUSING and run.busy == run.waiting and not run.unsettled:
        run.happened(Happening.QUIET)


def hold(run: Run) -> None:
    """Dispatch nothing from now on."""
    run.held = True
    if run.pause is None or run.pause.changed.is_set():
        run.pause = Pause()


def freeze(run: Run) -> None:
    """The run is quiet: put back what was aborted, and stop every clock."""
    paused = run.pause
    assert paused is not None
    _requeue(run, paused)
    now = run.now()
    if run.waits is not None:
        for wait in run.waits.open:
            if wait.timer:
                paused.waits.append((wait, max(0.0, wait.deadline - now)))
                run.cancel_timer(wait.timer)
    for ctx, (token, due) in run.retries.items():
        paused.retries.append((ctx, max(0.0, due - now)))
        run.cancel_timer(token)
    run.retries.clear()
    run.stop_clock()
    paused.changed.set()


def release(run: Run) -> None:
    """Let the clocks go on and dispatch again."""
    paused = run.pause
    assert paused is not None
    paused.changed.set()
    _requeue(run, paused)
    now = run.now()
    for wait, left in paused.waits:
        if wait.task is not None:
            wait.limit(now + left)
    for ctx, left in paused.retries:
        run.retry_at(ctx, now + left)
    if run.gated:  # attempts that are queued are counted before they begin
        run.ledger.after_commit(partial(_dispatch_again, run))
    for wait in paused.deferred:  # first: a run whose steps have what they wait for does not wait
        if wait.task is not None:
            wait.wake()
    run.keep_time()
    run.pause = None
    if run.gated:
        run.ledger.stir()
    else:
        _dispatch_again(run)


def _dispatch_again(run: Run) -> None:
    if run.life is not State.RUNNING:  # it was paused again, or has ended, before this was written
        return
    run.release()
    run.keep_time()
    if run.is_idle():  # the last step finished during the pause
        run.on_idle()


def _requeue(run: Run, paused: Pause) -> None:
    """In the order of their events' numbers, before everything that is queued."""
    # What goes behind the gate comes out in the order in which it went there, before what is queued too.
    run.gating = run.gated
    try:
        for ctx in sorted(paused.back, key=in_order, reverse=not run.gated):
            run.requeue(ctx, handle=ctx.handling)
    finally:
        run.gating = False
    paused.back.clear()


def in_order(ctx: Context) -> tuple[int, int]:
    """What to sort attempts by: the number of the event, then the place of the step in the workflow."""
    return ctx.seq, ctx.step.index
