/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Segments: descriptors, loading segment registers, far transfers. SDM vol. 3A, chapter 5. */
#ifndef ENGINE_SOFT_SEG_H
#define ENGINE_SOFT_SEG_H

#include "engine/soft/cpu.h"

/* The 8 bytes of the descriptor that `selector` names; fails with `vector`(selector). */
int descriptor_read(struct soft_vcpu *v, uint16_t selector, uint8_t vector, uint64_t *out);
/* The upper 8 bytes of a 16-byte system descriptor (long mode). */
int descriptor_read_high(struct soft_vcpu *v, uint16_t selector, uint8_t vector, uint64_t *out);
void segment_unpack(struct x86_segment *s, uint16_t selector, uint64_t descriptor);
/* MOV to a segment register, POP, LDS and so on: any but CS. */
int segment_load(struct soft_vcpu *v, unsigned seg, uint16_t selector);
/* The same for a return to an outer level and for interrupt stacks, where the new CPL is given. */
int stack_segment_check(struct soft_vcpu *v, uint16_t selector, uint8_t cpl, uint8_t vector,
                        struct x86_segment *out);
/* A code segment as the target of a jump, call or return. `cpl`: the level to run at. Does not
 * install it. */
enum transfer { TRANSFER_JUMP, TRANSFER_RETURN, TRANSFER_GATE };
int code_segment_check(struct soft_vcpu *v, uint16_t selector, enum transfer how, uint32_t ext,
                       struct x86_segment *out, uint8_t *cpl);
void code_segment_install(struct soft_vcpu *v, const struct x86_segment *cs, uint8_t cpl);
/* Is `rip` inside the segment that is about to be run? #GP(0) otherwise. */
int target_check(struct soft_vcpu *v, const struct x86_segment *cs, uint64_t rip);
/* Data segments that the outer level may not use become null. */
void segments_drop_inner(struct soft_vcpu *v);

/* ---- gate.c ---- */

/* A stack that is not the vCPU's yet. Pushes run at v->cpl. */
struct frame {
    uint64_t base, sp, mask;
    unsigned size;
    uint32_t limit, error;
    bool checked;
};
void frame_begin(const struct soft_vcpu *v, struct frame *f, const struct x86_segment *ss,
                 uint64_t sp, unsigned size);
int frame_push(struct soft_vcpu *v, struct frame *f, uint64_t value);
/* The stack that the TSS has for a level, with the checks of a stack switch. */
int stack_from_tss(struct soft_vcpu *v, unsigned cpl, uint16_t *ss, uint64_t *sp);
int inner_stack(struct soft_vcpu *v, uint8_t cpl, struct x86_segment *ss, uint64_t *sp);
/* Far CALL or JMP to a call gate, whose descriptor is `d`. */
int gate_far(struct soft_vcpu *v, const struct insn *i, uint16_t selector, uint64_t d, bool call);

/* The mode, or all segments, are others: what accesses and blocks have to know of them. */
void segments_changed(struct soft_vcpu *v);

/* ---- task.c ---- */

enum { TASK_JUMP, TASK_CALL /* and interrupts: the old task is linked to */, TASK_RETURN };
struct task_cause {
    unsigned how;
    uint64_t rip;   /* to save: where the old task goes on */
    uint32_t flags; /* to save */
    uint32_t ext, error;
    bool has_error; /* pushed onto the new task's stack */
};
/* 0 or OP_FAULT. *inside: the new task is installed, v->rip is its own. */
int task_switch(struct soft_vcpu *v, uint16_t selector, const struct task_cause *cause,
                bool *inside);
/* Delivers v->exc, raised inside the new task; what a handler answers then. */
int task_fault(struct soft_vcpu *v);
/* Far CALL or JMP to a task state or task gate, whose descriptor is `d`. */
int task_far(struct soft_vcpu *v, const struct insn *i, uint16_t selector, uint64_t d, bool call);
int task_return(struct soft_vcpu *v, const struct insn *i); /* IRET with NT */

#endif
