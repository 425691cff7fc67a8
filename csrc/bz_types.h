#ifndef BZ_TYPES_H
#define BZ_TYPES_H

#include <stdint.h>

/**
 * What the other headers share: result codes and the record that the rings carry.
 *
 * Records hold numbers only. Whatever a `slot` stands for lives outside, where its owner can see it; for Python objects
 * that is a list, so that the cycle collector reaches them.
 */

/** Results of functions that can fail. Zero is success, every error is negative, and an error changes nothing. */
enum {
    BZ_OK = 0,
    BZ_NOMEM = -1,   /* memory ran out, or the size asked for cannot be expressed */
    BZ_FULL = -2,    /* a bounded ring holds as much as it may */
    BZ_CLOSED = -3,  /* the ring was closed */
    BZ_INVALID = -4, /* an argument is outside what the function takes */
};

/** One entry of a ring. The rings copy it and never look inside. */
typedef struct bz_record {
    uint64_t seq;   /* the engine's event number */
    uint32_t slot;  /* index of the event */
    uint32_t route; /* index of the step, or whatever else the owner of the ring needs */
} bz_record;

#endif
