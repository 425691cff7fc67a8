# cython: auto_pickle=False
"""The state of a run: a mapping from names to values that a snapshot could write.

Every method is one plain call under the GIL: threads may share a store, and a call that raises has changed nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

cimport cython
from cpython.dict cimport PyDict_SetItem, PyDict_Size
from cpython.long cimport PyLong_FromVoidPtr
from cpython.ref cimport PyObject

from blazen._core.storable cimport StateValue, StorableCheck, bytes_of, json_check, new_state_value
from blazen._core.storable_types cimport is_state, is_storable_leaf, layout_of, shortened, shown, type_name

from blazen._core.storable import ADVICE, JSON_ADVICE
from blazen._core.storable_types import check_types, configure_states

cdef extern from *:
    PyObject *PyDict_GetItemWithError(object mapping, object key) except? NULL

__all__ = ["StateStore", "StateValue", "check_types", "configure_states"]

# A cimported class is no attribute of the module by itself.
globals()["StateValue"] = StateValue

cdef object MISSING = object()

# Values that are what they are for as long as they are the same object.
cdef frozenset UNCHANGING = frozenset((str, int, float, bool, type(None), bytes, complex))


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
cdef class Entry:
    """Stands in the store for a value that is not kept as it came. One class: `get` has one type to look for."""


cdef Entry value_entry(StateValue value):
    cdef Entry made = Entry.__new__(Entry)
    made.kind = AS_VALUE
    made.value = value
    return made


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
        self._states = {}
        # A frozenset has passed `check_types` when the workflow was built; a run must not pay for it again.
        self._types = types if type(types) is frozenset else check_types(types)
        self._events = events if isinstance(events, (set, frozenset)) else frozenset(events)

    cdef StateStore seen_from(self, object ctx):
        """The same store, for calls that come from the step of `ctx`."""
        cdef StateStore same = StateStore.__new__(StateStore)
        same._values = self._values
        same._states = self._states
        same._types = self._types
        same._events = self._events
        same._ctx = ctx
        return same

    cdef int put(self, object key, object value, object ctx) except -1:
        """Store `value` under `key`, or raise ValidationError and change nothing."""
        if type(key) is not str or not <str>key:
            _check_key(key)
        if not is_storable_leaf(value):
            if PyDict_Size(self._states) or is_state(value):
                return change_one(self, key, value, ctx)
            self._check(key, value, "cannot store")
        if PyDict_Size(self._states):           # the key may belong to a BlazenState, or hold one
            return change_one(self, key, value, ctx)
        PyDict_SetItem(self._values, key, value)
        return 0

    cdef object fetch(self, object key, object default, object ctx):
        """The value under `key`; `default` if there is none."""
        cdef PyObject *found
        if type(key) is str:
            found = PyDict_GetItemWithError(self._values, key)
            if found != NULL:
                if type(<object>found) is Entry:
                    held = <object>found            # another thread may replace it while it is read
                    return read_entry(key, <Entry>held, self._values, ctx)
                return <object>found
        _check_key(key)
        return default

    cdef int _check(self, object key, object value, str lead) except -1:
        cdef StorableCheck check = StorableCheck.__new__(StorableCheck)
        check._types = self._types
        check._events = self._events
        return _report(check, key, value, lead, ADVICE)

    cdef int _check_value(self, object key, StateValue value, str lead) except -1:
        if value.kind == "json":
            return _report(json_check(), key, value.value, lead, JSON_ADVICE)
        if value.kind == "value":
            return self._check(key, value.value, lead)
        return 0

    def set(self, key, value):
        """Store `value` under `key`, replacing what was there.

        A `BlazenState` is stored field by field, each under ``key.field``.

        Raises:
            ValidationError: `key` is no non-empty str, or something in `value` is not storable, refers to itself or is
                nested deeper than 500 containers; ``path`` says where. Or `key` is that of a transient field, or a
                field's key is in use for something else. The store is as it was.
            WorkflowError: A field store could not save a field.
        """
        self.put(key, value, self._ctx)

    def get(self, key, default=None):
        """Return the very object stored under `key`, or `default` if there is none.

        A value stored with `set_value` comes back without its `StateValue`, a `BlazenState` as a new object of its
        class with the very objects in its fields.

        Raises:
            ValidationError: `key` is no non-empty str.
            WorkflowError: A field store could not load a field.
        """
        return self.fetch(key, default, self._ctx)

    def set_bytes(self, key, data):
        """Store raw bytes under `key`.

        Args:
            data: bytes, or a bytearray or memoryview, of which a copy is stored.
        Raises:
            ValidationError: `key` is no non-empty str, or `data` is something else.
        """
        _check_key(key)
        self.put(key, bytes_of(data, f"set_bytes({shown(key)})"), self._ctx)

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
        _check_key(key)
        if type(value) is not StateValue:
            from blazen.errors import ValidationError
            raise ValidationError(
                f"set_value({shown(key)}) takes a StateValue, not {type_name(type(value))}; "
                "make one with StateValue.json, .bytes, .native or .native_bytes, or use set"
            )
        if (<StateValue>value).kind == "value" and is_state((<StateValue>value).value):
            self.put(key, (<StateValue>value).value, self._ctx)
            return
        self._check_value(key, value, "cannot store")
        if PyDict_Size(self._states):
            change_one(self, key, value_entry(value), self._ctx)
        else:
            PyDict_SetItem(self._values, key, value_entry(value))

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
        if type(entry) is Entry:
            if (<Entry>entry).kind == AS_VALUE:
                return (<Entry>entry).value
            entry = read_entry(key, <Entry>entry, self._values, self._ctx)
            if is_state(entry):
                return new_state_value("value", entry)
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
        if PyDict_Size(self._states):
            return remove_with_fields(self, key, MISSING)
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
        return [value for _, value in self.items()]

    def items(self):
        """Return (key, value) pairs, in the order of `keys`."""
        cdef dict values = self._values.copy()  # in one go: what it takes to read an entry may change the store
        return [
            (key, read_entry(key, <Entry>entry, values, self._ctx) if type(entry) is Entry else entry)
            for key, entry in values.items()
        ]

    def written(self):
        """What a snapshot writes, besides `states`: a dict, with a `StateValue` for what `set_value` stored."""
        cdef dict values = self._values.copy()  # in one go: a thread may change the store meanwhile
        cdef list entries = [(key, entry) for key, entry in values.items() if type(entry) is Entry]
        for key, entry in entries:
            if (<Entry>entry).kind == AS_VALUE:
                values[key] = (<Entry>entry).value
            else:
                del values[key]
        return values

    def changed_since(self, dict seen not None):
        """What may have changed since the last call with the same `seen`.

        A value that cannot change by itself is told by being another object. Any other one may have changed inside: it
        is given each time.

        Args:
            seen: Empty at first; what this method remembers: a dict from keys to the objects under them.
        Returns:
            What may have changed, as `written` gives it, and the keys that are there no longer.
        """
        cdef dict values = self._values.copy()  # in one go: a thread may change the store meanwhile
        cdef dict changed = {}
        cdef list gone
        cdef PyObject *before
        for key, entry in values.items():
            before = PyDict_GetItemWithError(seen, key)
            if before is <PyObject *>entry and type(entry) in UNCHANGING:
                continue
            if type(entry) is not Entry:
                changed[key] = entry
            elif (<Entry>entry).kind == AS_VALUE:
                changed[key] = (<Entry>entry).value
            elif before != NULL and not (type(<object>before) is Entry and (<Entry><object>before).kind != AS_VALUE):
                changed[key] = MISSING
            if before is not <PyObject *>entry:
                PyDict_SetItem(seen, key, entry)
        gone = [key for key, entry in changed.items() if entry is MISSING]
        for key in gone:
            del changed[key]
        if PyDict_Size(seen) != PyDict_Size(values):
            for key in [key for key in seen if key not in values]:
                del seen[key]
                gone.append(key)
        return changed, gone

    def put_back(self, values):
        """Store what `written` has given and the codec has read again for the same classes.

        Only that can be read which can be stored, so nothing is checked once more, which costs as much as a third of
        reading it. Where there are states, their fields know better.

        Args:
            values: A dict.
        Raises:
            ValidationError: A key is no non-empty str; or as for `set`, of fields of states.
            WorkflowError: As for `set`.
        """
        for key, value in (<dict>values).items():
            _check_key(key)
            if type(value) is StateValue:
                value = value_entry(value)
            if PyDict_Size(self._states) or is_state(value):
                change_one(self, key, value, self._ctx)
            else:
                PyDict_SetItem(self._values, key, value)

    def update(self, other=(), /, **values):
        """Store several values, all of them or, if one is refused, none.

        Args:
            other: A mapping, or pairs of key and value. From another store `StateValue` entries are taken as such.
            **values: Further values, by name.
        Raises:
            ValidationError: As for `set`.
            WorkflowError: As for `set`.
        """
        cdef Change change
        if type(other) is StateStore:
            pairs = list((<StateStore>other)._values.items())
        elif hasattr(other, "keys"):
            pairs = [(key, other[key]) for key in other.keys()]
        else:
            pairs = [(key, value) for key, value in other]
        pairs.extend(values.items())
        for key, _ in pairs:
            _check_key(key)
        change = Change.__new__(Change)
        change._store = self
        change._ctx = self._ctx
        if PyDict_Size(self._states) or any([is_state(entry) or type(entry) is Entry for _, entry in pairs]):
            change._values = self._values.copy()
            change._states = self._states.copy()
        for key, entry in pairs:
            change.add(key, entry)
        change.finish()

    def setdefault(self, key, default=None):
        """Return the value under `key`; if there is none, store `default` and return it.

        Raises:
            ValidationError: As for `set`; `default` is looked at only when it is to be stored.
        """
        found = self.fetch(key, MISSING, self._ctx)
        if found is not MISSING:
            return found
        self.put(key, default, self._ctx)
        return default

    def pop(self, key, default=MISSING, /):
        """Remove `key` and return its value; if there is none, return `default`.

        Raises:
            KeyError: There is no such key, and no `default`.
            ValidationError: `key` is no non-empty str.
        """
        _check_key(key)
        while True:
            entry = self._values.get(key, MISSING)
            if entry is MISSING:
                if default is MISSING:
                    raise KeyError(key)
                return default
            value = entry
            if type(entry) is Entry:
                value = read_entry(key, <Entry>entry, self._values, self._ctx)
            if remove_with_fields(self, key, entry):
                return value

    def popitem(self):
        """Remove the key that was added last and return it with its value.

        Raises:
            KeyError: The store is empty.
        """
        while self._values:
            key = next(reversed(self._values))
            value = self.pop(key, MISSING)
            if value is not MISSING:
                return key, value
        raise KeyError("the store is empty")

    def clear(self):
        """Remove every key."""
        self._states.clear()
        self._values.clear()

    def states(self):
        """Return what is stored as `BlazenState`, in the order of `keys`.

        Returns:
            For each: its key, its class, the names of the fields it is kept with (those that are deleted included), and
            those of them that their field store keeps.
        """
        found = []
        for key, entry in self._values.copy().items():
            if type(entry) is Entry and (<Entry>entry).kind == STATE:
                layout = (<Entry>entry).layout
                elsewhere = tuple([name for name in (<Entry>entry).names if name in layout.store_by])
                found.append((key, layout.cls, (<Entry>entry).names, elsewhere))
        return found

    def mark_state(self, str key not None, layout, tuple names not None, tuple elsewhere not None):
        """Make `key` that of a state again, as `states` told; its fields are to be set after that.

        Args:
            layout: Of its class.
            names: Of its fields.
            elsewhere: Those of them that their field store has.
        Raises:
            ValidationError: `key` is empty, or the key of a field holds something else.
        """
        cdef Change change = Change.__new__(Change)
        cdef Entry entry = Entry.__new__(Entry)
        _check_key(key)
        entry.kind = STATE
        entry.layout = layout
        entry.names = names
        change._store = self
        change._writes = [(key, {key: entry})]
        change._saves = []
        for name in elsewhere:
            entry = Entry.__new__(Entry)
            entry.kind = ELSEWHERE
            entry.layout = layout
            entry.field = name
            change._writes[0][1][f"{key}.{name}"] = entry
        change.finish()

    def check_storable(self, value):
        """Refuse what `set` would refuse, and store nothing.

        Raises:
            ValidationError: Something in `value` is not storable; ``path`` says where.
        """
        cdef StorableCheck check
        cdef str problem
        if is_storable_leaf(value):
            return
        check = StorableCheck.__new__(StorableCheck)
        check._types = self._types
        check._events = self._events
        problem = check.refusal(value)
        if problem is not None:
            from blazen.errors import ValidationError
            path = check.path()
            raise ValidationError(f"{shortened(path)} {problem}. {ADVICE}", path=path)

    def check_all(self):
        """Check every value again, to its full depth: a container may have changed since it was set.

        Raises:
            ValidationError: A value is no longer storable; the message names its key, ``path`` the place inside it.
        """
        for key, entry in self._values.copy().items():  # a copy in one go: other threads may set keys meanwhile
            if type(entry) is Entry:
                if (<Entry>entry).kind == AS_VALUE:
                    self._check_value(key, (<Entry>entry).value, "no longer storable:")
            elif not is_storable_leaf(entry):
                self._check(key, entry, "no longer storable:")

    def __getitem__(self, key):
        found = self.fetch(key, MISSING, self._ctx)
        if found is MISSING:
            raise KeyError(key)
        return found

    def __setitem__(self, key, value):
        self.put(key, value, self._ctx)

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


include "typed_state.pxi"

MutableMapping.register(StateStore)
