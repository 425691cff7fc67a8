# cython: auto_pickle=False
"""Which classes a workflow's state may hold, and what to say of the others.

Classes are told apart by identity. Standard library and NumPy classes are looked up in `sys.modules` when a value of a
yet unknown class arrives: such a value exists only where its module is loaded, so nothing is ever imported for it.
"""

from __future__ import annotations

import sys

from cpython.long cimport PyLong_FromVoidPtr
from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject

from blazen._core.storable_types cimport Py_TYPE, is_plain

cdef extern from *:
    """
    typedef PyObject *(*bz_getter)(PyObject *, void *);
    static inline bz_getter bz_getset_function(PyObject *descriptor) {
        return Py_IS_TYPE(descriptor, &PyGetSetDescr_Type) ? ((PyGetSetDescrObject *)descriptor)->d_getset->get : NULL;
    }
    static inline void *bz_getset_closure(PyObject *descriptor) {
        return ((PyGetSetDescrObject *)descriptor)->d_getset->closure;
    }
    """
    ctypedef object (*bz_getter)(object, void *)
    bz_getter bz_getset_function(object descriptor)
    void *bz_getset_closure(object descriptor)
    bint PyType_IsSubtype(PyTypeObject *cls, PyTypeObject *base)
    PyTypeObject PyType_Type

cdef enum:
    LEAF_PLAIN = 1                          # nothing inside to look at
    LEAF_FIXED_ZONE = 2
    LEAF_NAMED_ZONE = 3                     # can be found again only by its `key`
    LEAF_WITH_ZONE = 4                      # carries a `tzinfo`

__all__ = ["check_types", "configure_states"]

cdef tuple LEAF_TYPES = (
    ("datetime", "date", LEAF_PLAIN),
    ("datetime", "timedelta", LEAF_PLAIN),
    ("datetime", "timezone", LEAF_FIXED_ZONE),
    ("datetime", "datetime", LEAF_WITH_ZONE),
    ("datetime", "time", LEAF_WITH_ZONE),
    ("zoneinfo", "ZoneInfo", LEAF_NAMED_ZONE),
    ("uuid", "UUID", LEAF_PLAIN),
    ("decimal", "Decimal", LEAF_PLAIN),
)
cdef dict known_leaves = {}                 # address of a class -> (the class, its LEAF_ kind)

cdef object ndarray_type = None             # numpy.ndarray, once the process has loaded NumPy
cdef object numpy_generic = None
cdef bz_getter dtype_getter = NULL          # what `ndarray.dtype` calls, without the attribute lookup
cdef void *dtype_closure = NULL
cdef object good_dtype = None               # the dtype last found storable; most arrays share one

cdef object state_base = None               # BlazenState, once a program has asked for it
cdef object find_layout = None


def configure_states(base, layout_of):
    """Hand over `BlazenState` and what tells how the instances of a subclass are stored."""
    global state_base, find_layout
    find_layout = layout_of
    state_base = base


cdef bint is_state(object value) noexcept:
    return state_base is not None and PyType_IsSubtype(Py_TYPE(value), <PyTypeObject *>state_base)


cdef bint is_state_class(object cls) noexcept:
    return state_base is not None and PyType_IsSubtype(<PyTypeObject *>cls, <PyTypeObject *>state_base)


cdef object layout_of(object cls):
    return find_layout(cls)


cdef inline bint _derives(object cls, object base) noexcept:
    """issubclass() by identity: no `__subclasscheck__`, no `__eq__` of a metaclass."""
    return PyType_IsSubtype(<PyTypeObject *>cls, <PyTypeObject *>base)


cdef bint is_among(object cls, object classes) except -1:
    """`cls in classes` by identity, whatever the metaclass of `cls` makes of hashing and comparing."""
    if Py_TYPE(cls).tp_hash == PyType_Type.tp_hash:
        return cls in classes
    for member in classes:
        if member is cls:
            return True
    return False


cdef bint is_event_class(object cls, object events) except -1:
    if is_among(cls, events):
        return True
    if Py_TYPE(cls) == &PyType_Type:
        return False                        # events have a metaclass
    # A StartEvent or StopEvent without typed fields is an instance of a hidden subclass, its class's plain form.
    declared = cls.__mro__[1]
    return is_among(declared, events) and getattr(declared, "_plain_form", None) is cls


cdef bint is_storable_leaf(object value) except -1:
    """True if `value` needs no walk: a plain builtin, or an array whose dtype was the last one found storable."""
    if is_plain(value):
        return True
    if dtype_getter != NULL and <PyObject *>Py_TYPE(value) == <PyObject *>ndarray_type:
        return dtype_getter(value, dtype_closure) is good_dtype
    return False


cdef str shown(object key):
    """`key` as an error message shows it: short, and without calling a user's `__repr__`."""
    if type(key) is int and key.bit_length() > 200:
        return f"<int of {key.bit_length()} bits>"  # repr() refuses numbers of many digits
    if (type(key) is str or type(key) is bytes) and len(key) > 60:
        return f"{key[:60]!r}..."
    if not is_plain(key) or type(key) is bytearray:
        return f"<{type_name(type(key))}>"
    return repr(key)


cdef str shortened(str path):
    """`path` for a message: the path into a cycle or a chain can have hundreds of parts."""
    return path if len(path) <= 160 else f"{path[:60]} ... {path[len(path) - 60:]}"


cdef str type_name(object cls):
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


cdef object _find_numpy():
    """Note NumPy's array type if the process has loaded it by now."""
    global ndarray_type, numpy_generic, dtype_getter, dtype_closure
    numpy = sys.modules.get("numpy")
    # Another thread may be in the middle of importing it: nothing is noted before all of it is there.
    array_type = getattr(numpy, "ndarray", None)
    scalar_type = getattr(numpy, "generic", None)
    if array_type is None or scalar_type is None:
        return None
    descriptor = array_type.__dict__["dtype"]
    if bz_getset_function(descriptor) != NULL:
        dtype_closure = bz_getset_closure(descriptor)
        dtype_getter = bz_getset_function(descriptor)
    numpy_generic = scalar_type
    ndarray_type = array_type
    return None


cdef str _dtype_problem(object dtype):
    """What keeps arrays of `dtype` out of a store; None if nothing does."""
    if dtype.subdtype is not None:
        return _dtype_problem(dtype.subdtype[0])
    if dtype.names is not None:
        for name in dtype.names:
            problem = _dtype_problem(dtype.fields[name][0])
            if problem is not None:
                return f"field {name!r}: {problem}"
        return None
    if dtype.kind == "O":
        return "its elements are Python objects"
    if dtype.kind == "T" and hasattr(dtype, "na_object"):
        return "its missing values are Python objects"
    if dtype.isbuiltin == 2 or not type(dtype).__module__.startswith("numpy"):
        return "that dtype is not one of NumPy's own"
    return None


cdef str _array_problem(object value):
    """What keeps an array or a NumPy scalar out of a store; None if nothing does."""
    global good_dtype
    dtype = value.dtype
    if dtype is good_dtype:
        return None
    problem = _dtype_problem(dtype)
    if problem is None:
        good_dtype = dtype
        return None
    return f"is a NumPy array of dtype {dtype}: {problem}"


cdef str _zone_problem(object zone):
    """What keeps a time zone out of a store; None if nothing does."""
    if zone is None:
        return None
    kind = _leaf_kind(type(zone))
    if kind == LEAF_FIXED_ZONE or (kind == LEAF_NAMED_ZONE and zone.key is not None):
        return None
    if kind == LEAF_NAMED_ZONE:
        return "has a zoneinfo.ZoneInfo without a key, which cannot be found again"
    return f"has the time zone class {type_name(type(zone))}; only datetime.timezone and zoneinfo.ZoneInfo are storable"


cdef int _leaf_kind(object cls) except -1:
    """The LEAF_ kind of a class of the standard library; 0 if it is none of them."""
    cdef object address = PyLong_FromVoidPtr(<void *>cls)
    known = known_leaves.get(address)
    if known is not None:
        return known[1]
    for module_name, class_name, kind in LEAF_TYPES:
        if getattr(sys.modules.get(module_name), class_name, None) is cls:
            known_leaves[address] = (cls, kind)
            return kind
    return 0


cdef bint _is_builtin_value_type(object cls) except -1:
    for builtin in (int, str, float, bytes, complex, bytearray, list, tuple, dict, set, frozenset):
        if cls is builtin:
            return True
    return False


cdef str _unknown_type_problem(object value):
    """Why a value of this type is refused, in the words that help most."""
    cls = type(value)
    name = type_name(cls)
    events = sys.modules.get("blazen.events")
    event_class = getattr(events, "Event", None)
    if event_class is not None and _derives(cls, event_class):
        return (
            f"is an event of type {name}, which is not among the workflow's events; name its class in "
            "Workflow(types=[...])"
        )
    for base in cls.__mro__[1:]:
        if base is ndarray_type or _is_builtin_value_type(base) or _leaf_kind(base):
            base_name = type_name(base)
            return (
                f"is of type {name}, a subclass of {base_name}: only {base_name} itself is storable, "
                "because a subclass would come back as another type"
            )
    return f"is of type {name}, which is not storable"


cdef tuple field_names(object cls):
    """The names of the attributes that make up an instance; None if `cls` does not declare them."""
    if hasattr(cls, "__dataclass_fields__"):
        from dataclasses import fields
        return tuple([field.name for field in fields(cls)])
    if hasattr(cls, "__struct_fields__"):
        return tuple(cls.__struct_fields__)
    declared = getattr(cls, "__pydantic_fields__", None)
    if declared is None:
        declared = getattr(cls, "model_fields", None)
    if type(declared) is not dict:
        return None
    # pydantic keeps extra fields and private attributes apart from the declared ones, and compares them too.
    return (*declared, *[name for name in ("__pydantic_extra__", "__pydantic_private__") if hasattr(cls, name)])


def check_types(types):
    """Return the classes of `Workflow(types=[...])` as a frozenset.

    Args:
        types: Dataclasses, msgspec Structs, pydantic models and subclasses of `BlazenState`.
    Raises:
        ValidationError: `types` is no collection of classes, or one of them is something else.
    """
    from blazen.errors import ValidationError

    if type(types) is frozenset and not types:
        return types
    if isinstance(types, (str, bytes, type)):
        raise ValidationError(f"types= takes a list of classes, not {types!r}")
    try:
        members = list(types)
    except TypeError:
        raise ValidationError(f"types= takes a list of classes, not {types!r}") from None
    for index, cls in enumerate(members):
        where = f"types[{index}]"
        if not isinstance(cls, type):
            raise ValidationError(f"{where} is {cls!r}, which is no class; name the class itself", path=f"$[{index}]")
        name = type_name(cls)
        if state_base is not None and _derives(cls, state_base):
            layout_of(cls)                  # what is wrong with its fields is said now
            continue
        if field_names(cls) is None:
            raise ValidationError(
                f"{where} is {name}, which is no dataclass, msgspec Struct or pydantic model: its fields are unknown, "
                "so it could not be written and read again. Make it one or a BlazenState, keep its objects in "
                "ctx.session, or wrap them in StateValue.native",
                path=f"$[{index}]",
            )
        for base in cls.__mro__:
            if _is_builtin_value_type(base):
                raise ValidationError(
                    f"{where} is {name}, which is also a {base.__name__}: what it holds beside its fields is no field",
                    path=f"$[{index}]",
                )
    return frozenset(members)


cdef str leaf_problem(object value):
    """What keeps `value`, which is no container known to the caller, out of a store; None if it is storable."""
    cdef int kind
    cls = type(value)
    if ndarray_type is None:
        _find_numpy()
    if ndarray_type is not None:
        if cls is ndarray_type or (_derives(cls, numpy_generic) and value.dtype.type is cls):
            return _array_problem(value)
    kind = _leaf_kind(cls)
    if kind == LEAF_PLAIN or kind == LEAF_FIXED_ZONE:
        return None
    if kind == LEAF_WITH_ZONE:
        return _zone_problem(value.tzinfo)
    if kind == LEAF_NAMED_ZONE:
        return _zone_problem(value)
    return _unknown_type_problem(value)
