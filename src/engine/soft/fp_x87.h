/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The shortcuts of fp_x87quick.c, for fp_x87.c.
 *
 * `op`, `ext` and `n`: low bits of the opcode byte, ModRM.reg and ModRM.rm. False: nothing was
 * done.
 */
#ifndef ENGINE_SOFT_FP_X87_H
#define ENGINE_SOFT_FP_X87_H

#include "engine/soft/fp.h"

bool x87_quick_registers(struct soft_vcpu *v, unsigned op, unsigned ext, unsigned n);
/* D9 E0..FF; n: the low five bits */
bool x87_quick_d9(struct soft_vcpu *v, unsigned n);
/* Loads and arithmetic with a memory operand that was fetched already */
bool x87_quick_load(struct soft_vcpu *v, unsigned op, unsigned ext, void *operand);
/* Two steps, because the store to guest memory in between may fault */
bool x87_quick_store(const struct soft_fpu *f, unsigned op, unsigned ext, void *operand,
                     uint16_t *sw);
void x87_quick_stored(struct soft_fpu *f, unsigned ext, uint16_t sw);

#endif
