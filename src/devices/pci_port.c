/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A PCI Express root port, after PCI Express 3.0: the capability of 7.8, hot-plug of 6.7 with
 * presence, attention button, power controller and both indicators. Commands complete at once
 * (no "command completed" interrupts, 7.8.9). The identity is that of a generic port which all
 * systems drive by its class.
 *
 * What is in the slot shows on the bus only while the slot has power. The guest switches that in
 * Slot Control; the owner of the machine hears of it on the main loop, resets what gets power, and
 * takes out what was to leave.
 */
#include "devices/pci_port.h"

#include "base/checked.h"
#include "machine/machine.h"

#include <stdlib.h>

enum { BAR_MSIX = 0, BAR_SIZE = 4096, MSIX_PBA = 2048 };
enum { /* in the capability */
       EXP_FLAGS = 2,
       EXP_DEVCAP = 4,
       EXP_DEVCTL = 8,
       EXP_LNKCAP = 12,
       EXP_LNKCTL = 16,
       EXP_LNKSTA = 18,
       EXP_SLTCAP = 20,
       EXP_SLTCTL = 24,
       EXP_SLTSTA = 26,
       EXP_RTCTL = 28,
       EXP_LNKCAP2 = 44,
       EXP_SIZE = 60
};
enum { FLAGS = 2 | 4 << 4 | 1 << 8 }; /* version 2, root port, with a slot */
enum { LINK_SPEED_WIDTH = 1 | 1 << 4, LNKCAP_ACTIVE_REPORTING = 1 << 20, LNKSTA_ACTIVE = 1 << 13 };
enum {
    SLTCAP_BUTTON = 1 << 0,
    SLTCAP_POWER = 1 << 1,
    SLTCAP_INDICATORS = 3 << 3,
    SLTCAP_HOT_PLUG = 1 << 6,
    SLTCAP_NO_COMPLETION = 1 << 18,
    SLTCAP_NUMBER_SHIFT = 19
};
enum {
    SLTCTL_BUTTON = 1 << 0,
    SLTCTL_PRESENCE = 1 << 3,
    SLTCTL_INTERRUPT = 1 << 5,
    SLTCTL_ATTENTION_OFF = 3 << 6,
    SLTCTL_POWER_LED_ON = 1 << 8,
    SLTCTL_POWER_LED_BLINKS = 2 << 8,
    SLTCTL_POWER_LED_OFF = 3 << 8,
    SLTCTL_POWER_LED = 3 << 8,
    SLTCTL_POWER_OFF = 1 << 10,
    SLTCTL_LINK = 1 << 12,
    SLTCTL_BITS = 0x17ff
};
enum {
    SLTSTA_BUTTON = 1 << 0,
    SLTSTA_PRESENCE_CHANGED = 1 << 3,
    SLTSTA_PRESENT = 1 << 6,
    SLTSTA_LINK_CHANGED = 1 << 8,
    SLTSTA_EVENTS = SLTSTA_BUTTON | SLTSTA_PRESENCE_CHANGED | SLTSTA_LINK_CHANGED
};

struct port_regs {
    struct pci_regs pci;
    uint32_t shown;   /* what is in the slot is on the bus */
    uint32_t leaving; /* the guest was asked to let go of it */
};

struct pci_port {
    struct pci_device pci;
    struct port_regs regs;       /* bus lock */
    struct pci_device *occupant; /* bus lock; borrowed */
    unsigned exp;                /* offset of the capability */
    bool interrupt;              /* bus lock; derived: an enabled event is pending */
    void (*power)(void *arg, struct device *port, bool on);
    void *arg;
};

static struct pci_port *port_of(struct pci_device *pci)
{
    return CONTAINER_OF(pci, struct pci_port, pci);
}
static struct pci_port *port_of_device(struct device *dev) { return port_of(pci_device_of(dev)); }

/* ---- registers and events: with the bus lock ---- */

static uint32_t exp_get(const struct pci_port *port, unsigned offset)
{
    return pci_config_get(&port->pci, port->exp + offset, 2);
}

static void exp_set(struct pci_port *port, unsigned offset, uint32_t mask, uint32_t value)
{
    pci_config_status(&port->pci, port->exp + offset, 2, mask, value);
}

static bool has_power(const struct pci_port *port)
{
    return !(exp_get(port, EXP_SLTCTL) & SLTCTL_POWER_OFF);
}

/* An event interrupts if it and hot-plug interrupts are enabled (6.7.3.4): the pin follows that, a
 * message is sent when it becomes true. */
static void port_interrupt(struct pci_port *port)
{
    uint32_t control = exp_get(port, EXP_SLTCTL), status = exp_get(port, EXP_SLTSTA);
    bool event = (status & control & (SLTCTL_BUTTON | SLTCTL_PRESENCE)) ||
                 ((status & SLTSTA_LINK_CHANGED) && (control & SLTCTL_LINK));
    bool now = event && (control & SLTCTL_INTERRUPT);
    if (now && !port->interrupt)
        pci_msix_notify(&port->pci, 0);
    port->interrupt = now;
    pci_intx_set(&port->pci, now);
}

/* What is in the slot appears on the bus, or vanishes. */
static void port_show(struct pci_port *port, bool shown)
{
    if (port->regs.shown == shown)
        return;
    port->regs.shown = shown;
    exp_set(port, EXP_LNKSTA, LNKSTA_ACTIVE, shown ? LNKSTA_ACTIVE : 0);
    exp_set(port, EXP_SLTSTA, SLTSTA_LINK_CHANGED, SLTSTA_LINK_CHANGED);
    pci_link_changed(&port->pci);
}

static bool port_link_up(struct pci_device *pci) { return port_of(pci)->regs.shown; }

/* ---- power: what the guest switched is looked at on the main loop ---- */

void pci_port_check(struct device *dev)
{
    struct pci_port *port = port_of_device(dev);
    pci_bus_lock(port->pci.bus);
    bool on = has_power(port);
    bool wanted = on ? port->occupant && !port->regs.shown : port->regs.leaving;
    pci_bus_unlock(port->pci.bus);
    if (wanted)
        port->power(port->arg, dev, on);
}

static void port_check(void *arg) { pci_port_check(arg); }

static void port_config_written(struct pci_device *pci, unsigned offset, unsigned size)
{
    struct pci_port *port = port_of(pci);
    if (!ranges_overlap(offset, size, port->exp + EXP_SLTCTL, 4))
        return;
    if (!has_power(port))
        port_show(port, false);
    if (has_power(port) != port->regs.shown || port->regs.leaving)
        loop_post(pci->dev.machine->loop, port_check, &pci->dev);
    port_interrupt(port);
}

void pci_port_power_good(struct device *dev)
{
    struct pci_port *port = port_of_device(dev);
    pci_bus_lock(port->pci.bus);
    if (port->occupant && has_power(port))
        port_show(port, true);
    port_interrupt(port);
    pci_bus_unlock(port->pci.bus);
}

/* ---- plugging ---- */

struct pci_device *pci_port_occupant(struct device *dev) { return port_of_device(dev)->occupant; }

/* As after power-on: what is there has power. */
static void port_cold(struct pci_port *port)
{
    bool full = port->occupant;
    exp_set(port, EXP_SLTCTL, SLTCTL_BITS,
            SLTCTL_ATTENTION_OFF |
                (full ? SLTCTL_POWER_LED_ON : SLTCTL_POWER_LED_OFF | SLTCTL_POWER_OFF));
    exp_set(port, EXP_SLTSTA, SLTSTA_EVENTS | SLTSTA_PRESENT, full ? SLTSTA_PRESENT : 0);
    exp_set(port, EXP_LNKSTA, LNKSTA_ACTIVE, full ? LNKSTA_ACTIVE : 0);
    port->regs.shown = full;
    port->regs.leaving = 0;
    pci_link_changed(&port->pci);
    port_interrupt(port);
}

int pci_port_plug(struct device *dev, struct pci_device *pci, struct err *err)
{
    struct pci_port *port = port_of_device(dev);
    int r = pci_bus_add(port->pci.secondary, pci, 0, err);
    if (r < 0)
        return r;
    pci_bus_lock(port->pci.bus);
    port->occupant = pci;
    if (dev->machine->state == MACHINE_CREATED) {
        port_cold(port);
    } else {
        /* With the button pressed, too: of a slot that has one, systems wait for that. */
        const uint32_t events = SLTSTA_PRESENT | SLTSTA_PRESENCE_CHANGED | SLTSTA_BUTTON;
        exp_set(port, EXP_SLTSTA, events, events);
        if (has_power(port))
            port_show(port, true);
        port_interrupt(port);
    }
    pci_bus_unlock(port->pci.bus);
    return 0;
}

struct pci_device *pci_port_unplug(struct device *dev)
{
    struct pci_port *port = port_of_device(dev);
    pci_bus_lock(port->pci.bus);
    struct pci_device *pci = TAKE(port->occupant);
    port_show(port, false);
    port->regs.leaving = 0;
    exp_set(port, EXP_SLTSTA, SLTSTA_PRESENT | SLTSTA_PRESENCE_CHANGED, SLTSTA_PRESENCE_CHANGED);
    port_interrupt(port);
    pci_bus_unlock(port->pci.bus);
    return pci;
}

int pci_port_ask(struct device *dev, struct err *err)
{
    struct pci_port *port = port_of_device(dev);
    pci_bus_lock(port->pci.bus);
    /* While its light blinks the guest is at it, and pressing again would call it off. */
    bool asked = port->regs.leaving &&
                 (exp_get(port, EXP_SLTCTL) & SLTCTL_POWER_LED) == SLTCTL_POWER_LED_BLINKS;
    if (!asked) {
        port->regs.leaving = 1;
        exp_set(port, EXP_SLTSTA, SLTSTA_BUTTON, SLTSTA_BUTTON);
        port_interrupt(port);
    }
    bool off = !has_power(port);
    pci_bus_unlock(port->pci.bus);
    if (asked)
        return err_set(err, EBUSY, "the guest was asked for it already; wait, or remove by force");
    if (off)
        loop_post(dev->machine->loop, port_check, dev);
    return 0;
}

/* ---- life ---- */

static void port_reset(struct device *dev)
{
    struct pci_port *port = port_of_device(dev);
    pci_reset(&port->pci);
    pci_bus_lock(port->pci.bus);
    port_cold(port);
    pci_bus_unlock(port->pci.bus);
}

static int port_loaded(struct device *dev, struct err *err)
{
    struct pci_port *port = port_of_device(dev);
    int r = pci_loaded(&port->pci, err);
    if (r < 0)
        return r;
    pci_bus_lock(port->pci.bus);
    bool full = port->occupant;
    port->regs.shown = port->regs.shown && full && has_power(port);
    exp_set(port, EXP_SLTSTA, SLTSTA_PRESENT, full ? SLTSTA_PRESENT : 0);
    exp_set(port, EXP_LNKSTA, LNKSTA_ACTIVE, port->regs.shown ? LNKSTA_ACTIVE : 0);
    pci_link_changed(&port->pci);
    port->interrupt = true; /* a message was sent for what pends */
    port_interrupt(port);
    pci_bus_unlock(port->pci.bus);
    loop_post(dev->machine->loop, port_check, dev);
    return 0;
}

static int port_state_check(const void *state, struct err *err)
{
    const struct port_regs *regs = state;
    if (regs->shown > 1 || regs->leaving > 1)
        return err_set(err, EINVAL, "a root port cannot be in the saved state");
    return 0;
}

static void port_destroy(struct device *dev)
{
    struct pci_port *port = port_of_device(dev);
    pci_device_fini(&port->pci);
    free(port);
}

static const struct state_field port_fields[] = {
    STATE_STRUCT(struct port_regs, pci, &pci_state),
    STATE_U32(struct port_regs, shown),
    STATE_U32(struct port_regs, leaving),
    STATE_END,
};
static const struct state_desc port_state = {
    .name = "pci-port",
    .version = 1,
    .base = offsetof(struct pci_port, regs),
    .size = sizeof(struct port_regs),
    .fields = port_fields,
    .check = port_state_check,
};
static const struct device_type port_type = {
    .name = "pci-port",
    .about = "PCI Express root port with a hot-plug slot",
    .threads = DEVICE_LOCKED,
    .destroy = port_destroy,
    .reset = port_reset,
    .loaded = port_loaded,
    .state = &port_state,
};

static void port_add_express(struct pci_port *port, unsigned number)
{
    struct pci_device *pci = &port->pci;
    unsigned exp = pci_add_capability(pci, PCI_CAP_EXPRESS, EXP_SIZE);
    port->exp = exp;
    pci_config_init(pci, exp + EXP_FLAGS, 2, FLAGS, 0);
    pci_config_init(pci, exp + EXP_DEVCAP, 4, 0x8000, 0); /* error reporting by role */
    pci_config_init(pci, exp + EXP_DEVCTL, 2, 0, 0x00ff);
    pci_config_init(pci, exp + EXP_LNKCAP, 4,
                    LINK_SPEED_WIDTH | LNKCAP_ACTIVE_REPORTING | number << 24, 0);
    pci_config_init(pci, exp + EXP_LNKCTL, 2, 0, 0x00c3);
    pci_config_init(pci, exp + EXP_LNKSTA, 2, LINK_SPEED_WIDTH, 0);
    pci_config_status_init(pci, exp + EXP_LNKSTA, 2, LNKSTA_ACTIVE, 0);
    pci_config_init(pci, exp + EXP_SLTCAP, 4,
                    SLTCAP_BUTTON | SLTCAP_POWER | SLTCAP_INDICATORS | SLTCAP_HOT_PLUG |
                        SLTCAP_NO_COMPLETION | number << SLTCAP_NUMBER_SHIFT,
                    0);
    pci_config_init(pci, exp + EXP_SLTCTL, 2, 0, SLTCTL_BITS);
    pci_config_status_init(pci, exp + EXP_SLTCTL, 2, SLTCTL_BITS, 0);
    pci_config_status_init(pci, exp + EXP_SLTSTA, 2, SLTSTA_EVENTS | SLTSTA_PRESENT, SLTSTA_EVENTS);
    pci_config_init(pci, exp + EXP_RTCTL, 2, 0, 0x001f);
    pci_config_init(pci, exp + EXP_LNKCAP2, 4, 1 << 1, 0); /* 2.5 GT/s */
}

int pci_port_create(struct machine *m, struct pci_bus *bus, const struct pci_port_config *config,
                    struct device **out, struct err *err)
{
    static const struct pci_ids ids = {
        .vendor = 0x1b36, .device = 0x000c, .class_code = 0x060400, .interrupt_pin = 1
    };
    static const struct pci_ops ops = { .config_written = port_config_written,
                                        .link_up = port_link_up };
    enum { MULTI_FUNCTION = 0x80, BRIDGE = 1 };
    struct pci_port *port = calloc(1, sizeof *port);
    if (!port)
        return err_set(err, ENOMEM, "out of memory");
    pci_device_init(&port->pci, m, &port_type, config->id, &ids, &ops, &port->regs.pci);
    AUTO(device_destroy) struct device *dev = &port->pci.dev;
    port->power = config->power;
    port->arg = config->arg;
    pci_bar_add(&port->pci, BAR_MSIX, BAR_SIZE, 0);
    port_add_express(port, config->number);
    pci_msix_init(&port->pci, BAR_MSIX, 0, MSIX_PBA, 1);
    int r = pci_bridge_init(&port->pci, err);
    if (r == 0)
        pci_config_init(&port->pci, PCI_HEADER_TYPE, 1, BRIDGE | MULTI_FUNCTION, 0);
    if (r == 0)
        r = pci_bus_add_at(bus, &port->pci, config->devfn, err);
    if (r < 0)
        return err_prefix(err, "%s", config->id);
    pci_bus_lock(bus);
    port_cold(port);
    pci_bus_unlock(bus);
    *out = dev;
    machine_add_device(m, TAKE(dev));
    return 0;
}
