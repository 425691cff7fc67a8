"""The checkpoints of a run's steps: where each one is, and a hand that does something at one of them.

When can a cancellation reach a step? trio's loop is the only place from which it can come, so only while the step's
task is suspended, and there are two moments of each suspension that differ: while it waits, and when it has been woken
and has not gone on yet. In the first the wait itself is cut short; in the second it is over, and the next checkpoint
raises, also one that would not have suspended (`checkpoint_if_cancelled`). An instrument of the loop sees both, of the
child tasks of a step as well, and of steps that the engine drives in place.
"""

from __future__ import annotations

import inspect
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import outcome
import trio

import blazen

if TYPE_CHECKING:
    from collections.abc import Callable

    from blazen._core.router import StepInfo
    from blazen._core.run import Context, Worker
    from blazen.engine.run import Run

WAITS, GOES_ON, IS_CALLED = "waits", "goes on", "is called"

_OWN = (str(Path(trio.__file__).parent) + os.sep, str(Path(blazen.__file__).parent) + os.sep)
_STDLIB = sysconfig.get_path("stdlib") + os.sep
_SITE = tuple(sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib"))


class Checkpoint(NamedTuple):
    """One moment of a run at which something can reach a step.

    Attributes:
        number: Counted from 1, in the order in which the run comes to them.
        what: `"waits"`: the step waits. `"goes on"`: what it waited for has come, and it is about to go on.
            `"is called"`: it has not begun.
        step: The step's name.
        attempt: Which attempt it is.
        file: The file of the line that waits, in the step or in what it called or started.
        line: The line.
    """

    number: int
    what: str
    step: str
    attempt: int
    file: str
    line: int

    def __str__(self) -> str:
        again = f" (attempt {self.attempt})" if self.attempt > 1 else ""
        return f"step {self.step!r}{again} {self.what} at {_short(self.file)}:{self.line}"


class Prober(trio.abc.Instrument):
    """Counts the checkpoints of a run, and at one of them does what its subclass does; this one does nothing."""

    def __init__(self, steps: frozenset[str] | None = None, number: int | None = None) -> None:
        """Look at the steps of these names (None: at all), and act at the checkpoint of this number (None: never)."""
        self.count = 0
        self.reached: Checkpoint | None = None
        self._steps = steps
        self._number = number
        self._run: Run | None = None
        self._waiting: set[trio.lowlevel.Task] = set()
        self._computing: dict[Context, int] = {}  # how often each has been suspended since

    def begin(self, run: Run, scope: trio.CancelScope) -> None:
        """The run begins, inside of `scope`."""
        self._run = run
        self.scope = scope

    def end(self) -> None:
        """The run is over."""
        self._run = None

    def act(self, checkpoint: Checkpoint, task: trio.lowlevel.Task) -> None:
        """The run has come to the checkpoint; `task` waits there."""

    def call(self, step: str, fn: Callable[..., Any]) -> None:
        """The step is about to be called; what is raised here, it raises."""

    def starts_computing(self, ctx: Context) -> None:
        """The process step is handed to a worker process now, by the task that runs."""
        self._computing[ctx] = 0

    # --- what trio calls

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """A task is about to go on."""
        if self._run is not None and task in self._waiting:
            self._waiting.discard(task)
            self.come_to(GOES_ON, task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """A task has been suspended, or has ended."""
        worker = None if self._run is None else self.worker_of(task)
        if worker is None:
            return
        if worker.ctx is not None and worker.ctx.step.in_process:
            self._in_process(worker.ctx, task)
            return
        # One that cannot be aborted is in the next pass already: whatever comes meanwhile, comes before it goes on.
        if task._abort_func is not None:
            self._waiting.add(task)
        self.come_to(WAITS, task)

    # --- checkpoints

    def _in_process(self, ctx: Context, task: trio.lowlevel.Task) -> None:
        """A process step has one checkpoint: it computes. How often its task waits for the answer differs.

        The first suspension comes before the event is sent, the second one when it is on its way.
        """
        if ctx not in self._computing:
            return
        self._computing[ctx] += 1
        if self._computing[ctx] == 2:
            del self._computing[ctx]
            self.come_to(WAITS, task)

    def come_to(self, what: str, task: trio.lowlevel.Task) -> None:
        """Count a checkpoint where a task waits, and act there if it is the one."""
        worker = self.worker_of(task)
        ctx = None if worker is None else worker.ctx
        if worker is None or ctx is None or not self.looks_at(ctx.step.name):
            return
        self.count += 1
        if self.count == self._number:
            file, line = _place_in(ctx.step, task, worker.task)
            self.reached = Checkpoint(self.count, what, ctx.step.name, ctx.attempt, file, line)
            self.act(self.reached, task)

    def looks_at(self, step: str) -> bool:
        """Whether it is a step to look at, and nothing has been done yet."""
        return self.reached is None and (self._steps is None or step in self._steps)

    def worker_of(self, task: trio.lowlevel.Task) -> Worker | None:
        """The worker whose step is suspended in a task, or has started this task; None if there is none."""
        run = self._run
        if run is None or task.coro.cr_frame is None:
            return None
        at: trio.lowlevel.Task | None = task
        while at is not None:
            for worker in run.workers:
                if worker.task is at:
                    return worker if worker.suspended and worker.ctx is not None else None
            nursery: Any = at.parent_nursery
            if nursery is None or nursery is run.nursery:  # a task of the engine
                return None
            at = nursery.parent_task
        return None

    def waiting_tasks(self) -> Iterator[tuple[trio.lowlevel.Task, str]]:
        """The tasks in which steps wait, and a line that says where."""
        if self._run is None:
            return
        for worker in list(self._run.workers):
            if worker.suspended and worker.ctx is not None:
                yield from self._with_children(worker.task, worker.ctx.step)

    def _with_children(self, task: trio.lowlevel.Task, step: Any) -> Iterator[tuple[trio.lowlevel.Task, str]]:
        file, line = _place_in(step, task)
        yield task, f"step {step.name!r} waits at {_short(file)}:{line}"
        for nursery in task.child_nurseries:
            if self._run is not None and nursery is not self._run.nursery:
                for child in nursery.child_tasks:
                    yield from self._with_children(child, step)


class Canceller(Prober):
    """Cancels the scope around the run at its checkpoint."""

    def act(self, checkpoint: Checkpoint, task: trio.lowlevel.Task) -> None:
        """Cancel."""
        self.scope.cancel()


class Saboteur(Prober):
    """Has what a step waits for raise, or the step itself when it is called.

    It looks at waits that can be cut short, and at bare checkpoints. Where trio takes something and only then lets
    others run, as a free lock does, nothing can fail any more; raising there would be an error that cannot happen.
    """

    def __init__(
        self, steps: frozenset[str] | None, number: int | None, make_error: Callable[[Checkpoint], Exception]
    ) -> None:
        super().__init__(steps, number)
        self._make_error = make_error
        self.error: Exception | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """What has come cannot fail any more."""

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """A task has been suspended, or has ended."""
        worker = self.worker_of(task)
        if worker is None or worker.ctx is None:
            return
        if worker.ctx.step.off_loop and task is worker.task:
            return  # the wait is the engine's: for the thread or the process
        if task._abort_func is not None or _is_bare_checkpoint(task):
            self.come_to(WAITS, task)

    def act(self, checkpoint: Checkpoint, task: trio.lowlevel.Task) -> None:
        """Have the wait raise."""
        error = self.error = self._make_error(checkpoint)

        def raise_error() -> None:
            raise error

        if task._abort_func is not None:
            task._attempt_abort(raise_error)  # as trio itself does for a cancellation or Ctrl-C
        else:
            task._next_send = outcome.Error(error)

    def call(self, step: str, fn: Callable[..., Any]) -> None:
        """The step is about to be called; raises if this is the checkpoint."""
        if self._run is None or not self.looks_at(step):
            return
        self.count += 1
        if self.count == self._number:
            file, line = function_place(fn)
            # Of an inline step the worker is not suspended while it is called.
            called = sorted(self._run.running(step), key=lambda ctx: ctx.worker.suspended)
            attempt = called[0].attempt if called else 1
            self.reached = Checkpoint(self.count, IS_CALLED, step, attempt, file, line)
            self.error = self._make_error(self.reached)
            raise self.error


def _is_bare_checkpoint(task: trio.lowlevel.Task) -> bool:
    codes = [frame.f_code for frame, _ in task.iter_await_frames()]
    inner: Any = trio.lowlevel.cancel_shielded_checkpoint
    outer: Any = trio.lowlevel.checkpoint
    return inner.__code__ in codes and codes[codes.index(inner.__code__) - 1] is outer.__code__


def _place_in(step: StepInfo, *tasks: trio.lowlevel.Task) -> tuple[str, int]:
    """File and line where a step waits: in the first of the tasks that shows it, else where its function begins."""
    if not step.in_process:
        for task in tasks:
            place = place_of(task)
            if place is not None:
                return place
    return function_place(step.fn)


def place_of(task: trio.lowlevel.Task) -> tuple[str, int] | None:
    """File and line where a task waits: the innermost that is not of trio, blazen or the standard library."""
    found = None
    for frame, line in task.iter_await_frames():
        if _is_users(frame):
            found = frame.f_code.co_filename, line
    return found


def function_place(fn: Any) -> tuple[str, int]:
    """File and first line of a function."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return ("?", 0) if code is None else (code.co_filename, code.co_firstlineno)


def _is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith(_OWN):
        return False
    return not file.startswith(_STDLIB) or file.startswith(_SITE)


def _short(file: str) -> str:
    """A path as one would type it: relative, if it lies below the current directory."""
    try:
        relative = os.path.relpath(file)
    except ValueError:  # on another drive
        return file
    return file if relative.startswith("..") else relative
