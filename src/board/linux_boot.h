/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Puts a kernel into memory as a boot loader would: Linux bzImage by the 64-bit boot protocol, or
 * an ELF image with a PVH entry note.
 *
 * Kernel and initrd are hostile: every number in them is checked, and what does not fit is refused
 * in one sentence.
 */
#ifndef BOARD_LINUX_BOOT_H
#define BOARD_LINUX_BOOT_H

#include "base/err.h"

#include <stdint.h>

enum e820_type { E820_RAM = 1, E820_RESERVED = 2 };
struct e820_range {
    uint64_t start, size;
    enum e820_type type;
};
enum { E820_MAX = 16 };

struct boot_request {
    int kernel_fd;           /* borrowed; a regular file, read by pread */
    int initrd_fd;           /* -1: none */
    const char *kernel_name; /* for sentences */
    const char *initrd_name;
    const char *cmdline; /* NULL: empty */
    uint8_t *ram;        /* guest memory from gpa 0 on */
    uint64_t ram_size;   /* of it, below 4 GiB; at least 1 MiB */
    uint64_t rsdp;       /* gpa */
    struct e820_range memory[E820_MAX];
    unsigned memory_count;
};

enum boot_protocol { BOOT_LINUX64, BOOT_PVH };

struct boot_entry {
    enum boot_protocol protocol;
    uint64_t address; /* of the first instruction */
    uint64_t info;    /* boot_params (to RSI) or hvm_start_info (to EBX) */
};

/* Writes guest memory only; the vCPU is set up by the caller, after `out`. Main loop, vCPUs
 * stopped. */
int linux_boot_load(const struct boot_request *request, struct boot_entry *out, struct err *err);

#endif
