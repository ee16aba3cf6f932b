/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtio disk (VIRTIO 1.2, 5.2): reads, writes, flush, discard, write-zeroes, get-id.
 *
 * Every buffer becomes one block request and stays leased until that completes. Requests of a
 * lane's queues go to one block queue on the lane's loop, so queues on several loops work side by
 * side. The device orders nothing: a flush covers what completed before it was submitted, on
 * whatever queue, and a driver learns of completions only through us.
 *
 *  1. A request is in exactly one place: submitted to its lane's block queue, in `kept` (the host
 * could not, by now), or in `late` (completed while the lane was paused).
 *  2. While paused, no buffer is given back: the saved state lists it, and whoever restores it
 *     submits it again. Doing so is harmless, since the driver has not been told that it was done.
 *  3. What waits in `kept` or `late` holds no lease while the device is paused: whoever freezes
 * guest memory need not wait for a disk to get room.
 */
#include "devices/virtio/blk.h"

#include "base/checked.h"
#include "base/log.h"
#include "block/block.h"
#include "devices/virtio/virtio_pci.h"
#include "machine/machine.h"

#include <assert.h>
#include <endian.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { SECTOR = 512, BLK_QUEUE_SIZE = 256, BLK_SEG_MAX = BLK_QUEUE_SIZE - 2 };
enum { BLK_DRAIN_MS = 2000, BLK_CONFIG_LEN = 60 }; /* up to write_zeroes_may_unmap, padded */
enum { BLK_PHYSICAL_BLOCK = 4096 };

typedef struct virtio_blk_outhdr blk_header;

struct blk_regs {
    struct virtio_regs virtio;
    uint64_t writeback; /* 0 or 1; written with dev->lock, lanes look without */
};

struct blk_request {
    struct block_request block;
    struct blk_lane *lane;
    struct virtqueue_elem *elem;
    struct blk_request *next; /* in kept, late or spare */
    struct iovec *iov;
    unsigned iov_room;
    int result; /* in late */
};

struct blk {
    struct virtio_device vdev;
    struct blk_regs regs;
    struct block_node *node; /* borrowed; fixed at create */
    bool readonly;           /* fixed at create */
    enum virtio_blk_policy on_full, on_error;
    char serial[VIRTIO_BLK_ID_BYTES];
    atomic_bool kept_posted; /* MACHINE_DISK_FULL or _ERROR was sent since the last resume */
    uint64_t pause_until;    /* of the lane that is being paused */

    struct blk_lane {    /* its loop */
        struct blk *blk; /* fixed at create, like the next two */
        struct virtio_lane *lane;
        struct block_queue *queue; /* owned */
        struct blk_request *kept, *late, *spare;
    } lanes[VIRTIO_MAX_LANES];
    struct block_request settle; /* the last lane's */
    bool settling;
};

static struct blk *blk_of(struct virtio_device *vdev) { return (struct blk *)vdev; }

static struct blk_lane *lane_of(struct virtqueue_elem *elem)
{
    struct blk *blk = blk_of(elem->vq->arg);
    return &blk->lanes[virtio_lane(&blk->vdev, elem->vq->index)->index];
}

/* ---- Requests ---- */

static struct blk_request *request_get(struct virtqueue_elem *elem)
{
    struct blk_lane *lane = lane_of(elem);
    struct blk_request *req = lane->spare;
    if (req)
        lane->spare = req->next;
    else if (!(req = calloc(1, sizeof *req)))
        abort();
    req->lane = lane;
    req->elem = elem;
    elem->user = req;
    return req;
}

static void request_put(struct blk_request *req)
{
    req->next = req->lane->spare;
    req->lane->spare = req;
}

static void request_list_free(struct blk_request *list)
{
    while (list) {
        struct blk_request *req = list;
        list = req->next;
        free(req->iov);
        free(req);
    }
}

static void request_append(struct blk_request **list, struct blk_request *req)
{
    while (*list)
        list = &(*list)->next;
    req->next = NULL;
    *list = req;
}

/* The status is the last byte that we may write (5.2.6). */
static void blk_answer(struct blk *blk, struct virtqueue_elem *elem, uint8_t status)
{
    iov_from_buf(elem->in, elem->in_count, elem->in_bytes - 1, &status, 1);
    virtio_complete(&blk->vdev, elem, (uint32_t)elem->in_bytes);
}

static uint8_t blk_status(const struct blk_request *req, int result)
{
    if (result == 0)
        return VIRTIO_BLK_S_OK;
    if (result == -EOPNOTSUPP)
        return VIRTIO_BLK_S_UNSUPP;
    log_guest("%s: I/O error: %s op=%d offset=%llu length=%llu", req->lane->blk->vdev.pci.dev.id,
              strerror(-result), (int)req->block.op, (unsigned long long)req->block.offset,
              (unsigned long long)req->block.len);
    return VIRTIO_BLK_S_IOERR;
}

static void blk_keep(struct blk_request *req, enum machine_event event)
{
    struct blk *blk = req->lane->blk;
    request_append(&req->lane->kept, req);
    if (!atomic_exchange(&blk->kept_posted, true))
        machine_post_event(blk->vdev.pci.dev.machine, event, blk->vdev.pci.dev.id);
}

/* What to do about a result. Mistakes of the guest are always told to it. */
static enum virtio_blk_policy blk_policy(const struct blk *blk, int result)
{
    switch (-result) {
    case ENOSPC: return blk->on_full;
    case 0:
    case EOPNOTSUPP:
    case EINVAL:
    case EROFS:
    case EPERM: return VIRTIO_BLK_REPORT;
    default: return blk->on_error;
    }
}

static void blk_finish(struct blk_request *req, int result)
{
    struct blk *blk = req->lane->blk;
    struct virtqueue_elem *elem = req->elem;
    enum virtio_blk_policy policy = blk_policy(blk, result);
    if (policy == VIRTIO_BLK_PAUSE && !elem->vq->stopped) {
        blk_keep(req, result == -ENOSPC ? MACHINE_DISK_FULL : MACHINE_DISK_ERROR);
        return;
    }
    uint8_t status = blk_status(req, result); /* logs it in any case */
    if (policy == VIRTIO_BLK_IGNORE)
        status = VIRTIO_BLK_S_OK;
    request_put(req);
    blk_answer(blk, elem, status);
}

static void blk_done(struct block_request *block, int result)
{
    struct blk_request *req = CONTAINER_OF(block, struct blk_request, block);
    if (req->lane->lane->paused) { /* 2, 3 */
        req->result = result;
        virtqueue_elem_unlease(req->elem);
        request_append(&req->lane->late, req);
    } else {
        blk_finish(req, result);
    }
}

/* Puts the data part of a buffer into req->iov, neighbours merged. */
static void request_set_data(struct blk_request *req, const struct iovec *iov, unsigned count,
                             size_t offset, size_t len)
{
    if (count > req->iov_room) {
        struct iovec *bigger = realloc(req->iov, count * sizeof *bigger);
        if (!bigger)
            abort();
        req->iov = bigger;
        req->iov_room = count;
    }
    unsigned parts = iov_part(iov, count, offset, len, req->iov), used = 0;
    for (unsigned i = 1; i < parts; i++) {
        struct iovec *last = &req->iov[used];
        if ((char *)last->iov_base + last->iov_len == (char *)req->iov[i].iov_base)
            last->iov_len += req->iov[i].iov_len;
        else
            req->iov[++used] = req->iov[i];
    }
    req->block.iov = req->iov;
    req->block.iov_count = parts ? used + 1 : 0;
    req->block.len = len;
}

/* Without a flush command or with write-back switched off, a finished write is durable (5.2.5.2).
 */
static bool blk_writethrough(struct blk *blk)
{
    if (virtio_has(&blk->vdev, VIRTIO_BLK_F_CONFIG_WCE))
        return !__atomic_load_n(&blk->regs.writeback, __ATOMIC_RELAXED);
    return !virtio_has(&blk->vdev, VIRTIO_BLK_F_FLUSH);
}

static void blk_rw(struct blk *blk, struct virtqueue_elem *elem, bool write, uint64_t sector)
{
    uint64_t len = write ? elem->out_bytes - sizeof(blk_header) : elem->in_bytes - 1;
    uint64_t offset;
    if (!mul_u64(sector, SECTOR, &offset) || (write && blk->readonly)) {
        blk_answer(blk, elem, VIRTIO_BLK_S_IOERR);
        return;
    }
    struct blk_request *req = request_get(elem);
    req->block = (struct block_request){ .op = write ? BLOCK_WRITE : BLOCK_READ,
                                         .flags = write && blk_writethrough(blk) ? BLOCK_FUA : 0,
                                         .offset = offset,
                                         .done = blk_done };
    if (write)
        request_set_data(req, elem->out, elem->out_count, sizeof(blk_header), len);
    else
        request_set_data(req, elem->in, elem->in_count, 0, len);
    elem->touched = elem->in_bytes;
    block_submit(req->lane->queue, &req->block);
}

static void blk_flush(struct virtqueue_elem *elem)
{
    struct blk_request *req = request_get(elem);
    req->block = (struct block_request){ .op = BLOCK_FLUSH, .done = blk_done };
    block_submit(req->lane->queue, &req->block);
}

/* Answers the status, or -1: submitted. */
static int blk_range(struct blk *blk, struct virtqueue_elem *elem, bool zero)
{
    const struct block_limits *limits = block_limits(blk->node);
    struct virtio_blk_discard_write_zeroes range;
    uint64_t offset, max = zero ? limits->max_write_zeroes : limits->max_discard;
    if (blk->readonly)
        return VIRTIO_BLK_S_IOERR;
    /* One range, as our configuration says. */
    if (elem->out_bytes != sizeof(blk_header) + sizeof range || !max)
        return VIRTIO_BLK_S_UNSUPP;
    if (iov_to_buf(elem->out, elem->out_count, sizeof(blk_header), &range, sizeof range) !=
        sizeof range)
        return VIRTIO_BLK_S_IOERR;
    uint32_t flags = le32toh(range.flags);
    uint64_t len = (uint64_t)le32toh(range.num_sectors) * SECTOR;
    if (flags & ~(zero ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0u))
        return VIRTIO_BLK_S_UNSUPP;
    if (!mul_u64(le64toh(range.sector), SECTOR, &offset) || len > max)
        return VIRTIO_BLK_S_IOERR;
    unsigned block_flags = flags ? BLOCK_UNMAP : 0;
    if (zero && blk_writethrough(blk))
        block_flags |= BLOCK_FUA;

    struct blk_request *req = request_get(elem);
    req->block = (struct block_request){ .op = zero ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD,
                                         .flags = block_flags,
                                         .offset = offset,
                                         .len = len,
                                         .done = blk_done };
    block_submit(req->lane->queue, &req->block);
    return -1;
}

static void blk_get_id(struct blk *blk, struct virtqueue_elem *elem)
{
    size_t room = elem->in_bytes - 1;
    iov_from_buf(elem->in, elem->in_count, 0, blk->serial,
                 room < sizeof blk->serial ? room : sizeof blk->serial);
    blk_answer(blk, elem, VIRTIO_BLK_S_OK);
}

static void blk_start(struct virtio_device *vdev, struct virtqueue_elem *elem)
{
    struct blk *blk = blk_of(vdev);
    blk_header header;
    if (!elem->in_bytes) { /* nowhere to put the status */
        virtio_complete(vdev, elem, 0);
        virtio_broken(vdev, "a disk request without a status byte");
        return;
    }
    if (iov_to_buf(elem->out, elem->out_count, 0, &header, sizeof header) != sizeof header) {
        blk_answer(blk, elem, VIRTIO_BLK_S_IOERR);
        return;
    }
    int status = -1;
    switch (le32toh(header.type)) {
    case VIRTIO_BLK_T_IN: blk_rw(blk, elem, false, le64toh(header.sector)); break;
    case VIRTIO_BLK_T_OUT: blk_rw(blk, elem, true, le64toh(header.sector)); break;
    case VIRTIO_BLK_T_FLUSH: blk_flush(elem); break;
    case VIRTIO_BLK_T_GET_ID: blk_get_id(blk, elem); break;
    case VIRTIO_BLK_T_DISCARD: status = blk_range(blk, elem, false); break;
    case VIRTIO_BLK_T_WRITE_ZEROES: status = blk_range(blk, elem, true); break;
    default: status = VIRTIO_BLK_S_UNSUPP;
    }
    if (status >= 0)
        blk_answer(blk, elem, (uint8_t)status);
}

/* ---- The device ---- */

static void blk_queue(struct virtio_device *vdev, unsigned queue)
{
    virtio_queue_each(vdev, queue, blk_start);
    block_kick(blk_of(vdev)->lanes[virtio_lane(vdev, queue)->index].queue);
}

static void blk_resubmit(struct virtio_device *vdev, struct virtqueue_elem *elem)
{
    blk_start(vdev, elem); /* resume kicks */
}

/* Drops the requests of a list that belong to a queue. */
static void blk_cancel_list(struct blk_request **list, unsigned queue)
{
    while (*list) {
        struct blk_request *req = *list;
        if (req->elem->vq->index != queue) {
            list = &req->next;
            continue;
        }
        *list = req->next;
        virtqueue_drop(req->elem);
        request_put(req);
    }
}

static void blk_cancel(struct virtio_device *vdev, unsigned queue)
{
    struct blk_lane *lane = &blk_of(vdev)->lanes[virtio_lane(vdev, queue)->index];
    blk_cancel_list(&lane->kept, queue);
    blk_cancel_list(&lane->late, queue);
}

static void blk_reset(struct virtio_device *vdev)
{
    struct blk *blk = blk_of(vdev);
    LOCKED(&vdev->pci.dev.lock);
    __atomic_store_n(&blk->regs.writeback, 1, __ATOMIC_RELAXED);
}

static void blk_settled(struct block_request *req, int result)
{
    struct blk *blk = CONTAINER_OF(req, struct blk, settle);
    blk->settling = false;
    if (result < 0)
        log_warning("%s: the disk could not be flushed: %s", blk->vdev.pci.dev.id,
                    strerror(-result));
}

/* A format keeps tables in memory until it is flushed; a state saved next has to find them in the
 * file. */
static void blk_settle(struct blk_lane *lane)
{
    struct blk *blk = lane->blk;
    if (blk->readonly || blk->settling)
        return;
    blk->settling = true;
    blk->settle = (struct block_request){ .op = BLOCK_FLUSH, .done = blk_settled };
    block_submit(lane->queue, &blk->settle);
    block_kick(lane->queue);
}

static uint64_t ms_until(uint64_t deadline_ns)
{
    uint64_t now = monotonic_ns();
    return deadline_ns > now ? (deadline_ns - now) / 1000000 : 0;
}

/* All lanes share the time. The last one flushes, when the others have nothing to add. */
static void blk_pause(struct virtio_device *vdev, unsigned index)
{
    struct blk *blk = blk_of(vdev);
    struct blk_lane *lane = &blk->lanes[index];
    const uint64_t half_ns = BLK_DRAIN_MS / 2 * 1000000ull;
    if (index == 0)
        blk->pause_until = monotonic_ns() + 2 * half_ns;
    int r = block_drain(lane->queue, ms_until(blk->pause_until - half_ns));
    if (index == vdev->lane_count - 1) {
        blk_settle(lane);
        r = block_drain(lane->queue, ms_until(blk->pause_until));
    }
    if (r < 0)
        log_warning("%s: %u requests did not finish in time; they stay listed", vdev->pci.dev.id,
                    block_in_flight(lane->queue));
    for (struct blk_request *req = lane->kept; req; req = req->next)
        virtqueue_elem_unlease(req->elem); /* 3 */
}

/* Leases the buffer again. False: it is out of memory now, and so is the request. */
static bool blk_reclaim(struct blk_request *req)
{
    if (virtqueue_elem_lease(req->elem))
        return true;
    virtqueue_drop(req->elem);
    request_put(req);
    return false;
}

static void blk_resume(struct virtio_device *vdev, unsigned index)
{
    struct blk *blk = blk_of(vdev);
    struct blk_lane *lane = &blk->lanes[index];
    struct blk_request *late = TAKE(lane->late), *kept = TAKE(lane->kept), *next;
    if (index == 0)
        atomic_store(&blk->kept_posted, false);
    for (struct blk_request *req = late; req; req = next) {
        next = req->next;
        if (blk_reclaim(req))
            blk_finish(req, req->result);
    }
    for (struct blk_request *req = kept; req; req = next) {
        next = req->next;
        struct virtqueue_elem *elem = req->elem;
        if (!blk_reclaim(req))
            continue;
        request_put(req);
        blk_start(vdev, elem);
    }
    block_kick(lane->queue);
}

static uint32_t sectors_le(uint64_t bytes)
{
    return htole32((uint32_t)(bytes / SECTOR < INT32_MAX ? bytes / SECTOR : INT32_MAX));
}

static void blk_config(struct virtio_device *vdev, uint8_t *out)
{
    struct blk *blk = blk_of(vdev);
    const struct block_limits *limits = block_limits(blk->node);
    uint32_t logical = limits->request_align > SECTOR ? limits->request_align : SECTOR;
    struct virtio_blk_config config = {
        .capacity = htole64(block_size(blk->node) / SECTOR),
        .size_max = htole32((uint32_t)round_down(limits->max_transfer / BLK_SEG_MAX, 4096)),
        .seg_max = htole32(BLK_SEG_MAX),
        .blk_size = htole32(logical),
        .min_io_size = htole16(1),
        .wce = (uint8_t)blk->regs.writeback,
        .num_queues = htole16((uint16_t)vdev->queue_count),
        .max_discard_sectors = sectors_le(limits->max_discard),
        .max_discard_seg = htole32(1),
        .discard_sector_alignment = sectors_le(limits->discard_align),
        .max_write_zeroes_sectors = sectors_le(limits->max_write_zeroes),
        .max_write_zeroes_seg = htole32(1),
        .write_zeroes_may_unmap = 1,
    };
    while ((uint64_t)logical << config.physical_block_exp < BLK_PHYSICAL_BLOCK)
        config.physical_block_exp++;
    memcpy(out, &config, BLK_CONFIG_LEN);
}

static void blk_config_write(struct virtio_device *vdev, unsigned offset, unsigned size,
                             uint64_t value)
{
    if (offset == offsetof(struct virtio_blk_config, wce) && size == 1 &&
        virtio_has(vdev, VIRTIO_BLK_F_CONFIG_WCE))
        __atomic_store_n(&blk_of(vdev)->regs.writeback, value & 1, __ATOMIC_RELAXED);
}

static const struct virtio_ops blk_ops = {
    .id = VIRTIO_ID_BLOCK,
    .class_code = 0x010000,
    .config = blk_config,
    .config_write = blk_config_write,
    .queue = blk_queue,
    .cancel = blk_cancel,
    .reset = blk_reset,
    .pause = blk_pause,
    .resume = blk_resume,
    .resubmit = blk_resubmit,
};

static uint64_t blk_features(const struct blk *blk, unsigned queues)
{
    const struct block_limits *limits = block_limits(blk->node);
    uint64_t features = 1ull << VIRTIO_BLK_F_SIZE_MAX | 1ull << VIRTIO_BLK_F_SEG_MAX |
                        1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_TOPOLOGY |
                        1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_CONFIG_WCE;
    if (queues > 1)
        features |= 1ull << VIRTIO_BLK_F_MQ;
    if (blk->readonly)
        return features | 1ull << VIRTIO_BLK_F_RO;
    features |= 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
    if (limits->max_discard)
        features |= 1ull << VIRTIO_BLK_F_DISCARD;
    return features;
}

static void blk_lane_close(void *arg)
{
    struct blk_lane *lane = arg;
    lane->lane->paused = true; /* what completes now goes to `late` */
    block_queue_destroy(lane->queue);
    request_list_free(lane->late);
    request_list_free(lane->kept);
    request_list_free(lane->spare);
}

static void blk_destroy(struct device *dev)
{
    struct blk *blk = blk_of(virtio_of(dev));
    for (unsigned i = 0; i < blk->vdev.lane_count && blk->lanes[i].blk; i++)
        loop_call(blk->vdev.lanes[i].loop, blk_lane_close, &blk->lanes[i]);
    virtio_fini(&blk->vdev);
    free(blk);
}

static int blk_check(const void *state, struct err *err)
{
    const struct blk_regs *regs = state;
    return regs->writeback > 1 ? err_set(err, EINVAL, "writeback is neither 0 nor 1") : 0;
}

static const struct state_field blk_fields[] = {
    STATE_STRUCT(struct blk_regs, virtio, &virtio_state),
    STATE_U64(struct blk_regs, writeback),
    STATE_END,
};
static const struct state_desc blk_state = {
    .name = "virtio-blk",
    .version = 1,
    .base = offsetof(struct blk, regs),
    .size = sizeof(struct blk_regs),
    .fields = blk_fields,
    .check = blk_check,
};
static const struct device_type blk_type = {
    .name = "virtio-blk",
    .about = "a virtio disk",
    .destroy = blk_destroy,
    VIRTIO_DEVICE_FUNCTIONS,
    .state = &blk_state,
};

struct blk_open_call {
    struct blk_lane *lane;
    struct err *err;
    int result;
};

static void blk_lane_open(void *arg)
{
    struct blk_open_call *call = arg;
    struct blk_lane *lane = call->lane;
    call->result = block_queue_create(lane->blk->node, lane->lane->loop, &lane->queue, call->err);
}

static int blk_lanes_open(struct blk *blk, struct err *err)
{
    int r = 0;
    for (unsigned i = 0; i < blk->vdev.lane_count && r == 0; i++) {
        struct blk_lane *lane = &blk->lanes[i];
        struct blk_open_call call = { .lane = lane, .err = err };
        lane->blk = blk;
        lane->lane = &blk->vdev.lanes[i];
        loop_call(lane->lane->loop, blk_lane_open, &call);
        r = call.result;
    }
    return r;
}

int virtio_blk_create(struct machine *m, const struct virtio_blk_options *options,
                      struct pci_device **out, struct err *err)
{
    unsigned queues = options->queues ? options->queues : 1;
    if (queues > VIRTIO_BLK_MAX_QUEUES)
        return err_set(err, EINVAL, "a disk has 1 to %d queues, not %u", VIRTIO_BLK_MAX_QUEUES,
                       queues);
    struct blk *blk = calloc(1, sizeof *blk);
    if (!blk)
        return err_set(err, ENOMEM, "out of memory");
    blk->node = options->node;
    blk->readonly = options->readonly || block_readonly(options->node);
    blk->on_full = options->on_full;
    blk->on_error = options->on_error;
    blk->regs.writeback = 1;
    const char *serial = options->serial ? options->serial : options->id;
    memcpy(blk->serial, serial, strnlen(serial, sizeof blk->serial));

    const struct virtio_params params = { .ops = &blk_ops,
                                          .id = options->id,
                                          .regs = &blk->regs.virtio,
                                          .features = blk_features(blk, queues),
                                          .queues = queues,
                                          .config_len = BLK_CONFIG_LEN,
                                          .queue_size = BLK_QUEUE_SIZE,
                                          .loops = options->loops,
                                          .loop_count = options->loop_count };
    int r = virtio_init(&blk->vdev, m, &blk_type, &params, err);
    if (r == 0)
        r = blk_lanes_open(blk, err);
    if (r < 0) {
        blk_destroy(&blk->vdev.pci.dev);
        return r;
    }
    *out = &blk->vdev.pci;
    return 0;
}

void virtio_blk_resized(struct pci_device *pci)
{
    virtio_config_changed((struct virtio_device *)pci);
}
