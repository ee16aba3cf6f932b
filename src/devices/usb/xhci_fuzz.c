/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzzes the USB controller and its devices: registers, contexts, rings, plugging, input. */
#include "devices/usb/xhci_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    device_fuzz_run(&xhci_model, data, size);
    return 0;
}
