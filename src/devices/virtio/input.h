/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A virtio input device (VIRTIO 1.2, 5.8): a keyboard or a tablet. */
#ifndef DEVICES_VIRTIO_INPUT_H
#define DEVICES_VIRTIO_INPUT_H

#include "base/err.h"

struct input;
struct machine;
struct pci_device;

enum virtio_input_kind { VIRTIO_INPUT_TABLET = 1, VIRTIO_INPUT_KEYBOARD };

/* `input` lives longer than the machine; NULL: nobody types. The caller puts it on the bus
 * (pci_bus_add) and then into the machine. */
int virtio_input_create(struct machine *m, const char *id, enum virtio_input_kind kind,
                        struct input *input, struct pci_device **out, struct err *err);

#endif
