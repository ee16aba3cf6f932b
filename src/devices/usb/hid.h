/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * USB devices of the HID class: a tablet, whose pointer is where the viewer's pointer is, and a
 * keyboard. Plain registers without a lock: the controller guards them with its own.
 */
#ifndef DEVICES_USB_HID_H
#define DEVICES_USB_HID_H

#include "machine/state.h"

#include <stdbool.h>
#include <stdint.h>

enum hid_kind { HID_NONE, HID_TABLET, HID_KEYBOARD };
enum { HID_EVENTS = 32, HID_REPORT_MAX = 8, HID_KEYS = 6 };

struct hid_event { /* tablet: buttons, place, wheel; keyboard: usage and whether it went down */
    uint16_t x, y;
    uint8_t buttons, wheel;
    uint8_t usage, down;
};

struct hid {      /* saved */
    uint8_t kind; /* enum hid_kind */
    uint8_t configuration;
    uint8_t protocol; /* 1: report, 0: boot */
    uint8_t idle, leds, halted;
    uint8_t modifiers, keys[HID_KEYS];
    uint8_t start, count;
    uint8_t reserved;
    struct hid_event last; /* of the tablet */
    struct hid_event events[HID_EVENTS];
};
extern const struct state_desc hid_state;

void hid_init(struct hid *hid, enum hid_kind kind);
void hid_reset(struct hid *hid); /* of the bus: back to no configuration */
int hid_check(const struct hid *hid, struct err *err);

/* A control transfer: `data` holds what the host sends, or gets the answer. How many bytes, at most
 * `len`; -1: STALL. */
int hid_control(struct hid *hid, const uint8_t setup[8], uint8_t *data, unsigned len);
/* A poll of the interrupt endpoint: the report's bytes, 0 (nothing new), or -1: STALL. */
int hid_poll(struct hid *hid, uint8_t report[HID_REPORT_MAX]);
bool hid_has_report(const struct hid *hid);

/* What people do; codes and units of devices/input.h. */
void hid_key(struct hid *hid, unsigned code, bool down);
void hid_position(struct hid *hid, unsigned x, unsigned y);
void hid_buttons(struct hid *hid, unsigned held);
void hid_wheel(struct hid *hid, int notches);

#endif
