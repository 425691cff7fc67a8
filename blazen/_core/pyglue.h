#ifndef BZ_PYGLUE_H
#define BZ_PYGLUE_H

/* The few lines of CPython's C API that Cython has no words for. Everything here is public API of CPython 3.11 to 3.13. */

#include <Python.h>
#include <structmember.h>

/* Takes the current exception, normalised and with its traceback; NULL if none is set. A new reference. */
static inline PyObject *bz_take_exception(void) {
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
        Py_DECREF(traceback);
    }
    Py_DECREF(type);
    return value;
#endif
}

/* f(a) and f(a, b); NULL with an exception set on failure. For Python functions without the checks that
 * PyObject_Vectorcall makes on every call of anything. */
static inline PyObject *bz_call1(PyObject *f, PyObject *a) {
    PyObject *args[2] = {NULL, a};
    if (PyFunction_Check(f)) {
        return ((PyFunctionObject *)f)->vectorcall(f, args + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    return PyObject_Vectorcall(f, args + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

static inline PyObject *bz_call2(PyObject *f, PyObject *a, PyObject *b) {
    PyObject *args[3] = {NULL, a, b};
    if (PyFunction_Check(f)) {
        return ((PyFunctionObject *)f)->vectorcall(f, args + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    return PyObject_Vectorcall(f, args + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

/* Sets the slot that lets `await x` and `async for` resume an object of `type` without raising StopIteration. The type
 * must define __await__, so that it has the table the slot lives in. */
static inline void bz_set_am_send(PyTypeObject *type, sendfunc send) {
    type->tp_as_async->am_send = send;
    PyType_Modified(type);
}

/* Where the slot `descriptor` (a member of a class with __slots__) lies in an instance; 0 if it is no such member. */
static inline Py_ssize_t bz_slot_offset(PyObject *descriptor) {
    if (!Py_IS_TYPE(descriptor, &PyMemberDescr_Type)) {
        return 0;
    }
    PyMemberDef *member = ((PyMemberDescrObject *)descriptor)->d_member;
    return member->type == T_OBJECT_EX ? member->offset : 0;
}

/* What that slot holds: a borrowed reference or NULL. */
static inline PyObject *bz_slot_read(PyObject *object, Py_ssize_t offset) {
    return *(PyObject **)((char *)object + offset);
}

/* Where a contextvars.Context keeps its variables, found out by looking: the only word that a copy shares with its
 * original and that changes when a variable is set. 0 if there is not exactly one such word. `plain` and `copy` are a
 * context and a copy of it, `changed` another copy in which a variable has been set. */
static inline Py_ssize_t bz_find_variables(PyObject *plain, PyObject *copy, PyObject *changed) {
    Py_ssize_t found = 0;
    for (Py_ssize_t at = (Py_ssize_t)sizeof(PyObject); at + (Py_ssize_t)sizeof(void *) <= Py_TYPE(plain)->tp_basicsize;
         at += (Py_ssize_t)sizeof(void *)) {
        PyObject *word = bz_slot_read(plain, at);
        if (word != NULL && word == bz_slot_read(copy, at) && word != bz_slot_read(changed, at)) {
            if (found != 0) {
                return 0;
            }
            found = at;
        }
    }
    return found;
}

#endif
