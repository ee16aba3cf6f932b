/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A virtio network card over a back end of net (VIRTIO 1.2, 5.1). */
#ifndef DEVICES_VIRTIO_NET_H
#define DEVICES_VIRTIO_NET_H

#include "base/err.h"

#include <stdint.h>

struct machine;
struct net_backend;
struct pci_device;

struct virtio_net_options {
    const char *id;
    struct net_backend *take_backend; /* lives on machine->io_loop; taken on failure, too */
    uint8_t mac[6];                   /* a unicast address */
};

/* The caller puts it on the bus (pci_bus_add) and then into the machine. */
int virtio_net_create(struct machine *m, const struct virtio_net_options *options,
                      struct pci_device **out, struct err *err);

#endif
