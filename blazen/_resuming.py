"""Making a run that goes on with a snapshot. `blazen._snapshots` takes them.

Nothing that was written is believed: whatever does not have the form it must have is refused before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from blazen import errors
from blazen._core import codec
from blazen._core.state import StateValue
from blazen._snapshots import SIMPLE, Attempt, Call, Failure
from blazen.errors import BlazenError, ValidationError, WorkflowError
from blazen.events import Event, InputRequestEvent
from blazen.migrations import Migrating
from blazen.session import Packed, unpack
from blazen.state import StoredState, put_back

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blazen._core.router import StepInfo
    from blazen._core.run import Context
    from blazen.engine.run import Run
    from blazen.graph import Graph
    from blazen.migrations import Migration
    from blazen.snapshot import Snapshot

_LARGEST = 2**62  # of the engine's counters
_LONGEST = 1e10  # seconds, 300 years: no limit may be that long, and no clock has counted so far
_REMEMBERED = frozenset(("numbered", "attempts", "joins", "questions", "kept", "sent_keys", "usage", "used", "once"))


class Plan(msgspec.Struct, frozen=True):
    """A snapshot that has been read and fits its workflow: `prepare` and `restore` make a run go on with it."""

    where: str
    attempts: tuple[Attempt, ...]
    steps: dict[str, int]
    remembered: dict[str, Any]
    states: tuple[StoredState, ...]
    values: dict[str, Any]
    session: dict[str, Any]


def read(
    snapshot: Snapshot,
    graph: Graph,
    version: str,
    classes: codec.ClassTable,
    *,
    migrations: Mapping[str, Migration],
    trust_native: bool,
    session: bool,
) -> Plan:
    """Read a snapshot for a workflow; `session` says whether the session that was written is wanted.

    Raises:
        ValidationError: It is of another workflow, or of another version of it; a step that has something to do is
            gone, or does not accept its event any more; something does not fit its class; a pickle is not trusted.
    """
    where = f"workflow {graph.name!r} cannot resume run {snapshot.run_id}:"
    if snapshot.workflow != graph.name:
        raise ValidationError(f"{where} its snapshot is of workflow {snapshot.workflow!r}")
    migrating = None
    if snapshot.version != version:
        fn = migrations.get(snapshot.version)
        if fn is None:
            raise ValidationError(
                f"{where} its snapshot is of version {snapshot.version!r}, and this is version {version!r}, which has "
                "no migration from it"
            )
        migrating = Migrating(fn, snapshot.run_id, graph.name, snapshot.version)
    trusted = trust_native or snapshot.trusts_native
    sections = snapshot.sections
    try:
        remembered = codec.decode(sections["run"], classes=classes, trust_native=trusted)
        if type(remembered) is dict and "once" not in remembered:  # as of format version 1
            remembered["once"] = {}
        state = codec.decode(sections["state"], classes=classes, trust_native=trusted)
        packed = codec.decode(sections["session"])
    except ValidationError as error:
        raise ValidationError(f"{where} {error}", path=error.path) from error
    return plan(
        remembered, state, packed, graph, where=where, migrating=migrating, trust_native=trusted, session=session
    )


def plan(
    remembered: Any,
    state: Any,
    packed_session: Any,
    graph: Graph,
    *,
    where: str,
    migrating: Migrating | None,
    trust_native: bool,
    session: bool,
) -> Plan:
    """Check what was read of a run, and whether it fits a workflow.

    Args:
        remembered: The content of the section `run`.
        state: The content of the section `state`.
        packed_session: The content of the section `session`.
        graph: Of the workflow.
        where: Begins each message.
        migrating: What makes it fit first, if it is of another version.
        trust_native: Whether pickles may be loaded.
        session: Whether the session that was written is wanted.
    Raises:
        ValidationError: As of `read`.
    """
    try:
        packed = _packed(packed_session)
        attempts = _check_remembered(remembered)
        states, values = _check_state(state)
        if migrating is not None:
            migrating.apply(remembered, values)
            attempts = _check_remembered(remembered)
        if not trust_native:
            _refuse_unopened(remembered, values)
    except ValidationError as error:
        raise ValidationError(f"{where} {error}", path=error.path) from error
    steps = {spec.name: index for index, spec in enumerate(graph.specs)}
    for one in attempts:
        _check_step(graph, steps, one, where)
    gone = [name for name, _, _ in remembered["joins"] if name not in steps]
    if gone:
        raise ValidationError(f"{where} step {gone[0]!r} gathers events, and the workflow has no such step any more")
    try:
        loaded = unpack(packed, trust_native=trust_native) if session else {}
    except ValidationError as error:
        raise ValidationError(f"{where} {error}", path=error.path) from error
    return Plan(
        where=where,
        attempts=attempts,
        steps=steps,
        remembered=remembered,
        states=states,
        values=values,
        session=loaded,
    )


def _check_step(graph: Graph, steps: Mapping[str, int], one: Attempt, where: str) -> None:
    work = f"step {one.step!r} has an event {one.event.event_type!r} to work on, and"
    if one.step not in steps:
        raise ValidationError(f"{where} {work} the workflow has no such step any more")
    if steps[one.step] not in graph.steps_for(one.event.event_type, type(one.event)):
        raise ValidationError(f"{where} {work} does not accept it any more")
    if one.handling and graph.specs[steps[one.step]].on_error is None:
        raise ValidationError(f"{where} {work} has no on_error any more, which was to deal with what it failed with")


def _refuse_unopened(remembered: dict[str, Any], values: dict[str, Any]) -> None:
    """Refuse pickles, which nobody has said may be loaded: no step could use what is in them."""
    how = "is a pickle, and loading it can run any code: give trust_native=True if you know who wrote it"
    for key, value in values.items():
        if _holds_unopened(value):
            raise ValidationError(f"the value under key {key!r} {how}")
    if _holds_unopened(remembered):
        raise ValidationError(f"something that an event holds {how}")


def _holds_unopened(value: Any) -> bool:
    rest = [value]
    seen: set[int] = set()
    while rest:
        one = rest.pop()
        if isinstance(one, StateValue):
            if isinstance(one.value, codec.UnopenedNative):
                return True
            one = one.value
        if not isinstance(one, dict | list | tuple | set | frozenset | msgspec.Struct) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, dict):
            rest += one.keys()
            rest += one.values()
        elif isinstance(one, msgspec.Struct):
            rest += (getattr(one, name, None) for name in one.__struct_fields__)
        else:
            rest += one
    return False


# --- the form of what was written


def _check_remembered(value: Any) -> tuple[Attempt, ...]:
    if type(value) is not dict or value.keys() != _REMEMBERED:
        _damaged("run")
    numbered = value["numbered"]
    _must(_is_count(numbered), "run", "numbered")
    attempts = tuple(_attempt(one, numbered) for one in _list(value["attempts"], "attempts"))
    for one in _list(value["joins"], "joins"):
        _must(type(one) is tuple and len(one) == 3, "run", "joins")
        name, _, events = one
        _must(type(name) is str and type(events) is dict and _can_be_key(one[1]), "run", "joins")
        for seq, event in events.items():
            _must(_is_count(seq) and 0 < seq <= numbered and isinstance(event, Event), "run", "joins")
    for question in _list(value["questions"], "questions"):
        _must(isinstance(question, InputRequestEvent) and type(question.request_id) is str, "run", "questions")
    for event in _list(value["kept"], "kept"):
        _must(isinstance(event, Event), "run", "kept")
    for key in _list(value["sent_keys"], "sent_keys"):
        _must(_can_be_key(key), "run", "sent_keys")
    usage = value["usage"]
    if usage is not None:
        _must(type(usage) is tuple and len(usage) == 3, "run", "usage")
        _must(type(usage[0]) is int and type(usage[1]) is int and type(usage[2]) in (int, float), "run", "usage")
    _must(value["used"] is None or _is_seconds(value["used"]), "run", "used")
    _must(type(value["once"]) is dict, "run", "once")
    return attempts


def _attempt(value: Any, numbered: int) -> Attempt:
    _must(type(value) is tuple and len(value) == len(Attempt.__struct_fields__), "run", "attempts")
    one = Attempt(*value)
    _must(type(one.step) is str and isinstance(one.event, Event), "run", "attempts")
    _must(_is_count(one.seq) and 0 < one.seq <= numbered, "run", "attempts")
    _must(_is_count(one.attempt) and one.attempt < 2**31 and type(one.handling) is bool, "run", "attempts")
    _must(one.left is None or _is_seconds(one.left), "run", "attempts")
    _must(one.attempt > 0 or not (one.handling or one.calls or one.joined or one.left), "run", "attempts")
    if one.joined is not None:
        _must(type(one.joined) is dict, "run", "attempts")
        for events in one.joined.values():
            _must(
                events is None or (type(events) is list and all(isinstance(e, Event) for e in events)),
                "run",
                "attempts",
            )
    error: Any = one.error
    _must(error is None or type(error) is tuple, "run", "attempts")
    _must(type(one.calls) is tuple, "run", "attempts")
    return msgspec.structs.replace(
        one, error=None if error is None else _failure(error), calls=tuple(map(_call, one.calls))
    )


def _call(value: Any) -> Call:
    _must(type(value) is tuple and len(value) == len(Call.__struct_fields__), "run", "calls")
    call = Call(*value)
    _must(call.request_id is None or type(call.request_id) is str, "run", "calls")
    _must(type(call.answered) is bool and type(call.checked) is bool, "run", "calls")
    # What was not asked for was waited for, and that is always an event.
    _must(not call.answered or call.request_id is not None or isinstance(call.value, Event), "run", "calls")
    _must(call.left is None or _is_seconds(call.left), "run", "calls")
    return call


def _failure(value: tuple[Any, ...]) -> Failure:
    _must(len(value) == len(Failure.__struct_fields__), "run", "errors")
    failure = Failure(*value)
    _must(type(failure.name) is str and type(failure.message) is str, "run", "errors")
    _must(failure.args is None or type(failure.args) is tuple, "run", "errors")
    attributes = failure.attributes
    _must(attributes is None or type(attributes) is dict, "run", "errors")
    for name, attribute in (attributes or {}).items():
        _must(type(name) is str and (type(attribute) in SIMPLE or _are_names(attribute)), "run", "errors")
    return failure


def _check_state(value: Any) -> tuple[tuple[StoredState, ...], dict[str, Any]]:
    _must(type(value) is tuple and len(value) == 2, "state")
    states, values = value
    _must(type(states) is list and type(values) is dict, "state")
    _must(all(type(key) is str for key in values), "state")
    for one in states:
        _must(type(one) is tuple and len(one) == len(StoredState.__struct_fields__), "state")
        _must(type(one[0]) is str and type(one[1]) is str and _are_names(one[2]) and _are_names(one[3]), "state")
    return tuple(StoredState(*one) for one in states), values


def _packed(value: Any) -> Packed:
    _must(type(value) is tuple and len(value) == 3, "session")
    keys, data, dropped = value
    _must(_are_names(keys) and _are_names(dropped) and (data is None or type(data) is bytes), "session")
    return Packed(keys=keys, data=data, dropped=dropped)


def _list(value: Any, what: str) -> list[Any]:
    _must(type(value) is list, "run", what)
    found: list[Any] = value
    return found


def _are_names(value: Any) -> bool:
    return type(value) is tuple and all(type(name) is str for name in value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _is_seconds(value: Any) -> bool:
    return type(value) is float and 0.0 <= value <= _LONGEST


def _can_be_key(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _must(holds: bool, section: str, part: str | None = None) -> None:
    if not holds:
        _damaged(section, part)


def _damaged(section: str, part: str | None = None) -> NoReturn:
    within = "" if part is None else f", in {part!r},"
    raise ValidationError(f"the snapshot is damaged: its section {section!r}{within} does not hold what it must")


# --- making the run


def prepare(run: Run, plan: Plan, types: Iterable[type]) -> Callable[[], None]:
    """Give a new run the state of a snapshot. Returns what makes it go on, to be called in the run's loop.

    Raises:
        ValidationError: A value cannot be put back, or an event does not fit the class its step takes by now.
    """
    try:
        for state in plan.states:
            put_back(run.state, state, types)
        run.state.put_back(plan.values)
        steps = run.router.steps
        attempts = [(one, _context(run, steps[plan.steps[one.step]], one)) for one in plan.attempts]
    except (ValidationError, WorkflowError) as error:
        raise ValidationError(f"{plan.where} {error}", path=getattr(error, "path", None)) from error
    return lambda: _restore(run, plan, attempts)


def _context(run: Run, step: StepInfo, one: Attempt) -> Context | None:
    """The context of an attempt; None for an event that no step has begun with."""
    from blazen.engine.waits import Entry, Replay

    if one.attempt == 0:
        return None
    replay = None
    if one.calls:
        replay = Replay()
        for call in one.calls:
            entry = Entry(call.request_id)
            entry.left = call.left
            if call.request_id is not None:
                entry.what = InputRequestEvent.event_type
            elif isinstance(call.value, Event):
                entry.what = call.value.event_type
            if call.answered:
                entry.value, entry.checked = call.value, call.checked
            replay.entries.append(entry)
    ctx = run.attempt_of(one.event, one.seq, step, one.attempt, one.joined, replay)
    if one.error is not None:
        ctx.fail_with(_error(one.error))
    return ctx


def _restore(run: Run, plan: Plan, attempts: list[tuple[Attempt, Context | None]]) -> None:
    remembered = plan.remembered
    steps = run.router.steps
    joins = [(steps[plan.steps[name]], key, events) for name, key, events in remembered["joins"]]
    run.put_back_joins(joins, remembered["numbered"])
    if remembered["sent_keys"]:
        run.sent_keys = set(remembered["sent_keys"])
    if remembered["usage"] is not None:
        run.set_usage(*remembered["usage"])
    if remembered["once"]:
        run.once_kept = dict(remembered["once"])
    for question in remembered["questions"]:
        if run.ledger is None or run.ledger.is_new:
            run.on_ask(question)
        else:  # the store has it already, and so has the stream
            run.questions[question.request_id] = question
    for event in remembered["kept"]:
        run.keep_for_waits(event)
    if run.timeout is not None:
        run.started -= remembered["used"] or 0.0
        run.deadline = run.started + run.timeout
    for one, ctx in attempts:
        if ctx is None:
            run.put_back(one.event, one.seq, steps[plan.steps[one.step]])
            continue
        if ctx.replay is not None:
            for entry in ctx.replay.entries:
                if not entry.answered and entry.request_id in run.questions:
                    run.reopened[entry.request_id] = entry
        if one.left is None:
            run.put_back_attempt(ctx, handle=one.handling)
        else:
            run.postpone_again(ctx, one.left)


def _error(failure: Failure) -> Exception:
    """What the attempts failed with: of the same class where that is builtin or blazen's, else a `WorkflowError`."""
    import builtins

    module, _, name = failure.name.rpartition(".")
    if module == "builtins" and failure.args is not None:
        cls: Any = getattr(builtins, name, None)
        if isinstance(cls, type) and issubclass(cls, Exception):
            try:
                return cls(*failure.args)
            except Exception:  # its own business what it is made of
                pass
    if module == "blazen.errors" and failure.attributes is not None and name in errors.__all__:
        cls = getattr(errors, name)
        if isinstance(cls, type) and issubclass(cls, BlazenError) and cls is not BlazenError:
            try:
                return cls(failure.message, **failure.attributes)
            except (TypeError, ValueError):
                pass
    return WorkflowError(f"{name}: {failure.message}")
