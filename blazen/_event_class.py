"""What makes a class an event: its type name, its fields, and JSON both ways.

An event is a frozen `msgspec.Struct`. Constructing one costs what the bare struct costs: whatever is particular about
events is settled when the class is made.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import msgspec
from msgspec import StructMeta

from blazen import _outside
from blazen._core.construct import call_like_base
from blazen.errors import ValidationError

PER_INSTANCE = object()
"""As ``type=`` of a class: each event brings its own type name, as a field."""

_RESERVED_PREFIX = "blazen::"
_METHODS = ("to_dict", "to_json", "from_dict", "from_json")
_CLASS_OPTIONS = frozenset(
    {"cache_hash", "gc", "kw_only", "omit_defaults", "order", "rename", "repr_omit_defaults", "weakref"}
)
_M = TypeVar("_M", bound="EventMeta")
_E = TypeVar("_E", bound="Event")


@call_like_base
class EventMeta(StructMeta):
    """The class of event classes: gives each its type name and refuses what an event cannot be."""

    def __new__(mcls: type[_M], name: str, bases: tuple[type, ...], namespace: dict[str, Any], /, **options: Any) -> _M:
        given = options.pop("type", None)
        if not namespace.get("__module__", "").startswith("blazen."):
            _check_options(name, options)
            _check_field_names(name, namespace)
            _check_type(name, bases, given)
            _resolve_annotations(namespace)
        if given is not PER_INSTANCE:
            namespace["event_type"] = given or _kept_type(bases) or name
        return super().__new__(mcls, name, bases, namespace, **options)


def _check_options(name: str, options: dict[str, Any]) -> None:
    for option, value in options.items():
        # These hold for every event already; to repeat them does no harm.
        if option in ("frozen", "eq", "forbid_unknown_fields") and value is True:
            continue
        if option not in _CLASS_OPTIONS:
            raise ValidationError(
                f"class {name}: the class option {option}={value!r} is not for events, which are immutable, comparable "
                f"JSON objects; the options are type, {', '.join(sorted(_CLASS_OPTIONS))}"
            )


def _check_field_names(name: str, namespace: dict[str, Any]) -> None:
    names = {*namespace, *namespace.get("__annotations__", {})}
    if "event_type" in names:
        raise ValidationError(
            f"class {name}: event_type is the name the event is routed by, it cannot be a field; "
            f'to set it write class {name}(Event, type="…"), or call the field something else'
        )
    for method in _METHODS:
        if method in namespace.get("__annotations__", {}):
            raise ValidationError(f"class {name}: a field cannot be called {method}, every event has this method")


def _kept_type(bases: tuple[type, ...]) -> str | None:
    """Return the type name that a class with these bases inherits; ``None`` if it has one of its own."""
    return next(
        (str(base.__dict__["event_type"]) for base in bases if getattr(base, "_subclasses_keep_type", False)), None
    )


def _check_type(name: str, bases: tuple[type, ...], given: Any) -> None:
    if given is not None and (not isinstance(given, str) or not given.strip()):
        raise ValidationError(f"class {name}: type must be a string that is not empty, got {given!r}")
    for base in bases:
        if getattr(base, "_no_subclasses", False):
            raise ValidationError(f"class {name}: {base.__name__} cannot be subclassed; derive typed events from Event")
    kept = _kept_type(bases)
    if kept is not None:
        others = {str(base.__dict__["event_type"]) for base in bases if isinstance(base, EventMeta)} - {kept}
        if others:
            raise ValidationError(f"class {name}: an event cannot be of two types, {kept!r} and {others.pop()!r}")
        if given not in (None, kept):
            raise ValidationError(f"class {name}: it keeps the type {kept!r}, leave type={given!r} out")
    elif given is not None and given.startswith(_RESERVED_PREFIX):
        raise ValidationError(
            f"class {name}: types that begin with {_RESERVED_PREFIX!r} are blazen's own; choose another than {given!r}"
        )


def _resolve_annotations(namespace: dict[str, Any]) -> None:
    """Replace postponed annotations by the types they name, where these are known already.

    Done now because later, when outside data is checked, the names of an enclosing function are gone. What is not known
    yet stays text, and is looked up in the module when it is needed.
    """
    annotations = namespace.get("__annotations__", {})
    if not any(isinstance(hint, str) for hint in annotations.values()):
        return
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("blazen."):
        frame = frame.f_back
    for field, hint in annotations.items():
        if isinstance(hint, str):
            try:
                annotations[field] = eval(hint, frame.f_globals, frame.f_locals)
            except Exception:
                continue


# Here and not at the metaclass: type checkers look at the bases first, where Struct says that fields may be set.
@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, metaclass=EventMeta, frozen=True, forbid_unknown_fields=True):
    """The base of typed events. Fields are annotations, as in a dataclass; a field may have a default.

    ``class Greet(Event)`` is routed by the name ``"Greet"``, ``class Greet(Event, type="my_app::Greet")`` by the given
    one. A subclass of an event has a type name of its own: subclassing does not route.

    Events are immutable and compare by class and fields; they are hashable if their fields are, can be pickled and
    copied. Constructing one follows Python: a missing or unknown field is a ``TypeError``, the types of the fields are
    not checked. Data from outside (`from_dict`, `from_json`, the input of a typed `StartEvent`) is checked.

    Attributes:
        event_type: The name it is routed by; on the class and on each event.

    Raises:
        ValidationError: When the class is made: ``type`` is empty, no string or begins with ``blazen::``; a field is
            called ``event_type``; a class option contradicts the above.
    """

    event_type: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name; the values are not copied, and events among them stay events."""
        names = self.__struct_encode_fields__
        return {name: getattr(self, field) for name, field in zip(names, self.__struct_fields__, strict=True)}

    def to_json(self) -> bytes:
        """Return the fields as a JSON object, in UTF-8. What JSON cannot hold exactly is refused, never altered.

        Bytes become Base64, dates and UUIDs text, tuples and sets arrays; `from_json` turns them back as far as the
        types of the fields say so.

        Raises:
            ValidationError: A value has no place in JSON (NaN and the infinities, objects of other classes, data that
                contains itself); ``path`` says where.
        """
        return _outside.to_json(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the event whose fields are the items of `data`, which comes from outside.

        Raises:
            ValidationError: A field is missing, unknown or of another type; ``path`` says where.
        """
        return _outside.from_mapping(class_to_fill(cls), data)

    @classmethod
    def from_json(cls, data: bytes | bytearray | memoryview | str) -> Self:
        """Return the event that the JSON object `data` describes.

        Raises:
            ValidationError: `data` is no JSON, or a field is missing, unknown or of another type; ``path`` says where.
        """
        return _outside.from_json(class_to_fill(cls), data)


def class_to_fill(cls: type[_E]) -> type[_E]:
    """Return the class whose fields outside data for `cls` has to fit: `cls`, or its plain form if it has one."""
    plain: type[_E] = cls.__dict__.get("_plain_form", cls)
    return plain
