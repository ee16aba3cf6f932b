/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A USB 3 host controller (xHCI) with four USB 2 and four USB 3 ports, and the devices on them.
 */
#ifndef DEVICES_USB_XHCI_H
#define DEVICES_USB_XHCI_H

#include "devices/pci.h"
#include "devices/usb/hid.h"

struct input;

/* `input` lives longer than the machine; NULL: nobody types. The caller plugs the controller in
 * (pci_bus_add, machine_add_device) and owns it until then. */
int xhci_create(struct machine *m, const char *id, struct input *input, struct pci_device **out,
                struct err *err);
/* Main loop, while the machine runs or not. Answers the port, from 1; -ENOSPC: all are taken. */
int xhci_attach(struct pci_device *pci, enum hid_kind kind, struct err *err);
/* Pulls the device out. -ENODEV: the port is empty. */
int xhci_detach(struct pci_device *pci, unsigned port, struct err *err);
/* What is at a port, from 1; HID_NONE behind the last, too. */
enum hid_kind xhci_device_at(struct pci_device *pci, unsigned port);

#endif
