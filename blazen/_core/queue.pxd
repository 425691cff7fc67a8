# The event queue: a C ring of small records in front of a list that holds the events.
cimport cython
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "bz_ring.h" nogil:
    ctypedef struct bz_record:
        uint64_t seq                        # the engine's number of the event
        uint32_t slot                       # where the event lies in the queue's list
        uint32_t route                      # index of the step that is to receive it
    ctypedef struct bz_ring:
        pass
    void bz_ring_init(bz_ring *ring)
    void bz_ring_free(bz_ring *ring)
    void bz_ring_clear(bz_ring *ring)
    int bz_ring_push(bz_ring *ring, bz_record record)
    int bz_ring_push_front(bz_ring *ring, bz_record record)
    int bz_ring_pop(bz_ring *ring, bz_record *record)
    size_t bz_ring_len(const bz_ring *ring)
    const bz_record *bz_ring_peek(const bz_ring *ring)
    const bz_record *bz_ring_at(const bz_ring *ring, size_t place)


@cython.final
cdef class EventQueue:
    cdef:
        bz_ring _ring
        list _slots                         # the events; None where empty
        uint32_t *_free                     # stack of empty slots, always roomy enough for all of them
        size_t _free_len
        size_t _free_cap

    cdef size_t size(self) noexcept
    cdef int put(self, object item, uint64_t seq, uint32_t route) except -1
    cdef int put_front(self, object item, uint64_t seq, uint32_t route) except -1
    cdef object take(self, bz_record *record)
    cdef list entries(self)
    cdef int drop_all(self) except -1
    cdef int _claim(self, object item, bz_record *record) except -1
