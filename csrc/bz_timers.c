#include "bz_timers.h"

#include <math.h>
#include <stdbool.h>

#include "bz_alloc.h"

/* Four children per node: half the depth of a binary heap, and the children of a node lie side by side. */
static const size_t CHILDREN = 4;

static const uint32_t NO_SLOT = UINT32_MAX; /* also the number of slots there can be at most */
static const uint32_t SMALLEST = 4;         /* first allocation: a heap per run often holds a single timer */
static const size_t KEEP = 64;              /* a heap of this capacity or less is never shrunk */

void bz_timers_init(bz_timers *timers) {
    *timers = (bz_timers){0};
    timers->free_slot = NO_SLOT;
}

void bz_timers_free(bz_timers *timers) {
    bz_free(timers->heap);
    bz_free(timers->slots);
    bz_timers_init(timers);
}

static bool comes_before(const bz_timer_entry *a, const bz_timer_entry *b) {
    if (a->deadline != b->deadline) {
        return a->deadline < b->deadline;
    }
    /* The difference and not the numbers, so that the counter may wrap. */
    return b->order - a->order <= UINT64_MAX / 2;
}

static void put_at(bz_timers *timers, size_t place, const bz_timer_entry *entry) {
    timers->heap[place] = *entry;
    timers->slots[entry->slot].place = (uint32_t)place;
}

/* Places `entry` at the free `place` or above. */
static void sift_up(bz_timers *timers, size_t place, bz_timer_entry entry) {
    while (place > 0) {
        size_t parent = (place - 1) / CHILDREN;
        if (!comes_before(&entry, &timers->heap[parent])) {
            break;
        }
        put_at(timers, place, &timers->heap[parent]);
        place = parent;
    }
    put_at(timers, place, &entry);
}

/* Places `entry` at the free `place` or below. */
static void sift_down(bz_timers *timers, size_t place, bz_timer_entry entry) {
    for (;;) {
        size_t first = place * CHILDREN + 1;
        if (first >= timers->len) {
            break;
        }
        size_t end = timers->len - first < CHILDREN ? timers->len : first + CHILDREN;
        size_t earliest = first;
        for (size_t child = first + 1; child < end; child++) {
            if (comes_before(&timers->heap[child], &timers->heap[earliest])) {
                earliest = child;
            }
        }
        if (!comes_before(&timers->heap[earliest], &entry)) {
            break;
        }
        put_at(timers, place, &timers->heap[earliest]);
        place = earliest;
    }
    put_at(timers, place, &entry);
}

static int reserve_heap(bz_timers *timers) {
    if (timers->len < timers->heap_capacity) {
        return BZ_OK;
    }
    if (timers->heap_capacity > SIZE_MAX / sizeof(bz_timer_entry) / 2) {
        return BZ_NOMEM;
    }
    size_t capacity = timers->heap_capacity == 0 ? SMALLEST : timers->heap_capacity * 2;
    bz_timer_entry *heap = bz_realloc(timers->heap, capacity * sizeof(bz_timer_entry));
    if (heap == NULL) {
        return BZ_NOMEM;
    }
    timers->heap = heap;
    timers->heap_capacity = capacity;
    return BZ_OK;
}

static int reserve_slot(bz_timers *timers) {
    if (timers->free_slot != NO_SLOT || timers->slot_count < timers->slot_capacity) {
        return BZ_OK;
    }
    if (timers->slot_capacity == NO_SLOT) {
        return BZ_NOMEM;
    }
    uint32_t capacity = timers->slot_capacity == 0             ? SMALLEST
                        : timers->slot_capacity <= NO_SLOT / 2 ? timers->slot_capacity * 2
                                                               : NO_SLOT;
    const size_t most = SIZE_MAX / sizeof(bz_timer_slot); /* matters where size_t has 32 bits */
    if (capacity > most) {
        return BZ_NOMEM;
    }
    bz_timer_slot *slots = bz_realloc(timers->slots, (size_t)capacity * sizeof(bz_timer_slot));
    if (slots == NULL) {
        return BZ_NOMEM;
    }
    timers->slots = slots;
    timers->slot_capacity = capacity;
    return BZ_OK;
}

/* After reserve_slot() succeeded. */
static uint32_t take_slot(bz_timers *timers) {
    uint32_t slot = timers->free_slot;
    if (slot != NO_SLOT) {
        timers->free_slot = timers->slots[slot].place;
        return slot;
    }
    slot = timers->slot_count++;
    timers->slots[slot].generation = 1;
    return slot;
}

static void give_slot_back(bz_timers *timers, uint32_t slot) {
    bz_timer_slot *given = &timers->slots[slot];
    given->generation++;
    if (given->generation == 0) {
        return; /* retired: one more generation would repeat a handle that somebody may still hold */
    }
    given->place = timers->free_slot;
    timers->free_slot = slot;
}

static void shrink_heap(bz_timers *timers) {
    if (timers->heap_capacity <= KEEP || timers->len >= timers->heap_capacity / 8) {
        return;
    }
    timers->heap_capacity /= 2;
    bz_timer_entry *heap = bz_realloc(timers->heap, timers->heap_capacity * sizeof(bz_timer_entry));
    if (heap != NULL) {
        timers->heap = heap;
    }
    /* Otherwise the block stays larger than the capacity says, which no function minds. */
}

static void remove_at(bz_timers *timers, size_t place) {
    give_slot_back(timers, timers->heap[place].slot);
    timers->len--;
    if (place < timers->len) {
        bz_timer_entry last = timers->heap[timers->len];
        if (place > 0 && comes_before(&last, &timers->heap[(place - 1) / CHILDREN])) {
            sift_up(timers, place, last);
        } else {
            sift_down(timers, place, last);
        }
    }
    shrink_heap(timers);
}

int bz_timers_add(bz_timers *timers, double deadline, uint64_t token, bz_timer *out) {
    if (isnan(deadline)) {
        return BZ_INVALID;
    }
    /* Both blocks before the first change, so that a failure leaves nothing half done. */
    if (reserve_heap(timers) != BZ_OK || reserve_slot(timers) != BZ_OK) {
        return BZ_NOMEM;
    }
    uint32_t slot = take_slot(timers);
    bz_timer_entry entry = {.deadline = deadline, .order = timers->next_order++, .token = token, .slot = slot};
    sift_up(timers, timers->len++, entry);
    *out = ((bz_timer)timers->slots[slot].generation << 32) | slot;
    return BZ_OK;
}

int bz_timers_cancel(bz_timers *timers, bz_timer timer) {
    uint32_t slot = (uint32_t)timer;
    uint32_t generation = (uint32_t)(timer >> 32);
    if (generation == 0 || slot >= timers->slot_count || timers->slots[slot].generation != generation) {
        return 0;
    }
    uint32_t place = timers->slots[slot].place;
    /* A handle that this heap never gave out may name a free slot; it must not harm the heap. */
    if (place >= timers->len || timers->heap[place].slot != slot) {
        return 0;
    }
    remove_at(timers, place);
    return 1;
}

int bz_timers_pop_due(bz_timers *timers, double now, uint64_t *token) {
    /* Not written as deadline > now: with a NaN nothing is due. */
    if (timers->len == 0 || !(timers->heap[0].deadline <= now)) {
        return 0;
    }
    *token = timers->heap[0].token;
    remove_at(timers, 0);
    return 1;
}
