/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtio memory balloon (VIRTIO 1.2, 5.5): takes memory from a guest that is asked to do with
 * less, gets memory back that the guest does not use just now, and asks the guest how it fares.
 */
#ifndef DEVICES_VIRTIO_BALLOON_H
#define DEVICES_VIRTIO_BALLOON_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct machine;
struct pci_device;

enum { VIRTIO_BALLOON_STATS = 16 }; /* numbers of statistics that are kept */

struct virtio_balloon_options {
    const char *id;
    /* The guest answered virtio_balloon_refresh. On io_loop; may be NULL. */
    void (*refreshed)(void *arg);
    void *arg;
};

struct virtio_balloon_status {
    bool driver;                 /* the guest has a driver for it */
    uint64_t target, actual;     /* bytes in the balloon: asked for, and what the guest says */
    uint64_t inflated, reported; /* bytes given back so far: into the balloon, as unused */
    uint32_t known;              /* bit of each statistic that the guest has told */
    uint64_t stats[VIRTIO_BALLOON_STATS];
    uint64_t age_ns; /* of the statistics */
};

/* The caller puts it on the bus (pci_bus_add) and then into the machine. */
int virtio_balloon_create(struct machine *m, const struct virtio_balloon_options *options,
                          struct pci_device **out, struct err *err);

/* Any thread, without the device's lock. `pci` came from virtio_balloon_create. */

/* Asks the guest to put so many bytes into the balloon (whole pages). */
void virtio_balloon_target(struct pci_device *pci, uint64_t bytes);
/* Asks for new statistics. The guest answers when it likes, or never. */
void virtio_balloon_refresh(struct pci_device *pci);
void virtio_balloon_status(struct pci_device *pci, struct virtio_balloon_status *out);
/* The name of a statistic; NULL: there is none of that number. */
const char *virtio_balloon_stat_name(unsigned stat);

#endif
