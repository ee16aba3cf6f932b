/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The high precision event timer: a counter of 100 MHz and three comparators. */
#ifndef DEVICES_HPET_H
#define DEVICES_HPET_H

#include "machine/device.h"

enum { HPET_BASE = 0xfed00000, HPET_SIZE = 0x400 };
#define HPET_ID 0x8086a201u /* the low half of its capabilities: what the ACPI table repeats */

/* Adds it to the machine, which owns it. Main loop, before the machine runs. */
int hpet_create(struct machine *m, struct err *err);

#endif
