# cython: auto_pickle=False
"""Storable values as bytes, and back: equal, and of the same types at every depth.

docs/snapshot_format.md says where each byte lies.
Two things keep the work in proportion to the data. Whatever may be reached by several ways is written once and then
referred to, so shared parts stay shared and cannot multiply. And inside of keys and set elements, which are hashed,
there are no references, so that hashing what was read takes no longer than reading it.
"""

from __future__ import annotations

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.complex cimport PyComplex_ImagAsDouble, PyComplex_RealAsDouble
from cpython.dict cimport PyDict_Next, PyDict_SetItem, PyDict_Size
from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE, PyList_New, PyList_SET_ITEM
from cpython.long cimport PyLong_FromVoidPtr
from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_INCREF, PyObject
from cpython.tuple cimport PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint64_t

from blazen._core.codec_bytes cimport (
    Input, Output, put_byte, put_counted, put_double, put_raw, put_signed, put_varint, take_byte, take_count,
    take_double, take_raw, take_signed, take_varint
)
from blazen._core.codec_classes cimport ClassEntry, ClassReader, ClassTable, table_of
from blazen._core.codec_leaves cimport put_big_int, put_leaf, take_big_int, take_leaf
from blazen._core.codec_numpy cimport is_array, is_scalar, put_array, put_scalar, take_array, take_scalar
from blazen._core.codec_tags cimport *
from blazen._core.storable cimport StateValue, StorableCheck, json_check, new_state_value
from blazen._core.storable_types cimport (
    Py_TYPE, PyBool_Type, PyByteArray_Type, PyBytes_Type, PyComplex_Type, PyDict_Type, PyFloat_Type,
    PyList_Type, PyLong_Type, PyTuple_Type, PyUnicode_Type, is_builtin_container, leaf_problem, shortened,
    shown, type_name
)

from blazen._core.codec_classes import ClassTable as _ClassTable
from blazen._core.storable import ADVICE

cdef extern from *:
    Py_ssize_t Py_REFCNT(object)
    bint PyUnicode_IS_ASCII(object)
    const char *ascii_of "(const char *)PyUnicode_1BYTE_DATA"(object)
    Py_ssize_t PyUnicode_GET_LENGTH(object)
    long long PyLong_AsLongLongAndOverflow(object, int *) except? -1
    PyObject *PyDict_SetDefault(object mapping, object key, object default) except NULL
    bint PyType_IsSubtype(PyTypeObject *cls, PyTypeObject *base)

cdef enum:
    # As for `ctx.set`: deep enough for data written by hand, shallow enough for the C stack of a small thread.
    MAX_DEPTH = 500
    # `_write` answers with the height of what it wrote (0: a leaf), or with this.
    REFUSED = -2
    # `_again` answers with this for what has not been written before.
    NOT_YET = -3
    # Containers in one key: without references, some values could be written for ever.
    MOST_IN_KEY = 1000000

__all__ = ["ClassTable", "Described", "UnopenedNative", "decode", "describe", "encode", "register_extension"]

globals()["ClassTable"] = _ClassTable

cdef list extensions = []                   # of (tag, base class, write, read, describe)


def register_extension(tag, base, write, read, describe):
    """Let the codec write instances of `base` and its subclasses as other storable values. Meant for blazen itself.

    Args:
        tag: The first byte of such a value, 0x60 to 0x7f; part of the format, so it never changes.
        base: The class; instances of its subclasses are written in the same way.
        write: ``write(value, classes)`` gives the contents, any storable value, or raises; `classes` is the
            `ClassTable` of the call.
        read: ``read(contents, classes)`` gives the value back, or raises.
        describe: ``describe(contents)`` gives, or raises, what `Described` is made of.
    Raises:
        ValidationError: `tag` is out of range, or it or `base` is registered already.
    """
    from blazen.errors import ValidationError
    if not TAG_FIRST_EXTENSION <= tag <= TAG_LAST_EXTENSION:
        raise ValidationError(f"the tag of an extension is 0x60 to 0x7f, not 0x{tag:02x}")
    for taken, registered, _, _, _ in extensions:
        if taken == tag or registered is base:
            raise ValidationError(f"tag 0x{taken:02x} is registered for {type_name(registered)} already")
    extensions.append((tag, base, write, read, describe))


@cython.final
cdef class UnopenedNative:
    """A pickled object that was not opened when it was read, because opening a pickle runs whatever code is in it.

    It is what a `StateValue` of kind ``"native"`` holds then, and is written again as it came.

    Attributes:
        data: The pickle.
    """

    cdef readonly bytes data

    def __init__(self, data):
        if type(data) is not bytes:
            raise TypeError(f"UnopenedNative holds bytes, not {type_name(type(data))}")
        self.data = data

    def __eq__(self, other):
        if type(other) is not UnopenedNative:
            return NotImplemented
        return self.data == (<UnopenedNative>other).data

    def __hash__(self):
        return hash((UnopenedNative, self.data))

    def __repr__(self):
        return f"<UnopenedNative of {len(self.data)} bytes: a pickle, opened only with trust_native=True>"

    def __reduce__(self):
        return UnopenedNative, (self.data,)


@cython.final
cdef class Described:
    """An instance of some class, told by names: what `describe` gives instead of the instance.

    It is compared and hashed by identity, so it can be a key whatever it holds.

    Attributes:
        name: What the class is called: an event's type; otherwise module and qualified name.
        fields: The names of the fields, as they were written.
        values: Their values.
    """

    cdef readonly str name
    cdef readonly tuple fields
    cdef readonly tuple values

    def __init__(self, name, fields, values):
        if type(name) is not str or type(fields) is not tuple or type(values) is not tuple:
            raise TypeError("Described takes a str and two tuples")
        if len(fields) != len(values) or any([type(field) is not str for field in fields]):
            raise ValueError("Described takes a str as the name of each value")
        self.name, self.fields, self.values = name, fields, values

    def __repr__(self):
        return f"<Described {self.name}, {len(self.fields)} fields>"


@cython.final
cdef class Encoder:
    """Writes one value."""

    cdef bytes encoded(self, object value):
        cdef Output out = Output.__new__(Output)
        cdef Output header
        self._out = out
        self._texts, self._objects, self._used, self._trail = {}, {}, set(), []
        self._root = value
        put_byte(out, FORMAT_VERSION)
        put_byte(out, 0)                    # no classes, which is what most values need
        if self._write(value, 0) == REFUSED:
            self._raise()
        if not self._used:
            return out.finish()
        header = Output.__new__(Output)
        put_byte(header, FORMAT_VERSION)
        self._classes.put_used(header, self._used)
        put_raw(header, out.data + 2, out.used - 2)
        return header.finish()

    def _raise(self):
        from blazen.errors import ValidationError
        path = "$" + "".join(reversed(self._trail))
        raise ValidationError(f"cannot write {shortened(path)}, which {self._problem}. {ADVICE}", path=path) from (
            self._cause
        )

    cdef int _refuse(self, str problem, object cause=None) except -1:
        self._problem = problem
        self._cause = cause
        return REFUSED

    cdef int _write(self, object value, int depth) except -1:
        """Write `value`, which lies inside `depth` containers. Its height (0: a leaf) or REFUSED."""
        cdef PyTypeObject *kind = Py_TYPE(value)
        if kind == &PyUnicode_Type:
            return self._write_text(<str>value)
        if kind == &PyLong_Type:
            return self._write_int(value)
        if kind == &PyFloat_Type:
            put_byte(self._out, TAG_FLOAT)
            return put_double(self._out, PyFloat_AS_DOUBLE(value))
        if value is None:
            return put_byte(self._out, TAG_NONE)
        if kind == &PyBool_Type:
            return put_byte(self._out, TAG_TRUE if value is True else TAG_FALSE)
        if is_builtin_container(value):
            return self._write_container(value, None, depth)
        if kind == &PyBytes_Type:
            return self._write_data(TAG_BYTES, value, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        return self._write_other(value, depth)

    cdef int _write_text(self, str value) except -1:
        cdef Output out = self._out
        cdef Py_ssize_t number
        cdef PyObject *known
        cdef bint is_long = PyUnicode_GET_LENGTH(value) >= LONG_STR
        if not self._plain:
            if is_long:
                if self._again(value, 0) >= 0:
                    return 0
            else:
                number = PyDict_Size(self._texts)
                known = PyDict_SetDefault(self._texts, value, number)
                if PyDict_Size(self._texts) == number:
                    put_byte(out, TAG_STR_AGAIN)
                    return put_varint(out, <uint64_t><object>known)
        if PyUnicode_IS_ASCII(value):
            put_byte(out, TAG_STR)
            put_counted(out, ascii_of(value), PyUnicode_GET_LENGTH(value))
        else:
            self._write_wide_text(value)
        return self._number(value, 0) if is_long and not self._plain else 0

    cdef int _write_wide_text(self, str value) except -1:
        cdef bytes encoded
        cdef unsigned char tag = TAG_STR
        try:
            encoded = value.encode("utf-8")
        except UnicodeEncodeError:
            # Marked, so that who reads this in another language knows what is no UTF-8.
            encoded = value.encode("utf-8", "surrogatepass")
            tag = TAG_STR_SURROGATES
        put_byte(self._out, tag)
        return put_counted(self._out, PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded))

    cdef int _write_int(self, object value) except -1:
        cdef int overflow = 0
        cdef long long number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow:
            return put_big_int(self._out, value)
        if 0 <= number < 128:
            return put_byte(self._out, <unsigned char>(TAG_SMALL_INT + number))
        put_byte(self._out, TAG_INT)
        return put_signed(self._out, number)

    cdef int _write_data(self, unsigned char tag, object value, const char *raw, Py_ssize_t size) except -1:
        cdef bint numbered = not self._plain and (tag == TAG_BYTEARRAY or size >= LONG_BYTES)
        if numbered and self._again(value, 0) >= 0:
            return 0
        put_byte(self._out, tag)
        put_counted(self._out, raw, size)
        return self._number(value, 0) if numbered else 0

    cdef int _write_other(self, object value, int depth) except -1:
        cdef PyTypeObject *kind = Py_TYPE(value)
        cdef ClassEntry entry
        if kind == &PyByteArray_Type:
            return self._write_data(TAG_BYTEARRAY, value, PyByteArray_AS_STRING(value), PyByteArray_GET_SIZE(value))
        if kind == &PyComplex_Type:
            put_byte(self._out, TAG_COMPLEX)
            put_double(self._out, PyComplex_RealAsDouble(value))
            return put_double(self._out, PyComplex_ImagAsDouble(value))
        if type(value) is StateValue:
            return self._held(value, depth)
        entry = self._classes.entry_of(type(value))
        if entry is not None:
            return self._write_container(value, entry, depth)
        for extension in extensions:
            if PyType_IsSubtype(kind, <PyTypeObject *>(<tuple>extension)[1]):
                return self._write_container(value, extension, depth)
        return self._write_leaf(value)

    cdef int _write_leaf(self, object value) except -1:
        # The same judge as for `ctx.set`, with the same words.
        cdef str problem = leaf_problem(value)
        if problem is not None:
            return self._refuse(problem)
        try:
            if is_array(value):
                if not self._plain and self._again(value, 0) >= 0:
                    return 0
                put_array(self._out, value)
                return 0 if self._plain else self._number(value, 0)
            if is_scalar(value):
                return put_scalar(self._out, value)
            if put_leaf(self._out, value):
                return 0
        except (ValueError, LookupError, OverflowError, AttributeError, TypeError) as error:
            return self._refuse(f"(a {type_name(type(value))}) cannot be written: {error}", error)
        return self._refuse(f"is of type {type_name(type(value))}, which is not storable")

    cdef int _write_container(self, object value, object entry, int depth) except -1:
        """Write what holds other values: a builtin container, an instance of a class, a StateValue, an extension."""
        cdef int height
        cdef bint shared
        if depth > 0 and <PyObject *>value == <PyObject *>self._root:
            return self._refuse(f"(a {type_name(type(value))}) refers to itself: it is the written value again")
        # Two references are our own and its only container's: nothing else can lead here again.
        shared = depth > 0 and not self._plain and Py_REFCNT(value) > 2
        if shared:
            height = self._again(value, depth)
            if height != NOT_YET:
                return height
        if depth >= MAX_DEPTH:
            return self._refuse_depth(value)
        if shared:
            self._objects[PyLong_FromVoidPtr(<void *>value)] = None
        elif self._plain:
            self._plain_count += 1
            if self._plain_count > MOST_IN_KEY:
                return self._refuse(f"is part of a key or of an element of a set that holds over {MOST_IN_KEY} values")
        height = self._contents(value, entry, depth)
        if height == REFUSED:
            return REFUSED
        height += 1
        if shared:
            self._number(value, height)
        elif not self._plain:
            self._object_count += 1
        return height

    cdef int _refuse_depth(self, object value) except -1:
        return self._refuse(
            f"(a {type_name(type(value))}) is nested too deep: more than {MAX_DEPTH} containers in each other"
        )

    cdef int _again(self, object value, int depth) except -1:
        """If `value` was written before, refer to it: its height, or REFUSED. Else NOT_YET."""
        cdef int height
        cdef tuple known
        found = self._objects.get(PyLong_FromVoidPtr(<void *>value), self)
        if found is self:
            return NOT_YET
        if found is None:
            return self._refuse(f"(a {type_name(type(value))}) refers to itself: it holds itself")
        known = found
        height = known[2]
        if depth + height > MAX_DEPTH:
            return self._refuse_depth(value)
        put_byte(self._out, TAG_AGAIN)
        put_varint(self._out, known[1])
        return height

    cdef int _number(self, object value, int height) except -1:
        # Held, so that the address stays this object's while the writing goes on.
        self._objects[PyLong_FromVoidPtr(<void *>value)] = (value, self._object_count, height)
        self._object_count += 1
        return 0

    cdef int _contents(self, object value, object entry, int depth) except -1:
        """Write the tag and what is inside; the greatest height among it, or REFUSED."""
        cdef PyTypeObject *kind = Py_TYPE(value)
        if entry is not None:
            if type(entry) is ClassEntry:
                return self._instance(value, entry, depth)
            if entry is StateValue:
                return self._held_contents(value, depth)
            return self._extension(value, entry, depth)
        if kind == &PyList_Type:
            return self._list(value, depth)
        if kind == &PyDict_Type:
            return self._dict(value, depth)
        if kind == &PyTuple_Type:
            put_byte(self._out, TAG_TUPLE)
            put_varint(self._out, PyTuple_GET_SIZE(value))
            return self._items(<tuple>value, depth)
        return self._set(value, depth)

    cdef int _list(self, object value, int depth) except -1:
        cdef Py_ssize_t index = 0
        cdef Py_ssize_t size = PyList_GET_SIZE(value)
        cdef int height = 0
        cdef int inner
        cdef object item
        put_byte(self._out, TAG_LIST)
        put_varint(self._out, size)
        while index < size:
            item = <object>PyList_GET_ITEM(value, index)
            inner = self._write(item, depth + 1)
            if inner == REFUSED:
                self._trail.append(f"[{index}]")
                return REFUSED
            if inner > height:
                height = inner
            # A property of an item, or another thread while it ran, may have changed the list.
            if PyList_GET_SIZE(value) != size:
                return self._refuse("(a list) was changed while it was being written")
            index += 1
        return height

    cdef int _items(self, tuple items, int depth) except -1:
        cdef Py_ssize_t index
        cdef int height = 0
        cdef int inner
        cdef object item
        for index in range(PyTuple_GET_SIZE(items)):
            item = items[index]
            inner = self._write(item, depth + 1)
            if inner == REFUSED:
                self._trail.append(f"[{index}]")
                return REFUSED
            if inner > height:
                height = inner
        return height

    cdef int _dict(self, object value, int depth) except -1:
        cdef Py_ssize_t position = 0
        cdef Py_ssize_t size = PyDict_Size(value)
        cdef PyObject *key_pointer
        cdef PyObject *item_pointer
        cdef int height = 0
        cdef int inner
        cdef object key, item
        put_byte(self._out, TAG_DICT)
        put_varint(self._out, size)
        while PyDict_Next(value, &position, &key_pointer, &item_pointer):
            key = <object>key_pointer
            item = <object>item_pointer
            if type(key) is str:
                self._write_text(<str>key)
            else:
                inner = self._write_key(key, depth + 1)
                if inner == REFUSED:
                    self._trail.append("{key}")
                    return REFUSED
                if inner > height:
                    height = inner
            inner = self._write(item, depth + 1)
            if inner == REFUSED:
                self._trail.append(f"[{shown(key)}]")
                return REFUSED
            if inner > height:
                height = inner
            if PyDict_Size(value) != size:
                return self._refuse("(a dict) was changed while it was being written")
        return height

    cdef int _write_key(self, object key, int depth) except -1:
        """Write what will be hashed when it is read: without numbers and references."""
        cdef int height
        if self._plain:
            return self._write(key, depth)
        self._plain = True
        self._plain_count = 0
        height = self._write(key, depth)
        self._plain = False
        return height

    cdef int _set(self, object value, int depth) except -1:
        # A copy, since a set cannot be read by position and may change under an iterator.
        cdef tuple items = tuple(value)
        cdef Py_ssize_t begin
        cdef list starts = []
        cdef int height = 0
        cdef int inner
        put_byte(self._out, TAG_SET if type(value) is set else TAG_FROZENSET)
        put_varint(self._out, PyTuple_GET_SIZE(items))
        begin = self._out.used
        for item in items:
            starts.append(self._out.used - begin)
            inner = self._write_key(item, depth + 1)
            if inner == REFUSED:
                self._trail.append("{item}")
                return REFUSED
            if inner > height:
                height = inner
        if len(starts) > 1:
            self._sort(begin, starts)
        return height

    cdef int _sort(self, Py_ssize_t begin, list starts) except -1:
        """Put what was written since `begin` in the order of its bytes: a set's own order differs between processes."""
        cdef Output out = self._out
        cdef bytes written = PyBytes_FromStringAndSize(<const char *>out.data + begin, out.used - begin)
        cdef bytes part
        starts.append(len(written))
        parts = [written[starts[index]:starts[index + 1]] for index in range(len(starts) - 1)]
        parts.sort()
        out.used = begin
        for part in parts:
            put_raw(out, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
        return 0

    cdef int _instance(self, object value, ClassEntry entry, int depth) except -1:
        cdef int height = 0
        cdef int inner
        cdef str name
        self._used.add(entry)
        put_byte(self._out, TAG_INSTANCE)
        put_varint(self._out, entry.number)
        for name in entry.field_list():
            try:
                item = getattr(value, name)
            except AttributeError:
                self._trail.append(f".{name}")
                return self._refuse(f"has no value: a field of {type_name(type(value))} that was never set")
            inner = self._write(item, depth + 1)
            if inner == REFUSED:
                self._trail.append(f".{name}")
                return REFUSED
            if inner > height:
                height = inner
        return height

    cdef int _held(self, StateValue value, int depth) except -1:
        cdef object data = value.value
        cdef str kind = value.kind
        if kind == "json" or kind == "value":
            return self._write_container(value, StateValue, depth)
        if not self._plain and self._again(value, 0) >= 0:
            return 0
        if kind == "native":
            if type(data) is UnopenedNative:
                data = (<UnopenedNative>data).data
            else:
                from pickle import dumps
                try:
                    data = dumps(data, 5)
                except Exception as error:
                    self._trail.append(".value")
                    return self._refuse(
                        f"(a {type_name(type(data))}) cannot be pickled ({type(error).__name__}: {error})", error
                    )
            put_byte(self._out, TAG_NATIVE)
        else:
            put_byte(self._out, TAG_HELD_BYTES if kind == "bytes" else TAG_NATIVE_BYTES)
        put_counted(self._out, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        return 0 if self._plain else self._number(value, 0)

    cdef int _held_contents(self, StateValue value, int depth) except -1:
        cdef StorableCheck check
        cdef int height
        cdef str problem
        if value.kind == "json":
            check = json_check()
            problem = check.refusal(value.value)
            if problem is not None:
                self._trail = [*check._trail, ".value"]
                return self._refuse(problem)
        put_byte(self._out, TAG_JSON if value.kind == "json" else TAG_HELD_VALUE)
        height = self._write(value.value, depth + 1)
        if height == REFUSED:
            self._trail.append(".value")
        return height

    cdef int _extension(self, object value, tuple extension, int depth) except -1:
        cdef int height
        put_byte(self._out, extension[0])
        try:
            contents = extension[2](value, self._classes)
        except Exception as error:
            return self._refuse(f"(a {type_name(type(value))}) cannot be written: {error}", error)
        height = self._write(contents, depth + 1)
        if height == REFUSED:
            self._trail.append(".contents")
        return height


@cython.final
cdef class Decoder:
    """Reads one value."""

    cdef object decoded(self):
        cdef Input data = self._in
        cdef int version
        self._texts, self._objects, self._heights = [], [], []
        version = take_byte(data)
        if version != FORMAT_VERSION:
            what = "by a newer blazen" if version > FORMAT_VERSION else "by something else"
            data.fail(0, f"it has format version {version}, written {what}; this one reads version {FORMAT_VERSION}")
        self._readers = self._classes.take_used(data, self._describing)
        value = self._read(0)
        if data.at != data.size:
            data.fail(data.at, f"the value ends here, and {data.size - data.at} bytes follow")
        return value

    cdef object _read(self, int depth):
        """The next value, which lies inside `depth` containers; its height is left in `_height`."""
        cdef Input data = self._in
        cdef int tag
        cdef int64_t number = 0
        cdef double real = 0
        data.began = data.at
        tag = take_byte(data)
        self._height = 0
        if tag >= TAG_SMALL_INT:
            return tag - TAG_SMALL_INT
        if tag == TAG_STR:
            return self._read_text(tag)
        if tag == TAG_STR_AGAIN:
            return self._read_text_again()
        if tag == TAG_INT:
            take_signed(data, &number)
            return number
        if tag == TAG_FLOAT:
            take_double(data, &real)
            return real
        if tag == TAG_NONE:
            return None
        if tag == TAG_TRUE:
            return True
        if tag == TAG_FALSE:
            return False
        if TAG_LIST <= tag <= TAG_FROZENSET or tag == TAG_INSTANCE:
            return self._read_container(tag, depth)
        return self._read_rare(tag, depth)

    cdef object _read_text(self, int tag):
        cdef Input data = self._in
        cdef Py_ssize_t size = take_count(data, 1, "the bytes of a str")
        cdef const unsigned char *raw = take_raw(data, size, "the bytes of a str")
        cdef str text
        try:
            if tag == TAG_STR:
                text = PyUnicode_DecodeUTF8(<const char *>raw, size, NULL)
            else:
                text = PyUnicode_DecodeUTF8(<const char *>raw, size, "surrogatepass")
        except UnicodeDecodeError as error:
            data.fail(data.at - size + error.start, f"a str is no UTF-8 ({error.reason})")
        if not self._plain:
            if PyUnicode_GET_LENGTH(text) >= LONG_STR:
                self._number(text, 0)
            else:
                self._texts.append(text)
        return text

    cdef object _read_text_again(self):
        cdef Input data = self._in
        cdef Py_ssize_t start = data.at - 1
        cdef uint64_t number = 0
        take_varint(data, &number)
        if self._plain:
            data.fail(start, "a reference inside a key or an element of a set")
        if number >= <uint64_t>PyList_GET_SIZE(self._texts):
            data.fail(start, f"a reference to the str number {number}, which has not come yet")
        return <object>PyList_GET_ITEM(self._texts, number)

    cdef object _read_again(self, int depth):
        cdef Input data = self._in
        cdef Py_ssize_t start = data.at - 1
        cdef uint64_t number = 0
        take_varint(data, &number)
        if self._plain:
            data.fail(start, "a reference inside a key or an element of a set")
        if number >= <uint64_t>PyList_GET_SIZE(self._objects):
            data.fail(start, f"a reference to the value number {number}, which has not come yet")
        self._height = <object>PyList_GET_ITEM(self._heights, number)
        if depth + self._height > MAX_DEPTH:
            data.fail(start, f"more than {MAX_DEPTH} containers in each other")
        return <object>PyList_GET_ITEM(self._objects, number)

    cdef object _read_rare(self, int tag, int depth):
        cdef Input data = self._in
        cdef Py_ssize_t size
        cdef const unsigned char *raw
        cdef double real = 0
        cdef double imaginary = 0
        if tag == TAG_BYTES or tag == TAG_BYTEARRAY:
            size = take_count(data, 1, "bytes")
            raw = take_raw(data, size, "bytes")
            value = <object>PyBytes_FromStringAndSize(<const char *>raw, size)
            if tag == TAG_BYTEARRAY:
                value = bytearray(value)
            elif size < LONG_BYTES:
                return value
            return self._numbered(value)
        if tag == TAG_STR_SURROGATES:
            return self._read_text(tag)
        if tag == TAG_AGAIN:
            return self._read_again(depth)
        if tag == TAG_BIG_INT:
            return take_big_int(data)
        if tag == TAG_COMPLEX:
            take_double(data, &real)
            take_double(data, &imaginary)
            return complex(real, imaginary)
        if TAG_DATE <= tag <= TAG_DECIMAL:
            return take_leaf(data, tag)
        if tag == TAG_ARRAY:
            return self._numbered(take_array(data))
        if TAG_ARRAY < tag <= TAG_NUMPY_BYTES:
            return take_scalar(data, tag)
        if tag == TAG_JSON or tag == TAG_HELD_VALUE:
            return self._read_container(tag, depth)
        if TAG_HELD_BYTES <= tag <= TAG_NATIVE_BYTES:
            return self._numbered(self._held_bytes(tag))
        if TAG_FIRST_EXTENSION <= tag <= TAG_LAST_EXTENSION:
            return self._read_container(tag, depth)
        data.fail(data.at - 1, f"no value begins with the byte 0x{tag:02x}")

    cdef object _numbered(self, object value):
        if not self._plain:
            self._number(value, 0)
        return value

    cdef int _number(self, object value, int height) except -1:
        self._objects.append(value)
        self._heights.append(height)
        return 0

    cdef object _read_container(self, int tag, int depth):
        cdef object value
        cdef int height
        if depth >= MAX_DEPTH:
            self._in.fail(self._in.at - 1, f"more than {MAX_DEPTH} containers in each other")
        if tag == TAG_LIST:
            value = self._list(depth)
        elif tag == TAG_DICT:
            value = self._dict(depth)
        elif tag == TAG_TUPLE:
            value = self._tuple(take_count(self._in, 1, "the items of a tuple"), depth)
        elif tag == TAG_SET or tag == TAG_FROZENSET:
            value = self._set(tag == TAG_FROZENSET, depth)
        elif tag == TAG_INSTANCE:
            value = self._instance(depth)
        else:
            value = self._wrapped(tag, depth)
        height = self._height + 1
        self._height = height
        if not self._plain:
            self._number(value, height)
        return value

    cdef list _list(self, int depth):
        cdef Input data = self._in
        cdef Py_ssize_t count = take_count(data, 1, "the items of a list")
        cdef list made = PyList_New(count)
        cdef Py_ssize_t index
        cdef int height = 0
        cdef object item
        data.owed += count
        for index in range(count):
            data.owed -= 1
            item = self._read(depth + 1)
            if self._height > height:
                height = self._height
            Py_INCREF(item)
            PyList_SET_ITEM(made, index, item)
        self._height = height
        return made

    cdef tuple _tuple(self, Py_ssize_t count, int depth):
        """A tuple of the next `count` values, which take a byte each at the least."""
        cdef Input data = self._in
        cdef tuple made = PyTuple_New(count)
        cdef Py_ssize_t index
        cdef int height = 0
        cdef object item
        data.owed += count
        for index in range(count):
            data.owed -= 1
            item = self._read(depth + 1)
            if self._height > height:
                height = self._height
            Py_INCREF(item)
            PyTuple_SET_ITEM(made, index, item)
        self._height = height
        return made

    cdef dict _dict(self, int depth):
        cdef Input data = self._in
        cdef Py_ssize_t start = data.at - 1
        cdef Py_ssize_t count = take_count(data, 2, "the items of a dict")
        cdef dict made = {}
        cdef int height = 0
        cdef object key, item
        data.owed += 2 * count
        for _ in range(count):
            data.owed -= 1
            key = self._read_key(depth + 1, True)
            if self._height > height:
                height = self._height
            data.owed -= 1
            item = self._read(depth + 1)
            if self._height > height:
                height = self._height
            PyDict_SetItem(made, key, item)
        if PyDict_Size(made) != count:
            data.fail(start, "a dict has a key twice")
        self._height = height
        return made

    cdef object _read_key(self, int depth, bint of_dict):
        """What will be hashed: no references inside, so that its hash costs no more than its bytes did."""
        cdef Input data = self._in
        cdef object key
        cdef int tag
        if self._plain:
            return self._read(depth)
        if of_dict and data.at < data.size:
            tag = data.data[data.at]
            if tag == TAG_STR or tag == TAG_STR_AGAIN or tag == TAG_STR_SURROGATES or tag == TAG_AGAIN:
                key = self._read(depth)
                if type(key) is not str:
                    data.fail(data.began, "a key of a dict that is a reference to something else than a str")
                return key
        self._plain = True
        key = self._read(depth)
        self._plain = False
        return key

    cdef object _set(self, bint frozen, int depth):
        cdef Input data = self._in
        cdef Py_ssize_t start = data.at - 1
        cdef Py_ssize_t count = take_count(data, 1, "the elements of a set")
        cdef set made = set()
        cdef int height = 0
        data.owed += count
        for _ in range(count):
            data.owed -= 1
            item = self._read_key(depth + 1, False)
            if self._height > height:
                height = self._height
            made.add(item)
        if len(made) != count:
            data.fail(start, "a set has an element twice")
        self._height = height
        return frozenset(made) if frozen else made

    cdef object _instance(self, int depth):
        cdef Input data = self._in
        cdef Py_ssize_t start = data.at - 1
        cdef ClassReader reader
        cdef uint64_t number = 0
        take_varint(data, &number)
        reader = self._readers.get(number)
        if reader is None:
            data.fail(start, f"the class number {number} is not given at the beginning")
        if len(reader.names) > data.size - data.at - data.owed:
            data.truncated("the fields of an instance", len(reader.names))
        values = self._tuple(len(reader.names), depth)
        return Described(reader.title, reader.names, values) if self._describing else reader.make(values)

    cdef object _held_bytes(self, int tag):
        cdef Input data = self._in
        cdef Py_ssize_t start = data.at - 1
        cdef Py_ssize_t size = take_count(data, 1, "the bytes of a StateValue")
        cdef const unsigned char *raw = take_raw(data, size, "the bytes of a StateValue")
        cdef bytes held = PyBytes_FromStringAndSize(<const char *>raw, size)
        if tag == TAG_HELD_BYTES:
            return new_state_value("bytes", held)
        if tag == TAG_NATIVE_BYTES:
            return new_state_value("native_bytes", held)
        if not self._trust_native:
            return new_state_value("native", UnopenedNative(held))
        from pickle import loads
        try:
            return new_state_value("native", loads(held))
        except Exception as error:
            data.fail(start, f"a native value cannot be unpickled ({type(error).__name__}: {error})")

    cdef object _wrapped(self, int tag, int depth):
        """A StateValue that holds a value, or what an extension makes of one."""
        if tag == TAG_JSON:
            return StateValue.json(self._read(depth + 1))
        if tag == TAG_HELD_VALUE:
            return new_state_value("value", self._read(depth + 1))
        for known, _, _, read, describing in extensions:
            if known == tag and self._describing:
                return Described(*describing(self._read(depth + 1)))
            if known == tag:
                return read(self._read(depth + 1), self._classes)
        self._in.fail(self._in.at - 1, f"no value begins with the byte 0x{tag:02x}")


def encode(value, *, classes=()):
    """Write `value` as bytes, from which `decode` makes an equal value, of the same types at every depth.

    Takes what ``ctx.set`` takes. A list, dict or other container that is reached by several ways is written once and
    stays one object; but not inside of keys and of elements of sets. The same value gives the same bytes in every
    process; elements of sets are written in the order of their bytes.

    Args:
        value: Any storable value.
        classes: The classes whose instances may be in it, events included; a `ClassTable`, or a list of classes.
    Raises:
        ValidationError: Something in `value` is not storable, cannot be pickled though it is to be, refers to itself or
            is nested deeper than 500 containers; ``path`` says where. Or `classes` are none.
    """
    cdef Encoder encoder = Encoder.__new__(Encoder)
    encoder._classes = table_of(classes)
    return encoder.encoded(value)


def decode(data, *, classes=(), trust_native=False):
    """Return the value that `encode` has written.

    Bytes that are cut off, altered or made by somebody else give an error or another storable value, nothing worse: no
    code in them is run unless `trust_native`, and no more memory is taken than their length justifies. Hashing and
    filling instances of `classes` is left to these classes.

    Args:
        data: bytes, bytearray or memoryview. Nothing in the value refers to it afterwards.
        classes: As for `encode`. A class may have got fields with defaults since, and may be in another module.
        trust_native: Open pickles: only for data that nobody else could have written. Without it a native value comes
            back as a `StateValue` of kind ``"native"`` that holds an `UnopenedNative`.
    Raises:
        ValidationError: `data` is no such value, of another version, or of a class that is missing or does not fit; the
            message says what is wrong at which byte.
    """
    cdef Decoder decoder = Decoder.__new__(Decoder)
    decoder._classes = table_of(classes)
    decoder._trust_native = trust_native is True
    return _decoded(decoder, data)


def describe(data):
    """Return the value that `encode` has written, for somebody who has none of its classes and only wants to look.

    As `decode`, but each instance of a class comes back as a `Described`, and no pickle is opened.

    Args:
        data: As of `decode`.
    Raises:
        ValidationError: `data` is no such value, or of another version; the message says what is wrong at which byte.
    """
    cdef Decoder decoder = Decoder.__new__(Decoder)
    decoder._classes = table_of(())
    decoder._describing = True
    return _decoded(decoder, data)


cdef object _decoded(Decoder decoder, object data):
    cdef Input source = Input.__new__(Input, data)
    decoder._in = source
    try:
        return decoder.decoded()
    except MemoryError:
        raise
    except Exception as error:
        # What the classes of the values raise, ours and others': a date has no month 13, a list has no hash.
        if source.failed:
            raise
        from blazen.errors import ValidationError
        raise ValidationError(
            f"cannot read the value: {type(error).__name__}: {error}; it begins at byte {source.began} of {source.size}"
        ) from error
