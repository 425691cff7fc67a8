#ifndef BZ_CHECK_H
#define BZ_CHECK_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* The first failed CHECK ends its test. For the thread that runs the test only: other threads report through data. */

static jmp_buf check_end_of_test;
static int check_tests_passed;
static int check_tests_failed;
static const char *check_running; /* name of the test that runs */

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                                             \
            longjmp(check_end_of_test, 1);                                                                             \
        }                                                                                                              \
    } while (0)

#define RUN(test) check_run(#test, test)

static inline void check_run(const char *name, void (*test)(void)) {
    check_running = name;
    if (setjmp(check_end_of_test) == 0) {
        test();
        check_tests_passed++;
    } else {
        printf("FAILED %s\n", name);
        (void)fflush(stdout); /* a later test may hang or crash */
        check_tests_failed++;
    }
}

/* Prints the closing line; the result of main(). */
static inline int check_report(void) {
    printf("%d passed, %d failed\n", check_tests_passed, check_tests_failed);
    return check_tests_failed == 0 ? 0 : 1;
}

/* A repeatable stream of numbers (xorshift64*). */
static inline uint64_t check_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

#endif
