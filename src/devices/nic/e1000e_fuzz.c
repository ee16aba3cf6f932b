/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzzes the e1000e network card: registers, descriptors, frames from outside. */
#include "devices/nic/e1000e_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    device_fuzz_run(&e1000e_model, data, size);
    return 0;
}
