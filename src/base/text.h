/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Text and bytes: sizes as people write them, growing buffers, whole-file and whole-buffer I/O. Any
 * thread. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include "base/cleanup.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* "512M", "2G", "4096K", "1T", "100B"; a bare number counts `unit` bytes. Fails with EINVAL and a
 * sentence. */
int size_parse(const char *text, uint64_t unit, uint64_t *out, struct err *err);
/* "2 GiB", "1.5 MiB": for people. Returns buf. */
const char *size_print(uint64_t bytes, char *buf, size_t len);
/* A decimal (or 0x hexadecimal) number within [min, max]; nothing may follow it. */
int number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *out, struct err *err);

/* A growing byte buffer. Zero-initialise; buf_fini frees. Appending aborts when out of memory. */
struct buf {
    uint8_t *data;
    size_t len, room;
};
void buf_fini(struct buf *buf);
static inline void buf_fini_auto(struct buf *buf) { buf_fini(buf); }
void buf_add(struct buf *buf, const void *data, size_t len);
void *buf_grow(struct buf *buf, size_t len); /* appends len zero bytes, returns them */
void buf_printf(struct buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Appends `len` bytes as base64 (RFC 4648, section 4), padded. */
void buf_base64(struct buf *buf, const void *data, size_t len);

/* Appends what base64 text stands for; -EINVAL for anything but whole, padded groups. */
int base64_parse(const char *text, size_t len, struct buf *out);

/* The whole range or an error: EINTR and short transfers are handled. Return 0 or -errno; read:
 * -ENODATA at EOF. */
int read_full(int fd, void *data, size_t len);
int write_full(int fd, const void *data, size_t len);
int pread_full(int fd, void *data, size_t len, off_t offset);
int pwrite_full(int fd, const void *data, size_t len, off_t offset);

/* Is all of it zero? */
bool memory_is_zero(const void *data, size_t len);

/* Reads a whole file of at most max_len bytes into buf. */
int file_read(const char *path, size_t max_len, struct buf *buf, struct err *err);
/* Writes into a file that is there, at once: what the kernel's own files want. Returns 0 or -errno.
 */
int file_write(const char *path, const char *text);

#endif
