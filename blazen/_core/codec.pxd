from libc.stdint cimport uint64_t

from blazen._core.codec_bytes cimport Input, Output
from blazen._core.codec_classes cimport ClassEntry, ClassTable
from blazen._core.storable cimport StateValue


cdef class Encoder:
    cdef:
        Output _out
        ClassTable _classes
        set _used                           # entries of the classes that were met
        dict _texts                         # short str -> its number
        dict _objects                       # address -> (object, its number, its height), where it may be met again
        uint64_t _object_count
        Py_ssize_t _plain_count             # containers in the key that is being written
        bint _plain                         # inside a set or a key: nothing is numbered and nothing referred to
        object _root
        list _trail                         # where the refused value is, innermost part first
        str _problem
        object _cause
    cdef bytes encoded(self, object value)
    cdef int _refuse(self, str problem, object cause=*) except -1
    cdef int _refuse_depth(self, object value) except -1
    cdef int _write(self, object value, int depth) except -1
    cdef int _write_key(self, object key, int depth) except -1
    cdef int _write_text(self, str value) except -1
    cdef int _write_wide_text(self, str value) except -1
    cdef int _write_int(self, object value) except -1
    cdef int _write_data(self, unsigned char tag, object value, const char *raw, Py_ssize_t size) except -1
    cdef int _write_other(self, object value, int depth) except -1
    cdef int _write_leaf(self, object value) except -1
    cdef int _write_container(self, object value, object entry, int depth) except -1
    cdef int _again(self, object value, int depth) except -1
    cdef int _number(self, object value, int height) except -1
    cdef int _contents(self, object value, object entry, int depth) except -1
    cdef int _list(self, object value, int depth) except -1
    cdef int _items(self, tuple items, int depth) except -1
    cdef int _dict(self, object value, int depth) except -1
    cdef int _set(self, object value, int depth) except -1
    cdef int _sort(self, Py_ssize_t begin, list starts) except -1
    cdef int _instance(self, object value, ClassEntry entry, int depth) except -1
    cdef int _held(self, StateValue value, int depth) except -1
    cdef int _held_contents(self, StateValue value, int depth) except -1
    cdef int _extension(self, object value, tuple extension, int depth) except -1


cdef class Decoder:
    cdef:
        Input _in
        ClassTable _classes
        dict _readers                       # number of a class -> its ClassReader
        bint _trust_native
        bint _describing                    # instances become `Described`
        list _texts
        list _objects
        list _heights                       # of `_objects`
        bint _plain
        int _height                         # of the value that was read last
    cdef object decoded(self)
    cdef object _read(self, int depth)
    cdef object _read_key(self, int depth, bint of_dict)
    cdef object _read_text(self, int tag)
    cdef object _read_text_again(self)
    cdef object _read_again(self, int depth)
    cdef object _read_rare(self, int tag, int depth)
    cdef object _numbered(self, object value)
    cdef int _number(self, object value, int height) except -1
    cdef object _read_container(self, int tag, int depth)
    cdef list _list(self, int depth)
    cdef tuple _tuple(self, Py_ssize_t count, int depth)
    cdef dict _dict(self, int depth)
    cdef object _set(self, bint frozen, int depth)
    cdef object _instance(self, int depth)
    cdef object _held_bytes(self, int tag)
    cdef object _wrapped(self, int tag, int depth)
