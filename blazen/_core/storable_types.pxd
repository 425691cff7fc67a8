from cpython.object cimport PyTypeObject

cdef extern from *:
    PyTypeObject *Py_TYPE(object)
    PyTypeObject PyLong_Type, PyUnicode_Type, PyFloat_Type, PyBool_Type, PyBytes_Type, PyByteArray_Type, PyComplex_Type
    PyTypeObject PyList_Type, PyTuple_Type, PyDict_Type, PySet_Type, PyFrozenSet_Type


cdef inline bint is_plain(object value) noexcept:
    """True for the builtin types that hold nothing else and need no look at the value."""
    cdef PyTypeObject *kind = Py_TYPE(value)
    return (
        kind == &PyLong_Type or kind == &PyUnicode_Type or value is None or kind == &PyFloat_Type
        or kind == &PyBool_Type or kind == &PyBytes_Type or kind == &PyComplex_Type or kind == &PyByteArray_Type
    )


cdef inline bint is_builtin_container(object value) noexcept:
    cdef PyTypeObject *kind = Py_TYPE(value)
    return (
        kind == &PyList_Type or kind == &PyDict_Type or kind == &PyTuple_Type
        or kind == &PySet_Type or kind == &PyFrozenSet_Type
    )


cdef bint is_storable_leaf(object value) except -1     # needs no walk; False says nothing yet
cdef str leaf_problem(object value)                     # None: storable
cdef bint is_state(object value) noexcept               # a BlazenState
cdef bint is_state_class(object cls) noexcept
cdef object layout_of(object cls)                       # what blazen.state knows of a BlazenState class
cdef tuple field_names(object cls)                      # None: `cls` declares no fields
cdef bint is_among(object cls, object classes) except -1
cdef bint is_event_class(object cls, object events) except -1
cdef str shown(object key)
cdef str shortened(str path)
cdef str type_name(object cls)
