from blazen._core.codec_bytes cimport Input, Output


cdef bint is_array(object value) noexcept
cdef bint is_scalar(object value) noexcept
cdef int put_array(Output out, object value) except -1
cdef int put_scalar(Output out, object value) except -1
cdef object take_array(Input data)
cdef object take_scalar(Input data, int tag)
