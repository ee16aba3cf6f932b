/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The local APIC. Left out: focus processors, the arbitration and remote-read registers (gone from
 * CPUs, too), lowest priority among several (the sender picks), CMCI (the models offer no such
 * bank).
 *
 *  1. regs.timer_deadline_ns is 0 unless the timer runs, and stays where it is while the timer's
 * interrupt is masked: timer_catch_up moves or clears it before anybody can tell.
 *  2. A vector is in `posted` or in IRR. Only the owner moves it, and TMR gets its bit at that
 * moment.
 *  3. While the APIC is software-disabled every LVT entry is masked.
 */
#include "engine/soft/lapic.h"

#include "base/checked.h"

#include <string.h>

enum { BASE_BSP = 1 << 8, BASE_X2 = 1 << 10, BASE_ENABLE = 1 << 11 };
#define BASE_ADDRESS 0x000ffffffffff000ull

enum {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_ICR = 0x30,
    REG_ICR_HIGH = 0x31,
    REG_LVT_TIMER = 0x32,
    REG_LVT_THERMAL = 0x33,
    REG_LVT_PERF = 0x34,
    REG_LVT_LINT0 = 0x35,
    REG_LVT_LINT1 = 0x36,
    REG_LVT_ERROR = 0x37,
    REG_TIMER_INITIAL = 0x38,
    REG_TIMER_CURRENT = 0x39,
    REG_TIMER_DIVIDE = 0x3e,
    REG_SELF_IPI = 0x3f, /* x2APIC only */
};
enum { MSR_FIRST = 0x800, MSR_LAST = 0x8ff };

#define VERSION 0x00050014u /* an integrated APIC, six LVT entries */
enum { SVR_ENABLE = 1 << 8, SVR_WRITABLE = 0x1ff };
enum { LVT_MASKED = 1 << 16, LVT_MODE_EXTINT = 7 << 8, LVT_MODE = 7 << 8 };
enum { TIMER_MODE = 3 << 17, TIMER_PERIODIC = 1 << 17, TIMER_DEADLINE = 2 << 17 };
enum { DIVIDE_WRITABLE = 0xb };
enum { ERROR_SEND_VECTOR = 1 << 5, ERROR_RECEIVE_VECTOR = 1 << 6, ERROR_REGISTER = 1 << 7 };
#define ICR_WRITABLE 0xffffffff000ccfffull /* delivery status (12) is always idle */
enum { SHORTHAND_SELF = 1 << 18 };
enum { ID_ALL = 0xff };

/* A guest that asks for less would keep the host busy and get no work done itself. */
enum { PERIOD_MIN_NS = 50000 };
#define DEADLINE_MAX_NS (((uint64_t)1 << 62) - 1) /* the saved form's limit */

/* ---- modes ---- */

bool lapic_x2apic(const struct lapic *l) { return l->regs.apic_base & BASE_X2; }
static bool lapic_enabled(const struct lapic *l) { return l->regs.apic_base & BASE_ENABLE; }

/* shown_mode holds BASE_ENABLE, BASE_X2, and SVR_ENABLE, which are different bits. */
_Static_assert(!((BASE_ENABLE | BASE_X2) & SVR_ENABLE), "one word holds them");

static void lapic_show(struct lapic *l)
{
    l->shown_id = l->regs.id;
    l->shown_ldr = l->regs.ldr;
    l->shown_dfr = l->regs.dfr;
    l->shown_mode =
        (uint32_t)(l->regs.apic_base & (BASE_ENABLE | BASE_X2)) | (l->regs.svr & SVR_ENABLE);
}

static uint32_t x2apic_ldr(uint32_t id) { return id >> 4 << 16 | 1u << (id & 15); }

/* The ids as the mode has them. */
static void lapic_fill_ids(struct lapic *l)
{
    if (lapic_x2apic(l)) {
        l->regs.id = l->apic_id;
        l->regs.ldr = x2apic_ldr(l->apic_id);
    }
    lapic_show(l);
}

/* ---- bitmaps ---- */

static int highest(const uint32_t bits[8])
{
    for (int i = 7; i >= 0; i--)
        if (bits[i])
            return i * 32 + 31 - __builtin_clz(bits[i]);
    return -1;
}

static void bit_set(uint32_t bits[8], unsigned n) { bits[n / 32] |= 1u << n % 32; }
static void bit_clear(uint32_t bits[8], unsigned n) { bits[n / 32] &= ~(1u << n % 32); }
static bool bit_test(const uint32_t bits[8], unsigned n) { return bits[n / 32] >> n % 32 & 1; }

/* ---- interrupts ---- */

void lapic_post(struct lapic *l, uint8_t vector, bool level)
{
    uint32_t mode = l->shown_mode, bit = 1u << vector % 32;
    if (!(mode & BASE_ENABLE) || !(mode & SVR_ENABLE))
        return;
    if (vector < 16) {
        atomic_fetch_or(&l->errors, ERROR_RECEIVE_VECTOR);
        return;
    }
    if (level)
        atomic_fetch_or(&l->posted_level[vector / 32], bit);
    else
        atomic_fetch_and(&l->posted_level[vector / 32], ~bit);
    if (!(atomic_fetch_or(&l->posted[vector / 32], bit) & bit))
        l->links.wake(l->links.arg);
}

/* An interrupt of the APIC's own, by the owner. */
static void lvt_raise(struct lapic *l, uint32_t lvt)
{
    uint8_t vector = (uint8_t)lvt;
    if (lvt & LVT_MASKED)
        return;
    if (vector < 16) {
        atomic_fetch_or(&l->errors, ERROR_RECEIVE_VECTOR);
        return;
    }
    bit_clear(l->regs.tmr, vector);
    bit_set(l->regs.irr, vector);
}

/* An error that was not there yet raises the error interrupt. */
static void lapic_error(struct lapic *l, uint32_t error)
{
    if (!(atomic_fetch_or(&l->errors, error) & error))
        lvt_raise(l, l->regs.lvt_error);
}

/* Takes in what other threads posted (2). */
static void lapic_merge(struct lapic *l)
{
    for (unsigned i = 0; i < 8; i++) {
        if (!l->posted[i])
            continue;
        uint32_t bits = atomic_exchange(&l->posted[i], 0), level = l->posted_level[i];
        l->regs.irr[i] |= bits;
        l->regs.tmr[i] = (l->regs.tmr[i] & ~bits) | (level & bits);
    }
}

static uint32_t lapic_ppr(const struct lapic *l)
{
    int in_service = highest(l->regs.isr);
    uint32_t service = in_service < 0 ? 0 : (uint32_t)in_service & 0xf0;
    return (l->regs.tpr & 0xf0) >= service ? l->regs.tpr : service;
}

int lapic_pending_vector(struct lapic *l)
{
    lapic_merge(l);
    int vector = highest(l->regs.irr);
    if (vector < 0 || !lapic_enabled(l))
        return -1;
    return ((uint32_t)vector & 0xf0) > (lapic_ppr(l) & 0xf0) ? vector : -1;
}

void lapic_ack(struct lapic *l, int vector)
{
    bit_clear(l->regs.irr, (unsigned)vector);
    bit_set(l->regs.isr, (unsigned)vector);
}

void lapic_eoi(struct lapic *l)
{
    int vector = highest(l->regs.isr);
    if (vector < 0)
        return;
    bit_clear(l->regs.isr, (unsigned)vector);
    if (bit_test(l->regs.tmr, (unsigned)vector))
        l->links.level_eoi(l->links.arg, (uint8_t)vector);
}

bool lapic_takes_extint(const struct lapic *l)
{
    if (!lapic_enabled(l))
        return l->regs.apic_base & BASE_BSP;
    return (l->regs.lvt_lint0 & (LVT_MASKED | LVT_MODE)) == LVT_MODE_EXTINT;
}

uint8_t lapic_cr8(const struct lapic *l) { return (uint8_t)(l->regs.tpr >> 4); }
void lapic_set_cr8(struct lapic *l, uint8_t cr8) { l->regs.tpr = (uint32_t)(cr8 & 15) << 4; }

/* ---- destinations ---- */

static bool xapic_logical_matches(uint32_t ldr, uint32_t dfr, uint32_t dest)
{
    uint32_t own = ldr >> 24;
    if (dest == ID_ALL)
        return true;
    if (dfr >> 28 == 0xf)
        return own & dest;
    return own >> 4 == dest >> 4 && own & dest & 0xf;
}

bool lapic_accepts(const struct lapic *l, uint32_t dest, bool logical)
{
    uint32_t mode = l->shown_mode;
    if (!(mode & BASE_ENABLE))
        return false;
    if (dest == UINT32_MAX)
        return true;
    if (mode & BASE_X2) {
        if (!logical)
            return dest == l->apic_id || dest == ID_ALL;
        uint32_t own = x2apic_ldr(l->apic_id);
        return own >> 16 == dest >> 16 && own & dest & 0xffff;
    }
    if (dest > ID_ALL)
        return false;
    if (!logical)
        return dest == ID_ALL || dest == l->shown_id >> 24;
    return xapic_logical_matches(l->shown_ldr, l->shown_dfr, dest);
}

/* ---- timer ---- */

static unsigned timer_shift(const struct lapic *l)
{
    uint32_t divide = l->regs.timer_divide;
    return (((divide & 3) | (divide >> 1 & 4)) + 1) & 7;
}

static uint32_t timer_mode(const struct lapic *l) { return l->regs.lvt_timer & TIMER_MODE; }

static uint64_t timer_period_ns(const struct lapic *l)
{
    uint64_t period = (uint64_t)l->regs.timer_initial << timer_shift(l);
    return period < PERIOD_MIN_NS ? PERIOD_MIN_NS : period;
}

/* What becomes of the deadline once it is past. */
static void timer_advance(struct lapic *l, uint64_t now_ns)
{
    struct x86_lapic *regs = &l->regs;
    if (timer_mode(l) == TIMER_PERIODIC) {
        uint64_t period = timer_period_ns(l);
        regs->timer_deadline_ns += ((now_ns - regs->timer_deadline_ns) / period + 1) * period;
        return;
    }
    regs->timer_deadline_ns = 0;
    regs->tsc_deadline = 0;
}

static bool timer_is_due(const struct lapic *l, uint64_t now_ns)
{
    return l->regs.timer_deadline_ns && l->regs.timer_deadline_ns <= now_ns;
}

/* A timer that ran out while masked did so unheard (1). */
static void timer_catch_up(struct lapic *l, uint64_t now_ns)
{
    if (l->regs.lvt_timer & LVT_MASKED && timer_is_due(l, now_ns))
        timer_advance(l, now_ns);
}

static uint32_t timer_current(struct lapic *l, uint64_t now_ns)
{
    timer_catch_up(l, now_ns);
    uint64_t deadline = l->regs.timer_deadline_ns;
    if (!deadline || timer_mode(l) == TIMER_DEADLINE)
        return 0;
    if (deadline <= now_ns) {
        /* It fires as soon as the owner gets to it; a periodic one counts already in its next
         * round. */
        uint64_t period = timer_period_ns(l);
        if (timer_mode(l) != TIMER_PERIODIC)
            return 0;
        deadline += ((now_ns - deadline) / period + 1) * period;
    }
    uint64_t unit = 1ull << timer_shift(l), count = (deadline - now_ns + unit - 1) / unit;
    return count < l->regs.timer_initial ? (uint32_t)count : l->regs.timer_initial;
}

static uint64_t timer_deadline_at(const struct lapic *l, uint64_t now_ns, uint32_t count)
{
    uint64_t deadline = now_ns + ((uint64_t)count << timer_shift(l));
    return deadline > DEADLINE_MAX_NS ? DEADLINE_MAX_NS : deadline;
}

static void timer_write_initial(struct lapic *l, uint32_t value, uint64_t now_ns)
{
    if (timer_mode(l) == TIMER_DEADLINE)
        return;
    l->regs.timer_initial = value;
    l->regs.timer_deadline_ns = value ? timer_deadline_at(l, now_ns, value) : 0;
}

static void timer_write_divide(struct lapic *l, uint32_t value, uint64_t now_ns)
{
    /* A running count goes on from where it is, at the new speed. */
    uint32_t current = timer_current(l, now_ns);
    l->regs.timer_divide = value & DIVIDE_WRITABLE;
    if (l->regs.timer_deadline_ns > now_ns && timer_mode(l) != TIMER_DEADLINE)
        l->regs.timer_deadline_ns = timer_deadline_at(l, now_ns, current);
}

static void timer_write_lvt(struct lapic *l, uint32_t value, uint64_t now_ns)
{
    timer_catch_up(l, now_ns);
    bool was_deadline = timer_mode(l) == TIMER_DEADLINE;
    l->regs.lvt_timer = value;
    if (was_deadline != (timer_mode(l) == TIMER_DEADLINE)) {
        /* Going to or from TSC-deadline mode disarms. */
        l->regs.timer_deadline_ns = 0;
        l->regs.tsc_deadline = 0;
        l->regs.timer_initial = 0;
    }
}

uint64_t lapic_timer_next_ns(const struct lapic *l)
{
    return l->regs.lvt_timer & LVT_MASKED ? 0 : l->regs.timer_deadline_ns;
}

void lapic_timer_expire(struct lapic *l, uint64_t now_ns)
{
    if (!timer_is_due(l, now_ns))
        return;
    timer_advance(l, now_ns);
    lvt_raise(l, l->regs.lvt_timer);
}

uint64_t lapic_tsc_deadline(const struct lapic *l) { return l->regs.tsc_deadline; }

void lapic_set_tsc_deadline(struct lapic *l, uint64_t tsc, uint64_t deadline_ns)
{
    if (timer_mode(l) != TIMER_DEADLINE)
        return;
    l->regs.tsc_deadline = tsc;
    if (deadline_ns > DEADLINE_MAX_NS)
        deadline_ns = DEADLINE_MAX_NS;
    l->regs.timer_deadline_ns = !tsc ? 0 : deadline_ns ? deadline_ns : 1;
}

/* ---- registers ---- */

/* Which bits of an LVT entry the guest can set; 0: no such entry. Delivery status and remote IRR
 * stay 0. */
static uint32_t lvt_writable(unsigned reg)
{
    switch (reg) {
    case REG_LVT_TIMER: return 0x700ff;
    case REG_LVT_THERMAL:
    case REG_LVT_PERF: return 0x107ff;
    case REG_LVT_LINT0:
    case REG_LVT_LINT1: return 0x1a7ff;
    case REG_LVT_ERROR: return 0x100ff;
    default: return 0;
    }
}

static uint32_t *lvt_of(struct lapic *l, unsigned reg)
{
    switch (reg) {
    case REG_LVT_TIMER: return &l->regs.lvt_timer;
    case REG_LVT_THERMAL: return &l->regs.lvt_thermal;
    case REG_LVT_PERF: return &l->regs.lvt_perf;
    case REG_LVT_LINT0: return &l->regs.lvt_lint0;
    case REG_LVT_LINT1: return &l->regs.lvt_lint1;
    case REG_LVT_ERROR: return &l->regs.lvt_error;
    default: return NULL;
    }
}

static void lvt_write(struct lapic *l, unsigned reg, uint32_t value, uint64_t now_ns)
{
    value &= lvt_writable(reg);
    if (!(l->regs.svr & SVR_ENABLE))
        value |= LVT_MASKED; /* 3 */
    if (reg == REG_LVT_TIMER)
        timer_write_lvt(l, value, now_ns);
    else
        *lvt_of(l, reg) = value;
}

static void svr_write(struct lapic *l, uint32_t value, uint64_t now_ns)
{
    l->regs.svr = value & SVR_WRITABLE;
    if (!(value & SVR_ENABLE))
        for (unsigned reg = REG_LVT_TIMER; reg <= REG_LVT_ERROR; reg++)
            lvt_write(l, reg, *lvt_of(l, reg) | LVT_MASKED, now_ns);
    lapic_show(l);
}

static void esr_write(struct lapic *l) { l->regs.esr = atomic_exchange(&l->errors, 0); }

static void icr_write(struct lapic *l, uint64_t icr)
{
    l->regs.icr = icr & ICR_WRITABLE;
    unsigned delivery = icr >> 8 & 7; /* 0 fixed, 1 lowest priority: they have a vector */
    if (delivery <= 1 && (uint8_t)icr < 16)
        lapic_error(l, ERROR_SEND_VECTOR);
    else
        l->links.send_ipi(l->links.arg, l->regs.icr);
}

/* What both modes read alike; false: no such register. */
static bool reg_read(struct lapic *l, unsigned reg, uint64_t now_ns, uint32_t *out)
{
    struct x86_lapic *regs = &l->regs;
    if (reg >= REG_ISR && reg < REG_ESR) {
        lapic_merge(l);
        *out = (reg >= REG_IRR ? regs->irr : reg >= REG_TMR ? regs->tmr : regs->isr)[reg % 8];
        return true;
    }
    if (lvt_writable(reg)) {
        *out = *lvt_of(l, reg);
        return true;
    }
    switch (reg) {
    case REG_ID: *out = regs->id; return true;
    case REG_VERSION: *out = VERSION; return true;
    case REG_TPR: *out = regs->tpr; return true;
    case REG_PPR: *out = lapic_ppr(l); return true;
    case REG_LDR: *out = regs->ldr; return true;
    case REG_SVR: *out = regs->svr; return true;
    case REG_ESR: *out = regs->esr; return true;
    case REG_TIMER_INITIAL: *out = regs->timer_initial; return true;
    case REG_TIMER_CURRENT: *out = timer_current(l, now_ns); return true;
    case REG_TIMER_DIVIDE: *out = regs->timer_divide; return true;
    default: return false;
    }
}

/* What both modes write alike; false: no such register. */
static bool reg_write(struct lapic *l, unsigned reg, uint32_t value, uint64_t now_ns)
{
    if (lvt_writable(reg)) {
        lvt_write(l, reg, value, now_ns);
        return true;
    }
    switch (reg) {
    case REG_TPR: l->regs.tpr = value & 0xff; return true;
    case REG_EOI: lapic_eoi(l); return true;
    case REG_SVR: svr_write(l, value, now_ns); return true;
    case REG_ESR: esr_write(l); return true;
    case REG_TIMER_INITIAL: timer_write_initial(l, value, now_ns); return true;
    case REG_TIMER_DIVIDE: timer_write_divide(l, value, now_ns); return true;
    default: return false;
    }
}

bool lapic_is_at(const struct lapic *l, uint64_t gpa)
{
    return lapic_enabled(l) && !lapic_x2apic(l) && !((gpa ^ l->regs.apic_base) & BASE_ADDRESS);
}

uint32_t lapic_mmio_read(struct lapic *l, uint32_t offset, unsigned size, uint64_t now_ns)
{
    uint32_t value = 0;
    unsigned reg = offset >> 4;
    if (offset & 15 || size != 4)
        return 0;
    switch (reg) {
    case REG_DFR: return l->regs.dfr;
    case REG_ICR: return (uint32_t)l->regs.icr;
    case REG_ICR_HIGH: return (uint32_t)(l->regs.icr >> 32);
    case REG_APR:
    case REG_EOI:
    case REG_RRD: return 0;
    }
    if (!reg_read(l, reg, now_ns, &value))
        lapic_error(l, ERROR_REGISTER);
    return value;
}

void lapic_mmio_write(struct lapic *l, uint32_t offset, unsigned size, uint32_t value,
                      uint64_t now_ns)
{
    struct x86_lapic *regs = &l->regs;
    if (offset & 15 || size != 4)
        return;
    switch (offset >> 4) {
    case REG_ID:
        regs->id = value & 0xff000000;
        lapic_show(l);
        break;
    case REG_LDR:
        regs->ldr = value & 0xff000000;
        lapic_show(l);
        break;
    case REG_DFR:
        regs->dfr = value | 0x0fffffff;
        lapic_show(l);
        break;
    case REG_ICR: icr_write(l, (regs->icr & ~(uint64_t)UINT32_MAX) | value); break;
    case REG_ICR_HIGH:
        regs->icr = (regs->icr & UINT32_MAX) | (uint64_t)(value & 0xff000000) << 32;
        break;
    default:
        if (!reg_write(l, offset >> 4, value, now_ns))
            lapic_error(l, ERROR_REGISTER);
    }
}

bool lapic_msr_read(struct lapic *l, uint32_t msr, uint64_t now_ns, uint64_t *out)
{
    if (!lapic_x2apic(l) || msr < MSR_FIRST || msr > MSR_LAST)
        return false;
    if (msr - MSR_FIRST == REG_ICR) {
        *out = l->regs.icr;
        return true;
    }
    uint32_t value;
    if (!reg_read(l, msr - MSR_FIRST, now_ns, &value))
        return false;
    *out = value;
    return true;
}

/* Bits that x2APIC mode lets one write; everything else is #GP. */
static uint64_t x2apic_writable(unsigned reg)
{
    switch (reg) {
    case REG_TPR:
    case REG_SELF_IPI: return 0xff;
    case REG_SVR: return SVR_WRITABLE;
    case REG_ICR: return ICR_WRITABLE;
    case REG_TIMER_INITIAL: return UINT32_MAX;
    case REG_TIMER_DIVIDE: return DIVIDE_WRITABLE;
    /* Delivery status and remote IRR are read-only, not reserved: writing them back is no fault. */
    case REG_LVT_LINT0:
    case REG_LVT_LINT1: return lvt_writable(reg) | 0x5000;
    case REG_LVT_TIMER:
    case REG_LVT_THERMAL:
    case REG_LVT_PERF:
    case REG_LVT_ERROR: return lvt_writable(reg) | 0x1000;
    default: return 0; /* EOI and ESR take zero only */
    }
}

bool lapic_msr_write(struct lapic *l, uint32_t msr, uint64_t value, uint64_t now_ns)
{
    unsigned reg = msr - MSR_FIRST;
    if (!lapic_x2apic(l) || msr < MSR_FIRST || msr > MSR_LAST || value & ~x2apic_writable(reg))
        return false;
    if (reg == REG_ICR) {
        icr_write(l, value);
        return true;
    }
    if (reg == REG_SELF_IPI) {
        if (value < 16)
            lapic_error(l, ERROR_SEND_VECTOR);
        else
            l->links.send_ipi(l->links.arg, SHORTHAND_SELF | value);
        return true;
    }
    return reg_write(l, reg, (uint32_t)value, now_ns);
}

/* ---- resets and modes ---- */

static void lapic_reset_regs(struct lapic *l)
{
    struct arch_state power_on;
    arch_state_reset(&power_on, l->apic_id);
    uint64_t base = l->regs.apic_base;
    l->regs = power_on.lapic;
    l->regs.apic_base = base;
    for (unsigned i = 0; i < 8; i++)
        l->posted[i] = 0;
    l->errors = 0;
    lapic_fill_ids(l);
}

void lapic_init(struct lapic *l) { lapic_reset_regs(l); }

void lapic_setup(struct lapic *l, uint32_t apic_id, const struct lapic_links *links)
{
    *l = (struct lapic){ .apic_id = apic_id, .links = *links };
    struct arch_state power_on;
    arch_state_reset(&power_on, apic_id);
    l->regs.apic_base = power_on.lapic.apic_base;
    lapic_reset_regs(l);
}

bool lapic_base_write(struct lapic *l, uint64_t value)
{
    uint64_t old = l->regs.apic_base, modes = BASE_ENABLE | BASE_X2;
    bool changed = (old ^ value) & modes;
    if (value & ~(BASE_ADDRESS | BASE_BSP | modes) || (value & modes) == BASE_X2)
        return false;
    /* x2APIC mode is entered from xAPIC mode and left by switching off (SDM 11.12.5). */
    if (changed &&
        ((old & modes) == modes ? value & BASE_ENABLE : !(old & modes) && value & BASE_X2))
        return false;
    l->regs.apic_base = value;
    if (changed && !(value & BASE_ENABLE)) {
        lapic_reset_regs(l);
        return true;
    }
    lapic_fill_ids(l);
    return true;
}

void lapic_get(struct lapic *l, struct x86_lapic *out)
{
    lapic_merge(l);
    *out = l->regs;
    out->esr |= l->errors; /* as if the guest had latched them: the saved form has one register */
}

/* The state passed its check, but may have bits that this APIC does not implement. */
void lapic_set(struct lapic *l, const struct x86_lapic *state)
{
    struct x86_lapic *regs = &l->regs;
    *regs = *state;
    regs->tpr &= 0xff;
    regs->svr &= SVR_WRITABLE;
    regs->dfr |= 0x0fffffff;
    regs->icr &= ICR_WRITABLE;
    for (unsigned reg = REG_LVT_TIMER; reg <= REG_LVT_ERROR; reg++) {
        *lvt_of(l, reg) &= lvt_writable(reg);
        if (!(regs->svr & SVR_ENABLE))
            *lvt_of(l, reg) |= LVT_MASKED;
    }
    if (timer_mode(l) != TIMER_DEADLINE)
        regs->tsc_deadline = 0;
    for (unsigned i = 0; i < 8; i++)
        l->posted[i] = 0;
    l->errors = 0;
    lapic_fill_ids(l);
}
