/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Queues on their loops: doorbells, resets, pausing, going on, loading.
 *
 *  1. A queue, its ring and its elements belong to its lane's loop alone.
 *  2. A reset of the whole device ends on the lane whose queues fall quiet last: `resetting` has a
 *     bit for each lane that still works, and who clears the last one resets the registers. No
 *     queue starts before that, since reset_pending is still set.
 *  3. What waits for every lane (pausing, loading) is done by the main loop, one lane after the
 *     other; lanes that were not asked yet go on meanwhile.
 */
#include "devices/virtio/virtio_lanes.h"

#include "base/log.h"
#include "machine/machine.h"

#include <assert.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <sys/eventfd.h>

/* The queues of a lane. */
#define LANE_EACH(lane, i) \
    for (unsigned i = (lane)->index; i < (lane)->vdev->queue_count; i += (lane)->vdev->lane_count)

/* ---- doorbells ---- */

void virtio_kick(struct virtio_device *vdev, unsigned queue)
{
    eventfd_write(vdev->doorbells[queue].fd, 1);
}

void lanes_kick(struct virtio_device *vdev)
{
    for (unsigned i = 0; i < vdev->queue_count; i++)
        virtio_kick(vdev, i);
}

bool virtio_queue_ready(struct virtio_device *vdev, unsigned queue)
{
    struct virtqueue *vq = &vdev->queues[queue];
    struct virtio_regs *r = vdev->regs;
    uint64_t features;
    if (virtio_lane(vdev, queue)->paused || !pci_bus_master(&vdev->pci))
        return false;
    {
        LOCKED(&vdev->pci.dev.lock);
        if (!(r->status & VIRTIO_CONFIG_S_DRIVER_OK) || r->reset_pending ||
            !r->queues[queue].enabled || r->queues[queue].reset_pending)
            return false;
        features = r->driver_features;
    }
    if (!vq->started)
        virtqueue_start(vq, features);
    return !vq->stopped;
}

static void lane_doorbell(void *arg, unsigned events)
{
    struct virtio_doorbell *bell = arg;
    eventfd_t count;
    (void)events;
    eventfd_read(bell->fd, &count);
    if (virtio_queue_ready(bell->vdev, bell->queue) && bell->vdev->ops->queue)
        bell->vdev->ops->queue(bell->vdev, bell->queue);
}

void virtio_queue_while(struct virtio_device *vdev, unsigned queue,
                        bool (*more)(struct virtio_device *vdev, unsigned queue),
                        void (*fn)(struct virtio_device *vdev, struct virtqueue_elem *elem))
{
    struct virtqueue *vq = &vdev->queues[queue];
    unsigned budget = VIRTIO_BATCH;
    do {
        virtqueue_notification(vq, false);
        struct virtqueue_elem *elem;
        while (budget) {
            if (more && !more(vdev, queue))
                return;
            if (!(elem = virtqueue_pop(vq)))
                break;
            fn(vdev, elem);
            budget--;
        }
        if (!budget)
            virtio_kick(vdev, queue);
    } while (budget && !vq->starved && virtqueue_notification(vq, true));
}

void virtio_queue_each(struct virtio_device *vdev, unsigned queue,
                       void (*fn)(struct virtio_device *vdev, struct virtqueue_elem *elem))
{
    virtio_queue_while(vdev, queue, NULL, fn);
}

/* ---- resets ---- */

/* The queue touches guest memory no more, but for what is in flight. True: nothing is. */
static bool queue_quiet(struct virtio_lane *lane, unsigned queue)
{
    struct virtio_device *vdev = lane->vdev;
    struct virtqueue *vq = &vdev->queues[queue];
    vq->stopped = true;
    while (lane->restored && vq->inflight) /* never resubmitted */
        virtqueue_drop(vq->inflight);
    if (vdev->ops->cancel && vq->inflight)
        vdev->ops->cancel(vdev, queue);
    if (vq->inflight)
        return false;
    virtqueue_stop(vq);
    return true;
}

static void lane_reset(void *arg)
{
    struct virtio_lane *lane = arg;
    struct virtio_device *vdev = lane->vdev;
    unsigned bit = 1u << lane->index;
    bool quiet = true;
    LANE_EACH(lane, i)
    quiet = queue_quiet(lane, i) && quiet;
    if (!quiet)
        return;
    lane->restored = false;
    {
        LOCKED(&vdev->pci.dev.lock);
        bool last = vdev->resetting == bit;
        vdev->resetting &= ~bit;
        if (!last)
            return;
    }
    if (vdev->ops->reset) /* 2 */
        vdev->ops->reset(vdev);
    LOCKED(&vdev->pci.dev.lock);
    virtio_regs_reset(vdev);
}

static void lane_reset_queue(struct virtio_lane *lane, unsigned queue)
{
    struct virtio_device *vdev = lane->vdev;
    if (!queue_quiet(lane, queue))
        return;
    LOCKED(&vdev->pci.dev.lock);
    virtqueue_regs_reset(&vdev->regs->queues[queue], vdev->queue_size);
}

/* Finishes resets that the driver asked for, as far as they can be. */
static void lane_settle(void *arg)
{
    struct virtio_lane *lane = arg;
    struct virtio_device *vdev = lane->vdev;
    if (lane->paused)
        return;
    bool device, queues[VIRTIO_MAX_QUEUES] = { false };
    {
        LOCKED(&vdev->pci.dev.lock);
        device = vdev->regs->reset_pending;
        LANE_EACH(lane, i)
        queues[i] = vdev->regs->queues[i].reset_pending;
    }
    if (device) {
        lane_reset(lane);
        return;
    }
    LANE_EACH(lane, i)
    if (queues[i])
        lane_reset_queue(lane, i);
}

void lanes_settle_soon(struct virtio_device *vdev)
{
    for (unsigned i = 0; i < vdev->lane_count; i++)
        loop_post(vdev->lanes[i].loop, lane_settle, &vdev->lanes[i]);
}

void lanes_ask_reset(struct virtio_device *vdev)
{
    vdev->regs->reset_pending = 1;
    vdev->resetting = (1u << vdev->lane_count) - 1;
    lanes_settle_soon(vdev);
}

void virtio_complete(struct virtio_device *vdev, struct virtqueue_elem *elem, uint32_t written)
{
    struct virtqueue *vq = elem->vq;
    bool settle = vq->stopped; /* a reset stops the queue before it waits */
    virtqueue_push(elem, written);
    virtqueue_notify(vq);
    if (vq->starved)
        virtio_kick(vdev, vq->index);
    if (settle)
        lane_settle(virtio_lane(vdev, vq->index));
}

static void inflight_forget(struct virtio_device *vdev)
{
    free(vdev->regs->inflight);
    vdev->regs->inflight = NULL;
    vdev->regs->inflight_len = 0;
}

void lanes_reset(struct virtio_device *vdev)
{
    {
        LOCKED(&vdev->pci.dev.lock);
        vdev->regs->reset_pending = 1;
        vdev->resetting = (1u << vdev->lane_count) - 1;
    }
    for (unsigned i = 0; i < vdev->lane_count; i++)
        loop_call(vdev->lanes[i].loop, lane_reset, &vdev->lanes[i]);
    LOCKED(&vdev->pci.dev.lock);
    if (!vdev->regs->reset_pending)
        inflight_forget(vdev);
}

/* ---- pausing and going on ---- */

struct lane_call {
    struct virtio_lane *lane;
    struct buf *inflight;
    struct err *err;
    int result;
};

static void lane_pause(void *arg)
{
    struct lane_call *call = arg;
    struct virtio_lane *lane = call->lane;
    struct virtio_device *vdev = lane->vdev;
    if (vdev->ops->pause)
        vdev->ops->pause(vdev, lane->index);
    lane->paused = true;
    LANE_EACH(lane, i)
    virtqueue_inflight_save(&vdev->queues[i], call->inflight);
}

void virtio_pause(struct device *dev)
{
    struct virtio_device *vdev = virtio_of(dev);
    struct buf inflight = { 0 };
    if (vdev->still)
        return;
    vdev->still = true;
    for (unsigned i = 0; i < vdev->lane_count; i++) {
        struct lane_call call = { .lane = &vdev->lanes[i], .inflight = &inflight };
        loop_call(call.lane->loop, lane_pause, &call);
    }
    free(vdev->regs->inflight);
    vdev->regs->inflight = inflight.data;
    vdev->regs->inflight_len = inflight.len;
}

static void lane_resubmit(struct virtio_lane *lane)
{
    struct virtio_device *vdev = lane->vdev;
    lane->restored = false;
    LANE_EACH(lane, i)
    {
        struct virtqueue_elem *elem = vdev->queues[i].inflight;
        while (elem) {
            struct virtqueue_elem *next = elem->next; /* resubmit may finish it */
            if (vdev->ops->resubmit && virtqueue_elem_lease(elem))
                vdev->ops->resubmit(vdev, elem);
            else
                virtqueue_drop(elem);
            elem = next;
        }
    }
}

static void lane_resume(void *arg)
{
    struct virtio_lane *lane = arg;
    struct virtio_device *vdev = lane->vdev;
    lane->paused = false;
    if (lane->restored)
        lane_resubmit(lane);
    if (vdev->ops->resume)
        vdev->ops->resume(vdev, lane->index);
    lane_settle(lane);
    LANE_EACH(lane, i) /* doorbells that came while paused, or before a restore */
    virtio_kick(vdev, i);
}

void virtio_resume(struct device *dev)
{
    struct virtio_device *vdev = virtio_of(dev);
    if (!vdev->still)
        return;
    vdev->still = false;
    inflight_forget(vdev);
    for (unsigned i = 0; i < vdev->lane_count; i++)
        loop_call(vdev->lanes[i].loop, lane_resume, &vdev->lanes[i]);
}

/* ---- loading ---- */

static void lane_in_use(void *arg)
{
    struct lane_call *call = arg;
    struct virtio_lane *lane = call->lane;
    LANE_EACH(lane, i)
    if (lane->vdev->queues[i].inflight && !lane->restored)
        call->result =
            err_set(call->err, EBUSY, "requests are still in flight; restore into a new VM");
}

static void lane_loaded(void *arg)
{
    struct lane_call *call = arg;
    struct virtio_lane *lane = call->lane;
    struct virtio_device *vdev = lane->vdev;
    struct virtio_regs *r = vdev->regs;
    lane->paused = lane->restored = true;
    LANE_EACH(lane, i)
    {
        struct virtqueue *vq = &vdev->queues[i];
        while (vq->inflight)
            virtqueue_drop(vq->inflight);
        virtqueue_stop(vq);
        if (r->queues[i].enabled && !r->reset_pending && !r->queues[i].reset_pending) {
            virtqueue_start(vq, r->driver_features);
            virtqueue_inflight_load(vq, r->inflight, r->inflight_len);
        }
    }
    if (lane->index == 0 && vdev->ops->loaded)
        call->result = vdev->ops->loaded(vdev, call->err);
}

int lanes_loaded(struct virtio_device *vdev, struct err *err)
{
    void (*const steps[])(void *arg) = { lane_in_use, lane_loaded };
    for (unsigned k = 0; k < 2; k++)
        for (unsigned i = 0; i < vdev->lane_count; i++) {
            struct lane_call call = { .lane = &vdev->lanes[i], .err = err };
            loop_call(call.lane->loop, steps[k], &call);
            if (call.result < 0)
                return call.result;
        }
    vdev->still = true;
    vdev->resetting = vdev->regs->reset_pending ? (1u << vdev->lane_count) - 1 : 0;
    return 0;
}

/* ---- create and destroy ---- */

void lanes_init(struct virtio_device *vdev, struct machine *m, const struct virtio_params *params)
{
    assert(params->loop_count <= VIRTIO_MAX_LANES);
    vdev->lane_count = params->loop_count ? params->loop_count : 1;
    vdev->still = true; /* until the machine starts */
    for (unsigned i = 0; i < vdev->lane_count; i++)
        vdev->lanes[i] = (struct virtio_lane){
            .vdev = vdev,
            .index = i,
            .loop = params->loop_count ? params->loops[i] : m->io_loop,
            .paused = true,
        };
    for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++)
        vdev->doorbells[i].fd = -1;
}

static void lane_open(void *arg)
{
    struct lane_call *call = arg;
    struct virtio_lane *lane = call->lane;
    LANE_EACH(lane, i)
    {
        struct virtio_doorbell *bell = &lane->vdev->doorbells[i];
        if (call->result == 0)
            call->result = loop_watch_create(lane->loop, bell->fd, LOOP_READ, lane_doorbell, bell,
                                             &bell->watch, call->err);
    }
}

int lanes_open(struct virtio_device *vdev, struct err *err)
{
    int r = 0;
    for (unsigned i = 0; i < vdev->queue_count; i++) {
        struct virtio_doorbell *bell = &vdev->doorbells[i];
        bell->vdev = vdev;
        bell->queue = i;
        bell->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (bell->fd < 0)
            return err_errno(err, errno, "eventfd");
    }
    for (unsigned i = 0; i < vdev->lane_count && r == 0; i++) {
        struct lane_call call = { .lane = &vdev->lanes[i], .err = err };
        loop_call(call.lane->loop, lane_open, &call);
        r = call.result;
    }
    return r;
}

static void lane_close(void *arg)
{
    struct virtio_lane *lane = arg;
    LANE_EACH(lane, i)
    {
        loop_watch_destroy(lane->vdev->doorbells[i].watch);
        virtqueue_fini(&lane->vdev->queues[i]);
    }
}

void lanes_close(struct virtio_device *vdev)
{
    for (unsigned i = 0; i < vdev->lane_count; i++)
        loop_call(vdev->lanes[i].loop, lane_close, &vdev->lanes[i]);
}
