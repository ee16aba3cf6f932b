/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtio memory balloon (VIRTIO 1.2, 5.5) with statistics and reporting of free pages.
 *
 *  1. Memory is given back only under a write lease over it (dma_discard), so a saved state, the
 *     dirty log and translated code see it as what it is: zeros, written by a device.
 *  2. Nothing keeps the guest from using a page that it gave away: it finds zeros, and the page
 *     costs the host memory again. What is in the balloon is the guest's word only.
 *  3. The statistics' buffer stays in its ring until new ones are wanted: it is taken, read and put
 *     back (5.5.6.3 has the device keep it), so there is nothing in flight to save.
 *  4. A handler does a bounded piece of work and then lets the other devices of its loop run.
 *
 * Which number the reporting queue has when hints of free pages (queue 3) are not offered is read
 * in two ways: the specification leaves a gap, Linux does not. So both queues report.
 */
#include "devices/virtio/balloon.h"

#include "base/checked.h"
#include "devices/virtio/virtio_pci.h"
#include "machine/machine.h"

#include <endian.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE_INFLATE, QUEUE_DEFLATE, QUEUE_STATS, QUEUE_REPORT, QUEUES = 5, QUEUE_SIZE = 128 };
enum {
    PFN_SHIFT = 12,      /* VIRTIO_BALLOON_PFN_SHIFT, whatever the guest's pages are */
    PFNS_MAX = 1024,     /* of a buffer; drivers send 256 */
    BUFFERS_A_TURN = 16, /* 4 */
    STATS_A_TURN = 8,
    STATS_MAX = 64, /* entries of a buffer that are looked at */
};

struct balloon_regs { /* dev.lock */
    struct virtio_regs virtio;
    uint32_t target, actual; /* pages */
    uint32_t poison;         /* what the guest fills free pages with */
    uint32_t reserved;
};

struct balloon {
    struct virtio_device vdev;
    struct balloon_regs regs;
    struct virtio_balloon_options options; /* fixed at create */
    _Atomic bool stats_wanted;             /* virtio_balloon_refresh was called */
    bool stats_asked; /* io_loop: the buffer went back to the guest, an answer will come */

    /* dev.lock; told by the guest, not part of the chip */
    uint64_t inflated, reported;
    uint32_t known;
    uint64_t stats[VIRTIO_BALLOON_STATS];
    uint64_t stats_ns; /* monotonic */
};

static struct balloon *balloon_of(struct virtio_device *vdev) { return (struct balloon *)vdev; }

/* ---- inflating; io_loop ---- */

static int pfn_order(const void *a, const void *b)
{
    uint32_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static void balloon_give(struct balloon *b, uint64_t gpa, uint64_t len)
{
    struct dma lease;
    if (dma_begin(b->vdev.pci.dev.machine, gpa, len, true, &lease) < 0)
        return; /* not RAM: there is nothing to give */
    uint64_t given = dma_discard(&lease);
    dma_end(&lease, len);
    LOCKED(&b->vdev.pci.dev.lock);
    b->inflated += given;
}

/* Guests hand out pages in any order; neighbours go in one piece. */
static void balloon_inflate(struct virtio_device *vdev, struct virtqueue_elem *elem)
{
    uint32_t pfns[PFNS_MAX];
    size_t count = iov_to_buf(elem->out, elem->out_count, 0, pfns, sizeof pfns) / sizeof pfns[0];
    for (size_t i = 0; i < count; i++)
        pfns[i] = le32toh(pfns[i]);
    qsort(pfns, count, sizeof pfns[0], pfn_order);
    for (size_t i = 0, next; i < count; i = next) {
        uint64_t end = pfns[i];
        for (next = i; next < count && pfns[next] <= end; next++)
            end = (uint64_t)pfns[next] + 1;
        balloon_give(balloon_of(vdev), (uint64_t)pfns[i] << PFN_SHIFT,
                     (end - pfns[i]) << PFN_SHIFT);
    }
    virtio_complete(vdev, elem, 0);
}

/* The guest takes them back by using them. */
static void balloon_deflate(struct virtio_device *vdev, struct virtqueue_elem *elem)
{
    virtio_complete(vdev, elem, 0);
}

/* ---- reporting (5.5.6.7); io_loop ---- */

/* The buffers are the free pages themselves. A guest that fills free pages with something wants to
 * find it there. */
static void balloon_report(struct virtio_device *vdev, struct virtqueue_elem *elem)
{
    struct balloon *b = balloon_of(vdev);
    bool zeros;
    {
        LOCKED(&vdev->pci.dev.lock);
        zeros = !virtio_has(vdev, VIRTIO_BALLOON_F_PAGE_POISON) || !b->regs.poison;
    }
    uint64_t given = zeros ? virtqueue_elem_discard(elem) : 0;
    {
        LOCKED(&vdev->pci.dev.lock);
        b->reported += given;
    }
    virtio_complete(vdev, elem, 0);
}

/* ---- statistics; io_loop ---- */

static void stats_read(struct balloon *b, const struct virtqueue_elem *elem)
{
    struct virtio_balloon_stat entries[STATS_MAX];
    size_t count =
        iov_to_buf(elem->out, elem->out_count, 0, entries, sizeof entries) / sizeof entries[0];
    LOCKED(&b->vdev.pci.dev.lock);
    b->known = 0;
    for (size_t i = 0; i < count; i++) {
        unsigned tag = le16toh(entries[i].tag);
        if (tag >= VIRTIO_BALLOON_STATS)
            continue;
        b->known |= 1u << tag;
        b->stats[tag] = le64toh(entries[i].val);
    }
    b->stats_ns = monotonic_ns();
}

static void balloon_stats(struct balloon *b)
{
    struct virtqueue *vq = &b->vdev.queues[QUEUE_STATS];
    for (unsigned budget = STATS_A_TURN; budget; budget--) {
        struct virtqueue_elem *elem = virtqueue_pop(vq);
        if (!elem && virtqueue_notification(vq, true))
            continue;
        if (!elem)
            return;
        if (!b->stats_asked && atomic_exchange(&b->stats_wanted, false)) {
            b->stats_asked = true;
            virtio_complete(&b->vdev, elem, 0);
            continue;
        }
        stats_read(b, elem);
        virtqueue_unpop(elem); /* 3 */
        if (b->stats_asked) {
            b->stats_asked = false;
            atomic_store(&b->stats_wanted, false);
            if (b->options.refreshed)
                b->options.refreshed(b->options.arg);
        }
        return;
    }
    virtio_kick(&b->vdev, QUEUE_STATS);
}

static void balloon_queue(struct virtio_device *vdev, unsigned queue)
{
    if (queue == QUEUE_STATS) {
        balloon_stats(balloon_of(vdev));
        return;
    }
    void (*fn)(struct virtio_device *, struct virtqueue_elem *) =
        queue == QUEUE_INFLATE   ? balloon_inflate
        : queue == QUEUE_DEFLATE ? balloon_deflate
                                 : balloon_report;
    struct virtqueue *vq = &vdev->queues[queue];
    for (unsigned budget = BUFFERS_A_TURN; budget; budget--) {
        struct virtqueue_elem *elem = virtqueue_pop(vq);
        if (elem)
            fn(vdev, elem);
        else if (!virtqueue_notification(vq, true))
            return;
    }
    virtio_kick(vdev, queue);
}

static void balloon_reset(struct virtio_device *vdev)
{
    struct balloon *b = balloon_of(vdev);
    b->stats_asked = false;
    LOCKED(&vdev->pci.dev.lock);
    b->regs.actual = b->regs.poison = 0;
    b->known = 0;
}

/* ---- configuration (5.5.4); dev.lock held ---- */

static void balloon_config(struct virtio_device *vdev, uint8_t *out)
{
    const struct balloon_regs *r = &balloon_of(vdev)->regs;
    struct virtio_balloon_config config = { .num_pages = htole32(r->target),
                                            .actual = htole32(r->actual),
                                            .poison_val = htole32(r->poison) };
    memcpy(out, &config, sizeof config);
}

static void balloon_config_write(struct virtio_device *vdev, unsigned offset, unsigned size,
                                 uint64_t value)
{
    struct balloon_regs *r = &balloon_of(vdev)->regs;
    if (size == 4 && offset == offsetof(struct virtio_balloon_config, actual))
        r->actual = (uint32_t)value;
    else if (size == 4 && offset == offsetof(struct virtio_balloon_config, poison_val))
        r->poison = (uint32_t)value;
}

/* ---- the host's side; any thread ---- */

void virtio_balloon_target(struct pci_device *pci, uint64_t bytes)
{
    struct balloon *b = (struct balloon *)pci;
    {
        LOCKED(&pci->dev.lock);
        uint64_t pages = bytes >> PFN_SHIFT;
        b->regs.target = pages < UINT32_MAX ? (uint32_t)pages : UINT32_MAX;
    }
    virtio_config_changed(&b->vdev);
}

void virtio_balloon_refresh(struct pci_device *pci)
{
    struct balloon *b = (struct balloon *)pci;
    atomic_store(&b->stats_wanted, true);
    virtio_kick(&b->vdev, QUEUE_STATS);
}

void virtio_balloon_status(struct pci_device *pci, struct virtio_balloon_status *out)
{
    struct balloon *b = (struct balloon *)pci;
    LOCKED(&pci->dev.lock);
    *out = (struct virtio_balloon_status){
        .driver = b->regs.virtio.status & VIRTIO_CONFIG_S_DRIVER_OK,
        .target = (uint64_t)b->regs.target << PFN_SHIFT,
        .actual = (uint64_t)b->regs.actual << PFN_SHIFT,
        .inflated = b->inflated,
        .reported = b->reported,
        .known = b->known,
        .age_ns = b->known ? monotonic_ns() - b->stats_ns : 0,
    };
    memcpy(out->stats, b->stats, sizeof out->stats);
}

const char *virtio_balloon_stat_name(unsigned stat)
{
    static const char *const names[] = {
        [VIRTIO_BALLOON_S_SWAP_IN] = "swapped-in",
        [VIRTIO_BALLOON_S_SWAP_OUT] = "swapped-out",
        [VIRTIO_BALLOON_S_MAJFLT] = "major-faults",
        [VIRTIO_BALLOON_S_MINFLT] = "minor-faults",
        [VIRTIO_BALLOON_S_MEMFREE] = "free",
        [VIRTIO_BALLOON_S_MEMTOT] = "total",
        [VIRTIO_BALLOON_S_AVAIL] = "available",
        [VIRTIO_BALLOON_S_CACHES] = "caches",
        [VIRTIO_BALLOON_S_HTLB_PGALLOC] = "huge-pages-allocated",
        [VIRTIO_BALLOON_S_HTLB_PGFAIL] = "huge-pages-failed",
    };
    return stat < ARRAY_LEN(names) ? names[stat] : NULL;
}

/* ---- the device ---- */

static const struct virtio_ops balloon_ops = {
    .id = VIRTIO_ID_BALLOON,
    .class_code = 0x00ff00,
    .config = balloon_config,
    .config_write = balloon_config_write,
    .queue = balloon_queue,
    .reset = balloon_reset,
};

static void balloon_destroy(struct device *dev)
{
    struct balloon *b = balloon_of(virtio_of(dev));
    virtio_fini(&b->vdev);
    free(b);
}

static int balloon_check(const void *state, struct err *err)
{
    const struct balloon_regs *regs = state;
    return regs->reserved ? err_set(err, EINVAL, "the balloon's reserved field is in use") : 0;
}

static const struct state_field balloon_fields[] = {
    STATE_STRUCT(struct balloon_regs, virtio, &virtio_state),
    STATE_U32(struct balloon_regs, target),
    STATE_U32(struct balloon_regs, actual),
    STATE_U32(struct balloon_regs, poison),
    STATE_U32(struct balloon_regs, reserved),
    STATE_END,
};
static const struct state_desc balloon_state = {
    .name = "virtio-balloon",
    .version = 1,
    .base = offsetof(struct balloon, regs),
    .size = sizeof(struct balloon_regs),
    .fields = balloon_fields,
    .check = balloon_check,
};
static const struct device_type balloon_type = {
    .name = "virtio-balloon",
    .about = "memory that the guest gives back",
    .threads = DEVICE_LOCKED,
    .destroy = balloon_destroy,
    .read = virtio_read,
    .write = virtio_write,
    .reset = virtio_reset,
    .pause = virtio_pause,
    .resume = virtio_resume,
    .loaded = virtio_loaded,
    .state = &balloon_state,
};

int virtio_balloon_create(struct machine *m, const struct virtio_balloon_options *options,
                          struct pci_device **out, struct err *err)
{
    struct balloon *b = calloc(1, sizeof *b);
    if (!b)
        return err_set(err, ENOMEM, "out of memory");
    b->options = *options;
    b->options.id = NULL; /* the device has it */
    const struct virtio_params params = {
        .ops = &balloon_ops,
        .id = options->id,
        .regs = &b->regs.virtio,
        .features = 1ull << VIRTIO_BALLOON_F_STATS_VQ | 1ull << VIRTIO_BALLOON_F_DEFLATE_ON_OOM |
                    1ull << VIRTIO_BALLOON_F_PAGE_POISON | 1ull << VIRTIO_BALLOON_F_REPORTING,
        .queues = QUEUES,
        .config_len = sizeof(struct virtio_balloon_config),
        .queue_size = QUEUE_SIZE,
    };
    int r = virtio_init(&b->vdev, m, &balloon_type, &params, err);
    if (r < 0) {
        balloon_destroy(&b->vdev.pci.dev);
        return r;
    }
    *out = &b->vdev.pci;
    return 0;
}
