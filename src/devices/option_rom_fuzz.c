/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Expansion ROM images: any bytes are one, or are refused as they were. */
#include "devices/option_rom.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    uint8_t *copy = malloc(len + 1), *again = malloc(len + 1);
    assert(copy && again);
    memcpy(copy, data, len);
    if (option_rom_fit(copy, len, 0x1234, 0x5678, NULL) < 0) {
        assert(!memcmp(copy, data, len));
    } else {
        memcpy(again, copy, len);
        option_rom_fit(again, len, 0x1234, 0x5678, NULL);
    }
    free(copy);
    free(again);
    return 0;
}
