/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SMBIOS 3 tables: what dmidecode and cloud-init read. */
#ifndef BOARD_SMBIOS_H
#define BOARD_SMBIOS_H

#include "base/text.h"

#include <stdint.h>

struct smbios_config {
    const char *profile; /* the system's version: "pc-1" */
    const char *serial;  /* serial number of the system; cloud-init reads datasource hints here.
                            NULL: none */
    uint8_t uuid[16];    /* in the order of its text form */
    unsigned cpus;
    uint64_t memory;     /* bytes */
    uint64_t low_memory; /* of them below 4 GiB */
};

/* Entry point, then the structures, as they lie from `gpa` (a multiple of 16 in 0xf0000-0xfffff)
 * on. */
void smbios_build(const struct smbios_config *config, uint32_t gpa, struct buf *out);

#endif
