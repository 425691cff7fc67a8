# cython: auto_pickle=False
"""The classes whose instances the codec writes: how they are named, found again and filled.

An event is named by its type, any other class by its module and qualified name. Field by field, an instance is what its
class declares; classes may have got new fields with defaults since, and may have moved to another module.
"""

from __future__ import annotations

cimport cython
from cpython.long cimport PyLong_FromVoidPtr
from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t

from blazen._core.codec_bytes cimport (
    Input, Output, put_byte, put_name, put_varint, take_byte, take_count, take_name, take_varint
)
from blazen._core.storable_types cimport field_names, is_state_class

from blazen._core.storable_types import check_types

cdef extern from *:
    object PyObject_Vectorcall(object callable, PyObject **args, size_t nargsf, object kwnames)
    int PyObject_GenericSetAttr(object owner, object name, object value) except -1

cdef extern from *:
    """
    static inline PyObject **bz_tuple_items(PyObject *tuple) { return ((PyTupleObject *)tuple)->ob_item; }
    """
    PyObject **bz_tuple_items(object tuple)

__all__ = ["ClassTable"]

cdef enum:
    IS_EVENT = 0
    IS_OTHER = 1

cdef str PYDANTIC_SET = "__pydantic_fields_set__"
cdef object make_empty = object.__new__
cdef object force_setattr = None


@cython.final
cdef class ClassEntry:
    """One class, and how its instances are taken apart."""

    cdef tuple field_list(self):
        if self.fields is None:
            names = field_names(self.cls)
            # No value to be compared, but what `model_dump(exclude_unset=True)` goes by.
            self.fields = (*names, PYDANTIC_SET) if hasattr(self.cls, PYDANTIC_SET) else names
        return self.fields

    cdef object defaults(self):
        """A function for each field that has a default, by name: it gives the value."""
        cls = self.cls
        found = {}
        if self.is_struct:
            return found
        if hasattr(cls, "__dataclass_fields__"):
            from dataclasses import MISSING, fields
            for field in fields(cls):
                if field.default is not MISSING:
                    found[field.name] = _giving(field.default)
                elif field.default_factory is not MISSING:
                    found[field.name] = field.default_factory
            return found
        declared = getattr(cls, "__pydantic_fields__", None) or getattr(cls, "model_fields", {})
        for name, info in declared.items():
            if hasattr(info, "is_required") and not info.is_required():
                found[name] = _pydantic_default(info)
        return found


cdef object _giving(object value):
    return lambda: value


cdef object _pydantic_default(object info):
    return lambda: info.get_default(call_default_factory=True)


cdef bint _is_event(object cls, object event_class) except -1:
    for base in cls.__mro__:
        if base is event_class:
            return True
    return False


cdef ClassEntry _entry_for(object cls, object events):
    cdef ClassEntry entry = ClassEntry.__new__(ClassEntry)
    entry.is_event = _is_event(cls, events.Event)
    entry.is_struct = hasattr(cls, "__struct_fields__")
    if not entry.is_event:
        entry.cls = cls
        entry.group, entry.name = cls.__module__, cls.__qualname__
    else:
        # Calling StartEvent or StopEvent gives an instance of a hidden subclass.
        entry.cls = cls.__dict__.get("_plain_form", cls)
        entry.group = "blazen::DynamicEvent" if cls is events.DynamicEvent else cls.event_type
        # A typed StartEvent or StopEvent shares the type name with the plain one.
        shares = (cls is not events.StartEvent and cls is not events.StopEvent
                  and getattr(cls, "_subclasses_keep_type", False))
        entry.name = cls.__qualname__ if shares else ""
    entry.runs_code = entry.is_struct and hasattr(entry.cls, "__post_init__")
    return entry


cdef object _order_of_entry(ClassEntry entry):
    return not entry.is_event, entry.group, entry.name


@cython.final
cdef class ClassTable:
    """The classes whose instances may be written and read: prepare it once, use it for any number of values.

    Args:
        classes: Dataclasses, msgspec Structs, pydantic models and event classes.
    Raises:
        ValidationError: One of them is something else, or two of them have one name.
    """

    def __init__(self, classes=()):
        from blazen import events
        from blazen.errors import ValidationError
        cdef ClassEntry entry
        if self._by_name is not None:
            raise TypeError("a ClassTable is made once")
        self._by_address, self._by_name, self._by_last_name = {}, {}, {}
        members = check_types(classes)
        # A BlazenState has a way of its own, which knows its transient fields.
        cdef list entries = [_entry_for(cls, events) for cls in members if not is_state_class(cls)]
        cdef list event_classes = []
        entries.sort(key=_order_of_entry)
        for number, entry in enumerate(entries):
            entry.number = number
            key = (entry.is_event, entry.group, entry.name)
            if key in self._by_name:
                kind = "event type" if entry.is_event else "name"
                raise ValidationError(
                    f"two classes have the {kind} {_shown_name(entry)}; what is written by name could not be told "
                    "apart: rename one"
                )
            self._by_name[key] = entry
            self._by_address[PyLong_FromVoidPtr(<void *>entry.cls)] = entry
            if not entry.is_event:
                self._by_last_name.setdefault(entry.name, []).append(entry)
        for cls in members:
            if _is_event(cls, events.Event):
                event_classes.append(cls)
        self.events = frozenset(event_classes)
        self.types = frozenset([cls for cls in members if cls not in self.events])

    cdef ClassEntry entry_of(self, object cls):
        """The entry of the class `cls`, None if it has none."""
        return self._by_address.get(PyLong_FromVoidPtr(<void *>cls))

    cdef int put_used(self, Output out, set used) except -1:
        """Write what the entries in `used` are called, and their fields, so that values can refer to them by number."""
        cdef ClassEntry entry
        put_varint(out, len(used))
        for entry in sorted(used, key=_order_of_entry):
            put_varint(out, entry.number)
            put_byte(out, IS_EVENT if entry.is_event else IS_OTHER)
            put_name(out, entry.group)
            put_name(out, entry.name)
            names = entry.field_list()
            put_varint(out, len(names))
            for name in names:
                put_name(out, name)
        return 0

    cdef dict take_used(self, Input data, bint describing):
        """What `put_used` wrote: a reader for each number, of a class that is here unless it is only described."""
        cdef dict readers = {}
        cdef Py_ssize_t count = take_count(data, 5, "the classes")
        cdef Py_ssize_t start
        cdef uint64_t number = 0
        for _ in range(count):
            start = data.at
            take_varint(data, &number)
            if number in readers:
                data.fail(start, f"the class number {number} is given twice")
            readers[number] = self._take_class(data, start, describing)
        return readers

    cdef ClassReader _take_class(self, Input data, Py_ssize_t start, bint describing):
        cdef int kind = take_byte(data)
        cdef str group, name
        cdef ClassEntry entry
        cdef Py_ssize_t count
        cdef list names = []
        if kind != IS_EVENT and kind != IS_OTHER:
            data.fail(data.at - 1, f"no kind of class has the number {kind}")
        group = take_name(data, "the name of a class")
        name = take_name(data, "the name of a class")
        if not describing:
            entry = self._by_name.get((kind == IS_EVENT, group, name))
            if entry is None:
                entry = self._moved(data, start, kind, group, name)
        count = take_count(data, 1, "the fields of a class")
        for _ in range(count):
            names.append(take_name(data, "the name of a field"))
        return _describing_reader(kind, group, name, names) if describing else _reader(data, start, entry, tuple(names))

    cdef ClassEntry _moved(self, Input data, Py_ssize_t start, int kind, str group, str name):
        """The class that has another module now: allowed if it is the only one of its name."""
        if kind == IS_EVENT:
            what = f"the event type {group!r}" + (f" (class {name})" if name else "")
            data.fail(start, f"{what} is not among the workflow's events")
        found = self._by_last_name.get(name, [])
        if len(found) == 1:
            return found[0]
        problem = "is not named in Workflow(types=[...])"
        if found:
            places = ", ".join([_shown_name(entry) for entry in found])
            problem = f"has moved, and Workflow(types=[...]) names several that it may be: {places}"
        data.fail(start, f"the class {group}.{name} {problem}")


cdef str _shown_name(ClassEntry entry):
    if entry.is_event:
        return f"{entry.group!r}" + (f" (class {entry.name})" if entry.name else "")
    return f"{entry.group}.{entry.name}"


cdef ClassReader _describing_reader(int kind, str group, str name, list names):
    cdef ClassReader reader = ClassReader.__new__(ClassReader)
    if kind == IS_EVENT:
        reader.title = f"{group} ({name})" if name else group
    else:
        reader.title = f"{group}.{name}"
    reader.names = tuple(names)
    return reader


cdef ClassReader _reader(Input data, Py_ssize_t start, ClassEntry entry, tuple names):
    cdef ClassReader reader = ClassReader.__new__(ClassReader)
    cdef tuple current = entry.field_list()
    reader.entry = entry
    reader.names = names
    reader.absent = []
    if names == current:
        return reader
    if len(set(names)) != len(names):
        data.fail(start, f"{_shown_name(entry)} has a field twice")
    for name in names:
        if name not in current:
            data.fail(start, f"{_shown_name(entry)} was written with a field {name!r}, which it does not have now")
    required = _required_of_struct(entry.cls) if entry.is_struct else ()
    defaults = entry.defaults()
    for name in current:
        if name in names:
            continue
        if name in defaults:
            reader.absent.append((name, defaults[name]))
        elif name == PYDANTIC_SET:
            reader.absent.append((name, set))
        elif not entry.is_struct or name in required:
            data.fail(start, f"{_shown_name(entry)} was written without its field {name!r}, which has no default")
    return reader


cdef object _required_of_struct(object cls):
    from msgspec.structs import fields
    return {field.name for field in fields(cls) if field.required}


@cython.final
cdef class ClassReader:
    """A class as it was written: the fields in their order, and what to do about those it has got since."""

    cdef object make(self, tuple values):
        """The instance whose fields are `values`."""
        global force_setattr
        cdef Py_ssize_t index
        cls = self.entry.cls
        if self.entry.is_struct:
            made = PyObject_Vectorcall(cls, bz_tuple_items(values), 0, self.names)
            if self.entry.runs_code:
                if force_setattr is None:
                    from msgspec.structs import force_setattr as function
                    force_setattr = function
                # Whatever its __post_init__ did, it did when the value was first made: what was written counts.
                for index in range(len(values)):
                    if getattr(made, self.names[index]) is not values[index]:
                        force_setattr(made, self.names[index], values[index])
            return made
        try:
            made = make_empty(cls)
        except TypeError:
            made = cls.__new__(cls)         # it derives from a builtin that insists on its own
        for index in range(len(values)):
            PyObject_GenericSetAttr(made, self.names[index], values[index])
        for name, default in self.absent:
            PyObject_GenericSetAttr(made, name, default())
        return made


cdef ClassTable table_of(object classes):
    """`classes` as a table: a table as it is, anything else made into one."""
    if type(classes) is ClassTable:
        return classes
    return ClassTable(classes)
