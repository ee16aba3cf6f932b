/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A 16550A serial port, and what its other end must offer.
 *
 * Both call-backs run on any thread (mostly vCPU threads) with the device's lock held. So they must
 * not block, must not call into this device, and hand longer work to a loop. What `output` cannot
 * take it drops: the guest never waits for a terminal that nobody reads.
 */
#ifndef DEVICES_SERIAL_H
#define DEVICES_SERIAL_H

#include "machine/device.h"

#include <stddef.h>

struct serial_config {
    const char *id; /* "serial0" */
    uint16_t port;  /* I/O port of the first of eight registers: 0x3f8 */
    unsigned gsi;   /* 4 */
    void (*output)(void *arg, const uint8_t *data, size_t len); /* NULL: output vanishes */
    void (*input_room)(void *arg); /* serial_input took less than offered; it may take more now.
                                      NULL: not interested */
    void *arg;
};

/* Adds it to the machine, which owns it. Main loop, before the machine runs. */
int serial_create(struct machine *m, const struct serial_config *config, struct device **out,
                  struct err *err);
/* Offers bytes to the guest; returns how many were taken. Any thread, without the device's lock. */
size_t serial_input(struct device *dev, const uint8_t *data, size_t len);

#endif
