/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command of an IDE channel: its phases, its data by PIO or DMA, its end. The numbered rules
 * are those of ide.c.
 */
#include "devices/disk/ide_priv.h"

#include "base/checked.h"
#include "machine/machine.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

enum { PRD_MAX = 8192, PRD_LAST = 0x8000 };

struct ide_block { /* a PIO block under way */
    struct block_request req;
    struct iovec iov;
    struct ide_channel *ch;
    bool aborted;
    uint8_t data[BUFFER];
};

struct ide_dma {
    struct ata_io io;
    struct ide_channel *ch;
};

/* ---- interrupts and status; lock held ---- */

void ide_update_irq(struct ide_channel *ch)
{
    irq_pin_set(&ch->pin, ch->regs->irq && !(ch->regs->control & CONTROL_NIEN));
}

static void ide_interrupt(struct ide_channel *ch)
{
    ch->regs->irq = 1;
    ch->regs->bm_status |= BM_INTERRUPT;
    ide_update_irq(ch);
}

static struct ide_drive_regs *active_regs(struct ide_channel *ch)
{
    return &ch->regs->drives[ch->regs->active];
}

static struct ata_drive *active_drive(struct ide_channel *ch)
{
    return &ch->drives[ch->regs->active];
}

static void drive_get(const struct ide_drive_regs *d, struct ata_taskfile *tf)
{
    *tf = (struct ata_taskfile){ .device = d->device };
    tf->features = (uint16_t)(d->features[0] | d->features[1] << 8);
    tf->count = (uint16_t)(d->count[0] | d->count[1] << 8);
    for (unsigned i = 0; i < 3; i++)
        tf->lba |= (uint64_t)d->lba[i][0] << 8 * i | (uint64_t)d->lba[i][1] << (24 + 8 * i);
}

void ide_drive_put(struct ide_drive_regs *d, const struct ata_taskfile *tf)
{
    d->count[0] = (uint8_t)tf->count;
    d->count[1] = (uint8_t)(tf->count >> 8);
    for (unsigned i = 0; i < 3; i++) {
        d->lba[i][0] = (uint8_t)(tf->lba >> 8 * i);
        d->lba[i][1] = (uint8_t)(tf->lba >> (24 + 8 * i));
    }
    d->device = (uint8_t)((d->device & 0xf0) | (tf->device & 0x0f));
    d->status = tf->status;
    d->error = tf->error;
}

/* ---- phases; lock held ---- */

static void ide_finish(struct ide_channel *ch, const struct ata_taskfile *tf, bool interrupt)
{
    ch->regs->phase = IDLE;
    ch->regs->work = WORK_NONE;
    ide_drive_put(active_regs(ch), tf);
    if (interrupt)
        ide_interrupt(ch);
}

static void ide_plan(const struct ide_channel_regs *r, struct ata_plan *plan)
{
    plan->kind = (enum ata_kind)r->kind;
    plan->packet = r->flags & FLAG_PACKET;
    plan->fua = r->flags & FLAG_FUA;
    plan->pio = !(r->flags & FLAG_DMA);
    plan->ncq = false;
    plan->offset = r->offset;
    plan->len = r->len;
    memcpy(plan->data, r->buffer, sizeof plan->data);
}

/* The outcome of the command that runs. */
static void ide_end(struct ide_channel *ch, int result, bool interrupt)
{
    struct ide_channel_regs *r = ch->regs;
    struct ata_plan plan;
    struct ata_taskfile tf = { .lba = r->lba,
                               .features = r->tf_features,
                               .count = r->tf_count,
                               .command = r->command,
                               .device = active_regs(ch)->device };
    ide_plan(r, &plan);
    ata_end(active_drive(ch), &tf, &plan, result);
    ide_finish(ch, &tf, interrupt);
}

static void ide_busy(struct ide_channel *ch, enum ide_work work)
{
    ch->regs->phase = BUSY;
    ch->regs->work = (uint8_t)work;
    active_regs(ch)->status = ATA_BSY;
    io_work_kick(&ch->ide->work);
}

/* Offers the next slice of the buffer. */
static void ide_offer(struct ide_channel *ch, enum ide_phase phase, bool interrupt)
{
    struct ide_channel_regs *r = ch->regs;
    struct ide_drive_regs *d = active_regs(ch);
    uint32_t left = r->filled - r->position;
    r->slice = r->position + (left < r->drq ? left : r->drq);
    r->phase = (uint8_t)phase;
    r->work = WORK_NONE;
    d->status = ATA_READY | ATA_DRQ;
    if (r->flags & FLAG_PACKET) {
        d->count[0] = phase == DATA_IN ? ATA_REASON_IN : 0;
        d->lba[1][0] = (uint8_t)(r->slice - r->position);
        d->lba[2][0] = (uint8_t)((r->slice - r->position) >> 8);
    }
    if (interrupt)
        ide_interrupt(ch);
}

/* How many bytes go through the buffer next. */
static uint32_t ide_block_len(const struct ide_channel_regs *r)
{
    uint64_t left = r->len - r->done;
    uint32_t most =
        r->flags & FLAG_PACKET || r->kind == ATA_REPLY || r->kind == ATA_TAKE ? BUFFER : r->drq;
    return left < most ? (uint32_t)left : most;
}

void ide_slice_done(struct ide_channel *ch)
{
    struct ide_channel_regs *r = ch->regs;
    bool in = r->phase == DATA_IN;
    if (r->position < r->filled) {
        ide_offer(ch, (enum ide_phase)r->phase, true);
        return;
    }
    if (!in && r->kind == ATA_TAKE) {
        ide_busy(ch, WORK_TAKE);
        return;
    }
    if (!in) {
        ide_busy(ch, WORK_WRITE);
        return;
    }
    r->done += r->filled;
    if (r->done < r->len)
        ide_busy(ch, WORK_READ);
    else
        ide_end(ch, 0, r->flags & FLAG_PACKET); /* a packet command tells its status at last */
}

static void ide_start_pio(struct ide_channel *ch)
{
    struct ide_channel_regs *r = ch->regs;
    r->position = 0;
    switch (r->kind) {
    case ATA_REPLY:
        r->filled = (uint32_t)r->len;
        ide_offer(ch, DATA_IN, true);
        break;
    case ATA_READ: ide_busy(ch, WORK_READ); break;
    case ATA_TAKE:
    case ATA_WRITE: /* the first block is asked for without an interrupt, except by packets */
        r->filled = ide_block_len(r);
        ide_offer(ch, DATA_OUT, r->flags & FLAG_PACKET);
        break;
    case ATA_FLUSH: ide_busy(ch, WORK_FLUSH); break;
    default: ide_end(ch, 0, true);
    }
}

void ide_begin(struct ide_channel *ch, const uint8_t *packet)
{
    struct ide_channel_regs *r = ch->regs;
    struct ide_drive_regs *d = active_regs(ch);
    struct ata_taskfile tf;
    struct ata_plan plan;
    unsigned limit = d->lba[1][0] | d->lba[2][0] << 8; /* of a slice for packet commands */
    bool dma = d->features[0] & 1;
    drive_get(d, &tf);
    tf.command = r->command;
    ata_begin(active_drive(ch), &tf, packet, &plan);
    if ((tf.status & ATA_ERR) || (plan.kind == ATA_NO_DATA && !plan.packet)) {
        /* DEVICE RESET is silent */
        ide_finish(ch, &tf, r->command != ATA_CMD_DEVICE_RESET);
        return;
    }
    if (plan.packet && !packet) {
        r->phase = PACKET_OUT;
        r->position = 0;
        r->slice = r->filled = ATA_PACKET_LEN;
        d->status = ATA_READY | ATA_DRQ;
        d->count[0] = ATA_REASON_COMMAND;
        return;
    }
    r->kind = (uint8_t)plan.kind;
    r->offset = plan.offset;
    r->len = plan.len;
    r->done = 0;
    r->lba = tf.lba;
    r->tf_count = tf.count;
    r->tf_features = tf.features;
    r->flags = (plan.packet ? FLAG_PACKET : 0) | (plan.fua ? FLAG_FUA : 0);
    r->drq = plan.drq_sectors * ATA_SECTOR;
    if (plan.packet)
        r->drq = limit < 2 || limit > 0xfffe ? 0xfffe : limit & ~1u;
    if (plan.kind == ATA_REPLY)
        memcpy(r->buffer, plan.data, plan.len);
    bool data = plan.kind != ATA_NO_DATA && plan.kind != ATA_FLUSH;
    if (data && (plan.packet ? dma : !plan.pio)) {
        r->flags |= FLAG_DMA;
        ide_busy(ch, WORK_DMA);
    } else {
        ide_start_pio(ch);
    }
}

/* ---- work on io_loop ---- */

void ide_abort(struct ide_channel *ch)
{
    if (ch->block)
        TAKE(ch->block)->aborted = true;
    if (ch->dma)
        TAKE(ch->dma)->io.aborted = true;
}

static void block_done(struct block_request *req, int result)
{
    struct ide_block *block = CONTAINER_OF(req, struct ide_block, req);
    struct ide_channel *ch = block->ch;
    struct ide_channel_regs *r = ch->regs;
    if (!block->aborted && !active_drive(ch)->paused) { /* else it begins again (1) */
        LOCKED(&ch->ide->pci.dev.lock);
        if (result < 0) {
            ide_end(ch, result, true);
        } else if (req->op == BLOCK_READ) {
            memcpy(r->buffer, block->data, sizeof r->buffer);
            r->position = 0;
            r->filled = ide_block_len(r);
            ide_offer(ch, DATA_IN, true);
        } else if (req->op == BLOCK_WRITE && (r->done += r->filled) < r->len) {
            r->position = 0;
            r->filled = ide_block_len(r);
            ide_offer(ch, DATA_OUT, true);
        } else {
            ide_end(ch, 0, true);
        }
    }
    if (!block->aborted)
        ch->block = NULL;
    free(block);
}

/* Lock held. Fills a request for the work that the registers name. */
static struct ide_block *block_for(struct ide_channel *ch)
{
    struct ide_channel_regs *r = ch->regs;
    struct ata_drive *drive = active_drive(ch);
    struct ide_block *block = calloc(1, sizeof *block);
    if (!block)
        abort();
    block->ch = ch;
    block->req = (struct block_request){ .op = BLOCK_FLUSH, .done = block_done };
    if (r->work == WORK_FLUSH)
        return block;
    bool write = r->work == WORK_WRITE;
    uint64_t at = r->offset + r->done, len = write ? r->filled : ide_block_len(r);
    uint64_t there = at < drive->size ? drive->size - at : 0; /* a CD's last sector may be short */
    block->iov = (struct iovec){ block->data, there < len ? there : len };
    block->req.op = write ? BLOCK_WRITE : BLOCK_READ;
    block->req.flags = write && (r->flags & FLAG_FUA) ? BLOCK_FUA : 0;
    block->req.offset = at;
    block->req.len = block->iov.iov_len;
    block->req.iov = &block->iov;
    block->req.iov_count = 1;
    if (write)
        memcpy(block->data, r->buffer, len);
    return block;
}

static void dma_finished(struct ata_io *io, int result)
{
    struct ide_dma *dma = CONTAINER_OF(io, struct ide_dma, io);
    struct ide_channel *ch = dma->ch;
    if (!io->aborted) {
        LOCKED(&ch->ide->pci.dev.lock);
        ch->dma = NULL;
        if (ch->regs->flags & FLAG_DMA) {
            ch->regs->bm_status &= (uint8_t)~BM_ACTIVE;
            if (result == -EFAULT)
                ch->regs->bm_status |= BM_ERROR;
        }
        ide_end(ch, result, true);
    }
    ata_io_free(io);
    free(dma);
}

static int dma_read_table(struct ide_channel *ch, uint32_t table, struct sg *sg)
{
    uint32_t entry[2];
    for (unsigned i = 0; i < PRD_MAX; i++) {
        uint64_t at = (uint64_t)(table & ~3u) + i * sizeof entry;
        if (mem_read(ch->ide->pci.dev.machine, at, entry, sizeof entry) < 0)
            return -EFAULT;
        uint32_t len = le32toh(entry[1]) & 0xfffe;
        sg_add(sg, le32toh(entry[0]) & ~1u, len ? len : 0x10000);
        if (le32toh(entry[1]) >> 16 & PRD_LAST)
            return 0;
    }
    return 0;
}

/* A transfer by ata_io: DMA, or (no memory of the guest in it) what TAKE led to. */
static void dma_start(struct ide_channel *ch, const struct ata_plan *plan, uint32_t table,
                      bool has_table)
{
    struct ide_dma *dma = calloc(1, sizeof *dma);
    if (!dma)
        abort();
    dma->ch = ch;
    dma->io.drive = active_drive(ch);
    dma->io.plan = *plan;
    dma->io.finished = dma_finished;
    ch->dma = dma;
    if (has_table && dma_read_table(ch, table, &dma->io.sg) < 0)
        dma_finished(&dma->io, -EFAULT);
    else
        ata_io_start(&dma->io);
}

/* Resets wait until nothing is under way. */
static void channel_reset_work(struct ide_channel *ch)
{
    struct ide_channel_regs *r = ch->regs;
    if (!r->resetting)
        return;
    ide_abort(ch);
    r->phase = IDLE;
    r->work = WORK_NONE;
    r->bm_status &= (uint8_t)~BM_ACTIVE;
    if (r->control & CONTROL_SRST)
        return;
    r->resetting = 0;
    r->select = 0;
    for (unsigned i = 0; i < 2; i++) {
        struct ata_taskfile tf = { 0 };
        if (!ch->present[i])
            continue;
        ata_reset(&ch->drives[i], false);
        ata_signature(&ch->drives[i], &tf);
        r->drives[i].device = 0;
        ide_drive_put(&r->drives[i], &tf);
    }
}

static void channel_work(struct ide_channel *ch)
{
    struct ide_channel_regs *r = ch->regs;
    struct ata_plan plan;
    struct ide_block *block = NULL;
    uint32_t table = 0;
    enum ide_work work;
    {
        LOCKED(&ch->ide->pci.dev.lock);
        channel_reset_work(ch);
        work = r->phase == BUSY && !ch->block && !ch->dma ? (enum ide_work)r->work : WORK_NONE;
        if (work == WORK_DMA && !(r->bm_command & BM_START))
            work = WORK_NONE;
        if (work == WORK_NONE)
            return;
        ide_plan(r, &plan);
        table = r->bm_table;
        if (!active_drive(ch)->queue && work != WORK_DMA && work != WORK_TAKE) {
            ide_end(ch, -ENOMEDIUM, true); /* it was taken away meanwhile */
            return;
        }
        if (work == WORK_TAKE) {
            int result = ata_take(active_drive(ch), &plan);
            if (result < 0 || plan.kind != ATA_TRIM || !active_drive(ch)->queue) {
                ide_end(ch, result, true);
                return;
            }
        } else if (work != WORK_DMA) {
            block = block_for(ch);
        }
    }
    if (!block) {
        dma_start(ch, &plan, table, work == WORK_DMA);
        return;
    }
    ch->block = block;
    block_submit(active_drive(ch)->queue, &block->req);
    block_kick(active_drive(ch)->queue);
}

void ide_work_run(void *arg)
{
    struct ide *ide = arg;
    if (!pci_bus_master(&ide->pci)) {
        /* PIO does not need it. */
        for (unsigned i = 0; i < CHANNELS; i++)
            if (ide->channels[i].regs->work != WORK_DMA || ide->channels[i].regs->resetting)
                channel_work(&ide->channels[i]);
        return;
    }
    for (unsigned i = 0; i < CHANNELS; i++)
        channel_work(&ide->channels[i]);
}
