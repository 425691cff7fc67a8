#ifndef BZ_TIMERS_H
#define BZ_TIMERS_H

#include <stddef.h>

#include "bz_types.h"

/**
 * Pending deadlines, earliest first: a 4-ary heap, for one thread.
 *
 * A deadline is a number on whatever clock the caller uses; nothing here reads a clock. A token is the caller's, handed
 * back untouched.
 *
 * Threads: none of these functions takes part in any synchronisation. One thread at a time may use a heap, reading
 * functions included; different heaps are independent.
 *
 * Memory: none until the first timer, 32 bytes per pending timer at the peak since the heap was last shrunk (it halves
 * itself when less than one eighth is used) and 8 bytes per timer that was ever pending at once, kept to recognise
 * stale handles.
 */

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Names one added timer: a slot (low 32 bits) and the slot's generation (high 32 bits). 0 names none.
 *
 * No two timers of one heap ever have the same handle, since a slot is retired when its generations are used up; so a
 * handle may be kept after its timer has fired.
 */
typedef uint64_t bz_timer;

typedef struct bz_timer_entry {
    double deadline;
    uint64_t order; /* number of the add, settles equal deadlines */
    uint64_t token;
    uint32_t slot;
} bz_timer_entry;

typedef struct bz_timer_slot {
    uint32_t generation; /* of the timer in it, or of the next one when free; 0 once retired */
    uint32_t place;      /* index in the heap, or the next free slot */
} bz_timer_slot;

/** The fields are for this header and bz_timers.c only. */
typedef struct bz_timers {
    bz_timer_entry *heap; /* owned */
    size_t len;
    size_t heap_capacity;
    bz_timer_slot *slots; /* owned */
    uint32_t slot_count;  /* slots in use, free or retired */
    uint32_t slot_capacity;
    uint32_t free_slot; /* first of the list of free slots, UINT32_MAX when it is empty */
    uint64_t next_order;
} bz_timers;

/**
 * Makes `timers` empty without allocating. Whatever it held before is not freed.
 *
 * Ownership: the caller keeps the struct and ends it with bz_timers_free(). Wait-free.
 */
void bz_timers_init(bz_timers *timers);

/**
 * Frees the memory, dropping pending timers, and leaves an empty heap that may be used, or freed, again.
 *
 * Forget handles from before: their slots are counted afresh, so one of them may come to name a later timer.
 */
void bz_timers_free(bz_timers *timers);

/**
 * Adds a timer and stores its handle in `*out`.
 *
 * `deadline` may be infinite. Returns BZ_OK; BZ_INVALID when it is NaN; BZ_NOMEM. After an error nothing has changed
 * and `*out` is untouched. O(log n), amortised over growth.
 */
int bz_timers_add(bz_timers *timers, double deadline, uint64_t token, bz_timer *out);

/**
 * Removes a timer. Returns 1 if it was pending; 0 if it has fired or was cancelled before, and for 0, "none".
 *
 * Never fails. O(log n).
 */
int bz_timers_cancel(bz_timers *timers, bz_timer timer);

/**
 * Removes the earliest timer that is due (deadline <= `now`), stores its token in `*token` and returns 1.
 *
 * Equal deadlines come in the order of adding. Returns 0 and leaves `*token` alone when none is due, or `now` is NaN.
 * Never fails. O(log n).
 */
int bz_timers_pop_due(bz_timers *timers, double now, uint64_t *token);

/** Number of pending timers. Wait-free. */
static inline size_t bz_timers_len(const bz_timers *timers) { return timers->len; }

/**
 * Stores the earliest deadline in `*deadline` and returns 1; returns 0 and leaves it alone when none is pending.
 *
 * Wait-free.
 */
static inline int bz_timers_next(const bz_timers *timers, double *deadline) {
    if (timers->len == 0) {
        return 0;
    }
    *deadline = timers->heap[0].deadline;
    return 1;
}

#ifdef __cplusplus
}
#endif

#endif
