/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The I/O APIC: 24 inputs that become interrupt messages. */
#ifndef DEVICES_IOAPIC_H
#define DEVICES_IOAPIC_H

#include "machine/device.h"

enum { IOAPIC_BASE = 0xfec00000, IOAPIC_SIZE = 0x1000, IOAPIC_PINS = 24 };

/* Adds it to the machine, as listener to GSI 0-23; GSI 0 (the timer) is wired to pin 2. Main loop,
 * before it runs. */
int ioapic_create(struct machine *m, struct err *err);

#endif
