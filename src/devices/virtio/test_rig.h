/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Test only: what the tests of the virtio kinds share. They drive devices through PCI as a guest's
 * drivers would: configuration cycles, BAR accesses, rings in memory, doorbells, MSI-X messages.
 */
#ifndef DEVICES_VIRTIO_TEST_RIG_H
#define DEVICES_VIRTIO_TEST_RIG_H

#include "block/memory_image.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/guest_model.h"
#include "devices/virtio/virtio_pci.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define BIT(n) (1ull << (n))
#define RING_FEATURES (BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_RING_F_INDIRECT_DESC))

void rnd_seed(uint64_t value);
/* A new seed, or that of the environment; it is printed, so that a failing run can be repeated. */
void new_seed(const char *what);
uint32_t rnd32(void);
unsigned rnd(unsigned below);

unsigned ring_flags(uint64_t features);          /* for gdev_queue */
void wait_for(bool (*fn)(void *arg), void *arg); /* for at most 5 seconds */
/* Alternates sane set-ups with garbage in registers and rings, and leaves the device reset. */
void garbage(struct gdev *d, struct gq *queues, unsigned count, unsigned rounds);

/* ---- A guest with a virtio disk ---- */

enum { MDISK_SIZE = 4 << 20 };

struct disk {
    struct guest g;
    struct block_node *node;
    struct mdisk *mdisk;
    struct gdev d;
    struct gq q[2];
    unsigned lanes; /* before disk_open: each queue on a thread of its own; 0: all on io_loop */
    uint64_t memory;
};

enum { SLOT = 64 << 10 }; /* a page for header and status, then data, for each request */
uint64_t slot_at(struct disk *k, unsigned slot);
void disk_open(struct disk *k, struct block_node *node, const char *id, unsigned queues,
               enum virtio_blk_policy policy);
void disk_queues(struct disk *k, uint64_t features, unsigned queues);
void disk_close(struct disk *k);
/* Queues a request; data lies in the slot behind the first page. */
int disk_add(struct disk *k, unsigned queue, unsigned slot, uint32_t type, uint64_t sector,
             uint32_t len);
uint8_t disk_status(struct disk *k, unsigned slot);
uint8_t disk_do(struct disk *k, uint32_t type, uint64_t sector, uint32_t len);

#endif
