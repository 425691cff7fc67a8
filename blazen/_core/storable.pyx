# cython: auto_pickle=False
"""The check of a value to its full depth, and `StateValue`, a value that says how it is to be written.

A check compares addresses and exact types only: no `__eq__`, `__hash__` or `__bool__` of a user's value is called.
"""

from __future__ import annotations

cimport cython
from cpython.bytes cimport PyBytes_CheckExact
from cpython.dict cimport PyDict_Next, PyDict_Size
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_FromVoidPtr
from cpython.ref cimport PyObject
from libc.math cimport isfinite

from blazen._core.storable_types cimport (
    field_names, is_among, is_builtin_container, is_event_class, is_plain, is_state, layout_of, leaf_problem, shortened,
    shown, type_name
)

cdef extern from *:
    Py_ssize_t Py_REFCNT(object)

cdef enum:
    # Deep enough for any data written by hand, shallow enough for the C stack of a small thread.
    MAX_DEPTH = 500
    # `_walk` answers with the height of what it walked (0: a leaf), or with this.
    REFUSED = -2

__all__ = ["ADVICE", "JSON_ADVICE", "StateValue"]

ADVICE = (
    "Name dataclasses, msgspec Structs and pydantic models in Workflow(types=[...]), keep live objects in ctx.session, "
    "or store what can be pickled with ctx.set_value(key, StateValue.native(obj))."
)
JSON_ADVICE = "StateValue.json takes None, bool, int, finite float, str, list, and dict with str keys."

# Looked up in `sys.modules` when a value of a yet unknown type arrives: a value of these types exists only where the


@cython.final
@cython.freelist(16)
cdef class StorableCheck:
    """One walk through one value. Cycles are found, shared parts are walked once."""

    cdef str refusal(self, object value):
        """What is wrong in `value` or anything it holds; None if all of it is storable. `path` then says where."""
        self._trail = []
        self._root = <PyObject *>value
        if self._walk(value, 0) == REFUSED:
            return self._problem
        return None

    cdef str path(self):
        return "$" + "".join(reversed(self._trail))

    cdef int _refuse(self, str problem) except -1:
        self._problem = problem
        return REFUSED

    cdef int _refuse_depth(self, object value) except -1:
        return self._refuse(
            f"(a {type_name(type(value))}) is nested too deep: more than {MAX_DEPTH} containers in each other"
        )

    cdef int _walk(self, object value, int depth) except -1:
        """Walk `value`, which lies inside `depth` containers. Its height (0: a leaf) or REFUSED."""
        cdef int height
        cdef bint shared
        cdef object address = None
        cdef tuple names = None
        if self._json_only:
            if type(value) is not list and type(value) is not dict:
                return self._json_leaf(value)
        elif not is_builtin_container(value):
            if is_plain(value):
                return 0
            if type(value) is StateValue:
                if (<StateValue>value).kind != "json" and (<StateValue>value).kind != "value":
                    return 0
            elif is_state(value):
                names = self._names_of_state(value)
                if names is None:
                    return REFUSED
            else:
                if not is_among(type(value), self._types) and not is_event_class(type(value), self._events):
                    problem = leaf_problem(value)
                    return 0 if problem is None else self._refuse(problem)
                names = self._names(type(value))

        if depth >= MAX_DEPTH:
            return self._refuse_depth(value)
        if depth > 0 and <PyObject *>value == self._root:
            return self._refuse(f"(a {type_name(type(value))}) refers to itself: it is the stored value again")
        # Two references are our own and its only container's: nothing else can lead here, so it need not be remembered.
        shared = depth > 0 and Py_REFCNT(value) > 2
        if shared:
            address = PyLong_FromVoidPtr(<void *>value)
            if self._seen is None:
                self._seen = {}
            elif address in self._seen:
                earlier = self._seen[address]
                if earlier is None:
                    return self._refuse(f"(a {type_name(type(value))}) refers to itself: it holds itself")
                height = earlier[1]
                if depth + height > MAX_DEPTH:
                    return self._refuse_depth(value)
                return height
            self._seen[address] = None
        if names is not None:
            height = self._field_contents(value, names, depth)
        elif type(value) is StateValue:
            height = self._state_value(value, depth)
        else:
            height = self._contents(value, depth)
        if height == REFUSED:
            return REFUSED
        if shared:
            # Held, so that the address stays this container's for as long as the walk goes on.
            self._seen[address] = (value, height + 1)
        return height + 1

    cdef int _contents(self, object value, int depth) except -1:
        """Walk what a builtin container holds; the greatest height among it, or REFUSED."""
        cdef Py_ssize_t index = 0
        cdef int height = 0
        cdef int inner
        cdef object item
        if type(value) is dict:
            return self._dict_contents(value, depth)
        if type(value) is tuple:
            return self._items(<tuple>value, depth, True)
        if type(value) is not list:
            # A copy, since a set cannot be read by position and may change under an iterator.
            return self._items(tuple(value), depth, False)
        # By position and with its size read again each time: a property of an item may shorten the list.
        while index < PyList_GET_SIZE(value):
            item = <object>PyList_GET_ITEM(value, index)
            if self._json_only or not is_plain(item):
                inner = self._walk(item, depth + 1)
                if inner == REFUSED:
                    self._trail.append(f"[{index}]")
                    return REFUSED
                if inner > height:
                    height = inner
            index += 1
        return height

    cdef int _items(self, tuple items, int depth, bint numbered) except -1:
        cdef Py_ssize_t index
        cdef int height = 0
        cdef int inner
        cdef object item
        for index in range(len(items)):
            item = items[index]
            if not is_plain(item):
                inner = self._walk(item, depth + 1)
                if inner == REFUSED:
                    self._trail.append(f"[{index}]" if numbered else "{item}")
                    return REFUSED
                if inner > height:
                    height = inner
        return height

    cdef int _dict_contents(self, object value, int depth) except -1:
        cdef Py_ssize_t position = 0
        cdef Py_ssize_t size = PyDict_Size(value)
        cdef PyObject *key_pointer
        cdef PyObject *item_pointer
        cdef int height = 0
        cdef int inner
        cdef object key, item
        while PyDict_Next(value, &position, &key_pointer, &item_pointer):
            key = <object>key_pointer
            item = <object>item_pointer
            if self._json_only:
                if type(key) is not str:
                    return self._refuse(f"has the key {shown(key)}, which is no str")
                if self._json_leaf(key) == REFUSED:
                    self._trail.append("{key}")
                    return REFUSED
            elif not is_plain(key):
                inner = self._walk(key, depth + 1)
                if inner == REFUSED:
                    self._trail.append("{key}")
                    return REFUSED
                if inner > height:
                    height = inner
            if self._json_only or not is_plain(item):
                inner = self._walk(item, depth + 1)
                if inner == REFUSED:
                    self._trail.append(f"[{shown(key)}]")
                    return REFUSED
                if inner > height:
                    height = inner
            if PyDict_Size(value) != size:
                return self._refuse("(a dict) was changed while it was being checked")
        return height

    cdef int _field_contents(self, object value, tuple names, int depth) except -1:
        cdef int height = 0
        cdef int inner
        for name in names:
            try:
                item = getattr(value, name)
            except AttributeError:
                self._trail.append(f".{name}")
                return self._refuse(f"has no value: a field of {type_name(type(value))} that was never set")
            if is_plain(item):
                continue
            inner = self._walk(item, depth + 1)
            if inner == REFUSED:
                self._trail.append(f".{name}")
                return REFUSED
            if inner > height:
                height = inner
        return height

    cdef int _state_value(self, StateValue value, int depth) except -1:
        cdef StorableCheck check
        cdef int inner
        if value.kind == "value":
            inner = self._walk(value.value, depth + 1)
        else:
            check = json_check()
            check._trail = self._trail
            inner = check._walk(value.value, depth + 1)
            self._problem = check._problem
        if inner == REFUSED:
            self._trail.append(".value")
        return inner

    cdef int _json_leaf(self, object value) except -1:
        if value is None or type(value) is bool or type(value) is int:
            return 0
        if type(value) is str:
            if not (<str>value).isascii():
                try:
                    (<str>value).encode("utf-8")
                except UnicodeEncodeError:
                    return self._refuse("is a str with a lone surrogate, which UTF-8 cannot write")
            return 0
        if type(value) is float:
            if isfinite(<double>value):
                return 0
            return self._refuse(f"is the float {value!r}, which JSON does not have")
        return self._refuse(f"is of type {type_name(type(value))}, which JSON does not have")

    cdef tuple _names_of_state(self, object value):
        """The names of what a `BlazenState` inside another value is written with; None if it is refused."""
        layout = layout_of(type(value))
        if layout.store_by:
            self._refuse(
                f"is a {type_name(type(value))}, whose field {next(iter(layout.store_by))!r} has a field store, "
                "which needs a key: store it under a key of its own, not inside another value"
            )
            return None
        return layout.set_names(value)

    cdef tuple _names(self, object cls):
        """The names of the fields of a dataclass, msgspec Struct or pydantic model."""
        cdef object address = PyLong_FromVoidPtr(<void *>cls)
        if self._fields is None:
            self._fields = {}
        names = self._fields.get(address)
        if names is None:
            names = field_names(cls)
            self._fields[address] = names
        return names


cdef StorableCheck json_check():
    """A check for what JSON has, instead of what a store takes."""
    cdef StorableCheck check = StorableCheck.__new__(StorableCheck)
    check._json_only = True
    return check


cdef bytes bytes_of(object data, str what):
    """`data` itself if it is bytes, else a copy of the bytes it holds."""
    if PyBytes_CheckExact(data):
        return data
    if isinstance(data, (bytes, bytearray, memoryview)):
        try:
            # Through a view: bytes() would ask a subclass for its `__bytes__`.
            return memoryview(data).tobytes()
        except ValueError as error:
            problem = f"a memoryview that cannot be read ({error})"
    else:
        problem = type_name(type(data))
    from blazen.errors import ValidationError
    raise ValidationError(f"{what} takes bytes, bytearray or memoryview, not {problem}")


cdef StateValue new_state_value(str kind, object value):
    cdef StateValue made = StateValue.__new__(StateValue)
    made.kind = kind
    made.value = value
    return made


def _restore(str kind, value):
    """Make the `StateValue` that was pickled."""
    if kind == "json":
        return StateValue.json(value)
    if kind not in ("bytes", "native", "native_bytes", "value"):
        from blazen.errors import ValidationError
        raise ValidationError(f"there is no StateValue of kind {kind!r}")
    return new_state_value(kind, value)


@cython.final
@cython.freelist(64)
cdef class StateValue:
    """A stored value together with how it is to be written: as JSON, as bytes, or as a native object.

    Made by `json`, `bytes`, `native` and `native_bytes`, never by calling the class. Immutable: `kind` and `value` do
    not change, though a list or dict inside is kept as it is and not copied. A store hands out the further kind
    ``"value"`` for what was stored with ``set`` and is no plain JSON.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError("make a StateValue with StateValue.json, .bytes, .native or .native_bytes")

    @staticmethod
    def json(value):
        """Keep `value` as JSON.

        Args:
            value: None, bool, int of any size, finite float, str, list, or dict with str keys, to any depth up to 500.
        Raises:
            ValidationError: Something in `value` has no exact JSON form; ``path`` says where.
        """
        cdef StorableCheck check = json_check()
        cdef str problem = check.refusal(value)
        if problem is not None:
            from blazen.errors import ValidationError
            path = check.path()
            raise ValidationError(f"no JSON: {shortened(path)} {problem}. {JSON_ADVICE}", path=path)
        return new_state_value("json", value)

    @staticmethod
    def bytes(data):
        """Keep raw bytes.

        Args:
            data: bytes, or a bytearray or memoryview, of which a copy is kept.
        Raises:
            ValidationError: `data` is something else.
        """
        return new_state_value("bytes", bytes_of(data, "StateValue.bytes"))

    @staticmethod
    def native(obj):
        """Keep `obj` itself, whatever it is. It is pickled only when a snapshot is taken."""
        return new_state_value("native", obj)

    @staticmethod
    def native_bytes(data):
        """Keep bytes that only their writer understands; they are passed on and never looked into.

        Args:
            data: bytes, or a bytearray or memoryview, of which a copy is kept.
        Raises:
            ValidationError: `data` is something else.
        """
        return new_state_value("native_bytes", bytes_of(data, "StateValue.native_bytes"))

    def __eq__(self, other: object) -> bool:
        if type(other) is not StateValue:
            return NotImplemented
        if self.kind != (<StateValue>other).kind:
            return False
        # An array answers == with an array: only a plain True is an answer.
        return self.value is (<StateValue>other).value or (self.value == (<StateValue>other).value) is True

    def __hash__(self) -> int:
        return hash((self.kind, self.value))

    def __repr__(self) -> str:
        return f"StateValue.{self.kind}({self.value!r})"

    def __reduce__(self):
        return _restore, (self.kind, self.value)
