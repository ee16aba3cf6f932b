/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Test only: a machine without code in it, and a virtio driver in C that plays its guest.
 *
 * The driver is written from the specification's driver side and shares nothing with the device
 * code. It talks to the machine as a guest does: bus accesses, configuration cycles, memory.
 */
#ifndef DEVICES_VIRTIO_GUEST_MODEL_H
#define DEVICES_VIRTIO_GUEST_MODEL_H

#include "machine/machine.h"

struct pci_bus;
struct pci_device;

enum { GUEST_MEMORY = 64 << 20, GUEST_VECTORS = 256 };

struct guest {
    struct loop *loop;
    struct machine *m;
    struct pci_bus *bus;
    uint64_t next_page;                  /* allocator of guest memory, bump */
    _Atomic unsigned msi[GUEST_VECTORS]; /* messages by data & 0xff */
    _Atomic unsigned events[16];         /* machine events seen */
};

/* A machine with one vCPU that runs nothing; with_engine false: not even that (cannot start). */
void guest_init(struct guest *g, bool with_engine);
void guest_fini(struct guest *g);
uint64_t guest_alloc(struct guest *g, uint64_t len); /* page-aligned, zeroed once */
void guest_write(struct guest *g, uint64_t gpa, const void *data, uint64_t len);
void guest_read(struct guest *g, uint64_t gpa, void *out, uint64_t len);
/* Runs the main loop until what was posted there has run. */
void guest_run_loop(struct guest *g);

/* ---- driver side of a virtqueue ---- */

enum { GQ_PACKED = 1, GQ_EVENT_IDX = 2, GQ_INDIRECT = 4 };

struct gq {
    struct guest *g;
    unsigned flags, size;
    uint64_t desc, driver, device; /* gpa */
    uint64_t notify;               /* gpa of the doorbell; 0: none */
    struct loop *served;           /* where the device works on it; NULL: io_loop */
    uint16_t index;
    uint16_t avail_idx, used_idx; /* packed: slots */
    bool avail_wrap, used_wrap;
    uint16_t free_head, free_count;
    uint16_t next[1024];  /* split: chain of free descriptors */
    uint16_t slots[1024]; /* entries that buffer `id` takes */
    uint64_t tables;      /* indirect tables, one page each id */
};

struct gq_buf {
    uint64_t gpa;
    uint32_t len;
    bool write;
};

void gq_init(struct gq *q, struct guest *g, unsigned flags, unsigned size);
/* Publishes a chain; returns its id, or -1 when there is no room. */
int gq_add(struct gq *q, const struct gq_buf *bufs, unsigned count);
/* Must the device be told? (event index and flags are looked at) */
bool gq_wants_kick(struct gq *q, unsigned added);
/* Takes a used buffer; -1: none. */
int gq_get(struct gq *q, uint32_t *len);
/* Does the driver ask for interrupts? */
void gq_interrupts(struct gq *q, bool on);

/* ---- driver side of a device ---- */

struct gdev {
    struct guest *g;
    struct pci_device *pci;
    uint64_t common, isr, config, notify; /* gpa of the structures */
    uint32_t notify_multiplier;
    uint64_t features; /* negotiated */
    bool msix;
};

/* Puts the device on the bus and into the machine, and finds its structures by its capabilities. */
void gdev_add(struct gdev *d, struct guest *g, struct pci_device *take_pci);
/* Assigns addresses as firmware would, enables MSI-X and finds the structures; add does it, too. */
void gdev_probe(struct gdev *d);
uint64_t gdev_features(struct gdev *d); /* offered */
/* Reset and negotiation up to FEATURES_OK; asserts that the device agrees. */
void gdev_negotiate(struct gdev *d, uint64_t features);
void gdev_reset(struct gdev *d); /* waits for status 0 */
void gdev_queue(struct gdev *d, struct gq *q, unsigned index, unsigned flags, unsigned size);
void gdev_driver_ok(struct gdev *d);
uint8_t gdev_status(struct gdev *d);
void gdev_kick(struct gq *q);
/* Waits for a used buffer for at most 5 seconds and asserts that it came. */
int gq_wait(struct gq *q, uint32_t *len);
uint64_t gdev_config(struct gdev *d, unsigned offset, unsigned size);

/* ---- state ---- */

/* Saves the device, wrecks nothing, and loads what was saved into `other` (of the same kind). */
struct buf;
void device_save(struct device *dev, struct buf *out);
int device_load(struct device *dev, const uint8_t *data, size_t len, struct err *err);
/* Bytes of the state that no field covers. Padding counts. */
size_t device_uncovered(const struct device_type *type);

#endif
