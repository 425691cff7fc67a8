"""What goes wrong in a run, put into errors and warnings that say what, where and what to do."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from blazen.engine.life import Happening, State
from blazen.errors import BlazenError, BlazenWarning, CancelledError, TimeoutError, ValidationError, WorkflowError
from blazen.events import DynamicEvent, StopEvent, convert

if TYPE_CHECKING:
    from blazen._core.run import Context, Worker
    from blazen.engine.run import Run
    from blazen.events import Event, InputRequestEvent

Attempt: TypeAlias = tuple[int, int, bool]  # number of the event, attempt, whether `on_error` runs

_LOCK_OWNERS: dict[Any, list[Any]] = getattr(
    trio._core._parking_lot,
    "GLOBAL_PARKING_LOT_BREAKER",
    {},
)


def locks_held(task: trio.lowlevel.Task) -> int:
    """How many trio locks a task holds."""
    return len(_LOCK_OWNERS.get(task, ()))


def without_cancelled(error: BaseException | None) -> BaseException | None:
    """What is left of an exception when trio's own `Cancelled` is taken out of it."""
    if error is None or isinstance(error, trio.Cancelled):
        return None
    if isinstance(error, BaseExceptionGroup):
        cancelled, rest = error.split(trio.Cancelled)
        return error if cancelled is None else rest  # split() makes a new group also where nothing was split off
    return error


def alone(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """What is left of a nursery's group without trio's own `Cancelled`; a single exception comes out of its groups."""
    rest = without_cancelled(group)
    while isinstance(rest, BaseExceptionGroup) and len(rest.exceptions) == 1:
        rest = rest.exceptions[0]
    return rest


def without_abort(run: Run, error: BaseException | None) -> BaseException | None:
    """What is left of what came out of an aborted step when the abort itself is taken out of it.

    That is trio's `Cancelled`, and in a thread what `ctx.check_cancelled()` raises.
    """
    error = without_cancelled(error)
    return None if isinstance(error, CancelledError) and error.run_id == run.run_id else error


def wrap(run: Run, ctx: Context, error: Exception) -> Exception:
    """The error of a run whose step failed for good."""
    if isinstance(error, TimeoutError) and error.run_id == run.run_id:
        return error  # the engine's own words; what a step raised is a cause, also where blazen made it
    if isinstance(error, WorkflowError) and error.run_id == run.run_id and error.__traceback__ is None:
        return error  # likewise, about a worker process: it was made for this run and never raised
    step = ctx.step
    if ctx.handling and error.__context__ is None:
        error.__context__ = ctx.error
    where = f"on_error of step {step.name!r}" if ctx.handling else f"step {step.name!r}"
    tried = f" after {ctx.attempt} attempts" if ctx.attempt > 1 and not ctx.handling else ""
    failure = WorkflowError(
        f"{where} of workflow {run.router.workflow!r} failed on {ctx.event.event_type!r}{tried}: "
        f"{type(error).__name__}: {error}",
        step=step.name,
        event_type=ctx.event.event_type,
        run_id=run.run_id,
    )
    failure.__cause__ = error
    return failure


def step_timeout(run: Run, ctx: Context, error: BaseException | None) -> BaseException:
    """The error of a step that is over its time; `error` is what came out of it while it was aborted."""
    from blazen._core.run import TIMED_OUT

    rest = without_abort(run, error)
    if rest is not None and not isinstance(rest, Exception):
        return rest
    # From its start to when it was told to stop; one that never waited was not told, and counts to its end.
    until = ctx.deadline if ctx.abort_reason == TIMED_OUT else run.now()
    timeout = TimeoutError(
        f"step {ctx.step.name!r} of workflow {run.router.workflow!r} was over its timeout of {ctx.step.timeout:g} s",
        elapsed_ms=round((until - ctx.started) * 1000.0),
        step=ctx.step.name,
        run_id=run.run_id,
        suppressed=() if rest is None else (rest,),
    )
    if rest is not None:
        timeout.__context__ = rest
    return timeout


def run_timeout(run: Run, elapsed: float) -> TimeoutError:
    """The error of a run that is over its time (seconds)."""
    return TimeoutError(
        f"workflow {run.router.workflow!r} was over its timeout of {run.timeout:g} s",
        elapsed_ms=round(elapsed * 1000.0),
        step=None,
        run_id=run.run_id,
    )


def idle(run: Run) -> WorkflowError:
    """The error of a run that has nothing left to do and has not come to a StopEvent."""
    return WorkflowError(
        f"run of workflow {run.router.workflow!r} is idle: nothing is queued, nothing runs and nothing waits, and no "
        "step has returned a StopEvent; a step returned None where an event was needed, or a join never got all it "
        "waits for",
        run_id=run.run_id,
    )


def stuck(run: Run) -> WorkflowError:
    """The error of a run whose steps wait in their middle for events that nobody is left to send."""
    assert run.waits is not None
    names = ", ".join(sorted({repr(wait.ctx.step_name) for wait in run.waits.open}))
    return WorkflowError(
        f"run of workflow {run.router.workflow!r} is idle: step {names} waits for an event, nothing is queued, nothing "
        "else runs, and nobody can send one to a plain run(): use run_with_handler(), or give the wait a timeout",
        run_id=run.run_id,
    )


def unanswerable(run: Run, event: InputRequestEvent) -> WorkflowError:
    """The error of a question in a run that nobody can answer."""
    return WorkflowError(
        f"workflow {run.router.workflow!r} asks {event.prompt!r}, and nobody can answer a plain run(): use "
        "run_with_handler()",
        event_type=event.event_type,
        run_id=run.run_id,
    )


def unaccepted(run: Run, event: Event, emitter: str | None) -> WorkflowError:
    """The error of an event that no step accepts."""
    sender = "from outside the run" if emitter is None else f"by step {emitter!r}"
    return WorkflowError(
        f"no step of workflow {run.router.workflow!r} accepts {event.event_type!r}, which was sent {sender}",
        step=emitter,
        event_type=event.event_type,
        run_id=run.run_id,
    )


def abandoned(run: Run, ctx: Context) -> Exception:
    """The error of a run that ends because a thread would not stop."""
    from blazen._core.run import TIMED_OUT

    if ctx.abort_reason == TIMED_OUT:
        error = step_timeout(run, ctx, None)
        assert isinstance(error, Exception)
        return error
    return WorkflowError(
        f"step {ctx.step.name!r} of workflow {run.router.workflow!r} runs in a thread, was told to stop and did not: "
        "it was abandoned; have it call ctx.check_cancelled() now and then",
        step=ctx.step.name,
        event_type=ctx.event.event_type,
        run_id=run.run_id,
    )


def stop_event(run: Run, event: DynamicEvent) -> StopEvent:
    """The end of a run that came as an event known by name only, as the class that the workflow knows.

    Raises:
        WorkflowError: It does not fit that class.
    """
    cls = run.router.known_class(event.event_type)
    if cls is None or cls is StopEvent:
        return StopEvent(event.data.get("result"))
    try:
        converted = convert(event, cls)
    except ValidationError as exc:
        raise WorkflowError(
            f"workflow {run.router.workflow!r} ends with {cls.__name__}, and what came does not fit it: {exc}",
            event_type=event.event_type,
            run_id=run.run_id,
        ) from exc
    assert isinstance(converted, StopEvent)
    return converted


def lock_left_held(run: Run, ctx: Context) -> WorkflowError:
    """The error of a step that returned with a trio lock held."""
    return WorkflowError(
        f"step {ctx.step.name!r} of workflow {run.router.workflow!r} ended and still holds a trio lock it acquired: "
        "use `async with lock:` inside the step",
        step=ctx.step.name,
        event_type=ctx.event.event_type,
        run_id=run.run_id,
    )


def suppress(run: Run, ctx: Context, error: BaseException) -> None:
    """Keep an error that was raised while a step unwound."""
    if run.ending:
        run.happened(Happening.FAILURE, error)
        return
    warn(
        run,
        f"step {ctx.step.name!r} of workflow {run.router.workflow!r} was cancelled and its cleanup raised "
        f"{type(error).__name__}: {error}",
    )


def warn(run: Run, message: str) -> None:
    """Warn; where warnings are errors, the run fails with it."""
    try:
        warnings.warn(message, BlazenWarning, stacklevel=2)
    except BlazenWarning as exc:
        run.happened(Happening.FAILURE, exc)


def attempt_of(ctx: Context) -> Attempt:
    """Which attempt at which event a context serves just now: contexts are used again."""
    return ctx.seq, ctx.attempt, ctx.handling


def still_unwinding(ctx: Context, attempt: Attempt) -> bool:
    """Whether this attempt was aborted and is not out yet."""
    return attempt_of(ctx) == attempt and ctx.worker is not None and ctx.worker.ctx is ctx and ctx.cancelled


def overrun(run: Run, ctx: Context, attempt: Attempt) -> None:
    """The grace period of an aborted step is over: say which one holds everybody up."""
    if ctx in run.cleaning:  # `ctx.cleanup()` has a bound of its own; look again when that must be over
        run.add_timer(run.now() + run.cleanup_grace, partial(overrun, run, ctx, attempt))
        return
    if still_unwinding(ctx, attempt):
        warn(
            run,
            f"step {ctx.step.name!r} of workflow {run.router.workflow!r} was told to stop, shields itself from it and "
            f"is still running after its cleanup grace; it is waited for",
        )


def cut_off(run: Run, ctx: Context, grace: float) -> None:
    """Warn of a cleanup that was not done within its grace (seconds)."""
    warn(
        run,
        f"step {ctx.step.name!r} of workflow {run.router.workflow!r} was cut off in ctx.cleanup() after its grace of "
        f"{grace:g} s",
    )


def broken_dispatch(run: Run, worker: Worker | None, error: BaseException) -> None:
    """An exception came out of the dispatch loop: what a step returned cannot be dispatched, or memory ran out."""
    ctx = None if worker is None else worker.lose_step()
    if ctx is not None:
        run.note_end("failed", ctx, error)
    if not isinstance(error, Exception):
        run.happened(Happening.FATAL, error)
        return
    if isinstance(error, WorkflowError):
        error.run_id = run.run_id
        if ctx is not None:
            error.event_type = error.event_type or ctx.event.event_type
            if ctx.handling:
                error.__context__ = ctx.error  # what `on_error` was called for must not get lost
        run.fail(error)
        return
    step = None if ctx is None else ctx.step.name
    failure = WorkflowError(
        f"the engine could not go on {'with an event' if step is None else f'after step {step!r}'} of workflow "
        f"{run.router.workflow!r}: {type(error).__name__}: {error}",
        step=step,
        event_type=None if ctx is None else ctx.event.event_type,
        run_id=run.run_id,
    )
    failure.__cause__ = error
    run.fail(failure)


def absorb(run: Run, group: BaseExceptionGroup[BaseException]) -> None:
    """Take in what reached the run's own task while it waited for its workers."""
    rest = alone(group)
    if rest is not None:
        run.happened(Happening.FATAL, rest)


def attach(run: Run) -> None:
    """Give the run's error what happened beside it; where there is no error to carry it, warn."""
    if not run.suppressed and not run.abandoned and run.recording is None:
        return
    outcome = run.outcome
    suppressed = tuple(error for error in run.suppressed if error is not outcome)
    names = run.abandoned
    if isinstance(outcome, BlazenError) and run.recording is not None:
        outcome.keep_recording(run.recording)
    if isinstance(outcome, WorkflowError | TimeoutError | CancelledError):
        outcome.suppressed = (*outcome.suppressed, *suppressed)
        outcome.abandoned = names
        return
    run.suppressed = ()
    for error in suppressed:
        _warn_at_the_end(
            run,
            f"a step of workflow {run.router.workflow!r} raised while it was stopped: {type(error).__name__}: {error}",
        )
    if names:
        _warn_at_the_end(
            run,
            f"workflow {run.router.workflow!r} has ended and left threads behind that did not stop: {', '.join(names)}",
        )


def _warn_at_the_end(run: Run, message: str) -> None:
    """Warn of a run that is over; where warnings are errors, one that completed has failed with it."""
    try:
        warnings.warn(message, BlazenWarning, stacklevel=2)
    except BlazenWarning as exc:
        if isinstance(run.outcome, BaseException):
            run.outcome.add_note(message)
        else:
            run.outcome = exc
            run.life = State.FAILED
