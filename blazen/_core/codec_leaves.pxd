from blazen._core.codec_bytes cimport Input, Output


cdef int put_big_int(Output out, object value) except -1
cdef object take_big_int(Input data)
cdef bint put_leaf(Output out, object value) except -1  # False: not a type of this module, nothing written
cdef object take_leaf(Input data, int tag)
