/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Carries plans of ata.c out: data moves in chunks through a buffer of ours, so nothing of the
 * guest's memory is held while a disk is slow, and a guest cannot make us hold much.
 */
#include "base/checked.h"
#include "base/log.h"
#include "devices/disk/ata.h"
#include "machine/machine.h"

#include <stdio.h>
#include <string.h>

enum { CHUNK = 256 << 10, TRIM_RANGE = 8, DRAIN_MS = 2000 };

static void io_finish(struct ata_io *io, int result)
{
    struct ata_drive *drive = io->drive;
    free(TAKE(io->chunk));
    if (result < 0 && result != -EFAULT && result != -ECANCELED)
        log_guest("%s: I/O error: %s op=%d offset=%llu length=%llu", drive->id, strerror(-result),
                  (int)io->plan.kind, (unsigned long long)io->plan.offset,
                  (unsigned long long)io->plan.len);
    io->finished(io, result);
}

static void io_next(struct ata_io *io);

static void io_chunk_done(struct ata_io *io, int result)
{
    if (io->aborted)
        result = -ECANCELED;
    if (result == -EOPNOTSUPP && io->plan.kind == ATA_TRIM)
        result = 0; /* a hint that nobody takes */
    if (result == 0 && io->plan.kind == ATA_READ) {
        int64_t moved = sg_write(io->drive->dev->machine, &io->sg, io->chunk, io->chunk_len);
        if (moved < 0)
            result = (int)moved;
        else if ((uint64_t)moved < io->chunk_len)
            io->plan.len = io->done; /* the guest has no more room: enough */
    }
    if (result < 0)
        io_finish(io, result);
    else
        io_next(io);
}

static void io_done(struct block_request *req, int result)
{
    struct ata_io *io = CONTAINER_OF(req, struct ata_io, block);
    struct ata_drive *drive = io->drive;
    if (drive->paused && !io->aborted) {
        io->late_result = result;
        io->next_late = drive->late;
        drive->late = io;
    } else {
        io_chunk_done(io, result);
    }
}

static void io_submit(struct ata_io *io, enum block_op op, uint64_t offset, uint64_t len)
{
    io->block = (struct block_request){
        .op = op, .offset = offset, .len = len, .iov = &io->iov, .iov_count = 1, .done = io_done
    };
    if (op == BLOCK_WRITE && io->plan.fua)
        io->block.flags = BLOCK_FUA;
    if (op != BLOCK_READ && op != BLOCK_WRITE)
        io->block.iov = NULL, io->block.iov_count = 0;
    block_submit(io->drive->queue, &io->block);
    block_kick(io->drive->queue);
}

/* The next range that is not empty. */
static void trim_next(struct ata_io *io)
{
    const struct block_limits *limits = block_limits(io->drive->node);
    while (io->ranges < io->plan.len / TRIM_RANGE) {
        uint64_t entry;
        memcpy(&entry, io->plan.data + io->ranges * TRIM_RANGE, sizeof entry);
        uint64_t len = (entry >> 48) * ATA_SECTOR;
        io->ranges++;
        if (len && limits->max_discard) {
            len = len < limits->max_discard ? len : limits->max_discard;
            io_submit(io, BLOCK_DISCARD, (entry & 0xffffffffffff) * ATA_SECTOR, len);
            return;
        }
    }
    io_finish(io, 0);
}

/* The next chunk of READ or WRITE, or the end. */
static void io_next(struct ata_io *io)
{
    struct ata_drive *drive = io->drive;
    if (io->plan.kind == ATA_TRIM) {
        trim_next(io);
        return;
    }
    uint64_t left = io->plan.len - io->done, len = left < CHUNK ? left : CHUNK;
    if (io->plan.kind == ATA_FLUSH || !len) {
        io_finish(io, 0);
        return;
    }
    uint64_t at = io->plan.offset + io->done;
    io->done += len;
    io->chunk_len = len;
    io->iov = (struct iovec){ io->chunk, len };
    if (io->plan.kind == ATA_WRITE) {
        int64_t moved = sg_read(drive->dev->machine, &io->sg, io->chunk, len);
        if (moved < (int64_t)len)
            io_finish(io, -EFAULT); /* the guest's list is too short or wrong */
        else
            io_submit(io, BLOCK_WRITE, at, len);
        return;
    }
    /* A CD image may end within its last sector; the rest of that reads as zeros. */
    uint64_t there = at < drive->size ? drive->size - at : 0;
    if (there < len) {
        memset(io->chunk + there, 0, len - there);
        io->iov.iov_len = there;
    }
    if (there)
        io_submit(io, BLOCK_READ, at, io->iov.iov_len);
    else
        io_chunk_done(io, 0);
}

void ata_io_start(struct ata_io *io)
{
    struct machine *m = io->drive->dev->machine;
    struct ata_plan *plan = &io->plan;
    int64_t moved = 0;
    io->aborted = false;
    io->done = 0;
    io->ranges = 0;
    switch (plan->kind) {
    case ATA_REPLY:
        moved = sg_write(m, &io->sg, plan->data, plan->len);
        io_finish(io, moved < 0 ? (int)moved : 0);
        return;
    case ATA_TAKE:
        moved = sg_read(m, &io->sg, plan->data, plan->len);
        int r = moved < 0 ? (int)moved : moved < (int64_t)plan->len ? -EFAULT : 0;
        if (r == 0)
            r = ata_take(io->drive, plan);
        if (r == 0 && plan->kind == ATA_TRIM && io->drive->queue)
            trim_next(io);
        else
            io_finish(io, r);
        return;
    case ATA_READ:
    case ATA_WRITE:
    case ATA_FLUSH:
        if (!io->drive->queue) {
            io_finish(io, -ENOMEDIUM);
            return;
        }
        if (plan->kind == ATA_FLUSH) {
            io_submit(io, BLOCK_FLUSH, 0, 0);
            return;
        }
        io->chunk = malloc(CHUNK);
        if (!io->chunk)
            abort();
        io_next(io);
        return;
    default: io_finish(io, 0);
    }
}

uint64_t ata_io_moved(const struct ata_io *io) { return io->sg.total - sg_left(&io->sg); }

void ata_io_free(struct ata_io *io)
{
    sg_free(&io->sg);
    free(TAKE(io->chunk));
}

/* ---- the drive ---- */

static void settled(struct block_request *req, int result)
{
    struct ata_drive *drive = CONTAINER_OF(req, struct ata_drive, settle);
    if (result < 0)
        log_warning("%s: the disk could not be flushed: %s", drive->id, strerror(-result));
}

void ata_drive_pause(struct ata_drive *drive)
{
    if (!drive->queue) {
        drive->paused = true;
        return;
    }
    int r = block_drain(drive->queue, DRAIN_MS / 2);
    /* A format keeps tables in memory until it is flushed; a state saved next has to find them in
     * the file. */
    if (r == 0 && !drive->readonly) {
        drive->settle = (struct block_request){ .op = BLOCK_FLUSH, .done = settled };
        block_submit(drive->queue, &drive->settle);
        r = block_drain(drive->queue, DRAIN_MS / 2);
    }
    if (r < 0)
        log_warning("%s: %u requests did not finish in time; they will be made again", drive->id,
                    block_in_flight(drive->queue));
    drive->paused = true;
}

void ata_drive_resume(struct ata_drive *drive)
{
    drive->paused = false;
    while (drive->late) {
        struct ata_io *io = drive->late;
        drive->late = io->next_late;
        io_chunk_done(io, io->late_result);
    }
}

struct queue_call {
    struct ata_drive *drive;
    int result;
    struct err *err;
};

static void queue_open(void *arg)
{
    struct queue_call *call = arg;
    struct ata_drive *drive = call->drive;
    call->result =
        block_queue_create(drive->node, drive->dev->machine->io_loop, &drive->queue, call->err);
}

static void queue_close(void *arg)
{
    struct ata_drive *drive = arg;
    ata_drive_resume(drive);
    block_queue_destroy(TAKE(drive->queue));
}

int ata_drive_open(struct ata_drive *drive, struct device *dev, struct ata_regs *regs,
                   const struct ata_drive_config *config, struct err *err)
{
    struct block_node *node = config->node;
    regs->heads = 16; /* a state that the check takes, whatever is connected */
    regs->sectors = 63;
    drive->paused = true;
    if (!config->id)
        return 0;
    drive->dev = dev;
    drive->regs = regs;
    drive->cdrom = config->cdrom;
    snprintf(drive->id, sizeof drive->id, "%s", config->id);
    snprintf(drive->serial, sizeof drive->serial, "%s",
             config->serial ? config->serial : config->id);
    ata_reset(drive, true);
    if (!node)
        return 0;
    if (block_limits(node)->request_align > ATA_SECTOR)
        return err_set(err, EINVAL,
                       "%s: its blocks have %u bytes, this kind of drive has sectors of 512; use "
                       "bus=virtio",
                       config->id, block_limits(node)->request_align);
    struct queue_call call = { .drive = drive, .err = err };
    drive->node = node;
    drive->readonly = config->readonly || drive->cdrom || block_readonly(node);
    drive->size = block_size(node);
    loop_call(dev->machine->io_loop, queue_open, &call);
    return call.result < 0 ? err_prefix(err, "%s", config->id) : 0;
}

void ata_drive_close(struct ata_drive *drive)
{
    if (drive->dev)
        loop_call(drive->dev->machine->io_loop, queue_close, drive);
}

/* ---- the medium ---- */

struct medium_call {
    struct ata_drive *drive;
    struct block_node *node;
    bool force;
    struct err *err;
    int result;
};

static int medium_locked(struct ata_drive *drive, bool force, struct err *err)
{
    LOCKED(&drive->dev->lock);
    if (!drive->size)
        return err_set(err, ENOMEDIUM, "%s is empty", drive->id);
    if (!drive->regs->locked || force || drive->regs->tray_open)
        return 0;
    drive->regs->event = ATA_EVENT_EJECT_REQUEST;
    return err_set(err, EBUSY,
                   "the guest has locked %s and was asked to let go; try again, or use \"force\"",
                   drive->id);
}

static void medium_do_eject(void *arg)
{
    struct medium_call *call = arg;
    struct ata_drive *drive = call->drive;
    call->result = medium_locked(drive, call->force, call->err);
    if (call->result < 0)
        return;
    if (block_drain(drive->queue, DRAIN_MS) < 0) {
        call->result =
            err_set(call->err, EBUSY, "%s does not finish reading; try again later", drive->id);
        return;
    }
    block_queue_destroy(TAKE(drive->queue));
    LOCKED(&drive->dev->lock);
    drive->node = NULL;
    drive->size = 0;
    drive->regs->event = ATA_EVENT_REMOVED;
    drive->regs->tray_open = 1;
    drive->regs->locked = 0;
}

int ata_medium_eject(struct ata_drive *drive, bool force, struct err *err)
{
    struct medium_call call = { .drive = drive, .force = force, .err = err };
    loop_call(drive->dev->machine->io_loop, medium_do_eject, &call);
    return call.result;
}

static void medium_do_insert(void *arg)
{
    struct medium_call *call = arg;
    struct ata_drive *drive = call->drive;
    struct block_queue *queue;
    if (drive->queue) {
        call->result = err_set(call->err, EBUSY, "%s has a medium; eject that first", drive->id);
        return;
    }
    call->result = block_queue_create(call->node, drive->dev->machine->io_loop, &queue, call->err);
    if (call->result < 0)
        return;
    LOCKED(&drive->dev->lock);
    drive->queue = queue;
    drive->node = call->node;
    drive->size = block_size(call->node);
    drive->regs->tray_open = 0;
    drive->regs->attention = ASC_CHANGED;
    drive->regs->event = ATA_EVENT_NEW;
}

int ata_medium_insert(struct ata_drive *drive, struct block_node *node, struct err *err)
{
    struct medium_call call = { .drive = drive, .node = node, .err = err };
    loop_call(drive->dev->machine->io_loop, medium_do_insert, &call);
    return call.result;
}
