/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a firmware would do to a bus: numbers for the buses behind bridges, addresses for BARs,
 * interrupt lines. For kernels that are started without one.
 */
#include "devices/pci_priv.h"

#include "base/checked.h"

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
            pci_config_write(bus, i, PCI_INTERRUPT_LINE, 1, pci_function_gsi(pci, pin));
        pci_config_write(bus, i, PCI_COMMAND, 2,
                         PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    }
    return r;
}
