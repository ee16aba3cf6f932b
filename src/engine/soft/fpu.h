/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * x87, MMX and SSE state of a vCPU, and what the rest of the engine needs of the floating-point
 * files.
 *
 * x87 registers are kept by physical number (R0..R7); ST(i) is st[(top + i) & 7]. The low 8 bytes
 * of st[n] are MMn.
 */
#ifndef ENGINE_SOFT_FPU_H
#define ENGINE_SOFT_FPU_H

#include "engine/x86.h"

#include <stdbool.h>
#include <stdint.h>

struct soft_vcpu;

struct soft_fpu {
    uint8_t vec[16][32] __attribute__((aligned(32))); /* XMM in the low half, YMM whole */
    uint8_t st[8][16] __attribute__((aligned(16)));   /* 10 bytes used, the rest zero */
    uint16_t fcw, fsw;                                /* TOP in fsw bits 11-13 */
    uint8_t ftw; /* abridged: bit n set: physical register n holds something */
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr;
    /* Translated code left st, fsw and ftw in the host's unit: x87_leave_host() before they are
     * read. fcw is always here, too. */
    bool x87_in_host;
    /* The same for vec, with its XMM halves or whole, and for mxcsr. Only inside translated code:
     * C never sees these set. */
    uint8_t vec_in_host; /* VEC_* */
    bool mxcsr_in_host;
};
enum { VEC_OUT, VEC_XMM, VEC_YMM };

void fpu_reset(struct soft_fpu *fpu);
/* To and from the architectural state (there ST(i) are by stack position). */
void fpu_get(const struct soft_fpu *fpu, struct x86_fpu *out);
void fpu_set(struct soft_fpu *fpu, const struct x86_fpu *in);

/* The guest's x87 unit in the host's (fp_host.c). Enter: all exceptions are masked in fcw. */
bool x87_host_able(void);
void x87_enter_host(struct soft_vcpu *v);
void x87_leave_host_slow(struct soft_vcpu *v);

/* What XSAVE can save here: bit 0 x87, bit 1 SSE, bit 2 AVX */
uint64_t xcr0_supported(const struct soft_vcpu *v);

/* 1 << FT_x for the floating-point features that the host's units have: a CPU model must not offer
 * others. */
uint64_t fp_host_features(void);

#endif
