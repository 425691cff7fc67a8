#include "bz_ring.h"

#include <string.h>

#include "bz_alloc.h"

void bz_ring_init(bz_ring *ring) { *ring = (bz_ring){0}; }

void bz_ring_free(bz_ring *ring) {
    bz_free(ring->items);
    bz_ring_init(ring);
}

void bz_ring_clear(bz_ring *ring) {
    if (ring->capacity > BZ_RING_KEEP) {
        bz_ring_free(ring);
        return;
    }
    ring->head = 0;
    ring->len = 0;
    ring->low_pops = 0;
}

int bz_ring_push_front(bz_ring *ring, bz_record record) {
    if (ring->len == ring->capacity && bz_ring_grow(ring) != BZ_OK) {
        return BZ_NOMEM;
    }
    ring->head = (ring->head - 1) & (ring->capacity - 1);
    ring->items[ring->head] = record;
    ring->len++;
    return BZ_OK;
}

/* Called on a full ring only. */
int bz_ring_grow(bz_ring *ring) {
    size_t old = ring->capacity;
    if (old > SIZE_MAX / sizeof(bz_record) / 2) {
        return BZ_NOMEM;
    }
    size_t capacity = old == 0 ? BZ_RING_SMALLEST : old * 2;
    bz_record *items = bz_realloc(ring->items, capacity * sizeof(bz_record));
    if (items == NULL) {
        return BZ_NOMEM;
    }
    /* The ring was full, so the records before head are the newest: in the larger block they follow the old end. */
    memcpy(items + old, items, ring->head * sizeof(bz_record));
    ring->items = items;
    ring->capacity = capacity;
    ring->low_pops = 0;
    return BZ_OK;
}

/* Called with less than an eighth of a capacity above BZ_RING_KEEP in use, so neither copy overlaps its source. */
void bz_ring_shrink(bz_ring *ring) {
    size_t old = ring->capacity;
    size_t capacity = ring->len == 0 && old > BZ_RING_KEEP_EMPTY ? BZ_RING_KEEP_EMPTY : old / 2;
    if (ring->len == 0) {
        ring->head = 0;
    } else if (ring->head + ring->len > old) {
        /* Wrapped: the part at the old end moves to the new end, the part at the start stays. */
        size_t at_end = old - ring->head;
        memcpy(ring->items + capacity - at_end, ring->items + ring->head, at_end * sizeof(bz_record));
        ring->head = capacity - at_end;
    } else if (ring->head + ring->len > capacity) {
        memcpy(ring->items, ring->items + ring->head, ring->len * sizeof(bz_record));
        ring->head = 0;
    }
    ring->capacity = capacity;
    ring->low_pops = 0;
    bz_record *items = bz_realloc(ring->items, capacity * sizeof(bz_record));
    if (items != NULL) {
        ring->items = items;
    }
    /* Otherwise the block stays larger than `capacity` says, which no function minds. */
}
