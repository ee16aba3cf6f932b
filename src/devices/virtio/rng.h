/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A virtio source of randomness (VIRTIO 1.2, 5.4): the host kernel's getrandom, at a limited rate.
 */
#ifndef DEVICES_VIRTIO_RNG_H
#define DEVICES_VIRTIO_RNG_H

#include "base/err.h"

struct machine;
struct pci_device;

/* The caller puts it on the bus (pci_bus_add) and then into the machine. */
int virtio_rng_create(struct machine *m, const char *id, struct pci_device **out, struct err *err);

#endif
