/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The PCI core: configuration space, BAR decoding, MSI-X and INTx for every function, and the buses
 * behind bridges.
 *
 * Follows PCI Local Bus 3.0 (chapter 6; 6.8.2 for MSI-X), the PCI-to-PCI bridge specification 1.2
 * (chapter 3.2 for the registers) and, for the extended configuration space, PCI Express. All buses
 * of a machine share the root's lock.
 *
 * Invariants
 *  1. regs->config differs from power_on only in writable and varying bits. So whatever is read
 * back was put there by us or is something that the guest may choose; pci_loaded refuses state that
 * breaks this.
 *  2. A BAR is mapped exactly if its decoding bit is set, its address is sensible, all bridges
 * above it pass that on and no other BAR is in the way. BARs have the lowest priority of the
 * address map: they never cover RAM or a chip of the board.
 *  3. The INTx bit of the status register and the pin's level are derived, never stored.
 */
#include "devices/pci.h"

#include "base/checked.h"
#include "base/log.h"
#include "machine/machine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { PRIORITY_BAR = 0, PRIORITY_MSIX = 1 };
enum { FUNCTIONS = 256, ROM = PCI_BARS, DECODERS = PCI_BARS + 1, ROM_ENABLE = 1 };
enum {
    MSIX_CONTROL = 2,
    MSIX_ENABLE = 1 << 15,
    MSIX_FUNCTION_MASK = 1 << 14
}; /* in the capability */
enum { MSIX_REGION_TABLE, MSIX_REGION_PBA };
enum {
    ENTRY_ADDRESS,
    ENTRY_ADDRESS_HIGH,
    ENTRY_DATA,
    ENTRY_CONTROL,
    ENTRY_WORDS
}; /* of the table */
enum { ENTRY_MASKED = 1 };

struct pci_bus {
    struct machine *machine;
    struct pci_bus *root;
    struct pci_device *bridge; /* NULL: this is the root */
    pthread_mutex_t lock;      /* the root's is used */
    struct pci_device *functions[FUNCTIONS];
};

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

static uint32_t config_get(const struct pci_device *pci, unsigned offset, unsigned size)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint32_t)__atomic_load_n(config_byte(pci, offset + i), __ATOMIC_ACQUIRE) << 8 * i;
    return value;
}

static void config_put(struct pci_device *pci, unsigned offset, unsigned size, uint32_t value)
{
    for (unsigned i = 0; i < size; i++)
        __atomic_store_n(config_byte(pci, offset + i), (uint8_t)(value >> 8 * i), __ATOMIC_RELEASE);
}

/* ---- INTx and MSI-X ---- */

uint32_t pci_config_get(const struct pci_device *pci, unsigned offset, unsigned size)
{
    return config_get(pci, offset, size);
}

void pci_config_status(struct pci_device *pci, unsigned offset, unsigned size, uint32_t mask,
                       uint32_t value)
{
    for (unsigned i = 0; i < size; i++)
        assert(!((mask >> 8 * i & 0xff) & ~pci->varies[offset + i]));
    config_put(pci, offset, size, (config_get(pci, offset, size) & ~mask) | (value & mask));
}

/* A bridge passes messages and DMA up only as a bus master. */
bool pci_bus_master(const struct pci_device *pci)
{
    for (; pci; pci = pci->bus ? pci->bus->bridge : NULL)
        if (!(config_get(pci, PCI_COMMAND, 2) & PCI_COMMAND_MASTER))
            return false;
    return true;
}

static unsigned msix_control(const struct pci_device *pci)
{
    return pci->msix_cap ? config_get(pci, pci->msix_cap + MSIX_CONTROL, 2) : 0;
}

bool pci_msix_enabled(const struct pci_device *pci) { return msix_control(pci) & MSIX_ENABLE; }

/* A function uses either MSI-X or its pin (PCI 3.0, 6.8.2). Caller holds irq_lock. */
static void intx_update(struct pci_device *pci)
{
    if (pci->pin.machine)
        irq_pin_set(&pci->pin, pci->intx_level && !pci_msix_enabled(pci) &&
                                   !(config_get(pci, PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE));
}

void pci_intx_set(struct pci_device *pci, bool level)
{
    LOCKED(&pci->irq_lock);
    pci->intx_level = level;
    intx_update(pci);
}

static bool msix_can_send(const struct pci_device *pci, unsigned vector)
{
    return (msix_control(pci) & (MSIX_ENABLE | MSIX_FUNCTION_MASK)) == MSIX_ENABLE &&
           !(pci->regs->msix_table[vector * ENTRY_WORDS + ENTRY_CONTROL] & ENTRY_MASKED);
}

static void msix_send(struct pci_device *pci, unsigned vector)
{
    const uint32_t *entry = &pci->regs->msix_table[vector * ENTRY_WORDS];
    uint64_t address = (uint64_t)entry[ENTRY_ADDRESS_HIGH] << 32 | entry[ENTRY_ADDRESS];

    /* A message is a memory write by the function: without bus mastering it does not happen. */
    if (pci_bus_master(pci))
        msi_send(pci->dev.machine, address, entry[ENTRY_DATA]);
}

void pci_msix_notify(struct pci_device *pci, unsigned vector)
{
    if (vector >= pci->msix_vectors || !pci_msix_enabled(pci))
        return;
    LOCKED(&pci->irq_lock);
    if (msix_can_send(pci, vector))
        msix_send(pci, vector);
    else
        pci->regs->msix_pba[vector / 64] |= 1ull << vector % 64;
}

/* Sends what pends and is masked no longer. Caller holds irq_lock. */
static void msix_send_pending(struct pci_device *pci, unsigned first, unsigned last)
{
    for (unsigned vector = first; vector <= last && vector < pci->msix_vectors; vector++) {
        uint64_t *word = &pci->regs->msix_pba[vector / 64], bit = 1ull << vector % 64;
        if ((*word & bit) && msix_can_send(pci, vector)) {
            *word &= ~bit;
            msix_send(pci, vector);
        }
    }
}

static uint64_t msix_dev_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct pci_device *pci = CONTAINER_OF(dev, struct pci_device, msix_dev);
    const uint8_t *bytes = region == MSIX_REGION_TABLE ? (const uint8_t *)pci->regs->msix_table
                                                       : (const uint8_t *)pci->regs->msix_pba;
    uint64_t room =
        region == MSIX_REGION_TABLE ? sizeof pci->regs->msix_table : sizeof pci->regs->msix_pba;
    uint64_t value = 0;

    if (!range_fits(offset, size, room))
        return UINT64_MAX;
    LOCKED(&pci->irq_lock);
    memcpy(&value, bytes + offset, size);
    return value;
}

static void msix_entry_write(struct pci_device *pci, unsigned word, uint32_t value)
{
    static const uint32_t writable[ENTRY_WORDS] = { 0xfffffffc, 0xffffffff, 0xffffffff,
                                                    ENTRY_MASKED };
    unsigned vector = word / ENTRY_WORDS;

    if (vector >= pci->msix_vectors)
        return;
    pci->regs->msix_table[word] = value & writable[word % ENTRY_WORDS];
    msix_send_pending(pci, vector, vector);
}

/* The PBA is read-only; table writes are whole aligned dwords or quad words (6.8.2), others vanish.
 */
static void msix_dev_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                           uint64_t value)
{
    struct pci_device *pci = CONTAINER_OF(dev, struct pci_device, msix_dev);

    if (region != MSIX_REGION_TABLE || size < 4 || offset % 4 ||
        !range_fits(offset, size, sizeof pci->regs->msix_table))
        return;
    LOCKED(&pci->irq_lock);
    msix_entry_write(pci, (unsigned)offset / 4, (uint32_t)value);
    if (size == 8)
        msix_entry_write(pci, (unsigned)offset / 4 + 1, (uint32_t)(value >> 32));
}

static const struct device_type msix_type = {
    .name = "msix",
    .about = "the MSI-X table and pending bits of a PCI function",
    .threads = DEVICE_PARALLEL,
    .read = msix_dev_read,
    .write = msix_dev_write,
};

static void msix_power_on(struct pci_regs *regs)
{
    memset(regs->msix_table, 0, sizeof regs->msix_table);
    memset(regs->msix_pba, 0, sizeof regs->msix_pba);
    for (unsigned i = 0; i < PCI_MSIX_MAX; i++)
        regs->msix_table[i * ENTRY_WORDS + ENTRY_CONTROL] = ENTRY_MASKED;
}

/* ---- BARs ---- */

static unsigned bar_offset(unsigned index)
{
    return index == ROM ? PCI_EXPANSION_ROM : PCI_BAR0 + 4 * index;
}

static uint64_t bar_register(const struct pci_device *pci, unsigned index)
{
    const struct pci_bar *bar = &pci->bars[index];
    uint64_t value = config_get(pci, bar_offset(index), 4);
    if (bar->flags & PCI_BAR_64)
        value |= (uint64_t)config_get(pci, bar_offset(index) + 4, 4) << 32;
    return value & ~(bar->size - 1);
}

/* A window register pair of a bridge: 1 MiB granules, the upper halves only of the second one. */
static bool window_has(const struct pci_device *bridge, unsigned base, unsigned limit,
                       unsigned high, uint64_t start, uint64_t size)
{
    uint64_t first = (uint64_t)(config_get(bridge, base, 2) & 0xfff0) << 16;
    uint64_t last = (uint64_t)(config_get(bridge, limit, 2) & 0xfff0) << 16 | 0xfffff;
    if (high) {
        first |= (uint64_t)config_get(bridge, PCI_PREF_BASE_HIGH, 4) << 32;
        last |= (uint64_t)config_get(bridge, PCI_PREF_LIMIT_HIGH, 4) << 32;
    }
    return first <= last && start >= first && range_fits(start, size, last + 1);
}

static bool link_up(struct pci_device *bridge)
{
    return !bridge->ops->link_up || bridge->ops->link_up(bridge);
}

/* Do all bridges above pass these addresses down? There are no windows for ports. */
static bool bus_reached(const struct pci_bus *bus, bool io, uint64_t start, uint64_t size)
{
    for (; bus->bridge; bus = bus->bridge->bus) {
        struct pci_device *bridge = bus->bridge;
        if (io || !link_up(bridge) || !(config_get(bridge, PCI_COMMAND, 2) & PCI_COMMAND_MEMORY))
            return false;
        if (!window_has(bridge, PCI_MEMORY_BASE, PCI_MEMORY_LIMIT, 0, start, size) &&
            !window_has(bridge, PCI_PREF_BASE, PCI_PREF_LIMIT, 1, start, size))
            return false;
    }
    return true;
}

/* Where the BAR is to be decoded now; false: nowhere. Addresses that guests write while they
 * measure a BAR's size are not sensible and decode nothing. */
static bool bar_wanted(const struct pci_device *pci, unsigned index, uint64_t *address)
{
    const struct pci_bar *bar = &pci->bars[index];
    unsigned bit = bar->flags & PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
    uint64_t limit = bar->flags & PCI_BAR_IO   ? 0xffff
                     : bar->flags & PCI_BAR_64 ? 1ull << 46
                                               : 0xffffffff;

    if (!bar->size || !(config_get(pci, PCI_COMMAND, 2) & bit) ||
        (index == ROM && !(config_get(pci, PCI_EXPANSION_ROM, 1) & ROM_ENABLE)))
        return false;
    *address = bar_register(pci, index);
    return *address && range_fits(*address, bar->size, limit) &&
           bus_reached(pci->bus, bar->flags & PCI_BAR_IO, *address, bar->size);
}

static void bar_unmap(struct pci_device *pci, unsigned index)
{
    struct pci_bar *bar = &pci->bars[index];
    struct machine *m = pci->dev.machine;

    if (!bar->mapping)
        return;
    if (pci->ops->bar_mapped && index != ROM)
        pci->ops->bar_mapped(pci, index, bar->address, false);
    map_remove(m, TAKE(bar->table));
    map_remove(m, TAKE(bar->pba));
    map_remove(m, TAKE(bar->mapping));
}

static int bar_map_msix(struct pci_device *pci, struct pci_bar *bar, uint64_t address,
                        struct err *err)
{
    int r = map_device(pci->dev.machine, SPACE_MEMORY, address + pci->msix_table_offset,
                       16ull * pci->msix_vectors, &pci->msix_dev, MSIX_REGION_TABLE, PRIORITY_MSIX,
                       &bar->table, err);
    if (r < 0)
        return r;
    return map_device(pci->dev.machine, SPACE_MEMORY, address + pci->msix_pba_offset,
                      (pci->msix_vectors + 63) / 64 * 8, &pci->msix_dev, MSIX_REGION_PBA,
                      PRIORITY_MSIX, &bar->pba, err);
}

static void bar_map(struct pci_device *pci, unsigned index, uint64_t address)
{
    struct pci_bar *bar = &pci->bars[index];
    enum space space = bar->flags & PCI_BAR_IO ? SPACE_IO : SPACE_MEMORY;
    struct machine *m = pci->dev.machine;
    struct err err;
    int r = bar->rom ? map_ram(m, space, address, bar->size, REGION_ROM, bar->rom, 0, PRIORITY_BAR,
                               &bar->mapping, &err)
                     : map_device(m, space, address, bar->size, &pci->dev, index, PRIORITY_BAR,
                                  &bar->mapping, &err);

    if (r >= 0 && pci->msix_cap && pci->msix_bar == index)
        r = bar_map_msix(pci, bar, address, &err);
    if (r < 0) {
        map_remove(pci->dev.machine, TAKE(bar->table));
        map_remove(pci->dev.machine, TAKE(bar->pba));
        map_remove(pci->dev.machine, TAKE(bar->mapping));
        log_guest("%s: BAR %u cannot be decoded: %s", pci->dev.id, index, err.text);
        return;
    }
    bar->address = address;
    if (pci->ops->bar_mapped && index != ROM)
        pci->ops->bar_mapped(pci, index, address, true);
}

static void bus_unmap_stale(struct pci_bus *bus)
{
    uint64_t address;
    for (unsigned i = 0; i < FUNCTIONS; i++) {
        struct pci_device *pci = bus->functions[i];
        for (unsigned b = 0; pci && b < DECODERS; b++)
            if (pci->bars[b].mapping &&
                (!bar_wanted(pci, b, &address) || address != pci->bars[b].address))
                bar_unmap(pci, b);
        if (pci && pci->secondary)
            bus_unmap_stale(pci->secondary);
    }
}

static void bus_map_wanted(struct pci_bus *bus)
{
    uint64_t address;
    for (unsigned i = 0; i < FUNCTIONS; i++) {
        struct pci_device *pci = bus->functions[i];
        for (unsigned b = 0; pci && b < DECODERS; b++)
            if (!pci->bars[b].mapping && bar_wanted(pci, b, &address))
                bar_map(pci, b, address);
        if (pci && pci->secondary)
            bus_map_wanted(pci->secondary);
    }
}

/* Brings all mappings in line with the registers; a BAR that moved away may make room for another
 * function's. */
static void bus_update_bars(struct pci_bus *bus)
{
    bus_unmap_stale(bus->root);
    bus_map_wanted(bus->root);
}

void pci_link_changed(struct pci_device *bridge) { bus_update_bars(bridge->bus); }

/* ---- Building a function ---- */

void pci_config_init(struct pci_device *pci, unsigned offset, unsigned size, uint32_t value,
                     uint32_t writable)
{
    for (unsigned i = 0; i < size; i++) {
        pci->power_on[offset + i] = (uint8_t)(value >> 8 * i);
        pci->writable[offset + i] = (uint8_t)(writable >> 8 * i);
    }
    config_put(pci, offset, size, value);
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
    device_init(&pci->msix_dev, m, &msix_type, id);
    msix_power_on(regs);
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
            bar_unmap(pci, b);
        pci->bus->functions[pci->devfn] = NULL;
    }
    pci_intx_set(pci, false);
    device_fini(&pci->msix_dev);
    pthread_mutex_destroy(&pci->irq_lock);
    device_fini(&pci->dev);
}

void pci_bar_add(struct pci_device *pci, unsigned index, uint64_t size, unsigned flags)
{
    bool io = flags & PCI_BAR_IO, wide = flags & PCI_BAR_64;
    assert(!pci->bus && index + wide < PCI_BARS && !pci->bars[index].size);
    assert(is_power_of_two(size) && size >= (io ? 4 : 16) && (wide || size <= 1ull << 31));

    pci->bars[index] = (struct pci_bar){ .size = size, .flags = flags };
    uint32_t kind = io ? 1 : (wide ? 4 : 0) | (flags & PCI_BAR_PREFETCH ? 8 : 0);
    unsigned offset = PCI_BAR0 + 4 * index;
    pci_config_init(pci, offset, 4, kind, (uint32_t) ~(size - 1));
    if (wide)
        pci_config_init(pci, offset + 4, 4, 0, (uint32_t)(~(size - 1) >> 32));
    unsigned bit = io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
    pci->writable[PCI_COMMAND] |= (uint8_t)bit;
}

void pci_rom_add(struct pci_device *pci, struct ram *rom)
{
    assert(!pci->bus && !pci->secondary && is_power_of_two(rom->size) && rom->size >= PAGE_SIZE &&
           rom->size <= 16 << 20);
    pci->bars[ROM] = (struct pci_bar){ .size = rom->size, .rom = rom };
    pci_config_init(pci, PCI_EXPANSION_ROM, 4, 0, (uint32_t) ~(rom->size - 1) | ROM_ENABLE);
    pci->writable[PCI_COMMAND] |= PCI_COMMAND_MEMORY;
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
    int r = pci_bus_create(pci->dev.machine, &pci->secondary, err);
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

void pci_msix_init(struct pci_device *pci, unsigned bar, uint32_t table_offset, uint32_t pba_offset,
                   unsigned vectors)
{
    unsigned pba_len = (vectors + 63) / 64 * 8;
    assert(!pci->msix_cap && vectors >= 1 && vectors <= PCI_MSIX_MAX);
    assert(bar < PCI_BARS && pci->bars[bar].size && !(pci->bars[bar].flags & PCI_BAR_IO));
    assert(table_offset % 8 == 0 && pba_offset % 8 == 0);
    assert(range_fits(table_offset, 16 * vectors, pci->bars[bar].size));
    assert(range_fits(pba_offset, pba_len, pci->bars[bar].size));
    assert(!ranges_overlap(table_offset, 16 * vectors, pba_offset, pba_len));

    unsigned cap = pci_add_capability(pci, PCI_CAP_MSIX, 12);
    pci_config_init(pci, cap + MSIX_CONTROL, 2, vectors - 1, MSIX_ENABLE | MSIX_FUNCTION_MASK);
    pci_config_init(pci, cap + 4, 4, table_offset | bar, 0);
    pci_config_init(pci, cap + 8, 4, pba_offset | bar, 0);
    pci->msix_vectors = vectors;
    pci->msix_bar = bar;
    pci->msix_table_offset = table_offset;
    pci->msix_pba_offset = pba_offset;
    pci->msix_cap = cap;
}

/* Pins turn by the slot at each bridge (bridge specification, 9.1). */
static unsigned function_gsi(const struct pci_device *pci, unsigned pin)
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
        irq_pin_init(&pci->pin, pci->dev.machine, function_gsi(pci, pin));
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
        config_put(pci, i, 1, pci->power_on[i]);
    bus_update_bars(pci->bus);

    LOCKED(&pci->irq_lock);
    msix_power_on(pci->regs);
    pci->intx_level = false;
    intx_update(pci);
}

int pci_loaded(struct pci_device *pci, struct err *err)
{
    assert(pci->bus);
    LOCKED(bus_lock(pci->bus));
    for (unsigned i = 0; i < PCI_EXT_CONFIG_SIZE; i++)
        if ((config_get(pci, i, 1) ^ pci->power_on[i]) &
            ~(pci->writable[i] | (i < PCI_CONFIG_SIZE ? pci->varies[i] : 0u)) & 0xff) {
            uint8_t saved = (uint8_t)config_get(pci, i, 1);
            pci_config_init(pci, i, 1, pci->power_on[i], pci->writable[i]);
            return err_set(err, EINVAL,
                           "the saved PCI device is a different one: configuration byte 0x%x is "
                           "0x%02x where this device has 0x%02x",
                           i, saved, pci->power_on[i]);
        }
    for (unsigned i = 0; i < PCI_MSIX_MAX * ENTRY_WORDS; i++) {
        if (i % ENTRY_WORDS == ENTRY_ADDRESS)
            pci->regs->msix_table[i] &= ~3u;
        if (i % ENTRY_WORDS == ENTRY_CONTROL)
            pci->regs->msix_table[i] &= ENTRY_MASKED;
    }
    bus_update_bars(pci->bus);

    LOCKED(&pci->irq_lock);
    pci->intx_level = false;
    intx_update(pci);
    return 0;
}

/* ---- The bus ---- */

int pci_bus_create(struct machine *m, struct pci_bus **out, struct err *err)
{
    struct pci_bus *bus = calloc(1, sizeof *bus);
    if (!bus)
        return err_set(err, ENOMEM, "out of memory");
    bus->machine = m;
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
    uint32_t value = config_get(pci, offset, size);
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
        config_put(pci, offset + i, 1,
                   (config_get(pci, offset + i, 1) & ~(mask | clear)) | (byte & mask));
    }

    bool command = ranges_overlap(offset, size, PCI_COMMAND, 2);
    unsigned decoding = pci->secondary ? PCI_PREF_LIMIT_HIGH + 4 - PCI_BAR0 : 4 * PCI_BARS;
    if (command || ranges_overlap(offset, size, PCI_BAR0, decoding) ||
        ranges_overlap(offset, size, PCI_EXPANSION_ROM, 4))
        bus_update_bars(pci->bus);
    bool msix = pci->msix_cap && ranges_overlap(offset, size, pci->msix_cap + MSIX_CONTROL, 2);
    if (command || msix) {
        LOCKED(&pci->irq_lock);
        intx_update(pci);
        if (msix && pci_msix_enabled(pci))
            msix_send_pending(pci, 0, pci->msix_vectors);
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
        if (!pci || !pci->secondary || !link_up(pci) ||
            number < config_get(pci, PCI_SECONDARY_BUS, 1) ||
            number > config_get(pci, PCI_SUBORDINATE_BUS, 1))
            continue;
        return number == config_get(pci, PCI_SECONDARY_BUS, 1)
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

/* ---- What a firmware would do ---- */

/* Takes `size` bytes, aligned to their size, from the window. */
static bool window_take(uint64_t *start, uint64_t *room, uint64_t size, uint64_t *address)
{
    uint64_t aligned = round_up(*start, size), skip = aligned - *start;
    if (aligned < *start || skip > *room || size > *room - skip)
        return false;
    *address = aligned;
    *start = aligned + size;
    *room -= skip + size;
    return true;
}

static bool bar_place(const struct pci_bar *bar, struct pci_windows *w, uint64_t *address)
{
    if (bar->flags & PCI_BAR_IO)
        return window_take(&w->io, &w->io_size, bar->size, address);
    if ((bar->flags & PCI_BAR_64) && window_take(&w->mem64, &w->mem64_size, bar->size, address))
        return true;
    return window_take(&w->mem32, &w->mem32_size, bar->size, address);
}

static int bars_assign(struct pci_bus *bus, struct pci_device *pci, uint64_t size,
                       struct pci_windows *w, struct err *err)
{
    for (unsigned b = 0; b < PCI_BARS; b++) {
        uint64_t address = 0;
        if (pci->bars[b].size != size)
            continue;
        if (!bar_place(&pci->bars[b], w, &address))
            return err_set(err, ENOSPC, "%s: no room for its BAR %u of %llu bytes", pci->dev.id, b,
                           (unsigned long long)size);
        pci_config_write(bus, pci->devfn, PCI_BAR0 + 4 * b, 4, (uint32_t)address);
        if (pci->bars[b].flags & PCI_BAR_64)
            pci_config_write(bus, pci->devfn, PCI_BAR0 + 4 * b + 4, 4, (uint32_t)(address >> 32));
    }
    return 0;
}

/* A bridge gets a bus number and 32-bit memory for what will be plugged in; what is behind it now
 * is placed in there. */
static int bridge_assign(struct pci_bus *bus, struct pci_device *bridge, unsigned number,
                         struct pci_windows *w, struct err *err)
{
    enum { ROOM = 16 << 20 };
    uint64_t start;
    if (!window_take(&w->mem32, &w->mem32_size, ROOM, &start))
        return err_set(err, ENOSPC, "%s: no room for its window", bridge->dev.id);
    pci_config_write(bus, bridge->devfn, PCI_SECONDARY_BUS, 1, number);
    pci_config_write(bus, bridge->devfn, PCI_SUBORDINATE_BUS, 1, number);
    pci_config_write(bus, bridge->devfn, PCI_MEMORY_BASE, 2, (uint32_t)(start >> 16));
    pci_config_write(bus, bridge->devfn, PCI_MEMORY_LIMIT, 2,
                     (uint32_t)((start + ROOM - 1) >> 16 & 0xfff0));
    pci_config_write(bus, bridge->devfn, PCI_PREF_BASE, 4, 0x0000fff0); /* none */
    const struct pci_windows behind = { .mem32 = start, .mem32_size = ROOM };
    return pci_bus_assign(bridge->secondary, &behind, err);
}

int pci_bus_assign(struct pci_bus *bus, const struct pci_windows *windows, struct err *err)
{
    struct pci_windows w = *windows;
    unsigned number = 0;
    int r = 0;

    for (unsigned i = 0; i < FUNCTIONS; i++)
        pci_config_write(bus, i, PCI_COMMAND, 2, 0); /* nothing is decoded half-way */
    /* Largest first, so that alignment wastes nothing. */
    for (int shift = 45; shift >= 2; shift--)
        for (unsigned i = 0; i < FUNCTIONS && r == 0; i++)
            if (bus->functions[i])
                r = bars_assign(bus, bus->functions[i], 1ull << shift, &w, err);
    for (unsigned i = 0; i < FUNCTIONS && r == 0; i++)
        if (bus->functions[i] && bus->functions[i]->secondary)
            r = bridge_assign(bus, bus->functions[i], ++number, &w, err);
    for (unsigned i = 0; i < FUNCTIONS && r == 0; i++) {
        struct pci_device *pci = bus->functions[i];
        if (!pci)
            continue;
        unsigned pin = pci->power_on[PCI_INTERRUPT_PIN];
        if (pin)
            pci_config_write(bus, i, PCI_INTERRUPT_LINE, 1, function_gsi(pci, pin));
        pci_config_write(bus, i, PCI_COMMAND, 2,
                         PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    }
    return r;
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
