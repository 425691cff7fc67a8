"""What the command is made of: values as JSON, input, the view of a run."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import os
import uuid
from collections import Counter, OrderedDict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blazen import DynamicEvent, Event, ProgressEvent, StepRecord

pytest.importorskip("click", reason="the command line needs the extra blazen[cli]")

from blazen.cli.inputs import parse_json
from blazen.cli.messages import Mistake
from blazen.cli.output import jsonable, shown_value
from blazen.cli.run_view import RunView, counted
from blazen.cli.targets import parse_target


class Point(Event):
    x: int
    extra: Any = None


@dataclasses.dataclass
class Size:
    width: int
    tags: tuple[str, ...] = ()


class Colour(enum.Enum):
    RED = "red"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def record(kind: str, step: str = "a", seq: int = 1, attempt: int = 1, at: float = 0.0) -> StepRecord:
    return StepRecord(kind, step, "A", seq, attempt, at)


# --- values


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_what_json_can_hold_stays_as_it_is(value: Any) -> None:
    assert jsonable(value) == value
    assert value is None or isinstance(value, str) or json.loads(shown_value(value)) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, {2}), [1, [2]]),
        (b"ab", "YWI="),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.50"), "1.50"),
        (Size(1, ("a",)), {"width": 1, "tags": ["a"]}),
        (Colour.RED, "red"),
        (Point(1), {"event_type": "Point", "data": {"x": 1, "extra": None}}),
        (DynamicEvent("T", {"a": (1,)}), {"event_type": "T", "data": {"a": [1]}}),
    ],
)
def test_what_has_a_plain_form_in_json_gets_it(value: Any, expected: Any) -> None:
    assert jsonable(value) == expected


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (float("nan"), "builtins.float", "nan"),
        (2**9000, "builtins.int", repr(2**9000)),
        ({1: "a"}, "builtins.dict", "{1: 'a'}"),
        (object, "builtins.type", "<class 'object'>"),
        (Path("a"), f"{type(Path()).__module__}.PosixPath", "PosixPath('a')"),
        (Broken(), f"{__name__}.Broken", "<its repr raised RuntimeError>"),
    ],
)
def test_what_has_none_is_told_by_type_and_repr(value: Any, kind: str, text: str) -> None:
    assert jsonable([value]) == [{"$type": kind, "$repr": text}]
    assert shown_value(value) == text


def test_a_value_that_contains_itself_ends_where_it_begins_again() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert jsonable(value) == [1, {"$type": "builtins.list", "$repr": "[1, [...]]"}]
    assert shown_value(value) == "[1, [...]]"


@given(
    st.recursive(
        st.none() | st.floats() | st.binary() | st.builds(Broken),
        lambda i: st.tuples(i) | st.sets(st.text()) | st.dictionaries(st.integers() | st.text(), i),
    )
)
def test_any_value_becomes_strict_json(value: Any) -> None:
    json.dumps(jsonable(value), allow_nan=False)
    shown_value(value)


def test_a_result_is_shown_as_text_json_or_repr() -> None:
    assert shown_value("a\nb") == "a\nb"
    assert shown_value({"é": [1]}) == '{\n  "é": [\n    1\n  ]\n}'
    assert shown_value((1, 2)) == "(1, 2)"
    assert shown_value(OrderedDict(a=1)) == repr(OrderedDict(a=1))
    assert shown_value(None) == "null"


# --- input


@given(JSON)
def test_json_is_read_as_it_was_written(value: Any) -> None:
    assert parse_json(json.dumps(value), "x") == value


@given(st.text(st.sampled_from('{}[]",:0123e.+-ntrufalse\\u \n\ud800')) | st.text())
def test_any_text_is_json_or_a_mistake_in_one_line(text: str) -> None:
    said = ""
    try:
        value = parse_json(text, "it")
    except Mistake as mistake:
        said = str(mistake)
    if not said:
        assert json.loads(text) == value
    else:
        assert said.startswith("--input: it is ")
        assert len(said.splitlines()) == 1


def test_the_place_of_a_mistake_is_shown_out_of_a_long_line() -> None:
    text = "[" + "1, " * 1000 + "x]"
    with pytest.raises(Mistake) as caught:
        parse_json(text, "it")
    assert "at line 1, column 3002, in: ..." in str(caught.value)
    assert len(str(caught.value)) < 150
    assert str(caught.value).endswith("1, x]")


# --- targets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m:w", ("m", "w", False)),
        ("a.b:c.d", ("a.b", "c.d", False)),
        ("m", ("m", None, False)),
        ("f.py", ("f.py", None, True)),
        ("f.py:w", ("f.py", "w", True)),
        (f"a:b{os.sep}f.py:w", (f"a:b{os.sep}f.py", "w", True)),
    ],
)
def test_a_target_is_a_module_or_file_and_a_name(text: str, expected: tuple[str, str | None, bool]) -> None:
    assert parse_target(text)[1:] == expected


@pytest.mark.parametrize("text", ["", ":", "m:", ":w", " :w", "m: "])
def test_a_target_without_a_part_is_a_mistake(text: str) -> None:
    with pytest.raises(Mistake, match="names no workflow; write module:workflow"):
        parse_target(text)


# --- the view of a run


def test_a_step_is_what_its_invocations_are() -> None:
    view = RunView(["a", "b"])
    step = view.steps["a"]
    assert (step.state, step.since) == ("waiting", None)
    view.see(record("started", at=5.0))
    view.see(record("started", seq=2, at=7.0))
    assert (step.state, step.since, view.running) == ("running", 5.0, Counter(a=2))
    view.see(record("retrying"))
    view.see(record("finished", seq=2))
    assert (step.state, step.since) == ("retrying", None)
    view.see(record("started", attempt=2, at=9.0))
    assert (step.state, step.attempt, step.since) == ("running", 2, 9.0)
    view.see(record("timed_out", attempt=2))
    assert (step.state, step.finished, step.retried, step.failed) == ("failed", 1, 1, 1)
    assert view.steps["b"].state == "waiting"


def test_what_was_stopped_is_counted_by_name() -> None:
    view = RunView(["b", "a", "c"])
    for seq in (1, 2):
        view.see(record("started", "b", seq))
        view.see(record("cancelled", "b", seq))
    view.see(record("started", "a", 3))
    assert counted(view.stopped) == "b (2)"
    view.end()
    assert (counted(view.stopped), view.steps["a"].state, view.running) == ("a, b (2)", "cancelled", Counter())


def test_progress_keeps_the_newest_of_the_newest_labels() -> None:
    view = RunView([])
    for number in range(10):
        view.see(ProgressEvent(number, label=str(number)))
    view.see(ProgressEvent(99, label="4"))
    assert list(view.progress) == ["2", "3", "5", "6", "7", "8", "9", "4"]
    assert view.progress["4"].current == 99
    view.see(ProgressEvent(Broken(), label=[]))  # type: ignore[arg-type]
    assert "[]" in view.progress
