"""Waiting in the middle of a step: for an answer from somebody outside, or for an event.

A wait holds up its step and nothing else. What it gets is noted beside the invocation (`Replay`), so that an attempt
that begins anew gets the same again, call by call, and nobody is asked twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio.lowlevel import Abort, checkpoint_if_cancelled, current_task, reschedule, wait_task_rescheduled

from blazen.engine import pausing
from blazen.engine.life import State
from blazen.errors import CancelledError, TimeoutError, ValidationError, WorkflowError
from blazen.events import DynamicEvent, Event, InputRequestEvent, StopEvent, convert

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from blazen._core.run import Context
    from blazen.engine.run import Run

_NOTHING: Any = object()
_STOPPED: Any = object()


class Replay:
    """What one invocation has asked and been given, in the order of its calls; its later attempts get it again."""

    __slots__ = ("_attempt", "_calls", "entries")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._attempt = 0
        self._calls = 0

    def next_entry(self, attempt: int) -> Entry:
        """The entry of this call: of an earlier attempt's call with the same number, or a new one."""
        if attempt != self._attempt:
            self._attempt, self._calls = attempt, 0
        if self._calls == len(self.entries):
            self.entries.append(Entry())
        self._calls += 1
        return self.entries[self._calls - 1]


class Entry:
    """One call: what it waits for, the id it asked under, if it asked, and what it was given, once it was."""

    __slots__ = ("checked", "given", "left", "request_id", "value", "what")

    def __init__(self, request_id: str | None = None) -> None:
        self.what: str | None = None  # the type name of an event; None where nobody has waited yet
        self.request_id = request_id
        self.value: object = _NOTHING
        self.given: object = _NOTHING  # an answer as it came, where the schema has made something else of it
        self.checked = True  # against the schema, which is known only once the step has asked
        self.left: float | None = None  # seconds of its time limit, if a snapshot was taken while it waited

    def answer_unchecked(self, response: object) -> None:
        """Note an answer whose schema is known only once the step asks again."""
        self.value, self.checked = response, False

    @property
    def to_keep(self) -> tuple[object, bool]:
        """What a snapshot keeps of the answer, and whether that has been checked; None before it has come."""
        if not self.answered:
            return None, True
        return (self.value, self.checked) if self.given is _NOTHING else (self.given, False)

    @property
    def answered(self) -> bool:
        """Whether there is a value."""
        return self.value is not _NOTHING


class Wait:
    """A call that waits now."""

    __slots__ = ("_value", "ctx", "deadline", "entry", "matches", "run", "schema", "task", "timer", "what")

    def __init__(self, run: Run, ctx: Context, entry: Entry, what: str) -> None:
        self.run = run
        self.ctx = ctx
        self.entry = entry
        self.what = what  # it waits for, in messages
        self.matches: Callable[[Event], Event | None] | None = None  # of a wait for an event: the event it gets
        self.schema: Any = None  # of a question: the type of its answer
        self.task: trio.lowlevel.Task | None = None
        self.timer = 0  # its token, if there is a time limit
        self.deadline = 0.0  # engine's clock, if so
        self._value: object = _NOTHING

    async def outcome(self, timeout: float | None) -> object:
        """Wait. Returns what came, or _NOTHING when the time is over.

        Raises:
            CancelledError: It was stopped; see `stop`.
        """
        run = self.run
        left, self.entry.left = self.entry.left, None
        if timeout is not None:
            self.limit(run.now() + (timeout if left is None else min(left, timeout)))
        self.task = current_task()
        run.open_waits().open.append(self)
        run.hold_clock(self.ctx)
        run.look_whether_stuck()
        run.keep_time()
        pausing.look_whether_quiet(run)

        def abort(_: object) -> Abort:
            self._end()
            return Abort.SUCCEEDED

        try:
            await wait_task_rescheduled(abort)
        finally:
            self._forget()  # where the task's coroutine is closed: its loop has gone, and with it the clocks
        if self._value is _STOPPED:
            raise CancelledError(run_id=run.run_id)
        return self._value

    def finish(self, value: object) -> None:
        """Let the step go on with `value`."""
        self._value = self.entry.value = value
        if self.run.gating:
            self.matches = None
            if self.timer:  # it has been answered in time, however long it takes to write that down
                self.run.cancel_timer(self.timer)
                self.timer = 0
            self.run.ledger.after_commit(self.come_back)
        else:
            self.come_back()

    def come_back(self) -> None:
        """Let the step go on with what it was given, now or when the run does."""
        if self.task is None:  # it was aborted meanwhile
            return
        if self.run.life is State.PAUSED:
            self.matches = None
            assert self.run.pause is not None
            self.run.pause.deferred.append(self)
        else:
            self.wake()

    def stop(self) -> None:
        """Let it raise `CancelledError`: its step was told to stop or has ended, and trio does not cancel its task."""
        self._value = _STOPPED
        self.wake()

    def limit(self, deadline: float) -> None:
        """Wait until `deadline` (engine's clock) at most."""
        self.deadline = deadline
        self.timer = self.run.add_timer(deadline, self.wake)

    def wake(self) -> None:
        """Let the step go on with what came, or with nothing."""
        task = self.task
        if task is not None:  # else what was due at the same moment has ended it already
            self._end()
            reschedule(task)

    def _end(self) -> None:
        """It waits no longer; once it has been woken or aborted, nothing else can reach it."""
        self._forget()
        self.run.release_clock(self.ctx)
        self.run.keep_time()

    def _forget(self) -> None:
        if self.task is None:
            return
        self.task = None
        assert self.run.waits is not None
        self.run.waits.open.remove(self)
        if self.timer:
            self.run.cancel_timer(self.timer)
        if self.matches is None:
            self.run.questions.pop(str(self.entry.request_id), None)


class Waits:
    """The waits of one run, and events that came before anybody waited for them."""

    __slots__ = ("kept", "next_look", "open", "will_look")

    def __init__(self) -> None:
        self.open: list[Wait] = []
        self.kept: list[Event] = []
        self.next_look = 0.0  # seconds until it is looked again whether the run is stuck; see `engine.stuck`
        self.will_look = False  # a timer for that runs

    def wants(self, event: Event) -> bool:
        """Whether a wait would take this event."""
        return any(wait.matches is not None and wait.matches(event) is not None for wait in list(self.open))

    def offer(self, event: Event) -> bool:
        """Give an event to each wait that it matches. Returns whether there was one."""
        matched = [(wait, wait.matches(event)) for wait in list(self.open) if wait.matches is not None]
        # A condition is anybody's code: it may have ended a wait.
        taken = [(wait, match) for wait, match in matched if match is not None and wait.task is not None]
        for wait, match in taken:
            wait.finish(match)
        return bool(taken)

    def stop(self, ctx: Context) -> None:
        """End the waits of an invocation."""
        for wait in list(self.open):
            if wait.ctx is ctx:
                wait.stop()

    def take_kept(self, matches: Callable[[Event], Event | None]) -> Event | None:
        """The oldest kept event that matches; it is kept no longer."""
        for place, event in enumerate(self.kept):
            match = matches(event)
            if match is not None:
                del self.kept[place]
                return match
        return None

    def question(self, request_id: str) -> Wait | None:
        """The wait that asked under this id."""
        for wait in self.open:
            if wait.matches is None and wait.entry.request_id == request_id:
                return wait
        return None


async def wait_for_event(
    run: Run, ctx: Context, event_type: object, where: object, timeout: object, fields: dict[str, Any]
) -> Event:
    """`ctx.wait_for_event(...)`."""
    call = f"step {ctx.step_name!r}: wait_for_event"
    _check_caller(run, ctx, call)
    seconds = _check_timeout(timeout, call)
    matches = _matcher(run, ctx, event_type, where, fields, call)
    entry = _entry(ctx, call, _name_of(event_type))
    await checkpoint_if_cancelled()
    if not entry.answered:
        early = run.open_waits().take_kept(matches)
        if early is not None:
            entry.value = early
    if not entry.answered:
        wait = Wait(run, ctx, entry, f"an event {_name_of(event_type)!r}")
        wait.matches = matches
        if await wait.outcome(seconds) is _NOTHING:
            raise _timeout(run, ctx, wait.what, seconds)
    assert isinstance(entry.value, Event)
    return entry.value


async def request_input(
    run: Run, ctx: Context, prompt: object, schema: Any, timeout: object, metadata: object, default: object = _NOTHING
) -> object:
    """`ctx.request_input(...)`."""
    call = f"step {ctx.step_name!r}: request_input"
    _check_caller(run, ctx, call)
    seconds = _check_timeout(timeout, call)
    if default is not _NOTHING and seconds is None:
        raise ValidationError(f"{call}: a default is for when the time is over: give a timeout too")
    if not isinstance(prompt, str):
        raise ValidationError(f"{call}: prompt must be a str, got {type(prompt).__name__!r}")
    if metadata is not None and not isinstance(metadata, dict):
        raise ValidationError(f"{call}: metadata must be a dict or None, got {type(metadata).__name__!r}")
    check_schema(schema, call)
    entry = _entry(ctx, call, InputRequestEvent.event_type)
    if not entry.checked:  # answered between a snapshot and this call
        entry.checked = True
        try:
            given = entry.value
            entry.value = check_answer(schema, given, str(entry.request_id))
            entry.given = _NOTHING if schema is None else given
        except ValidationError:
            entry.value = _NOTHING  # asked again, under the same id
    if entry.answered:
        await checkpoint_if_cancelled()
        return entry.value
    question = InputRequestEvent(entry.request_id, prompt, metadata)
    if run.stream is None:
        raise run.unanswerable(question)
    await checkpoint_if_cancelled()
    entry.request_id = question.request_id
    if run.ledger is not None:
        early = run.ledger.inbox.early_answer(
            question.request_id, lambda given: check_answer(schema, given, question.request_id)
        )
        if early is not None:
            run.reopened.pop(question.request_id, None)
            del run.questions[question.request_id]
            entry.value, given = early
            entry.given = _NOTHING if schema is None else given
            await run.ledger.written()
            return entry.value
    wait = Wait(run, ctx, entry, f"an answer to {prompt!r}")
    wait.schema = schema
    if run.reopened.pop(question.request_id, None) is None or run.questions[question.request_id] != question:
        run.on_ask(question, schema)  # else the stream of the resumed run has begun with it
    value = await wait.outcome(seconds)
    if value is not _NOTHING:
        return value
    if default is not _NOTHING:
        entry.value = default
        return default
    raise _timeout(run, ctx, wait.what, seconds)


def check_schema(schema: Any, call: str) -> None:
    """Refuse what cannot be the type of an answer, before anybody is asked."""
    if schema is None:
        return
    import msgspec

    try:
        msgspec.json.Decoder(schema)
    except (TypeError, ValueError) as exc:
        raise ValidationError(f"{call}: schema must be a type that JSON can be checked against: {exc}") from None


def check_answer(schema: Any, response: object, request_id: str) -> object:
    """An answer as the type that was asked for.

    Raises:
        ValidationError: It does not fit; ``path`` says where.
    """
    if schema is None:
        return response
    import msgspec

    try:
        return msgspec.convert(response, schema)
    except msgspec.ValidationError as exc:
        _, _, path = str(exc).partition(" - at `")
        raise ValidationError(
            f"respond_to_input: the answer to {request_id!r} does not fit what was asked for: {exc}",
            path=path.rstrip("`") or "$",
        ) from None


def _entry(ctx: Context, call: str, what: str) -> Entry:
    """The entry of this call.

    Raises:
        ValidationError: An earlier attempt has been given something else at this place.
    """
    if ctx.replay is None:
        ctx.replay = Replay()
    replay: Replay = ctx.replay
    entry = replay.next_entry(ctx.attempt)
    if entry.what != what:
        if entry.answered:
            raise ValidationError(
                f"{call}: call {replay.entries.index(entry) + 1} of attempt {ctx.attempt} waits for {what!r}, and an "
                f"earlier attempt has been given {entry.what!r} there: the calls must come in the same order in each "
                "attempt"
            )
        entry.request_id = None
    entry.what = what
    return entry


def _check_caller(run: Run, ctx: Context, call: str) -> None:
    if not run.on_own_thread():
        raise ValidationError(
            f"{call} is called from a thread: from there, use trio.from_thread.run(ctx.{call.rpartition(' ')[2]}, ...)"
        )
    if ctx.worker is None or ctx.worker.ctx is not ctx:
        raise ValidationError(f"{call} is called after the step has ended: only a step that runs can wait")
    if ctx.thread_scope is not None:  # no scope cancels what its thread asks the loop for
        ctx.check_cancelled()


def _check_timeout(timeout: object, call: str) -> float | None:
    from blazen.steps import check_timeout

    return check_timeout(timeout, f"{call}: timeout")


def _name_of(event_type: object) -> str:
    return event_type if isinstance(event_type, str) else str(getattr(event_type, "event_type", event_type))


def _matcher(
    run: Run, ctx: Context, event_type: object, where: object, fields: dict[str, Any], call: str
) -> Callable[[Event], Event | None]:
    """A function that gives the event as the step is to get it, or None if it does not match."""
    if isinstance(event_type, str) and event_type.strip():
        cls: type[Event] = run.router.known_class(event_type) or DynamicEvent
    elif isinstance(event_type, type) and issubclass(event_type, Event) and event_type not in (Event, DynamicEvent):
        cls = event_type
    else:
        raise ValidationError(f"{call} takes an event class or a type name, got {event_type!r}")
    name = _name_of(event_type)
    if name == StopEvent.event_type:
        raise ValidationError(f"{call}: a StopEvent ends the run and cannot be waited for")
    if where is not None and not callable(where):
        raise ValidationError(f"{call}: where must be a function taking the event, got {where!r}")
    if cls is not DynamicEvent:
        unknown = [field for field in fields if field not in cls.__struct_fields__]
        if unknown:
            raise ValidationError(f"{call}: {cls.__name__} has no field {unknown[0]!r}")
    condition: Any = where

    whose = f"step {ctx.step_name!r} of workflow {run.router.workflow!r}"

    def failed(message: str) -> WorkflowError:
        return WorkflowError(message, step=ctx.step_name, event_type=name, run_id=run.run_id)

    def matches(event: Event) -> Event | None:
        if not isinstance(event, Event) or event.event_type != name:  # a step may return anything
            return None
        if type(event) is DynamicEvent and cls is not DynamicEvent:
            try:
                event = convert(event, cls)
            except ValidationError as exc:
                raise failed(f"{whose} waits for {name!r} and cannot take the one that came: {exc}") from exc
        data = event.data if isinstance(event, DynamicEvent) else None
        for field, wanted in fields.items():
            value = getattr(event, field) if data is None else data.get(field, _NOTHING)
            try:
                if value is not wanted and value != wanted:
                    return None
            except Exception as exc:  # as of NumPy arrays, which do not say yes or no
                raise failed(
                    f"wait_for_event in {whose} could not compare the field {field!r} of an event {name!r} "
                    f"({type(exc).__name__}: {exc}); say with where= which event it waits for"
                ) from exc
        if condition is not None:
            try:
                if not condition(event):
                    return None
            except Exception as exc:
                raise failed(
                    f"where= of wait_for_event in {whose} failed on an event {name!r}: {type(exc).__name__}: {exc}"
                ) from exc
        return event

    return matches


def _timeout(run: Run, ctx: Context, what: str, seconds: float | None) -> TimeoutError:
    assert seconds is not None
    return TimeoutError(
        f"step {ctx.step_name!r} of workflow {run.router.workflow!r} waited {seconds:g} s for {what}, and none came",
        elapsed_ms=round(seconds * 1000),
        step=ctx.step_name,
        run_id=run.run_id,
    )
