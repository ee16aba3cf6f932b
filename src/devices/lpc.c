/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The LPC bridge of an ICH9, after Intel's I/O Controller Hub 9 data sheet, chapter 13, as far as
 * firmware and drivers use it: PMBASE and ACPI_CNTL place the ACPI ports (pm.c, tco.c), PIRQx_ROUT
 * puts the PCI interrupts (GSI 16 to 23) on inputs of the PICs, RCBA places the chipset
 * configuration registers, of which the interrupt routes are there (read-only: pci_intx_gsi() is
 * wired as their power-on values say). APM_CNT and APM_STS (ports 0xb2, 0xb3) keep what is written;
 * no system management interrupt comes of it. Decoding of ISA ports is not switchable.
 */
#include "devices/lpc.h"

#include "base/log.h"
#include "devices/pm.h"
#include "devices/tco.h"
#include "machine/irq.h"
#include "machine/machine.h"

#include <stdlib.h>

enum {
    PMBASE = 0x40,
    ACPI_CNTL = 0x44,
    ACPI_ENABLE = 1 << 7,
    GPIOBASE = 0x48,
    PIRQA_ROUT = 0x60,
    PIRQE_ROUT = 0x68,
    PIRQ_NOT_ROUTED = 1 << 7,
    GEN_PMCON_1 = 0xa0,
    BIOS_CNTL = 0xdc,
    RCBA = 0xf0,
    RCBA_ENABLE = 1,
};
enum { REGION_RCBA = PCI_BARS, REGION_APM };
enum { PIRQS = 8, GSI_PIRQA = 16, PRIORITY = 10 };
enum { D31IP = 0x3100, D31IR = 0x3140, D25IR = 0x3150, ROUTE_STRAIGHT = 0x3210 };
enum { GCS = 0x3410, GCS_NO_REBOOT = 1 << 5 };

struct lpc_regs {
    struct pci_regs pci;
    uint32_t apm[2]; /* a byte each */
};

struct lpc {
    struct pci_device pci;
    struct lpc_regs regs;
    struct device *pm, *tco;
    struct mapping *apm, *rcba; /* rcba: bus lock */
    uint32_t rcba_base;
};

static uint32_t lpc_get(const struct lpc *lpc, unsigned offset)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < 4; i++)
        value |= (uint32_t)lpc->regs.pci.config[offset + i] << 8 * i;
    return value;
}

static void rcba_place(struct lpc *lpc)
{
    uint32_t value = lpc_get(lpc, RCBA);
    uint32_t base = value & RCBA_ENABLE ? value & ~(LPC_RCBA_SIZE - 1u) : 0;
    struct err err;

    if (base == lpc->rcba_base)
        return;
    lpc->rcba_base = base;
    map_remove(lpc->pci.dev.machine, TAKE(lpc->rcba));
    if (base && map_device(lpc->pci.dev.machine, SPACE_MEMORY, base, LPC_RCBA_SIZE, &lpc->pci.dev,
                           REGION_RCBA, PRIORITY, &lpc->rcba, &err) < 0)
        log_guest("lpc: RCBA cannot be there: %s", err.text);
}

static void pirqs_route(struct lpc *lpc)
{
    for (unsigned i = 0; i < PIRQS; i++) {
        uint8_t rout = lpc->regs.pci.config[(i < 4 ? PIRQA_ROUT : PIRQE_ROUT - 4) + i];
        unsigned irq = rout & PIRQ_NOT_ROUTED ? 0 : rout & 15;
        /* 0, 1, 2, 8 and 13 are reserved (13.1.11). */
        if (irq < 3 || irq == 8 || irq == 13)
            irq = 0;
        irq_route(lpc->pci.dev.machine, GSI_PIRQA + i, irq);
    }
}

static void lpc_update(struct lpc *lpc)
{
    bool acpi = lpc->regs.pci.config[ACPI_CNTL] & ACPI_ENABLE;
    uint32_t base = acpi ? lpc_get(lpc, PMBASE) & 0xff80 : 0;
    pm_place(lpc->pm, base);
    tco_place(lpc->tco, base ? base + TCO_OFFSET : 0);
    rcba_place(lpc);
    pirqs_route(lpc);
}

static void lpc_config_written(struct pci_device *pci, unsigned offset, unsigned size)
{
    lpc_update((struct lpc *)pci);
}

static uint64_t rcba_read(struct lpc *lpc, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        uint64_t at = offset + i;
        if (at >= D31IR && at < D25IR + 2 && at % 4 < 2)
            value |= (uint64_t)(ROUTE_STRAIGHT >> 8 * (at % 4) & 0xff) << 8 * i;
        if (at == GCS && tco_no_reboot(lpc->tco))
            value |= (uint64_t)GCS_NO_REBOOT << 8 * i;
    }
    return value;
}

static uint64_t lpc_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct lpc *lpc = (struct lpc *)dev;
    if (region == REGION_RCBA)
        return rcba_read(lpc, offset, size);
    return size == 1 ? lpc->regs.apm[offset & 1] & 0xff : UINT64_MAX;
}

static void lpc_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                      uint64_t value)
{
    struct lpc *lpc = (struct lpc *)dev;
    if (region == REGION_APM && size == 1)
        lpc->regs.apm[offset & 1] = (uint8_t)value;
    if (region == REGION_RCBA && offset <= GCS && GCS - offset < size)
        tco_set_no_reboot(lpc->tco, value >> 8 * (GCS - offset) & GCS_NO_REBOOT);
}

static void lpc_reset(struct device *dev)
{
    struct lpc *lpc = (struct lpc *)dev;
    pci_reset(&lpc->pci);
    lpc->regs.apm[0] = lpc->regs.apm[1] = 0;
    lpc_update(lpc);
}

static int lpc_loaded(struct device *dev, struct err *err)
{
    struct lpc *lpc = (struct lpc *)dev;
    int r = pci_loaded(&lpc->pci, err);
    if (r == 0)
        lpc_update(lpc);
    return r;
}

static void lpc_destroy(struct device *dev)
{
    struct lpc *lpc = (struct lpc *)dev;
    map_remove(dev->machine, lpc->rcba);
    map_remove(dev->machine, lpc->apm);
    pci_device_fini(&lpc->pci);
    free(lpc);
}

static const struct state_field lpc_fields[] = {
    STATE_STRUCT(struct lpc_regs, pci, &pci_state),
    STATE_UINTS(struct lpc_regs, apm),
    STATE_END,
};
static const struct state_desc lpc_state = {
    .name = "lpc",
    .version = 1,
    .base = offsetof(struct lpc, regs),
    .size = sizeof(struct lpc_regs),
    .fields = lpc_fields,
};
static const struct device_type lpc_type = {
    .name = "lpc",
    .about = "ICH9 LPC bridge",
    .threads = DEVICE_LOCKED,
    .destroy = lpc_destroy,
    .read = lpc_read,
    .write = lpc_write,
    .reset = lpc_reset,
    .loaded = lpc_loaded,
    .state = &lpc_state,
};

int lpc_create(struct machine *m, struct pci_bus *bus, struct device *pm, struct err *err)
{
    static const struct pci_ids ids = {
        .vendor = 0x8086,
        .device = 0x2918,
        .subsystem_vendor = 0x1af4,
        .subsystem = 0x1100,
        .class_code = 0x060100,
        .revision = 2,
    };
    static const struct pci_ops ops = { .config_written = lpc_config_written };
    struct lpc *lpc = calloc(1, sizeof *lpc);
    if (!lpc)
        return err_set(err, ENOMEM, "out of memory");
    lpc->pm = pm;
    pci_device_init(&lpc->pci, m, &lpc_type, "lpc", &ids, &ops, &lpc->regs.pci);
    AUTO(device_destroy) struct device *dev = &lpc->pci.dev;
    enum { MULTI_FUNCTION = 0x80 };
    pci_config_init(&lpc->pci, PCI_HEADER_TYPE, 1, MULTI_FUNCTION, 0);
    /* What lies behind is always decoded; firmware looks for that before it uses a serial port. */
    pci_config_init(&lpc->pci, PCI_COMMAND, 2,
                    PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER,
                    PCI_COMMAND_PARITY | PCI_COMMAND_SERR);
    pci_config_init(&lpc->pci, PMBASE, 4, 1, 0xff80);
    pci_config_init(&lpc->pci, ACPI_CNTL, 1, 0, 0x87);
    pci_config_init(&lpc->pci, GPIOBASE, 4, 1, 0xff80);
    for (unsigned i = 0; i < 4; i++) {
        pci_config_init(&lpc->pci, PIRQA_ROUT + i, 1, PIRQ_NOT_ROUTED, 0x8f);
        pci_config_init(&lpc->pci, PIRQE_ROUT + i, 1, PIRQ_NOT_ROUTED, 0x8f);
    }
    pci_config_init(&lpc->pci, GEN_PMCON_1, 2, 0, 0x06bf);
    pci_config_init(&lpc->pci, BIOS_CNTL, 1, 0, 0x0f);
    pci_config_init(&lpc->pci, RCBA, 4, 0, 0xffffc001);

    int r = tco_create(m, &lpc->tco, err);
    if (r == 0)
        r = pci_bus_add(bus, &lpc->pci, LPC_SLOT, err);
    if (r == 0)
        r = map_device(m, SPACE_IO, 0xb2, 2, dev, REGION_APM, PRIORITY, &lpc->apm, err);
    if (r < 0)
        return err_prefix(err, "LPC bridge");
    lpc_update(lpc);
    machine_add_device(m, TAKE(dev));
    return 0;
}

void lpc_as_firmware(struct pci_bus *bus)
{
    enum { LPC = LPC_SLOT << 3 };
    pci_config_write(bus, LPC, PMBASE, 4, PM_BASE);
    pci_config_write(bus, LPC, ACPI_CNTL, 1, ACPI_ENABLE);
    pci_config_write(bus, LPC, RCBA, 4, LPC_RCBA_BASE | RCBA_ENABLE);
}
