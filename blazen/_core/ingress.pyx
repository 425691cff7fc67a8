"""Where other threads come in: one bounded ring per event loop, emptied by the loop's thread.

The ring carries numbers. The Python objects that belong to them wait in a dict, under the GIL; a host thread without
Python posts numbers only, and never takes the GIL.
"""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "<stdbool.h>":
    ctypedef bint c_bool "bool"


cdef extern from "bz_mpsc.h" nogil:
    ctypedef struct bz_record:
        uint64_t seq
        uint32_t slot
        uint32_t route
    ctypedef struct bz_mpsc:
        pass
    int bz_mpsc_init(bz_mpsc *ring, uint32_t capacity)
    void bz_mpsc_free(bz_mpsc *ring)
    int bz_mpsc_push(bz_mpsc *ring, bz_record record, c_bool *wake)
    void bz_mpsc_arm(bz_mpsc *ring)
    int bz_mpsc_pop(bz_mpsc *ring, bz_record *record)
    void bz_mpsc_close(bz_mpsc *ring)


cdef enum:
    BZ_OK = 0
    BZ_CLOSED = -3

POSTED = 0
FULL = 1
CLOSED = 2


cdef class Ingress:
    """A bounded queue that any thread may post to and one thread drains."""

    cdef:
        bz_mpsc _ring
        dict _items
        uint64_t _count
        object _wake

    def __cinit__(self, uint32_t capacity, wake):
        """Make the ring.

        Args:
            capacity: A power of two.
            wake: Called by a posting thread, once each time the drainer has to come.
        """
        if bz_mpsc_init(&self._ring, capacity) != BZ_OK:
            raise MemoryError(f"no memory for {capacity} cross-thread messages")
        self._items = {}
        self._wake = wake

    def __dealloc__(self):
        bz_mpsc_free(&self._ring)

    def post(self, item):
        """Post an object. Returns POSTED, FULL (try again) or CLOSED; after the last two nothing was posted."""
        cdef bz_record record
        cdef c_bool wake = False
        self._count += 1
        record.seq = self._count
        record.slot = 0
        record.route = 0
        self._items[record.seq] = item
        cdef int status = bz_mpsc_push(&self._ring, record, &wake)
        if status != BZ_OK:
            del self._items[record.seq]
            return CLOSED if status == BZ_CLOSED else FULL
        if wake:
            self._wake()
        return POSTED

    def drain(self):
        """Take everything that has been posted, in the order of posting. For the loop's thread only."""
        cdef bz_record record
        items = []
        bz_mpsc_arm(&self._ring)
        while bz_mpsc_pop(&self._ring, &record):
            items.append(self._items.pop(record.seq))
        return items

    def close(self):
        """Refuse later posts; what was posted can still be drained."""
        bz_mpsc_close(&self._ring)
