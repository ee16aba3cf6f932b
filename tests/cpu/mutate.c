/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Seeds faults into handlers at run time: a row gets an op whose handlers do something else.
 */
#include "case.h"

#include "engine/soft/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const struct op *original;
static const struct insn_row *mutated;

static insn_fn *original_fn(const struct insn *i)
{
    unsigned n = (unsigned)__builtin_ctz(i->size);
    return i->flags & IF_MEM ? original->m[n] : original->r[n];
}

/* The instruction is not there. */
static int skipped(struct soft_vcpu *v, const struct insn *i)
{
    if (!(mutated->attr & AT_END))
        return OP_NEXT;
    v->rip = next_rip(v, i);
    return OP_JUMP;
}

/* One bit of a result is wrong. */
static int flipped(struct soft_vcpu *v, const struct insn *i)
{
    int r = original_fn(i)(v, i);
    if (r == OP_FAULT)
        v->exc.vector ^= 1;
    else if (mutated->attr & (AT_SSE | AT_AVX))
        v->fpu.vec[i->reg][0] ^= 1;
    else if (mutated->attr & (AT_X87 | AT_MMX))
        v->fpu.st[0][2] ^= 1;
    else if (mutated->writes & ~mutated->undefined & CF)
        v->cc ^= 0x100;
    else
        v->gpr[R_BX] ^= 1;
    return r;
}

static const struct op mutants[MUTATION_COUNT] = { OP_ALL(skipped), OP_ALL(flipped) };

/* The table is constant; this is the one place that writes it. */
static void op_set(const struct insn_row *row, const struct op *op)
{
    uintptr_t first = (uintptr_t)row & ~4095ul, last = (uintptr_t)(row + 1) - 1;
    size_t len = (last & ~4095ul) + 4096 - first;
    if (mprotect((void *)first, len, PROT_READ | PROT_WRITE) != 0) {
        perror("mprotect");
        exit(1);
    }
    memcpy((void *)(uintptr_t)&row->op, &op, sizeof op);
}

void mutate_begin(unsigned row, enum mutation mutation)
{
    mutated = &insn_rows[row];
    original = mutated->op;
    op_set(mutated, &mutants[mutation]);
}

void mutate_end(void) { op_set(mutated, original); }

bool mutation_shows(const struct insn_row *row, enum mutation mutation)
{
    static const char *const idle[] = { "nop",    "pause",   "prefetchw",  "lfence", "mfence",
                                        "sfence", "clflush", "clflushopt", "clwb",   "feni",
                                        "fdisi",  "fsetpm",  "fwait",      "fnop" };
    if (row->attr & AT_CPL0)
        return false; /* refused before the handler */
    for (unsigned n = 0; mutation == MUTATION_SKIP && n < sizeof idle / sizeof *idle; n++) {
        if (!strcmp(row->name, idle[n]))
            return false;
    }
    return true;
}
