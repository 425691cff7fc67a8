# cython: auto_pickle=False
"""The state of a run: a mapping from names to values that a snapshot could write.

Every method is one plain call under the GIL: threads may share a store, and a call that raises has changed nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

cimport cython
from cpython.dict cimport PyDict_SetItem
from cpython.ref cimport PyObject

from blazen._core.storable cimport StateValue, StorableCheck, bytes_of, json_check, new_state_value
from blazen._core.storable_types cimport is_storable_leaf, shortened, shown, type_name

from blazen._core.storable import ADVICE, JSON_ADVICE
from blazen._core.storable_types import check_types

cdef extern from *:
    PyObject *PyDict_GetItemWithError(object mapping, object key) except? NULL

__all__ = ["StateStore", "StateValue", "check_types"]

# A cimported class is no attribute of the module by itself.
globals()["StateValue"] = StateValue

cdef object MISSING = object()


cdef int _check_key(object key) except -1:
    """Refuse what cannot be a key, before anything of it is hashed or compared."""
    if type(key) is str and <str>key:
        return 0
    from blazen.errors import ValidationError
    if type(key) is str:
        raise ValidationError("a state key cannot be the empty string")
    advice = "; give it as a plain str" if isinstance(key, str) else ""
    raise ValidationError(f"a state key is a str, not {type_name(type(key))}{advice}")


cdef int _report(StorableCheck check, object key, object value, str lead, str advice) except -1:
    """Run `check` on `value`; ValidationError if it refuses."""
    cdef str problem = check.refusal(value)
    if problem is None:
        return 0
    from blazen.errors import ValidationError
    path = check.path()
    raise ValidationError(f"{lead} {shown(key)}: {shortened(path)} {problem}. {advice}", path=path)


@cython.final
@cython.freelist(32)
cdef class Held:
    """Marks a value stored with `set_value`, so that a `StateValue` given to `set` comes back as one."""


@cython.final
cdef class StateStore:
    """Values by name, each checked to its full depth when it is set, none copied.

    A value comes back as the same object. None is a value, not "missing". Also a `MutableMapping`, whose `keys`,
    `values` and `items` are lists, so that the store may change while one goes through them.

    Args:
        types: The classes of ``Workflow(types=[...])``, as `check_types` returns them.
        events: The workflow's event classes.
    Raises:
        ValidationError: A class in `types` is no dataclass, msgspec Struct or pydantic model.
    """

    def __cinit__(self, types=frozenset(), events=frozenset()):
        self._values = {}
        # A frozenset has passed `check_types` when the workflow was built; a run must not pay for it again.
        self._types = types if type(types) is frozenset else check_types(types)
        self._events = events if isinstance(events, (set, frozenset)) else frozenset(events)

    cdef int put(self, object key, object value) except -1:
        """Store `value` under `key`, or raise ValidationError and change nothing."""
        if type(key) is not str or not <str>key:
            _check_key(key)
        if not is_storable_leaf(value):
            self._check(key, value, "cannot store")
        PyDict_SetItem(self._values, key, value)
        return 0

    cdef object fetch(self, object key, object default):
        """The value under `key`; `default` if there is none."""
        cdef PyObject *found
        if type(key) is str:
            found = PyDict_GetItemWithError(self._values, key)
            if found != NULL:
                if type(<object>found) is Held:
                    return (<Held>found).value.value
                return <object>found
        _check_key(key)
        return default

    cdef int _check(self, object key, object value, str lead) except -1:
        cdef StorableCheck check = StorableCheck.__new__(StorableCheck)
        check._types = self._types
        check._events = self._events
        return _report(check, key, value, lead, ADVICE)

    cdef int _check_held(self, object key, StateValue value, str lead) except -1:
        if value.kind == "json":
            return _report(json_check(), key, value.value, lead, JSON_ADVICE)
        if value.kind == "value":
            return self._check(key, value.value, lead)
        return 0

    def set(self, key, value):
        """Store `value` under `key`, replacing what was there.

        Raises:
            ValidationError: `key` is no non-empty str, or something in `value` is not storable, refers to itself or is
                nested deeper than 500 containers; ``path`` says where. The store is as it was.
        """
        self.put(key, value)

    def get(self, key, default=None):
        """Return the very object stored under `key`, or `default` if there is none.

        A value stored with `set_value` comes back without its `StateValue`.

        Raises:
            ValidationError: `key` is no non-empty str.
        """
        return self.fetch(key, default)

    def set_bytes(self, key, data):
        """Store raw bytes under `key`.

        Args:
            data: bytes, or a bytearray or memoryview, of which a copy is stored.
        Raises:
            ValidationError: `key` is no non-empty str, or `data` is something else.
        """
        _check_key(key)
        PyDict_SetItem(self._values, key, bytes_of(data, f"set_bytes({shown(key)})"))

    def get_bytes(self, key):
        """Return the bytes stored under `key`, or None if there is nothing.

        Raises:
            ValidationError: `key` is no non-empty str, or holds something that is no bytes.
        """
        value = self.get_value(key)
        if value is None:
            return None
        if value.kind == "bytes" or value.kind == "native_bytes":
            return value.value
        from blazen.errors import ValidationError
        raise ValidationError(
            f"get_bytes({shown(key)}): the key holds a value of type {type_name(type(value.value))} "
            f"(kind {value.kind!r}), no bytes; read it with get"
        )

    def set_value(self, key, value):
        """Store a `StateValue` under `key`.

        Raises:
            ValidationError: `key` is no non-empty str, `value` is no `StateValue`, or what a ``json`` value holds has
                changed since it was made and is no JSON any more.
        """
        cdef Held held
        _check_key(key)
        if type(value) is not StateValue:
            from blazen.errors import ValidationError
            raise ValidationError(
                f"set_value({shown(key)}) takes a StateValue, not {type_name(type(value))}; "
                "make one with StateValue.json, .bytes, .native or .native_bytes, or use set"
            )
        self._check_held(key, value, "cannot store")
        held = Held.__new__(Held)
        held.value = value
        PyDict_SetItem(self._values, key, held)

    def get_value(self, key):
        """Return what is stored under `key` as a `StateValue`, or None if there is nothing.

        What came in by `set` is of kind ``"bytes"`` if it is bytes, ``"json"`` if JSON has it exactly, else
        ``"value"``.

        Raises:
            ValidationError: `key` is no non-empty str.
        """
        _check_key(key)
        entry = self._values.get(key, MISSING)
        if entry is MISSING:
            return None
        if type(entry) is Held:
            return (<Held>entry).value
        if type(entry) is StateValue:
            return entry
        if type(entry) is bytes:
            return new_state_value("bytes", entry)
        return new_state_value("json" if json_check().refusal(entry) is None else "value", entry)

    def delete(self, key):
        """Remove `key`; False if it was not there.

        Raises:
            ValidationError: `key` is no non-empty str.
        """
        _check_key(key)
        return self._values.pop(key, MISSING) is not MISSING

    def has(self, key):
        """True if something is stored under `key`, None included.

        Raises:
            ValidationError: `key` is no non-empty str.
        """
        _check_key(key)
        return key in self._values

    def keys(self):
        """Return the keys, in the order in which they were first set."""
        return list(self._values)

    def values(self):
        """Return the values, in the order of `keys`."""
        return [_inside(entry) for entry in list(self._values.values())]

    def items(self):
        """Return (key, value) pairs, in the order of `keys`."""
        return [(key, _inside(entry)) for key, entry in list(self._values.items())]

    def update(self, other=(), /, **values):
        """Store several values, all of them or, if one is refused, none.

        Args:
            other: A mapping, or pairs of key and value. From another store `StateValue` entries are taken as such.
            **values: Further values, by name.
        Raises:
            ValidationError: As for `set`.
        """
        if type(other) is StateStore:
            pairs = list((<StateStore>other)._values.items())
        elif hasattr(other, "keys"):
            pairs = [(key, other[key]) for key in other.keys()]
        else:
            pairs = [(key, value) for key, value in other]
        pairs.extend(values.items())
        for key, entry in pairs:
            _check_key(key)
            if type(entry) is Held:
                self._check_held(key, (<Held>entry).value, "cannot store")
            elif not is_storable_leaf(entry):
                self._check(key, entry, "cannot store")
        for key, entry in pairs:
            PyDict_SetItem(self._values, key, entry)

    def setdefault(self, key, default=None):
        """Return the value under `key`; if there is none, store `default` and return it.

        Raises:
            ValidationError: As for `set`; `default` is looked at only when it is to be stored.
        """
        found = self.fetch(key, MISSING)
        if found is not MISSING:
            return found
        self.put(key, default)
        return default

    def pop(self, key, default=MISSING, /):
        """Remove `key` and return its value; if there is none, return `default`.

        Raises:
            KeyError: There is no such key, and no `default`.
            ValidationError: `key` is no non-empty str.
        """
        _check_key(key)
        entry = self._values.pop(key, default)
        if entry is MISSING:
            raise KeyError(key)
        return _inside(entry)

    def popitem(self):
        """Remove the key that was added last and return it with its value.

        Raises:
            KeyError: The store is empty.
        """
        if not self._values:
            raise KeyError("the store is empty")
        key, entry = self._values.popitem()
        return key, _inside(entry)

    def clear(self):
        """Remove every key."""
        self._values.clear()

    def check_all(self):
        """Check every value again, to its full depth: a container may have changed since it was set.

        Raises:
            ValidationError: A value is no longer storable; the message names its key, ``path`` the place inside it.
        """
        for key, entry in self._values.copy().items():  # a copy in one go: other threads may set keys meanwhile
            if type(entry) is Held:
                self._check_held(key, (<Held>entry).value, "no longer storable:")
            elif not is_storable_leaf(entry):
                self._check(key, entry, "no longer storable:")

    def __getitem__(self, key):
        found = self.fetch(key, MISSING)
        if found is MISSING:
            raise KeyError(key)
        return found

    def __setitem__(self, key, value):
        self.put(key, value)

    def __delitem__(self, key):
        if not self.delete(key):
            raise KeyError(key)

    def __contains__(self, key):
        return type(key) is str and key in self._values

    def __iter__(self):
        return iter(self.keys())

    def __len__(self):
        return len(self._values)

    def __eq__(self, other):
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(self.items()) == dict(other.items())

    def __repr__(self):
        return f"<StateStore with keys {self.keys()!r}>"


cdef inline object _inside(object entry):
    return (<Held>entry).value.value if type(entry) is Held else entry


MutableMapping.register(StateStore)
