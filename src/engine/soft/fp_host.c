/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's x87 unit in the host's.
 *
 * Translated x87 instructions run on the guest's own stack, tags, control and status words: they
 * are moved to the host's unit whole, stay there from block to block, and are taken back before
 * anything else looks at them. C code in between does not use the x87 unit, so it does not mind.
 *
 * Only while all exceptions are masked (CODE_X87 in the key): none is ever pending in the host's
 * unit.
 */
#include "engine/soft/fp.h"

#include <assert.h>
#include <cpuid.h>

enum { XSTATE_X87 = 1, FCW_MASKS = 0x3f };

struct x87_area { /* XSAVE, standard format, with nothing but the x87 component */
    uint16_t fcw, fsw;
    uint8_t ftw, zero;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint64_t st[8][2]; /* by stack position */
    uint8_t rest[512 - 160];
    uint64_t xstate_bv, xcomp_bv, reserved[6];
} __attribute__((aligned(64)));
_Static_assert(sizeof(struct x87_area) == 576, "XSAVE area");

bool x87_host_able(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c >> 27 & 1; /* OSXSAVE */
}

void x87_enter_host(struct soft_vcpu *v)
{
    struct soft_fpu *f = &v->fpu;
    struct x87_area area;
    const unsigned top = f->fsw >> 11;
    if (f->x87_in_host)
        return;
    assert((f->fcw & FCW_MASKS) == FCW_MASKS);
    memset(&area.xstate_bv, 0, 64);
    area.xstate_bv = XSTATE_X87;
    area.fcw = f->fcw;
    area.fsw = f->fsw;
    area.ftw = f->ftw;
    area.zero = 0;
    area.fop = 0;
    area.fip = area.fdp = 0;
    area.mxcsr = MX_INIT;
    for (unsigned n = 0; n < 8; n++)
        memcpy(area.st[n], f->st[(top + n) & 7], 16);
    __asm__ volatile("xrstor64 %0" : : "m"(area), "a"(XSTATE_X87), "d"(0));
    f->x87_in_host = true;
}

void x87_leave_host_slow(struct soft_vcpu *v)
{
    struct soft_fpu *f = &v->fpu;
    struct x87_area area;
    memset(&area.xstate_bv, 0, 64);
    __asm__ volatile("xsave64 %0\n\tfninit" : "+m"(area) : "a"(XSTATE_X87), "d"(0));
    f->fsw = area.fsw;
    f->ftw = area.ftw;
    for (unsigned n = 0; n < 8; n++) {
        uint64_t *st = (uint64_t *)f->st[((f->fsw >> 11) + n) & 7];
        st[0] = area.st[n][0];
        st[1] = area.st[n][1] & 0xffff;
    }
    f->x87_in_host = false;
}
