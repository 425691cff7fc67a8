"""Typed state: classes whose instances are stored in a run's state field by field.

A field is a value of its own, under the key ``key.field``, so it can be read and set without the rest, it is checked
and later written like any other value, and it may live in a store of its own.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterable
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, dataclass_transform

import msgspec

from blazen._core.codec import ClassTable, register_extension
from blazen._core.state import StateStore, configure_states
from blazen._state_class import check_class, layout_of
from blazen.errors import ValidationError

if TYPE_CHECKING:
    from blazen._core.run import Context

__all__ = [
    "BlazenState",
    "CallbackFieldStore",
    "FieldStore",
    "StoredState",
    "find_state_class",
    "put_back",
    "stored_states",
]


class _StateType:
    def __get__(self, state: object, cls: type) -> str:
        return f"{cls.__module__}.{cls.__qualname__}"


@dataclass_transform(field_specifiers=(dataclasses.field,))
class BlazenState:
    """The base of typed states: ``ctx.set(key, state)`` stores each field under ``key.field``.

    Annotated attributes are fields, as in a dataclass, with the same constructor, comparison and printed form; a
    default that is a list, dict, set or bytearray is copied for each instance. A subclass may also be decorated with
    ``@dataclass``, or have an ``__init__`` of its own; what is assigned to an instance besides is stored too.

    ``ctx.get(key)`` makes a new instance, without calling ``__init__``: the very objects that were stored are in its
    fields, transient fields have their default, or are not set if they have none. Then ``restore()`` is called, if the
    class has one. Pickles and copies are made in the same way.

    An inner class ``Meta`` may say, for the class and its subclasses:

    - ``transient``: a set of fields that are never stored nor pickled;
    - ``store_by``: a dict from fields to a `FieldStore` each, for large fields that are kept outside the state.

    Attributes:
        state_type: The name the class is found by when a state is loaded in another process: ``"module.qualname"``.

    Raises:
        ValidationError: When a class is made: ``Meta`` has other attributes, names something that is no field, names a
            field in both places or a store without ``save`` and ``load``; a default that is mutable and of another
            class would be shared; a field is called ``Meta``, ``restore`` or ``state_type``; ``restore`` is async; it
            derives from a builtin type or a pydantic model too. When it is first used: its fields cannot be those of a
            dataclass.
        TypeError: It derives from a msgspec Struct or an `Event` too, which msgspec refuses.
    """

    __slots__ = ()

    state_type: ClassVar[str] = _StateType()  # type: ignore[assignment]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_class(cls, BlazenState)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make an instance; `__init__` sets its fields."""
        if cls is BlazenState:
            raise TypeError("BlazenState is the base of classes with fields, and has no instances itself")
        state: Self = layout_of(cls).new()
        return state

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        if other is self:
            return True
        layout = layout_of(type(self))
        return layout.compared(self) == layout.compared(other)

    __hash__: ClassVar[None]  # type: ignore[assignment]

    @recursive_repr()
    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(layout_of(type(self)).shown(self))})"

    def __reduce__(self) -> tuple[Any, ...]:
        names = layout_of(type(self)).set_names(self)
        return _rebuild, (type(self), {name: getattr(self, name) for name in names})


def _rebuild(cls: type[BlazenState], values: dict[str, object]) -> BlazenState:
    """Make the state that was pickled or copied."""
    state: BlazenState = layout_of(cls).build(None, values)
    return state


configure_states(BlazenState, layout_of)


# --- a state inside a list or another value, which has no key and is written as one value


def _written(state: BlazenState, classes: ClassTable) -> tuple[object, ...]:
    """The name of the class, the names of the fields, and their values: in one tuple, so as not to nest deeper."""
    cls = type(state)
    layout = layout_of(cls)
    if layout.store_by:
        raise ValidationError(
            f"its field {next(iter(layout.store_by))!r} has a field store, which needs a key: store it under a key of "
            "its own"
        )
    if find_state_class(cls.state_type, classes.types) is not cls:
        raise ValidationError(
            f"{cls.state_type!r} is the name of another class by now; name the class in Workflow(types=[...])"
        )
    names = layout.set_names(state)
    return (cls.state_type, names, *(getattr(state, name) for name in names))


def _described(contents: object) -> tuple[str, tuple[str, ...], tuple[object, ...]]:
    """Take apart what `_written` has put together.

    Raises:
        ValidationError: It is something else.
    """
    if type(contents) is tuple and len(contents) >= 2:
        state_type, names, *values = contents
        if (
            type(state_type) is str
            and type(names) is tuple
            and len(names) == len(values)
            and all(type(name) is str and name.isidentifier() for name in names)
            and len(set(names)) == len(names)
        ):
            return state_type, names, tuple(values)
    raise ValidationError("what was written of a BlazenState is damaged")


def _read(contents: object, classes: ClassTable) -> BlazenState:
    state_type, names, values = _described(contents)
    layout = layout_of(find_state_class(state_type, classes.types))
    for name in names:
        if name in layout.transient:
            raise ValidationError(f"{name!r} was written, and is a transient field of {state_type} by now")
        if name.startswith("__") and name.endswith("__") and name not in layout.declared_names:
            raise ValidationError(f"{name!r} was written, and cannot be a field of {state_type}")
    if layout.store_by:
        raise ValidationError(f"{state_type} has a field store by now, and can no longer be part of another value")
    state: BlazenState = layout.build(None, dict(zip(names, values, strict=True)))
    return state


register_extension(0x60, BlazenState, _written, _read, _described)


class FieldStore(Protocol):
    """Keeps fields outside the state: in a file, a database, a cache.

    Both are plain calls, in the thread of the step that sets or gets the field. `ctx` is that step's context. Whatever
    they raise becomes a `WorkflowError` that names the key. Nothing is ever deleted from a field store.
    """

    def save(self, key: str, value: Any, ctx: Context, /) -> object:
        """Keep `value` under `key`, such as ``"job.vectors"``; what was there is replaced."""
        ...

    def load(self, key: str, ctx: Context, /) -> Any:
        """Return what was kept last under `key`."""
        ...


class CallbackFieldStore:
    """A field store made of two functions.

    Args:
        save_fn: Called as ``save_fn(key, value)``.
        load_fn: Called as ``load_fn(key)``; returns the value.
    Raises:
        ValidationError: One of them cannot be called, or is async.
    """

    __slots__ = ("_load_fn", "_save_fn")

    def __init__(self, save_fn: Callable[[str, Any], object], load_fn: Callable[[str], Any]) -> None:
        for name, function in (("save_fn", save_fn), ("load_fn", load_fn)):
            if not callable(function) or inspect.iscoroutinefunction(function):
                problem = "is async" if callable(function) else f"is a {type(function).__name__!r}"
                raise ValidationError(f"CallbackFieldStore: {name} must be a plain function, but {problem}")
        self._save_fn = save_fn
        self._load_fn = load_fn

    def save(self, key: str, value: Any, ctx: Context, /) -> object:
        """Call `save_fn`."""
        return self._save_fn(key, value)

    def load(self, key: str, ctx: Context, /) -> Any:
        """Call `load_fn`."""
        return self._load_fn(key)


class StoredState(msgspec.Struct, frozen=True):
    """What has to be written of a state besides the values of its fields, which stand under keys of their own.

    Attributes:
        key: Where it is stored.
        state_type: The name of its class.
        fields: The names of its fields, transient ones left out.
        elsewhere: Those of them that a field store keeps, and that have no value to be written.
    """

    key: str
    state_type: str
    fields: tuple[str, ...]
    elsewhere: tuple[str, ...] = ()


def stored_states(store: StateStore, types: Iterable[type] = ()) -> list[StoredState]:
    """What is stored in `store` as `BlazenState`, a state before the states in its fields.

    Args:
        store: The state of a run.
        types: The classes of ``Workflow(types=[...])``.
    Raises:
        ValidationError: A class could not be found again by its name; names the key.
    """
    known = tuple(types)
    found: list[StoredState] = []
    for key, cls, fields, elsewhere in store.states():
        try:
            same = find_state_class(cls.state_type, known) is cls
        except ValidationError as error:
            raise ValidationError(f"cannot write {key!r}: {error}") from error
        if not same:
            raise ValidationError(
                f"cannot write {key!r}: {cls.state_type!r} is the name of another class by now; name the class in "
                "Workflow(types=[...])"
            )
        found.append(StoredState(key, cls.state_type, fields, elsewhere))
    return found


def put_back(store: StateStore, stored: StoredState, types: Iterable[type] = ()) -> None:
    """Make a key that of a state again; afterwards its fields are to be set, those that are elsewhere left out.

    Raises:
        ValidationError: The class cannot be found, or by now a field is transient or has lost its field store.
    """
    layout = layout_of(find_state_class(stored.state_type, types))
    where = f"cannot read {stored.key!r}:"
    for name in stored.fields:
        if name in layout.transient:
            raise ValidationError(
                f"{where} {name!r} was written, and is a transient field of {stored.state_type} by now"
            )
    for name in stored.elsewhere:
        if name not in layout.store_by:
            raise ValidationError(f"{where} {name!r} is in a field store, which {stored.state_type} has no more")
    names = tuple(dict.fromkeys((*stored.fields, *layout.declared_names)))
    store.mark_state(stored.key, layout, names, stored.elsewhere)


def find_state_class(state_type: str, types: Iterable[type] = ()) -> type[BlazenState]:
    """Return the class with the name `state_type`: one of `types`, or else one that a loaded module has.

    Nothing is imported for it: a name that comes from outside must not run code.

    Args:
        state_type: As of the class.
        types: The classes of ``Workflow(types=[...])``; classes defined inside a function are found only there.
    Raises:
        ValidationError: There is no such class, or there are two among `types`.
    """
    named = {
        cls for cls in types if isinstance(cls, type) and issubclass(cls, BlazenState) and cls.state_type == state_type
    }
    if len(named) > 1:
        raise ValidationError(f"two classes in Workflow(types=[...]) have the name {state_type!r}")
    if named:
        return named.pop()
    parts = state_type.split(".") if isinstance(state_type, str) else []
    for cut in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:cut]))
        for part in parts[cut:]:
            found = getattr(found, part, None)
        if isinstance(found, type) and issubclass(found, BlazenState) and found.state_type == state_type:
            return found
    raise ValidationError(
        f"there is no BlazenState class {state_type!r} in the modules that are loaded; import its module first, or "
        "name the class in Workflow(types=[...]), where classes defined inside a function must be named"
    )
