#ifndef BZ_ALLOC_H
#define BZ_ALLOC_H

#include <stddef.h>

/**
 * The one door to the heap, so that tests can make any allocation fail.
 *
 * The fault hook is one per linked image: each shared object that compiles this file in has its own.
 */

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Resizes the block `p` to `size` bytes, or allocates one when `p` is NULL.
 *
 * The caller owns the result and gives it back with bz_free(). Size 0 counts as 1. Returns NULL when memory runs out;
 * `p` is then untouched and still owned by the caller. Aligned for every ordinary type.
 * Threads: any, at once. Progress: that of the C library's allocator.
 */
void *bz_realloc(void *p, size_t size);

/**
 * Gives back a block of bz_realloc(). NULL does nothing.
 *
 * Threads: any, at once. Progress: that of the C library's allocator.
 */
void bz_free(void *p);

/**
 * For tests: makes the `n`-th allocation from now fail, once. 1 is the next one; any `n` below 1 switches the hook off.
 *
 * Returns how many allocations were left before this call: 0 when the failure has happened or the hook was off.
 * Threads: any, at once; with several threads allocating, exactly one of their allocations fails. Wait-free.
 */
long bz_alloc_fail_after(long n);

#ifdef __cplusplus
}
#endif

#endif
