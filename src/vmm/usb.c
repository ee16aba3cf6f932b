/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The USB controller of --usb, what is plugged into it while the VM runs, and virtio input. */
#include "devices/pci.h"
#include "devices/usb/xhci.h"
#include "devices/virtio/input.h"
#include "vmm/vmm.h"

#include <string.h>

int usb_plug(struct vmm *vmm, struct err *err)
{
    if (!vmm->options.usb)
        return 0;
    struct pci_device *pci;
    int r = xhci_create(vmm->machine, "usb0", vmm->input, &pci, err);
    if (r == 0)
        r = vmm_plug(vmm, pci, err);
    if (r < 0)
        return err_prefix(err, "--usb");
    vmm->usb = pci;
    for (unsigned i = 0; r >= 0 && i < vmm->options.usb_count; i++)
        r = xhci_attach(pci, (enum hid_kind)vmm->options.usb_devices[i], err);
    return r < 0 ? r : 0;
}

int virtio_inputs_plug(struct vmm *vmm, struct err *err)
{
    int r = 0;
    for (unsigned kind = VIRTIO_INPUT_TABLET; r == 0 && kind <= VIRTIO_INPUT_KEYBOARD; kind++) {
        if (!(vmm->options.virtio_input >> kind & 1))
            continue;
        char id[16];
        snprintf(id, sizeof id, "input%u", kind);
        struct pci_device *pci;
        r = virtio_input_create(vmm->machine, id, (enum virtio_input_kind)kind, vmm->input, &pci,
                                err);
        if (r == 0)
            r = vmm_plug(vmm, pci, err);
    }
    return r < 0 ? err_prefix(err, "--virtio-input") : 0;
}

static int usb_ready(const struct vmm *vmm, struct err *err)
{
    if (!vmm->usb)
        return err_set(err, ENODEV, "the VM has no USB controller; start it with --usb none");
    if (vmm->saving.active)
        return err_set(err, EBUSY, "the VM is being saved; try again when that is done");
    return 0;
}

int usb_attach(struct vmm *vmm, const char *device, json_t **result, struct err *err)
{
    int r = usb_ready(vmm, err);
    if (r < 0)
        return r;
    enum hid_kind kind = HID_NONE;
    for (unsigned i = HID_TABLET; options_usb_device(i); i++)
        if (strcmp(options_usb_device(i), device) == 0)
            kind = (enum hid_kind)i;
    if (!kind)
        return err_set(err, EINVAL, "'device' is tablet or keyboard, not '%.40s'", device);
    int port = xhci_attach(vmm->usb, kind, err);
    if (port > 0)
        *result = json_pack("{s:i}", "port", port);
    return port < 0 ? port : 0;
}

int usb_detach(struct vmm *vmm, unsigned port, struct err *err)
{
    int r = usb_ready(vmm, err);
    return r < 0 ? r : xhci_detach(vmm->usb, port, err);
}

json_t *usb_status(const struct vmm *vmm)
{
    json_t *list = json_array();
    for (unsigned port = 1; vmm->usb && port <= OPTIONS_MAX_USB; port++)
        if (xhci_device_at(vmm->usb, port))
            json_array_append_new(list,
                                  json_pack("{s:i, s:s}", "port", (int)port, "device",
                                            options_usb_device(xhci_device_at(vmm->usb, port))));
    return list;
}
