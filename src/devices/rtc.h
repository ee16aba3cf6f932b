/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The MC146818 clock (GSI 8) with 128 bytes of CMOS memory, at ports 0x70 and 0x71. */
#ifndef DEVICES_RTC_H
#define DEVICES_RTC_H

#include "machine/device.h"

/* Adds it to the machine, which owns it; it shows the UTC of the guest's clock. Main loop, before
 * the machine runs. */
int rtc_create(struct machine *m, struct device **out, struct err *err);
/* `pm`, which the machine owns, too, hears of each alarm. Main loop, before the machine runs. */
void rtc_connect_pm(struct device *rtc, struct device *pm);
/* What the firmware leaves in CMOS memory (index 0x0e to 0x7f); survives resets. Main loop, before
 * the machine runs. */
void rtc_set_cmos(struct device *rtc, unsigned index, uint8_t value);

#endif
