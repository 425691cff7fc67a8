"""Taking the snapshot of a run, and making a run that goes on with one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from blazen._core import codec
from blazen._core.state import StateValue
from blazen.errors import ValidationError, WorkflowError
from blazen.events import Event, InputRequestEvent
from blazen.session import Packed, pack, unpack
from blazen.snapshot import Meta, Snapshot
from blazen.state import StoredState, put_back, stored_states

if TYPE_CHECKING:
    from blazen._core.router import StepInfo
    from blazen._core.run import Context
    from blazen.engine.run import Run
    from blazen.graph import Graph


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One event that a step is to get, or the attempt that it had begun with it.

    Attributes:
        step: The name of the step.
        seq: The number of the event.
        event: The event.
        attempt: How many attempts have begun.
        handling: Whether `on_error` was to run, or ran.
        error: Class and message of what the attempts failed with, if so.
        left: Seconds until the next attempt, if that waits for its time.
        joined: The gatherings that the event has been counted in.
        calls: What it has asked and been given in its middle.
    """

    step: str
    seq: int
    event: Event
    attempt: int = 0
    handling: bool = False
    error: tuple[str, str] | None = None
    left: float | None = None
    joined: dict[Any, Any] | None = None
    calls: tuple[tuple[str | None, bool, Any, Event | None], ...] = ()


# --- taking one


def take(run: Run, *, version: str, policy: str, types: Iterable[type], classes: codec.ClassTable) -> Snapshot:
    """Write down a run. It is not changed.

    Raises:
        ValidationError: Something in it cannot be written; the message names what.
    """
    import time

    where = f"cannot take a snapshot of run {run.run_id} of workflow {run.router.workflow!r}:"
    meta = Meta(run.router.workflow, version, run.run_id, time.time(), run.state_name)
    attempts = _attempts(run)
    remembered = {
        "numbered": run.numbered,
        "attempts": [msgspec.structs.astuple(one) for one in attempts],
        "joins": [(step.name, key, events) for step, key, events in run.joins()],
        "questions": [question for question in run.questions.values() if not _asked_by(attempts, question)],
        "kept": [] if run.waits is None else list(run.waits.kept),
        "sent_keys": [] if run.sent_keys is None else list(run.sent_keys),
        "usage": None
        if run.totals is None
        else (run.totals.input_tokens, run.totals.output_tokens, run.totals.cost_usd),
        "used": _time_used(run),
    }
    states = [msgspec.structs.astuple(state) for state in stored_states(run.state, types)]
    values = dict(run.state.written())
    packed = pack(run.session, policy)
    return Snapshot(
        {
            "meta": msgspec.json.encode(meta),
            "run": _encode_run(remembered, attempts, classes, where),
            "state": _encode_state(states, values, classes, where),
            "session": codec.encode((packed.keys, packed.data, packed.dropped)),
        },
        trust_native=True,  # it comes from this very process
    )


def _attempts(run: Run) -> list[Attempt]:
    """What is to be run: unfinished attempts, what is queued, what waits for its time; in this order."""
    found = [_attempt(ctx, run.now()) for ctx in sorted(run.running(), key=lambda ctx: ctx.seq)]
    for item, seq, step in run.queued():
        found.append(Attempt(step.name, seq, item) if isinstance(item, Event) else _attempt(item, run.now()))
    waiting = {ctx: due - run.now() for ctx, (_, due) in run.retries.items()}
    if run.pause is not None:
        found += [_attempt(ctx, run.now()) for ctx in run.pause.back]
        waiting.update(run.pause.retries)
    found += [_attempt(ctx, run.now(), left=max(0.0, left)) for ctx, left in waiting.items()]
    return found


def _attempt(ctx: Context, now: float, left: float | None = None) -> Attempt:
    calls = ctx.replay.entries if ctx.replay is not None else ()
    return Attempt(
        step=ctx.step.name,
        seq=ctx.seq,
        event=ctx.event,
        attempt=ctx.attempt,
        handling=ctx.handling,
        error=None if ctx.error is None else (type(ctx.error).__name__, str(ctx.error)),
        left=left,
        joined=None if ctx.joined is None else dict(ctx.joined),
        calls=tuple(
            (call.request_id, call.answered, call.value if call.answered else None, call.question) for call in calls
        ),
    )


def _asked_by(attempts: list[Attempt], question: InputRequestEvent) -> bool:
    return any(request_id == question.request_id for one in attempts for request_id, *_ in one.calls)


def _time_used(run: Run) -> float | None:
    """Seconds that the run's clock has counted; None where it has no timeout."""
    if run.timeout is None:
        return None
    left = run.left if run.resting else run.deadline - run.now()
    return float(run.timeout - left)


def _encode_run(remembered: dict[str, Any], attempts: list[Attempt], classes: codec.ClassTable, where: str) -> bytes:
    try:
        return codec.encode(remembered, classes=classes)
    except ValidationError as error:
        for one in attempts:  # whose fault is it?
            try:
                codec.encode(msgspec.structs.astuple(one), classes=classes)
            except ValidationError as fault:
                raise ValidationError(
                    f"{where} what step {one.step!r} has to do with an event {one.event.event_type!r} cannot be "
                    f"written: {fault}",
                    path=fault.path,
                ) from error
        raise ValidationError(f"{where} {error}", path=error.path) from error


def _encode_state(
    states: list[tuple[Any, ...]], values: dict[str, Any], classes: codec.ClassTable, where: str
) -> bytes:
    try:
        return codec.encode((states, values), classes=classes)
    except ValidationError as error:
        for key, value in values.items():
            try:
                codec.encode(value, classes=classes)
            except ValidationError as fault:
                raise ValidationError(f"{where} the value under key {key!r}: {fault}", path=fault.path) from error
        raise ValidationError(f"{where} {error}", path=error.path) from error


# --- making a run of one


class Plan(msgspec.Struct, frozen=True):
    """A snapshot that has been read and fits its workflow: `restore` makes a run go on with it."""

    attempts: tuple[Attempt, ...]
    steps: dict[str, int]
    remembered: dict[str, Any]
    states: tuple[StoredState, ...]
    values: dict[str, Any]
    session: dict[str, Any]


def read(
    snapshot: Snapshot, graph: Graph, version: str, classes: codec.ClassTable, *, trust_native: bool, session: bool
) -> Plan:
    """Read a snapshot for a workflow; `session` says whether the session that was written is wanted.

    Raises:
        ValidationError: It is of another workflow, or of another version of it; a step that has something to do is
            gone, or does not accept its event any more; something does not fit its class; a pickle is not trusted.
    """
    where = f"workflow {graph.name!r} cannot resume run {snapshot.run_id}:"
    if snapshot.workflow != graph.name:
        raise ValidationError(f"{where} its snapshot is of workflow {snapshot.workflow!r}")
    if snapshot.version != version:
        raise ValidationError(
            f"{where} its snapshot is of version {snapshot.version!r}, and this is version {version!r}"
        )
    trusted = trust_native or snapshot.trusts_native
    sections = snapshot.sections
    try:
        remembered = codec.decode(sections["run"], classes=classes, trust_native=trusted)
        states, values = codec.decode(sections["state"], classes=classes, trust_native=trusted)
        keys, data, dropped = codec.decode(sections["session"])
        attempts = tuple(Attempt(*one) for one in remembered["attempts"])
        stored = tuple(StoredState(*one) for one in states)
        packed = Packed(keys=keys, data=data, dropped=dropped)
    except (TypeError, ValueError, KeyError) as error:  # a ValidationError is a ValueError
        raise ValidationError(f"{where} {error}", path=getattr(error, "path", None)) from error
    steps = {spec.name: index for index, spec in enumerate(graph.specs)}
    for one in attempts:
        if one.step not in steps:
            raise ValidationError(
                f"{where} step {one.step!r} has an event {one.event.event_type!r} to work on, and the workflow has no "
                "such step any more"
            )
        if steps[one.step] not in graph.steps_for(one.event.event_type, type(one.event)):
            raise ValidationError(
                f"{where} step {one.step!r} has an event {one.event.event_type!r} to work on, and does not accept it "
                "any more"
            )
    gone = [name for name, _, _ in remembered["joins"] if name not in steps]
    if gone:
        raise ValidationError(f"{where} step {gone[0]!r} gathers events, and the workflow has no such step any more")
    return Plan(
        attempts=attempts,
        steps=steps,
        remembered=remembered,
        states=stored,
        values=values,
        session=unpack(packed, trust_native=trusted) if session else {},
    )


def restore(run: Run, plan: Plan, types: Iterable[type]) -> None:
    """Make a run that has just begun that of a snapshot; in the run's loop."""
    for state in plan.states:
        put_back(run.state, state, types)
    for key, value in plan.values.items():
        if isinstance(value, StateValue):
            run.state.set_value(key, value)
        else:
            run.state.set(key, value)
    remembered = plan.remembered
    steps = run.router.steps
    joins = [(steps[plan.steps[name]], key, events) for name, key, events in remembered["joins"]]
    run.put_back_joins(joins, remembered["numbered"])
    if remembered["sent_keys"]:
        run.sent_keys = set(remembered["sent_keys"])
    if remembered["usage"] is not None:
        run.set_usage(*remembered["usage"])
    for question in remembered["questions"]:
        run.on_ask(question)
    for event in remembered["kept"]:
        run.keep_for_waits(event)
    if run.timeout is not None:
        used = remembered["used"] or 0.0
        run.started -= used
        run.deadline = run.started + run.timeout
    for one in plan.attempts:
        _restore_attempt(run, steps[plan.steps[one.step]], one)


def _restore_attempt(run: Run, step: StepInfo, one: Attempt) -> None:
    from blazen.engine.waits import Entry, Replay

    replay = None
    if one.calls:
        replay = Replay()
        for request_id, answered, value, question in one.calls:
            entry = Entry(request_id, value) if answered else Entry(request_id)
            replay.entries.append(entry)
            if not answered and isinstance(question, InputRequestEvent):
                run.questions[question.request_id] = question
                run.reopened[question.request_id] = entry
    if one.left is not None:
        ctx = run.attempt_of(one.event, one.seq, step, one.attempt, one.joined, replay)
        run.postpone_again(ctx, one.left)
        return
    run.put_back(
        one.event,
        one.seq,
        step,
        attempt=one.attempt,
        handling=one.handling,
        error=_error(one.error),
        joined=one.joined,
        replay=replay,
    )


def _error(written: tuple[str, str] | None) -> Exception | None:
    """What the attempts failed with: of a builtin class if it was, else told in a `WorkflowError`."""
    if written is None:
        return None
    import builtins

    name, message = written
    cls = getattr(builtins, name, None)
    if isinstance(cls, type) and issubclass(cls, Exception):
        try:
            return cls(message)
        except TypeError:
            pass
    return WorkflowError(f"{name}: {message}")
