/* SPDX-License-Identifier: GPL-2.0-or-later */
/* System instructions: what the rest of the engine needs of them. The vCPU's own thread, or not
 * running. */
#ifndef ENGINE_SOFT_SYS_H
#define ENGINE_SOFT_SYS_H

#include "engine/soft/cpu.h"

const struct cpuid_entry *vcpu_cpuid(const struct soft_vcpu *v, uint32_t leaf, uint32_t subleaf);
/* May this port be used at the current privilege? 0 or OP_FAULT. */
int io_check(struct soft_vcpu *v, uint16_t port, unsigned size);
/* Virtual-8086 mode (v86.c): the IOPL-sensitive instructions; CLI and STI without the privilege. */
int v86_pushf(struct soft_vcpu *v, const struct insn *i);
int v86_popf(struct soft_vcpu *v, const struct insn *i);
int v86_iret(struct soft_vcpu *v, const struct insn *i);
int v86_int(struct soft_vcpu *v, const struct insn *i, uint8_t vector);
int virtual_cli(struct soft_vcpu *v);
int virtual_sti(struct soft_vcpu *v);
/* MOV to CR3, and a task switch's */
int cr3_write(struct soft_vcpu *v, uint64_t value);
/* Writes the guest's kvmclock page anew: the clock or the TSC offset was set. */
void kvmclock_update(struct soft_vcpu *v);
/* PAUSE: gives the host CPU back now and then (run.c). */
void vcpu_spin(struct soft_vcpu *v);
/* The LAPIC's registers were written by the guest: look for interrupts, set the timer again
 * (run.c). */
void vcpu_lapic_changed(struct soft_vcpu *v);

#endif
