#include <stdlib.h>

#include "bz_alloc.h"
#include "bz_ring.h"
#include "check.h"

static bz_record record_of(uint64_t seq) {
    return (bz_record){.seq = seq, .slot = (uint32_t)(seq * 7), .route = (uint32_t)(seq * 13 + 1)};
}

static bool is_record_of(const bz_record *record, uint64_t seq) {
    bz_record expected = record_of(seq);
    return record != NULL && record->seq == seq && record->slot == expected.slot && record->route == expected.route;
}

static void push(bz_ring *ring, uint64_t seq) { CHECK(bz_ring_push(ring, record_of(seq)) == BZ_OK); }

static void pop(bz_ring *ring, uint64_t seq) {
    bz_record out = {0};
    CHECK(is_record_of(bz_ring_peek(ring), seq));
    CHECK(bz_ring_pop(ring, &out) == 1);
    CHECK(is_record_of(&out, seq));
}

static void an_empty_ring_holds_no_memory_and_pops_nothing(void) {
    bz_ring ring;
    bz_ring_init(&ring);
    bz_record out = record_of(99);
    CHECK(ring.items == NULL);
    CHECK(bz_ring_len(&ring) == 0);
    CHECK(bz_ring_peek(&ring) == NULL);
    CHECK(bz_ring_pop(&ring, &out) == 0);
    CHECK(is_record_of(&out, 99));
    bz_ring_clear(&ring);
    bz_ring_free(&ring);
    bz_ring_free(&ring);
}

static void the_first_push_takes_eight_records(void) {
    bz_ring ring;
    bz_ring_init(&ring);
    push(&ring, 1);
    CHECK(ring.capacity == 8);
    bz_ring_free(&ring);
    CHECK(ring.items == NULL && ring.capacity == 0 && bz_ring_len(&ring) == 0);
}

static void growing_keeps_the_order_wherever_the_ring_wraps(void) {
    for (uint64_t offset = 0; offset < 8; offset++) {
        bz_ring ring;
        bz_ring_init(&ring);
        for (uint64_t i = 0; i < offset; i++) {
            push(&ring, 1000 + i);
            pop(&ring, 1000 + i);
        }
        for (uint64_t i = 0; i < 100; i++) {
            push(&ring, i);
        }
        CHECK(bz_ring_len(&ring) == 100);
        for (uint64_t i = 0; i < 100; i++) {
            pop(&ring, i);
        }
        CHECK(bz_ring_len(&ring) == 0);
        bz_ring_free(&ring);
    }
}

static void a_record_put_back_comes_first(void) {
    bz_ring ring;
    bz_ring_init(&ring);
    CHECK(bz_ring_push_front(&ring, record_of(5)) == BZ_OK);
    for (uint64_t i = 6; i < 30; i++) {
        push(&ring, i);
    }
    for (uint64_t i = 4; i > 0; i--) {
        CHECK(bz_ring_push_front(&ring, record_of(i)) == BZ_OK);
    }
    for (uint64_t i = 1; i < 30; i++) {
        pop(&ring, i);
    }
    bz_ring_free(&ring);
}

static void shrinking_keeps_the_order_wherever_the_ring_wraps(void) {
    const uint64_t full = 1024, left = 100;
    for (uint64_t offset = 0; offset < full; offset += 11) {
        bz_ring ring;
        bz_ring_init(&ring);
        uint64_t next_in = 0, next_out = 0;
        while (next_in < full) {
            push(&ring, next_in++);
        }
        for (uint64_t i = 0; i < offset; i++) {
            pop(&ring, next_out++);
            push(&ring, next_in++);
        }
        CHECK(ring.capacity == full);
        while (bz_ring_len(&ring) > left) {
            pop(&ring, next_out++);
        }
        CHECK(ring.capacity == full); /* low for a moment only */
        uint64_t passed = 0;
        while (ring.capacity == full) {
            CHECK(++passed <= full / 4);
            push(&ring, next_in++);
            pop(&ring, next_out++);
        }
        CHECK(ring.capacity == full / 2);
        while (bz_ring_len(&ring) < full) {
            push(&ring, next_in++);
        }
        while (next_out < next_in) {
            pop(&ring, next_out++);
        }
        bz_ring_free(&ring);
    }
}

static void a_drained_ring_has_given_its_peak_back(void) {
    bz_ring ring;
    bz_ring_init(&ring);
    for (uint64_t i = 0; i < 1000000; i++) {
        push(&ring, i);
    }
    CHECK(ring.capacity == 1 << 20);
    for (uint64_t i = 0; i < 1000000; i++) {
        pop(&ring, i);
    }
    CHECK(ring.capacity == BZ_RING_KEEP_EMPTY);
    for (uint64_t i = 0; i < BZ_RING_KEEP_EMPTY; i++) {
        push(&ring, i);
        pop(&ring, i);
    }
    CHECK(ring.capacity == BZ_RING_KEEP);
    bz_ring_free(&ring);
}

static void a_ring_that_never_empties_gives_its_peak_back_too(void) {
    bz_ring ring;
    bz_ring_init(&ring);
    for (uint64_t i = 0; i < 100000; i++) {
        push(&ring, i);
    }
    for (uint64_t i = 0; i < 200000; i++) {
        pop(&ring, i);
        if (i >= 99990) {
            push(&ring, i + 10);
        }
    }
    CHECK(bz_ring_len(&ring) == 10 && ring.capacity < 128);
    bz_ring_free(&ring);
}

static void filling_and_emptying_again_and_again_does_not_resize(void) {
    const uint64_t sizes[] = {65, 100, 1000, 8193, BZ_RING_KEEP_EMPTY};
    for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        bz_ring ring;
        bz_ring_init(&ring);
        size_t capacity = 0;
        for (int round = 0; round < 20; round++) {
            for (uint64_t i = 0; i < sizes[k]; i++) {
                push(&ring, i);
            }
            CHECK(round == 0 || ring.capacity == capacity);
            capacity = ring.capacity;
            for (uint64_t i = 0; i < sizes[k]; i++) {
                pop(&ring, i);
                CHECK(ring.capacity == capacity);
            }
        }
        bz_ring_free(&ring);
    }
}

static void a_push_and_a_pop_at_any_length_resize_at_most_once(void) {
    bz_ring ring;
    bz_ring_init(&ring);
    uint64_t next_in = 0, next_out = 0;
    /* Up to 3000 and down again, so that every length is met after a growth and after a shrink. */
    for (int step = 0; step < 6000; step++) {
        if (step < 3000) {
            push(&ring, next_in++);
        } else {
            pop(&ring, next_out++);
        }
        int resizes = 0;
        for (int i = 0; i < 20; i++) {
            size_t before = ring.capacity;
            push(&ring, next_in++);
            resizes += ring.capacity != before;
            before = ring.capacity;
            pop(&ring, next_out++);
            resizes += ring.capacity != before;
        }
        CHECK(resizes <= 1);
    }
    bz_ring_free(&ring);
}

static void clearing_drops_everything_and_keeps_only_a_small_block(void) {
    bz_ring ring;
    bz_ring_init(&ring);
    for (uint64_t i = 0; i < 20; i++) {
        push(&ring, i);
    }
    bz_ring_clear(&ring);
    CHECK(bz_ring_len(&ring) == 0 && ring.capacity == 32);
    for (uint64_t i = 0; i < 1000; i++) {
        push(&ring, i);
    }
    pop(&ring, 0);
    bz_ring_clear(&ring);
    CHECK(bz_ring_len(&ring) == 0 && ring.items == NULL);
    push(&ring, 7);
    pop(&ring, 7);
    bz_ring_free(&ring);
}

static void a_capacity_that_cannot_be_expressed_is_refused(void) {
    /* A ring that claims to be full at the largest capacity; the refusal comes before its items are touched. */
    bz_record item = record_of(1);
    bz_ring ring = {.items = &item, .capacity = (SIZE_MAX / 2 + 1) / sizeof(bz_record), .head = 0};
    ring.len = ring.capacity;
    CHECK(bz_ring_push(&ring, record_of(2)) == BZ_NOMEM);
    CHECK(bz_ring_push_front(&ring, record_of(2)) == BZ_NOMEM);
    CHECK(ring.items == &item && ring.len == ring.capacity && ring.head == 0);
    CHECK(is_record_of(&item, 1));
}

/* The model: an array with a front that may move down, as large as the number of operations in either direction. */
enum { OPERATIONS = 50000 };
typedef struct model {
    uint64_t *items;
    size_t first, end;
} model;

static void agree(const bz_ring *ring, const model *expected) {
    CHECK(bz_ring_len(ring) == expected->end - expected->first);
    CHECK(ring->capacity == 0 || (ring->capacity & (ring->capacity - 1)) == 0);
    CHECK(bz_ring_len(ring) <= ring->capacity);
    if (expected->first == expected->end) {
        CHECK(bz_ring_peek(ring) == NULL);
    } else {
        CHECK(is_record_of(bz_ring_peek(ring), expected->items[expected->first]));
        CHECK(is_record_of(bz_ring_at(ring, bz_ring_len(ring) - 1),
                           expected->items[expected->first + bz_ring_len(ring) - 1]));
    }
}

/* Random operations; with `faults`, allocations fail at random and the ring must be as if they had not been tried. */
static void compare_with_model(uint64_t seed, bool faults) {
    bz_ring ring;
    bz_ring_init(&ring);
    model expected = {.items = malloc(2 * OPERATIONS * sizeof(uint64_t)), .first = OPERATIONS, .end = OPERATIONS};
    CHECK(expected.items != NULL);
    uint64_t random = seed, next = 0;
    unsigned bias = 50;
    int refused = 0, shrunk = 0;
    for (int i = 0; i < OPERATIONS; i++) {
        if (i % 1000 == 0) {
            bias = 10 + (unsigned)(check_random(&random) % 81); /* phases of growing and of draining */
        }
        if (faults && check_random(&random) % 4 == 0) {
            (void)bz_alloc_fail_after(1);
        }
        size_t capacity_before = ring.capacity;
        unsigned dice = (unsigned)(check_random(&random) % 100);
        if (check_random(&random) % 20000 == 0) {
            bz_ring_clear(&ring);
            expected.first = expected.end = OPERATIONS;
        } else if (dice < bias) {
            bool front = check_random(&random) % 8 == 0;
            uint64_t seq = next++;
            int result = front ? bz_ring_push_front(&ring, record_of(seq)) : bz_ring_push(&ring, record_of(seq));
            CHECK(result == BZ_OK || (faults && result == BZ_NOMEM));
            if (result != BZ_OK) {
                refused++;
            } else if (front) {
                expected.items[--expected.first] = seq;
            } else {
                expected.items[expected.end++] = seq;
            }
        } else {
            bz_record out = {0};
            int popped = bz_ring_pop(&ring, &out);
            CHECK(popped == (expected.first < expected.end));
            if (popped) {
                CHECK(is_record_of(&out, expected.items[expected.first++]));
            }
        }
        (void)bz_alloc_fail_after(-1);
        shrunk += ring.capacity > 0 && ring.capacity < capacity_before;
        agree(&ring, &expected);
    }
    CHECK((refused > 0) == faults);
    CHECK(shrunk > 0);
    while (expected.first < expected.end) {
        pop(&ring, expected.items[expected.first++]);
    }
    free(expected.items);
    bz_ring_free(&ring);
}

static void random_operations_agree_with_a_model(void) {
    for (uint64_t seed = 1; seed <= 10; seed++) {
        compare_with_model(seed, false);
    }
}

static void random_operations_with_failing_allocations_agree_with_a_model(void) {
    for (uint64_t seed = 1; seed <= 10; seed++) {
        compare_with_model(seed, true);
    }
}

static void each_allocation_may_fail_in_turn(void) {
    for (long n = 1;; n++) {
        bz_ring ring;
        bz_ring_init(&ring);
        (void)bz_alloc_fail_after(n);
        int refused = 0;
        for (uint64_t i = 0; i < 2000; i++) {
            while (bz_ring_push(&ring, record_of(i)) != BZ_OK) {
                refused++;
                CHECK(bz_ring_len(&ring) == i);
                CHECK(i == 0 ? bz_ring_peek(&ring) == NULL : is_record_of(bz_ring_peek(&ring), 0));
                CHECK(refused == 1); /* the hook fails once */
            }
        }
        for (uint64_t i = 0; i < 2000; i++) {
            pop(&ring, i);
        }
        for (uint64_t i = 0; i < 2000; i++) { /* long enough for every halving */
            push(&ring, i);
            pop(&ring, i);
        }
        CHECK(ring.capacity == BZ_RING_KEEP);
        bz_ring_free(&ring);
        if (bz_alloc_fail_after(-1) > 0) {
            CHECK(n == 9 + 5 + 1); /* capacities 8 to 2048, then back to 64: each of these was made to fail */
            return;
        }
        CHECK(refused == (n <= 9)); /* giving memory back fails silently */
    }
}

int main(void) {
    RUN(an_empty_ring_holds_no_memory_and_pops_nothing);
    RUN(the_first_push_takes_eight_records);
    RUN(growing_keeps_the_order_wherever_the_ring_wraps);
    RUN(a_record_put_back_comes_first);
    RUN(shrinking_keeps_the_order_wherever_the_ring_wraps);
    RUN(a_drained_ring_has_given_its_peak_back);
    RUN(a_ring_that_never_empties_gives_its_peak_back_too);
    RUN(filling_and_emptying_again_and_again_does_not_resize);
    RUN(a_push_and_a_pop_at_any_length_resize_at_most_once);
    RUN(clearing_drops_everything_and_keeps_only_a_small_block);
    RUN(a_capacity_that_cannot_be_expressed_is_refused);
    RUN(random_operations_agree_with_a_model);
    RUN(random_operations_with_failing_allocations_agree_with_a_model);
    RUN(each_allocation_may_fail_in_turn);
    return check_report();
}
