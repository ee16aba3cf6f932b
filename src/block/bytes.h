/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Numbers in the byte order of disk formats, at any address; text in UTF-16; CRC-32C. */
#ifndef BLOCK_BYTES_H
#define BLOCK_BYTES_H

#include <stddef.h>
#include <stdint.h>

static inline uint16_t le16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t le32(const uint8_t *p) { return le16(p) | (uint32_t)le16(p + 2) << 16; }
static inline uint64_t le64(const uint8_t *p) { return le32(p) | (uint64_t)le32(p + 4) << 32; }
static inline uint16_t be16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline uint32_t be32(const uint8_t *p) { return (uint32_t)be16(p) << 16 | be16(p + 2); }
static inline uint64_t be64(const uint8_t *p) { return (uint64_t)be32(p) << 32 | be32(p + 4); }

static inline void set_le16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static inline void set_le32(uint8_t *p, uint32_t v)
{
    set_le16(p, (uint16_t)v);
    set_le16(p + 2, (uint16_t)(v >> 16));
}
static inline void set_le64(uint8_t *p, uint64_t v)
{
    set_le32(p, (uint32_t)v);
    set_le32(p + 4, (uint32_t)(v >> 32));
}
static inline void set_be16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static inline void set_be32(uint8_t *p, uint32_t v)
{
    set_be16(p, (uint16_t)(v >> 16));
    set_be16(p + 2, (uint16_t)v);
}
static inline void set_be64(uint8_t *p, uint64_t v)
{
    set_be32(p, (uint32_t)(v >> 32));
    set_be32(p + 4, (uint32_t)v);
}

/* CRC-32C of `data`, with the four bytes at `at` taken as zeros. */
uint32_t crc32c_without(const uint8_t *data, size_t len, size_t at);

/* What is no character becomes '?'. Each answers the length of what it wrote: at most `room` bytes,
 * without a final zero for UTF-16, with one (not counted) for UTF-8. */
size_t utf16le_from_utf8(const char *text, uint8_t *out, size_t room);
size_t utf8_from_utf16le(const uint8_t *data, size_t len, char *out, size_t room);

#endif
