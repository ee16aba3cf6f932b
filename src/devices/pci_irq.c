/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A function's interrupts: its pin, and MSI-X (PCI 3.0, 6.8.2), whose table and pending bits are
 * served here for every model.
 *
 * Invariant
 *  3. The INTx bit of the status register and the pin's level are derived, never stored.
 */
#include "devices/pci_priv.h"

#include "base/checked.h"
#include "machine/machine.h"

#include <assert.h>
#include <string.h>

enum { MSIX_ENABLE = 1 << 15, MSIX_FUNCTION_MASK = 1 << 14 }; /* in the capability */
enum {
    ENTRY_ADDRESS,
    ENTRY_ADDRESS_HIGH,
    ENTRY_DATA,
    ENTRY_CONTROL,
    ENTRY_WORDS
}; /* of the table */
enum { ENTRY_MASKED = 1 };

static unsigned msix_control(const struct pci_device *pci)
{
    return pci->msix_cap ? pci_config_get(pci, pci->msix_cap + MSIX_CONTROL, 2) : 0;
}

bool pci_msix_enabled(const struct pci_device *pci) { return msix_control(pci) & MSIX_ENABLE; }

/* A function uses either MSI-X or its pin (PCI 3.0, 6.8.2). Caller holds irq_lock. */
void pci_intx_update(struct pci_device *pci)
{
    if (pci->pin.machine)
        irq_pin_set(&pci->pin,
                    pci->intx_level && !pci_msix_enabled(pci) &&
                        !(pci_config_get(pci, PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE));
}

void pci_intx_set(struct pci_device *pci, bool level)
{
    LOCKED(&pci->irq_lock);
    pci->intx_level = level;
    pci_intx_update(pci);
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
void pci_msix_send_pending(struct pci_device *pci, unsigned first, unsigned last)
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
    pci_msix_send_pending(pci, vector, vector);
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

const struct device_type pci_msix_type = {
    .name = "msix",
    .about = "the MSI-X table and pending bits of a PCI function",
    .threads = DEVICE_PARALLEL,
    .read = msix_dev_read,
    .write = msix_dev_write,
};

void pci_msix_power_on(struct pci_regs *regs)
{
    memset(regs->msix_table, 0, sizeof regs->msix_table);
    memset(regs->msix_pba, 0, sizeof regs->msix_pba);
    for (unsigned i = 0; i < PCI_MSIX_MAX; i++)
        regs->msix_table[i * ENTRY_WORDS + ENTRY_CONTROL] = ENTRY_MASKED;
}

/* What the guest could not have written is put right. */
void pci_msix_loaded(struct pci_regs *regs)
{
    for (unsigned i = 0; i < PCI_MSIX_MAX * ENTRY_WORDS; i++) {
        if (i % ENTRY_WORDS == ENTRY_ADDRESS)
            regs->msix_table[i] &= ~3u;
        if (i % ENTRY_WORDS == ENTRY_CONTROL)
            regs->msix_table[i] &= ENTRY_MASKED;
    }
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
