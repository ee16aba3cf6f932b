/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The block translator: decoded blocks that run often become host code.
 *
 * Registers while translated code runs:
 *   guest RCX RDX RBX RBP RSI RDI R8-R11 in the host registers of the same name, RAX in r13, RSP in
 * r12; R12-R15 in the vCPU. rax and r14 are scratch, r15 is the window (translate.h), rsp is the
 * host's stack, gs: is the vCPU. rip is not computed while code runs: v->jit_page is the page the
 * running block begins in, all offsets in it are constants. In 16-bit
 * code, and where CS has a base, IP itself is one (translate_branch.c).
 *
 * Invariants
 *  1. Guest memory is touched only through an address that the TLB check just before has turned
 * into a host address; the check that fails runs the interpreter's handler for the whole
 * instruction, which has not begun yet.
 * User code may ask v->last instead, whose places are empty unless user_tlb has what they say, and
 * the code of CPL 3 is to see it (last_pages_clear in tlb.c).
 *  2. The status flags are in the host's flags or in v->cc; the translator knows where at each
 * instruction. Whatever may fault or leave finds them in v->cc.
 *  3. A block begins with a look at v->request, as does each turn of a loop in it, and is entered
 * only at its start. Its first 8 bytes
 * are aligned and can be replaced by a jump out in one store: that is how a retired block ends.
 *  4. A block jumps straight into another one only within one page, where one mapping holds for
 * both; all other ways lead through the jump cache, whose entries name the address space and mode.
 *  5. Code memory is reused only by jit_reset(), in a rendezvous where no vCPU is inside translated
 * code.
 *  6. The memory is mapped twice: written through one view, run through the other; no page is ever
 * both.
 *  7. The guest's vector registers and MXCSR may stay in the host's from block to block
 * (fpu.vec_in_host, fpu.mxcsr_in_host; the first only where the second is). Whatever leaves
 * translated code or calls C from it puts them back first. The x87 unit may stay even then.
 */
#ifndef ENGINE_SOFT_JIT_H
#define ENGINE_SOFT_JIT_H

#include "base/err.h"
#include "engine/soft/insn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct block;
struct soft_vcpu;

/* What code with CODE_BY_IP takes for granted. */
struct jit_cs {
    uint32_t base, limit;
};

struct jit {
    uint8_t *rw, *rx;         /* the two views */
    size_t size, used, first; /* bytes; first: where blocks begin, behind the entry and exit code */
    size_t room;              /* so much of size may be used; the cache's lock */
    bool full;
    /* optimisations, to be switched off one by one; fixed at create */
    bool link, sse, x87, windows, loops, pins, syscalls, last, stack;
    unsigned sites;                    /* given out so far */
    int (*enter)(const uint8_t *code); /* answers STEP_* (run.h) */
    /* Which block a translation is of: so code names it in a few bytes. The lock for writing. */
    struct block **names;
    uint32_t named; /* lock; how many there are */
    /* Written once, before all blocks. leave_at: rax is the offset in the page where to go on;
     * leave_to: r14 is the address; leave_answered: v->rip is. leave_link: eax and r14d are what
     * jit_link and jit_link_from (cpu.h) become. call_handler: al is the instruction's number, r14
     * its block; open_window: r15d the window's size, too (jit_open_window). flags_save,
     * flags_load: between the host's flags and v->cc. find: r14 is an address; carry clear: rax is
     * a quick entry (run.h) with it; find_on: goes there. syscall, sysret: what the instruction
     * does to the vCPU; r14 is the address behind SYSCALL, and where to go on then. code_store: for
     * stores of up to code_store_most bytes. last_find[LAST_*][write]: rax (r15) is an address less
     * the site's tag, r14d the site * 8 and 4096 - size (LAST_SIZE_SHIFT); carry clear: it is the
     * host's address. */
    const uint8_t *leave_at, *leave_to, *leave_answered, *leave_link, *call_handler, *flags_save,
        *flags_load, *x87_enter, *vec_enter[3], *mxcsr_enter, *find, *find_on, *find_nothing,
        *code_store[2], *last_find[3][2], *open_window, *ac[2], *read_tsc, *syscall, *sysret;
    uint64_t features; /* of the CPU model, 1 << FT_x; fixed when vCPUs are created */
    uint64_t blocks, bytes_in;
};

static const unsigned code_store_most[] = { 8, 32 };

/* Where an exit comes from and leads: its block's name, and an offset in the page. */
enum { NAME_PLACE_BITS = 12, JIT_NAMES = 1 << (32 - NAME_PLACE_BITS) };

int jit_create(struct jit *j, size_t size, struct err *err);
void jit_destroy(struct jit *j);
/* For tests: looks at the whole cache before its code is forgotten or freed. */
extern void (*jit_inspect)(const struct jit *j);
/* How much of the memory made at create may be used. Lock held, but before all blocks. */
void jit_room_set(struct jit *j, size_t room);
/* Forgets all code: invariant 5. */
void jit_reset(struct jit *j);

/* Translates; b->code is set on success. The code cache's lock is held. */
void jit_translate(struct jit *j, struct block *b, struct jit_cs cs);
/* Code lies up to `used` now. Lock held. */
void jit_filled(struct jit *j, size_t used);
/* Makes the block leave at its start from now on. Lock held. */
void jit_retire(struct jit *j, struct block *b);
/* The block was translated again: what still leads to its `old` code goes on to the new. Lock held.
 */
void jit_replace(struct jit *j, const uint8_t *old, const struct block *b);
/* Joins the exit whose displacement is at `slot`, an offset in the memory, to `to`. Lock held. */
void jit_link(struct jit *j, uint32_t slot, const struct block *to);
static inline struct block *jit_block(const struct jit *j, uint32_t name)
{
    return __atomic_load_n(&j->names[name], __ATOMIC_RELAXED);
}

struct emit;
/* What blocks and the code that all of them share both write. quick_entry: rax = where the quick
 * table would have the address in r14; jump_found: on, to the address in r14 by the entry in rax;
 * flags_save, flags_load: as those of struct jit, use rax. */
void emit_quick_entry(struct emit *e);
void emit_jump_found(struct emit *e);
void emit_flags_save(struct emit *e);
void emit_flags_load(struct emit *e);

/* Which operations are translated how; once, before the first jit_translate. */
void jit_table_init(void);
/* Sets gs: for this thread, before translated code runs on it; false: the host does not let us. */
bool jit_thread_begin(struct soft_vcpu *v);

/* From translated code: runs the interpreter's handler for one instruction. Answers where to go on
 * then, NULL: behind the instruction. */
const uint8_t *jit_handler(struct soft_vcpu *v, unsigned n, struct block *b);
/* From translated code: can v->jit_window_va be reached now? window: its size * 2, + 1 for stores
 */
bool jit_open_window(struct soft_vcpu *v, unsigned n, struct block *b, unsigned window);

/* b->scattered when this instruction is one of them, too. BLOCK_MAX: none */
uint64_t jit_scattered(const struct block *b, unsigned insn);

#endif
