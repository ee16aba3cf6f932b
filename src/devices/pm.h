/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ACPI fixed hardware: PM1a event and control blocks, PM timer, GPE0 and the system control
 * interrupt (GSI 9); and the PC's old ways to reset (ports 0x64 and 0x92). board/acpi.c tells the
 * guest where they are.
 */
#ifndef DEVICES_PM_H
#define DEVICES_PM_H

#include "machine/device.h"

enum {
    PM_BASE = 0x600, /* the ports below lie from there on, as the ICH9 has them */
    PM_SIZE = 0x80,
    PM_EVENT_PORT = 0x600,
    PM_CONTROL_PORT = 0x604,
    PM_TIMER_PORT = 0x608,
    PM_GPE0_PORT = 0x620,
    PM_GPE0_LEN = 4,
    PM_SMI_PORT = 0x630,
    PM_SCI_GSI = 9,
    PM_SLEEP_TYPE_S5 = 5,
};

/* Adds it to the machine, which owns it; its ports are where the constants above say. Main loop,
 * before the machine runs. */
int pm_create(struct machine *m, struct device **out, struct err *err);
/* The ACPI ports move to `base` (their places relative to 0x600 stay), 0: nowhere. For the LPC
 * bridge, under the bus lock; not with pm's lock held. */
void pm_place(struct device *pm, uint32_t base);
void pm_power_button(struct device *pm); /* pressed once. Any thread, without the device's lock */
/* The clock's alarm began to ask for its interrupt. Any thread, without pm's lock. */
void pm_rtc_alarm(struct device *pm);
/* Raises event 0-15 of GPE0. Any thread, without pm's lock. */
void pm_gpe_raise(struct device *pm, unsigned event);

#endif
