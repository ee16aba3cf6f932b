/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Expansion ROM images (PCI Firmware Specification 3.0, 5.1). Any thread. */
#ifndef DEVICES_OPTION_ROM_H
#define DEVICES_OPTION_ROM_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

/*
 * Makes the images in `data`, which are for a family of cards, those of one card: firmware runs an
 * image only where its ids are the function's. -EINVAL: it is no ROM, and nothing has changed.
 */
int option_rom_fit(uint8_t *data, size_t len, uint16_t vendor, uint16_t device, struct err *err);

#endif
