/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where guest registers are while translated code runs (jit.h has the whole picture). */
#ifndef ENGINE_SOFT_JIT_REGS_H
#define ENGINE_SOFT_JIT_REGS_H

#include "engine/soft/cpu.h"
#include "engine/soft/emit.h"

static const uint8_t host_of[16] = { H_13, H_CX, H_DX, H_BX, H_12,   H_BP,   H_SI,   H_DI,
                                     H_8,  H_9,  H_10, H_11, H_NONE, H_NONE, H_NONE, H_NONE };
#define GPR_AT(n) (offsetof(struct soft_vcpu, gpr) + (n)*8u)

#endif
