"""Recording a run: what the engine adds to the journal, and how a `RunRecord` is made of it.

While the run goes on, entries are appended to a list and nothing else is done; see `blazen/_core/journal.pxi`. What
they mean for each event and step is worked out here, when somebody asks for the record.
"""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any

from blazen._core.run import (
    DROPPED,
    ENTRY_SIZE,
    FINISHED,
    NUMBERED,
    PUT_BACK,
    START,
    STARTED,
    STEP_CANCELLED,
    TIMED_OUT,
    keep_journal,
    kept_by,
)
from blazen.engine.life import Happening
from blazen.engine.payloads import LIMIT, payload_of_plain, short_text, type_name
from blazen.errors import CancelledError, TimeoutError, WorkflowError
from blazen.events import Event, StopEvent
from blazen.record import (
    Attempt,
    GraphShown,
    Invocation,
    RecordedError,
    RecordedEvent,
    RunRecord,
    ShownEvent,
    StepShown,
    Stop,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from blazen._core.router import Router, StepInfo
    from blazen._core.run import Context
    from blazen.engine.result import RunId
    from blazen.engine.run import Run

# Kinds of entries beyond those of the core, and what stands in their places after kind and time.
TOLD = 10  # the attempt as a tuple, why: it was told to stop
LEFT = 11  # the attempt as a tuple, its outcome, its error or None
SHOWN = 12  # type, what is kept of the event, the attempt as a tuple or None
USED = 13  # input tokens, output tokens, cost in US dollars
ENDING = 14  # Stop: what ends the run
OVER = 15  # the state it ended in, its error or None

_Place = tuple[int, int, int]


def describe_error(error: BaseException) -> RecordedError:
    """An exception as text; it keeps no frame alive."""
    lines = traceback.format_exception(error)
    return RecordedError(
        type=type_name(error).removeprefix("builtins."),
        message=short_text(_message(error), LIMIT),
        traceback=short_text("".join(lines), 2 * LIMIT),
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as exc:
        return f"<no message: {type(exc).__name__}>"


class Recording:
    """The journal of one run, and what else its record says."""

    __slots__ = ("_began", "_id", "_journal", "_made", "_now", "_router", "_started_at", "_version")

    def __init__(self, run: Run, version: str) -> None:
        keep_journal(run)
        assert run.journal is not None
        self._journal = run.journal
        self._router: Router = run.router
        self._version = version
        self._id: RunId = run.id
        self._began = 0.0
        self._started_at: float | None = None
        self._now: Callable[[], float] | None = None
        self._made: RunRecord | None = None  # of a run that is over

    def begin(self, run: Run) -> None:
        """Note when the run began."""
        self._began = run.now()
        self._started_at = time.time()
        self._now = run.now

    def record(self, state: str = "running") -> RunRecord:
        """The record as far as the run has come.

        Args:
            state: Of a run that is not over.
        """
        if self._made is not None:
            return self._made
        made = _Fold(self._journal[:], self._router, self._began, self._now).record(
            state, self._version, str(self._id), self._started_at
        )
        if made.state not in ("running", "waiting", "paused"):
            self._made = made
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Finished, (self.record(),)

    # --- writing

    def _write(self, kind: int, now: float, a: object, b: object = None, c: object = None) -> None:
        self._journal.extend((kind, now, a, b, c, None))

    def told(self, run: Run, ctx: Context, reason: int) -> None:
        """A running attempt was told to stop."""
        self._write(TOLD, run.now(), ctx.place, reason)

    def left(self, run: Run, ctx: Context, outcome: str, error: BaseException | None) -> None:
        """An attempt has ended otherwise than well."""
        described = None if error is None else describe_error(error)
        self._write(LEFT, run.now(), ctx.place, outcome, described)

    def shown(self, run: Run, event: Event, cause: _Place | None) -> None:
        """An event was written to the stream, or would have been had there been one."""
        self._write(SHOWN, run.now(), event.event_type, kept_by(run, event), cause)

    def used(self, run: Run, input_tokens: int, output_tokens: int, cost: float) -> None:
        """Usage was counted."""
        self._write(USED, run.now(), input_tokens, output_tokens, cost)

    def ending(self, run: Run, happening: Happening, cause: StopEvent | BaseException | None, by: str) -> None:
        """The end of the run has begun."""
        now = run.now()
        at = _seconds(now - self._began)
        self._write(ENDING, now, self._why(run, at, happening, cause, by))

    def over(self, run: Run, state: str) -> None:
        """The run has ended and every step is out."""
        outcome = run.outcome
        error = describe_error(outcome) if isinstance(outcome, BaseException) else None
        self._write(OVER, run.now(), state, error)
        self._now = None

    def _why(self, run: Run, at: float, happening: Happening, cause: StopEvent | BaseException | None, by: str) -> Stop:
        if happening is Happening.STOP:
            place = len(self._journal) - ENTRY_SIZE
            while self._journal[place] != NUMBERED:
                place -= ENTRY_SIZE
            number, emitter = self._journal[place + 2], self._journal[place + 5]
            step = self._router.steps[emitter[1]].name if isinstance(emitter, tuple) else None
            return Stop(by="stop_event", at=at, step=step, event=number)
        if happening is Happening.LEFT:
            return Stop(by="caller_scope", at=at)
        if happening is Happening.CANCEL:
            reason = cause.reason if isinstance(cause, CancelledError) else None
            return Stop(by=by, at=at, detail=reason)  # type: ignore[arg-type]
        assert isinstance(cause, BaseException)
        detail = short_text(f"{type(cause).__name__}: {_message(cause)}", LIMIT)
        if happening is Happening.FATAL:
            return Stop(by="exception", at=at, detail=detail)
        if isinstance(cause, TimeoutError | WorkflowError) and cause.run_id == run.run_id:
            if cause.step is not None:
                return Stop(by="step_failure", at=at, step=cause.step, detail=detail)
            if isinstance(cause, TimeoutError):
                return Stop(by="run_timeout", at=at, detail=detail)
        return Stop(by="engine", at=at, detail=detail)


class Finished:
    """What is left of a recording when its result is pickled."""

    __slots__ = ("_made",)

    def __init__(self, made: RunRecord) -> None:
        self._made = made

    def record(self) -> RunRecord:
        """The record."""
        return self._made

    def __reduce__(self) -> tuple[Any, ...]:
        return Finished, (self._made,)


def _seconds(value: float) -> float:
    """To the microsecond, and never before the run's own begin."""
    return max(round(value, 6), 0.0)


class _Fold:
    """Goes through the entries of a journal once."""

    def __init__(self, journal: list[Any], router: Router, began: float, clock: Callable[[], float] | None) -> None:
        self._journal = journal
        self._steps: tuple[StepInfo, ...] = router.steps
        self._router = router
        self._began = began
        self._clock = clock
        self._events: list[RecordedEvent] = []
        self._invocations: list[Invocation] = []
        self._index: dict[tuple[int, int], int] = {}  # (event, step) to the place in `_invocations`
        self._shown: list[ShownEvent] = []
        self._usage = [0, 0, 0.0]
        self._ended_by: Stop | None = None
        self._error: RecordedError | None = None
        self._state: str | None = None
        self._last = 0.0
        # When an invocation came into the queue again, for its next attempt.
        self._again: dict[int, float] = {}

    def record(self, state: str, version: str, run_id: str, started_at: float | None) -> RunRecord:
        """All of it."""
        places = [self._journal[offset::ENTRY_SIZE] for offset in range(ENTRY_SIZE)]
        for kind, now, a, b, c, d in zip(*places, strict=True):
            at = round(now - self._began, 6)
            if at > self._last:
                self._last = at
            self._take(kind, at, a, b, c, d)
        ended = self._state is not None
        if not ended and self._clock is not None:
            self._last = max(self._last, _seconds(self._clock() - self._began))
        given = self._events[0].payload if self._events else None
        if isinstance(given, dict) and given.keys() == {"data"}:
            given = given["data"]
        return RunRecord(
            workflow=self._router.workflow,
            workflow_version=version,
            run_id=run_id,
            state=self._state or state,  # type: ignore[arg-type]
            started_at=_wall_clock(started_at),
            duration=self._last,
            input=given,
            result=self._result(),
            error=self._error,
            ended_by=self._ended_by,
            usage=Usage(input_tokens=self._usage[0], output_tokens=self._usage[1], cost_usd=self._usage[2]),  # type: ignore[arg-type]
            graph=GraphShown(steps=[_step_shown(step) for step in self._steps]),
            events=self._events,
            invocations=self._invocations,
            stream=self._shown,
        )

    def _result(self) -> Any:
        if self._state != "completed" or self._ended_by is None or self._ended_by.event is None:
            return None
        payload = self._events[self._ended_by.event - 1].payload
        return payload.get("result") if isinstance(payload, dict) else None

    def _take(self, kind: int, at: float, a: Any, b: Any, c: Any, d: Any) -> None:
        if kind == NUMBERED:
            self._numbered(at, a, b, c, d)
        elif kind == STARTED:
            self._attempt_started(at, a, b, c)
        elif kind == FINISHED:
            self._attempt_ended(at, (a, b, c), "finished")
        elif kind == DROPPED:
            self._attempt_ended(at, (a, b, c), "finished").dropped = True
        elif kind == TOLD:
            self._attempt_told(at, a, b)
        elif kind == LEFT:
            self._attempt_left(at, a, b, c)
        elif kind == SHOWN:
            by = None if c is None else self._place(c)
            self._shown.append(ShownEvent(type=a, at=at, by=by, payload=_written(b)))
        elif kind == USED:
            self._usage = [total + more for total, more in zip(self._usage, (a, b, c), strict=True)]
        elif kind == ENDING:
            self._ended_by = a
        else:
            self._state, self._error = a, b

    def _numbered(self, at: float, number: int, route: Any, kept: Any, cause: Any) -> None:
        by: Any = "start" if cause == START else "outside"
        if isinstance(cause, tuple):
            by = self._place(cause)
            self._invocations[by[0]].produced.append(number)
        event_type = route.event_type
        self._events.append(RecordedEvent(number=number, type=event_type, at=at, by=by, payload=_written(kept)))
        for step in route.steps:
            self._index[number, step.index] = len(self._invocations)
            self._invocations.append(Invocation(step=step.name, event=number, queued=at, attempts=[], produced=[]))

    def _place(self, place: _Place) -> tuple[int, int]:
        """The invocation and the attempt, by their places in the record."""
        index = self._index[place[0], place[1]]
        attempts = self._invocations[index].attempts
        number = len(attempts) if place[2] == 0 else place[2]
        return index, max(min(number, len(attempts)) - 1, 0)

    def _attempt(self, place: _Place) -> tuple[int, Attempt]:
        index, attempt = self._place(place)
        return index, self._invocations[index].attempts[attempt]

    def _attempt_started(self, at: float, number: int, step: int, attempt: int) -> None:
        index = self._index[number, step]
        invocation = self._invocations[index]
        queued = self._again.pop(index, invocation.queued)
        invocation.attempts.append(Attempt(queued=queued, started=at, outcome="running", handler=attempt == 0))

    def _attempt_ended(self, at: float, place: _Place, outcome: Any) -> Attempt:
        index, attempt = self._attempt(place)
        attempt.ended = at
        attempt.outcome = outcome
        if outcome != "finished":
            self._again[index] = at
        return attempt

    def _attempt_told(self, at: float, place: _Place, reason: int) -> None:
        _, attempt = self._attempt(place)
        if reason == TIMED_OUT:
            attempt.stopped = Stop(by="step_timeout", at=at, step=self._steps[place[1]].name)
        elif reason == STEP_CANCELLED:
            attempt.stopped = Stop(by="cancel_step", at=at, step=self._steps[place[1]].name)
        elif reason == PUT_BACK:
            attempt.stopped = Stop(by="pause", at=at, step=self._steps[place[1]].name)
        elif self._ended_by is not None:
            why = self._ended_by
            attempt.stopped = Stop(by=why.by, at=at, step=why.step, event=why.event, detail=why.detail)

    def _attempt_left(self, at: float, place: _Place, outcome: str, error: RecordedError | None) -> None:
        attempt = self._attempt_ended(at, place, outcome)
        if error is not None:
            attempt.error = error
        if attempt.stopped is not None:
            return
        if outcome == "timed_out":  # it never waited, and was late
            attempt.stopped = Stop(by="step_timeout", at=at, step=self._steps[place[1]].name)
        elif outcome == "cancelled":  # by trio itself, before the run heard of it
            attempt.stopped = Stop(by="caller_scope", at=at)


def _written(kept: Any) -> Any:
    return payload_of_plain(kept) if isinstance(kept, Event) else kept


def _wall_clock(at: float | None) -> str | None:
    if at is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"


def _step_shown(step: StepInfo) -> StepShown:
    spec = step.spec
    return StepShown(
        name=step.name,
        accepts=list(spec.accepts_names),
        emits=None if spec.emits_names is None else list(spec.emits_names),
        run=spec.run,
        timeout=step.timeout if step.has_timeout else None,
        retries=spec.retry.n,
        max_concurrency=spec.max_concurrency,
        on_error=spec.on_error is not None,
    )
