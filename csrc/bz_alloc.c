#include "bz_alloc.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/* Allocations until the one that fails, itself included; 0 while the hook is off. Relaxed throughout: it orders no
 * other memory. */
static atomic_long allocations_to_failure;

static bool this_one_fails(void) {
    long left = atomic_load_explicit(&allocations_to_failure, memory_order_relaxed);
    while (left > 0) {
        if (atomic_compare_exchange_weak_explicit(&allocations_to_failure, &left, left - 1, memory_order_relaxed,
                                                  memory_order_relaxed)) {
            return left == 1;
        }
    }
    return false;
}

void *bz_realloc(void *p, size_t size) {
    if (this_one_fails()) {
        return NULL;
    }
    /* realloc(p, 0) frees or not, as the platform likes; one byte is never ambiguous. */
    return realloc(p, size > 0 ? size : 1);
}

void bz_free(void *p) { free(p); }

long bz_alloc_fail_after(long n) {
    return atomic_exchange_explicit(&allocations_to_failure, n > 0 ? n : 0, memory_order_relaxed);
}
