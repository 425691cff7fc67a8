# What a run shows to the outside while it runs.
cimport cython


@cython.final
cdef class EventStream:
    cdef:
        list _items                         # every event since the start, or the last `_keep`
        Py_ssize_t _first                   # number of the event at _items[0]
        list _records                       # step records, each with the number of events written before it
        Py_ssize_t _first_record            # number of the record at _records[0]
        Py_ssize_t _keep                    # 0: keep all
        list _waiting                       # wake-up functions of readers at the end of the log
        readonly bint ended
        bint real_clock                     # whether time may decide how long a reader goes on
        readonly bint with_steps            # whether step records are wanted
        readonly Py_ssize_t unrecorded      # number of step records that nobody wanted yet

    cdef int _has_grown(self) except -1
    cdef int _wake(self) except -1


@cython.final
cdef class StreamIterator:
    cdef:
        EventStream _stream
        Py_ssize_t _next                    # number of the next event
        Py_ssize_t _next_record             # likewise of the next step record
        Py_ssize_t _gap                     # step records that were due before this reader wanted them
        bint _closed
        bint _all                           # it sees every event and nothing else
        bint _steps                         # whether this reader sees step records
        Py_ssize_t _buffer                  # 0: every event; else at most the newest so many
        Py_ssize_t _since_look              # events read since the clock was last looked at
        double _last_checkpoint
        object _ready                       # the event that the pending await is to return
        readonly Py_ssize_t lost

    cdef object _take(self)
    cdef bint _may_go_on(self) noexcept
    cdef Py_ssize_t _skip_to(self, Py_ssize_t next, Py_ssize_t oldest) noexcept
    cdef Py_ssize_t _find_record(self) noexcept
