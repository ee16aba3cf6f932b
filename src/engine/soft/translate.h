/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the translator share: the state of one translation, and its building blocks. */
#ifndef ENGINE_SOFT_TRANSLATE_H
#define ENGINE_SOFT_TRANSLATE_H

#include "engine/soft/code.h"
#include "engine/soft/emit.h"
#include "engine/soft/jit.h"
#include "engine/soft/jit_regs.h"

enum flags_where { IN_CC, IN_HOST, IN_BOTH }; /* where the status flags are: invariant 2 of jit.h */

enum { MAX_SLOW = BLOCK_MAX * 4 };
struct slow { /* a check that failed: run the handler, come back behind the instruction */
    uint8_t *site;
    const struct insn *insn;
    uint8_t *back;          /* NULL: a branch, whose handler never comes back */
    enum flags_where flags; /* what the code behind expects */
    bool mx, mx_back;       /* MXCSR is in the host: at the check, behind the instruction */
};

struct tr {
    struct emit e;
    struct jit *jit;
    struct block *block;
    enum flags_where flags;
    bool mx;    /* the guest's MXCSR is in the host's register */
    bool ended; /* an exit was written: nothing follows */
    unsigned n;
    unsigned slow_count;
    struct slow slow[MAX_SLOW];
};

/* Writes the host form of one instruction; false (whatever was written is dropped): call the
 * handler. */
typedef bool tr_fn(struct tr *t, const struct insn *i, unsigned param);

/* ---- translate.c ---- */

/* Writes the host's flags to v->cc; they stay valid in the host, too. Uses rax. */
void flags_save(struct tr *t);
/* The same, before something that spoils the host's flags. */
void flags_spill(struct tr *t);
/* The host register with guest register n: its own, or `scratch` loaded from the vCPU. */
unsigned reg_get(struct tr *t, unsigned n, unsigned scratch);
/* The register to write guest register n to, when its old value does not matter; then reg_put. */
unsigned reg_new(unsigned n, unsigned scratch);
void reg_put(struct tr *t, unsigned n, unsigned h);
static inline bool is_mem(const struct insn *i) { return i->flags & IF_MEM; }
/* Can this address be computed inline? */
bool plain_address(const struct insn *i);
/* rax = checked host address of the memory operand. Spills the flags, uses r14. */
void address(struct tr *t, const struct insn *i, unsigned size, bool write);
/* Jumps to the instruction's slow path on a condition. */
void slow_if(struct tr *t, unsigned cc, const struct insn *i);
/* Floating point follows: the guest's MXCSR goes into the host's register. */
void mx_fetch(struct tr *t);

/* ---- translate_sse.c ---- */

enum sse_form { SSE_NONE, SSE_VW, SSE_WV, SSE_VE, SSE_EV, SSE_GW, SSE_UI };
enum sse_form sse_form_of(const struct insn_row *row);
tr_fn tr_sse;

#endif
