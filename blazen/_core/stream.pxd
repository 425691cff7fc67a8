# What a run shows to the outside while it runs.


cdef class EventStream:
    cdef:
        list _items                         # every event since the start, or the last `_keep`
        Py_ssize_t _first                   # number of the event at _items[0]
        Py_ssize_t _keep                    # 0: keep all
        list _waiting                       # wake-up functions of readers at the end of the log
        readonly bint ended
        readonly bint with_steps            # whether step records are wanted
        readonly Py_ssize_t unrecorded      # number of step records that nobody wanted yet

    cdef int write(self, object event) except -1
    cdef int _trim(self) except -1
    cdef int _wake(self) except -1


cdef class StreamIterator:
    cdef:
        EventStream _stream
        Py_ssize_t _next                    # number of the next event
        bint _steps                         # whether this reader sees step records
        Py_ssize_t _buffer                  # 0: every event; else at most the newest so many
        Py_ssize_t _since_checkpoint
        object _ready                       # the event that the pending await is to return
        readonly Py_ssize_t lost

    cdef object _take(self)
