/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host bridge: function 00:00.0 and the two ways to reach configuration space.
 *
 * Ports: an address register at 0xcf8 (dword access only) and a data window at 0xcfc
 * (PCI 3.0, 3.2.2.3.2). Port 0xcf9 is the reset control register of Intel's south bridges: a rising
 * edge of bit 2 resets the machine. It shares the dword of 0xcf8, hence lives here. ECAM: 4 KiB for
 * each function (PCI Express 7.2.2), where PCIEXBAR says. On a board without the memory controller
 * (micro-1) that register is read-only.
 */
#include "devices/pci_host.h"

#include "base/checked.h"
#include "base/log.h"
#include "machine/machine.h"

#include <stdlib.h>

enum { REGION_ADDRESS = PCI_BARS, REGION_DATA, REGION_ECAM, REGION_MCH }; /* BARs come first */
enum { PORT_ADDRESS = 0xcf8, PORT_DATA = 0xcfc };
enum { RESET_SYSTEM = 1 << 1, RESET_CPU = 1 << 2, RESET_FULL = 1 << 3 };
enum { PCIEXBAR = 0x60, PCIEXBAR_ENABLE = 1, PCIEXBAR_LENGTH_SHIFT = 1, PCIEXBAR_LENGTH_MASK = 3 };
/* Subsystem by which firmware knows a virtual machine, and asks the fw_cfg chip for everything */
enum { VIRTUAL_VENDOR = 0x1af4, VIRTUAL_MACHINE = 0x1100 };
enum { PRIORITY = 10 };

struct host_regs {
    struct pci_regs pci;
    uint32_t address;       /* port 0xcf8; atomic */
    uint32_t reset_control; /* port 0xcf9; atomic */
};

struct pci_host {
    struct pci_device pci;
    struct host_regs regs;
    struct pci_bus *bus; /* owned */
    struct mapping *maps[2];
    struct mapping *ecam; /* bus lock */
    uint64_t ecam_base, ecam_size;
    bool has_mch;
    struct mch mch; /* bus lock */
};

static uint32_t ones(unsigned size) { return size >= 4 ? UINT32_MAX : (1u << 8 * size) - 1; }

/* ---- Ports ---- */

static uint64_t address_read(struct pci_host *host, uint64_t offset, unsigned size)
{
    if (offset == 0 && size == 4)
        return __atomic_load_n(&host->regs.address, __ATOMIC_RELAXED);
    if (offset == 1 && size == 1)
        return __atomic_load_n(&host->regs.reset_control, __ATOMIC_RELAXED);
    return ones(size);
}

static void address_write(struct pci_host *host, uint64_t offset, unsigned size, uint32_t value)
{
    if (offset == 0 && size == 4)
        __atomic_store_n(&host->regs.address, value & 0x80fffffc, __ATOMIC_RELAXED);
    if (offset == 1 && size == 1) {
        uint32_t control = value & (RESET_SYSTEM | RESET_CPU | RESET_FULL);
        uint32_t old = __atomic_exchange_n(&host->regs.reset_control, control, __ATOMIC_RELAXED);
        if (control & ~old & RESET_CPU)
            machine_post_event(host->pci.dev.machine, MACHINE_RESET, "reset register (port 0xcf9)");
    }
}

/* The bus, function and register that the address register selects, -1 when it is off. */
static int selected(struct pci_host *host, uint64_t offset, unsigned *reg)
{
    uint32_t address = __atomic_load_n(&host->regs.address, __ATOMIC_RELAXED);
    if (!(address >> 31))
        return -1;
    *reg = (address & 0xfc) + (unsigned)offset;
    return address >> 8 & 0xffff;
}

/* ---- ECAM: a quad word access is two dword cycles ---- */

static uint64_t ecam_read(struct pci_host *host, uint64_t offset, unsigned size)
{
    if (size == 8)
        return ecam_read(host, offset, 4) | ecam_read(host, offset + 4, 4) << 32;
    return pci_cycle_read(host->bus, offset >> 20 & 0xff, offset >> 12 & 0xff, offset & 0xfff,
                          size);
}

static void ecam_write(struct pci_host *host, uint64_t offset, unsigned size, uint64_t value)
{
    if (size == 8) {
        ecam_write(host, offset, 4, (uint32_t)value);
        ecam_write(host, offset + 4, 4, value >> 32);
    } else {
        pci_cycle_write(host->bus, offset >> 20 & 0xff, offset >> 12 & 0xff, offset & 0xfff, size,
                        (uint32_t)value);
    }
}

/* Puts ECAM where PCIEXBAR says; a place that something else has stays without it. */
static void ecam_place(struct pci_host *host)
{
    static const uint64_t sizes[] = { 256 << 20, 128 << 20, 64 << 20, 0 };
    uint64_t value = 0;
    for (unsigned i = 0; i < 8; i++)
        value |= (uint64_t)host->regs.pci.config[PCIEXBAR + i] << 8 * i;
    uint64_t size = sizes[value >> PCIEXBAR_LENGTH_SHIFT & PCIEXBAR_LENGTH_MASK];
    uint64_t base = size ? round_down(value, size) : 0;
    struct machine *m = host->pci.dev.machine;
    struct err err;

    if (!(value & PCIEXBAR_ENABLE) || !size)
        base = size = 0;
    if (base == host->ecam_base && size == host->ecam_size)
        return;
    map_remove(m, TAKE(host->ecam));
    host->ecam_base = base;
    host->ecam_size = size;
    if (size && map_device(m, SPACE_MEMORY, base, size, &host->pci.dev, REGION_ECAM, PRIORITY,
                           &host->ecam, &err) < 0)
        log_guest("pci-host: ECAM cannot be there: %s", err.text);
}

static void host_update(struct pci_host *host)
{
    struct err err;
    ecam_place(host);
    if (host->has_mch && mch_update(&host->mch, host->regs.pci.config, &err) < 0)
        log_guest("pci-host: memory cannot be arranged so: %s", err.text);
}

/* Once locked, the registers of SMRAM stay as they are until reset (5.1.32). */
static void host_config_written(struct pci_device *pci, unsigned offset, unsigned size)
{
    struct pci_host *host = (struct pci_host *)pci;
    uint8_t *config = host->regs.pci.config;

    if (host->has_mch && (host->mch.smram_now & MCH_SMRAM_LOCK)) {
        config[MCH_SMRAM] = host->mch.smram_now;
        config[MCH_ESMRAMC] = host->mch.esmramc_now;
    } else if (host->has_mch && (config[MCH_SMRAM] & MCH_SMRAM_LOCK)) {
        config[MCH_SMRAM] &= (uint8_t)~MCH_SMRAM_OPEN;
    }
    host_update(host);
}

static uint64_t host_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct pci_host *host = (struct pci_host *)dev;
    unsigned reg;

    if (region == REGION_ADDRESS)
        return address_read(host, offset, size);
    if (region == REGION_ECAM)
        return ecam_read(host, offset, size);
    if (region >= REGION_MCH)
        return mch_read(&host->mch, region, offset, size);
    int bdf = selected(host, offset, &reg);
    return bdf < 0 ? ones(size)
                   : pci_cycle_read(host->bus, (unsigned)bdf >> 8, bdf & 0xff, reg, size);
}

static void host_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct pci_host *host = (struct pci_host *)dev;
    unsigned reg;

    if (region == REGION_ADDRESS) {
        address_write(host, offset, size, (uint32_t)value);
    } else if (region == REGION_ECAM) {
        ecam_write(host, offset, size, value);
    } else if (region >= REGION_MCH) {
        mch_write(&host->mch, region, offset, size, value);
    } else {
        int bdf = selected(host, offset, &reg);
        if (bdf >= 0)
            pci_cycle_write(host->bus, (unsigned)bdf >> 8, bdf & 0xff, reg, size, (uint32_t)value);
    }
}

/* ---- Life ---- */

static void host_reset(struct device *dev)
{
    struct pci_host *host = (struct pci_host *)dev;
    host->regs.address = 0;
    host->regs.reset_control = 0;
    pci_reset(&host->pci);
    host_update(host);
}

static int host_loaded(struct device *dev, struct err *err)
{
    struct pci_host *host = (struct pci_host *)dev;
    int r = pci_loaded(&host->pci, err);
    if (r == 0)
        host_update(host);
    return r;
}

static void host_destroy(struct device *dev)
{
    struct pci_host *host = (struct pci_host *)dev;
    for (unsigned i = 0; i < ARRAY_LEN(host->maps); i++)
        map_remove(dev->machine, host->maps[i]);
    map_remove(dev->machine, host->ecam);
    if (host->has_mch)
        mch_fini(&host->mch);
    pci_device_fini(&host->pci);
    pci_bus_destroy(host->bus);
    free(host);
}

static const struct state_field host_fields[] = {
    STATE_STRUCT(struct host_regs, pci, &pci_state),
    STATE_U32(struct host_regs, address),
    STATE_U32(struct host_regs, reset_control),
    STATE_END,
};
static const struct state_desc host_state = {
    .name = "pci-host",
    .version = 1,
    .base = offsetof(struct pci_host, regs),
    .size = sizeof(struct host_regs),
    .fields = host_fields,
};
/* PARALLEL: the bus's lock guards configuration space, and a register handler of one function must
 * not hold up another's. */
static const struct device_type host_type = {
    .name = "pci-host",
    .about = "PCI host bridge with ECAM",
    .threads = DEVICE_PARALLEL,
    .destroy = host_destroy,
    .read = host_read,
    .write = host_write,
    .reset = host_reset,
    .loaded = host_loaded,
    .state = &host_state,
};

static void host_add_mch(struct pci_host *host, const struct mch_config *config)
{
    struct pci_device *pci = &host->pci;
    pci_config_init(pci, PCI_SUBSYSTEM_VENDOR_ID, 2, VIRTUAL_VENDOR, 0);
    pci_config_init(pci, PCI_SUBSYSTEM_ID, 2, VIRTUAL_MACHINE, 0);
    pci_config_init(pci, PCIEXBAR, 4, 0, 0xfc000007);
    pci_config_init(pci, PCIEXBAR + 4, 4, 0, 0xf);
    pci_config_init(pci, MCH_PAM0, 1, 0, 0x30);
    for (unsigned i = 1; i < MCH_PAM_COUNT; i++)
        pci_config_init(pci, MCH_PAM0 + i, 1, 0, 0x33);
    pci_config_init(pci, MCH_SMRAM, 1, MCH_SMRAM_DEFAULT, 0x78);
    pci_config_init(pci, MCH_ESMRAMC, 1, MCH_ESMRAMC_DEFAULT, 0x07);
    mch_init(&host->mch, &pci->dev, REGION_MCH, config);
    host->has_mch = true;
}

int pci_host_create(struct machine *m, const struct mch_config *mch, struct pci_bus **bus,
                    struct err *err)
{
    static const struct pci_ids ids = {
        .vendor = 0x8086,
        .device = 0x29c0,
        .class_code = 0x060000,
    };
    static const struct pci_ops ops = { .config_written = host_config_written };
    struct pci_host *host = calloc(1, sizeof *host);
    if (!host)
        return err_set(err, ENOMEM, "out of memory");
    pci_device_init(&host->pci, m, &host_type, "pci-host", &ids, &ops, &host->regs.pci);
    AUTO(device_destroy) struct device *dev = &host->pci.dev;
    if (mch)
        host_add_mch(host, mch);
    else
        pci_config_init(&host->pci, PCIEXBAR, 4, PCI_HOST_ECAM_BASE | PCIEXBAR_ENABLE, 0);

    int r = pci_bus_create(&host->bus, err);
    if (r >= 0)
        r = pci_bus_add(host->bus, &host->pci, 0, err);
    if (r >= 0)
        r = map_device(m, SPACE_IO, PORT_ADDRESS, 4, dev, REGION_ADDRESS, PRIORITY, &host->maps[0],
                       err);
    if (r >= 0)
        r = map_device(m, SPACE_IO, PORT_DATA, 4, dev, REGION_DATA, PRIORITY, &host->maps[1], err);
    if (r < 0)
        return err_prefix(err, "PCI host bridge");
    host_update(host);
    *bus = host->bus;
    machine_add_device(m, TAKE(dev));
    return 0;
}

void pci_host_as_firmware(struct pci_bus *bus)
{
    pci_config_write(bus, 0, PCIEXBAR, 4, PCI_HOST_ECAM_BASE | PCIEXBAR_ENABLE);
    pci_config_write(bus, 0, MCH_PAM0, 1, 0x30);
    for (unsigned i = 1; i < MCH_PAM_COUNT; i++)
        pci_config_write(bus, 0, MCH_PAM0 + i, 1, 0x33);
}
