/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fw_cfg: how firmware asks the machine for tables, the boot order and everything else (ports 0x510
 * to 0x51b).
 *
 * Items are bytes under a number; files are items with a name, found by the directory. What the
 * items hold is part of the device's state, so a saved VM keeps the tables it was started with;
 * only sources (a kernel, an initrd) are read anew.
 */
#ifndef DEVICES_FW_CFG_H
#define DEVICES_FW_CFG_H

#include "machine/device.h"

enum fw_cfg_key { /* numbers that firmware knows */
                  FW_CFG_UUID = 0x02,
                  FW_CFG_RAM_SIZE = 0x03,
                  FW_CFG_NO_GRAPHIC = 0x04,
                  FW_CFG_CPUS = 0x05,
                  FW_CFG_KERNEL_SIZE = 0x08,
                  FW_CFG_INITRD_SIZE = 0x0b,
                  FW_CFG_NUMA = 0x0d,
                  FW_CFG_BOOT_MENU = 0x0e,
                  FW_CFG_MAX_CPUS = 0x0f,
                  FW_CFG_KERNEL_DATA = 0x11,
                  FW_CFG_INITRD_DATA = 0x12,
                  FW_CFG_CMDLINE_SIZE = 0x14,
                  FW_CFG_CMDLINE_DATA = 0x15,
                  FW_CFG_SETUP_SIZE = 0x17,
                  FW_CFG_SETUP_DATA = 0x18,
                  FW_CFG_IRQ0_OVERRIDE = 0x8002,
};
enum { FW_CFG_NAME_SIZE = 56 };

/* Adds it to the machine, which owns it. All of the following: main loop, before the machine runs.
 */
int fw_cfg_create(struct machine *m, struct device **out, struct err *err);
/* Adding a key twice is our own bug: asserted. */
void fw_cfg_add(struct device *dev, uint16_t key, const void *data, size_t len);
void fw_cfg_add_int(struct device *dev, uint16_t key, uint64_t value, unsigned bytes);
/* name: at most FW_CFG_NAME_SIZE - 1 bytes. */
void fw_cfg_add_file(struct device *dev, const char *name, const void *data, size_t len);
/* One that the guest may write, by DMA; `len` bytes of zeros at power-on. */
void fw_cfg_add_writable(struct device *dev, const char *name, size_t len);
/* Bytes [offset, offset + len) of a file of the host; fd is borrowed for the device's life. */
void fw_cfg_add_source(struct device *dev, uint16_t key, int fd, uint64_t offset, uint64_t len);
/* Copies what is in a file now; false: there is none. Any thread. */
bool fw_cfg_read_file(struct device *dev, const char *name, void *out, size_t len);

#endif
