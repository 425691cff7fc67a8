"""A snapshot as JSON for people: everything that is in it, without any of the workflow's classes, no pickle opened.

What JSON has stands as itself, everything else as an object with one key that begins with `$`. Nothing here recurses,
since values may be nested deeper than Python calls may be; and what is reached by several ways is shown once if it is
large, since a few bytes of references to references could otherwise fill any memory.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import json
import math
import sys
import uuid
import zoneinfo
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

import blazen.state  # noqa: F401 - so that the codec knows states
from blazen._core.codec import Described, UnopenedNative, describe
from blazen._core.state import StateValue
from blazen.errors import ValidationError

if TYPE_CHECKING:
    from blazen.snapshot import Meta

_LINE = 100  # characters in a line, as far as that can be chosen
_DEEPEST = 40  # levels of indentation: more would be mostly blanks
_ONCE = 300  # what is longer is shown once, and referred to where it comes again
_BLANKS = 20  # that a line is taken to begin with where its length is guessed
_ELEMENTS = 100  # of an array
_NAME = 200  # characters of a name of a class or field, which stands before each value of it
_BITS = 2000  # of a number; Python and others refuse to read much longer ones

_ATTEMPT = ("step", "seq", "event", "attempt", "handling", "error", "left", "joined", "calls")
_CALL = ("request_id", "answered", "value", "checked", "left")
_JOIN = ("step", "key", "events")
_USAGE = ("input_tokens", "output_tokens", "cost_usd")
_TYPED = ("key", "class", "fields", "elsewhere")
_SESSION = ("keys", "pickle", "dropped")


def to_json(meta: Meta, sections: dict[str, bytes]) -> str:
    """The sections of a snapshot as JSON, indented.

    Raises:
        ValidationError: One of them is damaged; the message says which.
    """
    shown: dict[str, Callable[[bytes], _Named]] = {
        "meta": lambda _: _Named(msgspec.structs.asdict(meta)),
        "run": lambda data: _run(describe(data)),
        "state": lambda data: _state(describe(data)),
        "session": lambda data: _session(describe(data)),
    }
    writer = _Writer()
    parts: list[tuple[str, _Text]] = []
    for name, show in shown.items():
        try:
            parts.append((f"{_quoted(name)}: ", writer.shown(show(sections[name]), name)))
        except MemoryError:
            raise
        except Exception as error:  # whatever is damaged may break: a number out of range, a name that is none
            problem = str(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
            raise ValidationError(f"cannot show the snapshot: its section {name!r} is damaged: {problem}") from error
    return "\n".join(_lines(_Block("{", "}", parts))) + "\n"


def value_to_json(data: bytes) -> str:
    """One encoded value as JSON, indented.

    Raises:
        ValidationError: It is damaged.
    """
    text = _Writer().shown(describe(data), "value")
    return text if isinstance(text, str) else "\n".join(_lines(text))


# --- the sections: names for what the engine writes by position


class _Named:
    """Shown as an object with these keys."""

    __slots__ = ("items",)

    def __init__(self, items: dict[str, object]) -> None:
        self.items = items


def _run(remembered: Any) -> _Named:
    items = dict(_typed(remembered, dict, "it"))
    items["attempts"] = [_attempt(one) for one in _typed(items["attempts"], list, "its attempts")]
    items["joins"] = [_by_position(one, _JOIN) for one in _typed(items["joins"], list, "its joins")]
    if items["usage"] is not None:
        items["usage"] = _by_position(items["usage"], _USAGE)
    return _Named(items)


def _attempt(one: Any) -> _Named:
    named = _by_position(one, _ATTEMPT)
    calls = _typed(named.items["calls"], tuple, "its calls")
    named.items["calls"] = [_by_position(call, _CALL) for call in calls]
    return named


def _state(value: Any) -> _Named:
    states, values = _typed(value, tuple, "it")
    typed = []
    for one in _typed(states, list, "its states"):
        named = _by_position(one, _TYPED)
        for name in ("fields", "elsewhere"):
            named.items[name] = list(_typed(named.items[name], tuple, f"its {name}"))
        typed.append(named)
    return _Named({"typed": typed, "values": _typed(values, dict, "its values")})


def _session(value: Any) -> _Named:
    named = _by_position(value, _SESSION)
    for name in ("keys", "dropped"):
        named.items[name] = list(_typed(named.items[name], tuple, f"its {name}"))
    data = named.items["pickle"]
    if data is not None:
        named.items["pickle"] = StateValue.native(UnopenedNative(_typed(data, bytes, "its pickle")))
    return named


def _by_position(value: Any, names: tuple[str, ...]) -> _Named:
    return _Named(dict(zip(names, _typed(value, tuple, f"({', '.join(names)})"), strict=True)))


def _typed(value: Any, cls: type, what: str) -> Any:
    if type(value) is not cls:
        raise ValidationError(f"{what} should be a {cls.__name__}, not a {type(value).__name__}")
    return value


# --- text that is laid out: a str is on one line, a block on several


class _Block:
    """Brackets around parts, each of which has something before it, such as its key."""

    __slots__ = ("close", "dense", "open", "parts", "size")

    def __init__(self, opening: str, closing: str, parts: list[tuple[str, _Text]], *, dense: bool = False) -> None:
        self.open = opening
        self.close = closing
        self.parts = parts
        self.dense = dense  # as many parts in a line as fit
        self.size = sum(_BLANKS + len(lead) + _size(text) for lead, text in parts)


_Text = str | _Block


def _size(text: _Text) -> int:
    return len(text) if isinstance(text, str) else text.size


def _bracketed(opening: str, closing: str, parts: list[tuple[str, _Text]]) -> _Text:
    if all(isinstance(text, str) for _, text in parts):
        if sum(len(lead) + len(text) + 2 for lead, text in parts if isinstance(text, str)) <= _LINE:
            return opening + ", ".join(f"{lead}{text}" for lead, text in parts) + closing
        dense = all(not lead and len(text) <= _LINE // 4 for lead, text in parts if isinstance(text, str))
        return _Block(opening, closing, parts, dense=dense)
    return _Block(opening, closing, parts)


def _object(*parts: tuple[str, _Text]) -> _Text:
    return _bracketed("{", "}", [(f"{_quoted(key)}: ", text) for key, text in parts])


def _list(texts: Iterable[_Text]) -> _Text:
    return _bracketed("[", "]", [("", text) for text in texts])


def _lines(block: _Block) -> Iterator[str]:
    """The lines of a block."""
    yield block.open
    open_blocks: list[tuple[_Block, int]] = [(block, 0)]
    while open_blocks:
        block, index = open_blocks.pop()
        blanks = "  " * min(len(open_blocks) + 1, _DEEPEST)
        if block.dense:
            yield from _filled(block, blanks)
            index = len(block.parts)
        if index == len(block.parts):
            comma = "," if open_blocks and open_blocks[-1][1] < len(open_blocks[-1][0].parts) else ""
            yield "  " * min(len(open_blocks), _DEEPEST) + block.close + comma
            continue
        lead, text = block.parts[index]
        open_blocks.append((block, index + 1))
        if isinstance(text, str):
            yield f"{blanks}{lead}{text}{',' if index + 1 < len(block.parts) else ''}"
        else:
            yield f"{blanks}{lead}{text.open}"
            open_blocks.append((text, 0))


def _filled(block: _Block, blanks: str) -> Iterator[str]:
    line = blanks
    for index, (_, text) in enumerate(block.parts):
        assert isinstance(text, str)
        more = f"{text}{',' if index + 1 < len(block.parts) else ''}"
        if line != blanks and len(line) + 1 + len(more) > _LINE + len(blanks):
            yield line
            line = blanks
        line += more if line == blanks else f" {more}"
    yield line


# --- values


class _Place:
    """Where a value is, as a chain to the top: only what is referred to has to be spelled."""

    __slots__ = ("above", "part")

    def __init__(self, above: _Place | None, part: str | int) -> None:
        self.above = above
        self.part = part

    def __str__(self) -> str:
        parts: list[str] = []
        place: _Place | None = self
        while place is not None:
            part = place.part if isinstance(place.part, int) else _cut(place.part, 30)
            parts.append(f".{part}" if isinstance(part, str) and part.isidentifier() else f"[{part!r}]")
            place = place.above
        parts.reverse()
        if len(parts) > 8:
            parts[4:-4] = [f" ({len(parts) - 8} more) "]
        return f"${''.join(parts)}"


_Walk = Generator["tuple[object, _Place]", "_Text", "_Text"]


class _Writer:
    """Lays out values; remembers what it has shown."""

    def __init__(self) -> None:
        # The value is kept: its address must stay its own.
        self._shown: dict[int, tuple[object, _Text, _Place]] = {}

    def shown(self, value: object, name: str) -> _Text:
        """Lay out a value with all that is in it, by a stack of walks instead of by recursion."""
        walks: list[tuple[_Walk, object, _Place]] = []
        where = _Place(None, name)
        text: _Text | None = self._at_once(value)
        if text is None:
            walks.append((self._walk(value, where), value, where))
        while walks:
            walk, walked, place = walks[-1]
            try:
                inner, inner_place = walk.send(text) if text is not None else next(walk)
            except StopIteration as done:
                walks.pop()
                text = done.value
                assert text is not None
                self._shown[id(walked)] = (walked, text, place)
                continue
            text = self._at_once(inner)
            if text is None:
                walks.append((self._walk(inner, inner_place), inner, inner_place))
            elif type(inner) in _REPEATED and _size(text) > _ONCE and id(inner) not in self._shown:
                self._shown[id(inner)] = (inner, text, inner_place)
        assert text is not None
        return text

    def _at_once(self, value: object) -> _Text | None:
        """The text of what holds no other values, or was shown before."""
        known = self._shown.get(id(value))
        if known is not None:
            return known[1] if _size(known[1]) <= _ONCE else _object(("$same", _quoted(str(known[2]))))
        leaf = _LEAVES.get(type(value))
        if leaf is not None:
            return leaf(value)
        return None

    def _walk(self, value: Any, place: _Place) -> _Walk:
        cls = type(value)
        if cls is list:
            return (yield from self._items(value, place))
        if cls is dict:
            return (yield from self._dict(value, place))
        if cls is _Named:
            return (yield from self._fields(list(value.items.items()), place))
        if cls is Described:
            return (yield from self._instance(value, place))
        if cls is StateValue:
            return (yield from self._held(value, place))
        if cls is tuple or cls is set or cls is frozenset:
            return _object((f"${cls.__name__}", (yield from self._items(value, place))))
        return _numpy(value)

    def _items(self, values: Iterable[object], place: _Place) -> _Walk:
        texts = []
        for index, item in enumerate(values):
            texts.append((yield item, _Place(place, index)))
        return _list(texts)

    def _dict(self, value: dict[Any, object], place: _Place) -> _Walk:
        if all(type(key) is str and not key.startswith("$") and len(key) <= _NAME for key in value):
            return (yield from self._fields(list(value.items()), place))
        pairs = []
        for index, (key, item) in enumerate(value.items()):
            inner = _Place(place, index)
            key_text = yield key, inner
            pairs.append(_list([key_text, (yield item, inner)]))
        return _object(("$dict", _list(pairs)))

    def _fields(self, items: list[tuple[str, object]], place: _Place, *first: tuple[str, _Text]) -> _Walk:
        parts = list(first)
        for key, item in items:
            parts.append((key, (yield item, _Place(place, key))))
        return _object(*parts)

    def _instance(self, value: Described, place: _Place) -> _Walk:
        name = _quoted(_cut(value.name, _NAME))
        names = [_cut(field, _NAME) for field in value.fields]
        if len(set(names)) == len(names) and not any(field.startswith("$") for field in names):
            return (yield from self._fields(list(zip(names, value.values, strict=True)), place, ("$class", name)))
        pairs = []
        for field, item in zip(names, value.values, strict=True):
            pairs.append(_list([_quoted(field), (yield item, _Place(place, field))]))
        return _object(("$class", name), ("$fields", _list(pairs)))

    def _held(self, value: StateValue, place: _Place) -> _Walk:
        if value.kind == "native":
            data = value.value
            assert isinstance(data, UnopenedNative)  # `describe` opens none
            return _object(("$native", str(len(data.data))))
        if value.kind == "bytes" or value.kind == "native_bytes":
            return _object((f"$StateValue.{value.kind}", _base64(value.value)))
        return _object((f"$StateValue.{value.kind}", (yield value.value, place)))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _quoted(text: str) -> str:
    if text.isascii():
        return json.dumps(text)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(text)  # a lone surrogate can only be written as an escape
    return json.dumps(text, ensure_ascii=False)


def _base64(data: bytes | bytearray) -> str:
    return f'"{base64.b64encode(data).decode("ascii")}"'


def _int(value: int) -> str:
    return str(value) if value.bit_length() <= _BITS else _tagged("int", hex(value))


def _float(value: float) -> str:
    return repr(value) if math.isfinite(value) else _tagged("float", repr(value))


def _tagged(tag: str, text: str) -> str:
    return f'{{"${tag}": {_quoted(text)}}}'


def _time(value: dt.datetime | dt.time) -> str:
    parts = [(f"${type(value).__name__}", _quoted(value.replace(tzinfo=None).isoformat()))]
    if value.tzinfo is not None:
        parts.append(("zone", _quoted(str(value.tzinfo))))
        if type(value.tzinfo) is dt.timezone and str(value.tzinfo) != str(_unnamed(value.tzinfo)):
            parts.append(("offset", _quoted(str(_unnamed(value.tzinfo)))))
    if value.fold:
        parts.append(("fold", "1"))
    return "{" + ", ".join(f"{_quoted(key)}: {text}" for key, text in parts) + "}"


def _unnamed(zone: dt.timezone) -> dt.timezone:
    return dt.timezone(zone.utcoffset(None))


def _zone(zone: dt.timezone) -> str:
    plain = str(_unnamed(zone))
    text = _tagged("timezone", str(zone))
    return text if str(zone) == plain else f'{text[:-1]}, "offset": {_quoted(plain)}}}'


_LEAVES: dict[type, Callable[[Any], str]] = {
    type(None): lambda value: "null",
    bool: lambda value: "true" if value else "false",
    int: _int,
    float: _float,
    str: _quoted,
    complex: lambda value: _tagged("complex", repr(value)),
    bytes: lambda value: f'{{"$bytes": {_base64(value)}}}',
    bytearray: lambda value: f'{{"$bytearray": {_base64(value)}}}',
    dt.date: lambda value: _tagged("date", value.isoformat()),
    dt.time: _time,
    dt.datetime: _time,
    dt.timedelta: lambda value: _tagged("timedelta", str(value)),
    dt.timezone: _zone,
    zoneinfo.ZoneInfo: lambda value: _tagged("zoneinfo", value.key),
    uuid.UUID: lambda value: _tagged("uuid", str(value)),
    decimal.Decimal: lambda value: _tagged("decimal", str(value)),
}
_REPEATED = (str, bytes, bytearray)
_PLAIN = (bool, int, float, complex, str, bytes)


# --- NumPy: values of it exist only where it is loaded


def _numpy(value: Any) -> _Text:
    numpy = sys.modules["numpy"]
    dtype = _quoted(_cut(str(value.dtype), _NAME))
    if not isinstance(value, numpy.ndarray):
        return _object(("$numpy", _object(("dtype", dtype), ("value", _element(value)))))
    values = []
    for index in range(min(value.size, _ELEMENTS)):
        try:
            values.append(_element(value.flat[index]))
        except (ValueError, SystemError):  # a text with characters that there are not
            values.append(_tagged("raw", value.flat[index : index + 1].tobytes().hex()))
    parts: list[tuple[str, _Text]] = [
        ("dtype", dtype),
        ("shape", _list([str(length) for length in value.shape])),
        ("values", _list(values)),
    ]
    if value.size > _ELEMENTS:
        parts.append(("more", str(value.size - _ELEMENTS)))
    return _object(("$ndarray", _object(*parts)))


def _element(value: Any) -> str:
    """One element of an array, in a line."""
    plain = value if type(value) is str else value.item()
    # Times are ints in some units, and then do not say which.
    if type(plain) in _PLAIN and type(value).__name__ not in ("datetime64", "timedelta64"):
        return _LEAVES[type(plain)](plain)
    return _quoted(_cut(str(value), _ONCE))
