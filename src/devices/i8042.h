/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The PS/2 controller with a keyboard and a mouse: ports 0x60 and 0x64, interrupts 1 and 12; and
 * address line 20 (port 0x92, too).
 */
#ifndef DEVICES_I8042_H
#define DEVICES_I8042_H

#include "base/err.h"

struct machine;
struct input;

/* Adds it to the machine, which owns it. Keyboard and mouse take their events from `input`, which
 * lives longer than the machine; NULL: nobody types. Main loop, before the machine runs. */
int i8042_create(struct machine *m, struct input *input, struct err *err);

#endif
