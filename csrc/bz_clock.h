#ifndef BZ_CLOCK_H
#define BZ_CLOCK_H

#include <stdint.h>
#include <time.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
#include <x86intrin.h>
#endif

/**
 * Time, and a cheap way to know that hardly any has passed.
 *
 * Reading the clock costs 25 to 50 ns, a sixth of a dispatched step. The processor's own counter costs a quarter of
 * that. Its rate is unknown, but no x86-64 processor counts slower than BZ_TICKS_PER_SECOND_AT_LEAST: so a small
 * difference of ticks proves a small difference of time, and only when the counter has moved on the clock is asked.
 */

enum { BZ_TICKS_PER_SECOND_AT_LEAST = 500000000 };

/**
 * Seconds on the monotonic clock, the one that Python's time.perf_counter() reads on Linux.
 *
 * Threads: any, at once. Wait-free.
 */
static inline double bz_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/**
 * Whether bz_ticks() works here: the processor promises that its counter runs on at one rate, also while it sleeps
 * (CPUID 0x80000007, EDX bit 8; Intel SDM volume 3, "Invariant TSC").
 *
 * Threads: any, at once.
 */
static inline int bz_ticks_work(void) {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    unsigned int eax, ebx, ecx, edx;
    return __get_cpuid(0x80000007, &eax, &ebx, &ecx, &edx) && (edx & (1u << 8)) != 0;
#else
    return 0;
#endif
}

/**
 * The processor's counter; meaningful only where bz_ticks_work(). Compare as unsigned: a counter that went back, as
 * between two badly aligned processors, then looks far ahead, and the clock is asked.
 *
 * Threads: any, at once. Wait-free.
 */
static inline uint64_t bz_ticks(void) {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    return __rdtsc();
#else
    return 0;
#endif
}

#endif
