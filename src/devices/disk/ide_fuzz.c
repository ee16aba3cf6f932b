/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzzes the IDE channels with their command layer: registers, DMA tables, media changes. */
#include "devices/disk/ide_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    device_fuzz_run(&ide_model, data, size);
    return 0;
}
