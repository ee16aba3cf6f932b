/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which format is an image in? By its magic.
 *
 * The danger: an image that was opened as raw because it has no magic belongs to the guest, which
 * could write, say, a qcow2 header naming /etc/shadow as its backing file; the next start would
 * believe it. So a node that was opened by guessing carries the magic guard: writes that would put
 * a magic where block_probe looks fail with -EPERM. format=raw given by the user needs no guard.
 */
#ifndef BLOCK_PROBE_H
#define BLOCK_PROBE_H

#include "base/err.h"

#include <stdint.h>

enum { PROBE_SECTOR = 512 };

/* The name of the format whose magic is in the first (or last) sector of an image, or NULL. */
const char *probe_first_sector(const uint8_t sector[PROBE_SECTOR]);
const char *probe_last_sector(const uint8_t sector[PROBE_SECTOR]);
/* Of an open file of `size` bytes: *out is NULL for no known magic. */
int probe_file(int fd, uint64_t size, const char **out, struct err *err);

#endif
