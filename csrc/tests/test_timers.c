#include <math.h>
#include <stdlib.h>

#include "bz_alloc.h"
#include "bz_timers.h"
#include "check.h"

static bz_timer add(bz_timers *timers, double deadline, uint64_t token) {
    bz_timer timer = 0;
    CHECK(bz_timers_add(timers, deadline, token, &timer) == BZ_OK);
    CHECK(timer != 0);
    return timer;
}

static void next_due(bz_timers *timers, double now, uint64_t expected) {
    uint64_t token = 0;
    CHECK(bz_timers_pop_due(timers, now, &token) == 1);
    CHECK(token == expected);
}

static void none_due(bz_timers *timers, double now) {
    uint64_t token = 4711;
    CHECK(bz_timers_pop_due(timers, now, &token) == 0);
    CHECK(token == 4711);
}

static void an_empty_heap_has_no_memory_and_nothing_due(void) {
    bz_timers timers;
    bz_timers_init(&timers);
    double deadline = 1.5;
    CHECK(timers.heap == NULL && timers.slots == NULL);
    CHECK(bz_timers_len(&timers) == 0);
    CHECK(bz_timers_next(&timers, &deadline) == 0 && deadline == 1.5);
    none_due(&timers, INFINITY);
    CHECK(bz_timers_cancel(&timers, 0) == 0);
    CHECK(bz_timers_cancel(&timers, UINT64_MAX) == 0);
    bz_timers_free(&timers);
    bz_timers_free(&timers);
}

static void timers_fire_at_their_deadline_and_not_before(void) {
    bz_timers timers;
    bz_timers_init(&timers);
    (void)add(&timers, 2.0, 20);
    (void)add(&timers, 1.0, 10);
    (void)add(&timers, INFINITY, 30);
    (void)add(&timers, -INFINITY, 5);
    double deadline = 0;
    CHECK(bz_timers_next(&timers, &deadline) == 1 && deadline == -INFINITY);
    next_due(&timers, -1e300, 5);
    none_due(&timers, nextafter(1.0, 0.0));
    CHECK(bz_timers_next(&timers, &deadline) == 1 && deadline == 1.0);
    next_due(&timers, 1.0, 10);
    none_due(&timers, 1.0);
    next_due(&timers, 3.0, 20);
    none_due(&timers, 1e300);
    none_due(&timers, NAN);
    CHECK(bz_timers_len(&timers) == 1);
    next_due(&timers, INFINITY, 30);
    bz_timers_free(&timers);
}

static void a_nan_deadline_is_refused(void) {
    bz_timers timers;
    bz_timers_init(&timers);
    bz_timer timer = 123;
    CHECK(bz_timers_add(&timers, NAN, 1, &timer) == BZ_INVALID);
    CHECK(timer == 123 && bz_timers_len(&timers) == 0);
    bz_timers_free(&timers);
}

static void equal_deadlines_fire_in_the_order_of_adding(void) {
    bz_timers timers;
    bz_timers_init(&timers);
    static bz_timer handles[500];
    for (uint64_t i = 0; i < 500; i++) {
        handles[i] = add(&timers, i % 2 == 0 ? 0.0 : -0.0, i); /* the two zeros are equal */
    }
    for (uint64_t i = 0; i < 500; i += 3) {
        CHECK(bz_timers_cancel(&timers, handles[i]) == 1);
    }
    for (uint64_t i = 0; i < 500; i++) {
        if (i % 3 != 0) {
            next_due(&timers, 0.0, i);
        }
    }
    bz_timers_free(&timers);
}

static void the_order_survives_a_wrap_of_its_counter(void) {
    bz_timers timers;
    bz_timers_init(&timers);
    timers.next_order = UINT64_MAX - 20;
    for (uint64_t i = 0; i < 50; i++) {
        (void)add(&timers, 1.0, i);
    }
    for (uint64_t i = 0; i < 50; i++) {
        next_due(&timers, 1.0, i);
    }
    bz_timers_free(&timers);
}

static void a_handle_is_stale_after_firing_and_after_cancelling(void) {
    bz_timers timers;
    bz_timers_init(&timers);
    bz_timer fired = add(&timers, 1.0, 1);
    next_due(&timers, 1.0, 1);
    CHECK(bz_timers_cancel(&timers, fired) == 0);
    bz_timer cancelled = add(&timers, 1.0, 2);
    CHECK(bz_timers_cancel(&timers, cancelled) == 1);
    CHECK(bz_timers_cancel(&timers, cancelled) == 0);
    bz_timer live = add(&timers, 1.0, 3); /* in the same slot */
    CHECK((uint32_t)live == (uint32_t)fired && live != fired && live != cancelled);
    CHECK(bz_timers_cancel(&timers, fired) == 0);
    CHECK(bz_timers_cancel(&timers, cancelled) == 0);
    next_due(&timers, 1.0, 3);
    bz_timers_free(&timers);
}

static void a_made_up_handle_does_no_harm(void) {
    bz_timers timers;
    bz_timers_init(&timers);
    bz_timer first = add(&timers, 1.0, 1);
    (void)add(&timers, 2.0, 2);
    CHECK(bz_timers_cancel(&timers, first) == 1);
    CHECK(bz_timers_cancel(&timers, first + (UINT64_C(1) << 32)) == 0); /* the free slot's next generation */
    CHECK(bz_timers_cancel(&timers, first | 0xFFFFFFFF) == 0);
    CHECK(bz_timers_len(&timers) == 1);
    next_due(&timers, 2.0, 2);
    bz_timers_free(&timers);
}

static void a_slot_whose_generations_are_used_up_is_retired(void) {
    bz_timers timers;
    bz_timers_init(&timers);
    bz_timer first = add(&timers, 1.0, 1);
    CHECK(bz_timers_cancel(&timers, first) == 1);
    timers.slots[(uint32_t)first].generation = UINT32_MAX;
    bz_timer last = add(&timers, 1.0, 2);
    CHECK((uint32_t)last == (uint32_t)first && last >> 32 == UINT32_MAX);
    CHECK(bz_timers_cancel(&timers, last) == 1);
    CHECK(bz_timers_cancel(&timers, last) == 0);
    for (uint64_t i = 0; i < 20; i++) {
        CHECK((uint32_t)add(&timers, 1.0, i) != (uint32_t)first);
    }
    CHECK(bz_timers_cancel(&timers, first) == 0);
    CHECK(bz_timers_cancel(&timers, (uint32_t)first) == 0); /* generation 0 */
    CHECK(bz_timers_len(&timers) == 20);
    bz_timers_free(&timers);
}

static void slots_run_out_with_an_error(void) {
    bz_timers timers;
    bz_timers_init(&timers);
    (void)add(&timers, 1.0, 1);
    timers.slot_count = timers.slot_capacity = UINT32_MAX; /* as if as many slots were pending as can be named */
    bz_timer timer = 123;
    CHECK(bz_timers_add(&timers, 0.5, 2, &timer) == BZ_NOMEM);
    CHECK(timer == 123 && bz_timers_len(&timers) == 1);
    next_due(&timers, 1.0, 1);
    bz_timers_free(&timers);
}

static void a_drained_heap_has_given_its_peak_back(void) {
    bz_timers timers;
    bz_timers_init(&timers);
    for (uint64_t i = 0; i < 100000; i++) {
        (void)add(&timers, (double)(i * 7919 % 100000), i);
    }
    CHECK(timers.heap_capacity == 1 << 17);
    for (uint64_t i = 0; i < 100000; i++) {
        uint64_t token = 0;
        CHECK(bz_timers_pop_due(&timers, (double)i, &token) == 1);
        CHECK(token * 7919 % 100000 == i);
    }
    CHECK(timers.heap_capacity == 64);
    bz_timers_free(&timers);
}

/* The model: every timer there ever was, searched from end to end. */
enum { OPERATIONS = 8000 };
typedef struct model_timer {
    double deadline;
    bz_timer handle;
    bool pending;
} model_timer;

/* Index of the timer that has to fire next, or -1. */
static int earliest(const model_timer *all, int count) {
    int found = -1;
    for (int i = 0; i < count; i++) {
        if (all[i].pending && (found < 0 || all[i].deadline < all[found].deadline)) {
            found = i;
        }
    }
    return found;
}

static void compare_with_model(uint64_t seed, bool faults) {
    bz_timers timers;
    bz_timers_init(&timers);
    model_timer *all = malloc(OPERATIONS * sizeof(model_timer));
    CHECK(all != NULL);
    int count = 0, refused = 0;
    size_t pending = 0;
    uint64_t random = seed;
    unsigned bias = 50;
    for (int i = 0; i < OPERATIONS; i++) {
        if (i % 500 == 0) {
            bias = 20 + (unsigned)(check_random(&random) % 60); /* phases of growing and of draining */
        }
        if (faults && check_random(&random) % 4 == 0) {
            (void)bz_alloc_fail_after(1 + (long)(check_random(&random) % 2));
        }
        double moment = (double)(check_random(&random) % 64) - 32; /* few different ones: many are equal */
        if (check_random(&random) % 100 < bias) {
            bz_timer handle = 0;
            int result = bz_timers_add(&timers, moment, (uint64_t)count, &handle);
            CHECK(result == BZ_OK || (faults && result == BZ_NOMEM));
            if (result == BZ_OK) {
                all[count++] = (model_timer){.deadline = moment, .handle = handle, .pending = true};
                pending++;
            } else {
                CHECK(handle == 0);
                refused++;
            }
        } else if (check_random(&random) % 2 == 0 && count > 0) {
            model_timer *any = &all[check_random(&random) % (uint64_t)count];
            CHECK(bz_timers_cancel(&timers, any->handle) == any->pending);
            pending -= any->pending;
            any->pending = false;
        } else {
            int expected = earliest(all, count);
            uint64_t token = 0;
            bool due = expected >= 0 && all[expected].deadline <= moment;
            CHECK(bz_timers_pop_due(&timers, moment, &token) == due);
            if (due) {
                CHECK(token == (uint64_t)expected);
                all[expected].pending = false;
                pending--;
            }
        }
        (void)bz_alloc_fail_after(-1);
        CHECK(bz_timers_len(&timers) == pending);
        int expected = earliest(all, count);
        double deadline = 0;
        CHECK(bz_timers_next(&timers, &deadline) == (expected >= 0));
        CHECK(expected < 0 || deadline == all[expected].deadline);
    }
    CHECK((refused > 0) == faults);
    for (int expected = earliest(all, count); expected >= 0; expected = earliest(all, count)) {
        next_due(&timers, INFINITY, (uint64_t)expected);
        all[expected].pending = false;
    }
    none_due(&timers, INFINITY);
    free(all);
    bz_timers_free(&timers);
}

static void random_operations_agree_with_a_model(void) {
    for (uint64_t seed = 1; seed <= 5; seed++) {
        compare_with_model(seed, false);
    }
}

static void random_operations_with_failing_allocations_agree_with_a_model(void) {
    for (uint64_t seed = 1; seed <= 5; seed++) {
        compare_with_model(seed, true);
    }
}

static void each_allocation_may_fail_in_turn(void) {
    for (long n = 1;; n++) {
        bz_timers timers;
        bz_timers_init(&timers);
        (void)bz_alloc_fail_after(n);
        int refused = 0;
        for (uint64_t i = 0; i < 1000; i++) {
            bz_timer timer = 0;
            while (bz_timers_add(&timers, (double)(1000 - i), i, &timer) != BZ_OK) {
                refused++;
                CHECK(timer == 0 && bz_timers_len(&timers) == i);
                CHECK(refused == 1); /* the hook fails once */
            }
        }
        for (uint64_t i = 1000; i > 0; i--) {
            next_due(&timers, 1000.0, i - 1);
        }
        bz_timers_free(&timers);
        if (bz_alloc_fail_after(-1) > 0) {
            CHECK(n == 2 * 9 + 4 + 1); /* heap and slots from 4 to 1024, heap back to 64: each was made to fail */
            return;
        }
        CHECK(refused == (n <= 2 * 9)); /* giving memory back fails silently */
    }
}

int main(void) {
    RUN(an_empty_heap_has_no_memory_and_nothing_due);
    RUN(timers_fire_at_their_deadline_and_not_before);
    RUN(a_nan_deadline_is_refused);
    RUN(equal_deadlines_fire_in_the_order_of_adding);
    RUN(the_order_survives_a_wrap_of_its_counter);
    RUN(a_handle_is_stale_after_firing_and_after_cancelling);
    RUN(a_made_up_handle_does_no_harm);
    RUN(a_slot_whose_generations_are_used_up_is_retired);
    RUN(slots_run_out_with_an_error);
    RUN(a_drained_heap_has_given_its_peak_back);
    RUN(random_operations_agree_with_a_model);
    RUN(random_operations_with_failing_allocations_agree_with_a_model);
    RUN(each_allocation_may_fail_in_turn);
    return check_report();
}
