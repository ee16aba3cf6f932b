/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * AHCI 1.3 as the ICH9 has it: six ports, 32 commands each, native command queueing; no port
 * multipliers, no power management of links, no enclosure management. Interrupts by pin.
 *
 * Register writes change registers and kick the work on io_loop, which is in ahci_command.c.
 */
#include "devices/disk/ahci_priv.h"

#include "machine/machine.h"

#include <stdlib.h>

enum { ABAR = 5, ABAR_SIZE = 0x1000, PORT_BASE = 0x100, PORT_SIZE = 0x80 };
enum { CAP = 0x00, GHC = 0x04, IS = 0x08, PI = 0x0c, VS = 0x10 };
#define CAP_VALUE                                                                                \
    (1u << 31 /* 64-bit */ | 1u << 30 /* NCQ */ | 1u << 24 /* CLO */ | 2u << 20 /* 3 Gbit/s */ | \
     1u << 18 /* AHCI only */ | (SLOTS - 1) << 8 | (AHCI_PORTS - 1))
enum { /* of a port */
       CLB = 0x00,
       CLBU = 0x04,
       FB = 0x08,
       FBU = 0x0c,
       PxIS = 0x10,
       PxIE = 0x14,
       CMD = 0x18,
       TFD = 0x20,
       SIG = 0x24,
       SSTS = 0x28,
       SCTL = 0x2c,
       SERR = 0x30,
       SACT = 0x34,
       CI = 0x38
};
#define IE_WRITABLE 0xfdc000ffu

/* ---- interrupts ---- */

static uint32_t ahci_is(const struct ahci *ahci)
{
    uint32_t is = 0;
    for (unsigned i = 0; i < AHCI_PORTS; i++)
        is |= ahci->regs.ports[i].is & ahci->regs.ports[i].ie ? 1u << i : 0;
    return is;
}

void ahci_update_irq(struct ahci *ahci)
{
    for (unsigned i = 0; i < AHCI_PORTS; i++) { /* PCS shows a bit of SERR */
        struct ahci_port_regs *r = &ahci->regs.ports[i];
        r->is = (r->is & ~(uint32_t)IS_PCS) | (r->serr & SERR_EXCHANGED ? IS_PCS : 0);
    }
    pci_intx_set(&ahci->pci, (ahci->regs.ghc & GHC_IE) && ahci_is(ahci));
}

/* ---- registers ---- */

static uint32_t port_read(const struct ahci_port *port, unsigned reg)
{
    const struct ahci_port_regs *r = port->regs;
    switch (reg) {
    case CLB: return (uint32_t)r->clb;
    case CLBU: return (uint32_t)(r->clb >> 32);
    case FB: return (uint32_t)r->fb;
    case FBU: return (uint32_t)(r->fb >> 32);
    case PxIS: return r->is;
    case PxIE: return r->ie;
    case CMD: return r->cmd;
    case TFD: return r->tfd;
    case SIG: return r->sig;
    case SSTS: return r->ssts;
    case SCTL: return r->sctl;
    case SERR: return r->serr;
    case SACT: return r->sact;
    case CI: return r->ci;
    }
    return 0;
}

static void port_write_command(struct ahci_port *port, uint32_t value)
{
    struct ahci_port_regs *r = port->regs;
    uint32_t was = r->cmd;
    r->cmd = (was & ~(uint32_t)CMD_WRITABLE) | (value & CMD_WRITABLE);
    r->cmd = r->cmd & CMD_FRE ? r->cmd | CMD_FR : r->cmd & ~(uint32_t)CMD_FR;
    if ((value & CMD_CLO) && !(was & CMD_ST))
        r->tfd &= ~(uint32_t)(ATA_BSY | ATA_DRQ);
    if ((was & CMD_ST) && !(value & CMD_ST)) {
        r->ci = r->sact = r->accepted = 0;
        r->halted = 0;
        if (!port->running)
            r->cmd &= ~(uint32_t)CMD_CR;
    }
    if ((value & CMD_ST) && !(was & (CMD_ST | CMD_CR)))
        r->cmd |= CMD_CR;
}

static void port_write_control(struct ahci_port *port, uint32_t value)
{
    struct ahci_port_regs *r = port->regs;
    unsigned was = r->sctl & 15, now = value & 15;
    r->sctl = value & 0xfff;
    if (now && now != was) { /* 1: reset the link, 4: off */
        r->ssts = now == 4 ? 4 : 0;
        r->tfd = TFD_NONE;
        r->sig = UINT32_MAX;
        r->link_up = 1;
    } else if (!now && was) {
        r->link_up = 1;
    }
}

static void port_write(struct ahci_port *port, unsigned reg, uint32_t value)
{
    struct ahci_port_regs *r = port->regs;
    switch (reg) {
    case CLB: r->clb = (r->clb >> 32 << 32) | (value & ~0x3ffu); break;
    case CLBU: r->clb = (uint32_t)r->clb | (uint64_t)value << 32; break;
    case FB: r->fb = (r->fb >> 32 << 32) | (value & ~0xffu); break;
    case FBU: r->fb = (uint32_t)r->fb | (uint64_t)value << 32; break;
    case PxIS: r->is &= ~value | IS_READ_ONLY; break;
    case PxIE: r->ie = value & IE_WRITABLE; break;
    case CMD: port_write_command(port, value); break;
    case SCTL: port_write_control(port, value); break;
    case SERR: r->serr &= ~value; break;
    case SACT: r->sact |= r->cmd & CMD_ST ? value : 0; break;
    case CI: r->ci |= r->cmd & CMD_ST ? value : 0; break;
    }
    io_work_kick(&port->ahci->work);
}

static uint64_t ahci_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct ahci *ahci = (struct ahci *)dev;
    unsigned reg = (unsigned)offset & ~3u, port = (reg - PORT_BASE) / PORT_SIZE;
    uint32_t value = 0;
    if (reg >= PORT_BASE && port < AHCI_PORTS) {
        value = port_read(&ahci->ports[port], reg % PORT_SIZE);
    } else {
        switch (reg) {
        case CAP: value = CAP_VALUE; break;
        case GHC: value = (uint32_t)ahci->regs.ghc; break;
        case IS: value = ahci_is(ahci); break;
        case PI: value = (1 << AHCI_PORTS) - 1; break;
        case VS: value = VERSION; break;
        }
    }
    return value >> 8 * (offset & 3); /* of quad words the upper half reads as zero */
}

/* Registers take whole dwords (AHCI 1.3, 3). */
static void ahci_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct ahci *ahci = (struct ahci *)dev;
    unsigned reg = (unsigned)offset, port = (reg - PORT_BASE) / PORT_SIZE;
    if (offset & 3 || size < 4)
        return;
    if (reg >= PORT_BASE && port < AHCI_PORTS) {
        port_write(&ahci->ports[port], reg % PORT_SIZE, (uint32_t)value);
    } else if (reg == GHC) {
        ahci->regs.ghc = GHC_AE | (value & (GHC_IE | GHC_HR)) | (ahci->regs.ghc & GHC_HR);
        io_work_kick(&ahci->work);
    }
    ahci_update_irq(ahci);
    if (size == 8)
        ahci_write(dev, region, offset + 4, 4, value >> 32);
}

/* Bus mastering may have come on. */
static void ahci_config_written(struct pci_device *pci, unsigned offset, unsigned size)
{
    io_work_kick(&((struct ahci *)pci)->work);
}

/* ---- life ---- */

static void ahci_power_on(void *arg)
{
    struct ahci *ahci = arg;
    LOCKED(&ahci->pci.dev.lock);
    ahci->regs.ghc = GHC_AE;
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        ahci_port_abort(&ahci->ports[i]);
        if (ahci->ports[i].present)
            ata_reset(&ahci->ports[i].drive, true);
        ahci_port_power_on(&ahci->ports[i]);
    }
}

static void ahci_reset(struct device *dev)
{
    loop_call(dev->machine->io_loop, ahci_power_on, dev);
    pci_reset((struct pci_device *)dev);
}

static void ahci_do_pause(void *arg)
{
    struct ahci *ahci = arg;
    for (unsigned i = 0; i < AHCI_PORTS; i++)
        ata_drive_pause(&ahci->ports[i].drive);
}

static void ahci_pause(struct device *dev)
{
    struct ahci *ahci = (struct ahci *)dev;
    io_work_pause(&ahci->work);
    loop_call(dev->machine->io_loop, ahci_do_pause, ahci);
}

static void ahci_do_resume(void *arg)
{
    struct ahci *ahci = arg;
    for (unsigned i = 0; i < AHCI_PORTS; i++)
        ata_drive_resume(&ahci->ports[i].drive);
}

static void ahci_resume(struct device *dev)
{
    struct ahci *ahci = (struct ahci *)dev;
    loop_call(dev->machine->io_loop, ahci_do_resume, ahci);
    io_work_resume(&ahci->work);
}

static void ahci_do_load(void *arg)
{
    struct ahci *ahci = arg;
    LOCKED(&ahci->pci.dev.lock);
    for (unsigned i = 0; i < AHCI_PORTS; i++)
        ahci_port_abort(&ahci->ports[i]);
    ahci_update_irq(ahci);
}

static int ahci_loaded(struct device *dev, struct err *err)
{
    int r = pci_loaded((struct pci_device *)dev, err);
    if (r == 0)
        loop_call(dev->machine->io_loop, ahci_do_load, dev);
    return r;
}

static int ahci_check(const void *state, struct err *err)
{
    const struct ahci_regs *regs = state;
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        const struct ahci_port_regs *r = &regs->ports[i];
        if ((r->clb & 0x3ff) || (r->fb & 0xff) || r->signature > 1 || r->link_up > 1 ||
            r->halted > 1 || r->srst > 1)
            return err_set(err, EINVAL, "port %u of the SATA controller cannot be as saved", i);
        int result = ata_check(&r->ata, err);
        if (result < 0)
            return err_prefix(err, "port %u", i);
    }
    return 0;
}

static void ahci_destroy(struct device *dev)
{
    struct ahci *ahci = (struct ahci *)dev;
    io_work_fini(&ahci->work);
    loop_call(dev->machine->io_loop, ahci_do_load, ahci); /* whatever still runs is on its own */
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        ahci->ports[i].drive.paused = false;
        ata_drive_close(&ahci->ports[i].drive);
    }
    pci_device_fini(&ahci->pci);
    free(ahci);
}

static const struct state_field port_fields[] = {
    STATE_U64(struct ahci_port_regs, clb),
    STATE_U64(struct ahci_port_regs, fb),
    STATE_U32(struct ahci_port_regs, is),
    STATE_U32(struct ahci_port_regs, ie),
    STATE_U32(struct ahci_port_regs, cmd),
    STATE_U32(struct ahci_port_regs, tfd),
    STATE_U32(struct ahci_port_regs, sig),
    STATE_U32(struct ahci_port_regs, ssts),
    STATE_U32(struct ahci_port_regs, sctl),
    STATE_U32(struct ahci_port_regs, serr),
    STATE_U32(struct ahci_port_regs, sact),
    STATE_U32(struct ahci_port_regs, ci),
    STATE_U32(struct ahci_port_regs, accepted),
    STATE_U8(struct ahci_port_regs, signature),
    STATE_U8(struct ahci_port_regs, link_up),
    STATE_U8(struct ahci_port_regs, halted),
    STATE_U8(struct ahci_port_regs, srst),
    STATE_STRUCT(struct ahci_port_regs, ata, &ata_state),
    STATE_END,
};
static const struct state_desc port_state = {
    .name = "ahci-port",
    .version = 1,
    .size = sizeof(struct ahci_port_regs),
    .fields = port_fields,
};
static const struct state_field ahci_fields[] = {
    STATE_STRUCT(struct ahci_regs, pci, &pci_state),
    STATE_U64(struct ahci_regs, ghc),
    STATE_STRUCTS(struct ahci_regs, ports, &port_state),
    STATE_END,
};
static const struct state_desc ahci_state = {
    .name = "ahci",
    .version = 1,
    .base = offsetof(struct ahci, regs),
    .size = sizeof(struct ahci_regs),
    .fields = ahci_fields,
    .check = ahci_check,
};
static const struct device_type ahci_type = {
    .name = "ahci",
    .about = "SATA controller with hard disks and CD-ROM drives",
    .threads = DEVICE_LOCKED,
    .destroy = ahci_destroy,
    .read = ahci_read,
    .write = ahci_write,
    .reset = ahci_reset,
    .pause = ahci_pause,
    .resume = ahci_resume,
    .loaded = ahci_loaded,
    .state = &ahci_state,
};

struct ata_drive *ahci_drive(struct pci_device *pci, unsigned port)
{
    return &((struct ahci *)pci)->ports[port].drive;
}

static int port_open(struct ahci *ahci, unsigned index, const struct ata_drive_config *config,
                     struct err *err)
{
    struct ahci_port *port = &ahci->ports[index];
    port->ahci = ahci;
    port->regs = &ahci->regs.ports[index];
    port->present = config->id != NULL;
    port->drive.sata = true;
    return ata_drive_open(&port->drive, &ahci->pci.dev, &port->regs->ata, config, err);
}

int ahci_create(struct machine *m, const char *id, const struct ata_drive_config ports[AHCI_PORTS],
                struct pci_device **out, struct err *err)
{
    static const struct pci_ids ids = {
        .vendor = 0x8086,
        .device = 0x2922,
        .class_code = 0x010601,
        .revision = 2,
        .interrupt_pin = 1,
    };
    static const struct pci_ops ops = { .config_written = ahci_config_written };
    struct ahci *ahci = calloc(1, sizeof *ahci);
    if (!ahci)
        return err_set(err, ENOMEM, "out of memory");
    pci_device_init(&ahci->pci, m, &ahci_type, id, &ids, &ops, &ahci->regs.pci);
    AUTO(device_destroy) struct device *dev = &ahci->pci.dev;
    pci_bar_add(&ahci->pci, ABAR, ABAR_SIZE, 0);
    io_work_init(&ahci->work, m, ahci_work, ahci);
    int r = 0;
    for (unsigned i = 0; r == 0 && i < AHCI_PORTS; i++)
        r = port_open(ahci, i, &ports[i], err);
    if (r < 0)
        return r;
    ahci_power_on(ahci);
    *out = &ahci->pci;
    dev = NULL;
    return 0;
}
