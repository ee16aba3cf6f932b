/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A local APIC (SDM volume 3, chapter 11; AMD's manual, volume 2, chapter 16): registers,
 * priorities, timer.
 *
 * It knows nothing of the engine around it: what it wants done goes through `lapic_links`.
 * Everything belongs to the vCPU's own thread (the owner), except lapic_post and lapic_accepts,
 * which any thread may call: posted vectors wait in atomic bitmaps until the owner merges them into
 * IRR.
 *
 * The timer counts nanoseconds of the guest clock, divided as the guest asks. Callers pass the time
 * in, ask for the next deadline, and come back with lapic_timer_expire.
 */
#ifndef ENGINE_SOFT_LAPIC_H
#define ENGINE_SOFT_LAPIC_H

#include "engine/x86.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct lapic_links {
    void *arg;
    /* Owner: ICR was written. In x2APIC mode the destination is bits 32-63, else bits 56-63. */
    void (*send_ipi)(void *arg, uint64_t icr);
    void (*level_eoi)(void *arg, uint8_t vector); /* owner: EOI of a level-triggered vector */
    void (*wake)(void *arg);                      /* any thread: something was posted */
};

struct lapic {
    struct x86_lapic regs; /* owner; IRR without what is still in `posted` */
    struct lapic_links links;
    uint32_t apic_id;        /* fixed at setup */
    _Atomic uint32_t errors; /* seen since the guest last latched ESR */
    _Atomic uint32_t posted[8], posted_level[8];
    /* What other threads match destinations against; written by the owner. */
    _Atomic uint32_t shown_mode, shown_id, shown_ldr, shown_dfr;
};

/* Power-on state. Copies the links. */
void lapic_setup(struct lapic *l, uint32_t apic_id, const struct lapic_links *links);
/* INIT: registers as after power-on, but IA32_APIC_BASE and the mode stay. */
void lapic_init(struct lapic *l);
void lapic_get(struct lapic *l, struct x86_lapic *out);
void lapic_set(struct lapic *l, const struct x86_lapic *state);

/* ---- Registers. now_ns is guest time. ---- */

/* Is the APIC's page at this gpa (xAPIC mode, enabled)? */
bool lapic_is_at(const struct lapic *l, uint64_t gpa);
/* offset in the page; only aligned 4-byte accesses do anything, as the manuals ask for. */
uint32_t lapic_mmio_read(struct lapic *l, uint32_t offset, unsigned size, uint64_t now_ns);
void lapic_mmio_write(struct lapic *l, uint32_t offset, unsigned size, uint32_t value,
                      uint64_t now_ns);
/* MSRs 0x800 to 0x8ff; false: #GP */
bool lapic_msr_read(struct lapic *l, uint32_t msr, uint64_t now_ns, uint64_t *out);
bool lapic_msr_write(struct lapic *l, uint32_t msr, uint64_t value, uint64_t now_ns);
/* IA32_APIC_BASE; false: #GP */
bool lapic_base_write(struct lapic *l, uint64_t value);
bool lapic_x2apic(const struct lapic *l);
uint8_t lapic_cr8(const struct lapic *l);
void lapic_set_cr8(struct lapic *l, uint8_t cr8);

/* ---- Interrupts ---- */

/* Any thread. Vectors below 16 and those for an APIC that is off are dropped. */
void lapic_post(struct lapic *l, uint8_t vector, bool level);
/* Any thread: does a message for `dest` reach this APIC? 8-bit destinations and 0xff for all work
 * in every mode, since there is no APIC with the id 255. */
bool lapic_accepts(const struct lapic *l, uint32_t dest, bool logical);
/* The vector that would interrupt the CPU now, or -1. */
int lapic_pending_vector(struct lapic *l);
void lapic_ack(struct lapic *l, int vector); /* the CPU takes it */
void lapic_eoi(struct lapic *l);
/* Does the PIC's line reach this CPU (LINT0 as ExtINT, or the boot CPU's APIC switched off)? */
bool lapic_takes_extint(const struct lapic *l);

/* ---- Timer ---- */

/* Guest time at which to call lapic_timer_expire; 0: never. */
uint64_t lapic_timer_next_ns(const struct lapic *l);
/* Too early is fine: nothing happens. */
void lapic_timer_expire(struct lapic *l, uint64_t now_ns);
/* IA32_TSC_DEADLINE, and the guest time at which the TSC gets there; tsc 0 disarms. */
uint64_t lapic_tsc_deadline(const struct lapic *l);
void lapic_set_tsc_deadline(struct lapic *l, uint64_t tsc, uint64_t deadline_ns);

#endif
