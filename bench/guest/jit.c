/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Code that writes code. */
#define _GNU_SOURCE
#include "bench.h"
#include <string.h>
#include <sys/mman.h>

#define AREA (256u << 10)
static uint8_t *code;

static int jit_setup(void)
{
    code = mmap(NULL, AREA, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED)
        return SETUP_FAIL;
    memset(code, 0xcc, AREA);
    return SETUP_OK;
}

static uint32_t call(uint8_t *p, uint32_t a)
{
    CLOBBER();
    return ((uint32_t(*)(uint32_t))(void *)p)(a);
}

/* smc_patch: rewrite one immediate in place, call at once, every time */
static void patch_run(uint64_t n)
{
    static const uint8_t fn[] = { 0xb8, 0, 0, 0, 0, 0x01, 0xf8, 0xc3 };
    memcpy(code, fn, sizeof fn); /* mov eax, imm; add eax, edi; ret */
    for (uint64_t r = 0; r < n; r++)
        for (uint32_t i = 0; i < 100; i++) {
            uint32_t imm = (uint32_t)r * 100 + i;
            memcpy(code + 1, &imm, 4);
            if (call(code, 5) != imm + 5)
                bench_fail("stale code at %u", imm);
        }
}

/* Emit a function of 60 ALU instructions; returns its length. */
static size_t emit(uint8_t *p, uint32_t seed, uint32_t *want)
{
    uint8_t *o = p;
    uint32_t v = 5;
    *o++ = 0x89;
    *o++ = 0xf8; /* mov eax, edi */
    for (int i = 0; i < 60; i++) {
        uint32_t imm = seed * 2654435761u + (uint32_t)i * 40503u;
        switch (i % 3) {
        case 0:
            *o++ = 0x05;
            v += imm;
            break; /* add eax, imm */
        case 1:
            *o++ = 0x35;
            v ^= imm;
            break; /* xor eax, imm */
        default:
            *o++ = 0x2d;
            v -= imm;
            break; /* sub eax, imm */
        }
        memcpy(o, &imm, 4);
        o += 4;
    }
    *o++ = 0xc3;
    *want = v;
    return (size_t)(o - p);
}

/* jit_fresh: emit functions one after another through 256 KiB, call each 10
 * times, then start over: what a young JIT inside the guest does */
static void fresh_run(uint64_t n)
{
    static uint32_t at, seed;
    for (uint64_t r = 0; r < n; r++)
        for (int i = 0; i < 10; i++) {
            uint32_t want;
            if (at + 512 > AREA)
                at = 0;
            size_t len = emit(code + at, ++seed, &want);
            for (int k = 0; k < 10; k++)
                if (call(code + at, 5) != want)
                    bench_fail("function %u", seed);
            at += (uint32_t)(len + 15) & ~15u;
        }
}

/* smc_data: data words on the same page as running code are written */
static void data_run(uint64_t n)
{
    static const uint8_t fn[] = { 0x8d, 0x47, 0x07, 0xc3 }; /* lea eax, [rdi+7]; ret */
    volatile uint32_t *word = (uint32_t *)(code + 2048);
    memcpy(code, fn, sizeof fn);
    *word = 0;
    for (uint64_t r = 0; r < n; r++)
        for (uint32_t i = 0; i < 100; i++) {
            *word = *word + 1;
            if (call(code, i) != i + 7)
                bench_fail("call");
        }
}

const struct bench jit_benches[] = {
    { "smc_patch", "ops/s", 100, jit_setup, patch_run, NULL },
    { "jit_fresh", "funcs/s", 10, jit_setup, fresh_run, NULL },
    { "smc_data", "ops/s", 100, jit_setup, data_run, NULL },
    { 0 },
};
