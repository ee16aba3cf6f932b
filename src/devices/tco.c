/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The TCO timer of an ICH9: Intel's I/O Controller Hub 9 data sheet, section 13.9.
 *
 * It counts down in ticks of 0.6 s. Reaching zero it says so (TIMEOUT) and counts 2.4 s more; then
 * the machine is reset, unless No Reboot is set. Both statuses of the second time-out outlive a
 * reset, so that a driver can tell why it came. The chip counts from power-on, which firmware
 * stops; here counting begins with the first write to TCO_RLD, for a guest without a driver never
 * asks for a watchdog. No system management interrupt, no NMI, and no message registers for a
 * management controller.
 */
#include "devices/tco.h"

#include "base/log.h"
#include "machine/clock.h"
#include "machine/machine.h"

#include <stdlib.h>

enum {
    TCO_RLD = 0x00,
    TCO1_STS = 0x04,
    TCO2_STS = 0x06,
    TCO1_CNT = 0x08,
    TCO_TMR = 0x12,
};
enum { TIMEOUT = 1 << 3 };                      /* TCO1_STS */
enum { SECOND_TO = 1 << 1, BOOT_STS = 1 << 2 }; /* TCO2_STS */
enum { HALT = 1 << 11 };                        /* TCO1_CNT */
enum { TICKS_MASK = 0x3ff, TICKS_LEAST = 4, SECOND_TICKS = 4, PRIORITY = 10 };
#define TICK_NS 600000000ull

struct tco_regs {
    uint64_t deadline_ns; /* guest time at which `stage` ends; not while halted */
    uint16_t left;        /* ticks of `stage`, while halted */
    uint16_t ticks;       /* TCO_TMR: what a reload begins with */
    uint16_t control;     /* HALT */
    uint16_t second;      /* SECOND_TO, BOOT_STS */
    uint16_t timeout;     /* TIMEOUT, or none */
    uint16_t stage;       /* 0: not begun or over, 1, 2: after TIMEOUT */
    uint32_t no_reboot;
};

struct tco {
    struct device dev;
    struct tco_regs regs; /* dev.lock */
    struct guest_timer *timer;
    struct mapping *map; /* bus lock */
    uint32_t port;
};

/* ---- counting ---- */

static uint16_t ticks_left(const struct tco *tco)
{
    const struct tco_regs *regs = &tco->regs;
    uint64_t now = guest_now_ns(tco->dev.machine);
    if (!regs->stage)
        return 0;
    if (regs->control & HALT)
        return regs->left;
    return now < regs->deadline_ns ? (uint16_t)((regs->deadline_ns - now) / TICK_NS) & TICKS_MASK
                                   : 0;
}

static void stage_begin(struct tco *tco, unsigned stage, unsigned ticks)
{
    struct tco_regs *regs = &tco->regs;
    regs->stage = (uint16_t)stage;
    regs->left = (uint16_t)ticks;
    regs->deadline_ns = guest_now_ns(tco->dev.machine) + ticks * TICK_NS;
    if (stage && !(regs->control & HALT))
        guest_timer_arm(tco->timer, regs->deadline_ns);
    else
        guest_timer_disarm(tco->timer);
}

static void tco_expired(void *arg)
{
    struct tco *tco = arg;
    struct tco_regs *regs = &tco->regs;
    LOCKED(&tco->dev.lock);

    /* The guest may have reloaded or halted while we waited for the lock. */
    if (!regs->stage || (regs->control & HALT) ||
        guest_now_ns(tco->dev.machine) < regs->deadline_ns)
        return;
    if (regs->stage == 1) {
        regs->timeout = TIMEOUT;
        stage_begin(tco, 2, SECOND_TICKS);
        return;
    }
    stage_begin(tco, 0, 0);
    regs->second = SECOND_TO | BOOT_STS;
    if (!regs->no_reboot)
        machine_post_event(tco->dev.machine, MACHINE_WATCHDOG, tco->dev.id);
}

/* ---- registers, by bytes: every access size is right then ---- */

static uint16_t get(const struct tco *tco, unsigned reg)
{
    switch (reg) {
    case TCO_RLD: return ticks_left(tco);
    case TCO1_STS: return tco->regs.timeout;
    case TCO2_STS: return tco->regs.second;
    case TCO1_CNT: return tco->regs.control;
    case TCO_TMR: return tco->regs.ticks;
    }
    return 0;
}

static uint64_t tco_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        unsigned at = (unsigned)offset + i;
        value |= (uint64_t)(get((struct tco *)dev, at & ~1u) >> at % 2 * 8 & 0xff) << 8 * i;
    }
    return value;
}

static void halt(struct tco *tco, uint16_t control)
{
    struct tco_regs *regs = &tco->regs;
    unsigned left = ticks_left(tco);
    bool changes = regs->control != control;
    regs->control = control;
    if (changes)
        stage_begin(tco, regs->stage, left);
}

static void put_byte(struct tco *tco, unsigned at, uint8_t value)
{
    struct tco_regs *regs = &tco->regs;
    unsigned shift = at % 2 * 8, mask = 0xffu << shift, bits = (unsigned)value << shift;

    switch (at & ~1u) {
    case TCO_RLD: stage_begin(tco, 1, regs->ticks < TICKS_LEAST ? TICKS_LEAST : regs->ticks); break;
    case TCO1_STS: regs->timeout &= (uint16_t)~bits; break;
    case TCO2_STS: regs->second &= (uint16_t)~bits; break;
    case TCO1_CNT: halt(tco, (uint16_t)((regs->control & ~mask) | (bits & HALT))); break;
    case TCO_TMR:
        regs->ticks = (uint16_t)((regs->ticks & ~mask) | (bits & mask)) & TICKS_MASK;
        break;
    }
}

static void tco_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                      uint64_t value)
{
    for (unsigned i = 0; i < size; i++)
        put_byte((struct tco *)dev, (unsigned)offset + i, (uint8_t)(value >> 8 * i));
}

/* ---- for the LPC bridge ---- */

bool tco_no_reboot(struct device *dev)
{
    LOCKED(&dev->lock);
    return ((struct tco *)dev)->regs.no_reboot;
}

void tco_set_no_reboot(struct device *dev, bool on)
{
    LOCKED(&dev->lock);
    ((struct tco *)dev)->regs.no_reboot = on;
}

void tco_place(struct device *dev, uint32_t port)
{
    struct tco *tco = (struct tco *)dev;
    struct err err;

    if (port == tco->port)
        return;
    tco->port = port;
    map_remove(dev->machine, TAKE(tco->map));
    if (port &&
        map_device(dev->machine, SPACE_IO, port, TCO_LEN, dev, 0, PRIORITY, &tco->map, &err) < 0)
        log_guest("tco: ports cannot be at %#x: %s", port, err.text);
}

/* ---- life ---- */

static void tco_reset(struct device *dev)
{
    struct tco *tco = (struct tco *)dev;
    LOCKED(&dev->lock);
    tco->regs = (struct tco_regs){ .ticks = TICKS_LEAST, .second = tco->regs.second };
    guest_timer_disarm(tco->timer);
}

static int tco_loaded(struct device *dev, struct err *err)
{
    struct tco *tco = (struct tco *)dev;
    LOCKED(&dev->lock);
    if (tco->regs.stage && !(tco->regs.control & HALT))
        guest_timer_arm(tco->timer, tco->regs.deadline_ns);
    return 0;
}

static int tco_check(const void *state, struct err *err)
{
    const struct tco_regs *regs = state;
    if (regs->stage > 2 || regs->no_reboot > 1 || regs->left > TICKS_MASK ||
        regs->ticks > TICKS_MASK || (regs->control & ~HALT) || (regs->timeout & ~TIMEOUT) ||
        (regs->second & ~(SECOND_TO | BOOT_STS)))
        return err_set(err, EINVAL, "the TCO timer cannot be in the saved state");
    return 0;
}

static void tco_destroy(struct device *dev)
{
    struct tco *tco = (struct tco *)dev;
    guest_timer_destroy(tco->timer);
    map_remove(dev->machine, tco->map);
    device_fini(dev);
    free(tco);
}

static const struct state_field tco_fields[] = {
    STATE_U64(struct tco_regs, deadline_ns),
    STATE_U16(struct tco_regs, left),
    STATE_U16(struct tco_regs, ticks),
    STATE_U16(struct tco_regs, control),
    STATE_U16(struct tco_regs, second),
    STATE_U16(struct tco_regs, timeout),
    STATE_U16(struct tco_regs, stage),
    STATE_U32(struct tco_regs, no_reboot),
    STATE_END,
};
static const struct state_desc tco_state = {
    .name = "tco",
    .version = 1,
    .base = offsetof(struct tco, regs),
    .size = sizeof(struct tco_regs),
    .fields = tco_fields,
    .check = tco_check,
};
static const struct device_type tco_type = {
    .name = "tco",
    .about = "the ICH9's watchdog",
    .threads = DEVICE_LOCKED,
    .destroy = tco_destroy,
    .read = tco_read,
    .write = tco_write,
    .reset = tco_reset,
    .loaded = tco_loaded,
    .state = &tco_state,
    .late = true,
};

int tco_create(struct machine *m, struct device **out, struct err *err)
{
    struct tco *tco = calloc(1, sizeof *tco);
    if (!tco)
        return err_set(err, ENOMEM, "out of memory");
    device_init(&tco->dev, m, &tco_type, "tco");
    tco->regs.ticks = TICKS_LEAST;
    AUTO(device_destroy) struct device *dev = &tco->dev;

    int r = guest_timer_create(m, tco_expired, tco, &tco->timer, err);
    if (r < 0)
        return err_prefix(err, "TCO timer");
    *out = dev;
    machine_add_device(m, TAKE(dev));
    return 0;
}
