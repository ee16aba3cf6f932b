/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The USB controller as its test and its fuzzer use it: a tablet at port 1, a keyboard at port 2.
 */
#ifndef DEVICES_USB_XHCI_MODEL_H
#define DEVICES_USB_XHCI_MODEL_H

#include "devices/device_fuzz.h"
#include "devices/input.h"
#include "devices/usb/xhci.h"

enum { XHCI_AT = 0xc0000000 };

static struct pci_bus *xhci_bus;
static struct pci_device *xhci_pci;
static struct input *xhci_input;

static inline void xhci_model_create(struct machine *m)
{
    struct err err = { 0 };
    const struct pci_windows windows = { .mem32 = XHCI_AT, .mem32_size = 0x10000 };
    if (input_create(&xhci_input, &err) < 0 || pci_bus_create(&xhci_bus, &err) < 0 ||
        xhci_create(m, "usb0", xhci_input, &xhci_pci, &err) < 0 ||
        pci_bus_add(xhci_bus, xhci_pci, 1, &err) < 0)
        fail_msg("%s", err.text);
    machine_add_device(m, &xhci_pci->dev);
    if (pci_bus_assign(xhci_bus, &windows, &err) < 0 ||
        xhci_attach(xhci_pci, HID_TABLET, &err) != 1 ||
        xhci_attach(xhci_pci, HID_KEYBOARD, &err) != 2)
        fail_msg("%s", err.text);
}

static inline void xhci_model_destroy(void)
{
    pci_bus_destroy(xhci_bus);
    input_destroy(xhci_input);
}

static inline void xhci_model_event(unsigned what, uint32_t value)
{
    struct err err = { 0 };
    switch (what % 6) {
    case 0: input_key(xhci_input, value & 0xff, value >> 8 & 1); break;
    case 1:
        input_pointer(xhci_input, value & 0xfff, value >> 12 & 0xfff, 4096, 4096, value >> 24);
        break;
    case 2: input_wheel(xhci_input, (int8_t)value); break;
    case 3: xhci_detach(xhci_pci, 1 + value % 4, &err); break;
    case 4: xhci_attach(xhci_pci, value & 1 ? HID_TABLET : HID_KEYBOARD, &err); break;
    default: test_events();
    }
    fuzz_settle();
}

static const struct fuzz_target xhci_targets[] = {
    { SPACE_MEMORY, XHCI_AT, 0x2040 },        { SPACE_MEMORY, XHCI_AT + 0x40, 0x40 },
    { SPACE_MEMORY, XHCI_AT + 0x440, 0x80 },  { SPACE_MEMORY, XHCI_AT + 0x1020, 0x20 },
    { SPACE_MEMORY, XHCI_AT + 0x2000, 0x24 }, { SPACE_MEMORY, XHCI_AT, 0x60 },
    { SPACE_MEMORY, XHCI_AT + 0x3000, 0x10 },
};
static const struct fuzz_model xhci_model = {
    .create = xhci_model_create,
    .destroy = xhci_model_destroy,
    .event = xhci_model_event,
    .targets = xhci_targets,
    .target_count = ARRAY_LEN(xhci_targets),
};

#endif
