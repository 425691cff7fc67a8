"""Whether a plain run, in which steps wait for events, can still go on by itself.

Nobody can send an event to such a run from outside. So it is stuck when everything that its steps do is to wait, with
no limit of time. A step that does something else beside its own wait may still send what it waits for; what that is
cannot be known, so it is looked again later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blazen.engine import failures

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import trio

    from blazen._core.run import Worker
    from blazen.engine.run import Run
    from blazen.engine.waits import Waits

# Seconds until it is looked again, doubled each time; no longer than `_LAST_LOOK`, or virtual time would run for ever.
_FIRST_LOOK = 0.125
_LAST_LOOK = 1e6


def look(run: Run) -> None:
    """Fail a run that is stuck, or see to it that it is looked again if nothing else will."""
    opened: Waits = run.open_waits()
    if not run.waits_only():
        opened.next_look = 0.0
        return
    waiting = {wait.task: wait for wait in opened.open}
    works = ends = several = False
    for ctx in {wait.ctx for wait in opened.open}:
        if ctx.thread_scope is not None:  # what the thread does is to wait for the loop
            ends |= any(wait.timer for wait in opened.open if wait.ctx is ctx)
            works |= ctx.step.in_asyncio  # unless it is a task of asyncio, of which nobody knows what else it does
            continue
        tasks = list(_tasks(ctx.worker.task, _nurseries_of_step(run, ctx.worker)))
        several |= len(tasks) > 1
        for task in tasks:
            wait = waiting.get(task)
            works |= wait is None and not _waits_for_children(task)
            ends |= (wait is not None and wait.timer != 0) or _has_deadline(task, ctx.worker)
    if not (works or ends):
        run.fail(failures.stuck(run))
    elif (works or several) and not opened.will_look and opened.next_look < _LAST_LOOK:
        opened.next_look = opened.next_look * 2.0 or _FIRST_LOOK
        opened.will_look = True
        run.add_timer(run.now() + opened.next_look, run.look_again)


def _nurseries_of_step(run: Run, worker: Worker) -> Iterable[trio.Nursery]:
    """The nurseries that the step itself has opened in its worker's task."""
    nurseries: list[trio.Nursery] = worker.task.child_nurseries
    if run.nursery in nurseries:  # the first worker is the caller's own task, which has nurseries of its own
        return nurseries[nurseries.index(run.nursery) + 1 :]
    return nurseries


def _tasks(task: trio.lowlevel.Task, nurseries: Iterable[trio.Nursery]) -> Iterator[trio.lowlevel.Task]:
    yield task
    for nursery in nurseries:
        for child in nursery.child_tasks:
            yield from _tasks(child, child.child_nurseries)


def _waits_for_children(task: trio.lowlevel.Task) -> bool:
    nurseries = task.child_nurseries
    return bool(nurseries) and bool(getattr(nurseries[-1], "_parent_waiting_in_aexit", False))


def _has_deadline(task: trio.lowlevel.Task, worker: Worker) -> bool:
    """Whether a scope that the step has entered bounds what this task does."""
    status: Any = task._cancel_status
    while status is not None and status is not worker.status:
        if status._scope.deadline != float("inf"):
            return True
        status = status._parent
    return False
