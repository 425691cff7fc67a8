from cpython.ref cimport PyObject


cdef class StateValue:
    cdef readonly str kind                  # "json", "bytes", "native", "native_bytes" or "value"
    cdef readonly object value


cdef StateValue new_state_value(str kind, object value)


cdef class StorableCheck:
    cdef:
        object _types                       # frozenset of the classes named in Workflow(types=[...])
        object _events                      # set of the workflow's event classes
        bint _json_only                     # what JSON has, instead of what a store takes
        PyObject *_root                     # borrowed: the value `refusal` was called with, which outlives the check
        dict _seen                          # address -> None while being walked, then (container, its height)
        dict _fields                        # address of a class -> the names of its fields
        list _trail                         # where the refused value is, innermost part first
        str _problem                        # what is wrong with it
    cdef str refusal(self, object value)
    cdef str path(self)
    cdef int _walk(self, object value, int depth) except -1
    cdef int _contents(self, object value, int depth) except -1
    cdef int _items(self, tuple items, int depth, bint numbered) except -1
    cdef int _dict_contents(self, object value, int depth) except -1
    cdef int _field_contents(self, object value, tuple names, int depth) except -1
    cdef int _state_value(self, StateValue value, int depth) except -1
    cdef int _json_leaf(self, object value) except -1
    cdef int _refuse(self, str problem) except -1
    cdef int _refuse_depth(self, object value) except -1
    cdef tuple _names_of_state(self, object value)
    cdef tuple _names(self, object cls)


cdef StorableCheck json_check()
cdef bytes bytes_of(object data, str what)
