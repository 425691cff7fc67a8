from __future__ import annotations

import array
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import gc
import io
import pickle
import subprocess
import sys
import threading
import uuid
import weakref
import zoneinfo
from collections import OrderedDict, namedtuple
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from reference.store import ReferenceStore

from blazen._core.state import StateStore, StateValue, check_types
from blazen.errors import ValidationError
from blazen.events import DynamicEvent, Event, StartEvent, StopEvent

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass
class Point:
    origin: ClassVar[object] = object()
    scale: dataclasses.InitVar[object]
    x: Any
    y: Any = None

    def __post_init__(self, scale: object) -> None:
        del scale


@dataclasses.dataclass(slots=True)
class Node:
    next: Any = None


class Row(msgspec.Struct):
    cells: Any


class Scored(Event):
    score: Any


class Other(Event):
    pass


class TypedStart(StartEvent):
    name: str


class Model:
    """Shaped like a pydantic model: fields, extra fields and private attributes are kept apart."""

    __slots__ = ("__pydantic_extra__", "__pydantic_private__", "title")
    __pydantic_fields__: ClassVar[dict[str, object]] = {"title": None}

    def __init__(self, title: object, extra: object = None, private: object = None) -> None:
        self.title = title
        self.__pydantic_extra__ = extra
        self.__pydantic_private__ = private


class OldModel:
    """Shaped like a model of a pydantic that has only `model_fields`."""

    model_fields: ClassVar[dict[str, object]] = {"title": None}

    def __init__(self, title: object) -> None:
        self.title = title


class Opaque:
    pass


class Color(enum.IntEnum):
    RED = 1


class Shade(enum.Enum):
    DARK = "dark"


class Hostile:
    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    def __hash__(self) -> int:
        raise AssertionError("hashed")

    def __bool__(self) -> bool:
        raise AssertionError("asked for its truth")

    def __repr__(self) -> str:
        raise AssertionError("printed")


class HostileStr(str):
    __eq__ = Hostile.__eq__
    __hash__ = Hostile.__hash__
    __bool__ = Hostile.__bool__
    __repr__ = Hostile.__repr__
    __str__ = Hostile.__repr__


Pair = namedtuple("Pair", "a b")


def named(message: str) -> str:
    """`message` with the name that this module has under the way it was imported."""
    return message.replace("test_state.", __name__ + ".")


def nested(levels: int, innermost: Any = 0) -> Any:
    value = innermost
    for _ in range(levels):
        value = [value]
    return value


def refused(store: StateStore, value: Any, key: str = "k") -> ValidationError:
    before = store.items()
    with pytest.raises(ValidationError) as caught:
        store.set(key, value)
    after = store.items()
    assert [name for name, _ in after] == [name for name, _ in before]
    assert all(new is old for (_, new), (_, old) in zip(after, before, strict=True))
    return caught.value


@pytest.fixture
def store() -> StateStore:
    return StateStore(types=[Point, Node, Row, Model, OldModel], events=[Scored, StartEvent, StopEvent, DynamicEvent])


STORABLE: list[Any] = [
    None,
    True,
    0,
    -(2**80),
    10**5000,
    1.5,
    float("inf"),
    float("nan"),
    2 + 3j,
    "",
    "text \ud800",
    b"raw",
    bytearray(b"raw"),
    dt.date(2024, 2, 29),
    dt.time(1, 2, 3),
    dt.time(1, 2, 3, tzinfo=dt.UTC),
    dt.datetime(2024, 2, 29, 1, 2, 3),
    dt.datetime(2024, 2, 29, 1, 2, 3, tzinfo=dt.timezone(dt.timedelta(hours=2), "two"), fold=1),
    dt.datetime(2024, 2, 29, tzinfo=zoneinfo.ZoneInfo("UTC")),
    dt.timedelta(days=1, microseconds=5),
    dt.UTC,
    zoneinfo.ZoneInfo("UTC"),
    uuid.UUID(int=7),
    decimal.Decimal("0.10"),
    decimal.Decimal("sNaN"),
    [],
    [1, [2, ["three"]]],
    (),
    (1, (2,)),
    {},
    {"a": {"b": [1]}},
    {
        1: "int",
        2.5: "float",
        None: "none",
        (1, "x"): "tuple",
        frozenset({1}): "frozenset",
        b"k": "bytes",
        3j: "complex",
    },
    {dt.date(2024, 1, 1): "date", uuid.UUID(int=1): "uuid", decimal.Decimal(1): "decimal"},
    {1, "two", (3,)},
    frozenset({frozenset({1}), 2}),
    numpy.zeros((2, 3), dtype="float32"),
    numpy.array(5),
    numpy.array(["a", "bc"]),
    numpy.array([b"a"]),
    numpy.array(["2024-01-01"], dtype="datetime64[D]"),
    numpy.array([1], dtype=">i2"),
    numpy.zeros(2, dtype=[("a", "i4"), ("b", "f8", (2,))]),
    numpy.array([True])[::-1],
    numpy.float64(1.5),
    numpy.int8(1),
    numpy.str_("text"),
    numpy.bool_(True),
    numpy.datetime64("2024-01-01"),
    numpy.zeros(1, dtype=[("a", "i4")])[0],
    Point(object(), 1, [2]),
    Node(Node(None)),
    Row([Row(1)]),
    Model("t", {"more": [1]}, {"_secret": 2}),
    OldModel("t"),
    Scored([1, {"a": (2,)}]),
    StartEvent(data={"a": 1}),
    StopEvent(result=[1]),
    DynamicEvent("Named", {"a": [1]}),
    StateValue.json([1]),
    StateValue.bytes(b"raw"),
    StateValue.native(object()),
    StateValue.native_bytes(b"raw"),
]


@pytest.mark.parametrize("value", STORABLE, ids=lambda value: type(value).__name__)
def test_a_storable_value_comes_back_as_the_same_object(store: StateStore, value: Any) -> None:
    store.set("k", value)
    assert store.get("k") is value
    assert store["k"] is value
    store.set("nested", [{"in": (value,)}])
    assert store.get("nested")[0]["in"][0] is value
    store.check_all()


@pytest.mark.skipif(not hasattr(numpy.dtypes, "StringDType"), reason="strings of any length came with NumPy 2")
def test_an_array_of_strings_of_any_length_is_storable_unless_what_stands_for_missing_ones_is_an_object() -> None:
    store = StateStore()
    texts = numpy.array(["a", "bb"], dtype=numpy.dtypes.StringDType())
    store.set("k", texts)
    assert store.get("k") is texts
    error = refused(store, numpy.array(["a"], dtype=numpy.dtypes.StringDType(na_object=None)))
    assert "missing values are Python objects" in str(error)


UNSTORABLE: list[tuple[Any, str, str]] = [
    (object(), "$", "is of type object, which is not storable"),
    (Opaque(), "$", "is of type test_state.Opaque, which is not storable"),
    (Opaque, "$", "is of type type, which is not storable"),
    (len, "$", "is of type builtin_function_or_method"),
    (io.BytesIO(), "$", "is of type _io.BytesIO"),
    (memoryview(b"a"), "$", "is of type memoryview"),
    (range(3), "$", "is of type range"),
    (Shade.DARK, "$", "is of type test_state.Shade, which is not storable"),
    (Color.RED, "$", "is of type test_state.Color, a subclass of int: only int itself is storable"),
    (OrderedDict(a=1), "$", "is of type collections.OrderedDict, a subclass of dict: only dict itself is storable"),
    (Pair(1, 2), "$", "is of type test_state.Pair, a subclass of tuple"),
    (HostileStr("a"), "$", "is of type test_state.HostileStr, a subclass of str"),
    (Hostile(), "$", "is of type test_state.Hostile"),
    ([1, Hostile()], "$[1]", "is of type test_state.Hostile"),
    ({"a": [0, 1, 2, Row(Opaque())]}, "$['a'][3].cells", "is of type test_state.Opaque"),
    ({"a": (1, [Point(0, {"b": Opaque()})])}, "$['a'][1][0].x['b']", "is of type test_state.Opaque"),
    ({1: {2.5: {None: {b"k": Opaque()}}}}, "$[1][2.5][None][b'k']", "is of type test_state.Opaque"),
    ({(1, 2): Opaque()}, "$[<tuple>]", "is of type test_state.Opaque"),
    ({10**5000: Opaque()}, "$[<int of 16610 bits>]", "is of type test_state.Opaque"),
    ({"x" * 100: Opaque()}, f"$['{'x' * 60}'...]", "is of type test_state.Opaque"),
    ([{(1, Opaque()): 2}], "$[0]{key}[1]", "is of type test_state.Opaque"),
    ({"s": {(1, Opaque())}}, "$['s']{item}[1]", "is of type test_state.Opaque"),
    (frozenset({Opaque()}), "${item}", "is of type test_state.Opaque"),
    (Node(Node(Opaque())), "$.next.next", "is of type test_state.Opaque"),
    (Model(Opaque()), "$.title", "is of type test_state.Opaque"),
    (Model("t", {"more": Opaque()}), "$.__pydantic_extra__['more']", "is of type test_state.Opaque"),
    (Model("t", None, {"_lock": Opaque()}), "$.__pydantic_private__['_lock']", "is of type test_state.Opaque"),
    (OldModel([Opaque()]), "$.title[0]", "is of type test_state.Opaque"),
    (object.__new__(Node), "$.next", "has no value: a field of test_state.Node that was never set"),
    (Scored([Opaque()]), "$.score[0]", "is of type test_state.Opaque"),
    (StartEvent(data=[Opaque()]), "$.data[0]", "is of type test_state.Opaque"),
    (DynamicEvent("Named", {"a": Opaque()}), "$.data['a']", "is of type test_state.Opaque"),
    (Other(), "$", "is an event of type test_state.Other, which is not among the workflow's events"),
    (TypedStart("a"), "$", "is an event of type test_state.TypedStart, which is not among the workflow's events"),
    (numpy.array([object()]), "$", "is a NumPy array of dtype object: its elements are Python objects"),
    (
        [numpy.zeros(1, dtype=[("a", [("b", "O", (2,))])])],
        "$[0]",
        "field 'a': field 'b': its elements are Python objects",
    ),
    (numpy.zeros(1, dtype=[("a", "O")])[0], "$", "its elements are Python objects"),
    (numpy.ma.masked_array([1]), "$", "a subclass of numpy.ndarray: only numpy.ndarray itself is storable"),
    (type("MyFloat", (numpy.float64,), {})(1.0), "$", "a subclass of float"),
    (type("MyDate", (dt.date,), {})(2024, 1, 1), "$", "a subclass of datetime.date"),
    (type("MyDecimal", (decimal.Decimal,), {})(1), "$", "a subclass of decimal.Decimal"),
    (
        dt.datetime(2024, 1, 1, tzinfo=type("Zone", (dt.tzinfo,), {})()),
        "$",
        "has the time zone class test_state.Zone; only datetime.timezone and zoneinfo.ZoneInfo are storable",
    ),
]


@pytest.mark.parametrize(("value", "path", "problem"), UNSTORABLE, ids=[row[2][:50] for row in UNSTORABLE])
def test_a_refusal_names_key_path_and_type_and_what_to_do(
    store: StateStore, value: Any, path: str, problem: str
) -> None:
    store.set("k", "before")
    error = refused(store, value)
    assert error.path == path
    assert f"cannot store 'k': {path} " in str(error)
    assert named(problem) in str(error)
    for remedy in ("types=", "ctx.session", "StateValue.native"):
        assert remedy in str(error)
    assert store.get("k") == "before"


def test_a_zone_without_a_key_is_refused() -> None:
    with open(next(path for path in zone_files() if path.is_file()), "rb") as data:
        zone = zoneinfo.ZoneInfo.from_file(data)
    store = StateStore()
    assert "without a key" in str(refused(store, zone))
    assert "without a key" in str(refused(store, dt.time(1, tzinfo=zone)))


def zone_files() -> list[Path]:
    return [Path(root) / "UTC" for root in zoneinfo.TZPATH]


def test_an_instance_of_a_class_not_named_in_types_is_refused() -> None:
    assert f"{__name__}.Row" in str(refused(StateStore(types=[Point]), Row(1)))


def test_a_subclass_of_a_class_named_in_types_is_refused() -> None:
    class Closer(Point):
        pass

    assert "Closer" in str(refused(StateStore(types=[Point]), Closer(0, 1)))


def test_an_event_class_may_be_named_in_types_instead() -> None:
    store = StateStore(types=[Other])
    event = Other()
    store.set("k", event)
    assert store.get("k") is event


def test_a_class_whose_metaclass_lies_about_equality_is_not_taken_for_one_of_the_types() -> None:
    class Liar(type):
        def __eq__(cls, other: object) -> bool:
            return True

        def __hash__(cls) -> int:
            return hash(Row)

    class Fake(metaclass=Liar):
        pass

    assert "Fake" in str(refused(StateStore(types=[Row], events=[Scored]), Fake()))


def cycles() -> list[tuple[Any, str]]:
    in_list: list[Any] = []
    in_list.append(in_list)
    in_dict: dict[str, Any] = {}
    in_dict["me"] = in_dict
    through_tuple: list[Any] = []
    through_tuple.append((1, through_tuple))
    through_field = Node()
    through_field.next = [through_field]
    in_field = Node()
    in_field.next = in_field
    row = Row(None)
    row.cells = Node(row)
    return [
        (in_list, "$[0]"),
        (in_dict, "$['me']"),
        (through_tuple, "$[0][1]"),
        ([0, in_list], "$[1][0]"),
        (through_field, "$.next[0]"),
        ({"n": in_field}, "$['n'].next"),
        ((row,), "$[0].cells.next"),
    ]


@pytest.mark.parametrize(("value", "path"), cycles(), ids=[path for _, path in cycles()])
def test_a_value_that_refers_to_itself_is_refused(store: StateStore, value: Any, path: str) -> None:
    error = refused(store, value)
    assert "refers to itself" in str(error)
    assert error.path == path


def test_values_may_be_nested_500_deep_and_no_deeper(store: StateStore) -> None:
    store.set("k", nested(500))
    error = refused(store, nested(501))
    assert "nested too deep: more than 500 containers" in str(error)
    assert error.path == "$" + "[0]" * 500
    assert len(str(error)) < 600
    refused(store, nested(200_000))


def test_the_depth_of_a_shared_part_counts_wherever_it_is_met(store: StateStore) -> None:
    shared = nested(300)
    store.set("k", [shared, nested(199, shared)])
    assert "nested too deep" in str(refused(store, [shared, nested(200, shared)]))


def test_shared_parts_are_no_cycle_and_are_walked_once(store: StateStore) -> None:
    shapes: list[Callable[[Any], Any]] = [
        lambda x: [x, x],
        lambda x: (x, x),
        lambda x: {"a": x, "b": x},
        lambda x: Point(0, x, x),
        lambda x: frozenset({(1, x), (2, x)}) if type(x) is frozenset else frozenset({1}),
    ]
    for double in shapes:
        value: Any = double(0)
        for _ in range(60):
            value = double(value)
        # 2 ** 60 visits would never end.
        store.set("k", value)
        assert store.get("k") is value
        if type(value) is list:
            assert StateValue.json(value).value is value


def test_a_dict_that_a_field_changes_while_it_is_checked_is_refused() -> None:
    class Growing:
        __pydantic_fields__: ClassVar[dict[str, object]] = {"field": None}

        @property
        def field(self) -> int:
            holder["more"] = 1
            return 1

    holder: dict[str, Any] = {"a": Growing()}
    error = refused(StateStore(types=[Growing]), holder)
    assert "was changed while it was being checked" in str(error)


def test_an_error_of_a_users_property_comes_out_unchanged() -> None:
    class Failing:
        __pydantic_fields__: ClassVar[dict[str, object]] = {"field": None}

        @property
        def field(self) -> int:
            raise KeyError("mine")

    store = StateStore(types=[Failing])
    with pytest.raises(KeyError, match="mine"):
        store.set("k", [Failing()])
    assert store.keys() == []


BAD_KEYS: list[tuple[Any, str]] = [
    ("", "a state key cannot be the empty string"),
    (5, "a state key is a str, not int"),
    (None, "a state key is a str, not NoneType"),
    (b"k", "a state key is a str, not bytes"),
    (["k"], "a state key is a str, not list"),
    (Hostile(), "a state key is a str, not test_state.Hostile"),
    (HostileStr("k"), "a state key is a str, not test_state.HostileStr; give it as a plain str"),
]


@pytest.mark.parametrize(("key", "message"), BAD_KEYS, ids=[type(key).__name__ for key, _ in BAD_KEYS])
def test_every_call_refuses_what_cannot_be_a_key(key: Any, message: str) -> None:
    store = StateStore()
    store.set("k", 1)
    calls: list[Callable[[], object]] = [
        lambda: store.set(key, 1),
        lambda: store.get(key),
        lambda: store.get(key, 1),
        lambda: store.set_bytes(key, b""),
        lambda: store.get_bytes(key),
        lambda: store.set_value(key, StateValue.json(1)),
        lambda: store.get_value(key),
        lambda: store.delete(key),
        lambda: store.has(key),
        lambda: store[key],
        lambda: store.__setitem__(key, 1),
        lambda: store.__delitem__(key),
        lambda: store.update([("new", 1), (key, 1)]),
        lambda: store.setdefault(key, 1),
        lambda: store.pop(key),
        lambda: store.pop(key, 1),
    ]
    for call in calls:
        with pytest.raises(ValidationError) as caught:
            call()
        assert str(caught.value) == named(message)
        assert store.items() == [("k", 1)]
    assert key not in store


def test_none_is_a_value(store: StateStore) -> None:
    store.set("k", None)
    assert store.has("k")
    assert store.get("k", "default") is None
    assert store.get("missing", "default") == "default"
    assert store.get("missing") is None
    assert store.get_value("k") == StateValue.json(None)
    assert store.get_value("missing") is None
    assert store.setdefault("k", 5) is None
    assert store.pop("k", 5) is None
    assert not store.has("k")


def test_the_store_is_a_mutable_mapping(store: StateStore) -> None:
    assert isinstance(store, MutableMapping)
    store["a"] = 1
    store.update({"b": 2}, c=3)
    store.update([("d", 4)])
    assert store.setdefault("e", 5) == 5
    assert dict(store) == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
    assert store == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
    assert store != {"a": 1}
    assert store != [1]
    assert store.keys() == list(store) == ["a", "b", "c", "d", "e"]
    assert store.values() == [1, 2, 3, 4, 5]
    assert store.items() == [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)]
    assert len(store) == 5
    assert "a" in store
    assert "z" not in store
    del store["a"]
    assert store.delete("b") is True
    assert store.delete("b") is False
    assert store.pop("c") == 3
    assert store.pop("c", None) is None
    assert store.popitem() == ("e", 5)
    assert repr(store) == "<StateStore with keys ['d']>"
    store.clear()
    assert not store


def test_a_missing_key_is_a_key_error(store: StateStore) -> None:
    for call in (lambda: store["k"], lambda: store.__delitem__("k"), lambda: store.pop("k")):
        with pytest.raises(KeyError) as caught:
            call()
        assert caught.value.args == ("k",)
    with pytest.raises(KeyError, match="the store is empty"):
        store.popitem()


def test_the_store_may_change_while_one_goes_through_it(store: StateStore) -> None:
    store.update(a=1, b=2)
    for key in store:
        store.set(key + "2", 0)
        store.delete(key)
    assert store.keys() == ["a2", "b2"]


def test_an_update_stores_all_or_nothing(store: StateStore) -> None:
    store.set("a", 1)
    with pytest.raises(ValidationError, match="cannot store 'c'"):
        store.update({"a": 2, "b": 3}, c=Opaque())
    assert store.items() == [("a", 1)]


def test_an_update_from_another_store_keeps_state_values(store: StateStore) -> None:
    live = Opaque()
    source = StateStore()
    source.set_value("native", StateValue.native(live))
    source.set("plain", 1)
    store.update(source)
    assert store.get("native") is live
    assert store.get_value("native") == StateValue.native(live)
    assert store.get("plain") == 1


def test_a_store_is_neither_copied_nor_pickled(store: StateStore) -> None:
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot pickle"):
            attempt(store)


@pytest.mark.parametrize("data", [b"raw", bytearray(b"raw"), memoryview(b"raw"), memoryview(b"r-a-w")[::2]])
def test_bytes_come_back_as_bytes(store: StateStore, data: Any) -> None:
    store.set_bytes("k", data)
    assert type(store.get_bytes("k")) is bytes
    assert store.get_bytes("k") == store.get("k") == b"raw"
    assert store.get_value("k") == StateValue.bytes(b"raw")
    assert store.get_bytes("missing") is None


def test_set_bytes_keeps_bytes_themselves_and_copies_what_may_change(store: StateStore) -> None:
    data, changing = b"raw" * 10, bytearray(b"raw")
    store.set_bytes("k", data)
    assert store.get_bytes("k") is data
    store.set_bytes("k", changing)
    changing[0] = 0
    assert store.get_bytes("k") == b"raw"


@pytest.mark.parametrize("data", ["text", 5, None, [1], array.array("b", [1]), numpy.zeros(1)])
def test_set_bytes_refuses_what_is_no_bytes(store: StateStore, data: Any) -> None:
    with pytest.raises(ValidationError, match=r"set_bytes\('k'\) takes bytes, bytearray or memoryview, not "):
        store.set_bytes("k", data)
    for make in (StateValue.bytes, StateValue.native_bytes):
        with pytest.raises(ValidationError, match="takes bytes, bytearray or memoryview, not "):
            make(data)
    assert not store


def test_a_released_memoryview_is_refused(store: StateStore) -> None:
    view = memoryview(b"raw")
    view.release()
    with pytest.raises(ValidationError, match="a memoryview that cannot be read"):
        store.set_bytes("k", view)


def test_get_bytes_refuses_a_key_that_holds_something_else(store: StateStore) -> None:
    store.set("k", [1])
    with pytest.raises(ValidationError, match=r"get_bytes\('k'\): the key holds a value of type list \(kind 'json'\)"):
        store.get_bytes("k")
    store.set_value("n", StateValue.native(Opaque()))
    with pytest.raises(ValidationError, match=named(r"type test_state.Opaque \(kind 'native'\)")):
        store.get_bytes("n")


def test_each_state_value_is_given_back_as_it_was_set_and_read_as_what_it_holds(store: StateStore) -> None:
    live, data = Opaque(), [1, {"a": None}]
    for value, inside in [
        (StateValue.json(data), data),
        (StateValue.bytes(b"raw"), b"raw"),
        (StateValue.native(live), live),
        (StateValue.native_bytes(b"raw"), b"raw"),
    ]:
        store.set_value("k", value)
        assert store.get_value("k") is value
        assert store.get("k") is value.value
        assert value.value is inside or value.value == inside
        assert store.items() == [("k", value.value)]
        assert store.values() == [value.value]
        assert store.pop("k") is value.value
    store.set_value("k", StateValue.native_bytes(b"raw"))
    assert store.get_bytes("k") == b"raw"


def test_what_set_stored_is_described_by_a_kind(store: StateStore) -> None:
    for value, kind in [
        ({"a": [1, 2.5, None, True, "x", 2**80]}, "json"),
        (b"raw", "bytes"),
        ((1, 2), "value"),
        ([(1,)], "value"),
        ({1: 2}, "value"),
        (float("nan"), "value"),
        ("\ud800", "value"),
        (bytearray(b"raw"), "value"),
        (numpy.zeros(2), "value"),
    ]:
        store.set("k", value)
        found = store.get_value("k")
        assert found is not None
        assert found.kind == kind
        assert found.value is value


def test_a_described_value_can_be_stored_under_another_key(store: StateStore) -> None:
    value: tuple[int, list[Any]] = (1, [2])
    store.set("from", value)
    found = store.get_value("from")
    assert found is not None
    store.set_value("to", found)
    assert store.get("to") is value
    assert store.get_value("to") == found
    value[1].append(Opaque())
    with pytest.raises(ValidationError, match=r"cannot store 'again': \$\[1\]\[1\] is of type .*Opaque"):
        store.set_value("again", found)


def test_set_value_takes_only_a_state_value(store: StateStore) -> None:
    with pytest.raises(ValidationError, match=r"set_value\('k'\) takes a StateValue, not int; .* or use set"):
        store.set_value("k", 5)  # type: ignore[arg-type]
    assert not store


def test_a_json_value_that_is_no_json_any_more_is_refused(store: StateStore) -> None:
    data: list[Any] = [1]
    value = StateValue.json(data)
    data.append({"a": (1,)})
    with pytest.raises(ValidationError) as caught:
        store.set_value("k", value)
    assert caught.value.path == "$[1]['a']"
    assert "cannot store 'k': $[1]['a'] is of type tuple, which JSON does not have" in str(caught.value)
    assert "StateValue.json takes" in str(caught.value)
    error = refused(store, [value])
    assert error.path == "$[0].value[1]['a']"


def test_a_state_value_inside_a_value_is_checked_by_its_kind(store: StateStore) -> None:
    shared = [[1], [2]]
    store.set("k", [StateValue.native(Opaque()), {"a": StateValue.json(shared)}, StateValue.json(shared)])
    source = StateStore()
    inner: list[Any] = [(1,)]
    source.set("v", inner)
    described = source.get_value("v")
    store.set("k", [described])
    inner.append(described)
    assert "refers to itself" in str(refused(store, [described]))


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        (float("nan"), "$", "is the float nan"),
        ([float("-inf")], "$[0]", "is the float -inf"),
        ((1,), "$", "is of type tuple"),
        ({"a": {1}}, "$['a']", "is of type set"),
        ({"a": {5: 1}}, "$['a']", "has the key 5, which is no str"),
        ({"a": b""}, "$['a']", "is of type bytes"),
        ([1j], "$[0]", "is of type complex"),
        ([Color.RED], "$[0]", "is of type test_state.Color"),
        (["\udfff"], "$[0]", "lone surrogate"),
        ({"\ud800": 1}, "${key}", "lone surrogate"),
        ([numpy.float64(1)], "$[0]", "is of type numpy.float64"),
        (StateValue.json(1), "$", "StateValue"),
        (cycles()[0][0], "$[0]", "refers to itself"),
        (nested(501), "$" + "[0]" * 500, "nested too deep"),
    ],
)
def test_json_takes_only_what_json_has_exactly(value: Any, path: str, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        StateValue.json(value)
    assert caught.value.path == path
    assert named(problem) in str(caught.value)
    assert "StateValue.json takes None, bool, int, finite float, str, list, and dict with" in str(caught.value)


@pytest.mark.parametrize("value", [None, True, 2**80, 1.5, "äö", [], {}, {"ä": [[1], {"b": None}]}, nested(500)])
def test_json_keeps_the_value_itself(value: Any) -> None:
    made = StateValue.json(value)
    assert made.kind == "json"
    assert made.value is value


def test_a_state_value_compares_by_kind_and_value() -> None:
    live = Opaque()
    assert StateValue.json([1]) == StateValue.json([1])
    assert StateValue.json([1]) != StateValue.json([2])
    assert StateValue.bytes(b"a") != StateValue.native_bytes(b"a")
    assert StateValue.native(live) == StateValue.native(live)
    assert StateValue.native(live) != StateValue.native(Opaque())
    assert StateValue.json("a") != "a"
    numbers = numpy.zeros(3)
    assert StateValue.native(numbers) == StateValue.native(numbers)
    assert StateValue.native(numbers) != StateValue.native(numpy.zeros(3))
    assert len({StateValue.json("a"), StateValue.json("a"), StateValue.native("a")}) == 2


def test_a_state_value_prints_pickles_and_never_changes() -> None:
    value = StateValue.json({"a": [1]})
    assert repr(value) == "StateValue.json({'a': [1]})"
    for made in (value, StateValue.native((1, 2)), StateValue.native_bytes(b"x"), StateValue.bytes(b"x")):
        again = pickle.loads(pickle.dumps(made))
        assert again == made
        assert again.kind == made.kind
    for name in ("kind", "value", "other"):
        with pytest.raises(AttributeError):
            setattr(value, name, 1)
    with pytest.raises(TypeError, match=r"StateValue\.json"):
        StateValue("json", 1)


def test_a_pickle_with_a_forged_kind_or_value_is_refused() -> None:
    restore: Any = StateValue.json(1).__reduce__()[0]
    with pytest.raises(ValidationError, match="no StateValue of kind 'other'"):
        restore("other", 1)
    with pytest.raises(ValidationError, match="JSON does not have"):
        restore("json", (1,))


def test_nothing_is_copied_and_a_change_after_set_is_found_by_check_all(store: StateStore) -> None:
    value: dict[str, Any] = {"a": [1]}
    row = Row([])
    document: list[Any] = [1]
    store.set("first", 1)
    store.set("k", value)
    store.set("row", row)
    store.set_value("json", StateValue.json(document))
    store.set_value("native", StateValue.native(Opaque()))
    value["a"].append(2)
    assert store.get("k") == {"a": [1, 2]}
    store.check_all()
    changes: list[tuple[Callable[[], Any], Callable[[], Any], str, str]] = [
        (lambda: value["a"].append(Opaque()), value["a"].pop, "k", "$['a'][2]"),
        (lambda: row.cells.append(Opaque()), row.cells.pop, "row", "$.cells[0]"),
        (lambda: document.append((1,)), document.pop, "json", "$[1]"),
    ]
    for change, undo, key, path in changes:
        change()
        with pytest.raises(ValidationError) as caught:
            store.check_all()
        assert f"no longer storable: {key!r}: {path}" in str(caught.value)
        assert caught.value.path == path
        undo()
        store.check_all()


def test_check_all_looks_into_a_described_value(store: StateStore) -> None:
    inner: list[Any] = []
    store.set("v", (inner,))
    found = store.get_value("v")
    assert found is not None
    other = StateStore()
    other.set_value("copied", found)
    inner.append(Opaque())
    with pytest.raises(ValidationError, match=named(r"'copied': \$\[0\]\[0\] is of type test_state.Opaque")):
        other.check_all()


def test_an_array_is_kept_by_reference_and_its_dtype_checked_each_time(store: StateStore) -> None:
    numbers, objects = numpy.zeros(3), numpy.array([None])
    for _ in range(2):
        store.set("k", numbers)
        assert "dtype object" in str(refused(store, objects))
    numbers[0] = 5
    assert store.get("k")[0] == 5


@pytest.mark.parametrize("bad", [int, Opaque, Shade, dict, OrderedDict])
def test_a_class_without_known_fields_is_refused_as_a_type(bad: type) -> None:
    with pytest.raises(ValidationError) as caught:
        check_types([Point, bad])
    assert caught.value.path == "$[1]"
    assert f"types[1] is {'' if bad.__module__ == 'builtins' else bad.__module__ + '.'}{bad.__qualname__}" in str(
        caught.value
    )
    assert "no dataclass, msgspec Struct or pydantic model" in str(caught.value)
    with pytest.raises(ValidationError):
        StateStore(types=[bad])


def test_a_dataclass_that_is_also_a_container_is_refused_as_a_type() -> None:
    @dataclasses.dataclass
    class Both(dict):  # type: ignore[type-arg]
        field: int = 1

    with pytest.raises(ValidationError, match="which is also a dict: what it holds beside its fields is no field"):
        check_types([Both])


@pytest.mark.parametrize("types", [5, None, Point, "Point", b"Point"])
def test_types_must_be_a_list(types: Any) -> None:
    with pytest.raises(ValidationError, match=r"types= takes a list of classes, not "):
        check_types(types)


@pytest.mark.parametrize("member", [Point(0, 1), "Point", None, list[int]])
def test_types_must_be_classes(member: Any) -> None:
    with pytest.raises(ValidationError, match=r"types\[0\] is .* which is no class"):
        check_types([member])


def test_check_types_gives_a_frozenset() -> None:
    assert check_types([]) == frozenset()
    found = check_types(cls for cls in (Point, Row, Point, Model))
    assert found == frozenset({Point, Row, Model})
    assert type(found) is frozenset
    assert check_types(frozenset({Point})) == frozenset({Point})


def test_a_store_in_a_cycle_is_collected() -> None:
    class Anchor:
        store: StateStore

    anchor = Anchor()
    anchor.store = StateStore()
    anchor.store.set_value("me", StateValue.native(anchor))
    seen = weakref.ref(anchor)
    del anchor
    gc.collect()
    assert seen() is None


def test_a_check_keeps_nothing_alive() -> None:
    store = StateStore(types=[Row])
    rows = [Row([1])] * 3
    store.set("k", [rows, rows])
    before = sys.getrefcount(rows[0])
    for _ in range(10):
        store.set("k", [rows, rows])
        refused(store, [rows, rows, Opaque()])
    store.clear()
    after = sys.getrefcount(rows[0])
    assert after == before


def test_threads_may_share_a_store() -> None:
    store = StateStore()
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for number in range(2_000):
                store.set(f"{name}{number}", [number, {"a": (number,)}])
                assert store.get(f"{name}{number}")[0] == number
                store.set("shared", [name, name])
                first, second = store.get("shared")
                assert first == second
                if number % 50 == 0:
                    store.check_all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store) == 8_001


def test_the_deepest_value_fits_the_stack_of_a_small_thread() -> None:
    outcome: list[Any] = []

    def work() -> None:
        store = StateStore(types=[Node])
        chain: Any = None
        for _ in range(500):
            chain = Node(chain)
        store.set("k", chain)
        outcome.append(store.get("k") is chain)
        while chain.next is not None:
            chain = chain.next

    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=work)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert outcome == [True]


def test_the_store_loads_no_module_for_the_types_it_knows() -> None:
    program = (
        "import sys, blazen.errors\n"
        "before = set(sys.modules)\n"
        "from blazen._core.state import StateStore\n"
        "store = StateStore()\n"
        "for value in (1, [2], {'a': {3}}, object()):\n"
        "    try:\n        store.set('k', value)\n    except ValueError:\n        pass\n"
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith(('blazen', '_cython'))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


KEYS = st.sampled_from(["a", "b", "c", "d"]) | st.sampled_from(["", 5, None]) | st.builds(HostileStr, st.just("a"))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(codec=None), max_size=3),
    st.binary(max_size=3),
    st.binary(max_size=3).map(bytearray),
    st.dates(),
    st.datetimes(timezones=st.none() | st.just(dt.UTC) | st.just(zoneinfo.ZoneInfo("UTC"))),
    st.timedeltas(),
    st.uuids(),
    st.decimals(),
    st.builds(numpy.zeros, st.just(2)),
    st.builds(numpy.int16, st.just(1)),
    # What no store takes.
    st.builds(Opaque),
    st.just(Color.RED),
    st.just(Pair(1, 2)),
    st.builds(lambda: numpy.array([None])),
    st.builds(Other),
)
HASHABLE = st.integers() | st.text(max_size=2) | st.tuples(st.integers(), st.none()) | st.builds(Opaque)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
        st.dictionaries(HASHABLE, inner, max_size=2),
        st.sets(HASHABLE, max_size=2),
        st.frozensets(HASHABLE, max_size=2),
        st.builds(Point, st.none(), inner, inner),
        st.builds(Node, inner),
        st.builds(Row, inner),
        inner.map(lambda value: [value, value, (value,)]),
    ),
    max_leaves=6,
)


class StoreBesideItsModel(RuleBasedStateMachine):
    """The compiled store and the plain model take the same calls and must give the same answers."""

    def __init__(self) -> None:
        super().__init__()
        self.store = StateStore(types=[Point, Node, Row])
        self.model = ReferenceStore(types=[Point, Node, Row])

    def same(self, value: Any, expected: Any) -> None:
        # Bytes made from a view are equal copies.
        assert value is expected or (type(value) is type(expected) is bytes and value == expected)

    def both(self, real: Callable[[], Any], expected: Callable[[], Any]) -> None:
        def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
            try:
                return "returned", call()
            except (ValidationError, KeyError) as error:
                return "raised", type(error)

        (how, answer), (model_how, model_answer) = outcome(real), outcome(expected)
        assert how == model_how, (answer, model_answer)
        if isinstance(answer, StateValue):
            assert answer.kind == model_answer[0]
            self.same(answer.value, model_answer[1])
        else:
            self.same(answer, model_answer)

    @rule(key=KEYS, value=VALUES)
    def set(self, key: Any, value: Any) -> None:
        self.both(lambda: self.store.set(key, value), lambda: self.model.set(key, value))

    @rule(key=KEYS)
    def get(self, key: Any) -> None:
        missing = object()
        self.both(lambda: self.store.get(key, missing), lambda: self.model.get(key, missing))

    @rule(
        key=KEYS,
        data=st.binary(max_size=3) | st.binary(max_size=3).map(lambda data: memoryview(data)) | st.text(max_size=1),
    )
    def set_bytes(self, key: Any, data: Any) -> None:
        self.both(lambda: self.store.set_bytes(key, data), lambda: self.model.set_bytes(key, data))

    @rule(key=KEYS)
    def get_bytes(self, key: Any) -> None:
        self.both(lambda: self.store.get_bytes(key), lambda: self.model.get_bytes(key))

    @rule(key=KEYS, value=VALUES, kind=st.sampled_from(["json", "native"]))
    def set_value(self, key: Any, value: Any, kind: str) -> None:
        try:
            made = StateValue.json(value) if kind == "json" else StateValue.native(value)
        except ValidationError:
            return
        self.both(lambda: self.store.set_value(key, made), lambda: self.model.set_value(key, kind, value))

    @rule(key=KEYS)
    def get_value(self, key: Any) -> None:
        self.both(lambda: self.store.get_value(key), lambda: self.model.get_value(key))

    @rule(key=KEYS)
    def delete(self, key: Any) -> None:
        self.both(lambda: self.store.delete(key), lambda: self.model.delete(key))

    @rule(key=KEYS)
    def has(self, key: Any) -> None:
        self.both(lambda: self.store.has(key), lambda: self.model.has(key))

    @rule(key=KEYS, value=VALUES)
    def setdefault(self, key: Any, value: Any) -> None:
        self.both(lambda: self.store.setdefault(key, value), lambda: self.model.setdefault(key, value))

    @rule(key=KEYS)
    def pop(self, key: Any) -> None:
        self.both(lambda: self.store.pop(key), lambda: self.model.pop(key))

    @rule(pairs=st.lists(st.tuples(KEYS, VALUES), max_size=3))
    def update(self, pairs: list[tuple[Any, Any]]) -> None:
        self.both(lambda: self.store.update(pairs), lambda: self.model.update(pairs))

    @rule(number=st.integers(0, 3), value=VALUES)
    def change_a_stored_list(self, number: int, value: Any) -> None:
        lists = [held for _, held in self.model.items() if type(held) is list]
        if lists:
            lists[number % len(lists)].append(value)

    @precondition(lambda self: self.model.entries)
    @rule()
    def popitem(self) -> None:
        (key, value), (model_key, model_value) = self.store.popitem(), self.model.popitem()
        assert key == model_key
        self.same(value, model_value)

    @invariant()
    def hold_the_same(self) -> None:
        assert self.store.keys() == self.model.keys()
        assert len(self.store) == len(self.model.entries)
        for (_, value), (_, expected) in zip(self.store.items(), self.model.items(), strict=True):
            self.same(value, expected)

    @invariant()
    def find_the_same_broken_keys(self) -> None:
        broken = next(self.model.broken_keys(), None)
        if broken is None:
            self.store.check_all()
        else:
            with pytest.raises(ValidationError, match=f"no longer storable: {broken!r}"):
                self.store.check_all()


TestStoreBesideItsModel = StoreBesideItsModel.TestCase
