/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CRC-32C (Castagnoli), four bits at a time from a table of sixteen entries; UTF-16 to UTF-8 and
 * back.
 */
#include "block/bytes.h"

#include <stdbool.h>

static const uint32_t nibbles[16] = {
    0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

uint32_t crc32c_without(const uint8_t *data, size_t len, size_t at)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < len; i++) {
        crc ^= i - at < 4 ? 0 : data[i];
        crc = crc >> 4 ^ nibbles[crc & 15];
        crc = crc >> 4 ^ nibbles[crc & 15];
    }
    return ~crc;
}

/* The character at *text, which moves on. */
static uint32_t utf8_next(const uint8_t **text)
{
    const uint8_t *p = *text;
    unsigned more = p[0] >= 0xf0 ? 3 : p[0] >= 0xe0 ? 2 : p[0] >= 0xc0 ? 1 : 0;
    uint32_t c = more ? p[0] & (0x3fu >> more) : p[0];
    for (unsigned i = 1; i <= more; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            *text = p + i;
            return '?';
        }
        c = c << 6 | (p[i] & 0x3f);
    }
    *text = p + 1 + more;
    bool lone = p[0] >= 0x80 && !more, surrogate = c >= 0xd800 && c < 0xe000;
    return lone || surrogate || c > 0x10ffff ? '?' : c;
}

size_t utf16le_from_utf8(const char *text, uint8_t *out, size_t room)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t n = 0;
    while (*p) {
        uint32_t c = utf8_next(&p);
        if (n + 4 > room)
            break;
        if (c >= 0x10000) {
            set_le16(out + n, (uint16_t)(0xd800 + ((c - 0x10000) >> 10)));
            n += 2;
            c = 0xdc00 + ((c - 0x10000) & 0x3ff);
        }
        set_le16(out + n, (uint16_t)c);
        n += 2;
    }
    return n;
}

static size_t utf8_put(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    unsigned more = c >= 0x10000 ? 3 : c >= 0x800 ? 2 : 1;
    out[0] = (char)(0xf00u >> more | c >> (6 * more));
    for (unsigned i = 1; i <= more; i++)
        out[i] = (char)(0x80 | (c >> (6 * (more - i)) & 0x3f));
    return 1 + more;
}

size_t utf8_from_utf16le(const uint8_t *data, size_t len, char *out, size_t room)
{
    size_t n = 0;
    for (size_t i = 0; i + 2 <= len && n + 5 <= room;) {
        uint32_t c = le16(data + i);
        i += 2;
        if (!c)
            break;
        if (c >= 0xd800 && c < 0xe000) {
            uint32_t low = i + 2 <= len ? le16(data + i) : 0;
            bool pair = c < 0xdc00 && low >= 0xdc00 && low < 0xe000;
            c = pair ? 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00) : '?';
            i += pair ? 2 : 0;
        }
        n += utf8_put(c, out + n);
    }
    if (room)
        out[n] = 0;
    return n;
}
