"""A slow, obvious model of the state store: what `StateStore` must answer to the same calls.

It checks values by plain recursion, without sharing anything with the compiled code but the errors it raises.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import math
import uuid
import zoneinfo
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy

from blazen.errors import ValidationError

LEAVES = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    bytearray,
    datetime.date,
    datetime.timedelta,
    datetime.timezone,
    zoneinfo.ZoneInfo,
    uuid.UUID,
    decimal.Decimal,
)
MAX_DEPTH = 500


def is_storable(value: Any, types: frozenset[type], above: tuple[Any, ...] = ()) -> bool:
    kind = type(value)
    if kind in LEAVES:
        return True
    if kind in (datetime.datetime, datetime.time):
        return value.tzinfo is None or type(value.tzinfo) in (datetime.timezone, zoneinfo.ZoneInfo)
    if kind is numpy.ndarray or isinstance(value, numpy.generic):
        return not value.dtype.hasobject
    if any(value is container for container in above) or len(above) >= MAX_DEPTH:
        return False
    if kind in (list, tuple, set, frozenset):
        parts: Iterable[Any] = value
    elif kind is dict:
        parts = [part for pair in value.items() for part in pair]
    elif kind in types and dataclasses.is_dataclass(kind):
        parts = [getattr(value, field.name) for field in dataclasses.fields(kind)]
    elif kind in types and issubclass(kind, msgspec.Struct):
        parts = [getattr(value, name) for name in kind.__struct_fields__]
    else:
        return False
    return all(is_storable(part, types, (*above, value)) for part in parts)


def is_json(value: Any) -> bool:
    if value is None or type(value) in (bool, int):
        return True
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is str:
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if type(value) is list:
        return all(is_json(item) for item in value)
    if type(value) is dict:
        return all(type(key) is str and is_json(key) and is_json(item) for key, item in value.items())
    return False


class ReferenceStore:
    """`entries` maps a key to a pair: how it was stored ("set", or the kind of a `StateValue`) and what."""

    def __init__(self, types: Iterable[type] = ()) -> None:
        self.types = frozenset(types)
        self.entries: dict[str, tuple[str, Any]] = {}

    def _check_key(self, key: Any) -> None:
        if type(key) is not str or key == "":
            raise ValidationError("key")

    def set(self, key: Any, value: Any) -> None:
        self._check_key(key)
        if not is_storable(value, self.types):
            raise ValidationError("value")
        self.entries[key] = ("set", value)

    def get(self, key: Any, default: Any = None) -> Any:
        self._check_key(key)
        return self.entries[key][1] if key in self.entries else default

    def set_bytes(self, key: Any, data: Any) -> None:
        self._check_key(key)
        if not isinstance(data, bytes | bytearray | memoryview):
            raise ValidationError("data")
        self.entries[key] = ("set", bytes(data))

    def get_bytes(self, key: Any) -> bytes | None:
        described = self.get_value(key)
        if described is None:
            return None
        kind, value = described
        if kind not in ("bytes", "native_bytes"):
            raise ValidationError("no bytes")
        assert isinstance(value, bytes)
        return value

    def set_value(self, key: Any, kind: str, value: Any) -> None:
        self._check_key(key)
        self.entries[key] = (kind, value)

    def get_value(self, key: Any) -> tuple[str, Any] | None:
        self._check_key(key)
        if key not in self.entries:
            return None
        kind, value = self.entries[key]
        if kind == "set":
            kind = "bytes" if type(value) is bytes else "json" if is_json(value) else "value"
        return kind, value

    def delete(self, key: Any) -> bool:
        self._check_key(key)
        return self.entries.pop(key, None) is not None

    def has(self, key: Any) -> bool:
        self._check_key(key)
        return key in self.entries

    def keys(self) -> list[str]:
        return list(self.entries)

    def items(self) -> list[tuple[str, Any]]:
        return [(key, value) for key, (_, value) in self.entries.items()]

    def update(self, pairs: list[tuple[Any, Any]]) -> None:
        for key, value in pairs:
            self._check_key(key)
            if not is_storable(value, self.types):
                raise ValidationError("value")
        for key, value in pairs:
            self.entries[key] = ("set", value)

    def setdefault(self, key: Any, default: Any) -> Any:
        self._check_key(key)
        if key not in self.entries:
            self.set(key, default)
        return self.entries[key][1]

    def pop(self, key: Any) -> Any:
        self._check_key(key)
        return self.entries.pop(key)[1]

    def popitem(self) -> tuple[str, Any]:
        key, (_, value) = self.entries.popitem()
        return key, value

    def broken_keys(self) -> Iterator[str]:
        """The keys whose values have changed to something a store does not take."""
        for key, (kind, value) in self.entries.items():
            if (kind == "set" and not is_storable(value, self.types)) or (kind == "json" and not is_json(value)):
                yield key
