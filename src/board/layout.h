/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where things lie in guest-physical memory. docs/memory-map.md says the same for people.
 *
 * RAM runs from 0 to LOW_RAM_MAX without holes, the rest goes to 4 GiB and up. Below 1 MiB is what
 * a firmware would have left behind; a kernel starts at 1 MiB or above.
 */
#ifndef BOARD_LAYOUT_H
#define BOARD_LAYOUT_H

#define LAYOUT_LOW_RAM_MAX 0xb0000000ull /* ECAM follows */
#define LAYOUT_HIGH_RAM 0x100000000ull
#define LAYOUT_MEM32 0xc0000000ull /* the 32-bit PCI window, up to the I/O APIC */
#define LAYOUT_MEM32_SIZE 0x3ec00000ull
#define LAYOUT_MEM64_ALIGN 0x40000000ull /* the 64-bit PCI window: behind RAM */
#define LAYOUT_MEM64_SIZE 0x800000000ull
#define LAYOUT_PHYSICAL_END 0x8000000000ull /* 39 bits: what the smallest CPU model has */

enum {
    LAYOUT_IO = 0xc000, /* the PCI window of ports */
    LAYOUT_IO_SIZE = 0x4000,

    LAYOUT_BOOT_PARAMS = 0x7000, /* the zero page, or hvm_start_info and its lists */
    LAYOUT_GDT = 0x8000,
    LAYOUT_PAGE_TABLES = 0x9000, /* six pages: identity for the first 4 GiB */
    LAYOUT_CMDLINE = 0x20000,
    LAYOUT_CMDLINE_SIZE = 0x10000,
    LAYOUT_BASE_RAM_END = 0x9fc00,
    LAYOUT_ACPI = 0xe0000,
    LAYOUT_ACPI_SIZE = 0xff00,
    LAYOUT_GENERATION = 0xeff00, /* the VM's generation id */
    LAYOUT_SMBIOS = 0xf0000,     /* guests search its entry point from here on */
    LAYOUT_SMBIOS_SIZE = 0x10000,
    LAYOUT_KERNEL_MIN = 0x100000,
};

#endif
