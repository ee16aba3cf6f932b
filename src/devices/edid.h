/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a monitor says of itself (VESA E-EDID 1.4, 128 bytes). Any thread. */
#ifndef DEVICES_EDID_H
#define DEVICES_EDID_H

#include <stdint.h>

/* A monitor that prefers width x height (64 to 4095 each) at 60 Hz and takes the usual sizes. */
void edid_make(unsigned width, unsigned height, uint8_t out[128]);

#endif
