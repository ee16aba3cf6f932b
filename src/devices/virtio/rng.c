/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtio entropy device (VIRTIO 1.2, 5.4).
 *
 * A buffer gets up to RNG_CHUNK bytes. After RNG_BUDGET bytes the queue rests until the next
 * period, so that a guest in a loop does not take the I/O thread for itself; 1.25 MiB a second is
 * more than any guest needs. The rate is not part of the chip and not saved.
 */
#include "devices/virtio/rng.h"

#include "devices/virtio/virtio_pci.h"
#include "machine/machine.h"

#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/random.h>

enum { RNG_QUEUE_SIZE = 8, RNG_CHUNK = 4096, RNG_BUDGET = 128 << 10 };
#define RNG_PERIOD_NS 100000000ull

struct rng_regs {
    struct virtio_regs virtio;
};

struct rng {
    struct virtio_device vdev;
    struct rng_regs regs;
    /* io_loop */
    struct loop_timer *timer; /* owned; armed while the budget is used up */
    unsigned budget;
    uint64_t period_end_ns;
};

static struct rng *rng_of(struct virtio_device *vdev) { return (struct rng *)vdev; }

/* getrandom gives up to 256 bytes in one piece, never less. */
static void rng_fill(struct virtqueue_elem *elem, size_t len)
{
    uint8_t piece[256];
    for (size_t at = 0; at < len; at += sizeof piece) {
        size_t n = len - at < sizeof piece ? len - at : sizeof piece;
        if (getrandom(piece, n, 0) != (ssize_t)n)
            abort(); /* a kernel without entropy for us does not exist */
        iov_from_buf(elem->in, elem->in_count, at, piece, n);
    }
}

/* Answers how many bytes may be given now. */
static unsigned rng_allowance(struct rng *rng)
{
    uint64_t now = monotonic_ns();
    if (now >= rng->period_end_ns) {
        rng->budget = RNG_BUDGET;
        rng->period_end_ns = now + RNG_PERIOD_NS;
    }
    if (!rng->budget)
        loop_timer_arm(rng->timer, rng->period_end_ns);
    return rng->budget < RNG_CHUNK ? rng->budget : RNG_CHUNK;
}

static void rng_queue(struct virtio_device *vdev, unsigned queue)
{
    struct rng *rng = rng_of(vdev);
    struct virtqueue *vq = &vdev->queues[queue];
    struct virtqueue_elem *elem;
    unsigned room;
    while ((room = rng_allowance(rng)) && (elem = virtqueue_pop(vq))) {
        size_t len = elem->in_bytes < room ? elem->in_bytes : room;
        rng_fill(elem, len);
        /* A buffer without room counts, too: nothing is free in a loop. */
        rng->budget -= (unsigned)(len ? len : 1);
        virtio_complete(vdev, elem, (uint32_t)len);
    }
    if (room && virtqueue_notification(vq, true))
        virtio_kick(vdev, queue);
}

static void rng_rested(void *arg)
{
    struct rng *rng = arg;
    virtio_kick(&rng->vdev, 0);
}

static void rng_timer_close(void *arg)
{
    struct rng *rng = arg;
    if (rng->timer)
        loop_timer_destroy(rng->timer);
}

static void rng_destroy(struct device *dev)
{
    struct rng *rng = rng_of(virtio_of(dev));
    loop_call(dev->machine->io_loop, rng_timer_close, rng);
    virtio_fini(&rng->vdev);
    free(rng);
}

static const struct virtio_ops rng_ops = {
    .id = VIRTIO_ID_RNG,
    .class_code = 0x00ff00,
    .queue = rng_queue,
};

static const struct state_field rng_fields[] = {
    STATE_STRUCT(struct rng_regs, virtio, &virtio_state),
    STATE_END,
};
static const struct state_desc rng_state = {
    .name = "virtio-rng",
    .version = 1,
    .base = offsetof(struct rng, regs),
    .size = sizeof(struct rng_regs),
    .fields = rng_fields,
};
static const struct device_type rng_type = {
    .name = "virtio-rng",
    .about = "randomness from the host",
    .destroy = rng_destroy,
    VIRTIO_DEVICE_FUNCTIONS,
    .state = &rng_state,
};

struct rng_open_call {
    struct rng *rng;
    struct err *err;
    int result;
};

static void rng_timer_open(void *arg)
{
    struct rng_open_call *call = arg;
    call->result = loop_timer_create(call->rng->vdev.pci.dev.machine->io_loop, rng_rested,
                                     call->rng, &call->rng->timer, call->err);
}

int virtio_rng_create(struct machine *m, const char *id, struct pci_device **out, struct err *err)
{
    struct rng *rng = calloc(1, sizeof *rng);
    if (!rng)
        return err_set(err, ENOMEM, "out of memory");
    const struct virtio_params params = { .ops = &rng_ops,
                                          .id = id,
                                          .regs = &rng->regs.virtio,
                                          .queues = 1,
                                          .queue_size = RNG_QUEUE_SIZE };
    int r = virtio_init(&rng->vdev, m, &rng_type, &params, err);
    if (r == 0) {
        struct rng_open_call call = { .rng = rng, .err = err };
        loop_call(m->io_loop, rng_timer_open, &call);
        r = call.result;
    }
    if (r < 0) {
        rng_destroy(&rng->vdev.pci.dev);
        return r;
    }
    *out = &rng->vdev.pci;
    return 0;
}
