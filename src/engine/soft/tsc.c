/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guest's TSC out of the host's; tsc.h has the invariants. */
#include "engine/soft/tsc.h"

#include "engine/soft/run.h"
#include "machine/machine.h"

#include <cpuid.h>
#include <x86intrin.h>

enum { LINE_TICKS = 1 << 21, RATE_AGREES = 1 << 10, CATCH_UP = 1 << 6 };

void tsc_clock_init(struct tsc_clock *c, bool wanted)
{
    enum { ADVANCED_POWER = 0x80000007, INVARIANT_TSC = 1 << 8 };
    unsigned a, b, d = 0, unused;
    bool invariant = __get_cpuid(ADVANCED_POWER, &a, &b, &unused, &d) && d & INVARIANT_TSC;
    pthread_mutex_init(&c->lock, NULL);
    c->on = wanted && invariant;
}

static uint64_t line_at(const struct tsc_line *l, uint64_t ticks)
{
    return l->guest + (uint64_t)((unsigned __int128)ticks * l->mul >> 32);
}

static bool agree(uint64_t a, uint64_t b)
{
    uint64_t difference = a > b ? a - b : b - a;
    return difference < a / RATE_AGREES;
}

/* Measures; the next line, if the rate is as it was. lock held. */
static void line_renew(struct tsc_clock *c, uint64_t host, uint64_t guest)
{
    uint64_t ticks = host - c->host, mul = 0;
    c->line.limit = 0;
    if (c->host && ticks < LINE_TICKS / 2)
        return; /* too soon to tell */
    if (c->host && guest > c->guest)
        mul = (uint64_t)(((unsigned __int128)(guest - c->guest) << 32) / ticks);
    if (mul && agree(mul, c->mul)) {
        bool ahead = guest < c->floor;
        c->line = (struct tsc_line){ .host = host,
                                     .limit = LINE_TICKS,
                                     .mul = ahead ? mul - mul / CATCH_UP : mul,
                                     .guest = ahead ? c->floor : guest };
        c->floor = line_at(&c->line, LINE_TICKS);
    }
    c->mul = mul;
    c->host = host;
    c->guest = guest;
}

/* v->tsc becomes the line of now, *exact is the TSC. */
static void line_get(struct soft_vcpu *v, uint64_t *exact)
{
    enum { CLOCK_WAS_SET_NS = 10000000 };
    struct tsc_clock *c = &soft_engine_of(v)->tsc;
    struct machine *m = machine_of(v);
    LOCKED(&c->lock);
    uint64_t ticks = __rdtsc() - c->line.host;
    if (ticks < c->line.limit) {
        *exact = line_at(&c->line, ticks);
    } else {
        uint64_t guest = tsc_of_ns(guest_now_ns(m), m->tsc_khz);
        if (guest + tsc_of_ns(CLOCK_WAS_SET_NS, m->tsc_khz) < c->floor)
            c->floor = 0;
        *exact = guest > c->floor ? guest : c->floor;
        line_renew(c, __rdtsc(), guest);
    }
    v->tsc = c->line;
    if (v->cr4 & CR4_TSD)
        v->tsc.limit = 0;
}

uint64_t tsc_now(struct soft_vcpu *v)
{
    struct machine *m = machine_of(v);
    uint64_t exact = 0;
    if (!soft_engine_of(v)->tsc.on)
        return tsc_of_ns(guest_now_ns(m), m->tsc_khz) + (uint64_t)v->tsc_offset;
    uint64_t ticks = __rdtsc() - v->tsc.host;
    if (ticks < v->tsc.limit)
        return line_at(&v->tsc, ticks) + (uint64_t)v->tsc_offset;
    line_get(v, &exact);
    return exact + (uint64_t)v->tsc_offset;
}
