/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Memory workloads: latency, copy and fill. Built without auto-vectorising. */
#include "bench.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static void *pages(size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, n, MADV_NOHUGEPAGE);
    memset(p, 1, n);
    return p;
}

/* --- ptrchase: one random cycle through 16 MiB of cache lines ------------- */

#define LINES (16u << 20 >> 6)
static struct line {
    struct line *next;
    char pad[56];
} * lines;

static int chase_setup(void)
{
    uint32_t *perm = malloc(LINES * sizeof *perm);
    uint64_t s = 0x9e3779b97f4a7c15ull;
    lines = pages(LINES * sizeof *lines);
    if (!lines || !perm)
        return SETUP_FAIL;
    for (uint32_t i = 0; i < LINES; i++)
        perm[i] = i;
    for (uint32_t i = LINES - 1; i > 0; i--) { /* Sattolo: a single cycle */
        uint32_t j = (uint32_t)(rng_next(&s) % i), t = perm[i];
        perm[i] = perm[j];
        perm[j] = t;
    }
    for (uint32_t i = 0; i < LINES; i++)
        lines[i].next = &lines[perm[i]];
    free(perm);
    return SETUP_OK;
}

static void chase_run(uint64_t n)
{
    static struct line *at;
    struct line *p = at ? at : lines;
    for (uint64_t i = 0; i < n; i++)
        for (int k = 0; k < 1000 / 8; k++) {
            p = p->next;
            p = p->next;
            p = p->next;
            p = p->next;
            p = p->next;
            p = p->next;
            p = p->next;
            p = p->next;
            KEEP(p);
        }
    at = p;
}

/* --- copy and fill, 1 MiB buffers ------------------------------------------ */

#define BUF (1u << 20)
static uint8_t *src, *dst;

static int copy_setup(void)
{
    src = pages(BUF);
    dst = pages(BUF);
    if (!src || !dst)
        return SETUP_FAIL;
    for (uint32_t i = 0; i < BUF; i++)
        src[i] = (uint8_t)(i * 13 + (i >> 9));
    return SETUP_OK;
}

static void copy_check(void)
{
    if (memcmp(src, dst, BUF))
        bench_fail("copy differs");
    memset(dst, 0, BUF);
}

static void fill_check(uint8_t v)
{
    if (dst[0] != v || dst[BUF - 1] != v || memcmp(dst, dst + 1, BUF - 1))
        bench_fail("fill differs");
}

static void rep_copy(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        void *d = dst, *s = src;
        size_t c = BUF;
        __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(c)::"memory");
    }
}

static void rep_fill(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        void *d = dst;
        size_t c = BUF;
        __asm__ volatile("rep stosb" : "+D"(d), "+c"(c) : "a"((int)(i & 0xff)) : "memory");
    }
    fill_check((uint8_t)(n - 1));
}

static void loop_copy(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t *d = (uint64_t *)dst;
        const uint64_t *s = (const uint64_t *)src;
        for (size_t k = 0; k < BUF / 8; k += 4) {
            uint64_t a = s[k], b = s[k + 1], c = s[k + 2], e = s[k + 3];
            d[k] = a;
            d[k + 1] = b;
            d[k + 2] = c;
            d[k + 3] = e;
        }
        CLOBBER();
    }
}

static void loop_fill(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t v = (i & 0xff) * 0x0101010101010101ull, *d = (uint64_t *)dst;
        for (size_t k = 0; k < BUF / 8; k += 4)
            d[k] = d[k + 1] = d[k + 2] = d[k + 3] = v;
        CLOBBER();
    }
    fill_check((uint8_t)(n - 1));
}

static void byte_copy(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        for (size_t k = 0; k < BUF; k++)
            dst[k] = src[k];
        CLOBBER();
    }
}

static void libc_copy(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        memcpy(dst, src, BUF);
        CLOBBER();
    }
}

const struct bench mem_benches[] = {
    { "ptrchase16m", "Mloads/s", 1e-3, chase_setup, chase_run, NULL },
    { "memcpy_rep", "MB/s", BUF / 1e6, copy_setup, rep_copy, copy_check },
    { "memset_rep", "MB/s", BUF / 1e6, copy_setup, rep_fill, NULL },
    { "memcpy_u64", "MB/s", BUF / 1e6, copy_setup, loop_copy, copy_check },
    { "memset_u64", "MB/s", BUF / 1e6, copy_setup, loop_fill, NULL },
    { "memcpy_byte", "MB/s", BUF / 1e6, copy_setup, byte_copy, copy_check },
    { "memcpy_libc", "MB/s", BUF / 1e6, copy_setup, libc_copy, copy_check },
    { 0 },
};
