"""Taking the snapshot of a run. `blazen._resuming` makes a run that goes on with one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from blazen._core import codec
from blazen.errors import BlazenError, ValidationError
from blazen.events import Event
from blazen.session import pack
from blazen.snapshot import Meta, Snapshot
from blazen.state import stored_states

if TYPE_CHECKING:
    from blazen._core.run import Context
    from blazen.engine.run import Run
    from blazen.engine.waits import Entry

SIMPLE = (str, int, float, bool, bytes, type(None))


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """What the attempts at an event failed with, for `on_error`.

    Attributes:
        name: Of its class, with the module.
        message: Its text.
        args: What it was made with, where that is simple; else None.
        attributes: Of one of blazen's own errors.
    """

    name: str
    message: str
    args: tuple[Any, ...] | None = None
    attributes: dict[str, Any] | None = None


class Call(msgspec.Struct, frozen=True, array_like=True):
    """One `request_input` or `wait_for_event` of an attempt.

    Attributes:
        request_id: What it asked under, if it asked.
        answered: Whether it has been given something.
        value: What, if so.
        checked: Whether that fits its schema already; else it is checked when the step calls again.
        left: Seconds of its time limit, if it waits and has one.
    """

    request_id: str | None
    answered: bool
    value: Any
    checked: bool
    left: float | None


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One event that a step is to get, or the attempt that it had begun with it.

    Attributes:
        step: The name of the step.
        seq: The number of the event.
        event: The event.
        attempt: How many attempts have begun.
        handling: Whether `on_error` was to run, or ran.
        error: What the attempts failed with, if so.
        left: Seconds until the next attempt, if that waits for its time.
        joined: The gatherings that the event has been counted in.
        calls: What it has asked and been given in its middle.
    """

    step: str
    seq: int
    event: Event
    attempt: int = 0
    handling: bool = False
    error: Failure | None = None
    left: float | None = None
    joined: dict[Any, Any] | None = None
    calls: tuple[Call, ...] = ()


# --- taking one


def take(run: Run, *, version: str, policy: str, types: Iterable[type], classes: codec.ClassTable) -> Snapshot:
    """Write down a run. It is not changed.

    Raises:
        ValidationError: Something in it cannot be written; the message names what.
    """
    import time

    from blazen.engine.once import UnderWay

    where = f"cannot take a snapshot of run {run.run_id} of workflow {run.router.workflow!r}:"
    meta = Meta(run.router.workflow, version, run.run_id, time.time(), run.state_name)
    attempts = _attempts(run)
    remembered = {
        "numbered": run.numbered,
        "attempts": [as_tuple(one) for one in attempts],
        "joins": [(step.name, key, events) for step, key, events in run.joins()],
        "questions": list(run.questions.values()),
        "kept": [] if run.waits is None else list(run.waits.kept),
        "sent_keys": [] if run.sent_keys is None else list(run.sent_keys),
        "usage": usage_of(run),
        "used": time_used(run),
        "once": {} if run.once_kept is None else {k: v for k, v in run.once_kept.items() if type(v) is not UnderWay},
    }
    try:
        states = [msgspec.structs.astuple(state) for state in stored_states(run.state, types)]
        packed = pack(run.session, policy)
    except ValidationError as error:
        raise ValidationError(f"{where} {error}", path=error.path) from error
    values = run.state.written()
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
    from blazen._core.run import STEP_CANCELLED
    from blazen.engine.pausing import in_order

    limits = _time_limits(run)
    # What `cancel_step` has told to stop produces nothing and is not run again.
    unfinished = [ctx for ctx in run.running() if ctx.abort_reason != STEP_CANCELLED]
    waiting = {ctx: due - run.now() for ctx, (_, due) in run.retries.items()}
    if run.pause is not None:
        unfinished += run.pause.back
        waiting.update(run.pause.retries)
    found = [describe_attempt(ctx, limits) for ctx in sorted(unfinished, key=in_order)]
    for item, seq, step in run.queued():
        found.append(Attempt(step.name, seq, item) if isinstance(item, Event) else describe_attempt(item, limits))
    found += [describe_attempt(ctx, limits, left=max(0.0, left)) for ctx, left in waiting.items()]
    return found


def _time_limits(run: Run) -> dict[Entry, float]:
    """Seconds that are left to the calls that wait now and have a time limit."""
    if run.waits is None:
        return {}
    limits = {wait.entry: max(0.0, wait.deadline - run.now()) for wait in run.waits.open if wait.timer}
    if run.pause is not None:
        limits.update((wait.entry, left) for wait, left in run.pause.waits)
    return limits


def describe_attempt(ctx: Context, limits: Mapping[Entry, float], left: float | None = None) -> Attempt:
    """An attempt that has begun, as it is written.

    Args:
        ctx: Of the attempt.
        limits: What is left of the time limits of its calls.
        left: What is left until it begins again, if it waits for that.
    """
    calls = ctx.replay.entries if ctx.replay is not None else ()
    return Attempt(
        step=ctx.step.name,
        seq=ctx.seq,
        event=ctx.event,
        attempt=ctx.attempt,
        handling=ctx.handling,
        error=None if ctx.error is None else _failure(ctx.error),
        left=left,
        joined=None if ctx.joined is None else dict(ctx.joined),
        calls=tuple(_call(call, limits.get(call, call.left)) for call in calls),
    )


def _call(entry: Entry, left: float | None) -> Call:
    value, checked = entry.to_keep
    return Call(entry.request_id, entry.answered, value, checked, left)


def _failure(error: BaseException) -> Failure:
    try:
        message = str(error)
    except Exception:  # the text of a user's class
        message = ""
    simple = all(type(one) in SIMPLE for one in error.args)
    attributes = None
    if isinstance(error, BlazenError):
        attributes = {
            name: value
            for name, value in vars(error).items()
            if name not in ("suppressed", "reason", "_recording") and (type(value) in SIMPLE or name == "abandoned")
        }
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return Failure(name, message, error.args if simple else None, attributes)


def as_tuple(attempt: Attempt) -> tuple[Any, ...]:
    """An attempt as values that can be written."""
    error = None if attempt.error is None else msgspec.structs.astuple(attempt.error)
    calls = tuple(msgspec.structs.astuple(call) for call in attempt.calls)
    return msgspec.structs.astuple(msgspec.structs.replace(attempt, error=error, calls=calls))


def usage_of(run: Run) -> tuple[int, int, float] | None:
    """The totals of a run, if there was any usage."""
    totals = run.totals
    return None if totals is None else (totals.input_tokens, totals.output_tokens, totals.cost_usd)


def time_used(run: Run) -> float | None:
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
                codec.encode(as_tuple(one), classes=classes)
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
