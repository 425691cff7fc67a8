"""One run of a workflow for the sake of what it does when something happens to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from blazen._core.stream import EventStream
from blazen.engine.handler import RunHandler
from blazen.engine.run import Run
from blazen.errors import ValidationError
from blazen.retry import show
from blazen.testing.answers import Answerer
from blazen.testing.scheduling import run_in_virtual_time
from blazen.workflow import Workflow

if TYPE_CHECKING:
    from blazen._core.run import Context, Worker
    from blazen.events import Event, InputRequestEvent, StopEvent
    from blazen.testing.checkpoints import Checkpoint, Prober

# Seconds of virtual time after which a run counts as hanging: eleven days.
HANGING_AFTER = 1_000_000.0

Check = Callable[["RunOutcome"], object]


class RunOutcome:
    """How one run ended, for a `check`.

    Attributes:
        how: `"completed"`, `"failed"` or `"cancelled"`.
        event: The `StopEvent` of a run that completed, else None.
        error: What a run failed with that did not complete; of a cancelled one its `CancelledError`; else None.
        suppressed: What steps raised while they were stopped.
        checkpoint: Where the run was disturbed; None if it was not.
        seed: Of the schedule.
        state: The state at the end, by key.
        session: `ctx.session`, the same dict.
        elapsed: Seconds the run took, in virtual time.
    """

    __slots__ = ("checkpoint", "elapsed", "error", "event", "how", "seed", "session", "state", "suppressed")

    def __init__(self, run: Run, *, checkpoint: Checkpoint | None, seed: int, elapsed: float) -> None:
        outcome: Any = run.outcome
        failed = isinstance(outcome, BaseException)
        self.how: str = run.state_name
        self.event: StopEvent | None = None if failed else outcome
        self.error: BaseException | None = outcome if failed else None
        self.suppressed: tuple[BaseException, ...] = getattr(outcome, "suppressed", ()) if failed else run.suppressed
        self.checkpoint = checkpoint
        self.seed = seed
        self.state: dict[str, Any] = dict(run.state.items())
        self.session: dict[str, Any] = run.session
        self.elapsed = elapsed

    @property
    def result(self) -> Any:
        """The `result` of a run that completed; raises what another one failed with."""
        if self.error is not None:
            raise self.error
        return getattr(self.event, "result", None)

    def __repr__(self) -> str:
        what = repr(self.event) if self.error is None else repr(self.error)
        return f"<RunOutcome {self.how}: {what}>"


class HangingError(AssertionError):
    """A run did not end."""


class TriedRun(Run):
    """A run that tells of what a prober cannot see: a question that nobody answers, and the call of a process step."""

    __slots__ = ("answerer", "prober")

    def __init__(self, *arguments: Any, answerer: Answerer, prober: Prober, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.answerer = answerer
        self.prober = prober

    def unanswerable(self, event: InputRequestEvent) -> Exception:
        """The test has given no answers: the run fails, whatever the step makes of it."""
        error = self.answerer.unanswered(event)
        self.answerer.give_up(self, error)
        return error

    def restart_clock(self, ctx: Context) -> None:
        """A worker process has been found for the step."""
        super().restart_clock(ctx)
        self.prober.starts_computing(ctx)

    async def _run_off_loop(self, worker: Worker) -> None:
        ctx = worker.ctx
        assert ctx is not None
        if ctx.step.in_process:  # of others the function itself tells
            try:
                self.prober.call(ctx.step.name, ctx.step.fn)
            except Exception as error:
                worker.wait_for_thread()
                worker.finish_thread(None, error)
                return
        await super()._run_off_loop(worker)


class _BreakOff(BaseException):
    """Thrown into whatever a hanging run waits for."""


def workflow_of(call: str, workflow: object) -> Workflow[Any]:
    """The workflow that was given, or that the function makes that was given.

    Raises:
        ValidationError: It is neither.
    """
    made = workflow
    if not isinstance(workflow, Workflow | type) and callable(workflow):
        made = workflow()
    if not isinstance(made, Workflow):
        raise ValidationError(f"{call} takes a workflow, or a function that makes one, got {show(made)}")
    return made


def run_trial(
    workflow: Workflow[Any],
    input: Any,
    *,
    prober: Prober,
    answerer: Answerer,
    check: Check | None,
    seed: int,
) -> RunOutcome:
    """Run a workflow in a loop of its own, in virtual time, and have `check` look at the outcome inside that loop.

    Raises:
        HangingError: The run does not end.
        ValidationError: It asks what the answerer has no answer to.
        Exception: Whatever `check` raises, or a function that answers.
    """
    return run_in_virtual_time(
        partial(_run, workflow, input, prober=prober, answerer=answerer, check=check, seed=seed),
        seed=seed,
        instruments=[prober],
    )


async def _run(
    workflow: Workflow[Any],
    input: Any,
    *,
    prober: Prober,
    answerer: Answerer,
    check: Check | None,
    seed: int,
) -> RunOutcome:
    start = workflow._start(input, {})
    # Only where there is somebody to answer is there a handler: most workflows are run without one.
    stream = EventStream(0) if answerer.given else None
    run = workflow._new_run(stream, partial(TriedRun, answerer=answerer, prober=prober))
    hung: list[str] = []
    guard = trio.CancelScope()
    # A system task, and no child of this one: that might look like a task of the step that this one runs.
    trio.lowlevel.spawn_system_task(_watch_for_hanging, run, prober, guard, hung)
    began = trio.current_time()
    with trio.CancelScope() as scope:
        prober.begin(run, scope)
        try:
            if stream is None:
                await run.execute(start)
            else:
                await _execute_and_answer(run, start, answerer)
        except Exception:
            if not run.over:  # the run has not even begun
                raise
        except _BreakOff:
            pass
        finally:
            prober.end()
            guard.cancel()
    if answerer.mistake is not None:
        raise answerer.mistake
    if hung:
        raise HangingError("\n".join(["the run does not end by itself; it waits where nothing comes:", *hung]))
    outcome = RunOutcome(run, checkpoint=prober.reached, seed=seed, elapsed=trio.current_time() - began)
    if check is not None:
        verdict: Any = check(outcome)
        if hasattr(verdict, "__await__"):
            verdict = await verdict
        if verdict is False:
            raise AssertionError(f"check returned False for {outcome!r}")
    return outcome


async def _execute_and_answer(run: Run, start: Event, answerer: Answerer) -> None:
    handler: RunHandler[Any] = RunHandler(run, start)
    async with handler:
        run.nursery.start_soon(answerer.keep_answering, handler, run, name="blazen test answers")
        await handler.result()


async def _watch_for_hanging(run: Run, prober: Prober, guard: trio.CancelScope, hung: list[str]) -> None:
    with guard:
        while not run.over:
            await trio.sleep(HANGING_AFTER)
            if _waits_for_the_world(prober):  # that takes real time, and the clock leaps over it
                await trio.to_thread.run_sync(time.sleep, 0.001, limiter=trio.CapacityLimiter(1))
                continue
            if any(getattr(task, "_next_send_fn", None) is not None for task, _ in prober.waiting_tasks()):
                continue  # what it waited for has come in this very pass
            for task, place in prober.waiting_tasks():
                if place not in hung:
                    hung.append(place)
                if task._abort_func is not None:
                    task._attempt_abort(_raise_break_off)
            if run.questions and not hung and run.state_name == "waiting":  # no step waits, only the run
                hung += [f"nobody answers {question.prompt!r}" for question in run.questions.values()]
                run.cancel()


def _waits_for_the_world(prober: Prober) -> bool:
    """Whether a step waits for a thread, or for something that is read or written."""
    io: Any = trio.lowlevel.current_statistics().io_statistics
    # One task of trio's own always reads: it wakes the loop.
    if getattr(io, "tasks_waiting_read", 0) + getattr(io, "tasks_waiting_write", 0) > 1:
        return True
    in_thread: Any = trio.to_thread.run_sync
    return any(
        frame.f_code is in_thread.__code__
        for task, _ in prober.waiting_tasks()
        for frame, _ in task.iter_await_frames()
    )


def _raise_break_off() -> None:
    raise _BreakOff


def explain(error: BaseException, note: str) -> None:
    """Add a line to a message, once."""
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
