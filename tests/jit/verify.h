/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads translated code and proves of each instruction that it may be there: the second opinion on
 * the translator, made from the bytes alone.
 *
 * What holds of the whole cache when this finds nothing:
 *  1. Every byte from the first block on is an instruction of the allow-list, or INT3 between
 * blocks.
 *  2. Memory is touched only at gs: within the vCPU (stores: only registers and what exits leave),
 * or by rax or r14 after the TLB check that precedes it in the same straight line, for no more
 * bytes than it checked and for stores only if it looked at the write tag.
 *  3. Jumps lead to the start of a block, an instruction of their own block, or an exit. The only
 * call is that of handlers. Nothing falls out of a block.
 *  4. Each block begins with the look at `request`, or is retired by a jump out.
 *  5. Jumps between blocks can be patched in one store.
 */
#ifndef TESTS_JIT_VERIFY_H
#define TESTS_JIT_VERIFY_H

#include "engine/soft/jit.h"

struct verdict {
    unsigned long blocks, insns, retired, joined;
    unsigned long faults;
    char first[300]; /* where and what the first fault is */
};

void verify_cache(const struct jit *j, struct verdict *out);

/* As jit_inspect: verifies; at the first fault prints it and exits with status 99. */
void verify_or_die(const struct jit *j);
/* All that verify_or_die has seen, in one line on stderr, when the program ends. */
void verify_print_total(void);

#endif
