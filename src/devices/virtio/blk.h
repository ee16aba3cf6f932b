/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A virtio disk over a block node (VIRTIO 1.2, 5.2). */
#ifndef DEVICES_VIRTIO_BLK_H
#define DEVICES_VIRTIO_BLK_H

#include "base/err.h"
#include "machine/device.h"

#include <stdbool.h>

struct block_node;
struct loop;
struct machine;
struct pci_device;

enum virtio_blk_policy {                    /* when the host cannot do a request */
                         VIRTIO_BLK_REPORT, /* the guest sees an I/O error */
                         VIRTIO_BLK_PAUSE,  /* MACHINE_DISK_FULL or _ERROR; the request is kept,
                                               tried again on resume */
                         VIRTIO_BLK_IGNORE, /* the guest is told that it was done */
};

enum { VIRTIO_BLK_MAX_QUEUES = 16 };

struct virtio_blk_options {
    const char *id;
    struct block_node *node; /* borrowed; closed after the device is destroyed */
    /* Queue i lives on loops[i % loop_count]; none given: all on machine->io_loop. At most
     * VIRTIO_MAX_LANES. */
    struct loop *const *loops;
    unsigned loop_count;
    const char *serial; /* at most 20 bytes count; NULL: the id */
    bool readonly;      /* a read-only node is read-only anyway */
    unsigned queues;    /* 1 to VIRTIO_BLK_MAX_QUEUES; 0: 1 */
    enum virtio_blk_policy on_full, on_error;
};

/* The caller puts it on the bus (pci_bus_add) and then into the machine. */
int virtio_blk_create(struct machine *m, const struct virtio_blk_options *options,
                      struct pci_device **out, struct err *err);
/* The node has another size: the driver is told. Any thread, without the device's lock. */
void virtio_blk_resized(struct pci_device *pci);

#endif
