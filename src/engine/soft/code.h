/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From an address to the block there, and to its translation: found, or made. On the vCPU's own
 * thread.
 */
#ifndef ENGINE_SOFT_CODE_H
#define ENGINE_SOFT_CODE_H

#include <stdint.h>

struct block;
struct soft_engine;
struct soft_vcpu;

/* The block at v->rip, or NULL with v->exc set. May be a one-time block (v->run->scratch). */
struct block *code_lookup(struct soft_vcpu *v);
/* The translation of the block at v->rip, if it may be run at once, without leaving translated
 * code; v->jit_page is set then. NULL otherwise. */
const uint8_t *code_go_on(struct soft_vcpu *v);
void code_translate(struct soft_vcpu *v, struct block *b);
void code_link(struct soft_vcpu *v);
/* Translates v->jit_again once more, without what it does not gain by. */
void code_translate_again(struct soft_vcpu *v);

/* CODE_NAMED with a number that stands for this base and limit of CS; 0 when there are too many, or
 * both are 0. */
uint32_t code_cs_name(struct soft_engine *e, uint32_t base, uint32_t limit);

#endif
