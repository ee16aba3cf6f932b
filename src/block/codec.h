/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packing and unpacking blocks, by zlib or zstd as qcow2 has them. Any thread; what a packer needs
 * of memory is made once for each call that runs at the same time, and used again.
 */
#ifndef BLOCK_CODEC_H
#define BLOCK_CODEC_H

#include <stdbool.h>
#include <stddef.h>

struct codecs;

struct codecs *codecs_create(bool zstd); /* NULL: out of memory */
void codecs_destroy(struct codecs *codecs);
/* The packed length, or 0: it does not fit into `room`. */
size_t codecs_pack(struct codecs *codecs, const void *in, size_t len, void *out, size_t room);
/* Exactly out_len bytes, or -EIO; -ENOMEM. What follows the packed block is ignored. */
int codecs_unpack(struct codecs *codecs, const void *in, size_t in_len, void *out, size_t out_len);

#endif
