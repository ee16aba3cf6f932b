/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Clipboard texts: checks and conversions. */
#include "display/cut_text.h"

#include <string.h>

/* The character at the beginning of `len` bytes, and how many bytes it has; 0: none is there. */
static unsigned utf8_first(const uint8_t *at, size_t len, uint32_t *c)
{
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    unsigned n = at[0] < 0x80         ? 1
                 : at[0] >> 5 == 6    ? 2
                 : at[0] >> 4 == 0xe  ? 3
                 : at[0] >> 3 == 0x1e ? 4
                                      : 0;
    if (!n || n > len)
        return 0;
    uint32_t value = n == 1 ? at[0] : at[0] & (0xffu >> (n + 1));
    for (unsigned i = 1; i < n; i++) {
        if (at[i] >> 6 != 2)
            return 0;
        value = value << 6 | (at[i] & 0x3f);
    }
    bool surrogate = value >= 0xd800 && value <= 0xdfff;
    if ((n > 1 && value < least[n]) || value > 0x10ffff || surrogate)
        return 0;
    *c = value;
    return n;
}

/* Adds text[from] to text[to - 1] without the CRs that stand before a LF. */
static void add_lines(const char *text, size_t len, struct buf *out)
{
    size_t from = 0;
    for (size_t i = 0; i + 1 < len; i++)
        if (text[i] == '\r' && text[i + 1] == '\n') {
            buf_add(out, text + from, i - from);
            from = i + 1;
        }
    buf_add(out, text + from, len - from);
}

bool cut_text_from_utf8(const char *text, size_t len, struct buf *out)
{
    const uint8_t *bytes = (const uint8_t *)text;
    len = strnlen(text, len);
    for (size_t at = 0; at < len;) {
        uint32_t c;
        unsigned n = utf8_first(bytes + at, len - at, &c);
        if (!n)
            return false;
        at += n;
    }
    add_lines(text, len, out);
    return true;
}

void cut_text_from_latin1(const char *text, size_t len, struct buf *out)
{
    AUTO(buf_fini) struct buf lines = { 0 };
    add_lines(text, strnlen(text, len), &lines);
    for (size_t i = 0; i < lines.len; i++) {
        uint8_t c = lines.data[i];
        const uint8_t two[] = { (uint8_t)(0xc0 | c >> 6), (uint8_t)(0x80 | (c & 0x3f)) };
        if (c < 0x80)
            buf_add(out, &c, 1);
        else
            buf_add(out, two, sizeof two);
    }
}

void cut_text_to_latin1(const struct buf *text, struct buf *out)
{
    for (size_t at = 0; at < text->len;) {
        uint32_t c = '?';
        unsigned n = utf8_first(text->data + at, text->len - at, &c);
        uint8_t byte = c < 0x100 ? (uint8_t)c : '?';
        buf_add(out, &byte, 1);
        at += n ? n : 1;
    }
}

void cut_text_to_crlf(const struct buf *text, struct buf *out)
{
    for (size_t i = 0; i < text->len; i++) {
        if (text->data[i] == '\n')
            buf_add(out, "\r", 1);
        buf_add(out, text->data + i, 1);
    }
}
