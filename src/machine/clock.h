/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest time: one clock of the machine, in nanoseconds since the machine was made. It stops when
 * the VM stops and moves with it. TSC, PIT, APIC timer, RTC and PM timer derive from it.
 *
 * The TSC is guest_now_ns() * tsc_khz / 10^6 (+ the vCPU's own offset) within a microsecond, the
 * same on every vCPU.
 */
#ifndef MACHINE_CLOCK_H
#define MACHINE_CLOCK_H

#include "base/err.h"
#include "machine/state.h"

#include <stdbool.h>
#include <stdint.h>

struct machine;
struct guest_timer;

uint64_t guest_now_ns(struct machine *m); /* any thread */
/* Wall-clock time that guest time 0 stands for, nanoseconds since 1970 UTC (RTC and kvmclock's wall
 * clock). */
uint64_t guest_epoch_ns(struct machine *m);
/* Host CLOCK_MONOTONIC at which guest time `guest_ns` comes if the clock keeps running; UINT64_MAX
 * while stopped. */
uint64_t guest_to_host_ns(struct machine *m, uint64_t guest_ns);
uint64_t tsc_of_ns(uint64_t ns, uint64_t tsc_khz); /* rounds down, 128-bit product */
uint64_t ns_of_tsc(uint64_t tsc,
                   uint64_t tsc_khz); /* first nanosecond at which the TSC is >= tsc */

/* By the machine's lifecycle and by restore only. */
void clock_start(struct machine *m);
void clock_stop(struct machine *m);
void clock_set(struct machine *m, uint64_t guest_ns, uint64_t epoch_ns); /* while stopped */
/* The clock's saved form; the check keeps guest_ns where sums with it cannot overflow. */
struct clock_state {
    uint64_t guest_ns, epoch_ns;
};
extern const struct state_desc clock_state_desc;

/*
 * A one-shot timer in guest time. fn runs on the machine's timer thread, never while the clock is
 * stopped, without locks held: it takes its device's lock and looks again whether the deadline
 * still stands. Arm and disarm from any thread, with the device's lock held; disarm does not wait
 * for a running fn, destroy does (so: not with the device's lock).
 */
int guest_timer_create(struct machine *m, void (*fn)(void *arg), void *arg,
                       struct guest_timer **out, struct err *err);
void guest_timer_arm(struct guest_timer *timer, uint64_t deadline_ns);
void guest_timer_disarm(struct guest_timer *timer);
void guest_timer_destroy(struct guest_timer *timer);

#endif
