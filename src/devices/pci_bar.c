/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Base address registers and expansion ROMs: what of the address map is a function's, and when.
 *
 * Invariant
 *  2. A BAR is mapped exactly if its decoding bit is set, its address is sensible, all bridges
 * above it pass that on and no other BAR is in the way. BARs have the lowest priority of the
 * address map: they never cover RAM or a chip of the board.
 */
#include "devices/pci_priv.h"

#include "base/checked.h"
#include "base/log.h"
#include "machine/machine.h"

#include <assert.h>

enum { PRIORITY_BAR = 0, PRIORITY_MSIX = 1 };
enum { ROM_ENABLE = 1 };

static unsigned bar_offset(unsigned index)
{
    return index == ROM ? PCI_EXPANSION_ROM : PCI_BAR0 + 4 * index;
}

static uint64_t bar_register(const struct pci_device *pci, unsigned index)
{
    const struct pci_bar *bar = &pci->bars[index];
    uint64_t value = pci_config_get(pci, bar_offset(index), 4);
    if (bar->flags & PCI_BAR_64)
        value |= (uint64_t)pci_config_get(pci, bar_offset(index) + 4, 4) << 32;
    return value & ~(bar->size - 1);
}

/* A window register pair of a bridge: 1 MiB granules, the upper halves only of the second one. */
static bool window_has(const struct pci_device *bridge, unsigned base, unsigned limit,
                       unsigned high, uint64_t start, uint64_t size)
{
    uint64_t first = (uint64_t)(pci_config_get(bridge, base, 2) & 0xfff0) << 16;
    uint64_t last = (uint64_t)(pci_config_get(bridge, limit, 2) & 0xfff0) << 16 | 0xfffff;
    if (high) {
        first |= (uint64_t)pci_config_get(bridge, PCI_PREF_BASE_HIGH, 4) << 32;
        last |= (uint64_t)pci_config_get(bridge, PCI_PREF_LIMIT_HIGH, 4) << 32;
    }
    return first <= last && start >= first && range_fits(start, size, last + 1);
}

/* Do all bridges above pass these addresses down? There are no windows for ports. */
static bool bus_reached(const struct pci_bus *bus, bool io, uint64_t start, uint64_t size)
{
    for (; bus->bridge; bus = bus->bridge->bus) {
        struct pci_device *bridge = bus->bridge;
        if (io || !pci_link_up(bridge) ||
            !(pci_config_get(bridge, PCI_COMMAND, 2) & PCI_COMMAND_MEMORY))
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

    if (!bar->size || !(pci_config_get(pci, PCI_COMMAND, 2) & bit) ||
        (index == ROM && !(pci_config_get(pci, PCI_EXPANSION_ROM, 1) & ROM_ENABLE)))
        return false;
    *address = bar_register(pci, index);
    return *address && range_fits(*address, bar->size, limit) &&
           bus_reached(pci->bus, bar->flags & PCI_BAR_IO, *address, bar->size);
}

void pci_bar_unmap(struct pci_device *pci, unsigned index)
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
                pci_bar_unmap(pci, b);
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
void pci_bars_update(struct pci_bus *bus)
{
    bus_unmap_stale(bus->root);
    bus_map_wanted(bus->root);
}

void pci_link_changed(struct pci_device *bridge) { pci_bars_update(bridge->bus); }
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
