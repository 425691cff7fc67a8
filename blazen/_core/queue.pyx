"""The event queue of a run: first in, first out, growing, never refusing while there is memory.

Why it grows and has no bound: the consumers of a run's queue are its own producers. With a bound, a step that returns
more events than fit would wait for a worker that waits for this very step. What limits a queue is the number of events
the steps have made, and each of them is an object that exists already; the queue adds 28 bytes to it.
"""

cimport cython

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "bz_alloc.h" nogil:
    void *bz_realloc(void *block, size_t size)
    void bz_free(void *block)
    void bz_alloc_fail_after(long n)


# A drained queue gives its memory back when it had grown beyond this many slots.
cdef enum:
    KEPT_SLOTS = 256


@cython.final
cdef class EventQueue:
    """First in, first out queue of `(item, seq, route)`.

    The ring holds indices and the list the objects, so that the cycle collector sees every queued event. Not for use
    by several threads at once, except under the GIL.
    """

    def __cinit__(self):
        bz_ring_init(&self._ring)
        self._slots = None
        self._free = NULL
        self._free_len = 0
        self._free_cap = 0

    def __dealloc__(self):
        bz_ring_free(&self._ring)
        bz_free(self._free)

    def __len__(self):
        return bz_ring_len(&self._ring)

    def put_nowait(self, item, uint64_t seq=0, uint32_t route=0):
        """Append an item.

        Raises:
            MemoryError: No memory for another record; the queue is unchanged.
        """
        self.put(item, seq, route)

    def put_front_nowait(self, item, uint64_t seq=0, uint32_t route=0):
        """Put an item back at the front.

        Raises:
            MemoryError: No memory for another record; the queue is unchanged.
        """
        self.put_front(item, seq, route)

    def get_nowait(self):
        """Take the oldest item as `(item, seq, route)`; None when the queue is empty."""
        cdef bz_record record
        if bz_ring_len(&self._ring) == 0:
            return None
        item = self.take(&record)
        return item, record.seq, record.route

    def clear(self):
        """Drop everything and give the memory back."""
        self.drop_all()

    cdef size_t size(self) noexcept:
        return bz_ring_len(&self._ring)

    cdef int put(self, object item, uint64_t seq, uint32_t route) except -1:
        cdef bz_record record
        record.seq = seq
        record.route = route
        self._claim(item, &record)
        if bz_ring_push(&self._ring, record) != 0:
            self._slots[record.slot] = None
            self._free[self._free_len] = record.slot
            self._free_len += 1
            raise MemoryError(f"no memory to queue event number {seq}: {self.size()} events are queued already")
        return 0

    cdef int put_front(self, object item, uint64_t seq, uint32_t route) except -1:
        cdef bz_record record
        record.seq = seq
        record.route = route
        self._claim(item, &record)
        if bz_ring_push_front(&self._ring, record) != 0:
            self._slots[record.slot] = None
            self._free[self._free_len] = record.slot
            self._free_len += 1
            raise MemoryError(f"no memory to put back event number {seq}: {self.size()} events are queued already")
        return 0

    cdef object take(self, bz_record *record):
        """Take the oldest item. The caller has made sure that there is one."""
        bz_ring_pop(&self._ring, record)
        item = self._slots[record.slot]
        self._slots[record.slot] = None
        self._free[self._free_len] = record.slot
        self._free_len += 1
        if self._free_len > KEPT_SLOTS and bz_ring_len(&self._ring) == 0:
            self.drop_all()
        return item

    cdef list entries(self):
        """What is queued, as `(item, seq, route)`, oldest first; nothing is taken."""
        cdef const bz_record *record
        cdef size_t place
        found = []
        for place in range(bz_ring_len(&self._ring)):
            record = bz_ring_at(&self._ring, place)
            found.append((self._slots[record.slot], record.seq, record.route))
        return found

    cdef int drop_all(self) except -1:
        bz_ring_clear(&self._ring)
        # A new list first: dropping the events may run finalisers that look at this queue.
        slots, self._slots = self._slots, None
        bz_free(self._free)
        self._free = NULL
        self._free_len = 0
        self._free_cap = 0
        if slots is not None:
            (<list> slots).clear()
        return 0

    cdef int _claim(self, object item, bz_record *record) except -1:
        """Store `item` in an empty slot and note the slot in `record`."""
        cdef size_t capacity
        cdef uint32_t *free_slots
        if self._free_len > 0:
            self._free_len -= 1
            record.slot = self._free[self._free_len]
            self._slots[record.slot] = item
            return 0
        if self._slots is None:                  # made by the first put: most runs never queue anything
            self._slots = []
        cdef size_t used = len(self._slots)
        if used == self._free_cap:
            # Room for every slot in the stack of empty ones is taken here, so that giving a slot back cannot fail.
            capacity = 8 if used == 0 else 2 * used
            if capacity > 0xFFFFFFFF:
                raise MemoryError("a queue holds at most 4,294,967,295 events")
            free_slots = <uint32_t *> bz_realloc(self._free, capacity * sizeof(uint32_t))
            if free_slots == NULL:
                raise MemoryError(f"no memory to queue an event: {used} events are queued already")
            self._free = free_slots
            self._free_cap = capacity
        self._slots.append(item)
        record.slot = <uint32_t> used
        return 0


def fail_allocation_after(long n):
    """For tests: make the n-th allocation of queues from now fail once; below 1 switches it off."""
    bz_alloc_fail_after(n)
