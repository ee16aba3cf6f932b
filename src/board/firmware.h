/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Firmware of the board: its memory below 4 GiB, and what it is told through fw_cfg.
 *
 * Firmware is Debian's own seabios or ovmf, unmodified; it asks for everything by fw_cfg, and we
 * hand over the same ACPI and SMBIOS tables that a directly booted kernel finds in memory.
 */
#ifndef BOARD_FIRMWARE_H
#define BOARD_FIRMWARE_H

#include "base/err.h"
#include "base/text.h"

#include <stdbool.h>
#include <stdint.h>

struct machine;
struct ram;
struct acpi_config;
struct smbios_config;

enum firmware_kind { FIRMWARE_NONE, FIRMWARE_BIOS, FIRMWARE_UEFI };

enum {
    FIRMWARE_BIOS_MAX = 16 << 20,
    FIRMWARE_VARS_MAX = 8 << 20,
    FIRMWARE_ALIGN = 4096, /* sizes are multiples of it */
};

/* Of a VM that is restored the descriptors may be -1: the contents are in its saved state. */
struct board_firmware {
    enum firmware_kind kind;
    int code_fd; /* borrowed while board_create runs */
    uint64_t code_size;
    int vars_fd;         /* borrowed; follows what the guest writes. -1: kept in memory only */
    const uint8_t *vars; /* initial contents if vars_fd is -1; NULL: none */
    uint64_t vars_size;  /* UEFI only */
    /* BIOS only: brings the display adapter to life; NULL: there is none. The name in fw_cfg says
     * which PCI function that is. */
    const struct buf *vga_bios;
    const char *vga_bios_name;
};

struct boot_menu {
    bool show;
    unsigned timeout_ms; /* of the menu's prompt */
};

/* Looks at the image's last and first bytes: FIRMWARE_NONE if it is neither. */
enum firmware_kind firmware_probe(int fd, uint64_t size);

/* Adds the memories "firmware" and "uefi-vars", loads them and maps them; *code is the first. Main
 * loop, before the machine runs. */
int firmware_place(struct machine *m, const struct board_firmware *firmware, struct ram **code,
                   struct err *err);

struct firmware_items {
    const struct acpi_config *acpi;
    const struct smbios_config *smbios;
    uint64_t low_ram, high_ram, high_ram_base;
    unsigned cpus;
    const uint8_t *uuid;
    const uint8_t *generation; /* 16 bytes; acpi.generation is FIRMWARE_GENERATION_OFFSET */
    struct boot_menu menu;
    bool serial_console;        /* BIOS text goes to COM1, too */
    const struct buf *vga_bios; /* NULL: none */
    const char *vga_bios_name;
    const char *boot_order; /* paths, one a line; NULL: none */
    int kernel_fd, initrd_fd;
    const char *cmdline; /* for kernel_fd */
};

enum {
    FIRMWARE_GENERATION_OFFSET = 40
}; /* of the id in its page: firmware looks for tables at 0 */

struct device;
/* Where firmware put the generation id; 0: it has not, or the guest wrote nonsense. */
uint64_t firmware_generation_gpa(struct device *fw_cfg);
/* Fills in what firmware asks for. Main loop, before the machine runs. */
int firmware_describe(struct device *fw_cfg, const struct firmware_items *items, struct err *err);

#endif
