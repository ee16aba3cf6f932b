/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The debug console at ports 0x402 and 0xe9: what firmware and small programs write goes out as it
 * is. */
#ifndef DEVICES_DEBUGCON_H
#define DEVICES_DEBUGCON_H

#include "machine/device.h"

/* Adds it to the machine, which owns it. `output` is called on vCPU threads, with the device's lock
 * held; it may drop bytes but not block. Main loop, before the machine runs. */
int debugcon_create(struct machine *m, void (*output)(void *arg, const uint8_t *data, size_t len),
                    void *arg, struct err *err);

#endif
