"""A cut through a run: what it is at one moment, as parts with names, and what of that has changed since the last cut.

| Part | What it holds |
|---|---|
| `attempt/<number>/<step>` | an event that a step is to get, or the attempt it has begun with it |
| `join/<step>/<digest>/<number>` | one event that `collect_events` has gathered |
| `question/<id>` | a question that is open |
| `sent/<digest>` | the key of an event that is sent once |
| `once/<digest>` | what `ctx.once` has recorded under a key |
| `state/<key>` | a value |
| `states`, `session` | which keys are those of a `BlazenState`; what is kept of the session |

The head holds what is small and changes with every cut. Moments are wall-clock time: a limit goes on while nobody runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from blazen._core import codec
from blazen._core.run import STEP_CANCELLED
from blazen._snapshots import as_tuple, describe_attempt, time_used, usage_of
from blazen.engine.life import State
from blazen.engine.once import UnderWay
from blazen.errors import PersistError, ValidationError
from blazen.events import Event, InputRequestEvent
from blazen.session import pack
from blazen.state import stored_states

if TYPE_CHECKING:
    from blazen._core.router import StepInfo
    from blazen._core.run import Context
    from blazen.engine.run import Run
    from blazen.engine.waits import Entry

# Of a run that waits with nothing begun: there may be thousands of those.
_NOTHING: Mapping[Any, Any] = MappingProxyType({})

Place = tuple[int, int]  # the number of an event, and the index of the step that gets it


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What is written with every cut.

    Attributes:
        at: When: seconds since 1970, UTC.
        numbered: The number of the last event.
        kept: Events that only waits may take.
        usage: The totals, if there was any usage: input tokens, output tokens, dollars.
        used: Seconds that the run's clock has counted; None where it has no timeout.
    """

    at: float
    numbered: int
    kept: list[Event]
    usage: tuple[int, int, float] | None
    used: float | None


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What all parts of a run hold together; as `blazen.durability.loading` reads them."""

    head: Head
    attempts: list[tuple[Any, ...]]  # as `Attempt`, with moments instead of what is left until then
    joins: list[tuple[str, Any, dict[int, Event]]]
    questions: list[InputRequestEvent]
    sent_keys: list[Any]
    once: dict[Any, Any]
    values: dict[str, Any]
    states: list[Any]
    session: Any


class Change(msgspec.Struct):
    """What has changed since the last cut."""

    head: bytes
    put: list[tuple[str, bytes]]
    drop: list[str]
    due: float | None  # when something of it is due next
    anything: bool  # whether there is any change but that of time
    answered: list[str] | None  # questions that are open no longer


class Cutter:
    """Takes the cuts of one run, and remembers of each as much as it takes to tell what changed.

    Args:
        classes: What may be written besides plain values.
        types: Of the workflow.
        policy: For the session.
    """

    __slots__ = (
        "_attempts",
        "_classes",
        "_joins",
        "_marks",
        "_once",
        "_policy",
        "_questions",
        "_seen",
        "_sent",
        "_small",
        "_types",
    )

    def __init__(self, classes: codec.ClassTable, types: Iterable[type], policy: str) -> None:
        self._classes = classes
        self._types = types
        self._policy = policy
        self._attempts: Mapping[Place, int | bytes] = _NOTHING  # of a plain one: how many have begun
        self._small: tuple[Any, ...] = ()  # what the head had, but for the time
        self._seen: dict[str, Any] | None = None  # the state, as `changed_since` remembers it
        # Most runs have none of these.
        self._marks: dict[str, bytes] | None = None  # by part, of values that can change by themselves
        self._joins: dict[tuple[int, Any], set[int]] | None = None
        self._questions: Collection[str] | None = None
        self._sent: set[object] | None = None
        self._once: set[object] | None = None

    def change(self, run: Run, now: float) -> Change:
        """What has changed.

        Args:
            run: The run.
            now: Wall-clock time.
        Raises:
            PersistError: Something cannot be written; the message names what.
        """
        put: list[tuple[str, bytes]] = []
        drop: list[str] = []
        try:
            due = self._attempts_changed(run, now, put, drop)
            if run.state or self._seen:
                if self._seen is None:
                    self._seen = {}
                self._state_changed(run, self._seen, put, drop)
            if run.session or (self._marks is not None and "session" in self._marks):
                packed = pack(run.session, self._policy)
                self._mark("session", codec.encode((packed.keys, packed.data, packed.dropped)), put)
            self._joins_changed(run, put, drop)
            answered = None
            if run.questions or self._questions:
                answered = self._questions_changed(run, put, drop)
            if run.sent_keys:
                self._sent = self._keys_added("sent", run.sent_keys, self._sent, put)
            if run.once_kept:
                self._once_changed(run.once_kept, put)
            kept = [] if run.waits is None else list(run.waits.kept)
            usage = usage_of(run)
            head = codec.encode((now, run.numbered, kept, usage, time_used(run)), classes=self._classes)
        except Exception as error:  # classes of users are asked for what they hold
            what = str(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
            raise PersistError(
                f"run {run.run_id} of workflow {run.router.workflow!r} cannot be written down: {what}"
            ) from error
        small = (run.numbered, kept, usage)
        anything = bool(put or drop) or small != self._small
        self._small = small
        return Change(head, put, drop, due, anything, answered)

    @property
    def questions(self) -> Collection[str]:
        """The ids of the questions that were open at the last cut."""
        return self._questions or ()

    # --- what is to be run

    def _attempts_changed(self, run: Run, now: float, put: list[tuple[str, bytes]], drop: list[str]) -> float | None:
        known = self._attempts
        found: dict[Place, int | bytes] = {}
        due: float | None = None
        paused = run.pause
        # What `cancel_step` has told to stop produces nothing and is not run again.
        begun = [(ctx, 0) for ctx in run.running() if ctx.abort_reason != STEP_CANCELLED]
        begun += [(ctx, 0) for ctx in run.finished]
        if paused is not None:
            begun += [(ctx, 0) for ctx in paused.back]
        # What is queued may begin as soon as this is written, and nothing is written when it does.
        begins = 0 if run.life in (State.PAUSING, State.PAUSED) else 1
        for item, seq, step in run.queued():
            if isinstance(item, Event):
                place = (seq, step.index)
                found[place] = begins
                if known.get(place) != begins:
                    encoded = codec.encode(
                        (step.name, seq, item, begins, False, None, None, None, ()), classes=self._classes
                    )
                    put.append((f"attempt/{seq}/{step.name}", encoded))
            else:
                begun.append((item, 0 if item.handling else begins))
        waiting = {ctx: now + (at - run.now()) for ctx, (_, at) in run.retries.items()} if run.retries else {}
        if paused is not None:
            waiting.update((ctx, now + left) for ctx, left in paused.retries)
        begun += [(ctx, 0) for ctx in waiting]
        limits = self._limits(run, now, begun) if run.waits is not None or run.reopened else {}
        for ctx, more in begun:
            place = (ctx.seq, ctx.step.index)
            at = waiting.get(ctx)
            if at is None and not ctx.handling and ctx.joined is None and ctx.replay is None and ctx.error is None:
                mark: int | bytes = ctx.attempt + more
                if known.get(place) != mark:
                    encoded = codec.encode(
                        (ctx.step.name, ctx.seq, ctx.event, mark, False, None, None, None, ()), classes=self._classes
                    )
                    put.append((f"attempt/{ctx.seq}/{ctx.step.name}", encoded))
            else:
                one = describe_attempt(ctx, limits, at)
                if more:
                    one = msgspec.structs.replace(one, attempt=one.attempt + more)
                encoded = codec.encode(as_tuple(one), classes=self._classes)
                mark = _digest(encoded)
                if known.get(place) != mark:
                    put.append((f"attempt/{ctx.seq}/{ctx.step.name}", encoded))
            found[place] = mark
        for place in known:
            if place not in found:
                drop.append(f"attempt/{place[0]}/{run.router.steps[place[1]].name}")
        self._attempts = found or _NOTHING
        moments = [*waiting.values(), *limits.values()]
        if moments:
            due = min(moments)
        return due

    @staticmethod
    def _limits(run: Run, now: float, begun: list[tuple[Context, int]]) -> dict[Entry, float]:
        """When the time limits of calls in the middle of steps are over."""
        limits: dict[Entry, float] = {}
        for ctx, _ in begun:
            if ctx.replay is not None:
                limits.update((call, now + call.left) for call in ctx.replay.entries if call.left is not None)
        if run.waits is not None:
            limits.update((wait.entry, now + (wait.deadline - run.now())) for wait in run.waits.open if wait.timer)
        if run.pause is not None:
            limits.update((wait.entry, now + left) for wait, left in run.pause.waits)
        return limits

    # --- values

    def _state_changed(self, run: Run, seen: dict[str, Any], put: list[tuple[str, bytes]], drop: list[str]) -> None:
        changed, gone = run.state.changed_since(seen)
        for key, value in changed.items():
            name = _state_part(key)
            try:
                encoded = codec.encode((key, value), classes=self._classes)
            except ValidationError as error:
                raise ValidationError(f"the value under key {key!r}: {error}", path=error.path) from error
            self._mark(name, encoded, put)
        for key in gone:
            drop.append(_state_part(key))
            if self._marks is not None:
                self._marks.pop(drop[-1], None)
        states = stored_states(run.state, self._types)
        if states or (self._marks is not None and "states" in self._marks):
            self._mark("states", codec.encode([msgspec.structs.astuple(state) for state in states]), put)

    def _mark(self, name: str, encoded: bytes, put: list[tuple[str, bytes]]) -> None:
        """Write a part if it is not what it was."""
        mark = _digest(encoded)
        if self._marks is None:
            self._marks = {}
        if self._marks.get(name) != mark:
            self._marks[name] = mark
            put.append((name, encoded))

    # --- what has been gathered, asked, sent and recorded

    def _joins_changed(self, run: Run, put: list[tuple[str, bytes]], drop: list[str]) -> None:
        joins = run.joins()
        if not joins and not self._joins:
            return
        known = self._joins or {}
        found: dict[tuple[int, Any], set[int]] = {}
        steps = run.router.steps
        for step, key, events in joins:
            before = known.get((step.index, key), set())
            name = self._join_part(step, key)
            found[step.index, key] = set(events)
            for seq in events.keys() - before:
                put.append((f"{name}/{seq}", codec.encode((step.name, key, seq, events[seq]), classes=self._classes)))
            drop += [f"{name}/{seq}" for seq in before - events.keys()]
        for place, before in known.items():
            if place not in found:
                name = self._join_part(steps[place[0]], place[1])
                drop += [f"{name}/{seq}" for seq in before]
        self._joins = found or None

    def _join_part(self, step: StepInfo, key: object) -> str:
        return f"join/{step.name}/{self._digest_of_key(key)}"

    def _questions_changed(self, run: Run, put: list[tuple[str, bytes]], drop: list[str]) -> list[str]:
        known = self._questions or ()
        for request_id, question in run.questions.items():
            if request_id not in known:
                put.append((f"question/{request_id}", codec.encode(question, classes=self._classes)))
        answered = [request_id for request_id in known if request_id not in run.questions]
        drop += [f"question/{request_id}" for request_id in answered]
        # A set takes four times as much memory as a tuple of one.
        self._questions = tuple(run.questions) if len(run.questions) < 5 else frozenset(run.questions)
        return answered

    def _keys_added(
        self, part: str, keys: set[object], known: set[object] | None, put: list[tuple[str, bytes]]
    ) -> set[object]:
        known = set() if known is None else known
        if len(known) != len(keys):
            for key in keys - known:
                put.append((f"{part}/{self._digest_of_key(key)}", codec.encode(key, classes=self._classes)))
                known.add(key)
        return known

    def _once_changed(self, kept: dict[object, object], put: list[tuple[str, bytes]]) -> None:
        if self._once is None:
            self._once = set()
        for key, result in kept.items():
            if key not in self._once and type(result) is not UnderWay:
                self._once.add(key)
                encoded = codec.encode((key, result), classes=self._classes)
                put.append((f"once/{self._digest_of_key(key)}", encoded))

    def _digest_of_key(self, key: object) -> str:
        return blake2b(codec.encode(key, classes=self._classes), digest_size=12).hexdigest()

    # --- after a run was loaded

    def remember(self, stored: Contents, parts: dict[str, bytes], steps: dict[str, int]) -> None:
        """Take what the store has for the last cut.

        Args:
            stored: What the parts hold.
            parts: All parts.
            steps: The index of each step, by name.
        """
        self._attempts = {
            (one[1], steps[one[0]]): _digest(parts[f"attempt/{one[1]}/{one[0]}"]) for one in stored.attempts
        }
        self._seen = dict.fromkeys(stored.values)
        self._marks = {
            name: _digest(encoded)
            for name, encoded in parts.items()
            if name in ("states", "session") or name.startswith("state/")
        }
        self._joins = {(steps[step], key): set(events) for step, key, events in stored.joins} or None
        self._questions = {question.request_id for question in stored.questions} or None
        self._sent = set(stored.sent_keys) or None
        self._once = set(stored.once) or None


def _state_part(key: str) -> str:
    try:
        key.encode()
    except UnicodeEncodeError:  # a lone surrogate, which no database takes
        return f"state/\\{blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=12).hexdigest()}"
    return f"state/{key}" if not key.startswith("\\") else f"state/\\{key}"


def _digest(encoded: bytes) -> bytes:
    """Something short to tell one encoding from another."""
    return encoded if len(encoded) <= 32 else blake2b(encoded, digest_size=16).digest()
