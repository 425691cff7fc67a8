from blazen._core.storable cimport StateValue


cdef class Held:
    cdef StateValue value                   # `get` gives what is inside it, `get_value` gives it itself


cdef class StateStore:
    cdef:
        dict _values                        # key -> the value as given to `set`, or a Held for `set_value`
        object _types                       # frozenset of the classes named in Workflow(types=[...])
        object _events                      # set of the workflow's event classes
    cdef int put(self, object key, object value) except -1
    cdef object fetch(self, object key, object default)
    cdef int _check(self, object key, object value, str lead) except -1
    cdef int _check_held(self, object key, StateValue value, str lead) except -1
