/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The 8254 interval timer (GSI 0) and the system control port 0x61 that gates its channel 2. */
#ifndef DEVICES_PIT_H
#define DEVICES_PIT_H

#include "machine/device.h"

enum { PIT_HZ = 1193182 };

/* Adds it to the machine. Main loop, before it runs. */
int pit_create(struct machine *m, struct err *err);

#endif
