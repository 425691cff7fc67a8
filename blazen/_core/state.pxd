from blazen._core.storable cimport StateValue


cdef enum:
    AS_VALUE = 0                            # came by `set_value`: `get_value` gives the StateValue itself
    STATE = 1                               # a BlazenState, whose fields are entries of their own, as "key.field"
    ELSEWHERE = 2                           # a field that its own field store keeps


cdef class Entry:
    cdef:
        int kind
        StateValue value                    # AS_VALUE
        object layout                       # STATE, ELSEWHERE: what blazen.state knows of the class
        tuple names                         # STATE: the fields that are kept, also those that have no entry now
        str field                           # ELSEWHERE: which one it is


cdef class StateStore:
    cdef:
        dict _values                        # key -> the value as given to `set`, or an Entry
        dict _states                        # the keys of STATE entries -> None; mostly empty
        object _types                       # frozenset of the classes named in Workflow(types=[...])
        object _events                      # set of the workflow's event classes
        object _ctx                         # what field stores are given: the Context whose `ctx.state` this is
    cdef int put(self, object key, object value, object ctx) except -1
    cdef object fetch(self, object key, object default, object ctx)
    cdef StateStore seen_from(self, object ctx)
    cdef int _check(self, object key, object value, str lead) except -1
    cdef int _check_value(self, object key, StateValue value, str lead) except -1


cdef class Change:
    cdef:
        StateStore _store
        object _ctx
        list _writes                        # (key, what it and the keys below it become), in the order of the calls
        dict _values                        # the store after what has been noted, if that may be several calls
        dict _states
        list _saves                         # (layout, field, key, value), for field stores
        dict _seen                          # address of a BlazenState -> (it, the key it goes to)
    cdef int add(self, object key, object value) except -1
    cdef int finish(self) except -1
    cdef bint _add_field(self, str key, object value, dict entries) except -1
    cdef Entry _owner(self, str key)
    cdef int _gather(self, str key, object value, dict entries) except -1
    cdef int _gather_state(self, str key, object state, dict entries) except -1
    cdef int _apply(self, dict values, dict states) except -1
