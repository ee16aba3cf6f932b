/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The floppy disk controller: an Intel 82077AA (order 290166) in its PC/AT mode, by DMA channel 2
 * and interrupt 6. Disks are raw images of the usual sizes.
 *
 * Transfers by PIO ("non-DMA") are refused as an overrun: nothing has used them since the PC/XT.
 * Rates and gaps are taken and forgotten. A transfer is a row of sectors, each a request of its
 * own: what is under way when the state is saved begins its sector again after the restore.
 */
#include "devices/disk/fdc.h"

#include "base/checked.h"
#include "base/log.h"
#include "devices/io_work.h"
#include "devices/isa_dma.h"
#include "machine/irq.h"
#include "machine/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PORT = 0x3f0, GSI = 6, CHANNEL = 2, PRIORITY = 10, SECTOR = 512, DRAIN_MS = 2000 };
enum { SRA, SRB, DOR, TDR, MSR, FIFO, DIR = 7 };
enum { DOR_SELECT = 3, DOR_RUN = 4, DOR_DMA = 8 };
enum { MSR_RQM = 0x80, MSR_DIO = 0x40, MSR_BUSY = 0x10, DSR_RESET = 0x80, DIR_CHANGED = 0x80 };
enum { ST0_ABNORMAL = 0x40, ST0_INVALID = 0x80, ST0_SEEK_END = 0x20, ST0_CHANGED = 0xc0 };
enum { ST0_NOT_READY = 0x48 };
enum { ST1_MISSING = 0x01, ST1_READONLY = 0x02, ST1_NO_DATA = 0x04, ST1_OVERRUN = 0x10 };
enum { ST1_DATA_ERROR = 0x20, ST1_END = 0x80 };
enum { COMMAND_LEN = 9, MULTI_TRACK = 0x80, VERSION_82077 = 0x90 };
enum fdc_phase { COMMAND, EXECUTE, RESULT };

struct geometry {
    uint16_t sectors; /* of the whole disk */
    uint8_t cylinders, heads, per_track;
};
static const struct geometry geometries[] = {
    { 2880, 80, 2, 18 }, { 2400, 80, 2, 15 }, { 1440, 80, 2, 9 }, { 720, 40, 2, 9 },
    { 640, 40, 2, 8 },   { 360, 40, 1, 9 },   { 320, 40, 1, 8 },  { 5760, 80, 2, 36 },
    { 3360, 80, 2, 21 }, { 3444, 82, 2, 21 },
};

struct fdc_drive_regs {
    uint8_t cylinder; /* where the heads are */
    uint8_t changed;  /* the disk change line */
};

struct fdc_regs {
    struct fdc_drive_regs drives[FDC_DRIVES];
    uint8_t command[COMMAND_LEN], result[COMMAND_LEN];
    uint8_t position, length; /* in command or result */
    uint8_t phase;
    uint8_t dor, tdr, irq;
    uint8_t interrupts[4]; /* ST0 for SENSE INTERRUPT, first one first */
    uint8_t interrupt_count;
    uint8_t locked, config[3], specify[2];
    uint8_t sector[3]; /* C, H, R of the transfer */
    uint8_t cut;       /* the controller was reset: what still runs is stale */
    uint8_t reserved[3];
};

struct fdc_request {
    struct block_request req;
    struct iovec iov;
    struct fdc *fdc;
    bool stale;
    bool terminal; /* the DMA controller's count ran out with this sector */
    uint8_t data[SECTOR];
};

struct fdc_drive {
    char id[24];
    bool present; /* fixed at create */
    bool readonly;
    const struct geometry *geometry; /* dev.lock; NULL: no disk */
    /* io_loop */
    struct block_node *node;
    struct block_queue *queue;
};

struct fdc {
    struct device dev;
    struct fdc_regs regs; /* dev.lock */
    struct fdc_drive drives[FDC_DRIVES];
    struct device *dma;
    struct irq_pin pin;
    struct io_work work;
    struct mapping *maps[2];
    bool paused;               /* io_loop */
    struct fdc_request *under; /* io_loop: under way */
};

/* ---- phases; lock held ---- */

static void fdc_irq(struct fdc *fdc, bool level)
{
    fdc->regs.irq = level;
    irq_pin_set(&fdc->pin, level && (fdc->regs.dor & DOR_DMA));
}

static void fdc_result(struct fdc *fdc, const uint8_t *bytes, unsigned len)
{
    struct fdc_regs *r = &fdc->regs;
    if (len)
        memcpy(r->result, bytes, len);
    r->length = (uint8_t)len;
    r->position = 0;
    r->phase = len ? RESULT : COMMAND;
}

static void fdc_interrupt(struct fdc *fdc, uint8_t st0)
{
    struct fdc_regs *r = &fdc->regs;
    if (r->interrupt_count < sizeof r->interrupts)
        r->interrupts[r->interrupt_count++] = st0;
    fdc_irq(fdc, true);
}

/* The end of a transfer. */
static void fdc_finish(struct fdc *fdc, uint8_t st0, uint8_t st1, uint8_t st2)
{
    struct fdc_regs *r = &fdc->regs;
    const uint8_t bytes[7] = {
        (uint8_t)(st0 | (r->command[1] & 7)), st1, st2, r->sector[0], r->sector[1], r->sector[2], 2
    };
    fdc_result(fdc, bytes, sizeof bytes);
    fdc_irq(fdc, true);
}

static void fdc_power_on(struct fdc *fdc, bool hard)
{
    struct fdc_regs *r = &fdc->regs, old = *r;
    *r = (struct fdc_regs){ .dor = old.dor, .cut = old.phase == EXECUTE };
    memcpy(r->drives, old.drives, sizeof r->drives);
    memcpy(r->specify, old.specify, sizeof r->specify);
    if (old.locked && !hard) {
        r->locked = 1;
        memcpy(r->config, old.config, sizeof r->config);
    }
    if (hard) {
        r->dor = DOR_RUN | DOR_DMA;
        for (unsigned i = 0; i < FDC_DRIVES; i++)
            r->drives[i] = (struct fdc_drive_regs){ .changed = 1 };
    }
    fdc_irq(fdc, false);
}

/* Polling after a reset: an interrupt that tells of all four drives (5.2.2). */
static void fdc_reset_done(struct fdc *fdc)
{
    for (uint8_t i = 0; i < 4; i++)
        fdc_interrupt(fdc, ST0_CHANGED | i);
}

/* ---- commands; lock held ---- */

static struct fdc_drive *command_drive(struct fdc *fdc)
{
    unsigned drive = fdc->regs.command[1] & 3;
    return drive < FDC_DRIVES && fdc->drives[drive].present ? &fdc->drives[drive] : NULL;
}

static void fdc_seek(struct fdc *fdc, unsigned cylinder)
{
    struct fdc_drive *drive = command_drive(fdc);
    unsigned index = fdc->regs.command[1] & 3;
    uint8_t st0 = (uint8_t)(ST0_SEEK_END | (fdc->regs.command[1] & 7));
    if (drive) {
        fdc->regs.drives[index].cylinder = (uint8_t)(cylinder < 84 ? cylinder : 84);
        if (drive->geometry)
            fdc->regs.drives[index].changed = 0;
    } else {
        st0 |= ST0_ABNORMAL | 0x10; /* track 0 was not found */
    }
    fdc_result(fdc, NULL, 0);
    fdc_interrupt(fdc, st0);
}

static void fdc_sense_interrupt(struct fdc *fdc)
{
    struct fdc_regs *r = &fdc->regs;
    uint8_t bytes[2] = { ST0_INVALID, 0 };
    if (!r->interrupt_count) {
        fdc_result(fdc, bytes, 1);
        return;
    }
    bytes[0] = r->interrupts[0];
    memmove(r->interrupts, r->interrupts + 1, --r->interrupt_count);
    if ((bytes[0] & 3) < FDC_DRIVES)
        bytes[1] = r->drives[bytes[0] & 3].cylinder;
    fdc_irq(fdc, false);
    fdc_result(fdc, bytes, 2);
}

static void fdc_sense_drive(struct fdc *fdc)
{
    struct fdc_drive *drive = command_drive(fdc);
    uint8_t st3 = (uint8_t)(0x28 | (fdc->regs.command[1] & 7)); /* ready, two sides */
    if (drive && drive->readonly)
        st3 |= 0x40;
    if (drive && !fdc->regs.drives[fdc->regs.command[1] & 3].cylinder)
        st3 |= 0x10;
    fdc_result(fdc, &st3, 1);
}

static void fdc_dump(struct fdc *fdc)
{
    const struct fdc_regs *r = &fdc->regs;
    const uint8_t bytes[9] = {
        r->drives[0].cylinder, r->drives[1].cylinder, 0,           0, r->specify[0], r->specify[1],
        r->command[6],         r->locked << 7,        r->config[1]
    };
    fdc_result(fdc, bytes, sizeof bytes);
}

static void fdc_read_id(struct fdc *fdc)
{
    struct fdc_regs *r = &fdc->regs;
    struct fdc_drive *drive = command_drive(fdc);
    unsigned cylinder = drive ? r->drives[r->command[1] & 3].cylinder : 0;
    r->sector[0] = (uint8_t)cylinder;
    r->sector[1] = r->command[1] >> 2 & 1;
    r->sector[2] = 1;
    if (drive && drive->geometry && cylinder < drive->geometry->cylinders &&
        r->sector[1] < drive->geometry->heads)
        fdc_finish(fdc, 0, 0, 0);
    else
        fdc_finish(fdc, ST0_ABNORMAL, ST1_MISSING, 0);
}

/* READ, WRITE, FORMAT: the work does the rest. */
static void fdc_transfer(struct fdc *fdc)
{
    struct fdc_regs *r = &fdc->regs;
    bool format = (r->command[0] & 31) == 0x0d;
    struct fdc_drive *drive = command_drive(fdc);
    r->sector[0] = format && drive ? r->drives[r->command[1] & 3].cylinder : r->command[2];
    r->sector[1] = format ? r->command[1] >> 2 & 1 : r->command[3];
    r->sector[2] = format ? 1 : r->command[4];
    r->phase = EXECUTE;
    io_work_kick(&fdc->work);
}

static unsigned command_len(uint8_t command)
{
    switch (command & 31) {
    case 0x02:           /* READ TRACK */
    case 0x05:           /* WRITE */
    case 0x06:           /* READ */
    case 0x09:           /* WRITE DELETED */
    case 0x0c:           /* READ DELETED */
    case 0x16: return 9; /* VERIFY */
    case 0x0d: return 6; /* FORMAT */
    case 0x13: return 4; /* CONFIGURE */
    case 0x03:           /* SPECIFY */
    case 0x0f: return 3; /* SEEK */
    case 0x04:           /* SENSE DRIVE STATUS */
    case 0x07:           /* RECALIBRATE */
    case 0x0a:           /* READ ID */
    case 0x12: return 2; /* PERPENDICULAR */
    }
    return 1;
}

static void fdc_command(struct fdc *fdc)
{
    struct fdc_regs *r = &fdc->regs;
    uint8_t byte;
    switch (r->command[0] & 31) {
    case 0x05:
    case 0x06:
    case 0x09:
    case 0x0c:
    case 0x0d:
    case 0x16: fdc_transfer(fdc); return;
    case 0x03:
        memcpy(r->specify, r->command + 1, 2);
        fdc_result(fdc, NULL, 0);
        return;
    case 0x04: fdc_sense_drive(fdc); return;
    case 0x07: fdc_seek(fdc, 0); return;
    case 0x08: fdc_sense_interrupt(fdc); return;
    case 0x0a: fdc_read_id(fdc); return;
    case 0x0e: fdc_dump(fdc); return;
    case 0x0f: fdc_seek(fdc, r->command[2]); return;
    case 0x10:
        byte = VERSION_82077;
        fdc_result(fdc, &byte, 1);
        return;
    case 0x12: fdc_result(fdc, NULL, 0); return;
    case 0x13:
        memcpy(r->config, r->command + 1, 3);
        fdc_result(fdc, NULL, 0);
        return;
    case 0x14: /* LOCK, UNLOCK */
        r->locked = r->command[0] >> 7;
        byte = (uint8_t)(r->locked << 4);
        fdc_result(fdc, &byte, 1);
        return;
    case 0x18:
        byte = 0x41; /* PART ID */
        fdc_result(fdc, &byte, 1);
        return;
    }
    byte = ST0_INVALID;
    fdc_result(fdc, &byte, 1);
}

/* ---- transfers; io_loop ---- */

/* The next sector in the order of the disk. False: there is none in this command. Lock held. */
static bool sector_next(struct fdc_regs *r, const struct geometry *g)
{
    unsigned last = (r->command[0] & 31) == 0x0d ? r->command[3] : r->command[6];
    if (r->sector[2] < last && r->sector[2] < g->per_track) {
        r->sector[2]++;
        return true;
    }
    r->sector[2] = 1;
    if ((r->command[0] & MULTI_TRACK) && r->sector[1] == 0 && g->heads > 1) {
        r->sector[1] = 1;
        return true;
    }
    r->sector[0]++;
    if (r->command[0] & MULTI_TRACK)
        r->sector[1] = 0;
    return false;
}

static void sector_done(struct block_request *req, int result)
{
    struct fdc_request *request = CONTAINER_OF(req, struct fdc_request, req);
    struct fdc *fdc = request->fdc;
    struct fdc_regs *r = &fdc->regs;
    bool terminal = request->terminal;
    if (!request->stale)
        fdc->under = NULL;
    if (request->stale || fdc->paused) { /* it begins again, if it is still wanted */
        free(request);
        return;
    }
    if (result == 0 && req->op == BLOCK_READ && (r->command[0] & 31) != 0x16) {
        int moved = isa_dma_move(fdc->dma, CHANNEL, request->data, SECTOR, true, &terminal);
        if (moved < 0 || (moved < SECTOR && !terminal))
            result = -EOVERFLOW;
    }
    free(request);
    LOCKED(&fdc->dev.lock);
    const struct geometry *g = command_drive(fdc) ? command_drive(fdc)->geometry : NULL;
    if (r->phase != EXECUTE || r->cut)
        return;
    unsigned code = r->command[0] & 31;
    if (result < 0 || !g) {
        fdc_finish(fdc, ST0_ABNORMAL, result == -EOVERFLOW ? ST1_OVERRUN : ST1_DATA_ERROR, 0);
        return;
    }
    bool more = sector_next(r, g);
    if (terminal || (!more && (code == 0x0d || code == 0x16)))
        fdc_finish(fdc, 0, 0, 0);
    else if (!more)
        fdc_finish(fdc, ST0_ABNORMAL, ST1_END, 0);
    else
        io_work_kick(&fdc->work);
}

/* Where the sector lies, or -1 with the end of the command told. Lock held. */
static int64_t sector_place(struct fdc *fdc, bool write)
{
    struct fdc_regs *r = &fdc->regs;
    struct fdc_drive *drive = command_drive(fdc);
    const struct geometry *g = drive ? drive->geometry : NULL;
    const uint8_t *s = r->sector;
    bool format = (r->command[0] & 31) == 0x0d, verify = (r->command[0] & 31) == 0x16;
    if (!g || !drive->queue) {
        fdc_finish(fdc, ST0_NOT_READY, ST1_MISSING, 0);
    } else if ((format ? r->command[2] : r->command[5]) != 2 || s[0] >= g->cylinders ||
               s[1] >= g->heads || s[2] < 1 || s[2] > g->per_track) {
        fdc_finish(fdc, ST0_ABNORMAL, ST1_NO_DATA, 0);
    } else if (write && drive->readonly) {
        fdc_finish(fdc, ST0_ABNORMAL, ST1_READONLY, 0);
    } else if (!verify && !(r->dor & DOR_DMA)) {
        fdc_finish(fdc, ST0_ABNORMAL, ST1_OVERRUN, 0);
    } else {
        r->drives[r->command[1] & 3].cylinder = s[0];
        return ((int64_t)s[0] * g->heads + s[1]) * g->per_track + s[2] - 1;
    }
    return -1;
}

static void fdc_fail_io(struct fdc *fdc)
{
    LOCKED(&fdc->dev.lock);
    fdc_finish(fdc, ST0_ABNORMAL, ST1_OVERRUN, 0);
}

static void fdc_work(void *arg)
{
    struct fdc *fdc = arg;
    struct fdc_regs *r = &fdc->regs;
    struct fdc_drive *drive;
    bool write, format, verify, terminal = false;
    int64_t place;
    {
        LOCKED(&fdc->dev.lock);
        if (r->cut && fdc->under) {
            fdc->under->stale = true;
            fdc->under = NULL;
        }
        r->cut = 0;
        if (r->phase != EXECUTE || fdc->under)
            return;
        unsigned command = r->command[0] & 31;
        format = command == 0x0d;
        verify = command == 0x16;
        write = format || command == 0x05 || command == 0x09;
        if (!verify && !isa_dma_ready(fdc->dma, CHANNEL, !write))
            return; /* the DMA controller says when */
        place = sector_place(fdc, write);
        if (place < 0)
            return;
        drive = command_drive(fdc);
    }
    struct fdc_request *request = calloc(1, sizeof *request);
    if (!request)
        abort();
    if (format) { /* four bytes about each sector come by DMA; the drive fills it */
        uint8_t about[4];
        int moved = isa_dma_move(fdc->dma, CHANNEL, about, 4, false, &terminal);
        memset(request->data, r->command[5], SECTOR);
        if (moved < 4) {
            free(request);
            fdc_fail_io(fdc);
            return;
        }
    } else if (write) {
        int moved = isa_dma_move(fdc->dma, CHANNEL, request->data, SECTOR, false, &terminal);
        if (moved < 0 || (moved < SECTOR && !terminal)) {
            free(request);
            fdc_fail_io(fdc);
            return;
        }
    }
    request->fdc = fdc;
    request->terminal = terminal;
    request->iov = (struct iovec){ request->data, SECTOR };
    request->req = (struct block_request){ .op = write ? BLOCK_WRITE : BLOCK_READ,
                                           .offset = (uint64_t)place * SECTOR,
                                           .len = SECTOR,
                                           .iov = &request->iov,
                                           .iov_count = 1,
                                           .done = sector_done };
    fdc->under = request;
    block_submit(drive->queue, &request->req);
    block_kick(drive->queue);
}

/* ---- registers; lock held ---- */

static uint8_t fifo_read(struct fdc *fdc)
{
    struct fdc_regs *r = &fdc->regs;
    if (r->phase != RESULT)
        return 0;
    uint8_t byte = r->result[r->position];
    if (r->position == 0 && r->length == 7)
        fdc_irq(fdc, false); /* the first byte answers a transfer's interrupt */
    if (++r->position == r->length) {
        r->position = r->length = 0;
        r->phase = COMMAND;
    }
    return byte;
}

static void fifo_write(struct fdc *fdc, uint8_t byte)
{
    struct fdc_regs *r = &fdc->regs;
    if (r->phase != COMMAND || !(r->dor & DOR_RUN))
        return;
    r->command[r->position++] = byte;
    if (r->position == command_len(r->command[0])) {
        r->position = 0;
        fdc_command(fdc);
    }
}

static uint64_t fdc_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct fdc *fdc = (struct fdc *)dev;
    struct fdc_regs *r = &fdc->regs;
    unsigned selected = r->dor & DOR_SELECT, reg = region ? DIR : (unsigned)offset;
    switch (reg) {
    case SRA: return r->irq ? 0x80 : 0;
    case SRB: return 0xc0 | (r->dor & 0x30) >> 4;
    case DOR: return r->dor;
    case TDR: return r->tdr;
    case MSR:
        if (!(r->dor & DOR_RUN))
            return 0;
        if (r->phase == EXECUTE)
            return MSR_BUSY;
        return MSR_RQM | (r->phase == RESULT ? MSR_DIO | MSR_BUSY : r->position ? MSR_BUSY : 0);
    case FIFO: return fifo_read(fdc);
    case DIR:
        return selected < FDC_DRIVES && fdc->drives[selected].present && r->drives[selected].changed
                   ? DIR_CHANGED
                   : 0;
    }
    return 0xff;
}

static void fdc_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                      uint64_t value)
{
    struct fdc *fdc = (struct fdc *)dev;
    struct fdc_regs *r = &fdc->regs;
    uint8_t was = r->dor;
    if (region)
        return; /* the rate */
    switch (offset) {
    case DOR:
        r->dor = (uint8_t)value;
        if (!(value & DOR_RUN) && (was & DOR_RUN))
            fdc_power_on(fdc, false);
        else if ((value & DOR_RUN) && !(was & DOR_RUN))
            fdc_reset_done(fdc);
        fdc_irq(fdc, r->irq);
        break;
    case TDR: r->tdr = value & 3; break;
    case MSR:
        if (value & DSR_RESET) {
            fdc_power_on(fdc, false);
            fdc_reset_done(fdc);
        }
        break;
    case FIFO: fifo_write(fdc, (uint8_t)value); break;
    }
    if (r->cut)
        io_work_kick(&fdc->work);
}

/* ---- disks ---- */

static const struct geometry *geometry_of(uint64_t size)
{
    for (unsigned i = 0; i < ARRAY_LEN(geometries); i++)
        if ((uint64_t)geometries[i].sectors * SECTOR == size)
            return &geometries[i];
    return NULL;
}

struct disk_call {
    struct fdc *fdc;
    struct fdc_drive *drive;
    struct block_node *node;
    bool readonly;
    struct err *err;
    int result;
};

static void disk_insert(void *arg)
{
    struct disk_call *call = arg;
    struct fdc_drive *drive = call->drive;
    const struct geometry *g = geometry_of(block_size(call->node));
    struct block_queue *queue;
    if (drive->queue) {
        call->result = err_set(call->err, EBUSY, "%s has a disk; eject that first", drive->id);
        return;
    }
    if (!g) {
        call->result =
            err_set(call->err, EINVAL, "no floppy disk has %llu bytes; the usual image has 1474560",
                    (unsigned long long)block_size(call->node));
        return;
    }
    call->result =
        block_queue_create(call->node, call->fdc->dev.machine->io_loop, &queue, call->err);
    if (call->result < 0)
        return;
    LOCKED(&call->fdc->dev.lock);
    drive->node = call->node;
    drive->queue = queue;
    drive->geometry = g;
    drive->readonly = call->readonly || block_readonly(call->node);
    call->fdc->regs.drives[drive - call->fdc->drives].changed = 1;
}

static void disk_eject(void *arg)
{
    struct disk_call *call = arg;
    struct fdc_drive *drive = call->drive;
    if (!drive->queue) {
        call->result = err_set(call->err, ENOMEDIUM, "%s is empty", drive->id);
        return;
    }
    if (block_drain(drive->queue, DRAIN_MS) < 0) {
        call->result = err_set(call->err, EBUSY, "%s is still busy; try again later", drive->id);
        return;
    }
    block_queue_destroy(TAKE(drive->queue));
    LOCKED(&call->fdc->dev.lock);
    drive->node = NULL;
    drive->geometry = NULL;
    call->fdc->regs.drives[drive - call->fdc->drives].changed = 1;
}

int fdc_insert(struct device *dev, unsigned drive, struct block_node *node, bool readonly,
               struct err *err)
{
    struct fdc *fdc = (struct fdc *)dev;
    struct disk_call call = {
        .fdc = fdc, .drive = &fdc->drives[drive], .node = node, .readonly = readonly, .err = err
    };
    loop_call(dev->machine->io_loop, disk_insert, &call);
    return call.result;
}

int fdc_eject(struct device *dev, unsigned drive, struct err *err)
{
    struct fdc *fdc = (struct fdc *)dev;
    struct disk_call call = { .fdc = fdc, .drive = &fdc->drives[drive], .err = err };
    loop_call(dev->machine->io_loop, disk_eject, &call);
    return call.result;
}

/* ---- life ---- */

static void fdc_reset(struct device *dev)
{
    struct fdc *fdc = (struct fdc *)dev;
    LOCKED(&dev->lock);
    fdc_power_on(fdc, true);
}

static void fdc_do_pause(void *arg)
{
    struct fdc *fdc = arg;
    for (unsigned i = 0; i < FDC_DRIVES; i++)
        if (fdc->drives[i].queue && block_drain(fdc->drives[i].queue, DRAIN_MS) < 0)
            log_warning("%s: a sector did not finish in time; it will be moved again",
                        fdc->drives[i].id);
    fdc->paused = true;
}

static void fdc_pause(struct device *dev)
{
    struct fdc *fdc = (struct fdc *)dev;
    io_work_pause(&fdc->work);
    loop_call(dev->machine->io_loop, fdc_do_pause, fdc);
}

static void fdc_do_resume(void *arg) { ((struct fdc *)arg)->paused = false; }

static void fdc_resume(struct device *dev)
{
    struct fdc *fdc = (struct fdc *)dev;
    loop_call(dev->machine->io_loop, fdc_do_resume, fdc);
    io_work_resume(&fdc->work);
}

static int fdc_loaded(struct device *dev, struct err *err)
{
    struct fdc *fdc = (struct fdc *)dev;
    LOCKED(&dev->lock);
    fdc->regs.cut = 1; /* nothing that runs now belongs to this state */
    fdc_irq(fdc, fdc->regs.irq);
    return 0;
}

static int fdc_check(const void *state, struct err *err)
{
    const struct fdc_regs *r = state;
    if (r->phase > RESULT || r->position > COMMAND_LEN - 1 || r->length > COMMAND_LEN ||
        (r->phase == RESULT && r->position >= r->length) || r->irq > 1 ||
        r->interrupt_count > sizeof r->interrupts || r->locked > 1 || r->cut > 1 ||
        (r->phase == COMMAND && r->position >= command_len(r->command[0]) && r->position))
        return err_set(err, EINVAL, "the floppy controller cannot be in the saved state");
    return 0;
}

static void drive_close(void *arg)
{
    struct fdc_drive *drive = arg;
    block_queue_destroy(TAKE(drive->queue));
}

static void fdc_destroy(struct device *dev)
{
    struct fdc *fdc = (struct fdc *)dev;
    io_work_fini(&fdc->work);
    fdc->paused = true;
    for (unsigned i = 0; i < FDC_DRIVES; i++)
        loop_call(dev->machine->io_loop, drive_close, &fdc->drives[i]);
    if (fdc->dma)
        isa_dma_set_ready(fdc->dma, NULL, NULL);
    map_remove(dev->machine, fdc->maps[0]);
    map_remove(dev->machine, fdc->maps[1]);
    device_fini(dev);
    free(fdc);
}

static const struct state_field drive_fields[] = {
    STATE_U8(struct fdc_drive_regs, cylinder),
    STATE_U8(struct fdc_drive_regs, changed),
    STATE_END,
};
static const struct state_desc drive_state = {
    .name = "floppy",
    .version = 1,
    .size = sizeof(struct fdc_drive_regs),
    .fields = drive_fields,
};
static const struct state_field fdc_fields[] = {
    STATE_STRUCTS(struct fdc_regs, drives, &drive_state),
    STATE_BYTES(struct fdc_regs, command),
    STATE_BYTES(struct fdc_regs, result),
    STATE_U8(struct fdc_regs, position),
    STATE_U8(struct fdc_regs, length),
    STATE_U8(struct fdc_regs, phase),
    STATE_U8(struct fdc_regs, dor),
    STATE_U8(struct fdc_regs, tdr),
    STATE_U8(struct fdc_regs, irq),
    STATE_BYTES(struct fdc_regs, interrupts),
    STATE_U8(struct fdc_regs, interrupt_count),
    STATE_U8(struct fdc_regs, locked),
    STATE_BYTES(struct fdc_regs, config),
    STATE_BYTES(struct fdc_regs, specify),
    STATE_BYTES(struct fdc_regs, sector),
    STATE_U8(struct fdc_regs, cut),
    STATE_BYTES(struct fdc_regs, reserved),
    STATE_END,
};
static const struct state_desc fdc_state = {
    .name = "fdc",
    .version = 1,
    .base = offsetof(struct fdc, regs),
    .size = sizeof(struct fdc_regs),
    .fields = fdc_fields,
    .check = fdc_check,
};
static const struct device_type fdc_type = {
    .name = "fdc",
    .about = "floppy disk controller",
    .threads = DEVICE_LOCKED,
    .destroy = fdc_destroy,
    .read = fdc_read,
    .write = fdc_write,
    .reset = fdc_reset,
    .pause = fdc_pause,
    .resume = fdc_resume,
    .loaded = fdc_loaded,
    .state = &fdc_state,
};

static void fdc_dma_ready(void *arg) { io_work_kick(&((struct fdc *)arg)->work); }

int fdc_create(struct machine *m, struct device *dma, const struct fdc_drive_config *drives,
               struct device **out, struct err *err)
{
    struct fdc *fdc = calloc(1, sizeof *fdc);
    if (!fdc)
        return err_set(err, ENOMEM, "out of memory");
    device_init(&fdc->dev, m, &fdc_type, "fdc0");
    AUTO(device_destroy) struct device *dev = &fdc->dev;
    irq_pin_init(&fdc->pin, m, GSI);
    io_work_init(&fdc->work, m, fdc_work, fdc);
    fdc->paused = true;
    fdc->dma = dma;
    isa_dma_set_ready(dma, fdc_dma_ready, fdc);
    int r = map_device(m, SPACE_IO, PORT, 6, dev, 0, PRIORITY, &fdc->maps[0], err);
    if (r == 0)
        r = map_device(m, SPACE_IO, PORT + DIR, 1, dev, 1, PRIORITY, &fdc->maps[1], err);
    for (unsigned i = 0; r == 0 && i < FDC_DRIVES; i++) {
        fdc->drives[i].present = drives[i].id != NULL;
        if (drives[i].id)
            snprintf(fdc->drives[i].id, sizeof fdc->drives[i].id, "%s", drives[i].id);
        if (drives[i].node)
            r = fdc_insert(dev, i, drives[i].node, drives[i].readonly, err);
    }
    if (r < 0)
        return r;
    fdc_power_on(fdc, true);
    *out = dev;
    machine_add_device(m, TAKE(dev));
    return 0;
}
