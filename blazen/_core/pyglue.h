#ifndef BZ_PYGLUE_H
#define BZ_PYGLUE_H

/* The few lines of CPython's C API that Cython has no words for. Everything here is public API of CPython 3.11 to 3.13. */

#include <Python.h>
#include <structmember.h>
#include <time.h>

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

/* f(a) and f(a, b); NULL with an exception set on failure. */
static inline PyObject *bz_call1(PyObject *f, PyObject *a) {
    PyObject *args[2] = {NULL, a};
    return PyObject_Vectorcall(f, args + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

static inline PyObject *bz_call2(PyObject *f, PyObject *a, PyObject *b) {
    PyObject *args[3] = {NULL, a, b};
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

/* Seconds on the clock that time.perf_counter() reads on Linux, and so trio's system clock up to a constant. */
static inline double bz_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

#endif
