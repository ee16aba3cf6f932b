/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * PCI functions and the bus they sit on: configuration space, BARs, capabilities, MSI-X, INTx.
 *
 * A model embeds `struct pci_device` first, and `struct pci_regs` in its own registers struct,
 * where its state table nests it:
 *
 *     struct foo_regs { struct pci_regs pci; ... };
 *     struct foo { struct pci_device pci; struct foo_regs regs; };
 *     STATE_STRUCT(struct foo_regs, pci, &pci_state)
 *
 * create:   pci_device_init, pci_bar_add, pci_msix_init, pci_add_capability; pci_bus_add;
 * machine_add_device reset:    pci_reset (from device_type.reset)      loaded: pci_loaded (from
 * device_type.loaded) destroy:  pci_device_fini instead of device_fini
 *
 * While the guest decodes a BAR, its accesses arrive at device_type.read/write with region = BAR
 * index, except for the MSI-X table and PBA, which the core serves. The device's own locking
 * applies there as for any region.
 *
 * Locks, outermost first: the bus's lock (configuration space), dev->lock, pci->irq_lock, machine's
 * irq locks. So: no configuration function with dev->lock held, except the ones below that say "any
 * thread, locks held".
 */
#ifndef DEVICES_PCI_H
#define DEVICES_PCI_H

#include "base/err.h"
#include "machine/device.h"
#include "machine/irq.h"
#include "machine/memory.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    PCI_CONFIG_SIZE = 256,
    PCI_EXT_CONFIG_SIZE = 4096,
    PCI_BARS = 6,
    PCI_MSIX_MAX = 256, /* vectors of one function that we offer at most */
};

/* Conventional header, PCI 3.0 section 6.1 */
enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_COMMAND_IO = 1 << 0,
    PCI_COMMAND_MEMORY = 1 << 1,
    PCI_COMMAND_MASTER = 1 << 2,
    PCI_COMMAND_PARITY = 1 << 6,
    PCI_COMMAND_SERR = 1 << 8,
    PCI_COMMAND_INTX_DISABLE = 1 << 10,
    PCI_STATUS = 0x06,
    PCI_STATUS_INTX = 1 << 3,
    PCI_STATUS_CAP_LIST = 1 << 4,
    PCI_REVISION_ID = 0x08,
    PCI_CLASS_PROG = 0x09,
    PCI_CLASS_DEVICE = 0x0a,
    PCI_CACHE_LINE_SIZE = 0x0c,
    PCI_LATENCY_TIMER = 0x0d,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR_ID = 0x2c,
    PCI_SUBSYSTEM_ID = 0x2e,
    PCI_EXPANSION_ROM = 0x30,
    PCI_CAPABILITY_LIST = 0x34,
    /* of a bridge */
    PCI_PRIMARY_BUS = 0x18,
    PCI_SECONDARY_BUS = 0x19,
    PCI_SUBORDINATE_BUS = 0x1a,
    PCI_MEMORY_BASE = 0x20,
    PCI_MEMORY_LIMIT = 0x22,
    PCI_PREF_BASE = 0x24,
    PCI_PREF_LIMIT = 0x26,
    PCI_PREF_BASE_HIGH = 0x28,
    PCI_PREF_LIMIT_HIGH = 0x2c,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
};
enum { PCI_CAP_VENDOR = 0x09, PCI_CAP_EXPRESS = 0x10, PCI_CAP_MSIX = 0x11 };

enum { PCI_BAR_IO = 1, PCI_BAR_64 = 2, PCI_BAR_PREFETCH = 4 }; /* none of them: 32-bit memory */

struct pci_bus;
struct pci_device;

/* All that a PCI function must remember, and only that. */
struct pci_regs {
    uint8_t config[PCI_CONFIG_SIZE];                           /* bus lock */
    uint8_t config_ext[PCI_EXT_CONFIG_SIZE - PCI_CONFIG_SIZE]; /* bus lock */
    uint32_t msix_table[PCI_MSIX_MAX * 4];                     /* irq_lock */
    uint64_t msix_pba[PCI_MSIX_MAX / 64];                      /* irq_lock */
};
extern const struct state_desc pci_state;

struct pci_ids {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; /* class << 16 | subclass << 8 | programming interface */
    uint8_t revision;
    uint8_t interrupt_pin; /* 0: none, 1: INTA */
};

/* Optional call-backs of a function; all may be NULL. */
struct pci_ops {
    /* The guest is about to read / has written these bytes of configuration space. vCPU thread, bus
     * lock held, dev->lock not held. Values are in pci->regs->config. */
    void (*config_read)(struct pci_device *pci, unsigned offset, unsigned size);
    void (*config_written)(struct pci_device *pci, unsigned offset, unsigned size);
    /* The BAR is decoded at `address` now, or (mapped false) no longer at `address`: doorbells move
     * along. vCPU thread with the bus lock, or main loop. dev->lock not held. */
    void (*bar_mapped)(struct pci_device *pci, unsigned bar, uint64_t address, bool mapped);
    /* Of a bridge: does it pass cycles on to its secondary bus at all? Bus lock held. NULL: always.
     */
    bool (*link_up)(struct pci_device *pci);
};

struct pci_bar {
    uint64_t size; /* 0: not there; fixed at create */
    unsigned flags;
    struct ram *rom;             /* the machine's; of the expansion ROM only */
    struct mapping *mapping;     /* bus lock; NULL while not decoded */
    struct mapping *table, *pba; /* MSI-X overlays */
    uint64_t address;            /* where `mapping` is */
};

struct pci_device {
    struct device dev;
    const struct pci_ops *ops;         /* fixed at create, never NULL */
    struct pci_regs *regs;             /* in the model's own registers */
    struct pci_bus *bus;               /* NULL before pci_bus_add */
    unsigned devfn;                    /* slot << 3 | function; fixed by pci_bus_add */
    struct pci_bar bars[PCI_BARS + 1]; /* the last is the expansion ROM */

    uint8_t writable[PCI_EXT_CONFIG_SIZE]; /* bits the guest may change; fixed at create */
    uint8_t power_on[PCI_EXT_CONFIG_SIZE]; /* contents after reset; fixed at create */
    uint8_t clears[PCI_CONFIG_SIZE];       /* status bits that writing a one clears; fixed */
    uint8_t varies[PCI_CONFIG_SIZE];       /* bits that the device itself changes; fixed */
    struct pci_bus *secondary;             /* of a bridge; owned */
    unsigned cap_end;                      /* first free byte for a capability */

    pthread_mutex_t irq_lock;
    struct irq_pin pin; /* irq_lock */
    bool intx_level;    /* irq_lock; what the function wants, before INTX_DISABLE */
    unsigned msix_cap;  /* 0: none; fixed at create */
    unsigned msix_vectors, msix_bar;
    uint32_t msix_table_offset, msix_pba_offset;
    struct device msix_dev; /* serves the overlays; not in the machine's list */
};

/* `regs` lies in the model and lives as long as it does. ops may be NULL. */
void pci_device_init(struct pci_device *pci, struct machine *m, const struct device_type *type,
                     const char *id, const struct pci_ids *ids, const struct pci_ops *ops,
                     struct pci_regs *regs);
/* Leaves the bus, unmaps the BARs, device_fini. */
void pci_device_fini(struct pci_device *pci);
static inline struct pci_device *pci_device_of(struct device *dev)
{
    return (struct pci_device *)dev;
}

/* ---- At create, before pci_bus_add. Wrong arguments are our own bugs: asserted. ---- */

/* size: power of two, at least 16 (memory) or 4 (I/O); a 64-bit BAR takes index and index + 1. */
void pci_bar_add(struct pci_device *pci, unsigned index, uint64_t size, unsigned flags);
/* An expansion ROM (PCI 3.0, 6.2.5.2) with the content of `rom`, which is the machine's; its size
 * is a power of two from 4 KiB to 16 MiB. */
void pci_rom_add(struct pci_device *pci, struct ram *rom);
/* Appends a capability of `len` bytes, header included; returns its offset. Its bytes are zero and
 * read-only. */
unsigned pci_add_capability(struct pci_device *pci, uint8_t id, unsigned len);
/* Sets what the bytes hold after reset, and which bits the guest may write. */
void pci_config_init(struct pci_device *pci, unsigned offset, unsigned size, uint32_t value,
                     uint32_t writable);
/* Bits that the device changes by pci_config_status; those in `clears` are status bits, which the
 * guest clears by writing ones. The first 256 bytes only. */
void pci_config_status_init(struct pci_device *pci, unsigned offset, unsigned size, uint32_t varies,
                            uint32_t clears);
/* Makes the function a bridge (header type 1, without an I/O window), with a bus of its own behind
 * it that it owns. After the BARs, of which it has at most two. */
int pci_bridge_init(struct pci_device *pci, struct err *err);
/* The table and the PBA lie in `bar` (added before), each on its own multiple of 8 bytes, not
 * overlapping. */
void pci_msix_init(struct pci_device *pci, unsigned bar, uint32_t table_offset, uint32_t pba_offset,
                   unsigned vectors);

/* slot: 0 to 31, or -1 for the first free one from 1. The model keeps owning the device. Main loop;
 * the machine may run. */
int pci_bus_add(struct pci_bus *bus, struct pci_device *pci, int slot, struct err *err);
/* As function `devfn` & 7 of slot `devfn` >> 3. */
int pci_bus_add_at(struct pci_bus *bus, struct pci_device *pci, unsigned devfn, struct err *err);

/* ---- From the model's reset and loaded ---- */

void pci_reset(
    struct pci_device *pci); /* power-on configuration; BARs undecoded, MSI-X off, INTx low */
/* Checks that the installed configuration is of this function, and maps BARs as it says. Then the
 * model sets INTx. */
int pci_loaded(struct pci_device *pci, struct err *err);

/* ---- Bus lock held: from pci_ops ---- */

uint32_t pci_config_get(const struct pci_device *pci, unsigned offset, unsigned size);
/* Sets bits declared by pci_config_status_init; `mask` says which. Also before the bus is joined.
 */
void pci_config_status(struct pci_device *pci, unsigned offset, unsigned size, uint32_t mask,
                       uint32_t value);
/* link_up answers differently now: what lies behind the bridge appears or vanishes. */
void pci_link_changed(struct pci_device *bridge);

/* ---- Any thread, dev->lock may be held ---- */

bool pci_bus_master(const struct pci_device *pci);
bool pci_msix_enabled(const struct pci_device *pci);
/* Sends the vector's message, or sets its pending bit while masked. A vector that is out of range,
 * or MSI-X being off: nothing happens. */
void pci_msix_notify(struct pci_device *pci, unsigned vector);
void pci_intx_set(struct pci_device *pci, bool level);

/* ---- The bus: by the host bridge, the board and tests ---- */

int pci_bus_create(struct pci_bus **out, struct err *err);
void pci_bus_destroy(struct pci_bus *bus); /* after its devices */
DEFINE_AUTO(struct pci_bus *, pci_bus_destroy)
/* What a configuration cycle does: offset 0 to 4095, size 1, 2 or 4, not crossing a dword (others
 * read all ones). */
uint32_t pci_config_read(struct pci_bus *bus, unsigned devfn, unsigned offset, unsigned size);
void pci_config_write(struct pci_bus *bus, unsigned devfn, unsigned offset, unsigned size,
                      uint32_t value);
struct pci_device *pci_bus_device(struct pci_bus *bus, unsigned devfn); /* NULL: empty */
/* The same for bus `number` of those that hang on `root`, as its bridges have been numbered. */
uint32_t pci_cycle_read(struct pci_bus *root, unsigned number, unsigned devfn, unsigned offset,
                        unsigned size);
void pci_cycle_write(struct pci_bus *root, unsigned number, unsigned devfn, unsigned offset,
                     unsigned size, uint32_t value);
void pci_bus_lock(struct pci_bus *bus); /* for a bridge's own registers, from any thread */
void pci_bus_unlock(struct pci_bus *bus);
/* GSI 16 to 23 that the pin (1 to 4) of a slot is wired to; the board's _PRT says the same. */
static inline unsigned pci_intx_gsi(unsigned slot, unsigned pin)
{
    return 16 + (slot < 25 ? slot + pin - 1 : pin - 1) % 8;
}
/* As a firmware would: gives every BAR an address in these windows and enables decoding and bus
 * mastering. ENOSPC names the device that did not fit. 64-bit BARs go to the 64-bit window (size 0:
 * there is none). */
struct pci_windows {
    uint64_t mem32, mem32_size, mem64, mem64_size, io, io_size;
};
int pci_bus_assign(struct pci_bus *bus, const struct pci_windows *windows, struct err *err);

#endif
