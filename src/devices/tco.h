/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The ICH9's own watchdog (TCO timer), on 32 ports behind the ACPI ones. */
#ifndef DEVICES_TCO_H
#define DEVICES_TCO_H

#include "machine/device.h"

enum { TCO_OFFSET = 0x60, TCO_LEN = 0x20 }; /* from PMBASE on */

/* Adds it to the machine, which owns it; its ports are not decoded yet. Main loop, before the
 * machine runs. */
int tco_create(struct machine *m, struct device **out, struct err *err);
/* Its ports begin at `port`, 0: nowhere. Under the bus lock; not with its own lock held. */
void tco_place(struct device *tco, uint32_t port);
/* The bit No Reboot of the chipset's configuration registers (GCS). Any thread, without tco's lock.
 */
bool tco_no_reboot(struct device *tco);
void tco_set_no_reboot(struct device *tco, bool on);

#endif
