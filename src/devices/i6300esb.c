/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The watchdog timer of the Intel 6300ESB I/O controller hub.
 *
 * Follows the 6300ESB data sheet (order 300641), chapter 16. Two stages count down one after the
 * other: the first asks for an interrupt (INTA), the second resets the machine unless the guest
 * disabled that. Timers and control are unlocked by writing 0x80 and 0x86 to the reload register.
 * "SMI" as the first stage's action does nothing: there is no SMM handler. Deadlines are in guest
 * time, so a paused VM is never late.
 */
#include "devices/i6300esb.h"

#include "machine/clock.h"
#include "machine/machine.h"

#include <stdlib.h>

enum { CONFIG = 0x60, LOCK = 0x68 }; /* in configuration space */
enum { CONFIG_INT_MASK = 3, CONFIG_INT_IRQ = 0, CONFIG_FAST = 4, CONFIG_NO_REBOOT = 0x20 };
enum { LOCK_LOCKED = 1, LOCK_ENABLE = 2, LOCK_FREE_RUN = 4 };
enum { TIMER1 = 0x00, TIMER2 = 0x04, INTERRUPT_STATUS = 0x08, RELOAD = 0x0c, BAR_SIZE = 0x10 };
enum { RELOAD_PING = 0x100, RELOAD_TIMEOUT = 0x200, UNLOCK1 = 0x80, UNLOCK2 = 0x86 };
enum { PRELOAD_MASK = 0xfffff, STOPPED = 0 };

struct esb_regs {
    struct pci_regs pci;
    uint64_t deadline_ns; /* guest time at which `stage` ends */
    uint32_t preload[2];  /* bus lock outside, dev.lock inside: all of these need dev.lock */
    uint8_t stage;        /* 0: stopped, 1, 2 */
    uint8_t unlock;       /* how much of the unlock sequence was seen; 2: the next write counts */
    uint8_t interrupt;    /* stage 1 expired; write 1 to clear */
    uint8_t timed_out;    /* stage 2 expired once */
    uint8_t config;       /* what CONFIG and LOCK said when last written */
    uint8_t lock;
    uint16_t no_reboot;
};

struct esb {
    struct pci_device pci;
    struct esb_regs regs; /* dev.lock; regs.pci as pci.h says */
    struct guest_timer *timer;
};

/* ---- Counting ---- */

/* One count is 2^15 or, fast, 2^5 periods of the 33 MHz PCI clock. */
static uint64_t stage_ns(const struct esb_regs *regs, unsigned stage)
{
    uint64_t counts = (uint64_t)regs->preload[stage - 1] + 1;
    return (counts << (regs->config & CONFIG_FAST ? 5 : 15)) * 1000 / 33;
}

static void stage_begin(struct esb *esb, unsigned stage)
{
    esb->regs.stage = (uint8_t)stage;
    if (stage == STOPPED) {
        guest_timer_disarm(esb->timer);
        return;
    }
    esb->regs.deadline_ns = guest_now_ns(esb->pci.dev.machine) + stage_ns(&esb->regs, stage);
    guest_timer_arm(esb->timer, esb->regs.deadline_ns);
}

static void stage1_end(struct esb *esb)
{
    if ((esb->regs.config & CONFIG_INT_MASK) == CONFIG_INT_IRQ) {
        esb->regs.interrupt = 1;
        pci_intx_set(&esb->pci, true);
    }
    stage_begin(esb, esb->regs.lock & LOCK_FREE_RUN ? 1 : 2);
}

static void stage2_end(struct esb *esb)
{
    esb->regs.timed_out = 1;
    stage_begin(esb, STOPPED);
    if (!esb->regs.no_reboot)
        machine_post_event(esb->pci.dev.machine, MACHINE_WATCHDOG, esb->pci.dev.id);
}

static void esb_expired(void *arg)
{
    struct esb *esb = arg;
    LOCKED(&esb->pci.dev.lock);

    /* The guest may have pinged while we waited for the lock. */
    if (esb->regs.stage == STOPPED || guest_now_ns(esb->pci.dev.machine) < esb->regs.deadline_ns)
        return;
    if (esb->regs.stage == 1)
        stage1_end(esb);
    else
        stage2_end(esb);
}

/* ---- Configuration space ---- */

/* Bus lock held. Once locked, only a reset unlocks; CONFIG stays as it was when the watchdog was
 * enabled. */
static void esb_config_written(struct pci_device *pci, unsigned offset, unsigned size)
{
    struct esb *esb = (struct esb *)pci;
    struct esb_regs *regs = &esb->regs;
    LOCKED(&pci->dev.lock);

    if (regs->lock & LOCK_LOCKED) {
        regs->pci.config[LOCK] = regs->lock;
    } else {
        uint8_t was = regs->lock;
        regs->lock = regs->pci.config[LOCK];
        if (regs->lock & ~was & LOCK_ENABLE)
            stage_begin(esb, 1);
        else if (was & ~regs->lock & LOCK_ENABLE)
            stage_begin(esb, STOPPED);
    }
    regs->config = regs->pci.config[CONFIG];
    regs->no_reboot = !!(regs->config & CONFIG_NO_REBOOT);
}

/* ---- Registers ---- */

static uint64_t esb_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    const struct esb_regs *regs = &((struct esb *)dev)->regs;
    switch (offset) {
    case INTERRUPT_STATUS: return regs->interrupt;
    case RELOAD: return regs->timed_out ? RELOAD_TIMEOUT : 0;
    }
    return 0;
}

static void esb_unlocked_write(struct esb *esb, uint64_t offset, uint32_t value)
{
    struct esb_regs *regs = &esb->regs;
    switch (offset) {
    case TIMER1:
    case TIMER2: regs->preload[offset / 4] = value & PRELOAD_MASK; break;
    case RELOAD:
        if (value & RELOAD_TIMEOUT)
            regs->timed_out = 0;
        if ((value & RELOAD_PING) && (regs->lock & LOCK_ENABLE))
            stage_begin(esb, 1);
        break;
    }
}

static void esb_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                      uint64_t value)
{
    struct esb *esb = (struct esb *)dev;
    struct esb_regs *regs = &esb->regs;

    if (offset == INTERRUPT_STATUS) {
        if (value & 1) {
            regs->interrupt = 0;
            pci_intx_set(&esb->pci, false);
        }
    } else if (offset == RELOAD && value == UNLOCK1) {
        regs->unlock = 1;
    } else if (offset == RELOAD && value == UNLOCK2 && regs->unlock == 1) {
        regs->unlock = 2;
    } else {
        if (regs->unlock == 2)
            esb_unlocked_write(esb, offset, (uint32_t)value);
        regs->unlock = 0;
    }
}

/* ---- Life ---- */

static void esb_power_on(struct esb_regs *regs)
{
    regs->deadline_ns = 0;
    regs->preload[0] = regs->preload[1] = PRELOAD_MASK;
    regs->stage = STOPPED;
    regs->unlock = regs->interrupt = regs->config = regs->lock = 0;
    regs->no_reboot = 0;
}

/* That the second stage expired survives the reset which it causes, so that the guest can see why
 * it booted. */
static void esb_reset(struct device *dev)
{
    struct esb *esb = (struct esb *)dev;
    guest_timer_disarm(esb->timer);
    esb_power_on(&esb->regs);
    pci_reset(&esb->pci);
}

static int esb_loaded(struct device *dev, struct err *err)
{
    struct esb *esb = (struct esb *)dev;
    int r = pci_loaded(&esb->pci, err);
    if (r < 0)
        return r;
    pci_intx_set(&esb->pci, esb->regs.interrupt);
    if (esb->regs.stage != STOPPED)
        guest_timer_arm(esb->timer, esb->regs.deadline_ns);
    return 0;
}

static int esb_check(const void *state, struct err *err)
{
    const struct esb_regs *regs = state;
    if (regs->stage > 2 || regs->unlock > 2 || regs->interrupt > 1 || regs->timed_out > 1 ||
        regs->preload[0] > PRELOAD_MASK || regs->preload[1] > PRELOAD_MASK)
        return err_set(err, EINVAL, "the watchdog cannot be in the saved state");
    return 0;
}

static void esb_destroy(struct device *dev)
{
    struct esb *esb = (struct esb *)dev;
    guest_timer_destroy(esb->timer);
    pci_device_fini(&esb->pci);
    free(esb);
}

static const struct state_field esb_fields[] = {
    STATE_STRUCT(struct esb_regs, pci, &pci_state),
    STATE_U64(struct esb_regs, deadline_ns),
    STATE_UINTS(struct esb_regs, preload),
    STATE_U8(struct esb_regs, stage),
    STATE_U8(struct esb_regs, unlock),
    STATE_U8(struct esb_regs, interrupt),
    STATE_U8(struct esb_regs, timed_out),
    STATE_U8(struct esb_regs, config),
    STATE_U8(struct esb_regs, lock),
    STATE_U16(struct esb_regs, no_reboot),
    STATE_END,
};
static const struct state_desc esb_state = {
    .name = "i6300esb",
    .version = 1,
    .base = offsetof(struct esb, regs),
    .size = sizeof(struct esb_regs),
    .fields = esb_fields,
    .check = esb_check,
};
static const struct device_type esb_type = {
    .name = "i6300esb",
    .about = "watchdog that resets a guest which stopped responding",
    .threads = DEVICE_LOCKED,
    .destroy = esb_destroy,
    .read = esb_read,
    .write = esb_write,
    .reset = esb_reset,
    .loaded = esb_loaded,
    .state = &esb_state,
};

int i6300esb_create(struct machine *m, struct pci_bus *bus, int slot, const char *id,
                    struct err *err)
{
    static const struct pci_ids ids = {
        .vendor = 0x8086,
        .device = 0x25ab,
        .class_code = 0x088000,
        .interrupt_pin = 1,
    };
    static const struct pci_ops ops = { .config_written = esb_config_written };
    struct esb *esb = calloc(1, sizeof *esb);
    if (!esb)
        return err_set(err, ENOMEM, "out of memory");
    pci_device_init(&esb->pci, m, &esb_type, id, &ids, &ops, &esb->regs.pci);
    AUTO(device_destroy) struct device *dev = &esb->pci.dev;
    pci_bar_add(&esb->pci, 0, BAR_SIZE, 0);
    pci_config_init(&esb->pci, CONFIG, 2, 0, CONFIG_INT_MASK | CONFIG_FAST | CONFIG_NO_REBOOT);
    pci_config_init(&esb->pci, LOCK, 1, 0, LOCK_LOCKED | LOCK_ENABLE | LOCK_FREE_RUN);
    esb_power_on(&esb->regs);

    int r = guest_timer_create(m, esb_expired, esb, &esb->timer, err);
    if (r >= 0)
        r = pci_bus_add(bus, &esb->pci, slot, err);
    if (r < 0)
        return r;
    machine_add_device(m, TAKE(dev));
    return 0;
}
