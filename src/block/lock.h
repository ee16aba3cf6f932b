/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Image locks that QEMU understands: we and qemu, qemu-img, qemu-nbd refuse each other.
 *
 * QEMU locks single bytes of the file with OFD locks: byte 100 + n is held (shared) by who uses
 * permission n, byte 200 + n by who forbids it to others. The lock lives as long as the open file
 * description, so the end of the process releases it, too; but an io_uring with the file registered
 * keeps that alive a little longer, hence lock_release.
 */
#ifndef BLOCK_LOCK_H
#define BLOCK_LOCK_H

#include "base/err.h"

#include <stdbool.h>

/* A writer forbids writers and readers that want a stable image; a reader forbids writers. -EBUSY
 * with a sentence that names the holder. File systems without locks: 0, with a warning. */
int lock_image(int fd, const char *path, bool write, struct err *err);
void lock_release(int fd);

#endif
