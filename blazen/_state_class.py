"""What makes a class a typed state: its fields, its `Meta`, and how an instance is taken apart and put together again.

What is wrong in a class body is said when the class is made. Its fields are laid out when it is first used: only then
is it known whether `@dataclass` decorates it, which comes after everything a base class can see.
"""

from __future__ import annotations

import copy
import dataclasses
import dis
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from threading import RLock
from types import CodeType, FunctionType, MemberDescriptorType
from typing import Any, ClassVar, get_origin

from blazen.errors import CancelledError, ValidationError, WorkflowError

_RESERVED = {
    "Meta": "the class with the settings of the state",
    "restore": "the method that is called when a state has been loaded",
    "state_type": "the name the class is found by",
}
_SETTINGS = ("transient", "store_by")
# Copied for each instance; dataclasses refuse them, and any other default that cannot be hashed.
_COPIED_DEFAULTS = (list, dict, set, bytearray)
_HEAP_TYPE = 1 << 9  # in `__flags__`: made by Python code
_completing = RLock()


class StateLayout:
    """How the instances of one class are stored: which attributes, where, and how they become an instance again.

    Attributes:
        cls: The class.
        transient: Fields that are never stored.
        store_by: Fields that have a field store of their own.
    """

    __slots__ = ("_declared", "_defaults", "_fresh", "_not_compared", "_not_shown", "cls", "store_by", "transient")

    def __init__(self, cls: type[Any]) -> None:
        self.cls = cls
        self.transient, self.store_by = _inherited_settings(cls)
        fields = dataclasses.fields(cls)
        slots = [
            name
            for base in cls.__mro__
            for name, attribute in vars(base).items()
            if type(attribute) is MemberDescriptorType
        ]
        self._declared = tuple(dict.fromkeys([*(field.name for field in fields), *slots]))
        self._not_compared = tuple(field.name for field in fields if not field.compare)
        self._not_shown = tuple(field.name for field in fields if not field.repr)
        self._defaults: dict[str, Callable[[], object]] = {}
        for field in fields:
            if field.default_factory is not dataclasses.MISSING:
                self._defaults[field.name] = field.default_factory
            elif field.default is not dataclasses.MISSING:
                self._defaults[field.name] = partial(_itself, field.default)
        # An `__init__` of the user's need not assign a field that has a default.
        self._fresh = (
            {field.name: field.default_factory for field in fields if field.default_factory is not dataclasses.MISSING}
            if _has_own_init(cls)
            else {}
        )

    def new(self) -> Any:
        """An instance before its `__init__`."""
        state = object.__new__(self.cls)
        for name, make in self._fresh.items():
            object.__setattr__(state, name, make())
        return state

    def all_names(self, state: Any) -> Iterator[str]:
        """The names of what makes up `state`: the fields of its class, and what else was assigned to it."""
        yield from self._declared
        for name in list(getattr(state, "__dict__", ())):
            # Python's own, such as the `__orig_class__` of a generic class, are no fields.
            if name not in self._declared and not (name.startswith("__") and name.endswith("__")):
                yield name

    @property
    def declared_names(self) -> tuple[str, ...]:
        """The names of the fields of the class that are stored."""
        return tuple(name for name in self._declared if name not in self.transient)

    def names_of(self, state: Any) -> tuple[str, ...]:
        """The names of what is stored of `state`, whether it is set or not."""
        return tuple(name for name in self.all_names(state) if name not in self.transient)

    def set_names(self, state: Any) -> tuple[str, ...]:
        """The names of what is stored of `state` and is set."""
        return tuple(name for name in self.names_of(state) if hasattr(state, name))

    def compared(self, state: Any) -> dict[str, object]:
        """What two instances are compared by."""
        return {
            name: getattr(state, name)
            for name in self.all_names(state)
            if name not in self._not_compared and hasattr(state, name)
        }

    def shown(self, state: Any) -> list[str]:
        """What is printed of an instance."""
        return [
            f"{name}={getattr(state, name)!r}"
            for name in self.all_names(state)
            if name not in self._not_shown and hasattr(state, name)
        ]

    def build(self, key: str | None, values: Mapping[str, object]) -> Any:
        """A new instance with these values, and defaults for the fields that are missing.

        Neither `__init__` nor `__setattr__` of the class is called, but `restore()`, if it has one.
        """
        state = object.__new__(self.cls)
        for name, make in self._defaults.items():
            if name not in values:
                object.__setattr__(state, name, make())
        for name, value in values.items():
            object.__setattr__(state, name, value)
        if getattr(self.cls, "restore", None) is not None:
            where = "made of a pickle or copy, or inside another value" if key is None else f"under the key {key!r}"
            try:
                result = state.restore()
            except Exception as error:
                error.add_note(f"raised by restore() of the {self.cls.__qualname__} {where}")
                raise
            _refuse_awaitable(result, f"restore() of the {self.cls.__qualname__} {where}", "it is a plain method")
        return state

    def save(self, field: str, key: str, value: object, ctx: Any) -> None:
        """Give a field to its field store."""
        self._call(field, key, "save", lambda store: store.save(key, value, ctx))

    def load(self, field: str, key: str, ctx: Any) -> Any:
        """Get a field from its field store."""
        return self._call(field, key, "load", lambda store: store.load(key, ctx))

    def _call(self, field: str, key: str, verb: str, call: Callable[[Any], Any]) -> Any:
        store = self.store_by[field]
        where = f"the field store of {key!r} ({type(store).__name__}, for {self.cls.__qualname__}.{field})"
        try:
            result = call(store)
        except CancelledError:
            raise  # a thread step was told to stop meanwhile
        except Exception as error:
            raise WorkflowError(f"{where} could not {verb} it: {type(error).__name__}: {error}") from error
        _refuse_awaitable(result, f"{where}: its {verb}", "field stores are plain calls")
        return result


def _refuse_awaitable(result: object, who: str, rule: str) -> None:
    """Refuse what nobody would await: a plain function may return the coroutine of an async one."""
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise WorkflowError(f"{who} gave an awaitable; {rule}, without async")


def layout_of(cls: type[Any]) -> StateLayout:
    """The layout of a state class, made when it is first asked for.

    Raises:
        ValidationError: Its fields cannot be those of a dataclass, such as one without a default after one with.
    """
    layout = cls.__dict__.get("_blazen_layout")
    return layout if isinstance(layout, StateLayout) else _complete(cls)


def _complete(cls: type[Any]) -> StateLayout:
    with _completing:
        layout = cls.__dict__.get("_blazen_layout")
        if isinstance(layout, StateLayout):
            return layout
        problem = cls.__dict__.get("_blazen_problem")
        if problem is not None:  # half made, it must not pass for one that was decorated
            raise ValidationError(problem)
        if "__dataclass_fields__" not in cls.__dict__:
            _make_dataclass(cls)
        layout = StateLayout(cls)
        cls._blazen_layout = layout
        return layout


def _make_dataclass(cls: type[Any]) -> None:
    for name in _fields_in_body(cls):
        default = cls.__dict__.get(name)
        if type(default) in _COPIED_DEFAULTS:
            setattr(cls, name, dataclasses.field(default_factory=partial(copy.deepcopy, default)))
    hints = cls.__dict__.get("__annotations__", {})  # noqa: RUF063
    if cls.__module__ not in sys.modules:
        # Of a file that was run and forgotten: a dataclass would look into the module to see what a text means.
        cls.__annotations__ = {name: _without_text(hint) for name, hint in hints.items()}
    frozen = any(vars(base)["__dataclass_params__"].frozen for base in _dataclass_bases(cls))
    try:
        dataclasses.dataclass(init=not _has_own_init(cls), repr=False, eq=False, frozen=frozen)(cls)
    except (TypeError, ValueError) as error:
        cls._blazen_problem = f"class {cls.__qualname__}: {error}"
        raise ValidationError(cls._blazen_problem) from error
    finally:
        if hints:
            cls.__annotations__ = hints


def _without_text(hint: object) -> object:
    if not isinstance(hint, str):
        return hint
    for name, special in (
        ("ClassVar", ClassVar),
        ("InitVar", dataclasses.InitVar[object]),
        ("KW_ONLY", dataclasses.KW_ONLY),
    ):
        if _is_text_for(name, hint):
            return special
    return object


def _is_text_for(name: str, hint: str) -> bool:
    return re.match(rf"(\w+\s*\.\s*)?{name}\b", hint) is not None


def _dataclass_bases(cls: type[Any]) -> Iterator[type[Any]]:
    return (base for base in cls.__mro__[1:] if "__dataclass_params__" in base.__dict__)


def _itself(value: object) -> object:
    return value


# --- when a class is made


def check_class(cls: type[Any], root: type[Any]) -> None:
    """Refuse what is wrong in the body of a class that derives from `root`, which is BlazenState.

    Raises:
        ValidationError: As of `BlazenState`.
    """
    where = f"class {cls.__qualname__}:"
    _check_bases(cls, where)
    # The decorator of a dataclass sees the fields of classes that have been laid out.
    for base in reversed(cls.__mro__[1:]):
        if issubclass(base, root) and base is not root:
            layout_of(base)
    annotated = _fields_in_body(cls)
    for name, meaning in _RESERVED.items():
        if name in annotated or (name == "state_type" and name in cls.__dict__):
            raise ValidationError(f"{where} a field cannot be called {name!r}, which is {meaning}")
    restore = getattr(cls, "restore", None)
    if restore is not None and (
        not callable(restore) or inspect.iscoroutinefunction(restore) or inspect.isasyncgenfunction(restore)
    ):
        raise ValidationError(f"{where} restore must be a plain method, without async: it is called by ctx.get")
    for name in annotated:
        default = cls.__dict__.get(name)
        if type(default).__hash__ is None and type(default) not in _COPIED_DEFAULTS:
            raise ValidationError(
                f"{where} the default of {name!r}, a {type(default).__name__}, would be shared by all instances; write "
                f"dataclasses.field(default_factory=...)"
            )
    # Of a class that @dataclass(slots=True) has made anew, this was noted the first time.
    if "__init__" in cls.__dict__ and "__dataclass_fields__" not in cls.__dict__:
        cls._blazen_own_init = True
    cls._blazen_settings = _settings(cls, where)
    transient, store_by = _inherited_settings(cls)
    both = sorted(transient & store_by.keys())
    if both:
        raise ValidationError(
            f"{where} {both[0]!r} is in Meta.transient, never to be stored, and in Meta.store_by; leave one out"
        )


def _check_bases(cls: type[Any], where: str) -> None:
    for base in cls.__mro__[1:-1]:
        if not base.__flags__ & _HEAP_TYPE or hasattr(base, "__pydantic_fields__"):
            raise ValidationError(
                f"{where} a state cannot also be a {base.__qualname__}: what that holds is no field of its own"
            )


def _fields_in_body(cls: type[Any]) -> list[str]:
    """The names that the body of `cls` annotates, class variables left out."""
    return [name for name, hint in inspect.get_annotations(cls).items() if not _is_class_variable(hint)]


def _is_class_variable(hint: object) -> bool:
    if isinstance(hint, str):
        return _is_text_for("ClassVar", hint)
    return hint is ClassVar or get_origin(hint) is ClassVar


def _has_own_init(cls: type[Any]) -> bool:
    """Whether instances are made by an `__init__` that a user wrote."""
    for base in cls.__mro__:
        if "_blazen_settings" in base.__dict__ and "__init__" in base.__dict__:
            return "_blazen_own_init" in base.__dict__
    return False


def _inherited_settings(cls: type[Any]) -> tuple[frozenset[str], dict[str, Any]]:
    """The settings of a class and its bases: what a base keeps out of the store stays out of it."""
    transient: frozenset[str] = frozenset()
    store_by: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        more_transient, more_store_by = base.__dict__.get("_blazen_settings", ((), {}))
        transient = transient.union(more_transient)
        store_by.update(more_store_by)
    return transient, store_by


def _settings(cls: type[Any], where: str) -> tuple[frozenset[str], dict[str, Any]]:
    """What the `Meta` in the body of `cls` says."""
    meta = cls.__dict__.get("Meta")
    if meta is None:
        if "Meta" in cls.__dict__:
            raise ValidationError(f"{where} Meta must be a class, got None; leave it out")
        return frozenset(), {}
    if not isinstance(meta, type):
        raise ValidationError(f"{where} Meta must be a class, got {type(meta).__name__!r}: write `class Meta:`")
    for base in meta.__mro__[:-1]:
        for name in (*vars(base), *inspect.get_annotations(base)):
            if name not in _SETTINGS and not (name.startswith("__") and name.endswith("__")):
                raise ValidationError(f"{where} Meta knows {' and '.join(_SETTINGS)}, not {name!r}")
    transient: Any = getattr(meta, "transient", frozenset())
    if not isinstance(transient, set | frozenset | list | tuple):
        raise ValidationError(
            f"{where} Meta.transient must be a set of field names, such as {{'cache'}}, got {_shown(transient)}"
        )
    store_by: Any = getattr(meta, "store_by", {})
    if not isinstance(store_by, Mapping):
        raise ValidationError(
            f"{where} Meta.store_by must be a dict from field names to field stores, got {_shown(store_by)}"
        )
    _check_names(cls, "transient", transient, where)
    _check_names(cls, "store_by", store_by, where)
    for name, store in store_by.items():
        check_field_store(store, f"{where} Meta.store_by[{name!r}]")
    return frozenset(transient), dict(store_by)


def _check_names(cls: type[Any], setting: str, names: Iterable[object], where: str) -> None:
    known = _known_names(cls)
    for name in names:
        if not isinstance(name, str):
            raise ValidationError(f"{where} Meta.{setting} must have names of fields, got {_shown(name)} among them")
        if name not in known:
            declared = dict.fromkeys(name for base in reversed(cls.__mro__) for name in _fields_in_body(base))
            raise ValidationError(
                f"{where} Meta.{setting} names {name!r}, which is no field; the fields are "
                f"{', '.join(declared) or '(none)'}. A field is declared in the body of the class, as `{name}: object`"
            )


def _known_names(cls: type[Any]) -> set[str]:
    """The names that an attribute of an instance may have, as far as the class tells."""
    known: set[str] = set()
    for base in cls.__mro__[:-1]:
        known.update(_fields_in_body(base))
        hints = inspect.get_annotations(base)
        # What a method assigns need not be declared.
        for name, attribute in vars(base).items():
            if isinstance(attribute, MemberDescriptorType | cached_property):
                known.add(name)
            elif isinstance(attribute, FunctionType):
                known.update(_assigned_in(attribute.__code__))
            elif name not in hints and not name.startswith("__") and not hasattr(attribute, "__get__"):
                known.add(name)
    return known - _RESERVED.keys()


def _assigned_in(code: CodeType) -> Iterator[str]:
    """The names of the attributes that a function assigns, whatever the object."""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "STORE_ATTR":
            yield str(instruction.argval)
        elif isinstance(instruction.argval, CodeType):
            yield from _assigned_in(instruction.argval)


def check_field_store(store: object, where: str) -> None:
    """Refuse what cannot save and load a field.

    Raises:
        ValidationError: `store` has no plain `save` and `load`, or is a class where an object is wanted.
    """
    if isinstance(store, type):
        raise ValidationError(f"{where} is the class {store.__qualname__}; give an object of it")
    for verb, call in (("save", "save(key, value, ctx)"), ("load", "load(key, ctx)")):
        method = getattr(store, verb, None)
        if not callable(method):
            raise ValidationError(f"{where} is a {type(store).__name__}, which has no {call}")
        if inspect.iscoroutinefunction(method):
            raise ValidationError(
                f"{where} is a {type(store).__name__}, whose {verb} is async; field stores are plain calls"
            )


def _shown(value: object) -> str:
    return f"{value!r}" if isinstance(value, str | int | float | None) else f"a {type(value).__name__!r}"
