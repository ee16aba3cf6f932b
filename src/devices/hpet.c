/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * IA-PC HPET, specification 1.0a: a 64-bit counter, three 64-bit comparators that can be periodic,
 * each wired to a GSI from 16 to 23 of its software's choice, edge or level.
 *
 * Left out, as the capabilities say: legacy replacement (the PIT and the clock keep their own
 * interrupts) and messages (FSB). The counter is guest time, so it stands still while the VM does.
 * Nothing ticks: the timer is armed for the comparator that matches next.
 */
#include "devices/hpet.h"

#include "base/checked.h"
#include "machine/clock.h"
#include "machine/irq.h"
#include "machine/machine.h"

#include <stdlib.h>

enum { TIMERS = 3, TICK_NS = 10, PRIORITY = 10 };
enum {
    REG_ID = 0x00,
    REG_CONFIG = 0x10,
    REG_STATUS = 0x20,
    REG_COUNTER = 0xf0,
    REG_TIMERS = 0x100
};
enum { TIMER_SIZE = 0x20, TIMER_CONFIG = 0, TIMER_COMPARATOR = 8 };
enum { CONFIG_ENABLE = 1 };
enum { /* a timer's configuration */
       T_LEVEL = 1 << 1,
       T_ENABLE = 1 << 2,
       T_PERIODIC = 1 << 3,
       T_PERIODIC_CAP = 1 << 4,
       T_64_CAP = 1 << 5,
       T_SET_VALUE = 1 << 6,
       T_32 = 1 << 8,
       T_ROUTE_SHIFT = 9,
       T_ROUTE = 31 << 9,
       T_WRITABLE = T_LEVEL | T_ENABLE | T_PERIODIC | T_SET_VALUE | T_32 | T_ROUTE
};
#define ROUTES 0x00ff0000ull /* GSI 16 to 23 */
#define PERIOD_FS 10000000ull

struct hpet_timer_regs {
    uint64_t config;     /* writable bits */
    uint64_t comparator; /* the next match */
    uint64_t period;     /* of a periodic timer, as written last */
};

struct hpet_regs {
    struct hpet_timer_regs timer[TIMERS];
    uint64_t config, status;
    uint64_t counter; /* at `since_ns`, or while it stands still */
    uint64_t since_ns;
    uint64_t checked; /* counter up to which matches were seen */
};

struct hpet {
    struct device dev;
    struct hpet_regs regs; /* dev.lock */
    struct irq_pin pins[TIMERS];
    struct guest_timer *timer;
    struct mapping *map;
};

/* ---- counting ---- */

static uint64_t counter_now(const struct hpet *hpet)
{
    const struct hpet_regs *regs = &hpet->regs;
    if (!(regs->config & CONFIG_ENABLE))
        return regs->counter;
    return regs->counter + (guest_now_ns(hpet->dev.machine) - regs->since_ns) / TICK_NS;
}

static uint64_t timer_mask(const struct hpet_timer_regs *t)
{
    return t->config & T_32 ? UINT32_MAX : UINT64_MAX;
}

/* Ticks from `from` to the next match, at least one. */
static uint64_t ticks_to_match(const struct hpet_timer_regs *t, uint64_t from)
{
    uint64_t ticks = (t->comparator - from) & timer_mask(t);
    return ticks ? ticks : timer_mask(t);
}

static void pin_update(struct hpet *hpet, unsigned n)
{
    const struct hpet_timer_regs *t = &hpet->regs.timer[n];
    unsigned route = (unsigned)(t->config & T_ROUTE) >> T_ROUTE_SHIFT;
    bool level = (t->config & T_ENABLE) && (t->config & T_LEVEL) && (hpet->regs.status >> n & 1);
    if (hpet->pins[n].gsi != route && (ROUTES >> route & 1)) {
        irq_pin_set(&hpet->pins[n], false);
        hpet->pins[n].gsi = route;
    }
    irq_pin_set(&hpet->pins[n], level && (ROUTES >> route & 1));
}

static void timer_match(struct hpet *hpet, unsigned n, uint64_t now)
{
    struct hpet_timer_regs *t = &hpet->regs.timer[n];
    if ((t->config & T_PERIODIC) && t->period) {
        uint64_t late = (now - t->comparator) & timer_mask(t);
        t->comparator = (t->comparator + (late / t->period + 1) * t->period) & timer_mask(t);
    }
    if (!(t->config & T_ENABLE))
        return;
    if (t->config & T_LEVEL)
        hpet->regs.status |= 1u << n;
    else if (ROUTES >> hpet->pins[n].gsi & 1)
        irq_pin_pulse(&hpet->pins[n]);
    pin_update(hpet, n);
}

/* What matched since the last look. */
static void hpet_check(struct hpet *hpet)
{
    struct hpet_regs *regs = &hpet->regs;
    uint64_t now = counter_now(hpet), passed = now - regs->checked;
    if (!(regs->config & CONFIG_ENABLE) || !passed)
        return;
    for (unsigned n = 0; n < TIMERS; n++)
        if (ticks_to_match(&regs->timer[n], regs->checked) <= passed)
            timer_match(hpet, n, now);
    regs->checked = now;
}

static void hpet_arm(struct hpet *hpet)
{
    struct hpet_regs *regs = &hpet->regs;
    uint64_t now = counter_now(hpet), next = UINT64_MAX;
    for (unsigned n = 0; n < TIMERS; n++)
        if (regs->timer[n].config & T_ENABLE) {
            uint64_t ticks = ticks_to_match(&regs->timer[n], now);
            next = ticks < next ? ticks : next;
        }
    if (!(regs->config & CONFIG_ENABLE) || next > 1ull << 56)
        guest_timer_disarm(hpet->timer);
    else
        guest_timer_arm(hpet->timer, guest_now_ns(hpet->dev.machine) + next * TICK_NS);
}

static void hpet_expired(void *arg)
{
    struct hpet *hpet = arg;
    LOCKED(&hpet->dev.lock);
    hpet_check(hpet);
    hpet_arm(hpet);
}

/* ---- registers: whole quad words; accesses take their part ---- */

static uint64_t reg_read(struct hpet *hpet, unsigned reg)
{
    struct hpet_regs *regs = &hpet->regs;
    switch (reg) {
    case REG_ID: return PERIOD_FS << 32 | HPET_ID;
    case REG_CONFIG: return regs->config;
    case REG_STATUS: return regs->status;
    case REG_COUNTER: return counter_now(hpet);
    }
    unsigned n = (reg - REG_TIMERS) / TIMER_SIZE;
    if (reg < REG_TIMERS || n >= TIMERS)
        return 0;
    switch (reg % TIMER_SIZE) {
    case TIMER_CONFIG: return ROUTES << 32 | regs->timer[n].config | T_PERIODIC_CAP | T_64_CAP;
    case TIMER_COMPARATOR: return regs->timer[n].comparator;
    default: return 0;
    }
}

static void write_config(struct hpet *hpet, uint64_t value)
{
    struct hpet_regs *regs = &hpet->regs;
    regs->counter = counter_now(hpet);
    regs->since_ns = guest_now_ns(hpet->dev.machine);
    regs->config = value & CONFIG_ENABLE;
}

static void write_counter(struct hpet *hpet, uint64_t value)
{
    hpet->regs.counter = hpet->regs.checked = value;
    hpet->regs.since_ns = guest_now_ns(hpet->dev.machine);
}

static void write_timer(struct hpet *hpet, unsigned n, unsigned reg, uint64_t value)
{
    struct hpet_timer_regs *t = &hpet->regs.timer[n];
    if (reg == TIMER_CONFIG) {
        t->config = value & T_WRITABLE;
        t->comparator &= timer_mask(t);
        pin_update(hpet, n);
    } else if (reg == TIMER_COMPARATOR) {
        /* Of a periodic timer the first write after SET_VALUE is the match, others the period. */
        if (!(t->config & T_PERIODIC) || (t->config & T_SET_VALUE))
            t->comparator = value & timer_mask(t);
        if ((t->config & T_PERIODIC) && !(t->config & T_SET_VALUE))
            t->period = value & timer_mask(t);
        t->config &= ~(uint64_t)T_SET_VALUE;
    }
}

static void reg_write(struct hpet *hpet, unsigned reg, uint64_t value)
{
    unsigned n = (reg - REG_TIMERS) / TIMER_SIZE;
    switch (reg) {
    case REG_CONFIG: write_config(hpet, value); break;
    case REG_STATUS:
        hpet->regs.status &= ~value;
        for (unsigned i = 0; i < TIMERS; i++)
            pin_update(hpet, i);
        break;
    case REG_COUNTER: write_counter(hpet, value); break;
    default:
        if (reg >= REG_TIMERS && n < TIMERS)
            write_timer(hpet, n, reg % TIMER_SIZE, value);
    }
}

static uint64_t hpet_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct hpet *hpet = CONTAINER_OF(dev, struct hpet, dev);
    if (offset % 8 + size > 8)
        return UINT64_MAX;
    hpet_check(hpet);
    return reg_read(hpet, offset & ~7u) >> offset % 8 * 8;
}

static void hpet_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct hpet *hpet = CONTAINER_OF(dev, struct hpet, dev);
    unsigned reg = offset & ~7u, shift = (unsigned)offset % 8 * 8;
    if ((size != 4 && size != 8) || offset % size)
        return; /* the specification knows no others */
    hpet_check(hpet);
    if (size == 4) {
        uint64_t mask = (uint64_t)UINT32_MAX << shift;
        uint64_t old = reg == REG_STATUS ? 0 : reg_read(hpet, reg); /* ones clear */
        value = (old & ~mask) | (value << shift & mask);
    }
    reg_write(hpet, reg, value);
    hpet_arm(hpet);
}

/* ---- life ---- */

static void hpet_reset(struct device *dev)
{
    struct hpet *hpet = CONTAINER_OF(dev, struct hpet, dev);
    LOCKED(&dev->lock);
    hpet->regs = (struct hpet_regs){ 0 };
    for (unsigned n = 0; n < TIMERS; n++) {
        hpet->regs.timer[n].comparator = UINT64_MAX;
        pin_update(hpet, n);
    }
    hpet_arm(hpet);
}

static int hpet_loaded(struct device *dev, struct err *err)
{
    struct hpet *hpet = CONTAINER_OF(dev, struct hpet, dev);
    LOCKED(&dev->lock);
    for (unsigned n = 0; n < TIMERS; n++)
        pin_update(hpet, n);
    hpet_arm(hpet);
    return 0;
}

static int hpet_state_check(const void *state, struct err *err)
{
    const struct hpet_regs *regs = state;
    bool good = !(regs->config & ~(uint64_t)CONFIG_ENABLE) && !(regs->status >> TIMERS) &&
                regs->since_ns < 1ull << 62;
    for (unsigned n = 0; n < TIMERS; n++)
        good = good && !(regs->timer[n].config & ~(uint64_t)T_WRITABLE);
    return good ? 0 : err_set(err, EINVAL, "the HPET cannot be in the saved state");
}

static void hpet_destroy(struct device *dev)
{
    struct hpet *hpet = CONTAINER_OF(dev, struct hpet, dev);
    guest_timer_destroy(hpet->timer);
    map_remove(dev->machine, hpet->map);
    device_fini(dev);
    free(hpet);
}

static const struct state_field timer_fields[] = {
    STATE_U64(struct hpet_timer_regs, config),
    STATE_U64(struct hpet_timer_regs, comparator),
    STATE_U64(struct hpet_timer_regs, period),
    STATE_END,
};
static const struct state_desc timer_state = {
    .name = "hpet-timer",
    .version = 1,
    .size = sizeof(struct hpet_timer_regs),
    .fields = timer_fields,
};
static const struct state_field hpet_fields[] = {
    STATE_STRUCTS(struct hpet_regs, timer, &timer_state),
    STATE_U64(struct hpet_regs, config),
    STATE_U64(struct hpet_regs, status),
    STATE_U64(struct hpet_regs, counter),
    STATE_U64(struct hpet_regs, since_ns),
    STATE_U64(struct hpet_regs, checked),
    STATE_END,
};
static const struct state_desc hpet_state = {
    .name = "hpet",
    .version = 1,
    .base = offsetof(struct hpet, regs),
    .size = sizeof(struct hpet_regs),
    .fields = hpet_fields,
    .check = hpet_state_check,
};
static const struct device_type hpet_type = {
    .name = "hpet",
    .about = "high precision event timer",
    .threads = DEVICE_LOCKED,
    .destroy = hpet_destroy,
    .read = hpet_read,
    .write = hpet_write,
    .reset = hpet_reset,
    .loaded = hpet_loaded,
    .state = &hpet_state,
};

int hpet_create(struct machine *m, struct err *err)
{
    struct hpet *hpet = calloc(1, sizeof *hpet);
    if (!hpet)
        return err_set(err, ENOMEM, "out of memory");
    device_init(&hpet->dev, m, &hpet_type, "hpet");
    AUTO(device_destroy) struct device *dev = &hpet->dev;
    for (unsigned n = 0; n < TIMERS; n++) {
        irq_pin_init(&hpet->pins[n], m, 16);
        hpet->regs.timer[n].comparator = UINT64_MAX;
    }
    int r = guest_timer_create(m, hpet_expired, hpet, &hpet->timer, err);
    if (r == 0)
        r = map_device(m, SPACE_MEMORY, HPET_BASE, HPET_SIZE, dev, 0, PRIORITY, &hpet->map, err);
    if (r < 0)
        return err_prefix(err, "HPET");
    machine_add_device(m, TAKE(dev));
    return 0;
}
