"""Data that crosses the border of the process: events to JSON and back, checked on both ways.

`msgspec` does the work. Added here is what it lets pass (NaN becomes null, two keys become one) and the errors: which
class, which field, which path, what to do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from blazen.errors import ValidationError

T = TypeVar("T", bound=msgspec.Struct)

# An int shorter than this is within every limit Python may put on turning ints into text (at least 640 digits).
_ALWAYS_PRINTABLE_BITS = 2_000
_PLAIN_TYPES = frozenset({type(None), bool, bytes, bytearray, memoryview})


def to_json(event: msgspec.Struct) -> bytes:
    """Return `event` as a JSON object, encoded in UTF-8.

    Raises:
        ValidationError: A value has no place in JSON: NaN and the infinities, objects of unknown classes, dict keys
            that are no strings, numbers or the like, data that contains itself.
    """
    name = type(event).__name__
    try:
        _check(event, "$", [], name)
        return msgspec.json.encode(event)
    except RecursionError:
        raise ValidationError(f"{name}: its data is nested too deeply for JSON", path="$") from None


def from_json(cls: type[T], data: bytes | bytearray | memoryview | str) -> T:
    """Return the `cls` that the JSON object `data` describes.

    Raises:
        ValidationError: `data` is no JSON, or does not fit the fields of `cls`; ``path`` says where.
    """
    if not isinstance(data, bytes | bytearray | memoryview | str):
        raise ValidationError(f"{cls.__name__}: JSON comes as bytes or str, not {type(data).__name__}", path="$")
    try:
        return msgspec.json.decode(data, type=cls)
    except msgspec.ValidationError as error:
        raise _refusal(cls, error) from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ValidationError(f"{cls.__name__}: this is no JSON: {error}", path="$") from error
    except RecursionError:
        raise ValidationError(f"{cls.__name__}: the JSON is nested too deeply", path="$") from None
    except (TypeError, NameError) as error:
        raise _hints_not_understood(cls, error) from error


def from_mapping(cls: type[T], data: Any) -> T:
    """Return the `cls` whose fields are the items of the mapping `data`; the values are taken as they are.

    Raises:
        ValidationError: `data` is no mapping, or does not fit the fields of `cls`; ``path`` says where.
    """
    if not isinstance(data, Mapping):
        fields = ", ".join(cls.__struct_encode_fields__) or "none"
        raise ValidationError(
            f"{cls.__name__}: expected a mapping with its fields ({fields}), got {type(data).__name__}", path="$"
        )
    try:
        return msgspec.convert(data if isinstance(data, dict) else dict(data), cls)
    except msgspec.ValidationError as error:
        raise _refusal(cls, error) from error
    except RecursionError:
        raise ValidationError(f"{cls.__name__}: the data is nested too deeply or contains itself", path="$") from None
    except (TypeError, NameError) as error:
        raise _hints_not_understood(cls, error) from error


def _check(value: Any, path: str, parents: list[int], name: str) -> None:
    """Raise `ValidationError` for the first value under `value` that JSON cannot hold as it is."""
    kind = type(value)
    if kind in _PLAIN_TYPES:
        return
    if kind is str:
        _check_text(value, path, name)
    elif kind is int:
        _check_int(value, path, name)
    elif kind is float:
        if not math.isfinite(value):
            raise ValidationError(f"{name}: JSON has no {value!r}, at {path}; send None or a string", path=path)
    else:
        if id(value) in parents:
            raise ValidationError(f"{name}: the data contains itself, at {path}", path=path)
        parents.append(id(value))
        if isinstance(value, dict):
            _check_dict(value, path, parents, name)
        elif isinstance(value, list | tuple | set | frozenset):
            for index, item in enumerate(value):
                _check(item, f"{path}[{index}]", parents, name)
        elif isinstance(value, msgspec.Struct):
            for field, encoded in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
                item = getattr(value, field)
                if item is not msgspec.UNSET:
                    _check(item, path + _step(encoded), parents, name)
        else:
            _check_other(value, path, parents, name)
        parents.pop()


def _check_text(value: str, path: str, name: str) -> None:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValidationError(f"{name}: text that is no valid Unicode, at {path}: {error}", path=path) from error


def _check_int(value: int, path: str, name: str) -> None:
    if value.bit_length() > _ALWAYS_PRINTABLE_BITS:
        try:
            str(value)
        except ValueError as error:
            raise ValidationError(f"{name}: an int too long to be written, at {path}: {error}", path=path) from error


def _check_dict(value: dict[Any, Any], path: str, parents: list[int], name: str) -> None:
    strings_only = True
    for key, item in value.items():
        if type(key) is str:
            _check_text(key, path, name)
        else:
            strings_only = False
            _check(key, path, parents, name)
        _check(item, path + _step(key), parents, name)
    if strings_only:
        return
    try:
        encoded = msgspec.to_builtins(dict.fromkeys(value), str_keys=True)
    except (TypeError, ValueError) as error:
        raise ValidationError(f"{name}: a dict with keys JSON cannot hold, at {path}: {error}", path=path) from error
    if len(encoded) != len(value):
        raise ValidationError(f"{name}: two keys of a dict are the same in JSON, at {path}; use strings", path=path)


def _check_other(value: Any, path: str, parents: list[int], name: str) -> None:
    """Check what only `msgspec` knows how to encode: dates, UUIDs, enums, dataclasses and so on."""
    _check_transient(value, path, name)
    try:
        encoded = msgspec.to_builtins(value)
    except (TypeError, ValueError) as error:
        raise ValidationError(
            f"{name}: JSON cannot hold a {type(value).__module__}.{type(value).__qualname__}, at {path}: {error}",
            path=path,
        ) from error
    _check(encoded, path, parents, name)


def _check_transient(value: Any, path: str, name: str) -> None:
    """Refuse a `BlazenState` with transient fields, also inside dataclasses: `msgspec` would write them too."""
    kind = type(value)
    layout = getattr(kind, "_blazen_layout", None)
    if layout is not None and layout.transient:
        raise ValidationError(
            f"{name}: a {kind.__module__}.{kind.__qualname__} has transient fields, which are never written, at "
            f"{path}; send the fields that are wanted",
            path=path,
        )
    if hasattr(kind, "__dataclass_fields__"):
        for field in kind.__dataclass_fields__:
            _check_transient(getattr(value, field, None), path + _step(field), name)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_transient(item, path + _step(key), name)
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(value):
            _check_transient(item, f"{path}[{index}]", name)


def _step(key: Any) -> str:
    """Return what leads from a value to its item `key`, as it is written in a path."""
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"


def _refusal(cls: type[msgspec.Struct], error: msgspec.ValidationError) -> ValidationError:
    """Turn what `msgspec` says into our error: it names the field in the text, the path leads to the field's parent."""
    text, _, where = str(error).rpartition(" - at ")
    if not text:
        text, where = where, "`$`"
    path = where.removeprefix("`key` in ").strip("`")
    if text.startswith("Object missing required field `"):
        field = text.split("`")[1]
        path += _step(field)
        return ValidationError(f"{cls.__name__}: the required field {field!r} is missing, at {path}", path=path)
    if text.startswith("Object contains unknown field `"):
        field = text.split("`", 1)[1].removesuffix("`")
        hint = _fields_hint(cls, field) if path == "$" else "leave it out"
        path += _step(field)
        return ValidationError(f"{cls.__name__}: unknown field {field!r}, at {path}; {hint}", path=path)
    key = " (a key)" if where.startswith("`key`") else ""
    return ValidationError(f"{cls.__name__}: {text[:1].lower()}{text[1:]}{key}, at {path}", path=path)


def _fields_hint(cls: type[msgspec.Struct], wrong: str) -> str:
    import difflib  # only for an error: too much to load for every `import blazen`

    close = difflib.get_close_matches(wrong, cls.__struct_encode_fields__, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    fields = ", ".join(cls.__struct_encode_fields__)
    return f"its fields are: {fields}" if fields else "it has no fields"


def _hints_not_understood(cls: type[msgspec.Struct], error: Exception) -> ValidationError:
    return ValidationError(
        f"{cls.__name__}: data from outside cannot be checked against its fields: {error}. Give each field a type that "
        "is known where the class stands; a field that may hold one of several structs needs tagged ones, or Any"
    )
