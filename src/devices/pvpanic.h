/* SPDX-License-Identifier: GPL-2.0-or-later */
/* pvpanic: a port by which a guest's kernel says that it crashed. */
#ifndef DEVICES_PVPANIC_H
#define DEVICES_PVPANIC_H

#include "machine/device.h"

enum { PVPANIC_PORT = 0x505 };

/* Adds it to the machine, which owns it. Main loop, before the machine runs. */
int pvpanic_create(struct machine *m, struct err *err);

#endif
