# cython: auto_pickle=False
"""Bytes being written and bytes being read: the ground of the codec, which knows numbers and lengths but no values.

Nothing is read beyond the end, and no length is believed: each is compared with what is left before anything is made of
it. What is left is less than the bytes to the end, because the containers that have been begun still need some
(`Input.owed`); so what is set aside for their elements never exceeds a fixed multiple of the input's length.
"""

from __future__ import annotations

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8

from blazen._core.storable_types cimport type_name

cdef extern from *:
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *, Py_ssize_t) except NULL
    int resize_bytes "_PyBytes_Resize"(PyObject **, Py_ssize_t) except -1
    char *bytes_at "PyBytes_AS_STRING"(PyObject *)
    void release "Py_XDECREF"(PyObject *)

__all__: list[str] = []


@cython.final
cdef class Output:
    """A bytes object that is longer than what has been written, and is cut to its length at the end."""

    def __cinit__(self):
        self._bytes = new_bytes(NULL, 512)
        self.data = <unsigned char *>bytes_at(self._bytes)
        self.room = 512

    def __dealloc__(self):
        release(self._bytes)

    cdef int grow(self, Py_ssize_t more) except -1:
        cdef Py_ssize_t room = self.used + more + ((self.used + more) >> 1)
        if self._bytes == NULL or room < 0:
            raise MemoryError()
        # When it fails, the bytes are gone and the pointer is NULL.
        self.room = 0
        resize_bytes(&self._bytes, room)
        self.data = <unsigned char *>bytes_at(self._bytes)
        self.room = room
        return 0

    cdef bytes finish(self):
        """What was written. Nothing more can be."""
        cdef bytes made
        self.room = 0
        resize_bytes(&self._bytes, self.used)
        made = <bytes>self._bytes
        release(self._bytes)
        self._bytes = NULL
        return made


@cython.final
cdef class Input:
    """Bytes, and the place up to which they have been read."""

    def __cinit__(self, source):
        from blazen.errors import ValidationError
        if PyBytes_CheckExact(source):
            self.data = <const unsigned char *>PyBytes_AS_STRING(source)
            self.size = PyBytes_GET_SIZE(source)
        elif isinstance(source, (bytes, bytearray, memoryview)):
            try:
                PyObject_GetBuffer(source, &self._view, PyBUF_SIMPLE)
            except (BufferError, ValueError) as error:
                raise ValidationError(f"cannot read the value: a {type(source).__name__} that is {error}") from None
            self._viewed = True
            self.data = <const unsigned char *>self._view.buf
            self.size = self._view.len
        else:
            raise ValidationError(
                f"cannot read the value: it comes as bytes, bytearray or memoryview, not {type_name(type(source))}"
            )
        self.source = source

    def __dealloc__(self):
        if self._viewed:
            PyBuffer_Release(&self._view)

    cdef int fail(self, Py_ssize_t at, str problem) except -1:
        from blazen.errors import ValidationError
        self.failed = True
        raise ValidationError(f"cannot read the value: {problem}, at byte {at} of {self.size}")

    cdef int truncated(self, str what, uint64_t needed) except -1:
        return self.fail(
            self.at,
            f"{what} ({needed}) would need more than the {max(0, self.size - self.at - self.owed)} bytes left for it",
        )


cdef int put_name(Output out, str name) except -1:
    """A text that stands by itself: its length in bytes, then UTF-8, in which lone surrogates pass."""
    cdef bytes encoded = name.encode("utf-8", "surrogatepass")
    return put_counted(out, PyBytes_AS_STRING(encoded), len(encoded))


cdef str take_name(Input data, str what):
    cdef Py_ssize_t start = data.at
    cdef Py_ssize_t size = take_count(data, 1, what)
    cdef const unsigned char *raw = take_raw(data, size, what)
    try:
        return PyUnicode_DecodeUTF8(<const char *>raw, size, "surrogatepass")
    except UnicodeDecodeError as error:
        data.fail(start, f"{what} is no UTF-8 ({error.reason})")
