"""The log of a run's outside events and its readers.

The log is a list; a reader is an index into it. A reader that finds an event returns it without a task switch, through
the slot that `await` uses for coroutines; only at the end of the log does it wait.
"""

cimport cython

from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF


cdef extern from "pyglue.h":
    ctypedef int (*sendfunc)(PyObject *, PyObject *, PyObject **) except -1
    void bz_set_am_send(PyTypeObject *type, sendfunc send)

cdef extern from "bz_clock.h":
    double bz_now() noexcept


# A reader that always finds an event takes a real checkpoint once it has gone on for so long, as a worker does, so that
# others run and cancelling works. It looks at the clock after so many events; on a clock other than the system's it
# takes the checkpoint then, so that a trace repeats.
cdef double SECONDS_PER_CHECKPOINT = 0.001
cdef enum:
    EVENTS_PER_LOOK = 1000

cdef object _NOTHING = object()
cdef object _gap_type = None
cdef object _wait = None
cdef object _checkpoint = None


def configure(gap_type, wait, checkpoint):
    """Hand over what this module may not import.

    Args:
        gap_type: The event class that says how many were lost.
        wait: `await wait(stream)` returns when the stream has grown or ended.
        checkpoint: `await checkpoint()` lets others run.
    """
    global _gap_type, _wait, _checkpoint
    _gap_type = gap_type
    _wait = wait
    _checkpoint = checkpoint


@cython.final
cdef class EventStream:
    """Events of one run, in order, for any number of readers. Step records are kept beside them, for those who ask."""

    def __cinit__(self, Py_ssize_t keep=0):
        self._items = []
        self._records = []
        self._waiting = []
        self._keep = keep

    cdef int _has_grown(self) except -1:
        """Keep the bound, and wake the readers that wait."""
        if self._keep > 0 and len(self._items) >= 2 * self._keep:
            # In one go for `keep` events at a time, so that a write costs O(1).
            self._first += len(self._items) - self._keep
            del self._items[:-self._keep]
        if self._waiting:
            self._wake()
        return 0

    def append(self, event):
        """Add an event; readers that wait are woken. After the end it does nothing."""
        if not self.ended:
            self._items.append(event)
            self._has_grown()

    def append_record(self, record):
        """Add a step record; likewise."""
        if self.ended:
            return
        self._records.append((self._first + len(self._items), record))
        if self._keep > 0 and len(self._records) >= 2 * self._keep:
            self._first_record += len(self._records) - self._keep
            del self._records[:-self._keep]
        if self._waiting:
            self._wake()

    def skip_step_record(self):
        """Note that a step record was due and nobody has asked for them yet."""
        self.unrecorded += 1

    def end(self):
        """Close the log; readers end when they have read it."""
        self.ended = True
        self._wake()

    def add_waiter(self, wake):
        """Have `wake()` called once, when the log grows or ends."""
        self._waiting.append(wake)

    def remove_waiter(self, wake):
        """Take a waiter back that was not called."""
        if wake in self._waiting:
            self._waiting.remove(wake)

    def __len__(self):
        return len(self._items)

    def read(self, *, bint steps=False, Py_ssize_t buffer=0):
        """A new reader from the start of the log.

        Args:
            steps: Give step records too. They are written from the first reader on that wants them.
            buffer: Give only the newest so many when the reader lags further behind; 0 gives all.
        """
        cdef StreamIterator reader = StreamIterator.__new__(StreamIterator)
        reader._stream = self
        reader._steps = steps
        reader._buffer = buffer
        reader._ready = _NOTHING
        reader._all = not steps and buffer == 0 and self._keep == 0
        if steps:
            self.with_steps = True
            reader._gap = self.unrecorded
        return reader

    cdef int _wake(self) except -1:
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()
        return 0


@cython.final
cdef class StreamIterator:
    """One reader: `async for event in reader`.

    Attributes:
        lost: How many events this reader has not seen, because only the last `stream_keep` are kept or because it asked
            for the newest `buffer` events only.
    """

    def __aiter__(self):
        return self

    def __anext__(self):
        cdef EventStream stream = self._stream
        if self._since_look < EVENTS_PER_LOOK or self._may_go_on():
            if self._all and self._ready is _NOTHING and self._next < len(stream._items):
                self._since_look += 1
                self._ready = stream._items[self._next]
                self._next += 1
                return self
            event = self._take()
            if event is not _NOTHING:
                self._since_look += 1
                if self._ready is not _NOTHING:          # a second one, while the first has not been awaited yet
                    return _give(event)
                self._ready = event
                return self
        return self._wait_for_next()

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        # For drivers that do not use the send slot.
        if self._ready is _NOTHING:
            raise TypeError("the events of a run are read with `async for`")
        event, self._ready = self._ready, _NOTHING
        raise StopIteration(event)

    cdef bint _may_go_on(self) noexcept:
        """So many events have been read in one go: is there time left for more?"""
        if not self._stream.real_clock or bz_now() - self._last_checkpoint > SECONDS_PER_CHECKPOINT:
            return False
        self._since_look = 0
        return True

    async def _wait_for_next(self):
        await _checkpoint()
        self._since_look = 0
        self._last_checkpoint = bz_now()
        while True:
            event = self._take()
            if event is not _NOTHING:
                return event
            if self._stream.ended or self._closed:
                raise StopAsyncIteration
            await _wait(self._stream)

    async def aclose(self):
        """Give up reading, as of an async generator; for `contextlib.aclosing`. Others go on reading."""
        self._closed = True
        self._all = False

    cdef object _take(self):
        """The next event for this reader, or _NOTHING."""
        cdef EventStream stream = self._stream
        if self._closed:
            return _NOTHING
        cdef Py_ssize_t end = stream._first + len(stream._items)
        cdef Py_ssize_t oldest = stream._first
        cdef Py_ssize_t lost = self._gap
        if stream._keep > 0 and end - oldest > stream._keep:
            oldest = end - stream._keep
        if self._buffer > 0 and end - self._buffer > oldest:
            oldest = end - self._buffer
        lost += self._skip_to(self._next, oldest)
        if self._next < oldest:
            self._next = oldest
        if self._steps:
            lost += self._find_record()
        if lost > 0:
            self._gap = 0
            self.lost += lost
            if self._buffer == 0:
                return _gap_type(lost)
        if self._steps and self._next_record - stream._first_record < len(stream._records):
            before, record = stream._records[self._next_record - stream._first_record]
            if before <= self._next:
                self._next_record += 1
                return record
        if self._next < end:
            event = stream._items[self._next - stream._first]
            self._next += 1
            return event
        return _NOTHING

    cdef Py_ssize_t _skip_to(self, Py_ssize_t next, Py_ssize_t oldest) noexcept:
        """How many there are between what is next and what is still there."""
        return oldest - next if next < oldest else 0

    cdef Py_ssize_t _find_record(self) noexcept:
        """Go on to the oldest step record that is kept. Returns how many were lost."""
        cdef EventStream stream = self._stream
        cdef Py_ssize_t end = stream._first_record + len(stream._records)
        cdef Py_ssize_t oldest = stream._first_record
        if stream._keep > 0 and end - oldest > stream._keep:
            oldest = end - stream._keep
        if self._buffer > 0 and end - self._buffer > oldest:
            oldest = end - self._buffer
        cdef Py_ssize_t lost = self._skip_to(self._next_record, oldest)
        self._next_record += lost
        return lost


async def _give(event):
    return event


cdef int _reader_send(PyObject *reader, PyObject *value, PyObject **result) except -1:
    """The await of a reader that has its event: returns it at once."""
    cdef StreamIterator self = <StreamIterator> reader
    event = self._ready
    self._ready = _NOTHING
    Py_INCREF(event)
    result[0] = <PyObject *> event
    return 0


bz_set_am_send(<PyTypeObject *> StreamIterator, _reader_send)
