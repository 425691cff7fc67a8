# cython: auto_pickle=False
"""NumPy arrays and scalars as bytes: the dtype in parts, the shape, then the elements as they lie in memory.

A dtype is put together again from numbers and names, each checked: no text that was read is ever given to NumPy to
interpret. NumPy is imported only when there is an array to be read.
"""

from __future__ import annotations

import sys

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_F_CONTIGUOUS, PyBuffer_Release, PyObject_GetBuffer, Py_buffer
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t

from blazen._core.codec_bytes cimport (
    Input, Output, put_byte, put_name, put_raw, put_counted, put_varint, take_byte, take_count, take_name, take_raw,
    take_varint
)
from blazen._core.codec_tags cimport *
from blazen._core.storable_types cimport Py_TYPE

cdef extern from *:
    bint PyType_IsSubtype(PyTypeObject *cls, PyTypeObject *base)

__all__: list[str] = []

cdef enum:
    STRUCTURED = 0x01
    SUBARRAY = 0x02
    MOST_DIMENSIONS = 64
    DEEPEST_DTYPE = 100

cdef object numpy = None                    # the module, once the process has loaded it
cdef PyTypeObject *array_type = NULL
cdef PyTypeObject *generic_type = NULL

# What is told by its letter, its size and its byte order.
cdef str NUMBERS = "?bBhHiIlLqQefdgFDG"
# Extended precision differs between processors that agree on its size.
cdef str EXTENDED = "gG"
cdef dict known_dtypes = {}                 # (char, size, order) -> dtype, of numbers that were read before
cdef tuple UNITS = ("generic", "Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as")


cdef bint _find_numpy() except -1:
    """True if NumPy is loaded; noted when it is for the first time."""
    global numpy, array_type, generic_type
    if numpy is not None:
        return True
    module = sys.modules.get("numpy")
    # Another thread may be in the middle of importing it: nothing is noted before all of it is there.
    if getattr(module, "ndarray", None) is None or getattr(module, "generic", None) is None:
        return False
    array_type = <PyTypeObject *><PyObject *>module.ndarray
    generic_type = <PyTypeObject *><PyObject *>module.generic
    numpy = module
    return True


cdef int _need_numpy(Input data, Py_ssize_t at) except -1:
    if numpy is None:
        try:
            __import__("numpy")
        except ImportError:
            data.fail(at, 'a NumPy array, and NumPy is not installed: pip install "blazen[numpy]"')
        if not _find_numpy():
            data.fail(at, "a NumPy array, and NumPy is still being imported by another thread")
    return 0


cdef bint is_array(object value) noexcept:
    return (array_type != NULL or _find_numpy()) and Py_TYPE(value) == array_type


cdef bint is_scalar(object value) noexcept:
    return (generic_type != NULL or _find_numpy()) and PyType_IsSubtype(Py_TYPE(value), generic_type)


cdef str _order_of(object dtype):
    """The byte order as it is written: little "<", big ">", or "|" where there is none."""
    order = dtype.byteorder
    if order == "=":
        return "<" if sys.byteorder == "little" else ">"
    return order


cdef int _put_dtype(Output out, object dtype) except -1:
    cdef str char
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        put_byte(out, SUBARRAY)
        put_byte(out, len(shape))
        for length in shape:
            put_varint(out, length)
        return _put_dtype(out, base)
    if dtype.names is not None:
        return _put_structured(out, dtype)
    char = dtype.char
    put_byte(out, ord(char))
    if char == "T":
        return put_byte(out, dtype.coerce)
    put_byte(out, ord(_order_of(dtype)))
    if char == "M" or char == "m":
        unit, count = numpy.datetime_data(dtype)
        put_byte(out, UNITS.index(unit))
        return put_varint(out, count)
    put_varint(out, dtype.itemsize)
    if char in EXTENDED:
        put_byte(out, numpy.finfo(dtype).nmant)
    return 0


cdef int _put_structured(Output out, object dtype) except -1:
    put_byte(out, STRUCTURED)
    put_byte(out, dtype.isalignedstruct)
    put_varint(out, dtype.itemsize)
    put_varint(out, len(dtype.names))
    for name in dtype.names:
        field = dtype.fields[name]
        put_name(out, name)
        if len(field) == 2:
            put_byte(out, 0)
        elif type(field[2]) is str:
            put_byte(out, 1)
            put_name(out, field[2])
        else:
            raise ValueError(f"a NumPy dtype has a field {name!r} whose title is no str")
        put_varint(out, field[1])
        _put_dtype(out, field[0])
    return 0


cdef int put_array(Output out, object value) except -1:
    cdef object dtype = value.dtype
    cdef object flags = value.flags
    # Any other layout than these two is written in C order.
    cdef bint by_columns = flags.f_contiguous and not flags.c_contiguous
    cdef bytes raw
    cdef Py_buffer view
    put_byte(out, TAG_ARRAY)
    _put_dtype(out, dtype)
    put_byte(out, ord("F") if by_columns else ord("C"))
    put_byte(out, value.ndim)
    for length in value.shape:
        put_varint(out, length)
    if dtype.char == "T":
        for text in value.ravel("F" if by_columns else "C").tolist():
            put_name(out, text)
        return 0
    if dtype.kind in "biufc" and (by_columns or flags.c_contiguous):
        # As it lies in memory, without a copy of its own. Other kinds have no buffer that one could ask for.
        PyObject_GetBuffer(value, &view, PyBUF_F_CONTIGUOUS if by_columns else PyBUF_C_CONTIGUOUS)
        try:
            return put_raw(out, view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
    raw = value.tobytes("F" if by_columns else "C")
    return put_raw(out, PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))


cdef int put_scalar(Output out, object value) except -1:
    cdef bytes raw
    cdef str char = value.dtype.char
    # As text and as bytes: their dtype has no size for what is empty, and loses zeros at the end.
    if char == "U":
        put_byte(out, TAG_NUMPY_STR)
        return put_name(out, str(value))
    if char == "S":
        put_byte(out, TAG_NUMPY_BYTES)
        return put_counted(out, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    put_byte(out, TAG_NUMPY_SCALAR)
    _put_dtype(out, value.dtype)
    raw = value.tobytes()
    return put_raw(out, PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))


cdef object _take_dtype(Input data, int depth):
    cdef Py_ssize_t start = data.at
    cdef int code = take_byte(data)
    cdef str char = chr(code)
    if depth > DEEPEST_DTYPE:
        data.fail(start, f"a dtype is nested more than {DEEPEST_DTYPE} deep")
    try:
        if code == STRUCTURED or code == SUBARRAY:
            if code == STRUCTURED:
                made = _take_structured(data, depth)
            else:
                shape = _take_shape(data)
                made = numpy.dtype((_take_dtype(data, depth + 1), shape))
            if made.hasobject:
                # Of these only a text by itself is read one by one; bytes must never become addresses.
                data.fail(start, "a dtype that holds variable texts inside")
            return made
        if char == "T":
            return numpy.dtypes.StringDType(coerce=take_byte(data) != 0)
        return _take_simple(data, start, char)
    except (TypeError, ValueError, OverflowError, AttributeError, KeyError) as error:
        if data.failed:
            raise
        data.fail(start, f"NumPy has no such dtype ({error})")


cdef object _ordered(object dtype, str order):
    """`dtype` in this byte order; the machine's own stays as it is, which NumPy writes as "=" and compares faster."""
    return dtype if order == _order_of(dtype) else dtype.newbyteorder(order)


cdef object _take_simple(Input data, Py_ssize_t start, str char):
    cdef uint64_t size = 0
    cdef uint64_t count = 0
    cdef int unit
    order = chr(take_byte(data))
    if order not in "<>|":
        data.fail(start + 1, "no byte order of NumPy's")
    if char == "M" or char == "m":
        unit = take_byte(data)
        take_varint(data, &count)
        if unit >= len(UNITS):
            data.fail(start + 2, "no unit of time of NumPy's")
        dtype = numpy.dtype(f"{char}8" if unit == 0 else f"{char}8[{count}{UNITS[unit]}]")
        return _ordered(dtype, order)
    take_varint(data, &size)
    if char in "SVUc":
        if char == "c":
            dtype = numpy.dtype("c")
        else:
            dtype = numpy.dtype(f"{char}{size // 4 if char == 'U' else size}")
    elif char in NUMBERS:
        known = known_dtypes.get((char, size, order))
        if known is not None:
            return known
        dtype = numpy.dtype(char)
        if dtype.itemsize != size and dtype.kind in "iu":
            # A C long has four bytes on one platform and eight on the other: the size is what counts.
            dtype = numpy.dtype(f"{dtype.kind}{size}")
        if char in EXTENDED and take_byte(data) != numpy.finfo(dtype).nmant:
            data.fail(start, "extended floats of another kind of processor")
    else:
        data.fail(start, f"no dtype begins with the byte 0x{ord(char):02x}")
    if dtype.itemsize != size:
        data.fail(start, f"a dtype {dtype} of {size} bytes, which it does not have here")
    dtype = _ordered(dtype, order)
    if char in NUMBERS and char not in EXTENDED:
        known_dtypes[(char, size, order)] = dtype
    return dtype


cdef object _take_structured(Input data, int depth):
    cdef uint64_t size = 0
    cdef uint64_t offset = 0
    cdef bint aligned = take_byte(data) != 0
    cdef Py_ssize_t count
    take_varint(data, &size)
    names, titles, offsets, formats = [], [], [], []
    count = take_count(data, 5, "the fields of a dtype")
    for _ in range(count):
        names.append(take_name(data, "the name of a field"))
        titles.append(take_name(data, "the title of a field") if take_byte(data) else None)
        take_varint(data, &offset)
        offsets.append(offset)
        formats.append(_take_dtype(data, depth + 1))
    parts = {"names": names, "formats": formats, "offsets": offsets, "itemsize": size}
    if any(title is not None for title in titles):
        parts["titles"] = titles
    return numpy.dtype(parts, align=aligned)


cdef tuple _take_shape(Input data):
    cdef uint64_t length = 0
    cdef int dimensions = take_byte(data)
    if dimensions > MOST_DIMENSIONS:
        data.fail(data.at - 1, f"an array has {dimensions} dimensions; the most there can be is {MOST_DIMENSIONS}")
    shape = []
    for _ in range(dimensions):
        take_varint(data, &length)
        if length > <uint64_t>0x7FFFFFFFFFFFFFFF:
            data.fail(data.at - 1, "an array is too long")
        shape.append(length)
    return tuple(shape)


cdef object take_array(Input data):
    cdef Py_ssize_t start = data.at - 1
    cdef Py_ssize_t begin
    _need_numpy(data, start)
    dtype = _take_dtype(data, 0)
    order = chr(take_byte(data))
    if order != "C" and order != "F":
        data.fail(data.at - 1, "an array is neither in C nor in F order")
    shape = _take_shape(data)
    count = 1
    for length in shape:
        count *= length
    if dtype.char == "T":
        return _take_texts(data, dtype, shape, order, count)
    needed = count * dtype.itemsize
    if needed > data.size - data.at - data.owed:
        data.fail(data.at, f"an array of {needed} bytes, more than the {data.size - data.at - data.owed} left for it")
    begin = data.at
    if needed == 0:
        # Its own memory, and no loop over elements without size: there may be any number of them.
        return numpy.ndarray(shape, dtype, order=order)
    take_raw(data, needed, "an array")
    if dtype.kind != "V":
        return numpy.ndarray(shape, dtype, data.source, begin, order=order).copy(order)
    # Byte by byte, so that what lies between the fields comes along.
    made = numpy.ndarray(shape, dtype, order=order)
    flat = (made.T if order == "F" else made).reshape(-1).view(numpy.uint8)
    flat[:] = numpy.ndarray((needed,), numpy.uint8, data.source, begin)
    return made


cdef object _take_texts(Input data, object dtype, tuple shape, str order, object count):
    cdef Py_ssize_t index
    if count > data.size - data.at - data.owed:
        data.fail(data.at, f"an array of {count} texts, more than fit into what is left for it")
    made = numpy.empty(shape, dtype, order=order)
    flat = (made.T if order == "F" else made).reshape(-1)
    for index in range(count):
        flat[index] = take_name(data, "a text of an array")
    return made


cdef object take_scalar(Input data, int tag):
    cdef Py_ssize_t start = data.at - 1
    cdef Py_ssize_t size
    _need_numpy(data, start)
    if tag == TAG_NUMPY_STR:
        return numpy.str_(take_name(data, "a NumPy text"))
    if tag == TAG_NUMPY_BYTES:
        size = take_count(data, 1, "NumPy bytes")
        return numpy.bytes_(take_raw(data, size, "NumPy bytes")[:size])
    dtype = _take_dtype(data, 0)
    if dtype.char in "SUT" or dtype.subdtype is not None:
        data.fail(start, f"a NumPy scalar cannot be of dtype {dtype}")
    size = dtype.itemsize
    take_raw(data, size, "a NumPy scalar")
    if dtype.kind != "V":
        return numpy.ndarray((), dtype, data.source, data.at - size)[()]
    # A copy: a structured scalar is a view, and would keep all of the data alive.
    made = numpy.ndarray((), dtype)
    if size:
        made.reshape(-1).view(numpy.uint8)[:] = numpy.ndarray((size,), numpy.uint8, data.source, data.at - size)
    return made[()]
