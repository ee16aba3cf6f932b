/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Guest benchmark kit: shared declarations. */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <stdint.h>

/* setup() return values */
enum { SETUP_OK = 0, SETUP_SKIP = 1, SETUP_FAIL = 2 };

struct bench {
    const char *name;
    const char *unit;        /* what one reported unit is */
    double per;              /* reported units done by run(1) */
    int (*setup)(void);      /* may be NULL */
    void (*run)(uint64_t n); /* do n rounds; call bench_fail() on a wrong result */
    void (*done)(void);      /* may be NULL */
};

extern const struct bench cpu_benches[], mem_benches[], fp_benches[], jit_benches[], sys_benches[],
    blk_benches[];

/* Report a wrong result: prints "BENCH <name> FAIL <why>" and exits. */
void bench_fail(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

double bench_now(void);      /* CLOCK_MONOTONIC, seconds */
const char *bench_dir(void); /* folder holding the running binary */
const char *bench_tmp(void); /* scratch folder (tmpfs) */

int init_main(void); /* when running as PID 1 */

extern volatile uint64_t bench_sink; /* keeps results alive */

#define KEEP(x) __asm__ volatile("" : "+r"(x))
#define CLOBBER() __asm__ volatile("" ::: "memory")

static inline uint64_t rng_next(uint64_t *s)
{
    uint64_t x = *s; /* xorshift64 */
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *s = x;
}

#endif
