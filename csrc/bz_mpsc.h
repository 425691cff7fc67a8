#ifndef BZ_MPSC_H
#define BZ_MPSC_H

#include <stdbool.h>
#include <stddef.h>

#include "bz_types.h"

#ifdef __cplusplus
#include <atomic>
#define BZ_ATOMIC(type) std::atomic<type>
extern "C" {
#else
#include <stdatomic.h>
#define BZ_ATOMIC(type) _Atomic type
#endif

/**
 * A bounded ring that any thread posts to and one consumer empties (Vyukov's bounded queue, with one consumer).
 *
 * Each cell carries a number that says whose turn it is. Cursors advance by two, so that a cell's number is even while
 * the cell is free and odd while it holds a record, also with a capacity of one; bit 0 of the producers' cursor means
 * "closed", which makes claiming a cell and seeing the close one atomic step. All numbers wrap.
 *
 * Order: the records of one producer come out in the order it pushed them, and a push that returned before another one
 * began comes out first. A record becomes visible once it and all records claimed before it are published: a producer
 * that is preempted inside bz_mpsc_push() holds back the later ones, which are delayed and never lost.
 *
 * How the consumer sleeps. `armed` says that the consumer wants to be woken.
 *
 *     producer, in bz_mpsc_push()                   consumer
 *     P1  publish the record  (release store)       C1  bz_mpsc_arm()  (exchange armed to 1, acq_rel)
 *     P2  exchange armed to 0  (acq_rel)            C2  pop until 0  (acquire loads)
 *     P3  wake the consumer if P2 returned 1        C3  sleep until woken, then C1
 *
 * No wake-up is lost. `armed` is changed by read-modify-writes only, so all P2 and C1 have one total order, and every
 * P2 stands between two consecutive C1 (a fresh ring is armed: init counts as the first C1).
 *  - The first P2 after a C1 returns 1, the others of that interval return 0: one poster is told to wake, exactly once,
 *    and after that wake-up the consumer comes to the next C1.
 *  - A P2 that stands before a C1 is seen by it: read-modify-writes continue the release sequence that P2 heads, so C1
 *    synchronises with P2, P1 happens before C2, and C2 finds the record published.
 * So a record is found by the C2 that follows its P2's interval at the latest, and the end of an interval that contains
 * any P2 is always brought about by a wake-up. When C2 stops at a cell that is claimed and not yet published, the P2 of
 * that producer is still to come, and the same argument holds for it. This is why C1 comes before C2: arming after the
 * last pop would leave a gap in which a post is neither popped nor announced.
 * The reverse is harmless: C2 may already have taken the record whose P2 asks for a wake-up; the consumer then wakes to
 * an empty ring.
 */

/* Distance that keeps two fields on different cache lines wherever the struct happens to lie, with room for the line
 * pairs that prefetchers fetch. Padding instead of alignment: a host object that embeds the struct is aligned to 16. */
enum { BZ_MPSC_LINE = 128 };

/** One cell: `turn` is 2n while free for the n-th record, 2n + 1 while holding it (n counts all records ever). */
typedef struct bz_mpsc_cell {
    BZ_ATOMIC(uint64_t) turn;
    bz_record record;
} bz_mpsc_cell;

/** The fields are for bz_mpsc.c and its tests only. */
typedef struct bz_mpsc {
    bz_mpsc_cell *cells; /* owned; NULL before init and after free */
    uint64_t mask;       /* capacity - 1 */
    char pad_tail[BZ_MPSC_LINE];
    BZ_ATOMIC(uint64_t) tail;  /* producers: twice the number of claimed cells; bit 0: closed */
    BZ_ATOMIC(uint32_t) armed; /* beside tail, since each push writes both */
    char pad_head[BZ_MPSC_LINE];
    uint64_t head; /* consumer only: twice the number of popped records */
    char pad_end[BZ_MPSC_LINE];
} bz_mpsc;

/**
 * Prepares a ring for `capacity` records, open and armed: the first post asks for a wake-up.
 *
 * `capacity` is a power of two, 1 to 2^31. All memory is taken here; nothing later allocates.
 * Ownership: the caller keeps the struct, does not move it, and ends it with bz_mpsc_free().
 * Returns BZ_OK; BZ_INVALID for another capacity; BZ_NOMEM. After an error the struct may be freed or initialised
 * again. Threads: one, before any other thread knows the ring.
 */
int bz_mpsc_init(bz_mpsc *ring, uint32_t capacity);

/**
 * Frees the memory. Records still inside are dropped: pop them first. Freeing twice does nothing.
 *
 * Threads: one, when no other thread is inside a function of this ring or will enter one. bz_mpsc_close() alone does
 * not ensure that: a late poster would read freed memory.
 */
void bz_mpsc_free(bz_mpsc *ring);

/**
 * Posts a copy of `record`.
 *
 * `*wake` becomes true when this caller has to wake the consumer, after the call; false otherwise and on every error.
 * Returns BZ_OK; BZ_FULL when `capacity` records are inside, and then their posters see to the wake-up; BZ_CLOSED after
 * bz_mpsc_close(). On an error nothing was posted. Threads: any number, at once with everything but init and free;
 * needs no lock and no GIL. Not for signal handlers that may interrupt a push of the same thread. Progress: lock-free;
 * a caller repeats only when another one has claimed a cell meanwhile.
 */
int bz_mpsc_push(bz_mpsc *ring, bz_record record, bool *wake);

/**
 * Asks for a wake-up again: of the posts that come from now on, the first one reports `*wake`.
 *
 * Call it before popping, each time (see above). Threads: the consumer only. Wait-free.
 */
void bz_mpsc_arm(bz_mpsc *ring);

/**
 * Moves the oldest record to `*out` and returns 1; returns 0 and leaves `*out` alone when none is visible.
 *
 * Works on a closed ring too. Threads: the consumer only, at once with pushes and close. Wait-free.
 */
int bz_mpsc_pop(bz_mpsc *ring, bz_record *out);

/**
 * Closes the ring: a push that begins after this call returns BZ_CLOSED. Closing again does nothing.
 *
 * What was pushed stays poppable. A push that has claimed its cell before the close still returns BZ_OK, and its record
 * may become visible shortly after: go on popping until bz_mpsc_drained(). Does not wake the consumer.
 * Threads: any, at once with everything but init and free. Lock-free.
 */
void bz_mpsc_close(bz_mpsc *ring);

/**
 * Whether every record claimed so far was popped. Once true on a closed ring it stays true: no record is left behind.
 *
 * Threads: the consumer only. Wait-free.
 */
bool bz_mpsc_drained(const bz_mpsc *ring);

#ifdef __cplusplus
}
#endif

#endif
