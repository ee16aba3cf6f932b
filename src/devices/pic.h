/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The pair of 8259A interrupt controllers of a PC, with the edge/level registers of PCI chip sets.
 */
#ifndef DEVICES_PIC_H
#define DEVICES_PIC_H

#include "machine/device.h"

/* Adds the pair to the machine, as listener to GSI 0-15 and as the source of ExtINT. Main loop,
 * before it runs. */
int pic_create(struct machine *m, struct err *err);

#endif
