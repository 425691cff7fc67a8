"""Damaged snapshots whose checksum fits all the same: they are refused with a `ValidationError`, or resumed."""

from __future__ import annotations

import json
import random
import warnings
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from blazen import (
    BlazenState,
    Context,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    Retry,
    Snapshot,
    StartEvent,
    StateValue,
    StopEvent,
    UsageEvent,
    Workflow,
    step,
)
from blazen._core import codec
from blazen._core.sealed import seal
from blazen.errors import BlazenError, ValidationError


class Go(Event):
    n: int = 0


class Paid(Event):
    order: int = 0


class Job(BlazenState):
    name: str = ""
    words: Any = None


def handle(ev: Go, error: Exception) -> None:
    return None


@step
async def begin(ctx: Context, ev: StartEvent) -> list[Go | InputRequestEvent]:
    ctx.set("job", Job("n", ["a", {1: (2.5, None)}]))
    ctx.set("number", 2**80)
    ctx.set_value("value", StateValue.json({"a": [1]}))
    ctx.session["live"] = [1]
    ctx.emit_usage(UsageEvent("p", "m", input_tokens=1, cost_usd=0.5))
    ctx.send_event(Go(100), key=("k", 1))
    return [InputRequestEvent(prompt="returned"), *(Go(n) for n in range(6))]


@step(max_concurrency=2, retries=Retry(1, initial=5.0, jitter=0.0), on_error=handle, timeout=50)
async def work(ctx: Context, ev: Go) -> None:
    ctx.collect_events(ev, 20, key=("a", 1))
    if ev.n % 2:
        raise ValueError(ev.n)
    if ev.n == 0:
        await ctx.request_input("asked", schema=int, timeout=60)
    await trio.sleep(0.25)


@step(waits=[Paid])
async def wait(ctx: Context, ev: StartEvent) -> None:
    await ctx.wait_for_event(Paid, timeout=9)
    await ctx.wait_for_event(Paid, order=3)


@step
async def answered(ev: InputResponseEvent) -> StopEvent:
    return StopEvent(result=ev.response)


workflow: Workflow[Any] = Workflow("fuzzed", [begin, work, wait, answered], timeout=100)


async def _snapshots() -> list[Snapshot]:
    found = []
    async with workflow.run_with_handler() as handler:
        for _ in range(6):
            await trio.sleep(0.3)
            found.append(await handler.snapshot())
            if len(found) == 2:
                handler.send_event(Paid(1))
        found.append(await handler.pause(abort=True))
    return found


SNAPSHOTS = trio.run(_snapshots, clock=MockClock(autojump_threshold=0))


async def _try(data: bytes) -> str:
    """What becomes of a snapshot: nothing but a ValidationError may come out before anything runs."""
    try:
        handler: Any = workflow.resume(Snapshot.from_bytes(data))
    except ValidationError:
        return "refused"
    with trio.move_on_after(500):
        try:
            async with handler:
                for question in handler.pending_inputs():
                    handler.respond_to_input(question.request_id, 1)
                await handler.snapshot()
                await handler.pause(abort=True)
                handler.resume_in_place()
                await handler.result()
        except BlazenError as error:
            # A run may fail in its steps or for lack of work; that the engine itself breaks is another thing.
            if "the engine could not go on" in str(error):
                return f"broken: {error}"
        return "resumed"
    return "hung"


def outcome(sections: dict[str, bytes]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trio.run(_try, seal(sections), clock=MockClock(autojump_threshold=0))


def test_a_clock_that_no_run_can_have_is_refused() -> None:
    classes = workflow._class_table()
    for used, expected in ((1.0, "resumed"), (1e11, "refused"), (1e306, "refused"), (-1.0, "refused")):
        sections = SNAPSHOTS[0].sections
        sections["session"] = codec.encode(((), None, ()))
        remembered = codec.decode(sections["run"], classes=classes)
        assert remembered["used"] is not None
        remembered["used"] = used
        assert outcome({**sections, "run": codec.encode(remembered, classes=classes)}) == expected


def test_the_snapshots_hold_something_of_every_kind() -> None:
    remembered = [codec.decode(one.sections["run"], classes=workflow._class_table()) for one in SNAPSHOTS]
    for part in ("attempts", "joins", "questions", "sent_keys", "usage", "used"):
        assert any(one[part] for one in remembered), part
    attempts = [attempt for one in remembered for attempt in one["attempts"]]
    for place in range(3, 9):  # attempt, handling, error, left, joined, calls
        if place != 4 and place != 5:
            assert any(attempt[place] for attempt in attempts), place
    assert {outcome({**one.sections, "session": codec.encode(((), None, ()))}) for one in SNAPSHOTS} == {"resumed"}


@given(st.randoms(use_true_random=False))
def test_flipped_cut_and_repeated_bytes(dice: random.Random) -> None:
    sections = dice.choice(SNAPSHOTS).sections
    sections["session"] = codec.encode(((), None, ()))
    name = dice.choice(["run", "run", "state", "session", "meta"])
    content = bytearray(sections[name])
    for _ in range(dice.randint(1, 3)):
        place = dice.randrange(len(content)) if content else 0
        way = dice.choice(("flip", "set", "cut", "repeat", "end"))
        if way == "flip" and content:
            content[place] ^= 1 << dice.randrange(8)
        elif way == "set" and content:
            content[place] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        elif way == "cut":
            del content[place : place + dice.randint(1, 4)]
        elif way == "repeat":
            content[place:place] = content[place : place + dice.randint(1, 8)]
        else:
            del content[place:]
    assert outcome({**sections, name: bytes(content)}) in ("refused", "resumed")


WRONG: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**62,
    2**64,
    2**200,
    0.0,
    -1.0,
    float("nan"),
    float("inf"),
    "",
    "work",
    "x",
    b"",
    (),
    [],
    {},
    (1, 2, 3),
    ["a"],
    {1: 2},
    Go(7),
    StopEvent(),
    InputRequestEvent("i"),
    StartEvent({}),
    ("work", None, {1: Go(1)}),
    [("work", None, {1: Go(1)})],
    [("work", [], {})],
    {"a": "b"},
    (("x", False, 1, False, 2.0),),
    ("builtins.SystemExit", "m", (), None),
    ("builtins.ExceptionGroup", "m", (), None),
    ("blazen.errors.ProviderError", "m", (), {"kind": "k", "bad": 1}),
    ("blazen.errors.BlazenError", "m", (), {}),
    StateValue.json(1),
    frozenset([1]),
]


def _exchanged(value: Any, dice: random.Random, depth: int = 0) -> Any:
    """`value` with one part of it exchanged for something else."""
    if depth and (dice.random() < 0.3 or not isinstance(value, dict | list | tuple) or not value):
        return dice.choice(WRONG)
    if not isinstance(value, dict | list | tuple) or not value:
        return dice.choice(WRONG)
    if isinstance(value, dict):
        key = dice.choice(list(value))
        way = dice.random()
        if way < 0.1:
            return {other: part for other, part in value.items() if other != key}
        if way < 0.2:
            return {**value, "unknown": 1}
        return {**value, key: _exchanged(value[key], dice, depth + 1)}
    parts = list(value)
    place = dice.randrange(len(parts))
    if dice.random() < 0.1:
        del parts[place]
    elif dice.random() < 0.1:
        parts.append(parts[place])
    else:
        parts[place] = _exchanged(parts[place], dice, depth + 1)
    return type(value)(parts)


@given(st.randoms(use_true_random=False))
def test_parts_exchanged_for_others(dice: random.Random) -> None:
    classes = workflow._class_table()
    sections = dice.choice(SNAPSHOTS).sections
    sections["session"] = codec.encode(((), None, ()))
    name = dice.choice(["run", "run", "run", "state", "session", "meta"])
    if name == "meta":
        changed = json.dumps(
            _exchanged(json.loads(sections["meta"]), random.Random(dice.random())), default=lambda _: "other"
        ).encode()
    else:
        changed = codec.encode(_exchanged(codec.decode(sections[name], classes=classes), dice), classes=classes)
    assert outcome({**sections, name: changed}) in ("refused", "resumed")


@pytest.mark.parametrize("name", ["run", "state", "session"])
def test_each_wrong_value_instead_of_a_section(name: str) -> None:
    classes = workflow._class_table()
    for wrong in WRONG:
        if name == "session" and isinstance(wrong, Event | list | dict | tuple):
            continue
        assert outcome({**SNAPSHOTS[-1].sections, name: codec.encode(wrong, classes=classes)}) == "refused"
