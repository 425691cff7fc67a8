"""Events as JSON and back: nothing is altered, and what cannot be said in JSON or does not fit is refused by path."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blazen.errors import ValidationError
from blazen.events import DynamicEvent, Event, InputRequestEvent, StartEvent, StopEvent


class Item(Event):
    sku: str
    qty: int = 1


class Order(Event):
    items: list[Item]
    note: str | None = None
    counts: dict[str, int] = {}


class Anything(Event):
    value: Any = None


class Color(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Place:
    name: str
    at: Any


class Tagged(msgspec.Struct, tag="t"):
    number: int | msgspec.UnsetType = msgspec.UNSET


class Rich(Event):
    number: int
    ratio: float
    flag: bool
    text: str
    raw: bytes
    when: datetime.datetime
    day: datetime.date
    price: decimal.Decimal
    key: uuid.UUID
    color: Color
    point: Point
    place: Place
    tagged: Tagged
    pair: tuple[int, str]
    names: frozenset[str]
    by_number: dict[int, str]
    later: Rich | None = None


class Node(Event):
    child: Node | None = None


class Camel(Event, rename="camel"):
    user_name: str
    last_seen: int = 0


# What JSON itself can hold, numbers of any size included.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
big_integers = st.integers(min_value=2**64) | st.integers(max_value=-(2**64))

rich_events = st.builds(
    Rich,
    number=st.integers() | big_integers,
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    flag=st.booleans(),
    text=st.text(),
    raw=st.binary(),
    when=st.datetimes(timezones=st.just(datetime.UTC)),
    day=st.dates(),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    key=st.uuids(),
    color=st.just(Color.RED),
    point=st.builds(Point, st.integers(), st.integers()),
    place=st.builds(Place, name=st.text(), at=json_values),
    tagged=st.sampled_from([Tagged(), Tagged(5)]),
    pair=st.tuples(st.integers(), st.text()),
    names=st.frozensets(st.text()),
    by_number=st.dictionaries(st.integers(), st.text()),
)


@given(rich_events)
def test_a_typed_event_comes_back_equal_from_json(event: Rich) -> None:
    assert Rich.from_json(event.to_json()) == event


@given(rich_events)
def test_a_typed_event_comes_back_equal_from_its_dict(event: Rich) -> None:
    assert Rich.from_dict(event.to_dict()) == event


@given(json_values | big_integers)
def test_json_values_come_back_exactly(value: Any) -> None:
    for event in (StartEvent(value), StopEvent(value), Anything(value), DynamicEvent("X", {"v": value})):
        assert repr(type(event).from_json(event.to_json())) == repr(event)


@given(json_values)
def test_what_is_written_is_what_the_json_module_reads(value: Any) -> None:
    assert repr(json.loads(StopEvent(value).to_json())) == repr({"result": value})


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (StartEvent({"name": "Ada"}), b'{"data":{"name":"Ada"}}'),
        (StopEvent(), b'{"result":null}'),
        (Item("bolt"), b'{"sku":"bolt","qty":1}'),
        (DynamicEvent("Item", {"sku": "bolt"}), b'{"event_type":"Item","data":{"sku":"bolt"}}'),
        (Camel("Ada"), b'{"userName":"Ada","lastSeen":0}'),
    ],
)
def test_the_json_of_an_event_are_its_fields(event: Event, text: bytes) -> None:
    assert event.to_json() == text
    assert type(event).from_json(text) == event
    assert type(event).from_json(text.decode()) == event


def test_to_dict_gives_the_values_themselves() -> None:
    items = [Item("bolt")]
    order = Order(items)
    assert order.to_dict() == {"items": [Item("bolt")], "note": None, "counts": {}}
    assert order.to_dict()["items"] is items


def test_renamed_fields_are_renamed_in_dict_and_json() -> None:
    assert Camel("Ada").to_dict() == {"userName": "Ada", "lastSeen": 0}
    assert Camel.from_dict({"userName": "Ada"}) == Camel("Ada")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda v: Anything(v), "$.value"),
        (lambda v: StopEvent({"a": [1, v]}), "$.result.a[1]"),
        (lambda v: StopEvent({"two words": (v,)}), "$.result['two words'][0]"),
        (lambda v: StopEvent({v}), "$.result[0]"),
        (lambda v: StopEvent(Place("x", [v])), "$.result.at[0]"),
        (lambda v: StopEvent(Item("x", v)), "$.result.qty"),
        (lambda v: DynamicEvent("X", {"v": v}), "$.data.v"),
    ],
)
def test_numbers_json_does_not_have_are_refused(wrap: Callable[[float], Event], path: str, number: float) -> None:
    event = wrap(number)
    with pytest.raises(ValidationError, match=f"{type(event).__name__}: JSON has no {number!r}") as caught:
        event.to_json()
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("value", "path", "text"),
    [
        (object(), "$.value", "builtins.object"),
        ([{"a": object()}], "$.value[0].a", "builtins.object"),
        (1 + 2j, "$.value", "builtins.complex"),
        (range(3), "$.value", "builtins.range"),
        (type("Name", (str,), {})("x"), "$.value", "Name"),
        ({(1, 2): 3}, "$.value", "keys"),
        ({math.nan: 3}, "$.value", "nan"),
        ({"a": {1: "x", "1": "y"}}, "$.value.a", "two keys"),
        ("\ud800", "$.value", "no valid Unicode"),
        ({"\ud800": 1}, "$.value", "no valid Unicode"),
        ([10**5000], "$.value[0]", "too long"),
    ],
)
def test_a_value_json_cannot_hold_is_refused_naming_its_path(value: Any, path: str, text: str) -> None:
    with pytest.raises(ValidationError, match=f"Anything: .*{text}") as caught:
        Anything(value).to_json()
    assert caught.value.path == path


def test_data_that_contains_itself_is_refused() -> None:
    loop: dict[str, Any] = {"list": [1]}
    loop["list"].append(loop)
    for event, path in ((StopEvent(loop), "$.result.list[1]"), (Anything([loop]), "$.value[0].list[1]")):
        with pytest.raises(ValidationError, match="contains itself") as caught:
            event.to_json()
        assert caught.value.path == path


def test_an_object_met_twice_does_not_contain_itself() -> None:
    shared = [1]
    assert StopEvent([shared, shared, {"a": shared}]).to_json() == b'{"result":[[1],[1],{"a":[1]}]}'


def test_an_object_that_contains_itself_through_its_fields_is_refused() -> None:
    place = Place("x", None)
    place.at = place
    with pytest.raises(ValidationError, match="StopEvent"):
        StopEvent(place).to_json()


def test_data_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValidationError, match="nested too deeply"):
        StopEvent(deep).to_json()
    with pytest.raises(ValidationError, match="nested too deeply"):
        StopEvent.from_json(b'{"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_a_mapping_that_contains_itself_does_not_fill_an_event_that_contains_itself() -> None:
    loop: dict[str, Any] = {}
    loop["child"] = loop
    with pytest.raises(ValidationError, match="nested too deeply or contains itself"):
        Node.from_dict(loop)


@pytest.mark.parametrize(
    ("data", "path", "text"),
    [
        ({"items": [{"sku": "a"}, {"qty": 1}]}, "$.items[1].sku", "the required field 'sku' is missing"),
        ({}, "$.items", "the required field 'items' is missing"),
        ({"items": [{"sku": "a", "qty": "many"}]}, "$.items[0].qty", "expected `int`, got `str`"),
        ({"items": [{"sku": "a", "qty": True}]}, "$.items[0].qty", "expected `int`, got `bool`"),
        ({"items": [], "note": 5}, "$.note", "expected `str | null`, got `int`"),
        ({"items": [], "counts": {"a": "b"}}, "$.counts[...]", "expected `int`, got `str`"),
        ({"itens": []}, "$.itens", "unknown field 'itens', at $.itens; did you mean 'items'?"),
        ({"items": [], "zzz": 1}, "$.zzz", "its fields are: items, note, counts"),
        ({"items": [], "a b": 1}, "$['a b']", "unknown field 'a b'"),
        ({"items": [{"sku": "a", "color": 1}]}, "$.items[0].color", "unknown field 'color'"),
        ({"items": 5}, "$.items", "expected `array`, got `int`"),
    ],
)
def test_outside_data_that_does_not_fit_is_refused_naming_class_and_path(data: Any, path: str, text: str) -> None:
    sources: list[Callable[[], Order]] = [
        lambda: Order.from_dict(data),
        lambda: Order.from_json(json.dumps(data).encode()),
        lambda: Order.from_json(json.dumps(data)),
    ]
    for source in sources:
        with pytest.raises(ValidationError) as caught:
            source()
        assert caught.value.path == path
        assert str(caught.value).startswith("Order: ")
        assert text in str(caught.value)
        assert path in str(caught.value)


def test_a_key_of_the_wrong_type_is_named_as_a_key() -> None:
    with pytest.raises(ValidationError, match=r"Order: expected `str`, got `int` \(a key\), at \$\.counts") as caught:
        Order.from_dict({"items": [], "counts": {1: 1}})
    assert caught.value.path == "$.counts"


def test_a_check_of_the_class_itself_is_told_with_its_path() -> None:
    class Span(Event):
        first: int
        last: int

        def __post_init__(self) -> None:
            if self.last < self.first:
                raise ValueError("last comes before first")

    class Trip(Event):
        spans: list[Span]

    with pytest.raises(ValidationError, match=r"Trip: last comes before first, at \$\.spans\[0\]") as caught:
        Trip.from_dict({"spans": [{"first": 2, "last": 1}]})
    assert caught.value.path == "$.spans[0]"


@pytest.mark.parametrize(
    "text", [b"", b"{", b"{'a': 1}", b'{"value": NaN}', b'{"value": 1} x', b'{"value": "\xff"}', "\ud800"]
)
def test_what_is_no_json_is_refused(text: bytes | str) -> None:
    with pytest.raises(ValidationError, match="Anything: this is no JSON") as caught:
        Anything.from_json(text)
    assert caught.value.path == "$"


@pytest.mark.parametrize("text", [b'{"value": 1e999}', b'{"value": ' + b"9" * 5000 + b"}"])
def test_numbers_that_cannot_be_held_are_refused(text: bytes) -> None:
    with pytest.raises(ValidationError, match=r"Anything: .*out of range, at \$\.value"):
        Anything.from_json(text)


@pytest.mark.parametrize("text", [b"[1]", b"null", b'"text"', b"5"])
def test_json_that_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(ValidationError, match="Anything: expected `object`, got") as caught:
        Anything.from_json(text)
    assert caught.value.path == "$"


@pytest.mark.parametrize("wrong", [5, None, {"a": 1}, ["{}"]])
def test_json_is_taken_as_bytes_or_text_only(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="Anything: JSON comes as bytes or str, not"):
        Anything.from_json(wrong)


@pytest.mark.parametrize("wrong", [5, None, "text", [("value", 1)], Anything(1)])
def test_from_dict_takes_mappings_only(wrong: Any) -> None:
    with pytest.raises(ValidationError, match=r"Anything: expected a mapping with its fields \(value\), got"):
        Anything.from_dict(wrong)


def test_hints_of_an_enclosing_function_are_understood() -> None:
    class Inner(Event):
        number: int

    class Outer(Event):
        inner: Inner
        more: list[Inner] = []

    assert Outer.from_json(b'{"inner":{"number":1},"more":[{"number":2}]}') == Outer(Inner(1), [Inner(2)])


def test_a_field_may_have_the_name_of_its_type() -> None:
    class Birthday(Event):
        date: Date
        Color: Color | None = None

    assert Birthday.from_json(b'{"date":"2020-01-02","Color":"red"}') == Birthday(Date(2020, 1, 2), Color.RED)


Date = datetime.date


def test_hints_that_cannot_be_understood_are_refused_when_data_has_to_be_checked() -> None:
    class Lost(Event):
        thing: Missing  # type: ignore[name-defined]  # noqa: F821

    assert Lost(1).thing == 1
    with pytest.raises(ValidationError, match=r"Lost: data from outside cannot be checked .*'Missing' is not defined"):
        Lost.from_dict({"thing": 1})
    with pytest.raises(ValidationError, match=r"Lost: data from outside cannot be checked .*'Missing' is not defined"):
        Lost.from_json(b'{"thing":1}')


def test_fields_that_could_be_one_of_several_structs_are_refused_when_data_has_to_be_checked() -> None:
    class Either(Event):
        thing: Item | Order

    with pytest.raises(ValidationError, match=r"Either: data from outside cannot be checked .*tagged"):
        Either.from_dict({"thing": {"sku": "a"}})


def test_a_request_without_an_id_is_filled_in_from_json_too() -> None:
    assert len(InputRequestEvent.from_json(b'{"prompt":"Sure?"}').request_id) == 32
