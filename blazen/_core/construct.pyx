"""What lets events be constructed at the speed of bare structs. Used once, when the classes that need it are made.

`msgspec` constructs its structs through the vectorcall slot: arguments are read where they lie, no tuple and no dict is
made of them. Two things CPython leaves out are put in here.
"""

from cpython.object cimport PyObject, PyTypeObject


__all__ = ["call_like_base", "construct_plain_form"]


cdef extern from "Python.h":
    ctypedef PyObject *(*vectorcallfunc)(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *kwnames)
    # The fields of a type that matter here; cpython.object leaves them out.
    ctypedef struct Type "PyTypeObject":
        unsigned long tp_flags
        Py_ssize_t tp_vectorcall_offset
        void *tp_call
        vectorcallfunc tp_vectorcall
    const unsigned long Py_TPFLAGS_HAVE_VECTORCALL
    PyObject *PyObject_GetAttr(PyObject *owner, PyObject *name)
    PyObject *PyObject_Vectorcall(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *kwnames)
    void release "Py_DECREF"(PyObject *owned)
    void PyType_Modified(PyTypeObject *type)


cdef str _PLAIN_FORM = "_plain_form"


def call_like_base(metaclass):
    """Let the classes of `metaclass` be called the way those of its base are; returns `metaclass`.

    CPython 3.11 does not hand the vectorcall flag down to a class written in Python, even one that does not touch how
    it is called; a call with keywords then takes 2.5 times as long.

    Raises:
        TypeError: `metaclass` or a class between has a ``__call__`` of its own, which would be passed over.
    """
    if not (isinstance(metaclass, type) and issubclass(metaclass, type)):
        raise TypeError(f"expected a metaclass, got {metaclass!r}")
    cdef object parent = metaclass.__base__
    cdef Type *derived = <Type *> metaclass
    cdef Type *base = <Type *> parent
    if derived.tp_call != base.tp_call or derived.tp_vectorcall_offset != base.tp_vectorcall_offset:
        raise TypeError(f"{metaclass.__name__} is not called the way its base {parent.__name__} is")
    derived.tp_flags |= base.tp_flags & Py_TPFLAGS_HAVE_VECTORCALL
    PyType_Modified(<PyTypeObject *> metaclass)
    return metaclass


cdef PyObject *_construct_plain_form(
    PyObject *cls, PyObject *const *args, size_t nargsf, PyObject *kwnames
) noexcept:
    cdef PyObject *made
    cdef PyObject *plain = PyObject_GetAttr(cls, <PyObject *> _PLAIN_FORM)
    if plain == NULL:
        return NULL
    made = PyObject_Vectorcall(plain, args, nargsf, kwnames)
    release(plain)
    return made


def construct_plain_form(cls):
    """From now on a call of `cls` constructs ``cls._plain_form``. Subclasses are constructed as before.

    Raises:
        TypeError: Classes of this kind are not called through the vectorcall slot.
    """
    if not isinstance(cls, type):
        raise TypeError(f"expected a class, got {cls!r}")
    cdef object kind = type(cls)
    if not (<Type *> kind).tp_flags & Py_TPFLAGS_HAVE_VECTORCALL:
        raise TypeError(f"{cls.__name__} is not called through the vectorcall slot")
    (<Type *> cls).tp_vectorcall = <vectorcallfunc> _construct_plain_form
