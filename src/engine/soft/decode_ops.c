/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Handlers for tests of the decoder alone: every op that a row names is one and the same.
 *
 * Rows repeat names, which a C definition may not; the assembler can ask.
 */
#include "engine/soft/insn.h"

extern const struct op decode_ops_any;
static int nothing(struct soft_vcpu *v, const struct insn *i) { return OP_NEXT; }
const struct op decode_ops_any = OP_ALL(nothing);

#define ROW(map, opcode, pfx, mod, ext, rm, name, args, size, attr, feature, reads, writes, \
            undefined, handler)                                                             \
    __asm__(".ifndef " #handler "\n.weak " #handler "\n.set " #handler                      \
            ", decode_ops_any\n.endif\n");
#include "engine/soft/insn_all.def"
