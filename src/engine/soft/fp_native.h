/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs an instruction on the host's CPU with chosen registers: the other side of fp_test.c.
 */
#ifndef ENGINE_SOFT_FP_NATIVE_H
#define ENGINE_SOFT_FP_NATIVE_H

#include <stdint.h>

struct fx { /* FXSAVE, 64-bit form */
    uint16_t fcw, fsw;
    uint8_t ftw, zero;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16];
    uint8_t xmm[16][16];
    uint8_t rest[96];
};
struct native {
    uint64_t gpr[16]; /* but for RSP and R15 */
    uint64_t flags;
    const void *code; /* the instruction and a RET */
    uint64_t rsp;
    uint64_t trapped; /* enum; the registers are those at the fault */
    struct fx fx;
    uint64_t avx; /* the upper halves of `ymm` are loaded and stored, too */
    uint8_t ymm[16][32] __attribute__((aligned(32))); /* in: only the upper halves count */
};
enum { TRAPPED_NOT, TRAPPED_FLOATING, TRAPPED_MEMORY /* SIGFPE, SIGSEGV */ };

void native_init(void); /* takes SIGFPE and SIGSEGV */
void native_run(struct native *n);

#endif
