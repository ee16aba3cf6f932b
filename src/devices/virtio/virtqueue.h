/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtqueue seen from the device: split and packed rings in guest memory (VIRTIO 1.2, 2.7, 2.8).
 *
 * The ring belongs to a hostile guest. A ring that breaks the rules calls `broken` once, and the
 * queue answers "empty" from then on. All functions run on the loop that owns the queue
 * (its device's), unless they say otherwise.
 */
#ifndef DEVICES_VIRTIO_VIRTQUEUE_H
#define DEVICES_VIRTIO_VIRTQUEUE_H

#include "base/text.h"
#include "machine/memory.h"
#include "machine/state.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    VIRTQUEUE_MAX_SIZE = 1024,     /* entries of a ring */
    VIRTQUEUE_MAX_SEGMENTS = 1024, /* descriptors of one chain, indirect ones included */
};

/*
 * What is saved of a queue. The first part is written by register handlers while the queue is
 * disabled and fixed while it is enabled; the second belongs to the loop.
 */
struct virtqueue_regs { /* without padding, so that a test can find forgotten fields */
    uint64_t desc, driver,
        device;            /* gpa of the three areas; avail and used ring in a split queue */
    uint32_t size;         /* entries */
    uint32_t vector;       /* MSI-X; device's lock */
    uint8_t enabled;       /* device's lock */
    uint8_t reset_pending; /* queue_reset was written; device's lock */
    uint8_t avail_wrap, used_wrap; /* packed only */
    uint16_t avail_idx;            /* split: free-running; packed: slot */
    uint16_t used_idx;
};
extern const struct state_desc virtqueue_state;

struct virtqueue;

/* One buffer of the driver, leased from pop to push. Device-readable vectors are `out`. */
struct virtqueue_elem {
    struct virtqueue_elem *next, **prev; /* in vq->inflight, oldest first */
    struct virtqueue *vq;
    struct iovec *out, *in;
    unsigned out_count, in_count;
    uint64_t out_bytes, in_bytes;
    uint64_t touched; /* bytes of `in` that may have changed beyond what push reports */
    void *user;       /* the device's */

    /* private */
    uint16_t id, slots;
    bool leased;
    unsigned segment_count, segment_room, lease_room, iov_room;
    struct virtqueue_segment *segments;
    struct dma *leases;
    struct iovec *iov;
};

struct virtqueue {
    struct machine *machine;
    struct virtqueue_regs *regs;
    unsigned index;
    bool packed, event_idx, indirect; /* negotiated; set by virtqueue_start */
    bool started, stopped;            /* stopped: the ring is broken */
    bool starved; /* pop held back because too much is in flight: pop again when some is pushed */
    void (*broken)(void *arg, const char *why);   /* called once after a start */
    void (*interrupt)(void *arg, unsigned queue); /* the driver wants to know of used buffers */
    void *arg;

    /* private */
    unsigned inuse;       /* ring entries popped and not yet pushed */
    unsigned leases;      /* open ones */
    unsigned unsignalled; /* ring entries used since the last virtqueue_notify */
    bool notification;    /* the driver was asked for doorbells */
    struct virtqueue_elem *inflight, **inflight_end, *spare;
};

void virtqueue_init(struct virtqueue *vq, struct machine *m, unsigned index,
                    struct virtqueue_regs *regs);
void virtqueue_fini(struct virtqueue *vq); /* drops what is in flight */

/* regs hold what the driver configured. Calls broken for addresses that no ring can have. */
void virtqueue_start(struct virtqueue *vq, uint64_t features);
/* Forgets the ring. What is in flight must have been pushed or dropped. */
void virtqueue_stop(struct virtqueue *vq);
/* Values of regs that a driver sees after a reset. */
void virtqueue_regs_reset(struct virtqueue_regs *regs, uint16_t max_size);

/* The next buffer, or NULL when there is none (or the ring is broken). */
struct virtqueue_elem *virtqueue_pop(struct virtqueue *vq);
/* Is there one? May say no for a broken ring. */
bool virtqueue_pending(struct virtqueue *vq);
/* Puts the element popped last back. */
void virtqueue_unpop(struct virtqueue_elem *elem);
/* Returns buffers to the driver; `written[i]` bytes were put into elems[i]->in. The driver sees all
 * of them or none. Elements are gone afterwards. */
void virtqueue_push_many(struct virtqueue *vq, struct virtqueue_elem *const *elems,
                         const uint32_t *written, unsigned count);
void virtqueue_push(struct virtqueue_elem *elem, uint32_t written);
/* Gives the whole pages of `in` back to the host (dma_discard); answers how many bytes. */
uint64_t virtqueue_elem_discard(struct virtqueue_elem *elem);
/* Ends the lease without telling the driver: after a reset. */
void virtqueue_drop(struct virtqueue_elem *elem);
/* Interrupts the driver if it asked to be told about what was pushed since the last call. */
void virtqueue_notify(struct virtqueue *vq);
/* Asks the driver for doorbells or asks it to save them. Switching on answers whether buffers came
 * meanwhile: look again then. */
bool virtqueue_notification(struct virtqueue *vq, bool on);

/* Copies between a buffer and flat memory, from `offset`; what does not fit is left out. Returns
 * the bytes copied. */
size_t iov_to_buf(const struct iovec *iov, unsigned count, size_t offset, void *out, size_t len);
size_t iov_from_buf(const struct iovec *iov, unsigned count, size_t offset, const void *data,
                    size_t len);
/* The part [offset, offset + len) of iov as vectors of its own (room for `count` ones); returns how
 * many. */
unsigned iov_part(const struct iovec *iov, unsigned count, size_t offset, size_t len,
                  struct iovec *out);

/* Elements in flight as bytes for the state, and back. A loaded element holds no lease until
 * virtqueue_elem_lease; on failure the ring is broken. */
void virtqueue_inflight_save(const struct virtqueue *vq, struct buf *out);
/* Does `data` hold whole, possible elements? queue(arg, index) answers with the registers of a
 * queue or NULL. Sums up entries per queue in `slots`, elements in `elems` (arrays of `queues`). */
int virtqueue_inflight_check(const uint8_t *data, size_t len, unsigned queues, uint32_t *slots,
                             uint32_t *elems, struct err *err);
/* Adds the elements of checked `data` that belong to vq. */
void virtqueue_inflight_load(struct virtqueue *vq, const uint8_t *data, size_t len);
bool virtqueue_elem_lease(struct virtqueue_elem *elem);
/* Ends the lease of an element that stays in flight, so that it holds up nobody while the machine
 * is paused. Its vectors are void until virtqueue_elem_lease. */
void virtqueue_elem_unlease(struct virtqueue_elem *elem);

#endif
