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
    uint32_t generation;    /* where the generation id of the VM lies; 0: there is none */
    struct pci_windows pci; /* what _CRS of the host bridge offers */
};

/* What depends on where the tables lie, for a firmware that puts them elsewhere. Offsets in `out`.
 */
enum { ACPI_FIXUPS_MAX = 32, ACPI_RSDP_SIZE = 36, ACPI_TABLES_OFFSET = 64 /* behind the RSDP */ };
struct acpi_fixups {
    struct {
        uint32_t at;
        uint8_t bytes;
    } pointers[ACPI_FIXUPS_MAX];
    struct {
        uint32_t at, start, len;
    } sums[ACPI_FIXUPS_MAX]; /* of tables with pointers */
    unsigned pointer_count, sum_count;
    uint32_t generation_at; /* the four bytes with the address of the generation id */
};

/* All tables as they lie from guest-physical address `gpa` (below 4 GiB, multiple of 64) on; the
 * RSDP comes first. `fixups` may be NULL. */
void acpi_build(const struct acpi_config *config, uint32_t gpa, struct buf *out,
                struct acpi_fixups *fixups);

#endif
