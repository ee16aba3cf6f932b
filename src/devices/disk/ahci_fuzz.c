/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzzes the SATA controller with its command layer: registers, command tables, media changes. */
#include "devices/disk/ahci_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    device_fuzz_run(&ahci_model, data, size);
    return 0;
}
