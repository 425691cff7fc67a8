#include "bz_mpsc.h"

#include "bz_alloc.h"

static const uint64_t CLOSED = 1; /* bit 0 of tail */
static const uint64_t STEP = 2;   /* what a cursor advances per record */

static bz_mpsc_cell *cell_at(const bz_mpsc *ring, uint64_t cursor) {
    return &ring->cells[(cursor / STEP) & ring->mask];
}

int bz_mpsc_init(bz_mpsc *ring, uint32_t capacity) {
    ring->cells = NULL;
    ring->mask = 0;
    ring->head = 0;
    atomic_init(&ring->tail, 0);
    atomic_init(&ring->armed, 1);
    if (capacity == 0 || (capacity & (capacity - 1)) != 0) {
        return BZ_INVALID;
    }
    const size_t most = SIZE_MAX / sizeof(bz_mpsc_cell); /* matters where size_t has 32 bits */
    if (capacity > most) {
        return BZ_NOMEM;
    }
    bz_mpsc_cell *cells = bz_realloc(NULL, (size_t)capacity * sizeof(bz_mpsc_cell));
    if (cells == NULL) {
        return BZ_NOMEM;
    }
    for (uint32_t i = 0; i < capacity; i++) {
        atomic_init(&cells[i].turn, i * STEP);
    }
    ring->cells = cells;
    ring->mask = capacity - 1;
    return BZ_OK;
}

void bz_mpsc_free(bz_mpsc *ring) {
    bz_free(ring->cells);
    ring->cells = NULL;
}

int bz_mpsc_push(bz_mpsc *ring, bz_record record, bool *wake) {
    *wake = false;
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    bz_mpsc_cell *cell;
    for (;;) {
        if (tail & CLOSED) {
            return BZ_CLOSED;
        }
        cell = cell_at(ring, tail);
        /* Acquire pairs with the release store in bz_mpsc_pop(): the consumer has copied the previous record out before
         * this thread overwrites it. */
        uint64_t turn = atomic_load_explicit(&cell->turn, memory_order_acquire);
        if (turn == tail) {
            /* Relaxed: claiming publishes nothing. A close in between has set bit 0, and the exchange fails. */
            if (atomic_compare_exchange_weak_explicit(&ring->tail, &tail, tail + STEP, memory_order_relaxed,
                                                      memory_order_relaxed)) {
                break;
            }
        } else if (turn - tail > UINT64_MAX / 2) {
            return BZ_FULL; /* the cell is behind: it still holds the record of one round ago */
        } else {
            tail = atomic_load_explicit(&ring->tail, memory_order_relaxed); /* another producer took this turn */
        }
    }
    cell->record = record;
    /* Release pairs with the acquire load in bz_mpsc_pop(): who sees the turn sees the record. */
    atomic_store_explicit(&cell->turn, tail + 1, memory_order_release);
    /* P2. Release pairs with the acquire in bz_mpsc_arm(). Acquire keeps this thread's wake-up after the arming that it
     * answers. An exchange each time and not a load first: a load could be satisfied before the store above is visible
     * and miss an arming that misses the record. */
    *wake = atomic_exchange_explicit(&ring->armed, 0, memory_order_acq_rel) != 0;
    return BZ_OK;
}

void bz_mpsc_arm(bz_mpsc *ring) {
    /* C1. Acquire pairs with the release of each earlier P2, release with the acquire of the P2 that takes the request.
     * An exchange and not a store: a store would break the release sequences that the acquire side reads. */
    (void)atomic_exchange_explicit(&ring->armed, 1, memory_order_acq_rel);
}

int bz_mpsc_pop(bz_mpsc *ring, bz_record *out) {
    bz_mpsc_cell *cell = cell_at(ring, ring->head);
    /* Acquire pairs with the release store in bz_mpsc_push(). */
    if (atomic_load_explicit(&cell->turn, memory_order_acquire) != ring->head + 1) {
        return 0;
    }
    *out = cell->record;
    /* Release pairs with the acquire load in bz_mpsc_push(): the cell is free once its record has been copied. */
    atomic_store_explicit(&cell->turn, ring->head + STEP * (ring->mask + 1), memory_order_release);
    ring->head += STEP;
    return 1;
}

void bz_mpsc_close(bz_mpsc *ring) {
    /* Relaxed: the order with the claims on the same variable is all that is needed. */
    (void)atomic_fetch_or_explicit(&ring->tail, CLOSED, memory_order_relaxed);
}

bool bz_mpsc_drained(const bz_mpsc *ring) {
    return (atomic_load_explicit(&ring->tail, memory_order_relaxed) & ~CLOSED) == ring->head;
}
