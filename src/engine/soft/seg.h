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

#endif
