/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The part that all virtio devices share, and their transport: a PCI function (VIRTIO 1.2, 4.1).
 *
 * A kind embeds `struct virtio_device` first and `struct virtio_regs` first in its own registers,
 * where its state table nests it, and brings one const `struct virtio_ops`:
 *
 *     struct foo_regs { struct virtio_regs virtio; ... };
 *     struct foo { struct virtio_device vdev; struct foo_regs regs; };
 *     STATE_STRUCT(struct foo_regs, virtio, &virtio_state)
 *
 * Its device_type uses VIRTIO_DEVICE_FUNCTIONS and adds name, destroy and state.
 *
 * Threads: register handlers run on vCPU threads with dev->lock. Everything about a queue runs on
 * the loop of its *lane*, without the lock. Most kinds have one lane, on machine->io_loop; a kind
 * that names several loops has one for each, and queue i is in lane i % lane_count. Registers that
 * both use are guarded by the lock; the driver cannot change an enabled queue's addresses, so the
 * loops read those freely.
 */
#ifndef DEVICES_VIRTIO_VIRTIO_PCI_H
#define DEVICES_VIRTIO_VIRTIO_PCI_H

#include "devices/pci.h"
#include "devices/virtio/virtqueue.h"

enum {
    VIRTIO_MAX_QUEUES = 64,
    VIRTIO_MAX_LANES = 16,
    VIRTIO_MAX_CONFIG = 256,
    VIRTIO_BATCH = 256, /* buffers that a queue handler takes before it lets others run */
};

/* Where the structures are in their BAR: number 0, unless the kind has something else there. */
enum {
    VIRTIO_BAR = 0,
    VIRTIO_BAR_COMMON = 0x0000,
    VIRTIO_BAR_ISR = 0x1000,
    VIRTIO_BAR_DEVICE = 0x2000,
    VIRTIO_BAR_NOTIFY = 0x3000, /* 4 bytes a queue */
    VIRTIO_BAR_MSIX_TABLE = 0x4000,
    VIRTIO_BAR_MSIX_PBA = 0x6000,
    VIRTIO_BAR_SIZE = 0x8000,
};

struct virtio_regs { /* saved; dev->lock unless it says otherwise */
    struct pci_regs pci;
    uint64_t driver_features; /* fixed from FEATURES_OK to reset */
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select, config_vector;
    uint8_t status, config_generation, isr;
    uint8_t reset_pending; /* status 0 was written; requests in flight are awaited */
    struct virtqueue_regs queues[VIRTIO_MAX_QUEUES];
    uint8_t *inflight; /* owned; what virtqueue_inflight_save wrote; only set while paused */
    size_t inflight_len;
};
extern const struct state_desc virtio_state;

struct virtio_device;

/* One kind of device. Absent functions do nothing. */
struct virtio_ops {
    uint16_t id;         /* of the virtio device kind */
    uint32_t class_code; /* of the PCI function */
    /* dev->lock held, vCPU thread. Fills the whole configuration (vdev->config_len bytes, zeroed).
     */
    void (*config)(struct virtio_device *vdev, uint8_t *out);
    void (*config_write)(struct virtio_device *vdev, unsigned offset, unsigned size,
                         uint64_t value);
    /* A BAR of the kind's own: as pci_ops.bar_mapped. */
    void (*bar_mapped)(struct virtio_device *vdev, unsigned bar, uint64_t address, bool mapped);

    /* The rest: on the queue's or the lane's loop, no lock held. */
    void (*queue)(struct virtio_device *vdev, unsigned queue); /* there may be buffers */
    /* The driver resets this queue: drop elements nobody works on. Others are awaited. */
    void (*cancel)(struct virtio_device *vdev, unsigned queue);
    void (*reset)(struct virtio_device *vdev); /* nothing is in flight any more; on any lane */
    /* Stop; give what is in flight a deadline. Results that come later wait for resume. Lane after
     * lane, in their order. */
    void (*pause)(struct virtio_device *vdev, unsigned lane);
    void (*resume)(struct virtio_device *vdev, unsigned lane);
    /* The registers were restored; nothing runs. The first lane. */
    int (*loaded)(struct virtio_device *vdev, struct err *err);
    /* An element that was in flight when the state was saved. Its lease is open. */
    void (*resubmit)(struct virtio_device *vdev, struct virtqueue_elem *elem);
};

struct virtio_device {
    struct pci_device pci;
    const struct virtio_ops *ops; /* fixed at create, like the next eight */
    unsigned bar, bar_offset;     /* where the structures are */
    struct virtio_regs *regs;
    uint64_t features; /* offered */
    unsigned queue_count, config_len;
    uint16_t queue_size; /* largest, of every queue */
    bool whole;          /* virtio_init succeeded */

    bool live;          /* dev->lock: enabled a queue or reached DRIVER_OK since the last reset */
    unsigned resetting; /* dev->lock: lanes that a reset of the device waits for; 1 << index */
    bool still;         /* main loop: all lanes are paused, or about to be */

    unsigned lane_count; /* fixed at create */
    struct virtio_lane {
        struct virtio_device *vdev; /* fixed at create, like the next two */
        unsigned index;
        struct loop *loop; /* borrowed */
        bool paused;       /* loop; from create to start, too */
        bool restored;     /* loop; elements in flight wait for resubmission */
    } lanes[VIRTIO_MAX_LANES];

    struct virtqueue queues[VIRTIO_MAX_QUEUES]; /* each its lane's */
    struct virtio_doorbell {
        struct virtio_device *vdev;
        unsigned queue;
        int fd; /* eventfd; owned, fixed at create */
        struct loop_watch *watch;
    } doorbells[VIRTIO_MAX_QUEUES];
};

struct virtio_params {
    const struct virtio_ops *ops;
    const char *id;
    struct virtio_regs *regs;
    uint64_t features; /* of the kind; the transport adds its own */
    unsigned queues, config_len;
    uint16_t queue_size; /* a power of two */
    unsigned bar;        /* the structures' */
    /* Where they begin in it, a multiple of VIRTIO_BAR_SIZE: what is below is the kind's own. */
    unsigned bar_offset;
    /* One lane for each; 0: one, on machine->io_loop. */
    struct loop *const *loops;
    unsigned loop_count;
};

int virtio_init(struct virtio_device *vdev, struct machine *m, const struct device_type *type,
                const struct virtio_params *params, struct err *err);
/* Accepts a half-initialised device. The kind's own work on the loop has ended. */
void virtio_fini(struct virtio_device *vdev);
static inline struct virtio_device *virtio_of(struct device *dev)
{
    return (struct virtio_device *)dev;
}

/* ---- for device_type ---- */

uint64_t virtio_read(struct device *dev, unsigned region, uint64_t offset, unsigned size);
void virtio_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                  uint64_t value);
void virtio_reset(struct device *dev);
void virtio_pause(struct device *dev);
void virtio_resume(struct device *dev);
int virtio_loaded(struct device *dev, struct err *err);

#define VIRTIO_DEVICE_FUNCTIONS                                                                  \
    .threads = DEVICE_LOCKED, .read = virtio_read, .write = virtio_write, .reset = virtio_reset, \
    .pause = virtio_pause, .resume = virtio_resume, .loaded = virtio_loaded

/* ---- for kinds, on the queue's loop ---- */

static inline struct virtio_lane *virtio_lane(struct virtio_device *vdev, unsigned queue)
{
    return &vdev->lanes[queue % vdev->lane_count];
}

/* May the kind touch this queue now: started, not paused, no reset in progress? Starts it if the
 * driver has enabled it meanwhile. */
bool virtio_queue_ready(struct virtio_device *vdev, unsigned queue);
static inline bool virtio_has(const struct virtio_device *vdev, unsigned feature)
{
    return vdev->regs->driver_features >> feature & 1;
}
/* For ops->queue: hands each buffer to fn, a batch at most, with doorbells off meanwhile. */
void virtio_queue_each(struct virtio_device *vdev, unsigned queue,
                       void (*fn)(struct virtio_device *vdev, struct virtqueue_elem *elem));
/* The same while `more` says so, which is asked before each; then somebody kicks the queue. */
void virtio_queue_while(struct virtio_device *vdev, unsigned queue,
                        bool (*more)(struct virtio_device *vdev, unsigned queue),
                        void (*fn)(struct virtio_device *vdev, struct virtqueue_elem *elem));
/* Pushes, interrupts if wanted, and finishes a reset that waited for this element. */
void virtio_complete(struct virtio_device *vdev, struct virtqueue_elem *elem, uint32_t written);
/* The handler ran out of its batch: call it again soon. Any thread. */
void virtio_kick(struct virtio_device *vdev, unsigned queue);
/* The device cannot go on: NEEDS_RESET. */
void virtio_broken(struct virtio_device *vdev, const char *why);

/* ---- any thread, dev->lock not held ---- */

/* The configuration changed: new generation, interrupt. */
void virtio_config_changed(struct virtio_device *vdev);

#endif
