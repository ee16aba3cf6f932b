/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzzes the floppy controller and the DMA controller: registers, transfers, changed disks. */
#include "devices/disk/fdc_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    device_fuzz_run(&fdc_model, data, size);
    return 0;
}
