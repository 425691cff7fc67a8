from blazen._core.codec_bytes cimport Input, Output


cdef class ClassEntry:
    cdef:
        object cls                          # what instances are instances of
        bint is_event
        bint is_struct                      # made by calling it; others are made empty and filled
        bint runs_code                      # a Struct with a __post_init__
        str group                           # the type name of an event; the module of another class
        str name                            # the class's qualified name, or "" for the class an event type belongs to
        tuple fields                        # names of the attributes that are written; None until they are needed
        int number                          # its place among the classes, in the order of group and name
    cdef tuple field_list(self)
    cdef object defaults(self)


cdef class ClassReader


cdef class ClassTable:
    cdef:
        readonly frozenset types            # classes that are no events
        readonly frozenset events
        dict _by_address                    # address of a class -> its entry
        dict _by_name                       # (is_event, group, name) -> its entry
        dict _by_last_name                  # qualified name -> entries of classes that are no events
    cdef ClassEntry entry_of(self, object cls)
    cdef int put_used(self, Output out, set used) except -1
    cdef dict take_used(self, Input data, bint describing)
    cdef ClassReader _take_class(self, Input data, Py_ssize_t start, bint describing)
    cdef ClassEntry _moved(self, Input data, Py_ssize_t start, int kind, str group, str name)


cdef class ClassReader:
    cdef:
        ClassEntry entry                    # None where it is only to be described
        str title                           # what it is called then
        tuple names                         # the fields as they were written, in order
        list absent                         # (name, function that gives its value) of fields that were not written
    cdef object make(self, tuple values)


cdef ClassTable table_of(object classes)
