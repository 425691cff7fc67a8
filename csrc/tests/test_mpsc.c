#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bz_alloc.h"
#include "bz_mpsc.h"
#include "check.h"

/* A lost wake-up shows as a consumer that sleeps for ever. */
enum { SECONDS_BEFORE_A_HANG_IS_CERTAIN = 300 };

static void report_hang(int signal_number) {
    (void)signal_number;
    static const char message[] = "\nhangs: ";
    if (write(STDERR_FILENO, message, sizeof(message) - 1) > 0) {
        (void)!write(STDERR_FILENO, check_running, strlen(check_running));
    }
    _exit(1);
}

static bz_record record_of(uint64_t seq) {
    return (bz_record){.seq = seq, .slot = (uint32_t)seq ^ 0xA5A5A5A5, .route = (uint32_t)(seq >> 32)};
}

static bool is_whole(const bz_record *record) {
    bz_record expected = record_of(record->seq);
    return record->slot == expected.slot && record->route == expected.route;
}

static int push(bz_mpsc *ring, uint64_t seq) {
    bool wake = false;
    return bz_mpsc_push(ring, record_of(seq), &wake);
}

static bool push_wakes(bz_mpsc *ring, uint64_t seq) {
    bool wake = false;
    CHECK(bz_mpsc_push(ring, record_of(seq), &wake) == BZ_OK);
    return wake;
}

static void pop(bz_mpsc *ring, uint64_t seq) {
    bz_record out = {0};
    CHECK(bz_mpsc_pop(ring, &out) == 1);
    CHECK(out.seq == seq && is_whole(&out));
}

/* As if the ring had carried `count` records already. */
static void start_at(bz_mpsc *ring, uint64_t count) {
    atomic_store(&ring->tail, count * 2);
    ring->head = count * 2;
    for (uint64_t i = 0; i <= ring->mask; i++) {
        uint64_t nth = count + i;
        atomic_store(&ring->cells[nth & ring->mask].turn, nth * 2);
    }
}

/* ---- one thread ---- */

static void capacities_that_are_no_power_of_two_are_refused(void) {
    const uint32_t bad[] = {0, 3, 6, 1000, UINT32_MAX};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        bz_mpsc ring;
        CHECK(bz_mpsc_init(&ring, bad[i]) == BZ_INVALID);
        bz_mpsc_free(&ring);
    }
}

static void init_without_memory_fails_and_can_be_repeated(void) {
    bz_mpsc ring;
    (void)bz_alloc_fail_after(1);
    CHECK(bz_mpsc_init(&ring, 8) == BZ_NOMEM);
    bz_mpsc_free(&ring);
    CHECK(bz_mpsc_init(&ring, 8) == BZ_OK);
    CHECK(push(&ring, 1) == BZ_OK);
    pop(&ring, 1);
    bz_mpsc_free(&ring);
    bz_mpsc_free(&ring);
}

static void only_init_allocates(void) {
    bz_mpsc ring;
    CHECK(bz_mpsc_init(&ring, 4) == BZ_OK);
    (void)bz_alloc_fail_after(1);
    for (uint64_t i = 0; i < 100; i++) {
        CHECK(push(&ring, i) == BZ_OK);
        bz_mpsc_arm(&ring);
        pop(&ring, i);
    }
    bz_mpsc_close(&ring);
    CHECK(bz_alloc_fail_after(-1) == 1);
    bz_mpsc_free(&ring);
}

static void a_full_ring_refuses_and_takes_again_after_a_pop(void) {
    for (uint32_t capacity = 1; capacity <= 64; capacity *= 2) {
        bz_mpsc ring;
        CHECK(bz_mpsc_init(&ring, capacity) == BZ_OK);
        uint64_t next_in = 0, next_out = 0;
        for (int round = 0; round < 5; round++) {
            while (next_in - next_out < capacity) {
                CHECK(push(&ring, next_in++) == BZ_OK);
            }
            bz_mpsc_arm(&ring);
            bool wake = true;
            CHECK(bz_mpsc_push(&ring, record_of(999), &wake) == BZ_FULL);
            CHECK(!wake);
            pop(&ring, next_out++);
            CHECK(push_wakes(&ring, next_in++)); /* the refused push has not used up the request */
            while (next_out < next_in) {
                pop(&ring, next_out++);
            }
            bz_record out = record_of(7);
            CHECK(bz_mpsc_pop(&ring, &out) == 0 && out.seq == 7);
        }
        bz_mpsc_free(&ring);
    }
}

static void one_post_after_each_arming_asks_for_the_wake_up(void) {
    bz_mpsc ring;
    CHECK(bz_mpsc_init(&ring, 16) == BZ_OK);
    CHECK(push_wakes(&ring, 1));
    CHECK(!push_wakes(&ring, 2));
    pop(&ring, 1);
    pop(&ring, 2);
    CHECK(!push_wakes(&ring, 3)); /* empty, but the consumer is still up: it has not armed */
    bz_mpsc_arm(&ring);
    CHECK(push_wakes(&ring, 4));
    CHECK(!push_wakes(&ring, 5));
    bz_mpsc_arm(&ring);
    bz_mpsc_arm(&ring);
    CHECK(push_wakes(&ring, 6));
    CHECK(!push_wakes(&ring, 7));
    bz_mpsc_free(&ring);
}

static void a_closed_ring_refuses_posts_and_gives_out_what_it_holds(void) {
    bz_mpsc ring;
    CHECK(bz_mpsc_init(&ring, 2) == BZ_OK);
    CHECK(bz_mpsc_drained(&ring));
    CHECK(push(&ring, 1) == BZ_OK && push(&ring, 2) == BZ_OK);
    bz_mpsc_close(&ring);
    bz_mpsc_close(&ring);
    bz_mpsc_arm(&ring);
    bool wake = true;
    CHECK(bz_mpsc_push(&ring, record_of(3), &wake) == BZ_CLOSED);
    CHECK(!wake);
    CHECK(!bz_mpsc_drained(&ring));
    pop(&ring, 1);
    CHECK(push(&ring, 3) == BZ_CLOSED);
    CHECK(!bz_mpsc_drained(&ring));
    pop(&ring, 2);
    CHECK(bz_mpsc_drained(&ring));
    bz_record out = {0};
    CHECK(bz_mpsc_pop(&ring, &out) == 0);
    bz_mpsc_free(&ring);
}

static void cursors_wrap(void) {
    /* Cursors count in twos: one wraps after 2^63 records, its lower half after 2^31. */
    const uint64_t wraps[] = {UINT64_C(1) << 31, UINT64_C(1) << 32, UINT64_C(1) << 62, UINT64_C(1) << 63};
    for (size_t i = 0; i < sizeof(wraps) / sizeof(wraps[0]); i++) {
        for (uint32_t capacity = 1; capacity <= 8; capacity *= 2) {
            bz_mpsc ring;
            CHECK(bz_mpsc_init(&ring, capacity) == BZ_OK);
            start_at(&ring, wraps[i] - 21);
            for (uint64_t seq = 0; seq < 50; seq += capacity) {
                for (uint64_t k = 0; k < capacity; k++) {
                    CHECK(push(&ring, seq + k) == BZ_OK);
                }
                CHECK(push(&ring, 999) == BZ_FULL);
                CHECK(!bz_mpsc_drained(&ring));
                for (uint64_t k = 0; k < capacity; k++) {
                    pop(&ring, seq + k);
                }
                bz_record out = {0};
                CHECK(bz_mpsc_pop(&ring, &out) == 0);
                CHECK(bz_mpsc_drained(&ring));
            }
            bz_mpsc_close(&ring);
            CHECK(push(&ring, 1) == BZ_CLOSED);
            bz_mpsc_free(&ring);
        }
    }
}

/* ---- many threads ---- */

enum { PRODUCERS = 4, POSTS = 200000 };

typedef struct shared {
    bz_mpsc ring;
    int bell[2]; /* a pipe: one byte per wake-up; the consumer sleeps in read() */
} shared;

typedef struct producer {
    shared *common;
    uint64_t number;
    uint64_t posts;  /* how many to post; fewer when the ring is closed before */
    uint64_t posted; /* result */
    uint64_t wakes;  /* result */
    bool unexpected; /* result: a return value that cannot be */
    bool give_way;   /* lets the consumer fall asleep between posts now and then */
    pthread_t thread;
} producer;

static void *produce(void *argument) {
    producer *self = argument;
    uint64_t random = self->number * 977 + 1;
    while (self->posted < self->posts) {
        bool wake = false;
        int result = bz_mpsc_push(&self->common->ring, record_of(self->number << 40 | self->posted), &wake);
        if (result == BZ_OK) {
            self->posted++;
        } else if (result == BZ_FULL && !wake) {
            (void)sched_yield();
            continue;
        } else {
            self->unexpected = result != BZ_CLOSED || wake;
            break;
        }
        if (wake) {
            self->wakes++;
            if (write(self->common->bell[1], "!", 1) != 1) {
                self->unexpected = true;
                break;
            }
        }
        if (self->give_way && check_random(&random) % 4 == 0) {
            (void)sched_yield();
        }
    }
    return NULL;
}

static shared *start(uint32_t capacity, uint64_t count_before, producer *producers, uint64_t posts, bool give_way) {
    shared *common = malloc(sizeof(*common));
    CHECK(common != NULL);
    CHECK(bz_mpsc_init(&common->ring, capacity) == BZ_OK);
    start_at(&common->ring, count_before);
    CHECK(pipe(common->bell) == 0);
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i] = (producer){.common = common, .number = (uint64_t)i + 1, .posts = posts, .give_way = give_way};
        CHECK(pthread_create(&producers[i].thread, NULL, produce, &producers[i]) == 0);
    }
    return common;
}

static void join(producer *producers) {
    for (int i = 0; i < PRODUCERS; i++) {
        CHECK(pthread_join(producers[i].thread, NULL) == 0);
        CHECK(!producers[i].unexpected);
    }
}

static void clean_up(shared *common) {
    CHECK(close(common->bell[0]) == 0 && close(common->bell[1]) == 0);
    bz_mpsc_free(&common->ring);
    free(common);
}

static void sleep_until_woken(shared *common) {
    char byte;
    CHECK(read(common->bell[0], &byte, 1) == 1);
}

/* Takes a popped record off what its producer has to come up with next. */
static void account(const bz_record *record, uint64_t *next_of_producer) {
    uint64_t number = record->seq >> 40;
    CHECK(is_whole(record));
    CHECK(number >= 1 && number <= PRODUCERS);
    CHECK((record->seq & ((UINT64_C(1) << 40) - 1)) == next_of_producer[number - 1]);
    next_of_producer[number - 1]++;
}

static void post_everything(uint32_t capacity, uint64_t count_before, uint64_t posts, bool give_way) {
    static producer producers[PRODUCERS];
    shared *common = start(capacity, count_before, producers, posts, give_way);
    uint64_t next_of_producer[PRODUCERS] = {0};
    uint64_t popped = 0, armings = 1; /* init armed */
    while (popped < PRODUCERS * posts) {
        sleep_until_woken(common);
        bz_mpsc_arm(&common->ring);
        armings++;
        bz_record out = {0};
        while (bz_mpsc_pop(&common->ring, &out)) {
            account(&out, next_of_producer);
            popped++;
        }
    }
    bz_record out = {0};
    CHECK(bz_mpsc_pop(&common->ring, &out) == 0);
    CHECK(bz_mpsc_drained(&common->ring));
    join(producers);
    uint64_t wakes = 0;
    for (int i = 0; i < PRODUCERS; i++) {
        CHECK(next_of_producer[i] == posts);
        wakes += producers[i].wakes;
    }
    CHECK(wakes >= 1 && wakes <= armings);
    clean_up(common);
}

static void a_sleeping_consumer_gets_all_records_of_four_producers_in_order(void) {
    post_everything(1024, 0, POSTS, false);
}

static void a_consumer_that_often_falls_asleep_is_always_woken(void) { post_everything(1024, 0, POSTS, true); }

static void tiny_rings_lose_nothing(void) {
    post_everything(1, 0, POSTS / 20, false);
    post_everything(2, 0, POSTS / 20, true);
}

static void cursors_wrap_under_four_producers(void) {
    post_everything(64, (UINT64_C(1) << 63) - POSTS / 10, POSTS / 10, true);
}

static void what_was_accepted_before_a_close_comes_out(void) {
    for (uint64_t round = 0; round < 200; round++) {
        static producer producers[PRODUCERS];
        shared *common = start(64, 0, producers, UINT64_MAX, round % 2 == 0);
        uint64_t next_of_producer[PRODUCERS] = {0};
        bz_record out = {0};
        for (uint64_t popped = 0; popped <= round * 5; popped++) {
            while (!bz_mpsc_pop(&common->ring, &out)) {
                (void)sched_yield();
            }
            account(&out, next_of_producer);
        }
        bz_mpsc_close(&common->ring);
        while (!bz_mpsc_drained(&common->ring)) {
            if (bz_mpsc_pop(&common->ring, &out)) {
                account(&out, next_of_producer);
            } else {
                (void)sched_yield();
            }
        }
        join(producers);
        for (int i = 0; i < PRODUCERS; i++) {
            CHECK(producers[i].posted == next_of_producer[i]);
        }
        clean_up(common);
    }
}

int main(void) {
    (void)signal(SIGALRM, report_hang);
    (void)alarm(SECONDS_BEFORE_A_HANG_IS_CERTAIN);
    RUN(capacities_that_are_no_power_of_two_are_refused);
    RUN(init_without_memory_fails_and_can_be_repeated);
    RUN(only_init_allocates);
    RUN(a_full_ring_refuses_and_takes_again_after_a_pop);
    RUN(one_post_after_each_arming_asks_for_the_wake_up);
    RUN(a_closed_ring_refuses_posts_and_gives_out_what_it_holds);
    RUN(cursors_wrap);
    RUN(a_sleeping_consumer_gets_all_records_of_four_producers_in_order);
    RUN(a_consumer_that_often_falls_asleep_is_always_woken);
    RUN(tiny_rings_lose_nothing);
    RUN(cursors_wrap_under_four_producers);
    RUN(what_was_accepted_before_a_close_comes_out);
    return check_report();
}
