/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sums over numbers that come from outside (guests, images, streams, command lines).
 *
 * Each answers false on overflow and then leaves *out alone.
 */
#ifndef BASE_CHECKED_H
#define BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

static inline bool mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

/* Is [start, start + len) inside [0, size)? An empty range at `size` is. */
static inline bool range_fits(uint64_t start, uint64_t len, uint64_t size)
{
    return start <= size && len <= size - start;
}

static inline bool ranges_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
    return a_len && b_len && (a > b ? a - b < b_len : b - a < a_len);
}

static inline bool is_power_of_two(uint64_t n) { return n && !(n & (n - 1)); }
static inline uint64_t round_down(uint64_t n, uint64_t to) { return n & ~(to - 1); }
static inline uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) & ~(to - 1);
} /* n + to must fit */

#define ARRAY_LEN(a) (sizeof(a) / sizeof(*(a)))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#endif
