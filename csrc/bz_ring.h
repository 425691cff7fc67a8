#ifndef BZ_RING_H
#define BZ_RING_H

#include <stddef.h>

#include "bz_types.h"

/**
 * A growable first-in-first-out ring of records, for one thread.
 *
 * Threads: none of these functions takes part in any synchronisation. One thread at a time may use a ring, reading
 * functions included; different rings are independent.
 *
 * Memory: none until the first push, then 8 records, doubling when full. It is given back in two ways:
 *  - a ring that becomes empty keeps at most BZ_RING_KEEP_EMPTY records;
 *  - a ring above BZ_RING_KEEP records halves itself when less than one eighth of it was in use during a quarter of its
 *    capacity in consecutive pops.
 * After either, and after a doubling, a large part of the ring has to be filled or many records have to pass before it
 * is resized again: a push and a pop that alternate at a boundary do not resize, and neither does a ring of up to
 * BZ_RING_KEEP_EMPTY records that is filled and emptied over and over (mapping the pages anew each time costs several
 * times what the pushes and pops do).
 */

#ifdef __cplusplus
extern "C" {
#endif

enum {
    BZ_RING_SMALLEST = 8, /* records in the first allocation: thousands of rings are alive at once, most nearly empty */
    BZ_RING_KEEP = 64,    /* a ring of this capacity (1 KiB) or less is never shrunk */
    BZ_RING_KEEP_EMPTY = 16384, /* what an empty ring keeps at most (256 KiB) */
};

/** The fields are for this header only. */
typedef struct bz_ring {
    bz_record *items; /* owned; at least `capacity` records; NULL while capacity is 0 */
    size_t capacity;  /* 0 or a power of two */
    size_t head;      /* index of the oldest record, below capacity; 0 while capacity is 0 */
    size_t len;
    size_t low_pops; /* pops in a row that left less than one eighth in use */
} bz_ring;

/**
 * Makes `ring` empty without allocating. Whatever it held before is not freed.
 *
 * Ownership: the caller keeps the struct and ends it with bz_ring_free(). A struct of zero bytes is initialised too.
 * Wait-free.
 */
void bz_ring_init(bz_ring *ring);

/**
 * Frees the memory and leaves an empty ring that may be used, or freed, again.
 */
void bz_ring_free(bz_ring *ring);

/**
 * Drops all records. A block above BZ_RING_KEEP records is given back, a smaller one kept for the next push. O(1).
 */
void bz_ring_clear(bz_ring *ring);

/**
 * Puts `record` in front of the oldest one, for an event that was taken and has to go back.
 *
 * Returns BZ_OK, or BZ_NOMEM with the contents unchanged. Amortised O(1).
 */
int bz_ring_push_front(bz_ring *ring, bz_record record);

/* Slow paths of the functions below, not for callers. Growing returns BZ_OK, or BZ_NOMEM with the ring unchanged;
 * shrinking cannot fail. */
int bz_ring_grow(bz_ring *ring);
void bz_ring_shrink(bz_ring *ring);

/** Number of records. Wait-free. */
static inline size_t bz_ring_len(const bz_ring *ring) { return ring->len; }

/**
 * Appends `record`.
 *
 * Returns BZ_OK, or BZ_NOMEM with the contents unchanged. Amortised O(1).
 */
static inline int bz_ring_push(bz_ring *ring, bz_record record) {
    if (ring->len == ring->capacity && bz_ring_grow(ring) != BZ_OK) {
        return BZ_NOMEM;
    }
    ring->items[(ring->head + ring->len) & (ring->capacity - 1)] = record;
    ring->len++;
    return BZ_OK;
}

/**
 * Moves the oldest record to `*out` and returns 1; returns 0 and leaves `*out` alone when the ring is empty.
 *
 * Never fails: when memory cannot be given back, it is kept. Amortised O(1).
 */
static inline int bz_ring_pop(bz_ring *ring, bz_record *out) {
    if (ring->len == 0) {
        return 0;
    }
    *out = ring->items[ring->head];
    ring->head = (ring->head + 1) & (ring->capacity - 1);
    ring->len--;
    if (ring->capacity > BZ_RING_KEEP) {
        if (ring->len >= ring->capacity / 8) {
            ring->low_pops = 0;
        } else if (++ring->low_pops >= ring->capacity / 4 || (ring->len == 0 && ring->capacity > BZ_RING_KEEP_EMPTY)) {
            bz_ring_shrink(ring);
        }
    }
    return 1;
}

/**
 * The oldest record, or NULL when the ring is empty.
 *
 * Ownership: the ring's; valid until the next call that changes the ring. Wait-free.
 */
static inline const bz_record *bz_ring_peek(const bz_ring *ring) {
    return ring->len == 0 ? (const bz_record *)0 : &ring->items[ring->head];
}

/**
 * The record at `place`, counted from the oldest, which is at 0; NULL when there are not so many.
 *
 * Ownership: the ring's; valid until the next call that changes the ring. Wait-free.
 */
static inline const bz_record *bz_ring_at(const bz_ring *ring, size_t place) {
    return place < ring->len ? &ring->items[(ring->head + place) & (ring->capacity - 1)] : (const bz_record *)0;
}

#ifdef __cplusplus
}
#endif

#endif
