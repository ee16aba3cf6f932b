/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The PCI core: configuration space of every function, and the buses behind bridges. What a
 * function's registers mean is elsewhere: pci_bar.c, pci_irq.c; pci_assign.c does what a firmware
 * would.
 *
 * Follows PCI Local Bus 3.0 (chapter 6), the PCI-to-PCI bridge specification 1.2 (chapter 3.2 for
 * the registers) and, for the extended configuration space, PCI Express. All buses of a machine
 * share the root's lock.
 *
 * Invariants (2 is in pci_bar.c, 3 in pci_irq.c)
 *  1. regs->config differs from power_on only in writable and varying bits. So whatever is read
 * back was put there by us or is something that the guest may choose; pci_loaded refuses state that
 * breaks this.
 */
#include "devices/pci_priv.h"

#include "base/checked.h"
#include "machine/machine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t *bus_lock(struct pci_bus *bus) { return &bus->root->lock; }
void pci_bus_lock(struct pci_bus *bus) { pthread_mutex_lock(bus_lock(bus)); }
void pci_bus_unlock(struct pci_bus *bus) { pthread_mutex_unlock(bus_lock(bus)); }

/* ---- Configuration bytes. Stores are atomic because the functions for any thread look without the
 * bus lock. ---- */

static uint8_t *config_byte(const struct pci_device *pci, unsigned offset)
{
    assert(offset < PCI_EXT_CONFIG_SIZE);
    return offset < PCI_CONFIG_SIZE ? &pci->regs->config[offset]
                                    : &pci->regs->config_ext[offset - PCI_CONFIG_SIZE];
}

uint32_t pci_config_get(const struct pci_device *pci, unsigned offset, unsigned size)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint32_t)__atomic_load_n(config_byte(pci, offset + i), __ATOMIC_ACQUIRE) << 8 * i;
    return value;
}

void pci_config_put(struct pci_device *pci, unsigned offset, unsigned size, uint32_t value)
{
    for (unsigned i = 0; i < size; i++)
        __atomic_store_n(config_byte(pci, offset + i), (uint8_t)(value >> 8 * i), __ATOMIC_RELEASE);
}

void pci_config_status(struct pci_device *pci, unsigned offset, unsigned size, uint32_t mask,
                       uint32_t value)
{
    for (unsigned i = 0; i < size; i++)
        assert(!((mask >> 8 * i & 0xff) & ~pci->varies[offset + i]));
    pci_config_put(pci, offset, size, (pci_config_get(pci, offset, size) & ~mask) | (value & mask));
}

/* A bridge passes messages and DMA up only as a bus master. */
bool pci_bus_master(const struct pci_device *pci)
{
    for (; pci; pci = pci->bus ? pci->bus->bridge : NULL)
        if (!(pci_config_get(pci, PCI_COMMAND, 2) & PCI_COMMAND_MASTER))
            return false;
    return true;
}

bool pci_link_up(struct pci_device *bridge)
{
    return !bridge->ops->link_up || bridge->ops->link_up(bridge);
}

/* ---- Building a function ---- */

void pci_config_init(struct pci_device *pci, unsigned offset, unsigned size, uint32_t value,
                     uint32_t writable)
{
    for (unsigned i = 0; i < size; i++) {
        pci->power_on[offset + i] = (uint8_t)(value >> 8 * i);
        pci->writable[offset + i] = (uint8_t)(writable >> 8 * i);
    }
    pci_config_put(pci, offset, size, value);
}

void pci_device_init(struct pci_device *pci, struct machine *m, const struct device_type *type,
                     const char *id, const struct pci_ids *ids, const struct pci_ops *ops,
                     struct pci_regs *regs)
{
    static const struct pci_ops no_ops;
    memset(pci, 0, sizeof *pci);
    memset(regs, 0, sizeof *regs);
    device_init(&pci->dev, m, type, id);
    pci->ops = ops ? ops : &no_ops;
    pci->regs = regs;
    pthread_mutex_init(&pci->irq_lock, NULL);
    device_init(&pci->msix_dev, m, &pci_msix_type, id);
    pci_msix_power_on(regs);
    pci->cap_end = 0x40;

    pci_config_init(pci, PCI_VENDOR_ID, 2, ids->vendor, 0);
    pci_config_init(pci, PCI_DEVICE_ID, 2, ids->device, 0);
    pci_config_init(pci, PCI_COMMAND, 2, 0,
                    PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
                        PCI_COMMAND_INTX_DISABLE);
    pci_config_init(pci, PCI_REVISION_ID, 1, ids->revision, 0);
    pci_config_init(pci, PCI_CLASS_PROG, 1, ids->class_code, 0);
    pci_config_init(pci, PCI_CLASS_DEVICE, 2, ids->class_code >> 8, 0);
    pci_config_init(pci, PCI_CACHE_LINE_SIZE, 1, 0, 0xff);
    pci_config_init(pci, PCI_SUBSYSTEM_VENDOR_ID, 2, ids->subsystem_vendor, 0);
    pci_config_init(pci, PCI_SUBSYSTEM_ID, 2, ids->subsystem, 0);
    pci_config_init(pci, PCI_INTERRUPT_LINE, 1, 0, 0xff);
    pci_config_init(pci, PCI_INTERRUPT_PIN, 1, ids->interrupt_pin, 0);
}

void pci_device_fini(struct pci_device *pci)
{
    pci_bus_destroy(pci->secondary);
    if (pci->bus) {
        LOCKED(bus_lock(pci->bus));
        for (unsigned b = 0; b < DECODERS; b++)
            pci_bar_unmap(pci, b);
        pci->bus->functions[pci->devfn] = NULL;
    }
    pci_intx_set(pci, false);
    device_fini(&pci->msix_dev);
    pthread_mutex_destroy(&pci->irq_lock);
    device_fini(&pci->dev);
}

void pci_config_status_init(struct pci_device *pci, unsigned offset, unsigned size, uint32_t varies,
                            uint32_t clears)
{
    assert(offset + size <= PCI_CONFIG_SIZE && !(clears & ~varies));
    for (unsigned i = 0; i < size; i++) {
        pci->varies[offset + i] = (uint8_t)(varies >> 8 * i);
        pci->clears[offset + i] = (uint8_t)(clears >> 8 * i);
    }
}

int pci_bridge_init(struct pci_device *pci, struct err *err)
{
    assert(!pci->bus && !pci->bars[2].size && !pci->bars[ROM].size);
    int r = pci_bus_create(&pci->secondary, err);
    if (r < 0)
        return r;
    pci->secondary->bridge = pci;
    pci_config_init(pci, PCI_HEADER_TYPE, 1, 1, 0);
    pci_config_init(pci, PCI_PRIMARY_BUS, 4, 0, 0x00ffffff);
    pci_config_init(pci, PCI_MEMORY_BASE, 4, 0, 0xfff0fff0);
    pci_config_init(pci, PCI_PREF_BASE, 4, 0x00010001, 0xfff0fff0); /* of 64 bits */
    pci_config_init(pci, PCI_PREF_BASE_HIGH, 4, 0, UINT32_MAX);
    pci_config_init(pci, PCI_PREF_LIMIT_HIGH, 4, 0, UINT32_MAX);
    pci->writable[PCI_COMMAND] |= PCI_COMMAND_MEMORY;
    return 0;
}

unsigned pci_add_capability(struct pci_device *pci, uint8_t id, unsigned len)
{
    unsigned offset = pci->cap_end;
    assert(!pci->bus && len >= 2 && offset + len <= PCI_CONFIG_SIZE);

    pci->cap_end = (unsigned)round_up(offset + len, 4);
    pci_config_init(pci, offset, 1, id, 0);
    pci_config_init(pci, offset + 1, 1, pci->power_on[PCI_CAPABILITY_LIST], 0);
    pci_config_init(pci, PCI_CAPABILITY_LIST, 1, offset, 0);
    pci_config_init(pci, PCI_STATUS, 1, PCI_STATUS_CAP_LIST, 0);
    return offset;
}

/* Pins turn by the slot at each bridge (bridge specification, 9.1). */
unsigned pci_function_gsi(const struct pci_device *pci, unsigned pin)
{
    unsigned slot = pci->devfn >> 3;
    for (const struct pci_device *bridge = pci->bus->bridge; bridge; bridge = bridge->bus->bridge) {
        pin = (pin - 1 + slot) % 4 + 1;
        slot = bridge->devfn >> 3;
    }
    return pci_intx_gsi(slot, pin);
}

/* Caller holds the bus lock. */
static int bus_join(struct pci_bus *bus, struct pci_device *pci, unsigned devfn, struct err *err)
{
    assert(!pci->bus && devfn < FUNCTIONS);
    if (bus->functions[devfn])
        return err_set(err, EBUSY, "%s: PCI slot %u is taken by %s", pci->dev.id, devfn >> 3,
                       bus->functions[devfn]->dev.id);
    pci->bus = bus;
    pci->devfn = devfn;
    bus->functions[devfn] = pci;
    if (pci->secondary)
        pci->secondary->root = bus->root;
    unsigned pin = pci->power_on[PCI_INTERRUPT_PIN];
    if (pin)
        irq_pin_init(&pci->pin, pci->dev.machine, pci_function_gsi(pci, pin));
    return 0;
}

int pci_bus_add_at(struct pci_bus *bus, struct pci_device *pci, unsigned devfn, struct err *err)
{
    LOCKED(bus_lock(bus));
    return bus_join(bus, pci, devfn, err);
}

int pci_bus_add(struct pci_bus *bus, struct pci_device *pci, int slot, struct err *err)
{
    LOCKED(bus_lock(bus));
    if (slot < 0)
        for (slot = 1; slot < 32 && bus->functions[slot << 3];)
            slot++;
    if (slot > 31)
        return err_set(err, ENOSPC, "%s: all 32 PCI slots are taken", pci->dev.id);
    return bus_join(bus, pci, (unsigned)slot << 3, err);
}

/* ---- Reset and state ---- */

void pci_reset(struct pci_device *pci)
{
    assert(pci->bus);
    LOCKED(bus_lock(pci->bus));
    for (unsigned i = 0; i < PCI_EXT_CONFIG_SIZE; i++)
        pci_config_put(pci, i, 1, pci->power_on[i]);
    pci_bars_update(pci->bus);

    LOCKED(&pci->irq_lock);
    pci_msix_power_on(pci->regs);
    pci->intx_level = false;
    pci_intx_update(pci);
}

int pci_loaded(struct pci_device *pci, struct err *err)
{
    assert(pci->bus);
    LOCKED(bus_lock(pci->bus));
    for (unsigned i = 0; i < PCI_EXT_CONFIG_SIZE; i++)
        if ((pci_config_get(pci, i, 1) ^ pci->power_on[i]) &
            ~(pci->writable[i] | (i < PCI_CONFIG_SIZE ? pci->varies[i] : 0u)) & 0xff) {
            uint8_t saved = (uint8_t)pci_config_get(pci, i, 1);
            pci_config_init(pci, i, 1, pci->power_on[i], pci->writable[i]);
            return err_set(err, EINVAL,
                           "the saved PCI device is a different one: configuration byte 0x%x is "
                           "0x%02x where this device has 0x%02x",
                           i, saved, pci->power_on[i]);
        }
    pci_msix_loaded(pci->regs);
    pci_bars_update(pci->bus);

    LOCKED(&pci->irq_lock);
    pci->intx_level = false;
    pci_intx_update(pci);
    return 0;
}

/* ---- The bus ---- */

int pci_bus_create(struct pci_bus **out, struct err *err)
{
    struct pci_bus *bus = calloc(1, sizeof *bus);
    if (!bus)
        return err_set(err, ENOMEM, "out of memory");
    bus->root = bus;
    pthread_mutex_init(&bus->lock, NULL);
    *out = bus;
    return 0;
}

void pci_bus_destroy(struct pci_bus *bus)
{
    if (!bus)
        return;
    for (unsigned i = 0; i < FUNCTIONS; i++)
        assert(!bus->functions[i]);
    pthread_mutex_destroy(&bus->lock);
    free(bus);
}

struct pci_device *pci_bus_device(struct pci_bus *bus, unsigned devfn)
{
    LOCKED(bus_lock(bus));
    return devfn < FUNCTIONS ? bus->functions[devfn] : NULL;
}

static bool config_cycle_ok(unsigned devfn, unsigned offset, unsigned size)
{
    return devfn < FUNCTIONS && (size == 1 || size == 2 || size == 4) && offset % 4 + size <= 4 &&
           offset < PCI_EXT_CONFIG_SIZE;
}

static uint32_t function_read(struct pci_device *pci, unsigned offset, unsigned size)
{
    if (!pci)
        return UINT32_MAX;
    if (pci->ops->config_read)
        pci->ops->config_read(pci, offset, size);
    uint32_t value = pci_config_get(pci, offset, size);
    if (ranges_overlap(offset, size, PCI_STATUS, 1)) {
        LOCKED(&pci->irq_lock);
        value |= (pci->intx_level ? (uint32_t)PCI_STATUS_INTX : 0) << 8 * (PCI_STATUS - offset);
    }
    return value;
}

static void function_write(struct pci_device *pci, unsigned offset, unsigned size, uint32_t value)
{
    if (!pci)
        return;
    for (unsigned i = 0; i < size; i++) {
        uint8_t mask = pci->writable[offset + i], byte = (uint8_t)(value >> 8 * i);
        uint8_t clear = offset + i < PCI_CONFIG_SIZE ? pci->clears[offset + i] & byte : 0;
        pci_config_put(pci, offset + i, 1,
                       (pci_config_get(pci, offset + i, 1) & ~(mask | clear)) | (byte & mask));
    }

    bool command = ranges_overlap(offset, size, PCI_COMMAND, 2);
    unsigned decoding = pci->secondary ? PCI_PREF_LIMIT_HIGH + 4 - PCI_BAR0 : 4 * PCI_BARS;
    if (command || ranges_overlap(offset, size, PCI_BAR0, decoding) ||
        ranges_overlap(offset, size, PCI_EXPANSION_ROM, 4))
        pci_bars_update(pci->bus);
    bool msix = pci->msix_cap && ranges_overlap(offset, size, pci->msix_cap + MSIX_CONTROL, 2);
    if (command || msix) {
        LOCKED(&pci->irq_lock);
        pci_intx_update(pci);
        if (msix && pci_msix_enabled(pci))
            pci_msix_send_pending(pci, 0, pci->msix_vectors);
    }
    if (pci->ops->config_written)
        pci->ops->config_written(pci, offset, size);
}

uint32_t pci_config_read(struct pci_bus *bus, unsigned devfn, unsigned offset, unsigned size)
{
    if (!config_cycle_ok(devfn, offset, size))
        return UINT32_MAX;
    LOCKED(bus_lock(bus));
    return function_read(bus->functions[devfn], offset, size);
}

void pci_config_write(struct pci_bus *bus, unsigned devfn, unsigned offset, unsigned size,
                      uint32_t value)
{
    if (!config_cycle_ok(devfn, offset, size))
        return;
    LOCKED(bus_lock(bus));
    function_write(bus->functions[devfn], offset, size, value);
}

/* The bus of that number behind the bridges of `bus`; NULL: no bridge passes it on. Numbers are the
 * guest's: each step goes one bus down, so nonsense ends, too. */
static struct pci_bus *bus_numbered(struct pci_bus *bus, unsigned number)
{
    for (unsigned i = 0; i < FUNCTIONS; i++) {
        struct pci_device *pci = bus->functions[i];
        if (!pci || !pci->secondary || !pci_link_up(pci) ||
            number < pci_config_get(pci, PCI_SECONDARY_BUS, 1) ||
            number > pci_config_get(pci, PCI_SUBORDINATE_BUS, 1))
            continue;
        return number == pci_config_get(pci, PCI_SECONDARY_BUS, 1)
                   ? pci->secondary
                   : bus_numbered(pci->secondary, number);
    }
    return NULL;
}

uint32_t pci_cycle_read(struct pci_bus *root, unsigned number, unsigned devfn, unsigned offset,
                        unsigned size)
{
    if (!number)
        return pci_config_read(root, devfn, offset, size);
    if (!config_cycle_ok(devfn, offset, size))
        return UINT32_MAX;
    LOCKED(bus_lock(root));
    struct pci_bus *bus = bus_numbered(root, number);
    return bus ? function_read(bus->functions[devfn], offset, size) : UINT32_MAX;
}

void pci_cycle_write(struct pci_bus *root, unsigned number, unsigned devfn, unsigned offset,
                     unsigned size, uint32_t value)
{
    if (!number) {
        pci_config_write(root, devfn, offset, size, value);
        return;
    }
    if (!config_cycle_ok(devfn, offset, size))
        return;
    LOCKED(bus_lock(root));
    struct pci_bus *bus = bus_numbered(root, number);
    if (bus)
        function_write(bus->functions[devfn], offset, size, value);
}

static const struct state_field pci_fields[] = {
    STATE_BYTES(struct pci_regs, config),
    STATE_BYTES(struct pci_regs, config_ext),
    STATE_UINTS(struct pci_regs, msix_table),
    STATE_UINTS(struct pci_regs, msix_pba),
    STATE_END,
};
const struct state_desc pci_state = {
    .name = "pci",
    .version = 1,
    .size = sizeof(struct pci_regs),
    .fields = pci_fields,
};
