/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * AHCI 1.3 as the ICH9 has it: six ports, 32 commands each, native command queueing; no port
 * multipliers, no power management of links, no enclosure management. Interrupts by pin.
 *
 * Register writes change registers and kick the work on io_loop, which reads command tables, moves
 * data and posts FISes. Command lists are read once into a copy that is used from then on.
 *
 *  1. A command is in exactly one place: issued (`ci`, or `accepted` for a queued one) and not
 *     running; running (commands[slot] is set); or told to the guest. State is saved with the
 *     first only, so after a restore every command that the guest still waits for starts again.
 *  2. No memory of the guest is written for a port after CR, HR or the link show that it stopped:
 *     those bits change on io_loop, after running commands were marked as aborted.
 *  3. Registers tell of an event only after the memory that goes with it was written.
 */
#include "devices/disk/ahci.h"

#include "base/checked.h"
#include "base/log.h"
#include "devices/io_work.h"
#include "machine/machine.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ABAR = 5, ABAR_SIZE = 0x1000, PORT_BASE = 0x100, PORT_SIZE = 0x80, SLOTS = 32 };
enum { CAP = 0x00, GHC = 0x04, IS = 0x08, PI = 0x0c, VS = 0x10 };
#define CAP_VALUE                                                                                \
    (1u << 31 /* 64-bit */ | 1u << 30 /* NCQ */ | 1u << 24 /* CLO */ | 2u << 20 /* 3 Gbit/s */ | \
     1u << 18 /* AHCI only */ | (SLOTS - 1) << 8 | (AHCI_PORTS - 1))
#define GHC_AE (1u << 31)
enum { GHC_HR = 1, GHC_IE = 2, VERSION = 0x10300 };
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
enum {
    IS_DHRS = 1 << 0,
    IS_PSS = 1 << 1,
    IS_SDBS = 1 << 3,
    IS_DPS = 1 << 5,
    IS_PCS = 1 << 6,
    IS_HBFS = 1 << 29,
    IS_TFES = 1 << 30,
    IS_READ_ONLY = IS_PCS,
};
#define IE_WRITABLE 0xfdc000ffu
enum {
    CMD_ST = 1 << 0,
    CMD_SUD = 1 << 1,
    CMD_POD = 1 << 2,
    CMD_CLO = 1 << 3,
    CMD_FRE = 1 << 4,
    CMD_CCS_SHIFT = 8,
    CMD_FR = 1 << 14,
    CMD_CR = 1 << 15,
    CMD_ATAPI = 1 << 24,
    CMD_WRITABLE = CMD_ST | CMD_SUD | CMD_POD | CMD_FRE | CMD_ATAPI,
};
enum { SSTS_UP = 0x123, SERR_EXCHANGED = 1 << 26, TFD_NONE = 0x7f };
enum { FIS_H2D = 0x27, FIS_D2H = 0x34, FIS_PIO = 0x5f, FIS_BITS = 0xa1, FIS_INTERRUPT = 0x40 };
enum { AT_PIO = 0x20, AT_D2H = 0x40, AT_BITS = 0x58 }; /* in the received-FIS area */
enum { HEADER_LEN = 32, CFIS_LEN = 64, ACMD_AT = 0x40, PRDT_AT = 0x80, PRD_LEN = 16 };
enum { CONTROL_SRST = 4 };

struct ahci_port_regs {
    uint64_t clb, fb;
    uint32_t is, ie, cmd, tfd, sig, ssts, sctl, serr, sact, ci;
    uint32_t accepted; /* queued commands taken from ci and not finished */
    uint8_t signature; /* the first FIS after a reset waits to be posted */
    uint8_t link_up;   /* the link is being reset */
    uint8_t halted;    /* by an error, until ST is cleared */
    uint8_t srst;      /* a software reset has begun */
    struct ata_regs ata;
};

struct ahci_regs {
    struct pci_regs pci;
    uint64_t ghc;
    struct ahci_port_regs ports[AHCI_PORTS];
};

struct ahci;

struct ahci_command {
    struct ata_io io;
    struct ahci_port *port;
    unsigned slot;
    struct ata_taskfile tf;
    uint64_t header; /* gpa */
    bool prd_interrupt;
};

struct ahci_port {
    struct ahci *ahci;
    struct ahci_port_regs *regs; /* dev.lock */
    bool present;                /* fixed at create */
    struct ata_drive drive;
    /* io_loop */
    struct ahci_command *commands[SLOTS]; /* running */
    uint32_t running;                     /* written with dev.lock */
    bool exclusive;                       /* the one that runs is no queued command */
};

struct ahci {
    struct pci_device pci;
    struct ahci_regs regs; /* dev.lock */
    struct ahci_port ports[AHCI_PORTS];
    struct io_work work;
};

/* ---- interrupts ---- */

static uint32_t ahci_is(const struct ahci *ahci)
{
    uint32_t is = 0;
    for (unsigned i = 0; i < AHCI_PORTS; i++)
        is |= ahci->regs.ports[i].is & ahci->regs.ports[i].ie ? 1u << i : 0;
    return is;
}

static void ahci_update_irq(struct ahci *ahci)
{
    for (unsigned i = 0; i < AHCI_PORTS; i++) { /* PCS shows a bit of SERR */
        struct ahci_port_regs *r = &ahci->regs.ports[i];
        r->is = (r->is & ~(uint32_t)IS_PCS) | (r->serr & SERR_EXCHANGED ? IS_PCS : 0);
    }
    pci_intx_set(&ahci->pci, (ahci->regs.ghc & GHC_IE) && ahci_is(ahci));
}

/* ---- FISes to the guest ---- */

/* Where FISes go, or 0: the guest does not receive any. */
static uint64_t port_fis_area(const struct ahci_port *port)
{
    return port->regs->cmd & CMD_FR ? port->regs->fb : 0;
}

static void fis_post(struct ahci_port *port, uint64_t area, unsigned at, const uint8_t *fis,
                     unsigned len)
{
    if (area && mem_write(port->ahci->pci.dev.machine, area + at, fis, len) < 0)
        log_guest("%s: a FIS cannot be posted", port->drive.id);
}

static void fis_d2h(uint8_t fis[20], const struct ata_taskfile *tf, bool interrupt)
{
    memset(fis, 0, 20);
    fis[0] = FIS_D2H;
    fis[1] = interrupt ? FIS_INTERRUPT : 0;
    fis[2] = tf->status;
    fis[3] = tf->error;
    for (unsigned i = 0; i < 3; i++) {
        fis[4 + i] = (uint8_t)(tf->lba >> 8 * i);
        fis[8 + i] = (uint8_t)(tf->lba >> (24 + 8 * i));
    }
    fis[7] = tf->device;
    fis[12] = (uint8_t)tf->count;
    fis[13] = (uint8_t)(tf->count >> 8);
}

/* Data by PIO is announced by a FIS of its own (Serial ATA 2.6, 10.3.11). */
static void fis_pio(uint8_t fis[20], const struct ata_taskfile *tf, bool in, uint64_t len)
{
    fis_d2h(fis, tf, true);
    fis[0] = FIS_PIO;
    fis[1] = FIS_INTERRUPT | (in ? 0x20 : 0);
    fis[2] = ATA_READY | ATA_DRQ;
    fis[15] = tf->status; /* E_STATUS */
    fis[16] = (uint8_t)len;
    fis[17] = (uint8_t)(len >> 8);
}

/* ---- stopping; io_loop, lock held ---- */

static void port_abort_running(struct ahci_port *port)
{
    for (unsigned slot = 0; slot < SLOTS; slot++)
        if (port->commands[slot])
            TAKE(port->commands[slot])->io.aborted = true; /* frees itself when it ends */
    port->running = 0;
    port->exclusive = false;
}

/* After a reset of the device: it presents itself. */
static void port_signature(struct ahci_port *port)
{
    struct ahci_port_regs *r = port->regs;
    struct ata_taskfile tf = { 0 };
    ata_signature(&port->drive, &tf);
    r->tfd = (uint32_t)tf.error << 8 | tf.status;
    r->sig = (uint32_t)tf.lba << 8 | tf.count;
    r->signature = 1;
}

static void port_power_on(struct ahci_port *port)
{
    struct ahci_port_regs *r = port->regs;
    struct ata_regs ata = r->ata;
    *r = (struct ahci_port_regs){ .tfd = TFD_NONE, .sig = UINT32_MAX, .ata = ata };
    r->cmd = CMD_SUD | CMD_POD;
    if (!port->present)
        return;
    r->ssts = SSTS_UP;
    r->cmd |= port->drive.cdrom ? CMD_ATAPI : 0;
    port_signature(port);
}

/* ---- commands; io_loop ---- */

static void command_free(struct ahci_command *command)
{
    ata_io_free(&command->io);
    free(command);
}

static void port_error(struct ahci_port *port, uint32_t bit)
{
    port->regs->halted = 1;
    port->regs->is |= bit;
    port_abort_running(port);
    ahci_update_irq(port->ahci);
}

/* With the lock: the command is over, its FIS is posted. */
static void command_retire(struct ahci_command *command, uint32_t bits)
{
    struct ahci_port *port = command->port;
    struct ahci_port_regs *r = port->regs;
    uint32_t slot = 1u << command->slot;
    const struct ata_plan *plan = &command->io.plan;
    bool failed = command->tf.status & ATA_ERR;

    port->commands[command->slot] = NULL;
    port->running &= ~slot;
    port->exclusive = false;
    if (!plan->ncq || failed)
        r->tfd = (uint32_t)command->tf.error << 8 | command->tf.status;
    r->accepted &= ~slot;
    if (!failed) {
        r->ci &= ~slot;
        r->sact &= plan->ncq ? ~(1u << plan->tag) : UINT32_MAX;
    }
    r->is |= bits | (command->prd_interrupt ? IS_DPS : 0);
    if (failed)
        port_error(port, IS_TFES);
    else
        ahci_update_irq(port->ahci);
}

static void command_finished(struct ata_io *io, int result)
{
    struct ahci_command *command = CONTAINER_OF(io, struct ahci_command, io);
    struct ahci_port *port = command->port;
    struct device *dev = &port->ahci->pci.dev;
    struct ata_taskfile *tf = &command->tf;
    uint64_t area;
    uint8_t fis[20];
    if (io->aborted) {
        command_free(command);
        return;
    }
    {
        LOCKED(&dev->lock);
        if (!(tf->status & ATA_ERR))
            ata_end(&port->drive, tf, &io->plan, result);
        area = port_fis_area(port);
    }
    uint32_t bits = IS_DHRS, bytes = htole32((uint32_t)ata_io_moved(io));
    if (!io->plan.ncq)
        mem_write(dev->machine, command->header + 4, &bytes, sizeof bytes);
    if (io->plan.pio && io->plan.kind != ATA_NO_DATA && result == 0) {
        bits |= IS_PSS;
        fis_pio(fis, tf, io->plan.kind == ATA_READ || io->plan.kind == ATA_REPLY, io->plan.len);
        fis_post(port, area, AT_PIO, fis, sizeof fis);
    }
    if (io->plan.ncq) {
        uint32_t done = htole32(tf->status & ATA_ERR ? 0 : 1u << io->plan.tag);
        uint8_t set[8] = { FIS_BITS, FIS_INTERRUPT, tf->status & 0x77, tf->error };
        memcpy(set + 4, &done, 4);
        fis_post(port, area, AT_BITS, set, sizeof set);
        bits = IS_SDBS;
    } else {
        fis_d2h(fis, tf, true);
        fis_post(port, area, AT_D2H, fis, sizeof fis);
    }
    {
        LOCKED(&dev->lock);
        command_retire(command, bits);
    }
    command_free(command);
    io_work_kick(&port->ahci->work);
}

/* A queued command is accepted by a FIS that clears its bit in CI. */
static void command_accept(struct ahci_command *command)
{
    struct ahci_port *port = command->port;
    struct ata_taskfile tf = command->tf;
    uint64_t area;
    uint8_t fis[20];
    {
        LOCKED(&port->ahci->pci.dev.lock);
        area = port_fis_area(port);
    }
    tf.status = ATA_READY;
    fis_d2h(fis, &tf, false);
    fis_post(port, area, AT_D2H, fis, sizeof fis);
    LOCKED(&port->ahci->pci.dev.lock);
    port->regs->ci &= ~(1u << command->slot);
    port->regs->accepted |= 1u << command->slot;
    port->regs->tfd = ATA_READY;
}

/* Control FISes: a software reset is one that sets SRST and one that clears it. */
static void port_control(struct ahci_port *port, unsigned slot, uint8_t control)
{
    struct ahci_port_regs *r = port->regs;
    LOCKED(&port->ahci->pci.dev.lock);
    r->ci &= ~(1u << slot);
    if (control & CONTROL_SRST) {
        r->srst = 1;
        r->tfd = ATA_BSY;
    } else if (r->srst) {
        r->srst = 0;
        ata_reset(&port->drive, false);
        port_signature(port);
        io_work_kick(&port->ahci->work);
    }
    ahci_update_irq(port->ahci);
}

static int command_read_prds(struct ahci_command *command, uint64_t table, unsigned count)
{
    struct machine *m = command->port->ahci->pci.dev.machine;
    uint32_t entries[64][4];
    for (unsigned at = 0; at < count; at += ARRAY_LEN(entries)) {
        unsigned n = count - at < ARRAY_LEN(entries) ? count - at : ARRAY_LEN(entries);
        if (mem_read(m, table + PRDT_AT + (uint64_t)at * PRD_LEN, entries, n * PRD_LEN) < 0)
            return -EFAULT;
        for (unsigned i = 0; i < n; i++) {
            uint32_t control = le32toh(entries[i][3]);
            uint64_t gpa = (uint64_t)le32toh(entries[i][1]) << 32 | le32toh(entries[i][0]);
            sg_add(&command->io.sg, gpa & ~1ull, (control & 0x3fffff) + 1);
            command->prd_interrupt |= control >> 31;
        }
    }
    return 0;
}

static void tf_of_fis(struct ata_taskfile *tf, const uint8_t *fis)
{
    *tf = (struct ata_taskfile){ .command = fis[2], .device = fis[7] };
    tf->features = (uint16_t)(fis[3] | fis[11] << 8);
    tf->count = (uint16_t)(fis[12] | fis[13] << 8);
    for (unsigned i = 0; i < 3; i++)
        tf->lba |= (uint64_t)fis[4 + i] << 8 * i | (uint64_t)fis[8 + i] << (24 + 8 * i);
}

/* Reads the command of a slot. 0: *out is filled (NULL: it was a control FIS). */
static int command_fetch(struct ahci_port *port, unsigned slot, uint64_t clb,
                         struct ahci_command **out)
{
    struct machine *m = port->ahci->pci.dev.machine;
    uint32_t header[8];
    uint8_t table[CFIS_LEN + 16];
    uint64_t at = clb + slot * HEADER_LEN;
    if (mem_read(m, at, header, sizeof header) < 0)
        return -EFAULT;
    uint32_t flags = le32toh(header[0]);
    uint64_t ctba = (uint64_t)le32toh(header[3]) << 32 | (le32toh(header[2]) & ~0x7fu);
    if (mem_read(m, ctba, table, sizeof table) < 0)
        return -EFAULT;
    *out = NULL;
    if (table[0] != FIS_H2D || (flags & 31) < 2)
        return -EINVAL;
    if (!(table[1] & 0x80)) {
        port_control(port, slot, table[15]);
        return 0;
    }
    struct ahci_command *command = calloc(1, sizeof *command);
    if (!command)
        abort();
    command->port = port;
    command->slot = slot;
    command->header = at;
    command->io.drive = &port->drive;
    command->io.finished = command_finished;
    tf_of_fis(&command->tf, table);
    if (command_read_prds(command, ctba, flags >> 16) < 0) {
        command_free(command);
        return -EFAULT;
    }
    {
        LOCKED(&port->ahci->pci.dev.lock);
        ata_begin(&port->drive, &command->tf, table + ACMD_AT, &command->io.plan);
        if (command->io.plan.packet)
            command->io.plan.pio = !(command->tf.features & 1);
        if (command->io.plan.kind == ATA_READ && (uint64_t)sg_left(&command->io.sg) == 0)
            command->io.plan.kind = ATA_NO_DATA;
    }
    *out = command;
    return 0;
}

/* The slot to start next; -1: none can start now. Lock held. */
static int port_pick(struct ahci_port *port)
{
    const struct ahci_port_regs *r = port->regs;
    if ((r->cmd & (CMD_ST | CMD_CR)) != (CMD_ST | CMD_CR) || r->halted || r->link_up ||
        !port->present || port->exclusive)
        return -1;
    uint32_t waiting = (r->ci | r->accepted) & ~port->running;
    return waiting ? __builtin_ctz(waiting) : -1;
}

/* False: nothing more to do now. */
static bool port_start_next(struct ahci_port *port)
{
    struct device *dev = &port->ahci->pci.dev;
    struct ahci_command *command;
    uint64_t clb;
    int slot;
    {
        LOCKED(&dev->lock);
        slot = port_pick(port);
        clb = port->regs->clb;
    }
    if (slot < 0)
        return false;
    int r = command_fetch(port, (unsigned)slot, clb, &command);
    if (r < 0) {
        LOCKED(&dev->lock);
        if (r == -EINVAL) /* no FIS that a host sends: the device does not answer */
            port->regs->tfd = ATA_READY | ATA_ERR | ATA_ABRT << 8;
        port_error(port, r == -EINVAL ? IS_TFES : IS_HBFS);
        return false;
    }
    if (!command)
        return true;
    bool ncq = command->io.plan.ncq;
    if (!ncq && port->running) { /* a queued command's turn first: fetched again later */
        command_free(command);
        return false;
    }
    {
        LOCKED(&dev->lock);
        port->commands[slot] = command;
        port->running |= 1u << slot;
        port->exclusive = !ncq;
        port->regs->cmd = (port->regs->cmd & ~(31u << CMD_CCS_SHIFT)) | (uint32_t)slot
                                                                            << CMD_CCS_SHIFT;
        if (!ncq)
            port->regs->tfd = ATA_BSY;
    }
    if (ncq && !(command->tf.status & ATA_ERR))
        command_accept(command);
    if (command->tf.status & ATA_ERR)
        command->io.plan.kind = ATA_NO_DATA;
    ata_io_start(&command->io);
    return true;
}

/* What register writes left to do. */
static void port_housekeeping(struct ahci_port *port)
{
    struct ahci_port_regs *r = port->regs;
    struct ata_taskfile tf = { 0 };
    uint64_t area;
    uint8_t fis[20];
    {
        LOCKED(&port->ahci->pci.dev.lock);
        if ((r->cmd & (CMD_ST | CMD_CR)) == CMD_CR) { /* 2 */
            port_abort_running(port);
            r->cmd &= ~(uint32_t)CMD_CR;
        }
        if (r->link_up) {
            port_abort_running(port);
            r->link_up = 0;
            r->ci = r->sact = r->accepted = 0;
            if (port->present && !(r->sctl & 15)) {
                ata_reset(&port->drive, false);
                r->ssts = SSTS_UP;
                r->serr |= SERR_EXCHANGED;
                port_signature(port);
            }
        }
        area = port_fis_area(port);
        if (!r->signature || !area) {
            ahci_update_irq(port->ahci);
            return;
        }
        ata_signature(&port->drive, &tf);
    }
    fis_d2h(fis, &tf, false);
    fis_post(port, area, AT_D2H, fis, sizeof fis);
    LOCKED(&port->ahci->pci.dev.lock);
    /* No DHRS, for the FIS has no I bit (AHCI 1.3.1, 3.3.5). SeaBIOS would take it for the answer
     * to a command that it may have issued meanwhile. */
    r->signature = 0;
    ahci_update_irq(port->ahci);
}

static void ahci_host_reset(struct ahci *ahci)
{
    LOCKED(&ahci->pci.dev.lock);
    if (!(ahci->regs.ghc & GHC_HR))
        return;
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        port_abort_running(&ahci->ports[i]);
        if (ahci->ports[i].present)
            ata_reset(&ahci->ports[i].drive, false);
        port_power_on(&ahci->ports[i]);
    }
    ahci->regs.ghc = GHC_AE;
    ahci_update_irq(ahci);
}

static void ahci_work(void *arg)
{
    struct ahci *ahci = arg;
    ahci_host_reset(ahci);
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        port_housekeeping(&ahci->ports[i]);
        /* Bus mastering off: what there is to do waits for it. */
        for (unsigned n = 0; pci_bus_master(&ahci->pci) && n < 2 * SLOTS; n++)
            if (!port_start_next(&ahci->ports[i]))
                break;
    }
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
        port_abort_running(&ahci->ports[i]);
        if (ahci->ports[i].present)
            ata_reset(&ahci->ports[i].drive, true);
        port_power_on(&ahci->ports[i]);
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
        port_abort_running(&ahci->ports[i]);
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
