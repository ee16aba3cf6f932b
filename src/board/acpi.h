/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The ACPI tables of the board, made anew for each machine. */
#ifndef BOARD_ACPI_H
#define BOARD_ACPI_H

#include "base/text.h"
#include "devices/pci.h"

#include <stdbool.h>
#include <stdint.h>

struct acpi_config {
    unsigned cpus;          /* APIC ids 0 to cpus - 1 */
    bool legacy;            /* PIC, PIT and RTC are there */
    bool serial;            /* COM1 is */
    struct pci_windows pci; /* what _CRS of the host bridge offers */
};

/* All tables as they lie from guest-physical address `gpa` (below 4 GiB, multiple of 64) on; the
 * RSDP comes first. */
void acpi_build(const struct acpi_config *config, uint32_t gpa, struct buf *out);

#endif
