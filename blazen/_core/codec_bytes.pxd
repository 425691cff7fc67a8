from cpython.buffer cimport Py_buffer
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy


cdef class Output:
    cdef:
        PyObject *_bytes                    # owned; longer than what is used
        unsigned char *data                 # where its bytes begin
        Py_ssize_t used
        Py_ssize_t room
    cdef int grow(self, Py_ssize_t more) except -1
    cdef bytes finish(self)


cdef class Input:
    cdef:
        object source                       # what the bytes belong to
        Py_buffer _view
        bint _viewed
        const unsigned char *data
        Py_ssize_t size
        Py_ssize_t at                       # the byte that is read next
        Py_ssize_t owed                     # the bytes that values begun and not yet read need at the least
        Py_ssize_t began                    # where the value begins that was begun last
        bint failed                         # `fail` has raised: the error says where
    cdef int fail(self, Py_ssize_t at, str problem) except -1
    cdef int truncated(self, str what, uint64_t needed) except -1


cdef inline int put_byte(Output out, unsigned char byte) except -1:
    if out.used == out.room:
        out.grow(1)
    out.data[out.used] = byte
    out.used += 1
    return 0


cdef inline int put_varint(Output out, uint64_t number) except -1:
    if out.room - out.used < 10:
        out.grow(10)
    while number >= 0x80:
        out.data[out.used] = <unsigned char>(number | 0x80)
        out.used += 1
        number >>= 7
    out.data[out.used] = <unsigned char>number
    out.used += 1
    return 0


cdef inline int put_signed(Output out, int64_t number) except -1:
    """Zigzag: numbers near zero are short, whatever their sign."""
    return put_varint(out, (<uint64_t>number << 1) ^ <uint64_t>(number >> 63))


cdef inline int put_raw(Output out, const void *source, Py_ssize_t size) except -1:
    if out.room - out.used < size:
        out.grow(size)
    memcpy(out.data + out.used, source, size)
    out.used += size
    return 0


cdef inline int put_counted(Output out, const void *source, Py_ssize_t size) except -1:
    put_varint(out, size)
    return put_raw(out, source, size)


cdef inline int put_fixed(Output out, uint64_t number, int size) except -1:
    """The lowest `size` bytes of `number`, the lowest first."""
    cdef int index
    if out.room - out.used < size:
        out.grow(size)
    for index in range(size):
        out.data[out.used + index] = <unsigned char>(number >> (8 * index))
    out.used += size
    return 0


cdef inline int put_double(Output out, double number) except -1:
    cdef uint64_t bits
    memcpy(&bits, &number, 8)
    return put_fixed(out, bits, 8)


cdef inline int take_byte(Input data) except -1:
    if data.at >= data.size:
        return data.fail(data.at, "it is cut off")
    data.at += 1
    return data.data[data.at - 1]


cdef inline int take_varint(Input data, uint64_t *number) except -1:
    cdef uint64_t result = 0
    cdef int shift = 0
    cdef Py_ssize_t start = data.at
    cdef int byte
    while True:
        byte = take_byte(data)
        if shift == 63 and byte > 1:
            return data.fail(start, "a number has more than 64 bits")
        result |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    if byte == 0 and shift > 0:
        return data.fail(start, "a number is written with more bytes than it needs")
    number[0] = result
    return 0


cdef inline int take_signed(Input data, int64_t *number) except -1:
    cdef uint64_t raw = 0
    take_varint(data, &raw)
    number[0] = <int64_t>(raw >> 1) ^ -<int64_t>(raw & 1)
    return 0


cdef inline Py_ssize_t take_count(Input data, Py_ssize_t each, str what) except -1:
    """A number of things that take at least `each` bytes: refused if what is left cannot hold as many."""
    cdef uint64_t count = 0
    cdef Py_ssize_t left
    take_varint(data, &count)
    # Negative when the number itself has taken bytes that others need.
    left = data.size - data.at - data.owed
    if left < 0 or count > <uint64_t>(left // each):
        return data.truncated(what, count)
    return <Py_ssize_t>count


cdef inline const unsigned char *take_raw(Input data, Py_ssize_t size, str what) except NULL:
    if size > data.size - data.at - data.owed:
        data.truncated(what, size)
    data.at += size
    return data.data + data.at - size


cdef inline int take_fixed(Input data, int size, uint64_t *number, str what) except -1:
    cdef const unsigned char *raw = take_raw(data, size, what)
    cdef uint64_t result = 0
    cdef int index
    for index in range(size):
        result |= <uint64_t>raw[index] << (8 * index)
    number[0] = result
    return 0


cdef inline int take_double(Input data, double *number) except -1:
    cdef uint64_t bits = 0
    take_fixed(data, 8, &bits, "a float")
    memcpy(number, &bits, 8)
    return 0


cdef int put_name(Output out, str name) except -1
cdef str take_name(Input data, str what)
