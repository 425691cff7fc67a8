"""`Snapshot.to_json()`: valid JSON of everything in it, whatever that is, in a process that has none of its classes."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import sys
import uuid
import zoneinfo
from pathlib import Path
from typing import Any

import numpy
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from blazen import (
    Context,
    Event,
    InputResponseEvent,
    Snapshot,
    StartEvent,
    StateValue,
    StopEvent,
    UsageEvent,
    Workflow,
    step,
)
from blazen._core.codec import encode
from blazen.errors import ValidationError
from blazen.state import BlazenState
from tests.test_codec import CLASSES, STORABLE, VALUES, Point, Scored, nested

META = json.dumps({"workflow": "w", "version": "1", "run_id": str(uuid.UUID(int=7)), "created": 1.5, "state": "paused"})
NO_SESSION = encode(((), None, ()))
RUN: dict[str, Any] = {
    "numbered": 0,
    "attempts": [],
    "joins": [],
    "questions": [],
    "kept": [],
    "sent_keys": [],
    "usage": None,
    "used": None,
}


def snapshot(*, run: Any = None, state: Any = None, session: bytes = NO_SESSION) -> Snapshot:
    """A snapshot with these contents of its sections, once to bytes and back."""
    made = Snapshot(
        {
            "meta": META.encode(),
            "run": encode(RUN if run is None else run, classes=CLASSES),
            "state": encode(([], {}) if state is None else state, classes=CLASSES),
            "session": session,
        }
    )
    return Snapshot.from_bytes(made.to_bytes())


def shown(value: Any) -> Any:
    """What JSON says of a value in the state."""
    return json.loads(snapshot(state=([], {"key": value})).to_json())["state"]["values"]["key"]


# --- values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("texté", "texté"),
        ([1, None, True, 0.5, "x"], [1, None, True, 0.5, "x"]),
        ({"a": {"b": []}}, {"a": {"b": []}}),
        (2**200, 2**200),
        (-(2**5000), {"$int": hex(-(2**5000))}),
        (float("nan"), {"$float": "nan"}),
        (float("-inf"), {"$float": "-inf"}),
        (1 + 2j, {"$complex": "(1+2j)"}),
        ((1, ()), {"$tuple": [1, {"$tuple": []}]}),
        ({3}, {"$set": [3]}),
        (frozenset({3}), {"$frozenset": [3]}),
        (b"\x00\xff", {"$bytes": "AP8="}),
        (bytearray(b"\x00"), {"$bytearray": "AA=="}),
        ({1: "a", "b": 2}, {"$dict": [[1, "a"], ["b", 2]]}),
        ({"$bytes": "no"}, {"$dict": [["$bytes", "no"]]}),
        (dt.date(2024, 2, 29), {"$date": "2024-02-29"}),
        (dt.time(1, 2, 3, fold=1), {"$time": "01:02:03", "fold": 1}),
        (dt.datetime(2024, 1, 1, tzinfo=dt.UTC), {"$datetime": "2024-01-01T00:00:00", "zone": "UTC"}),
        (
            dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=2), "here")),
            {"$datetime": "2024-01-01T00:00:00", "zone": "here", "offset": "UTC+02:00"},
        ),
        (dt.timedelta(days=1, seconds=2), {"$timedelta": "1 day, 0:00:02"}),
        (dt.timezone(dt.timedelta(hours=2), "here"), {"$timezone": "here", "offset": "UTC+02:00"}),
        (dt.UTC, {"$timezone": "UTC"}),
        (uuid.UUID(int=1), {"$uuid": str(uuid.UUID(int=1))}),
        (decimal.Decimal("1.50"), {"$decimal": "1.50"}),
        (
            numpy.array([[1, 2], [3, 4]], "uint8"),
            {"$ndarray": {"dtype": "uint8", "shape": [2, 2], "values": [1, 2, 3, 4]}},
        ),
        (
            numpy.array(["2024-01-01", "NaT"], "M8[ns]"),
            {"$ndarray": {"dtype": "datetime64[ns]", "shape": [2], "values": ["2024-01-01T00:00:00.000000000", "NaT"]}},
        ),
        (numpy.float32(0.5), {"$numpy": {"dtype": "float32", "value": 0.5}}),
        (Point(1, [2]), {"$class": "tests.test_codec.Point", "x": 1, "y": [2]}),
        (Scored(5, note="well"), {"$class": "Scored", "score": 5, "note": "well"}),
        (StateValue.json([1]), {"$StateValue.json": [1]}),
        (StateValue.bytes(b"\x00"), {"$StateValue.bytes": "AA=="}),
        (StateValue.native_bytes(b"\x00"), {"$StateValue.native_bytes": "AA=="}),
    ],
    ids=repr,
)
def test_a_value_is_shown_in_a_readable_form(value: Any, expected: Any) -> None:
    assert shown(value) == expected


def test_a_time_zone_with_rules_is_shown_by_its_name() -> None:
    try:
        zone = zoneinfo.ZoneInfo("Europe/Berlin")
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("no time zone files on this machine")
    assert shown([zone, dt.time(1, tzinfo=zone)]) == [
        {"$zoneinfo": "Europe/Berlin"},
        {"$time": "01:00:00", "zone": "Europe/Berlin"},
    ]


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "touched",)

    made = snapshot(state=([], {"key": StateValue.native(Touch())}))
    trusting = Snapshot(made.sections, trust_native=True)
    assert list(json.loads(trusting.to_json())["state"]["values"]["key"]) == ["$native"]
    assert not (tmp_path / "touched").exists()


def test_a_large_array_is_cut_and_says_by_how_much() -> None:
    found = shown(numpy.arange(1000))["$ndarray"]
    assert found["values"] == list(range(100))
    assert found["more"] == 900
    assert "more" not in shown(numpy.arange(100))["$ndarray"]


def test_a_text_in_an_array_that_has_no_such_characters_is_shown_raw() -> None:
    broken = numpy.frombuffer(b"\xff\xff\xff\xff" + "a".encode("utf-32-le"), "<U1").copy()
    assert shown(broken)["$ndarray"]["values"] == [{"$raw": "ffffffff"}, "a"]


def test_an_instance_whose_field_names_would_be_mistaken_keeps_all_fields() -> None:
    written = encode(([], {"key": Point(1, 2)}), classes=[Point])
    twice = written.replace(b"\x01x\x01y", b"\x01x\x01x")
    assert twice != written
    made = Snapshot({**snapshot().sections, "state": twice})
    assert json.loads(made.to_json())["state"]["values"]["key"] == {
        "$class": "tests.test_codec.Point",
        "$fields": [["x", 1], ["x", 2]],
    }


# --- what is shared, deep or large


def test_what_is_large_and_shared_is_shown_once() -> None:
    shared = [f"line number {n}" for n in range(100)]
    assert shown({"first": shared, "second": shared, "small": [["x"]] * 2}) == {
        "first": shared,
        "second": {"$same": "$.state.values.key.first"},
        "small": [["x"], ["x"]],
    }
    text = "long " * 100
    assert shown([text, text]) == [text, {"$same": "$.state.values.key[0]"}]


def test_shared_parts_do_not_multiply() -> None:
    value: Any = ["something"]
    for _ in range(200):
        value = [value, value]
    made = snapshot(state=([], {"key": value}))
    assert len(made.to_json()) < 200_000


def test_a_long_key_that_many_dicts_share_does_not_multiply() -> None:
    key = "k" * 10_000
    made = snapshot(state=([], {"key": [{key: 1} for _ in range(1000)]}))
    assert len(made.to_json()) < 1_000_000


def test_the_deepest_value_is_shown_without_recursion() -> None:
    made = snapshot(state=([], {"key": nested(496, {1: (2,)})}))
    limit = sys.getrecursionlimit()
    frame, depth = sys._getframe(), 0
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    sys.setrecursionlimit(depth + 60)
    try:
        text = made.to_json()
    finally:
        sys.setrecursionlimit(limit)
    assert text.count("[") >= 496


def test_short_things_are_on_one_line_and_long_ones_are_indented() -> None:
    text = snapshot(
        state=([], {"short": {"a": [1, 2]}, "long": ["x" * 60, "y" * 60], "many": list(range(60))})
    ).to_json()
    lines = text.splitlines()
    assert '      "short": {"a": [1, 2]},' in lines
    assert f'        "{"x" * 60}",' in lines
    assert (
        "        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26,"
        in lines
    )
    assert text.endswith("}\n")


# --- anything at all


@given(STORABLE)
def test_every_storable_value_gives_valid_json(value: Any) -> None:
    made = snapshot(state=([], {"key": value, "again": [value]}))
    found = json.loads(made.to_json(), parse_constant=pytest.fail)
    assert list(found) == ["meta", "run", "state", "session"]
    assert list(found["state"]["values"]) == ["key", "again"]


@pytest.mark.parametrize("name", VALUES)
def test_each_kind_of_value_gives_valid_json(name: str) -> None:
    json.loads(snapshot(state=([], {"key": VALUES[name]})).to_json(), parse_constant=pytest.fail)


# --- snapshots of runs


class Order(Event):
    item: str
    amount: int


class Owner(BlazenState):
    name: str


SCRIPT = "import sys, blazen; print(blazen.Snapshot.from_bytes(sys.stdin.buffer.read()).to_json())"


async def paused_snapshot() -> Snapshot:
    @step
    async def begin(ctx: Context, ev: StartEvent) -> list[Order]:
        ctx.emit_usage(UsageEvent("acme", "small-1", input_tokens=3))
        ctx.set("owner", Owner("Ada"))
        ctx.set("team", [Owner("Bob")])
        ctx.session["client"] = "a client"
        ctx.send_event(Order("late", 9), key=("order", 1))
        return [Order("bolt", 1), Order("nut", 2)]

    @step
    async def check(ctx: Context, ev: Order) -> StopEvent | None:
        if ctx.collect_events(ev, 3) is None and ev.item == "bolt":
            await ctx.request_input("really?", metadata={"why": "many"})
        return None

    @step
    async def answered(ev: InputResponseEvent) -> StopEvent:
        return StopEvent()

    async with Workflow("orders", [begin, check, answered], timeout=60).run_with_handler() as handler:
        await trio.testing.wait_all_tasks_blocked()
        return await handler.pause()


async def test_another_process_shows_a_run_without_any_of_its_classes(autojump_clock: Any) -> None:
    made = await paused_snapshot()
    result = await trio.run_process(
        [sys.executable, "-c", SCRIPT], stdin=made.to_bytes(), capture_stdout=True, cwd=Path(__file__).parent.parent
    )
    found = json.loads(result.stdout)
    assert result.stdout.decode().strip() == made.to_json().strip()
    assert found["meta"] == {
        "workflow": "orders",
        "version": "1",
        "run_id": made.run_id,
        "created": made.created,
        "state": "paused",
    }
    (attempt,) = found["run"]["attempts"]
    assert (attempt["step"], attempt["attempt"]) == ("check", 1)
    assert attempt["event"] == {"$class": "Order", "item": "bolt", "amount": 1}
    (call,) = attempt["calls"]
    assert call["answered"] is False
    (question,) = found["run"]["questions"]
    assert question["prompt"] == "really?"
    assert question["request_id"] == call["request_id"]
    assert found["run"]["usage"] == {"input_tokens": 3, "output_tokens": 0, "cost_usd": 0.0}
    assert found["run"]["sent_keys"] == [{"$tuple": ["order", 1]}]
    assert found["state"]["typed"] == [
        {"key": "owner", "class": "tests.test_snapshot_json.Owner", "fields": ["name"], "elsewhere": []}
    ]
    assert found["state"]["values"] == {
        "owner.name": "Ada",
        "team": [{"$class": "tests.test_snapshot_json.Owner", "name": "Bob"}],
    }
    assert found["session"]["keys"] == ["client"]
    assert list(found["session"]["pickle"]) == ["$native"]


# --- damage


@pytest.mark.parametrize("section", ["run", "state", "session"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        b"\x02\x00\x00",
        encode(None),
        encode([1]),
        encode({"attempts": 5}),
        encode({**RUN, "attempts": [1]}),
        encode({**RUN, "attempts": [("step",)]}),
        encode({**RUN, "attempts": [tuple(range(9))]}),
        encode({**RUN, "usage": [1]}),
        encode(([5], {})),
        encode(([("key", "class", 5, 5)], {})),
        encode(([], [])),
        encode(((), 5, ())),
        encode((5, None, ())),
    ],
)
def test_damaged_contents_are_an_error_that_names_the_section(section: str, content: bytes) -> None:
    made = Snapshot({**snapshot().sections, section: content})
    with pytest.raises(ValidationError, match=f"cannot show the snapshot: its section '{section}' is damaged: "):
        made.to_json()


@given(
    st.sampled_from([encode(([], {"key": value}), classes=CLASSES) for value in VALUES.values()]).filter(
        lambda data: len(data) < 5000
    ),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_altered_contents_give_valid_json_or_an_error(data: bytes, changes: list[tuple[float, int]]) -> None:
    altered = bytearray(data)
    for place, byte in changes:
        altered[int(place * len(altered))] = byte
    made = Snapshot({**snapshot().sections, "state": bytes(altered)})
    try:
        text = made.to_json()
    except ValidationError:
        return
    json.loads(text, parse_constant=pytest.fail)
