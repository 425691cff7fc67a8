"""Making a run of what a store has of it. Nothing that was written is believed, as in `blazen._resuming`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blazen import _resuming
from blazen._core import codec
from blazen.durability.cut import Contents, Head
from blazen.errors import PersistError, ValidationError
from blazen.migrations import Migrating
from blazen.store.base import ENDED

if TYPE_CHECKING:
    from blazen.events import Event
    from blazen.graph import Graph
    from blazen.store.base import StoredRun
    from blazen.workflow import Workflow


def migration_of(workflow: Workflow[Any], stored: StoredRun) -> Migrating | None:
    """The migration that a run needs to go on in this version of this workflow; None if it is of this version.

    Raises:
        ValidationError: It is of another workflow, or of a version that has no migration, or it has ended.
    """
    info = stored.info
    where = f"workflow {workflow.name!r} cannot go on with run {info.run_id}:"
    if info.workflow != workflow.name:
        raise ValidationError(f"{where} it is of workflow {info.workflow!r}")
    if info.state in ENDED:
        raise ValidationError(f"{where} it is {info.state}")
    if info.version == workflow.version:
        return None
    fn = workflow._migrations.get(info.version)
    if fn is None:
        raise ValidationError(
            f"{where} it was written by version {info.version!r}, and this is version {workflow.version!r}, which has "
            "no migration from it"
        )
    return Migrating(fn, info.run_id, info.workflow, info.version)


def read_contents(stored: StoredRun, classes: codec.ClassTable, *, trust_native: bool) -> Contents:
    """What the parts of a run hold.

    Raises:
        PersistError: A part is damaged; the message names it.
        ValidationError: A part holds something of a class that is not known, or a pickle that is not trusted.
    """
    joins: dict[tuple[str, Any], dict[int, Event]] = {}
    attempts: list[Any] = []
    questions: list[Any] = []
    sent_keys: list[Any] = []
    once: dict[Any, Any] = {}
    values: dict[str, Any] = {}
    states: list[Any] = []
    session: Any = ((), None, ())
    for name, encoded in stored.parts.items():
        kind = name.partition("/")[0]
        try:
            value = codec.decode(encoded, classes=classes, trust_native=trust_native)
            if kind == "attempt":
                attempts.append(value)
            elif kind == "join":
                step, key, seq, event = value
                joins.setdefault((step, key), {})[seq] = event
            elif kind == "question":
                questions.append(value)
            elif kind == "sent":
                sent_keys.append(value)
            elif kind == "once":
                key, result = value
                once[key] = result
            elif kind == "state":
                key, content = value
                values[key] = content
            elif kind == "states":
                states = value
            elif kind == "session":
                session = value
            else:
                raise PersistError(f"run {stored.info.run_id} has a part {name!r}, which this version does not know")
        except ValidationError as error:
            raise ValidationError(f"the part {name!r} of run {stored.info.run_id}: {error}", path=error.path) from error
        except (TypeError, ValueError) as error:
            raise PersistError(
                f"run {stored.info.run_id} is damaged in the store: its part {name!r} does not hold what it must"
            ) from error
    return Contents(
        head=read_head(stored, classes),
        attempts=attempts,
        joins=[(step, key, events) for (step, key), events in joins.items()],
        questions=questions,
        sent_keys=sent_keys,
        once=once,
        values=values,
        states=states,
        session=session,
    )


def read_head(stored: StoredRun, classes: codec.ClassTable) -> Head:
    """The head of a run.

    Raises:
        PersistError: It is damaged.
    """
    try:
        value = codec.decode(stored.head, classes=classes)
        at, numbered, kept, usage, used = value
    except (ValidationError, TypeError, ValueError) as error:
        raise PersistError(
            f"run {stored.info.run_id} is damaged in the store: its head cannot be read: {error}"
        ) from error
    if type(at) is not float:
        raise PersistError(f"run {stored.info.run_id} is damaged in the store: its head does not hold what it must")
    return Head(at, numbered, kept, usage, used)


def plan(
    stored: StoredRun,
    contents: Contents,
    graph: Graph,
    *,
    now: float,
    migrating: Migrating | None,
    trust_native: bool,
    session: bool,
) -> _resuming.Plan:
    """What it takes to make a run go on, as `_resuming.prepare` takes it.

    Args:
        stored: The run.
        contents: What its parts hold.
        graph: Of the workflow.
        now: Wall-clock time. What was due before is due now, unless the run was paused: then its clocks stood still.
        migrating: What makes it fit first, if it is of another version.
        trust_native: Whether a session that was pickled may be loaded.
        session: Whether the session that was written is wanted.
    Raises:
        ValidationError: It does not fit the workflow; or as of `_resuming.read`.
    """
    base = contents.head.at if stored.info.state == "paused" else now
    attempts = []
    for value in contents.attempts:
        attempts.append(_with_time_left(value, base) if type(value) is tuple else value)
    # In the order of their events' numbers, whatever the store's order is; what is no number is refused below.
    attempts.sort(key=_number)
    remembered = {
        "numbered": contents.head.numbered,
        "attempts": attempts,
        "joins": contents.joins,
        "questions": contents.questions,
        "kept": contents.head.kept,
        "sent_keys": contents.sent_keys,
        "usage": contents.head.usage,
        "used": contents.head.used,
        "once": contents.once,
    }
    return _resuming.plan(
        remembered,
        (contents.states, contents.values),
        contents.session,
        graph,
        where=f"workflow {graph.name!r} cannot go on with run {stored.info.run_id}:",
        migrating=migrating,
        trust_native=trust_native,
        session=session,
    )


def _with_time_left(value: tuple[Any, ...], base: float) -> tuple[Any, ...]:
    """An attempt as a snapshot has it: with what is left of its times instead of the moments when they are over."""
    if len(value) != 9:
        return value
    step, seq, event, attempt, handling, error, due, joined, calls = value
    return (
        step,
        seq,
        event,
        attempt,
        handling,
        error,
        _left(due, base),
        joined,
        tuple((*call[:4], _left(call[4], base)) if type(call) is tuple and len(call) == 5 else call for call in calls)
        if type(calls) is tuple
        else calls,
    )


def _left(due: Any, base: float) -> Any:
    return max(0.0, due - base) if type(due) is float else due


def _number(value: Any) -> int:
    return value[1] if type(value) is tuple and len(value) > 1 and type(value[1]) is int else 0
