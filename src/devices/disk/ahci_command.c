/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the ports of an AHCI controller do, on io_loop: command tables are read, data moved, FISes
 * posted. Command lists are read once into a copy that is used from then on. Invariants 1 to 3 are
 * in ahci_priv.h.
 */
#include "devices/disk/ahci_priv.h"

#include "base/checked.h"
#include "base/log.h"
#include "machine/machine.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

enum { FIS_H2D = 0x27, FIS_D2H = 0x34, FIS_PIO = 0x5f, FIS_BITS = 0xa1, FIS_INTERRUPT = 0x40 };
enum { AT_PIO = 0x20, AT_D2H = 0x40, AT_BITS = 0x58 }; /* in the received-FIS area */
enum { HEADER_LEN = 32, CFIS_LEN = 64, ACMD_AT = 0x40, PRDT_AT = 0x80, PRD_LEN = 16 };
enum { CONTROL_SRST = 4 };

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

void ahci_port_abort(struct ahci_port *port)
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

void ahci_port_power_on(struct ahci_port *port)
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
    ahci_port_abort(port);
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
            ahci_port_abort(port);
            r->cmd &= ~(uint32_t)CMD_CR;
        }
        if (r->link_up) {
            ahci_port_abort(port);
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
        ahci_port_abort(&ahci->ports[i]);
        if (ahci->ports[i].present)
            ata_reset(&ahci->ports[i].drive, false);
        ahci_port_power_on(&ahci->ports[i]);
    }
    ahci->regs.ghc = GHC_AE;
    ahci_update_irq(ahci);
}

void ahci_work(void *arg)
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
