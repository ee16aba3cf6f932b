/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A tablet and a keyboard after "Device Class Definition for Human Interface Devices" 1.11: one
 * configuration, one interface, one interrupt endpoint, high speed.
 */
#include "devices/usb/hid.h"

#include "base/checked.h"

#include <string.h>

enum { GET_STATUS = 0, CLEAR_FEATURE = 1, SET_FEATURE = 3, SET_ADDRESS = 5, GET_DESCRIPTOR = 6 };
enum { GET_CONFIGURATION = 8, SET_CONFIGURATION = 9, GET_INTERFACE = 10, SET_INTERFACE = 11 };
enum { GET_REPORT = 1, GET_IDLE = 2, GET_PROTOCOL = 3, SET_REPORT = 9, SET_IDLE = 10 };
enum { SET_PROTOCOL = 11 };
enum { DESC_DEVICE = 1, DESC_CONFIGURATION, DESC_STRING, DESC_HID = 0x21, DESC_REPORT };
enum { TO_HOST = 0x80, TO_INTERFACE = 0x01, TO_ENDPOINT = 0x02, CLASS = 0x20, ENDPOINT = 0x81 };
enum { USAGE_MODIFIERS = 0xe0, USAGE_ROLLOVER = 1 };

/* clang-format off */
static const uint8_t keyboard_report[] = {
    0x05, 0x01, 0x09, 0x06, 0xa1, 0x01, /* a keyboard */
    0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, 0x15, 0x00, 0x25, 0x01, 0x75, 0x01, 0x95, 0x08, 0x81, 0x02,
    0x95, 0x01, 0x75, 0x08, 0x81, 0x01,
    0x95, 0x05, 0x75, 0x01, 0x05, 0x08, 0x19, 0x01, 0x29, 0x05, 0x91, 0x02, /* lights */
    0x95, 0x01, 0x75, 0x03, 0x91, 0x01,
    0x95, 0x06, 0x75, 0x08, 0x15, 0x00, 0x26, 0xff, 0x00, 0x05, 0x07, 0x19, 0x00, 0x2a, 0xff, 0x00,
    0x81, 0x00, 0xc0,
};
static const uint8_t tablet_report[] = {
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00, /* a mouse, its pointer */
    0x05, 0x09, 0x19, 0x01, 0x29, 0x05, 0x15, 0x00, 0x25, 0x01, 0x95, 0x05, 0x75, 0x01, 0x81, 0x02,
    0x95, 0x01, 0x75, 0x03, 0x81, 0x01,
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x15, 0x00, 0x26, 0xff, 0x7f, 0x35, 0x00, 0x46, 0xff, 0x7f,
    0x75, 0x10, 0x95, 0x02, 0x81, 0x02, /* absolute X and Y */
    0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x35, 0x00, 0x45, 0x00, 0x75, 0x08, 0x95, 0x01, 0x81, 0x06,
    0xc0, 0xc0,
};
static const uint8_t device_descriptor[] = {
    18, DESC_DEVICE, 0x00, 0x02, 0, 0, 0, 64, 0x27, 0x06, 0x01, 0x00, 0x00, 0x01, 1, 2, 3, 1,
};

/* By Linux key code: the usage on the keyboard page; 0: none. */
static const uint8_t usages[] = {
    0x00, 0x29, 0x1e, 0x1f, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x2d, 0x2e, 0x2a, 0x2b,
    0x14, 0x1a, 0x08, 0x15, 0x17, 0x1c, 0x18, 0x0c, 0x12, 0x13, 0x2f, 0x30, 0x28, 0xe0, 0x04, 0x16,
    0x07, 0x09, 0x0a, 0x0b, 0x0d, 0x0e, 0x0f, 0x33, 0x34, 0x35, 0xe1, 0x31, 0x1d, 0x1b, 0x06, 0x19,
    0x05, 0x11, 0x10, 0x36, 0x37, 0x38, 0xe5, 0x55, 0xe2, 0x2c, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e,
    0x3f, 0x40, 0x41, 0x42, 0x43, 0x53, 0x47, 0x5f, 0x60, 0x61, 0x56, 0x5c, 0x5d, 0x5e, 0x57, 0x59,
    0x5a, 0x5b, 0x62, 0x63, 0x00, 0x94, 0x64, 0x44, 0x45, 0x87, 0x92, 0x93, 0x8a, 0x88, 0x8b, 0x8c,
    0x58, 0xe4, 0x54, 0x46, 0xe6, 0x00, 0x4a, 0x52, 0x4b, 0x50, 0x4f, 0x4d, 0x51, 0x4e, 0x49, 0x4c,
    0x00, 0x7f, 0x81, 0x80, 0x66, 0x67, 0x00, 0x48, 0x00, 0x85, 0x90, 0x91, 0x89, 0xe3, 0xe7, 0x65,
};
/* clang-format on */

/* ---- descriptors ---- */

static const uint8_t *report_descriptor(const struct hid *hid, unsigned *len)
{
    bool keyboard = hid->kind == HID_KEYBOARD;
    *len = keyboard ? sizeof keyboard_report : sizeof tablet_report;
    return keyboard ? keyboard_report : tablet_report;
}

static unsigned configuration_descriptor(const struct hid *hid, uint8_t *out)
{
    bool keyboard = hid->kind == HID_KEYBOARD;
    unsigned report_len;
    report_descriptor(hid, &report_len);
    const uint8_t bytes[34] = {
        9,           DESC_CONFIGURATION,
        34,          0,
        1,           1,
        0,           0xa0,
        50,          9,
        4,           0,
        0,           1,
        3,           keyboard,
        keyboard,    0,
        9,           DESC_HID,
        0x11,        0x01,
        0,           1,
        DESC_REPORT, (uint8_t)report_len,
        0,           7,
        5,           ENDPOINT,
        3,           HID_REPORT_MAX,
        0,           keyboard ? 7 : 4, /* every 8 ms, 1 ms */
    };
    memcpy(out, bytes, sizeof bytes);
    return sizeof bytes;
}

static int string_descriptor(const struct hid *hid, unsigned index, uint8_t *out)
{
    const char *texts[] = { NULL, "Bedplate", hid->kind == HID_KEYBOARD ? "Keyboard" : "Tablet",
                            "1" };
    if (index == 0) {
        memcpy(out, (const uint8_t[]){ 4, DESC_STRING, 0x09, 0x04 }, 4);
        return 4;
    }
    if (index >= ARRAY_LEN(texts))
        return -1;
    unsigned len = (unsigned)strlen(texts[index]);
    out[0] = (uint8_t)(2 + 2 * len);
    out[1] = DESC_STRING;
    for (unsigned i = 0; i < len; i++) {
        out[2 + 2 * i] = (uint8_t)texts[index][i];
        out[3 + 2 * i] = 0;
    }
    return out[0];
}

/* Into `out`, which has room for all of them; -1: there is no such descriptor. */
static int get_descriptor(const struct hid *hid, unsigned value, uint8_t *out)
{
    unsigned len;
    switch (value >> 8) {
    case DESC_DEVICE:
        memcpy(out, device_descriptor, sizeof device_descriptor);
        return sizeof device_descriptor;
    case DESC_CONFIGURATION: return (int)configuration_descriptor(hid, out);
    case DESC_STRING: return string_descriptor(hid, value & 0xff, out);
    case DESC_HID:
        configuration_descriptor(hid, out);
        memmove(out, out + 18, 9);
        return 9;
    case DESC_REPORT: {
        const uint8_t *report = report_descriptor(hid, &len);
        memcpy(out, report, len);
        return (int)len;
    }
    }
    return -1;
}

/* ---- reports ---- */

static int keyboard_fill(const struct hid *hid, uint8_t *report)
{
    report[0] = hid->modifiers;
    report[1] = 0;
    memcpy(report + 2, hid->keys, HID_KEYS);
    return 8;
}

static int tablet_fill(const struct hid *hid, uint8_t *report)
{
    const struct hid_event *e = &hid->last;
    report[0] = e->buttons;
    report[1] = (uint8_t)e->x;
    report[2] = (uint8_t)(e->x >> 8);
    report[3] = (uint8_t)e->y;
    report[4] = (uint8_t)(e->y >> 8);
    report[5] = e->wheel;
    return 6;
}

static void keyboard_apply(struct hid *hid, const struct hid_event *e)
{
    if (e->usage >= USAGE_MODIFIERS) {
        uint8_t bit = (uint8_t)(1 << (e->usage & 7));
        hid->modifiers = e->down ? hid->modifiers | bit : hid->modifiers & (uint8_t)~bit;
        return;
    }
    unsigned at = 0;
    while (at < HID_KEYS && hid->keys[at] != e->usage)
        at++;
    if (!e->down && at < HID_KEYS) {
        memmove(hid->keys + at, hid->keys + at + 1, HID_KEYS - 1 - at);
        hid->keys[HID_KEYS - 1] = 0;
    } else if (e->down && at == HID_KEYS) {
        for (at = 0; at < HID_KEYS && hid->keys[at];)
            at++;
        if (at < HID_KEYS) /* a seventh key at once is not seen */
            hid->keys[at] = e->usage;
    }
}

bool hid_has_report(const struct hid *hid) { return hid->count && hid->configuration; }

int hid_poll(struct hid *hid, uint8_t report[HID_REPORT_MAX])
{
    if (hid->halted)
        return -1;
    if (!hid_has_report(hid))
        return 0;
    struct hid_event e = hid->events[hid->start];
    hid->start = (uint8_t)((hid->start + 1) % HID_EVENTS);
    hid->count--;
    if (hid->kind == HID_KEYBOARD) {
        keyboard_apply(hid, &e);
        return keyboard_fill(hid, report);
    }
    hid->last = e;
    int len = tablet_fill(hid, report);
    hid->last.wheel = 0;
    return len;
}

/* ---- control transfers ---- */

static int hid_class(struct hid *hid, const uint8_t setup[8], uint8_t *data, unsigned len)
{
    switch (setup[1]) {
    case GET_REPORT:
        return hid->kind == HID_KEYBOARD ? keyboard_fill(hid, data) : tablet_fill(hid, data);
    case GET_IDLE: data[0] = hid->idle; return 1;
    case GET_PROTOCOL: data[0] = hid->protocol; return 1;
    case SET_REPORT:
        if (len)
            hid->leds = data[0];
        return (int)len;
    case SET_IDLE: hid->idle = setup[3]; return 0;
    case SET_PROTOCOL: hid->protocol = setup[2] & 1; return 0;
    }
    return -1;
}

int hid_control(struct hid *hid, const uint8_t setup[8], uint8_t *data, unsigned len)
{
    unsigned type = setup[0], value = setup[2] | (unsigned)setup[3] << 8;
    uint8_t answer[256];
    int n = -1;
    if ((type & 0x60) == CLASS) {
        memcpy(answer, data, len < sizeof answer ? len : sizeof answer);
        n = hid_class(hid, setup, answer, len < sizeof answer ? len : sizeof answer);
    } else if ((type & 0x60) == 0) {
        switch (setup[1]) {
        case GET_STATUS:
            answer[0] = (type & 3) == TO_ENDPOINT && setup[4] == ENDPOINT ? hid->halted : 0;
            answer[1] = 0;
            n = 2;
            break;
        case CLEAR_FEATURE:
        case SET_FEATURE:
            if ((type & 3) == TO_ENDPOINT && setup[4] == ENDPOINT && value == 0)
                hid->halted = setup[1] == SET_FEATURE;
            n = 0;
            break;
        case SET_ADDRESS: n = 0; break; /* the controller does that */
        case GET_DESCRIPTOR: n = get_descriptor(hid, value, answer); break;
        case GET_CONFIGURATION:
            answer[0] = hid->configuration;
            n = 1;
            break;
        case SET_CONFIGURATION:
            if (value <= 1) {
                hid->configuration = (uint8_t)value;
                n = 0;
            }
            break;
        case GET_INTERFACE:
            answer[0] = 0;
            n = 1;
            break;
        case SET_INTERFACE: n = value ? -1 : 0; break;
        }
    }
    if (n < 0 || !(type & TO_HOST))
        return n < 0 ? -1 : (int)len;
    n = n < (int)len ? n : (int)len;
    memcpy(data, answer, (size_t)n);
    return n;
}

/* ---- people ---- */

static void hid_event_add(struct hid *hid, const struct hid_event *e)
{
    if (hid->count < HID_EVENTS)
        hid->events[(hid->start + hid->count++) % HID_EVENTS] = *e;
}

/* The newest event, if the guest has not seen it; else what it saw last. */
static struct hid_event tablet_now(const struct hid *hid)
{
    struct hid_event e = hid->last;
    if (hid->count)
        e = hid->events[(hid->start + hid->count - 1) % HID_EVENTS];
    e.wheel = 0;
    return e;
}

void hid_key(struct hid *hid, unsigned code, bool down)
{
    struct hid_event e = { .usage = code < sizeof usages ? usages[code] : 0, .down = down };
    if (e.usage)
        hid_event_add(hid, &e);
}

/* Motion that the guest has not looked at yet is one motion. */
void hid_position(struct hid *hid, unsigned x, unsigned y)
{
    struct hid_event e = tablet_now(hid), *newest = NULL;
    const struct hid_event *before = &hid->last;
    if (hid->count)
        newest = &hid->events[(hid->start + hid->count - 1) % HID_EVENTS];
    if (hid->count > 1)
        before = &hid->events[(hid->start + hid->count - 2) % HID_EVENTS];
    e.x = (uint16_t)(x & 0x7fff);
    e.y = (uint16_t)(y & 0x7fff);
    if (newest && newest->buttons == before->buttons && !newest->wheel)
        *newest = e;
    else
        hid_event_add(hid, &e);
}

void hid_buttons(struct hid *hid, unsigned held)
{
    struct hid_event e = tablet_now(hid);
    e.buttons = held & 0x1f;
    hid_event_add(hid, &e);
}

void hid_wheel(struct hid *hid, int notches)
{
    struct hid_event e = tablet_now(hid);
    e.wheel = (uint8_t)(int8_t)(notches < -127 ? -127 : notches > 127 ? 127 : notches);
    hid_event_add(hid, &e);
}

/* ---- life ---- */

void hid_init(struct hid *hid, enum hid_kind kind)
{
    memset(hid, 0, sizeof *hid);
    hid->kind = (uint8_t)kind;
    hid->protocol = 1;
}

void hid_reset(struct hid *hid) { hid_init(hid, (enum hid_kind)hid->kind); }

int hid_check(const struct hid *hid, struct err *err)
{
    if (hid->kind > HID_KEYBOARD || hid->configuration > 1 || hid->protocol > 1 ||
        hid->halted > 1 || hid->start >= HID_EVENTS || hid->count > HID_EVENTS)
        return err_set(err, EINVAL, "the USB device cannot be in the saved state");
    return 0;
}

static const struct state_field event_fields[] = {
    STATE_U16(struct hid_event, x),
    STATE_U16(struct hid_event, y),
    STATE_U8(struct hid_event, buttons),
    STATE_U8(struct hid_event, wheel),
    STATE_U8(struct hid_event, usage),
    STATE_U8(struct hid_event, down),
    STATE_END,
};
static const struct state_desc event_state = {
    .name = "hid-event",
    .version = 1,
    .size = sizeof(struct hid_event),
    .fields = event_fields,
};
static const struct state_field hid_fields[] = {
    STATE_U8(struct hid, kind),
    STATE_U8(struct hid, configuration),
    STATE_U8(struct hid, protocol),
    STATE_U8(struct hid, idle),
    STATE_U8(struct hid, leds),
    STATE_U8(struct hid, halted),
    STATE_U8(struct hid, modifiers),
    STATE_BYTES(struct hid, keys),
    STATE_U8(struct hid, start),
    STATE_U8(struct hid, count),
    STATE_U8(struct hid, reserved),
    STATE_STRUCT(struct hid, last, &event_state),
    STATE_STRUCTS(struct hid, events, &event_state),
    STATE_END,
};
const struct state_desc hid_state = {
    .name = "hid",
    .version = 1,
    .size = sizeof(struct hid),
    .fields = hid_fields,
};
