"""Storable values as bytes and back: what was written comes back equal and of the same types, or is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import io
import math
import pickle
import struct
import subprocess
import sys
import threading
import uuid
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from blazen._core.codec import ClassTable, UnopenedNative, decode, encode, register_extension
from blazen._core.state import StateStore, StateValue
from blazen.errors import ValidationError
from blazen.events import DynamicEvent, Event, InputRequestEvent, StartEvent, StopEvent

HERE = Path(__file__).resolve().parent


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    name: Any
    inner: Any = None


class Row(msgspec.Struct):
    cells: Any


class Counting(msgspec.Struct):
    """Changes what it is given: what was written must come back all the same."""

    count: int

    def __post_init__(self) -> None:
        self.count += 1


class Scored(Event):
    score: Any
    note: str = ""


class TypedStart(StartEvent):
    name: str


class Model:
    """Shaped like a pydantic model: fields, extra fields, private attributes and names of given fields are apart."""

    __slots__ = ("__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__")
    __pydantic_fields__: ClassVar[dict[str, object]] = {"title": None}

    def __init__(self, title: object, extra: object = None, private: object = None) -> None:
        self.title = title
        self.__pydantic_extra__ = extra
        self.__pydantic_private__ = private
        self.__pydantic_fields_set__ = {"title"}

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


class Opaque:
    pass


CLASSES = ClassTable(
    [Point, Frozen, Row, Counting, Model, Scored, TypedStart, StartEvent, StopEvent, DynamicEvent, InputRequestEvent]
)


def parts(value: Any) -> Any:
    """`value` in a form that is equal only where types, bits and layout are, at every depth."""
    kind = type(value)
    if kind is float:
        return kind, struct.pack("<d", value)
    if kind is complex:
        return kind, struct.pack("<dd", value.real, value.imag)
    if kind in (list, tuple):
        return kind, [parts(item) for item in value]
    if kind is dict:
        return kind, [(parts(key), parts(item)) for key, item in value.items()]
    if kind in (set, frozenset):
        return kind, sorted(repr(parts(item)) for item in value)
    if isinstance(value, numpy.ndarray | numpy.generic):
        by_columns = isinstance(value, numpy.ndarray) and value.flags.f_contiguous and not value.flags.c_contiguous
        data = value.tolist() if value.dtype.char == "T" else value.tobytes()
        return kind, str(value.dtype), value.dtype.char, value.dtype.byteorder, value.shape, by_columns, data
    if kind is decimal.Decimal:
        return kind, str(value)
    if kind is uuid.UUID:
        return kind, value.int, value.is_safe
    if kind is dt.datetime or kind is dt.time:
        return kind, repr(value.replace(tzinfo=None)), value.fold, parts(value.tzinfo)
    if kind is zoneinfo.ZoneInfo:
        return kind, value.key
    if kind is dt.timezone:
        return kind, value.__reduce__()[1]
    if kind is StateValue:
        return kind, value.kind, parts(value.value)
    if dataclasses.is_dataclass(value):
        return kind, [parts(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, msgspec.Struct):
        return kind, [parts(getattr(value, name)) for name in value.__struct_fields__]
    if kind is Model:
        names = ("title", "__pydantic_extra__", "__pydantic_private__", "__pydantic_fields_set__")
        return kind, [parts(getattr(value, name)) for name in names]
    return kind, repr(value) if kind in (dt.date, dt.timedelta) else value


def there_and_back(value: Any) -> Any:
    data = encode(value, classes=CLASSES)
    back = decode(data, classes=CLASSES, trust_native=True)
    assert parts(back) == parts(value)
    assert encode(back, classes=CLASSES) == data
    return back


def nested(levels: int, innermost: Any = 0) -> Any:
    value = innermost
    for _ in range(levels):
        value = [value]
    return value


def uleb(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def double(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


NEW_YORK = zoneinfo.ZoneInfo("America/New_York")
VALUES: dict[str, Any] = {
    "none": None,
    "bools": [True, False],
    "small ints": [0, 1, 127, 128, -1, -64, -65, 2**62, -(2**62)],
    "the edges of 64 bits": [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64],
    "big ints": [2**80, -(2**80), 10**5000, -(10**5000)],
    "floats": [0.0, -0.0, 1.5, math.inf, -math.inf, 5e-324, 1.7976931348623157e308],
    "nans": [math.nan, double(0x7FF8_0000_0000_BEEF), double(0xFFF8_0000_0000_0001)],
    "complex": [2 + 3j, complex(-0.0, math.nan)],
    "texts": ["", "a", "é", "日本", "\U0001f600", "\0", "x" * 63, "x" * 64, "é" * 64, "x" * 1000],
    "surrogates": ["\ud800", "a\udfffé", "\ud83d\ude00", "\ud800" * 64],
    "repeated texts": ["again", "again", {"again": "again"}, "é", "é"],
    "bytes": [b"", b"raw", bytes(range(256)), b"x" * 1000],
    "bytearray": bytearray(b"raw"),
    "date": [dt.date.min, dt.date(2024, 2, 29), dt.date.max],
    "time": [
        dt.time.min,
        dt.time.max,
        dt.time(1, 2, 3, 4, fold=1),
        dt.time(1, tzinfo=dt.UTC),
        dt.time(1, tzinfo=NEW_YORK),
    ],
    "datetime": [
        dt.datetime.min,
        dt.datetime.max,
        dt.datetime(2024, 11, 3, 1, 30, tzinfo=NEW_YORK),
        dt.datetime(2024, 11, 3, 1, 30, tzinfo=NEW_YORK, fold=1),
        dt.datetime(2024, 2, 29, 1, 2, 3, 456789, tzinfo=dt.UTC),
        dt.datetime(2024, 2, 29, tzinfo=dt.timezone(dt.timedelta(hours=-2, microseconds=1))),
        dt.datetime(2024, 2, 29, tzinfo=dt.timezone(dt.timedelta(hours=2), "two")),
    ],
    "timedelta": [dt.timedelta.min, dt.timedelta.max, dt.timedelta(days=-1, microseconds=5), dt.timedelta()],
    "time zones": [dt.UTC, dt.timezone(dt.timedelta(0), "zero"), dt.timezone(dt.timedelta(hours=1)), NEW_YORK],
    "uuid": [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), uuid.UUID(int=7, is_safe=uuid.SafeUUID.unsafe)],
    "decimal": [
        decimal.Decimal(text)
        for text in (
            "0.10",
            "-0",
            "0E+5",
            "1E-999999",
            "NaN",
            "-NaN",
            "sNaN",
            "NaN123",
            "-sNaN7",
            "Infinity",
            "-Infinity",
        )
    ],
    "containers": [[], (), {}, set(), frozenset(), [1, [2, (3,)]], (1, (2,)), {"a": {"b": [1]}}],
    "the order of a dict": {"b": 1, "a": 2, "c": 3},
    "keys": {
        1: "int",
        2.5: "float",
        None: "none",
        (1, "x", (2,)): "tuple",
        frozenset({1, "x"}): "frozenset",
        b"k": "bytes",
        b"k" * 100: "long bytes",
        "k" * 100: "long str",
        3j: "complex",
        dt.date(2024, 1, 1): "date",
        dt.datetime(2024, 1, 1, tzinfo=dt.UTC): "datetime",
        uuid.UUID(int=1): "uuid",
        decimal.Decimal("1.5"): "decimal",
        Frozen("x", (1, 2)): "instance",
        Scored(1): "event",
        2**200: "big int",
        numpy.int16(9): "scalar",
        dt.UTC: "zone",
    },
    "sets": [
        {1, "two", (3,)},
        frozenset({frozenset({1, 2}), 2, "x"}),
        {Frozen("a"), Frozen("b")},
        {b"x" * 99, "y" * 99},
    ],
    "array": numpy.arange(6, dtype="float32").reshape(2, 3),
    "array by columns": numpy.asfortranarray(numpy.arange(6).reshape(2, 3)),
    "array without dimensions": numpy.array(5),
    "empty arrays": [numpy.zeros(0), numpy.zeros((0, 5, 2**40)), numpy.zeros((3, 0), order="F")],
    "arrays of texts": [numpy.array(["a", "bcé"]), numpy.array([b"a", b"bc"]), numpy.array(["x"], ">U3")],
    "arrays of times": [
        numpy.array(["2024-01-01", "NaT"], dtype="datetime64[D]"),
        numpy.array([1, 2], dtype="timedelta64[25s]"),
        numpy.array([3], dtype=">M8[ns]"),
        numpy.array(["NaT"], dtype="datetime64"),
    ],
    "byte order": [
        numpy.array([1, 256], dtype=">i2"),
        numpy.array([1.5], dtype=">f8"),
        numpy.array([1j], dtype=">c16"),
    ],
    "arrays of bool": numpy.array([True, False]),
    "half floats": numpy.array([1.5], "e"),
    "extended floats": [numpy.array([1.5], "g"), numpy.array([1j], "G"), numpy.longdouble("1.1")],
    "kinds of the same size": [numpy.array([1], kind) for kind in "lqLQ"] + [numpy.longlong(1), numpy.int_(1)],
    "structured": numpy.array([(1, (2.0, 3.0), "x")], dtype=[("a", ">i4"), ("b", "f8", (2,)), ("ü", "U3")]),
    "aligned": numpy.zeros(2, numpy.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "titles and offsets": numpy.zeros(
        2,
        numpy.dtype(
            {"names": ["a", "b"], "formats": ["i2", "i2"], "offsets": [0, 1], "titles": ["A", None], "itemsize": 9}
        ),
    ),
    "nested dtype": numpy.zeros(2, [("in", [("x", "i2"), ("y", "M8[us]")])]),
    "elements without size": [numpy.zeros(3, "V0"), numpy.zeros(2, [("a", "U0")]), numpy.zeros(2, [])],
    "raw elements": numpy.array([b"abc"], dtype="V3"),
    "variable texts": numpy.array([["a", ""], ["é", "x" * 50]], dtype=numpy.dtypes.StringDType()),
    "variable texts by columns": numpy.array([["a", "b"], ["c", "d"]], dtype="T", order="F"),
    "scalars": [
        numpy.float64(1.5),
        numpy.float32("nan"),
        numpy.int8(1),
        numpy.int64(1),
        numpy.bool_(True),
        numpy.complex64(1j),
        numpy.datetime64("2024-01-01"),
        numpy.timedelta64(5, "h"),
        numpy.str_(""),
        numpy.str_("é\ud800"),
        numpy.bytes_(b"a\0"),
        numpy.zeros(1, dtype=[("a", "i4")])[0],
        numpy.void(b"abc"),
    ],
    "instances": [Point(1, [2]), Point({}, Point(1)), Frozen("x"), Row([Row(1)]), Counting(5)],
    "models": [Model("t"), Model("t", {"more": [1]}, {"_secret": 2})],
    "events": [
        Scored([1, {"a": (2,)}]),
        StartEvent(data={"a": 1}),
        StartEvent(),
        TypedStart("x"),
        StopEvent(result=[1]),
        DynamicEvent("Named", {"a": [1]}),
        InputRequestEvent(request_id="1", prompt="?"),
    ],
    "state values": [
        StateValue.json({"a": [1, None, "x", 1.5, 2**80]}),
        StateValue.bytes(b"raw"),
        StateValue.native_bytes(b"raw"),
        StateValue.native({"any": Ellipsis}),
    ],
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_as_it_was(name: str) -> None:
    there_and_back(VALUES[name])


def test_the_values_of_this_test_are_what_a_store_takes() -> None:
    StateStore(CLASSES.types, CLASSES.events).update(VALUES)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.integers(0, 2**64 - 1).map(double),
    st.complex_numbers(),
    st.text(st.characters(), max_size=5),
    st.text(st.characters(), min_size=60, max_size=70),
    st.sampled_from(["name", "points", "again"]),
    st.binary(max_size=80),
    st.binary(max_size=5).map(bytearray),
    st.dates(),
    st.times(timezones=st.none() | st.just(dt.UTC) | st.just(NEW_YORK)),
    st.datetimes(timezones=st.none() | st.just(dt.UTC) | st.just(NEW_YORK)),
    st.timedeltas(),
    st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(dt.timezone),
    st.uuids(),
    st.decimals(),
    arrays.arrays(arrays.array_dtypes(allow_subarrays=True), arrays.array_shapes(min_dims=0, min_side=0, max_side=3)),
    arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(max_side=3)).map(numpy.asfortranarray),
    arrays.scalar_dtypes().flatmap(arrays.from_dtype),
)
HASHABLE_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=3),
    st.text(min_size=60, max_size=70),
    st.binary(max_size=70),
    st.floats(),
    st.dates(),
    st.uuids(),
    st.decimals(allow_nan=False),
)
HASHABLE = st.recursive(
    HASHABLE_LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner),
        st.frozensets(inner, max_size=3),
        st.builds(Frozen, inner, inner),
        st.builds(Scored, inner),
    ),
    max_leaves=5,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=5,
)
STORABLE = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, max_size=4),
        st.dictionaries(HASHABLE, inner, max_size=3),
        st.sets(HASHABLE, max_size=4),
        st.frozensets(HASHABLE, max_size=4),
        st.builds(Point, inner, inner),
        st.builds(Row, inner),
        st.builds(Scored, inner, note=st.text(max_size=3)),
        st.builds(Model, inner, st.dictionaries(st.text(max_size=2), inner, max_size=2)),
        st.builds(
            DynamicEvent, st.text(min_size=1, max_size=3).filter(str.strip), st.dictionaries(st.text(max_size=2), inner)
        ),
        st.builds(StartEvent, inner),
        inner.map(lambda value: [value, (value, [value])]),
        JSON.map(StateValue.json),
        st.binary(max_size=5).map(StateValue.bytes),
    ),
    max_leaves=12,
)


@given(STORABLE)
def test_every_storable_value_comes_back_as_it_was(value: Any) -> None:
    there_and_back(value)


@given(STORABLE)
def test_what_the_store_takes_can_be_written(value: Any) -> None:
    store = StateStore(CLASSES.types, CLASSES.events)
    store.set("k", value)
    encode(store.get("k"), classes=CLASSES)


# What cannot be written


def refused(value: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        encode(value, classes=CLASSES)
    return caught.value


class Sub(list[Any]):
    pass


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        (Opaque(), "$", "is of type {here}Opaque, which is not storable"),
        ({"a": [1, Opaque()]}, "$['a'][1]", "is of type {here}Opaque, which is not storable"),
        (Point(1, (0, Sub())), "$.y[1]", "is of type {here}Sub, a subclass of list"),
        ({(1, Opaque()): 1}, "${key}[1]", "is of type {here}Opaque"),
        ({Opaque()}, "${item}", "is of type {here}Opaque"),
        ([numpy.array([None])], "$[0]", "is a NumPy array of dtype object"),
        ([dt.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo.no_cache("UTC")), range(3)], "$[1]", "is of type range"),
        ([StateValue.native(lambda: None)], "$[0].value", "cannot be pickled"),
    ],
)
def test_what_is_not_storable_is_refused_with_its_place(value: Any, path: str, problem: str) -> None:
    error = refused(value)
    assert error.path == path
    assert str(error).startswith(f"cannot write {path}, which ")
    assert problem.replace("{here}", __name__ + ".") in str(error)


def test_the_cause_of_a_failed_pickle_is_kept() -> None:
    error = refused({"k": StateValue.native(threading.Lock())})
    assert isinstance(error.__cause__, TypeError)


def test_a_json_value_that_was_changed_is_checked_again() -> None:
    content: list[Any] = [1]
    value = StateValue.json(content)
    content.append({"x": (1,)})
    assert refused([value]).path == "$[0].value[1]['x']"


def test_a_field_that_was_never_set_is_refused() -> None:
    value = object.__new__(Point)
    assert "never set" in str(refused([value]))


def test_a_list_that_changes_while_it_is_written_is_refused() -> None:
    held: list[Any] = []

    class Grows:
        def __reduce__(self) -> Any:
            held.append(1)
            return int, ()

    held.append(StateValue.native(Grows()))
    assert "changed while it was being written" in str(refused(held))


def test_a_zone_that_could_not_be_found_again_is_refused() -> None:
    source = next((Path(place) / "UTC" for place in zoneinfo.TZPATH if (Path(place) / "UTC").is_file()), None)
    if source is None:
        pytest.skip("no time zone files on this machine")
    zone = zoneinfo.ZoneInfo.from_file(io.BytesIO(source.read_bytes()), key="Nowhere/Land")
    assert "Nowhere/Land" in str(refused([zone]))


def test_a_value_that_holds_itself_is_refused() -> None:
    inner: list[Any] = []
    inner.append({"a": inner})
    assert "refers to itself: it is the written value again" in str(refused(inner))
    assert "refers to itself: it holds itself" in str(refused([0, inner]))


def test_depth_is_limited_to_that_of_the_store_both_ways() -> None:
    deepest = nested(500)
    data = encode(deepest)
    assert data == b"\x01\x00" + b"\x10\x01" * 500 + b"\x80"
    assert encode(decode(data)) == data
    assert "nested too deep" in str(refused(nested(501)))
    tower = encode(0)[2:]
    for _ in range(501):
        tower = b"\x10\x01" + tower
    with pytest.raises(ValidationError, match="more than 500 containers in each other, at byte 1002"):
        decode(b"\x01\x00" + tower)


def test_depth_counts_through_shared_parts() -> None:
    shared = nested(300)
    data = encode([shared, nested(198, [shared])])
    assert encode(decode(data)) == data
    assert "nested too deep" in str(refused([shared, nested(199, [shared])]))
    # A chain of references: each list holds the one before. Nothing of it is nested in the bytes.
    chain = b"".join(b"\x10\x01\x0c" + uleb(number) for number in range(600))
    with pytest.raises(ValidationError, match="more than 500 containers in each other"):
        decode(b"\x01\x00\x10" + uleb(601) + b"\x10\x00" + chain)


def test_the_deepest_value_fits_a_small_stack() -> None:
    """Half a megabyte is a sixteenth of what threads usually have."""
    value: Any = 0
    for level in range(500):
        value = {"a": value} if level % 2 else Point(value)
    outcome: list[Any] = []
    before = threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(
            target=lambda: outcome.append(decode(encode(value, classes=CLASSES), classes=CLASSES))
        )
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    (back,) = outcome
    for level in reversed(range(500)):
        back = back["a"] if level % 2 else back.x
    assert back == 0


# Sharing


def test_shared_parts_stay_shared() -> None:
    shared, array, raw = [1], numpy.zeros(3), bytearray(b"x")
    point = Point(shared)
    native = StateValue.native([])
    back = decode(
        encode([shared, {"a": shared}, point, point, array, (array,), raw, raw, native, native], classes=CLASSES),
        classes=CLASSES,
    )
    assert back[0] is back[1]["a"] is back[2].x
    assert back[2] is back[3]
    assert back[4] is back[5][0]
    assert back[6] is back[7]
    assert back[8] is back[9]


def test_equal_parts_that_are_not_shared_stay_apart() -> None:
    back = decode(encode([[1], [1]]))
    assert back[0] is not back[1]


def test_shared_parts_do_not_multiply() -> None:
    value: Any = []
    for _ in range(400):
        value = [value, value]
    data = encode(value)
    assert len(data) < 5_000
    back = decode(data)
    assert back[0] is back[1]


def test_long_texts_and_bytes_are_written_once() -> None:
    text, raw = "x" * 10_000, b"y" * 10_000
    assert len(encode([text, raw] * 100)) < 21_000


def test_bytes_do_not_depend_on_who_else_holds_a_part() -> None:
    value = [[1], {"a": (2, 3.5)}, bytearray(b"x")]
    alone = encode(value)
    holders = [value[0], value[1], value[1]["a"]]  # type: ignore[call-overload, index]
    assert encode(value) == alone
    assert holders


def test_a_key_that_would_be_written_for_ever_is_refused() -> None:
    @dataclasses.dataclass(eq=False)
    class Node:
        inner: Any

    bomb: Any = Node(())
    for _ in range(100):
        bomb = Node((bomb, bomb))
    with pytest.raises(ValidationError, match="part of a key or of an element of a set that holds over 1000000 values"):
        encode({bomb: 1}, classes=[Node])


def test_sets_are_written_alike_in_every_process() -> None:
    code = (
        "from blazen._core.codec import encode\n"
        "print(encode([{'a', 'b', 'c', 1, None, (1, 'x')}, frozenset('xyz')]).hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, cwd=HERE.parent, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1


# Native values


class Touched:
    count = 0

    def __reduce__(self) -> Any:
        return _touch, ()


def _touch() -> str:
    Touched.count += 1
    return "made"


def test_a_pickle_is_opened_only_when_trusted() -> None:
    data = encode({"k": StateValue.native(Touched())})
    before = Touched.count
    closed = decode(data)
    assert Touched.count == before
    held = closed["k"].value
    assert type(held) is UnopenedNative
    assert pickle.loads(pickle.dumps(held)) == held
    assert repr(held) == f"<UnopenedNative of {len(held.data)} bytes: a pickle, opened only with trust_native=True>"
    # What was not opened is written again as it was.
    assert encode(closed) == data
    assert decode(encode(closed), trust_native=True)["k"].value == "made"
    assert decode(data, trust_native=1)["k"].value == held  # type: ignore[arg-type]


def test_a_broken_pickle_is_refused_when_opened() -> None:
    data = encode(StateValue.native([1])).replace(
        pickle.dumps([1], 5), b"\x80\x05" + b"?" * (len(pickle.dumps([1], 5)) - 2)
    )
    assert type(decode(data).value) is UnopenedNative
    with pytest.raises(ValidationError, match="a native value cannot be unpickled"):
        decode(data, trust_native=True)


# Classes


def test_a_class_that_is_not_named_is_refused_both_ways() -> None:
    with pytest.raises(ValidationError, match="which is not storable"):
        encode(Point(1))
    data = encode([Point(1)], classes=[Point])
    with pytest.raises(ValidationError, match=r"Point is not named in Workflow\(types=\[...\]\), at byte 2"):
        decode(data)
    with pytest.raises(ValidationError, match="the event type 'Scored' is not among the workflow's events"):
        decode(encode(Scored(1), classes=[Scored]), classes=[Point])


def test_two_classes_of_one_name_are_refused() -> None:
    def make() -> type:
        @dataclasses.dataclass
        class Same:
            x: int

        return Same

    with pytest.raises(ValidationError, match=r"two classes have the name .*Same"):
        ClassTable([make(), make()])


def class_like(name: str, module: str, **fields: Any) -> type:
    cls = dataclasses.make_dataclass(
        name, [(field, Any, dataclasses.field(**options)) for field, options in fields.items()]
    )
    cls.__module__ = module  # from Python 3.12 on make_dataclass overwrites what the namespace says
    return cls


def test_a_class_is_found_in_another_module() -> None:
    then, now = class_like("Moved", "__main__", x={}), class_like("Moved", "app", x={})
    data = encode(then(5), classes=[then])
    assert decode(data, classes=[now]) == now(5)
    with pytest.raises(
        ValidationError, match=r"has moved, and .* names several that it may be: app\.Moved, other\.Moved"
    ):
        decode(data, classes=[now, class_like("Moved", "other", x={})])


def test_new_fields_with_defaults_are_filled_in() -> None:
    then = class_like("Grown", "app", x={})
    now = class_like("Grown", "app", y={"default": 7}, z={"default_factory": list}, x={"kw_only": True})
    first, second = decode(encode([then(5), then(6)], classes=[then]), classes=[now])
    assert (first, second) == (now(7, [], x=5), now(7, [], x=6))
    assert first.z is not second.z


def test_new_fields_of_events_are_filled_in() -> None:
    class Then(Event, type="Grown"):
        x: int

    class Now(Event, type="Grown"):
        y: int = 7
        x: int = 0

    assert decode(encode(Then(5), classes=[Then]), classes=[Now]) == Now(7, 5)


def test_fields_that_do_not_fit_are_refused() -> None:
    then = class_like("Changed", "app", x={}, y={})
    data = encode(then(1, 2), classes=[then])
    with pytest.raises(ValidationError, match=r"app\.Changed was written with a field 'y', which it does not have"):
        decode(data, classes=[class_like("Changed", "app", x={})])
    with pytest.raises(ValidationError, match="was written without its field 'z', which has no default"):
        decode(data, classes=[class_like("Changed", "app", x={}, y={}, z={})])

    class Now(Event, type="Needs"):
        x: int
        y: int

    class Then(Event, type="Needs"):
        x: int

    with pytest.raises(ValidationError, match="without its field 'y'"):
        decode(encode(Then(1), classes=[Then]), classes=[Now])


def test_instances_are_made_without_their_init() -> None:
    calls = []

    @dataclasses.dataclass
    class Init:
        x: int

        def __post_init__(self) -> None:
            calls.append(self.x)

    value = Init(5)
    value.x = 6
    assert decode(encode(value, classes=[Init]), classes=[Init]).x == 6
    assert calls == [5]


def test_classes_are_numbered_alike_whatever_the_order_they_are_named_in() -> None:
    value = [Point(1), Frozen(2), Scored(3)]
    assert encode(value, classes=[Point, Frozen, Scored]) == encode(value, classes=[Scored, Frozen, Point])


class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Celsius) and other.degrees == self.degrees


def test_an_extension_is_written_as_other_values() -> None:
    code = (
        "from blazen._core.codec import decode, encode, register_extension\n"
        "class Box:\n    def __init__(self, held): self.held = held\n"
        "class SubBox(Box): pass\n"
        "register_extension(0x60, Box, lambda box, classes: (type(box).__name__, box.held),\n"
        "    lambda parts, classes: {'Box': Box, 'SubBox': SubBox}[parts[0]](parts[1]),\n"
        "    lambda parts: (parts[0], ('held',), parts[1:]))\n"
        "shared = SubBox([1])\n"
        "back = decode(encode([Box(2), shared, shared]))\n"
        "assert type(back[0]) is Box and back[0].held == 2\n"
        "assert type(back[1]) is SubBox and back[1].held == [1] and back[1] is back[2]\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, check=True)
    for tag in (0x5F, 0x80):
        with pytest.raises(ValidationError, match="the tag of an extension"):
            register_extension(
                tag,
                Celsius,
                lambda value, classes: value.degrees,
                lambda parts, classes: Celsius(parts),
                lambda parts: ("Celsius", ("degrees",), (parts,)),
            )


# Bytes that are no value


def test_every_truncation_is_refused() -> None:
    data = encode(
        [value for name, value in VALUES.items() if len(encode(value, classes=CLASSES)) < 500], classes=CLASSES
    )
    for length in range(len(data)):
        with pytest.raises(ValidationError, match="cannot read the value"):
            decode(data[:length], classes=CLASSES)


def test_bytes_that_follow_are_refused() -> None:
    with pytest.raises(ValidationError, match="the value ends here, and 1 bytes follow, at byte 3 of 4"):
        decode(encode(1) + b"\0")


BROKEN = {
    "nothing": (b"", "it is cut off"),
    "an old version": (b"\x00\x00\x00", "format version 0, written by something else"),
    "a newer version": (b"\x02\x00\x00", "format version 2, written by a newer blazen; this one reads version 1"),
    "an unknown tag": (b"\x01\x00\x10\x01\x7f", "no value begins with the byte 0x7f, at byte 4"),
    "a list longer than the data": (b"\x01\x00\x10\xff\xff\xff\xff\x0f", "the items of a list"),
    "lists that promise the same bytes": (b"\x01\x00\x10\x04\x10\x04\x00\x00\x00\x00", "the items of a list"),
    "a tuple that takes the bytes others need": (b"\x01\x00\x10\x02\x11" + uleb(2**41), "the items of a tuple"),
    "a tuple that takes the last byte": (
        b"\x01\x00\x10\x02\x11\x05",
        "the items of a tuple .5. would need more than the 0",
    ),
    "variable texts inside an element": (
        b"\x01\x00\x28\x02\x01\x02T\x00C\x01\x01" + bytes(32),
        "variable texts inside",
    ),
    "a str longer than the data": (b"\x01\x00\x07\x7fabc", "the bytes of a str"),
    "a str longer than memory": (b"\x01\x00\x07" + b"\xff" * 9 + b"\x01", "the bytes of a str"),
    "a number of 65 bits": (b"\x01\x00\x03" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
    "a number that is too long": (b"\x01\x00\x03\x80\x00", "with more bytes than it needs"),
    "an int that is too long": (b"\x01\x00\x04\x09" + b"\x01" + bytes(8), "an int is written with more bytes"),
    "no UTF-8": (b"\x01\x00\x07\x02a\xff", "a str is no UTF-8 .*, at byte 5 of 6"),
    "a surrogate without its mark": (b"\x01\x00\x07\x03\xed\xa0\x80", "a str is no UTF-8"),
    "a str that has not come": (b"\x01\x00\x09\x00", "the str number 0, which has not come yet"),
    "a value that has not come": (b"\x01\x00\x10\x01\x0c\x00", "the value number 0, which has not come yet"),
    "a reference in a key": (b"\x01\x00\x10\x02\x11\x00\x12\x01\x11\x01\x0c\x00\x00", "a reference inside a key"),
    "a reference as a key": (
        b"\x01\x00\x10\x02\x11\x00\x12\x01\x0c\x00\x00",
        "a reference to something else than a str",
    ),
    "a reference in a set": (b"\x01\x00\x10\x02\x07\x01a\x13\x01\x09\x00", "a reference inside a key"),
    "a key twice": (b"\x01\x00\x12\x02\x81\x00\x02\x00", "a dict has a key twice"),
    "an element twice": (b"\x01\x00\x13\x02\x81\x02", "a set has an element twice"),
    "a key without a hash": (b"\x01\x00\x12\x01\x10\x00\x00", "unhashable type: 'list'"),
    "a month 13": (b"\x01\x00\x18\xe8\x07\x0d\x01", "month must be in 1..12"),
    "an hour 24": (b"\x01\x00\x19" + (86_400_000_000 << 1).to_bytes(5, "little") + b"\0", "hour must be in 0..23"),
    "a timedelta out of range": (b"\x01\x00\x1b" + uleb(2 * 10**9) + bytes(5), "a timedelta is out of range"),
    "an offset of a day": (b"\x01\x00\x1d\x02" + bytes(5), "strictly between"),
    "a zone of nowhere": (b"\x01\x00\x1f\x04Mars", "the time zone 'Mars' is not found"),
    "a zone outside": (b"\x01\x00\x1f\x0b../../etc/x", "the time zone '../../etc/x' is not found"),
    "a zone that is none": (b"\x01\x00\x19" + bytes(5) + b"\x02", "no time zone begins with the byte 0x02"),
    "a UUID with a mark": (b"\x01\x00\x20" + bytes(16) + b"\x03", "a UUID has an unknown mark"),
    "a Decimal that is none": (b"\x01\x00\x21\x02x1", "ConversionSyntax|not how a Decimal is written"),
    "a Decimal written otherwise": (b"\x01\x00\x21\x0501.50"[:-1], "not how a Decimal is written|would need more"),
    "a class that is not given": (b"\x01\x00\x30\x00", "the class number 0 is not given"),
    "a class of no kind": (b"\x01\x01\x00\x02\x00\x00\x00\x00", "no kind of class has the number 2"),
    "a JSON value that is none": (b"\x01\x00\x38\x11\x00", "which JSON does not have"),
    "an array without numpy's dtype": (b"\x01\x00\x28O|\x08C\x00" + bytes(8), "no dtype begins with the byte 0x4f"),
    "an array larger than the data": (b"\x01\x00\x28d<\x08C\x01\xff\xff\xff\x7f", "an array of 2147483640 bytes"),
    "an array of too many dimensions": (b"\x01\x00\x28d<\x08C\x41" + b"\x01" * 65, "an array has 65 dimensions"),
    "an array too large to count": (b"\x01\x00\x28d<\x08C\x03" + (b"\xff" * 8 + b"\x7f") * 3, "an array of .* bytes"),
    "a size no dtype has": (b"\x01\x00\x28d<\x07C\x00" + bytes(7), "of 7 bytes, which it does not have here"),
    "no order": (b"\x01\x00\x28d<\x08K\x00" + bytes(8), "neither in C nor in F order"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_value_is_refused_with_the_byte(name: str) -> None:
    data, problem = BROKEN[name]
    with pytest.raises(ValidationError, match=rf"cannot read the value: .*({problem})") as caught:
        decode(data, classes=CLASSES)
    assert " byte " in str(caught.value)


@pytest.mark.parametrize("data", ["text", 5, None, [1]])
def test_what_is_not_bytes_is_refused(data: Any) -> None:
    with pytest.raises(ValidationError, match="it comes as bytes, bytearray or memoryview, not"):
        decode(data)


def test_other_kinds_of_bytes_are_read() -> None:
    data = encode([1, numpy.arange(3), numpy.zeros(1, [("a", "i4")]), numpy.zeros(1, [("a", "i4")])[0], b"x" * 99])
    for kind in (bytearray, memoryview, lambda raw: memoryview(b"--" + raw)[2:]):
        assert parts(decode(kind(data))) == parts(decode(data))
    with pytest.raises(ValidationError, match="a memoryview that is"):
        decode(memoryview(data)[::2])


def test_what_was_read_does_not_hold_on_to_the_bytes() -> None:
    data = bytearray(
        encode([numpy.arange(3), numpy.zeros(1, [("a", "i4")]), numpy.zeros(1, [("a", "i4")])[0], b"x" * 99])
    )
    value = decode(data)
    data.clear()  # a BufferError if anything still looked at it
    assert value[0].flags.writeable
    assert value[0].flags.owndata


def test_a_shape_without_elements_costs_nothing() -> None:
    back = there_and_back(numpy.zeros((2**40, 0, 3)))
    assert back.nbytes == 0
    there_and_back(numpy.ndarray((10**12,), "V0"))


@given(st.binary(max_size=200))
def test_random_bytes_give_a_value_or_an_error(tail: bytes) -> None:
    for head in (b"", b"\x01\x00", b"\x01\x00\x10" + uleb(len(tail))):
        decode_safely(head + tail)


CORPUS = sorted((HERE / "corpus" / "codec").glob("*"))


def decode_safely(data: bytes) -> None:
    """`data` gives a storable value, which comes back as itself, or a ValidationError; nothing else."""
    try:
        value = decode(data, classes=CLASSES)
    except ValidationError:
        return
    again = encode(value, classes=CLASSES)
    assert encode(decode(again, classes=CLASSES), classes=CLASSES) == again


@given(
    st.sampled_from([encode(value, classes=CLASSES) for value in VALUES.values()]).filter(
        lambda data: len(data) < 2_000
    ),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.binary(max_size=4),
)
def test_altered_bytes_give_a_value_or_an_error(
    data: bytes, changes: list[tuple[float, int]], cut: tuple[float, float], inserted: bytes
) -> None:
    altered = bytearray(data)
    for place, byte in changes:
        altered[int(place * len(altered))] = byte
    begin, end = sorted(int(place * len(altered)) for place in cut)
    decode_safely(bytes(altered))
    decode_safely(bytes(altered[:begin] + inserted + altered[begin:]))
    decode_safely(bytes(altered[:begin] + altered[end:]))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_corpus_gives_values_or_errors(path: Path) -> None:
    decode_safely(path.read_bytes())


def every_byte_changed(data: bytes) -> Iterator[bytes]:
    for place in range(len(data)):
        for bit in range(8):
            altered = bytearray(data)
            altered[place] ^= 1 << bit
            yield bytes(altered)


def test_each_flipped_bit_gives_a_value_or_an_error() -> None:
    for name in ("decimal", "structured", "instances", "keys", "sets", "datetime", "state values"):
        for altered in every_byte_changed(encode(VALUES[name], classes=CLASSES)):
            decode_safely(altered)


# What earlier versions wrote


# Not in the sample: what is written otherwise on other processors.
OF_THIS_PROCESSOR = {"extended floats", "kinds of the same size"}


def test_the_sample_of_version_1_keeps_its_meaning() -> None:
    """Made once with `encode` of VALUES; it is never made anew, and values that come later are not in it."""
    back = decode((HERE / "data" / "codec_v1.bin").read_bytes(), classes=CLASSES, trust_native=True)
    assert len(back) == 46
    for name, value in back.items():
        assert parts(value) == parts(VALUES[name]), name
