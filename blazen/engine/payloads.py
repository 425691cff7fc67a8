"""Payloads as a record keeps them: what JSON can say as JSON, anything else by a short, tagged description.

A payload is written as it is at that moment, so that what a step changes later does not change the record, and it is
never longer than a bound, so that a run that passes large values on pays for their description only.

Whatever is no plain JSON is a dict with the key `"$blazen"`, which says what it stands for:
    `{"$blazen": "repr", "type": "builtins.bytes", "repr": "b'...'", "size": 4096}`  anything JSON has no word for
    `{"$blazen": "cut", "type": "str", "text": "Once upon a ...", "size": 123456}`   the begin of a long text
    `{"$blazen": "list", "items": [...], "size": 10000}`                             the begin of a long list
    `{"$blazen": "dict", "items": [[key, value], ...], "size": 3}`                   any other dict, or its begin
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

# Characters of JSON a payload may take, about. What is cut says its real size.
LIMIT = 10_000
# What a text is cut to when there is no room left, and how long a `repr` may be.
SHORT = 100
REPR = 300
DEEPEST = 40
# Larger ones would be another number where JSON is read as JavaScript does.
_LARGEST_INT = 2**53 - 1
# These JSON says as text, as `Event.to_json` does.
_AS_TEXT = frozenset(
    {"datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta", "uuid.UUID", "decimal.Decimal"}
)
_TAG = "$blazen"


def payload(value: object, limit: int = LIMIT) -> Any:
    """What a record keeps of an event or of any other object.

    It never raises what `value` raises while it is looked at: that is then what the payload says.
    """
    return _Writer(limit).write(value)


def payload_of_plain(event: msgspec.Struct) -> Any:
    """The payload of an event that has been kept as it is: the same as `payload`, sooner where nothing is special."""
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    for value in fields.values():
        kind = type(value)
        if value is None or kind is bool:
            continue
        if kind is int:
            if -_LARGEST_INT <= value <= _LARGEST_INT:
                continue
        elif kind is str:
            if value.isascii() and len(value) < LIMIT // 10:
                continue
        elif kind is float and math.isfinite(value):
            continue
        return payload(event)
    return fields


def short_text(text: str, limit: int) -> str:
    """`text`, or its begin and end around a note of how much is left out; without characters UTF-8 cannot say."""
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half:,} characters left out ...\n{text[-half:]}"
    return _sayable(text)


def type_name(value: object) -> str:
    """The full name of the type of a value."""
    cls = type(value)
    return f"{cls.__module__}.{cls.__qualname__}"


def _sayable(text: str) -> str:
    if text.isascii():
        return str(text)
    return text.encode("utf-8", "backslashreplace").decode()


class _Writer:
    """Writes one payload; counts how much room is left."""

    __slots__ = ("_parents", "_room")

    def __init__(self, room: int) -> None:
        self._room = room
        self._parents: list[int] = []

    def write(self, value: object) -> Any:
        """The payload of one value."""
        kind = type(value)
        if value is None or kind is bool:
            self._room -= 5
            return value
        if kind is str:
            return self._text(value)  # type: ignore[arg-type]
        try:
            return self._other(value)
        except KeyboardInterrupt:  # of the person at the terminal, not of the value
            raise
        except BaseException as error:  # whatever the value's own code raises, it is not the run's failure
            self._room -= SHORT
            return {_TAG: "repr", "type": type_name(value), "repr": f"<cannot be shown: {type(error).__name__}>"}

    def _text(self, text: str) -> Any:
        room = max(self._room, SHORT)
        if len(text) > room:
            self._room -= room
            return {_TAG: "cut", "type": "str", "text": _sayable(text[:room]), "size": len(text)}
        self._room -= len(text) + 3
        return _sayable(text)

    def _other(self, value: object) -> Any:
        kind = type(value)
        if kind is int:
            if -_LARGEST_INT <= value <= _LARGEST_INT:  # type: ignore[operator]
                self._room -= 10
                return value
            return self._described(value, f"{value.bit_length()} bits" if value.bit_length() > 900 else str(value))  # type: ignore[attr-defined]
        if kind is float:
            self._room -= 10
            return value if math.isfinite(value) else self._described(value, repr(value))  # type: ignore[arg-type]
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, bytes | bytearray | memoryview):
            begin = bytes(value[:64])
            dots = "..." if len(value) > len(begin) else ""
            return self._described(value, f"{begin!r}{dots}", size=memoryview(value).nbytes)
        if id(value) in self._parents:
            return self._described(value, "<contains itself>")
        if len(self._parents) >= DEEPEST:
            return self._described(value, "<nested more deeply than is recorded>")
        self._parents.append(id(value))
        try:
            return self._container(value)
        finally:
            self._parents.pop()

    def _container(self, value: object) -> Any:
        if isinstance(value, dict):
            return self._dict(value)
        if isinstance(value, list | tuple | set | frozenset):
            return self._list(value)
        fields = getattr(type(value), "__struct_fields__", None)
        if fields is None:
            fields = getattr(type(value), "__dataclass_fields__", None)
        if fields is not None:
            return {field: self.write(getattr(value, field, None)) for field in fields}
        name = type_name(value)
        if name in _AS_TEXT:
            return self.write(msgspec.to_builtins(value))
        if name == "numpy.ndarray" and value.size > 20:  # type: ignore[attr-defined]
            text = f"array of {value.dtype}, shape {value.shape}"  # type: ignore[attr-defined]
            return self._described(value, text, size=int(value.nbytes))  # type: ignore[attr-defined]
        return self._described(value, repr(value))

    def _list(self, value: list[Any] | tuple[Any, ...] | set[Any] | frozenset[Any]) -> Any:
        items: list[Any] = []
        for item in value:
            if self._room <= 0:
                return {_TAG: "list", "items": items, "size": len(value)}
            items.append(self.write(item))
        self._room -= 2
        return items

    def _dict(self, value: dict[Any, Any]) -> Any:
        items: list[Any] = []
        plain = _TAG not in value
        for key, item in value.items():
            if self._room <= 0:
                return {_TAG: "dict", "items": items, "size": len(value)}
            plain = plain and type(key) is str and len(key) <= REPR
            items.append([self.write(key), self.write(item)])
        self._room -= 2
        if plain and len({key for key, _ in items if type(key) is str}) == len(items):
            return dict(items)
        return {_TAG: "dict", "items": items, "size": len(value)}

    def _described(self, value: object, text: str, size: int | None = None) -> Any:
        """What stands for something JSON has no word for. `size` is in bytes."""
        found: dict[str, Any] = {_TAG: "repr", "type": type_name(value)}
        if not isinstance(text, str):
            text = f"<repr is a {type(text).__name__}>"
        found["repr"] = _sayable(text[:REPR]) + ("..." if len(text) > REPR else "")
        if size is not None:
            found["size"] = size
        elif len(text) > REPR:
            found["characters"] = len(text)
        self._room -= SHORT + len(found["repr"])
        return found
