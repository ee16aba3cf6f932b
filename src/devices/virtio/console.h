/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtio console with named ports (VIRTIO 1.2, 5.3). Port 0 is the guest's console hvc0, if there
 * is to be one; the others appear in a Linux guest as /dev/virtio-ports/NAME.
 *
 * `output` and `input_room` work as in devices/serial.h: any thread, perhaps with the device's lock
 * held; they must not block nor call into this device. What `output` cannot take it drops, but a
 * port with `output_room` is asked first, and the guest waits while that says no.
 */
#ifndef DEVICES_VIRTIO_CONSOLE_H
#define DEVICES_VIRTIO_CONSOLE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct machine;
struct pci_device;

enum { VIRTIO_CONSOLE_MAX_PORTS = 8, VIRTIO_CONSOLE_NAME_MAX = 63 };

struct virtio_console_port {
    const char *name; /* NULL: none. Port 0's is not used by Linux */
    void (*output)(void *arg, const uint8_t *data, size_t len); /* NULL: output vanishes */
    /* False: virtio_console_output_room() tells when. NULL: always. */
    bool (*output_room)(void *arg);
    void (*input_room)(void *arg); /* virtio_console_input took less than offered; more goes now */
    void (*opened)(void *arg, bool open); /* a program in the guest opened or closed the port */
    void *arg;
};

struct virtio_console_options {
    const char *id;
    const struct virtio_console_port *ports; /* copied */
    unsigned port_count;                     /* 1 to VIRTIO_CONSOLE_MAX_PORTS */
    bool no_console;                         /* ports[0] is not there, only others */
    uint16_t cols, rows;                     /* of the terminal at port 0; 0: unknown */
};

/* The caller puts it on the bus (pci_bus_add) and then into the machine. */
int virtio_console_create(struct machine *m, const struct virtio_console_options *options,
                          struct pci_device **out, struct err *err);

/* Any thread, without the device's lock. `pci` came from virtio_console_create. */

/* Offers bytes to the guest; returns how many were taken. */
size_t virtio_console_input(struct pci_device *pci, unsigned port, const uint8_t *data, size_t len);
/* The port's output_room said no, and now would say yes. */
void virtio_console_output_room(struct pci_device *pci, unsigned port);
/* The program in the guest that has the port open finds that the host closed it, and what was on
 * its way to it is dropped. Once it has closed the port, too, the host's end is open again. Only
 * with several ports or a named one. */
void virtio_console_hang_up(struct pci_device *pci, unsigned port);
/* Does the guest use it? A console that is the only port counts as used once it has a driver. */
bool virtio_console_is_open(struct pci_device *pci, unsigned port);
/* The terminal at port 0 has another size. */
void virtio_console_resize(struct pci_device *pci, uint16_t cols, uint16_t rows);

#endif
