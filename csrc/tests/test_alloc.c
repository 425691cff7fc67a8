#include <string.h>

#include "bz_alloc.h"
#include "check.h"

static void a_resized_block_keeps_its_bytes(void) {
    char *block = bz_realloc(NULL, 4);
    CHECK(block != NULL);
    memcpy(block, "abc", 4);
    block = bz_realloc(block, 4096);
    CHECK(block != NULL);
    CHECK(strcmp(block, "abc") == 0);
    bz_free(block);
}

static void size_zero_gives_a_block(void) {
    void *block = bz_realloc(NULL, 0);
    CHECK(block != NULL);
    block = bz_realloc(block, 0);
    CHECK(block != NULL);
    bz_free(block);
}

static void freeing_null_does_nothing(void) { bz_free(NULL); }

static void exactly_the_nth_allocation_fails(void) {
    for (long n = 1; n <= 5; n++) {
        (void)bz_alloc_fail_after(n);
        for (long i = 1; i <= 8; i++) {
            void *block = bz_realloc(NULL, 16);
            CHECK((block == NULL) == (i == n));
            bz_free(block);
        }
        CHECK(bz_alloc_fail_after(-1) == 0);
    }
}

static void a_failed_resize_leaves_the_block_to_its_owner(void) {
    char *block = bz_realloc(NULL, 4);
    CHECK(block != NULL);
    memcpy(block, "abc", 4);
    (void)bz_alloc_fail_after(1);
    CHECK(bz_realloc(block, 1 << 20) == NULL);
    CHECK(strcmp(block, "abc") == 0);
    bz_free(block);
}

static void the_hook_can_be_switched_off_and_tells_what_was_left(void) {
    (void)bz_alloc_fail_after(3);
    bz_free(bz_realloc(NULL, 1));
    CHECK(bz_alloc_fail_after(-1) == 2);
    for (int i = 0; i < 4; i++) {
        void *block = bz_realloc(NULL, 1);
        CHECK(block != NULL);
        bz_free(block);
    }
    CHECK(bz_alloc_fail_after(0) == 0);
}

int main(void) {
    RUN(a_resized_block_keeps_its_bytes);
    RUN(size_zero_gives_a_block);
    RUN(freeing_null_does_nothing);
    RUN(exactly_the_nth_allocation_fails);
    RUN(a_failed_resize_leaves_the_block_to_its_owner);
    RUN(the_hook_can_be_switched_off_and_tells_what_was_left);
    return check_report();
}
