"""How a record writes the payloads of events: bounded, at once, and whatever they hold."""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import Loaded, record_of

from blazen import Event, StartEvent, StopEvent, step
from blazen.engine.payloads import LIMIT, payload, payload_of_plain, short_text


class Reading(Event):
    value: Any
    on: bool = True
    note: str | None = None


class Shout(str):
    __slots__ = ()


class Interrupts:
    def __repr__(self) -> str:
        raise KeyboardInterrupt


class Untellable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


class Exits:
    def __repr__(self) -> str:
        raise SystemExit(3)


class SaysNumber:
    def __repr__(self) -> str:
        return 5  # type: ignore[return-value]


@pytest.mark.parametrize("value", [None, True, 0, -1.5, "text", [1, "a", None], {"a": {"b": [1]}}, 2**53 - 1])
def test_what_json_can_say_is_kept_as_it_is(value: Any) -> None:
    assert payload(Loaded(value)) == {"value": value}


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (b"ab", "builtins.bytes", "b'ab'"),
        (2**53, "builtins.int", "9007199254740992"),
        (math.inf, "builtins.float", "inf"),
        (1 + 2j, "builtins.complex", "(1+2j)"),
        (Untellable(), f"{__name__}.Untellable", "<cannot be shown: RuntimeError>"),
        (Exits(), f"{__name__}.Exits", "<cannot be shown: SystemExit>"),
        (SaysNumber(), f"{__name__}.SaysNumber", "<cannot be shown: TypeError>"),
    ],
)
def test_what_json_cannot_say_is_described_with_its_type(value: Any, kind: str, text: str) -> None:
    found = payload(Loaded(value))["value"]
    assert (found["$blazen"], found["type"], found["repr"]) == ("repr", kind, text)


@pytest.mark.parametrize(
    "value", [None, True, 7, -(2**53) + 1, 1.5, "plain", 2**53, math.nan, "é", "x" * 2000, [1], b"\x00"]
)
def test_an_event_of_plain_fields_gives_the_same_payload_by_the_short_way(value: Any) -> None:
    assert payload_of_plain(Reading(value)) == payload(Reading(value))


def test_dates_and_subclasses_of_str_are_said_as_text() -> None:
    assert payload([dt.date(2026, 2, 3), Shout("hey")]) == ["2026-02-03", "hey"]


def test_ctrl_c_while_a_value_is_looked_at_is_not_taken_for_the_values_own_error() -> None:
    with pytest.raises(KeyboardInterrupt):
        payload(Interrupts())


def test_a_long_text_keeps_its_begin_and_its_end() -> None:
    assert short_text("a" * 50 + "b" * 50, 20) == "aaaaaaaaaa\n... 80 characters left out ...\nbbbbbbbbbb"
    assert short_text("\udc80", 20) == "\\udc80"


def test_an_int_too_long_to_be_written_is_described() -> None:
    assert payload(10**5000)["repr"] == "16610 bits"


def test_a_long_text_is_cut_and_its_size_is_said() -> None:
    found = payload(Loaded("x" * 50_000))["value"]
    assert (found["$blazen"], found["size"]) == ("cut", 50_000)
    assert 0.9 * LIMIT <= len(found["text"]) <= LIMIT


@pytest.mark.parametrize("value", [list(range(100_000)), {str(n): n for n in range(100_000)}, [["y" * 50] * 9] * 9_000])
def test_a_large_collection_is_cut_and_its_size_is_said(value: Any) -> None:
    found = payload(Loaded(value))["value"]
    assert found["size"] == len(value)
    assert 0 < len(found["items"]) < len(value)
    assert len(json.dumps(found)) < 3 * LIMIT


def test_a_dict_with_other_keys_or_with_the_key_of_the_tags_keeps_its_items() -> None:
    assert payload({(1, 2): "a", 3: "b"}) == {"$blazen": "dict", "items": [[[1, 2], "a"], [3, "b"]], "size": 2}
    assert payload({"$blazen": "repr"}) == {"$blazen": "dict", "items": [["$blazen", "repr"]], "size": 1}


def test_data_that_contains_itself_or_is_very_deep_ends() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert payload(loop)[0]["repr"] == "<contains itself>"
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    json.dumps(payload(deep))


def test_an_array_is_described_without_being_written() -> None:
    numpy = pytest.importorskip("numpy")
    found = payload(Loaded(numpy.zeros((1000, 384))))["value"]
    assert found == {
        "$blazen": "repr",
        "type": "numpy.ndarray",
        "repr": "array of float64, shape (1000, 384)",
        "size": 3_072_000,
    }


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
    max_leaves=30,
)


@given(_anything)
def test_every_payload_can_be_written_and_read_again(value: Any) -> None:
    found = payload(Loaded(value))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert len(json.dumps(found)) < 20 * LIMIT
    found_text = json.dumps(found, ensure_ascii=False)
    found_text.encode()


async def test_a_later_change_does_not_change_the_record() -> None:
    shared = {"count": 1}

    @step
    async def hand_on(ev: StartEvent) -> Loaded:
        return Loaded(shared)

    @step
    async def change(ev: Loaded) -> StopEvent:
        ev.value["count"] = 2
        return StopEvent(ev.value)

    record = await record_of(hand_on, change)
    assert record.events[1].payload == {"value": {"count": 1}}
    assert record.result == {"count": 2}


async def test_a_value_that_cannot_be_shown_does_not_harm_the_run() -> None:
    @step
    async def hand_on(ev: StartEvent) -> Loaded:
        return Loaded([Untellable(), Exits()])

    @step
    async def end(ev: Loaded) -> StopEvent:
        return StopEvent(len(ev.value))

    assert (await record_of(hand_on, end)).result == 2


async def test_an_error_that_cannot_say_its_message_is_recorded() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("silence")

    @step(on_error=lambda ev, error: StopEvent("handled"))
    async def fail(ev: StartEvent) -> StopEvent:
        raise Mute

    record = await record_of(fail)
    error = record.invocations[0].attempts[0].error
    assert error is not None
    assert error.message == "<no message: RuntimeError>"
