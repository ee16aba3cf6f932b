/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's TSC out of the host's.
 *
 * The TSC is the guest clock in other units (machine/clock.h), but asking the host for the time at
 * each RDTSC costs more than all the rest of reading a clock. So it is taken from the host's TSC by
 * a line, guest + (host TSC - host) * mul / 2^32, which holds for less than a millisecond and is
 * made anew from the guest clock then.
 *
 * Invariants
 *  1. All vCPUs use the same line at the same time: a copy of the shared one, and only for `limit`
 * ticks from its beginning, whoever makes the next one.
 *  2. A line begins no lower than the one before it can have ended, and so does the exact time
 * while there is no line: no vCPU sees time go back.
 *  3. There is no line until two measurements of the host's TSC agree, nor while CR4.TSD asks for a
 * look at the privilege.
 */
#ifndef ENGINE_SOFT_TSC_H
#define ENGINE_SOFT_TSC_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct soft_vcpu;

struct tsc_line {
    uint64_t host, limit; /* from where on, for how many ticks of the host's TSC; 0: not at all */
    uint64_t mul, guest;
};

struct tsc_clock {
    bool on; /* fixed at create */
    pthread_mutex_t lock;
    struct tsc_line line;
    uint64_t host, guest; /* the last measurement; 0: none */
    uint64_t mul;         /* guest ticks in 2^32 of the host's between the last two; 0: unknown */
    uint64_t floor;       /* what lines so far may have answered at most */
};

/* wanted: the engine's option; the host must have a TSC that always runs at the same rate. */
void tsc_clock_init(struct tsc_clock *c, bool wanted);
/* The guest's TSC, with the vCPU's own offset. The vCPU's thread. */
uint64_t tsc_now(struct soft_vcpu *v);

#endif
