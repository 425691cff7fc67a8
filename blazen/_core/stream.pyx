"""The log of a run's outside events and its readers.

The log is a list; a reader is an index into it. A reader that finds an event returns it without a task switch, through
the slot that `await` uses for coroutines; only at the end of the log does it wait.
"""

from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF


cdef extern from "pyglue.h":
    ctypedef int (*sendfunc)(PyObject *, PyObject *, PyObject **) except -1
    void bz_set_am_send(PyTypeObject *type, sendfunc send)


# A reader that always finds an event takes a real checkpoint after this many, so that others run and cancelling works.
cdef enum:
    EVENTS_PER_CHECKPOINT = 1000

cdef object _NOTHING = object()
cdef object _gap_type = None
cdef object _step_record_type = None
cdef object _wait = None
cdef object _checkpoint = None


def configure(gap_type, step_record_type, wait, checkpoint):
    """Hand over what this module may not import: two event classes and two coroutine functions.

    Args:
        wait: `await wait(stream)` returns when the stream has grown or ended.
        checkpoint: `await checkpoint()` lets others run.
    """
    global _gap_type, _step_record_type, _wait, _checkpoint
    _gap_type = gap_type
    _step_record_type = step_record_type
    _wait = wait
    _checkpoint = checkpoint


cdef class EventStream:
    """Events of one run, in order, for any number of readers."""

    def __cinit__(self, Py_ssize_t keep=0):
        self._items = []
        self._waiting = []
        self._keep = keep

    cdef int write(self, object event) except -1:
        self._items.append(event)
        if self._keep > 0 and len(self._items) >= 2 * self._keep:
            self._trim()
        if self._waiting:
            self._wake()
        return 0

    def append(self, event):
        """Add an event; readers that wait are woken."""
        if not self.ended:
            self.write(event)

    def skip_step_record(self):
        """Note that a step record was due and nobody has asked for them yet."""
        self.unrecorded += 1

    def want_steps(self):
        """Have step records written from now on. Returns how many were due before and are not in the log."""
        if not self.with_steps:
            self.with_steps = True
            return self.unrecorded
        return 0

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
        """A new reader from the start of the log."""
        cdef StreamIterator reader = StreamIterator.__new__(StreamIterator)
        reader._stream = self
        reader._steps = steps
        reader._buffer = buffer
        reader._ready = _NOTHING
        return reader

    cdef int _trim(self) except -1:
        # In one go for `keep` events at a time, so that a write costs O(1).
        cdef Py_ssize_t surplus = len(self._items) - self._keep
        del self._items[:surplus]
        self._first += surplus
        return 0

    cdef int _wake(self) except -1:
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()
        return 0


cdef class StreamIterator:
    """One reader: `async for event in reader`.

    Attributes:
        lost: How many events this reader has not seen, because only the last `stream_keep` are kept or because it asked
            for the newest `buffer` events only.
    """

    def __aiter__(self):
        return self

    def __anext__(self):
        if self._since_checkpoint < EVENTS_PER_CHECKPOINT:
            event = self._take()
            if event is not _NOTHING:
                self._since_checkpoint += 1
                self._ready = event
                return self
        return self._wait_for_next()

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        # For drivers that do not use the send slot.
        event, self._ready = self._ready, _NOTHING
        raise StopIteration(event)

    async def _wait_for_next(self):
        self._since_checkpoint = 0
        await _checkpoint()
        while True:
            event = self._take()
            if event is not _NOTHING:
                return event
            if self._stream.ended:
                raise StopAsyncIteration
            await _wait(self._stream)
            # Waiting has let others run.

    cdef object _take(self):
        """The next event for this reader, or _NOTHING."""
        cdef EventStream stream = self._stream
        cdef Py_ssize_t size = len(stream._items)
        cdef Py_ssize_t end = stream._first + size
        cdef Py_ssize_t lost = 0
        cdef Py_ssize_t oldest = stream._first
        if stream._keep > 0 and size > stream._keep:
            oldest = end - stream._keep
        if self._next < oldest:
            lost = oldest - self._next
            self._next = oldest
        if self._buffer > 0 and end - self._next > self._buffer:
            lost += end - self._buffer - self._next
            self._next = end - self._buffer
        if lost > 0:
            self.lost += lost
            if self._buffer == 0:
                return _gap_type(lost)
        while self._next < end:
            event = stream._items[self._next - stream._first]
            self._next += 1
            if self._steps or type(event) is not _step_record_type:
                return event
        return _NOTHING


cdef int _reader_send(PyObject *reader, PyObject *value, PyObject **result) except -1:
    """The await of a reader that has its event: returns it at once."""
    cdef StreamIterator self = <StreamIterator> reader
    event = self._ready
    self._ready = _NOTHING
    Py_INCREF(event)
    result[0] = <PyObject *> event
    return 0


bz_set_am_send(<PyTypeObject *> StreamIterator, _reader_send)
