"""The record of a run: what happened to each event and step, as data, as JSON and as a page to look at.

A run keeps one when it is asked to: `workflow.options(record=True)`. All times are seconds since the run began.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from blazen.errors import PersistError, ValidationError

if TYPE_CHECKING:
    import os

__all__ = [
    "Attempt",
    "GraphShown",
    "Invocation",
    "RecordedError",
    "RecordedEvent",
    "RunRecord",
    "ShownEvent",
    "StepShown",
    "Stop",
    "Usage",
]

FORMAT = "blazen.run_record"
VERSION = 1

# An invocation and one of its attempts, by their places in their lists.
Place = tuple[int, int]
Outcome = Literal["running", "finished", "failed", "retrying", "timed_out", "cancelled", "abandoned"]
StoppedBy = Literal[
    "step_timeout",
    "run_timeout",
    "cancel_step",
    "cancel",
    "block",
    "caller_scope",
    "pause",
    "step_failure",
    "stop_event",
    "exception",
    "engine",
]


class _Part(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A part of a record. What is None, False, 0 or empty by default is left out of the JSON."""


class RecordedError(_Part, kw_only=True):
    """An exception as text.

    Attributes:
        type: The name of its class, with the module unless that is `builtins`.
        message: What `str()` gave.
        traceback: As Python prints it, causes included.
    """

    type: str
    message: str
    traceback: str = ""


class Stop(_Part, kw_only=True):
    """Who had an attempt stop, or a run end.

    Attributes:
        by: `"step_timeout"`, `"run_timeout"`, `"cancel_step"`, `"cancel"` (the handler's), `"block"` (the handler's
            block was left by an exception), `"caller_scope"`, `"pause"` (one that aborts), `"step_failure"`,
            `"stop_event"`, `"exception"` (one that is no `Exception`, such as KeyboardInterrupt) or `"engine"` (the run
            could not go on).
        at: When it was asked for.
        step: The step whose timeout, failure or `StopEvent` it was, or that was cancelled.
        event: The number of the `StopEvent`.
        detail: The reason given to `cancel`, or the error.
    """

    by: StoppedBy
    at: float
    step: str | None = None
    event: int | None = None
    detail: str | None = None


class RecordedEvent(_Part, kw_only=True):
    """An event that was queued.

    Attributes:
        number: Its number in the run, from 1.
        type: Its type name.
        at: When it was queued.
        by: `"start"`, `"outside"`, or the place of the attempt that produced it.
        payload: Its fields; `docs/run_records.md` says how values are written that JSON has no word for.
    """

    number: int
    type: str
    at: float
    by: Place | Literal["start", "outside"]
    payload: Any = None


class Attempt(_Part, kw_only=True):
    """One attempt of a step at an event.

    Attributes:
        queued: When it could have begun: its event was queued, or the attempt before it had failed.
        started: When it began.
        ended: When it was out; None while it runs.
        outcome: `"finished"`, `"failed"`, `"retrying"` (failed, and another attempt follows), `"timed_out"`,
            `"cancelled"`, `"abandoned"` (a thread that did not stop) or `"running"`.
        handler: It is the step's `on_error`.
        dropped: It finished when the run had ended already, and what it returned was dropped.
        error: What it raised.
        stopped: Who had it stop.
    """

    queued: float
    started: float
    ended: float | None = None
    outcome: Outcome
    handler: bool = False
    dropped: bool = False
    error: RecordedError | None = None
    stopped: Stop | None = None

    @property
    def waiting(self) -> float:
        """Seconds between `queued` and `started`: for a free worker, for `max_concurrency`, or before a retry."""
        return self.started - self.queued

    @property
    def running(self) -> float | None:
        """Seconds between `started` and `ended`; None while it runs."""
        return None if self.ended is None else self.ended - self.started


class Invocation(_Part, kw_only=True):
    """One step given one event.

    Attributes:
        step: The name of the step.
        event: The number of the event.
        queued: When the event was queued for it.
        attempts: Its attempts, in order; none if the run ended before it began.
        produced: The numbers of the events it returned or sent.
    """

    step: str
    event: int
    queued: float
    attempts: list[Attempt]
    produced: list[int]

    @property
    def outcome(self) -> str:
        """The outcome of the last attempt; `"queued"` where there is none."""
        return self.attempts[-1].outcome if self.attempts else "queued"

    @property
    def waiting(self) -> float:
        """Seconds its attempts have waited before they began."""
        return sum(attempt.waiting for attempt in self.attempts)

    @property
    def running(self) -> float:
        """Seconds its attempts have run; one that still runs does not count."""
        return sum(attempt.running or 0.0 for attempt in self.attempts)


class ShownEvent(_Part, kw_only=True):
    """An event on the run's stream.

    Attributes:
        type: Its type name.
        at: When it was written.
        by: The place of the attempt that wrote it; None if that is not known.
        payload: Its fields.
    """

    type: str
    at: float
    by: Place | None = None
    payload: Any = None


class Usage(_Part, kw_only=True, omit_defaults=False):
    """What the run's `UsageEvent`s add up to."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


class StepShown(_Part, kw_only=True):
    """One step of the workflow, as declared; times in seconds.

    Attributes:
        name: Its name.
        accepts: The type names it accepts.
        emits: The type names it declares to return; None if it declares nothing.
        run: Where it runs.
        timeout: For each attempt, or None.
        retries: How many more attempts it has.
        max_concurrency: At most so many at once, or None.
        on_error: Whether it has a fallback.
    """

    name: str
    accepts: list[str]
    emits: list[str] | None = None
    run: str
    timeout: float | None = None
    retries: int = 0
    max_concurrency: int | None = None
    on_error: bool = False


class GraphShown(_Part, kw_only=True):
    """The workflow's steps, in their order."""

    steps: list[StepShown]


class RunRecord(_Part, kw_only=True, omit_defaults=False):
    """What happened in one run.

    Attributes:
        workflow: The name of the workflow.
        workflow_version: Its version.
        run_id: The run's id, a UUID.
        state: `"running"`, `"waiting"`, `"completed"`, `"failed"` or `"cancelled"`.
        started_at: When the run began by the wall clock, in UTC, as in `"2026-03-01T12:00:00.000Z"`.
        duration: How long it took, or how far it has come.
        input: What the run was given.
        result: The result of a run that completed.
        error: What a run failed with, or was cancelled with.
        ended_by: What ended the run.
        usage: The sum of its `UsageEvent`s.
        graph: The workflow's steps.
        events: Every event that was queued, in order; the one with number n is `events[n - 1]`.
        invocations: Every event and step that came together, in the order of the events.
        stream: What the run showed on its stream.
    """

    format: Literal["blazen.run_record"] = "blazen.run_record"
    version: Literal[1] = 1
    workflow: str
    workflow_version: str
    run_id: str
    state: Literal["running", "waiting", "completed", "failed", "cancelled"]
    started_at: str | None = None
    duration: float
    input: Any = None
    result: Any = None
    error: RecordedError | None = None
    ended_by: Stop | None = None
    usage: Usage
    graph: GraphShown
    events: list[RecordedEvent]
    invocations: list[Invocation]
    stream: list[ShownEvent]

    # --- ways out

    def to_json(self) -> str:
        """The record as JSON text; `docs/run_records.md` describes the format."""
        return msgspec.json.encode(self).decode()

    def to_html(self) -> str:
        """The record as one HTML page that needs nothing else: no network, no files beside it."""
        from blazen.record_page import page_of

        return page_of(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to a file as JSON.

        The file is there whole or not at all: it is written beside `path` and then put in its place. What a link points
        to is replaced, not the link; what is no file, such as a device or a pipe, is written to.

        Raises:
            PersistError: It cannot be written.
        """
        import os

        name = os.path.realpath(path)
        # To replace a device would take it away from everybody.
        in_place = os.path.exists(name) and not os.path.isfile(name)
        written = name if in_place else f"{name}.{os.getpid()}.part"
        try:
            try:
                with open(written, "w", encoding="utf-8") as file:
                    file.write(self.to_json())
                if not in_place:
                    os.replace(written, name)
            finally:
                if not in_place and os.path.lexists(written):
                    os.unlink(written)
        except OSError as error:
            raise PersistError(
                f"the run record cannot be written to {os.fspath(path)!r}: {error.strerror or error}"
            ) from error

    # --- ways in

    @classmethod
    def from_json(cls, text: str | bytes) -> RunRecord:
        """The record that `to_json` gave this text.

        Raises:
            ValidationError: The text is no record, is cut off, contradicts itself, or comes from a newer blazen; one
                line that says what and where.
        """
        return _read(text, "run record")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RunRecord:
        """The record in a file that `save` wrote.

        Raises:
            ValidationError: The file cannot be read, or as of `from_json`; names the file.
        """
        import os

        name = os.fspath(path)
        try:
            with open(name, "rb") as file:
                data = file.read()
        except OSError as error:
            raise ValidationError(f"run record {name!r} cannot be read: {error.strerror or error}") from error
        return _read(data, f"run record {name!r}")


class _Head(msgspec.Struct):
    """What tells a record from other JSON."""

    format: Any = None
    version: Any = None


def _read(text: str | bytes, where: str) -> RunRecord:
    if not isinstance(text, str | bytes | bytearray | memoryview):
        raise ValidationError(f"{where}: JSON comes as str or bytes, not {type(text).__name__}", path="$")
    try:
        head = msgspec.json.decode(text, type=_Head)
        if head.format != FORMAT:
            raise ValidationError(f'{where}: this is no run record: its "format" is not "{FORMAT}"', path="$.format")
        if head.version != VERSION:
            newer = type(head.version) is int and head.version > VERSION
            said = f"{head.version!r:.40}"
            raise ValidationError(
                f"{where}: its format has version {said}, this blazen reads version {VERSION}"
                + ("; a newer blazen wrote it" if newer else ""),
                path="$.version",
            )
        record = msgspec.json.decode(text, type=RunRecord)
    except msgspec.ValidationError as error:
        text_of, _, path = str(error).rpartition(" - at `")
        place = path.strip("`") or "$"
        raise ValidationError(f"{where}: {_one_line(text_of or str(error))}, at {place}", path=place) from None
    except (msgspec.DecodeError, UnicodeError) as error:
        fault = _one_line(str(error))
        raise ValidationError(f"{where}: this is no JSON, or not all of it: {fault}", path="$") from None
    except RecursionError:
        raise ValidationError(f"{where}: nested too deeply", path="$") from None
    for path, fault in _contradictions(record):
        raise ValidationError(f"{where}: {fault}, at {path}", path=path)
    return record


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    # Messages begin with a capital letter, and go on ours; JSON is a word of capitals.
    return line if line[:2].isupper() else line[:1].lower() + line[1:]


def _contradictions(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Where a record that has the right form cannot be true: a place and what is wrong."""
    steps = {step.name for step in record.graph.steps}
    if len(steps) != len(record.graph.steps):
        yield "$.graph.steps", "two steps have one name"
    if not _is_time(record.duration):
        yield "$.duration", "not a number of seconds"
    for index, event in enumerate(record.events):
        where = f"$.events[{index}]"
        if event.number != index + 1:
            yield f"{where}.number", f"event {index + 1} has the number {event.number}"
        if not _is_time(event.at):
            yield f"{where}.at", "not a number of seconds"
        if not isinstance(event.by, str):
            yield from _no_place(record, event.by, f"{where}.by")
    for index, invocation in enumerate(record.invocations):
        yield from _contradictions_of(record, invocation, f"$.invocations[{index}]", steps)
    for index, shown in enumerate(record.stream):
        if not _is_time(shown.at):
            yield f"$.stream[{index}].at", "not a number of seconds"
        if shown.by is not None:
            yield from _no_place(record, shown.by, f"$.stream[{index}].by")
    yield from _no_stop(record, record.ended_by, "$.ended_by")


def _contradictions_of(
    record: RunRecord, invocation: Invocation, where: str, steps: set[str]
) -> Iterator[tuple[str, str]]:
    if invocation.step not in steps:
        yield f"{where}.step", f"there is no step {invocation.step!r:.60}"
    if not _is_time(invocation.queued):
        yield f"{where}.queued", "not a number of seconds"
    for number in (invocation.event, *invocation.produced):
        if not 0 < number <= len(record.events):
            yield where, f"there is no event {number}"
    for index, attempt in enumerate(invocation.attempts):
        times = [attempt.queued, attempt.started, *(() if attempt.ended is None else (attempt.ended,))]
        if not all(map(_is_time, times)) or times != sorted(times):
            yield f"{where}.attempts[{index}]", "queued, started and ended are not in this order"
        yield from _no_stop(record, attempt.stopped, f"{where}.attempts[{index}].stopped")


def _no_place(record: RunRecord, place: Place, where: str) -> Iterator[tuple[str, str]]:
    invocation, attempt = place
    if not 0 <= invocation < len(record.invocations):
        yield where, f"there is no invocation {invocation}"
    elif not 0 <= attempt < len(record.invocations[invocation].attempts):
        yield where, f"invocation {invocation} has no attempt {attempt}"


def _no_stop(record: RunRecord, stop: Stop | None, where: str) -> Iterator[tuple[str, str]]:
    if stop is None:
        return
    if not _is_time(stop.at):
        yield f"{where}.at", "not a number of seconds"
    if stop.event is not None and not 0 < stop.event <= len(record.events):
        yield f"{where}.event", f"there is no event {stop.event}"


def _is_time(value: float) -> bool:
    return 0.0 <= value < 1e12
