/* SPDX-License-Identifier: GPL-2.0-or-later */
/* CRC-32C (Castagnoli), as iSCSI and ext4 use it. Any thread. */
#ifndef MIGRATE_CRC32C_H
#define MIGRATE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Start with 0; feed the answer in again to go on. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);
/* Without the CPU's own instruction: for tests. */
uint32_t crc32c_plain(uint32_t crc, const void *data, size_t len);

#endif
