/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The AML writer. Package lengths always take three bytes, so that a body can be written before its
 * length is known. */
#include "board/aml.h"

#include <assert.h>
#include <string.h>

enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_IF = 0xa0,
    OP_ELSE = 0xa1,
    OP_EXT = 0x5b,
    OP_EXT_DEVICE = 0x82
};
enum { LENGTH_BYTES = 3, LENGTH_MAX = 0xfffff };
enum { RESOURCE_MEMORY = 0, RESOURCE_IO = 1, RESOURCE_BUS = 2 };

static void put(struct buf *b, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        buf_add(b, &(uint8_t){ (uint8_t)(value >> 8 * i) }, 1);
}

static size_t begin(struct buf *b)
{
    size_t at = b->len;
    buf_grow(b, LENGTH_BYTES);
    return at;
}

void aml_end(struct buf *b, size_t at)
{
    size_t len = b->len - at;
    assert(len <= LENGTH_MAX);
    b->data[at] = (uint8_t)(2 << 6 | (len & 0xf));
    b->data[at + 1] = (uint8_t)(len >> 4);
    b->data[at + 2] = (uint8_t)(len >> 12);
}

static void put_name(struct buf *b, const char *name)
{
    if (*name == '\\')
        buf_add(b, name++, 1);
    size_t len = strlen(name);
    assert(len >= 1 && len <= 4);
    buf_add(b, name, len);
    buf_add(b, "___", 4 - len);
}

size_t aml_begin_scope(struct buf *b, const char *name)
{
    put(b, OP_SCOPE, 1);
    size_t at = begin(b);
    put_name(b, name);
    return at;
}

size_t aml_begin_device(struct buf *b, const char *name)
{
    put(b, OP_EXT, 1);
    put(b, OP_EXT_DEVICE, 1);
    size_t at = begin(b);
    put_name(b, name);
    return at;
}

size_t aml_begin_method(struct buf *b, const char *name, unsigned args)
{
    put(b, OP_METHOD, 1);
    size_t at = begin(b);
    put_name(b, name);
    put(b, args, 1); /* not serialized */
    return at;
}

size_t aml_begin_if(struct buf *b)
{
    put(b, OP_IF, 1);
    return begin(b);
}

size_t aml_begin_else(struct buf *b)
{
    put(b, OP_ELSE, 1);
    return begin(b);
}

void aml_bytes(struct buf *b, const void *bytes, size_t len) { buf_add(b, bytes, len); }

size_t aml_begin_package(struct buf *b, uint8_t elements)
{
    put(b, OP_PACKAGE, 1);
    size_t at = begin(b);
    put(b, elements, 1);
    return at;
}

void aml_integer(struct buf *b, uint64_t value)
{
    if (value <= 1) {
        put(b, value ? OP_ONE : OP_ZERO, 1);
        return;
    }
    unsigned bytes = value <= UINT8_MAX ? 1 : value <= UINT16_MAX ? 2 : value <= UINT32_MAX ? 4 : 8;
    put(b, bytes == 1 ? OP_BYTE : bytes == 2 ? OP_WORD : bytes == 4 ? OP_DWORD : OP_QWORD, 1);
    put(b, value, bytes);
}

void aml_string(struct buf *b, const char *text)
{
    put(b, OP_STRING, 1);
    buf_add(b, text, strlen(text) + 1);
}

static unsigned hex(char c) { return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A' + 10); }

/* Three letters of five bits and four hex digits, stored with the most significant byte first. */
void aml_eisa_id(struct buf *b, const char *id)
{
    assert(strlen(id) == 7);
    uint32_t value = 0;
    for (unsigned i = 0; i < 3; i++)
        value = value << 5 | ((unsigned)(id[i] - 'A' + 1) & 31);
    for (unsigned i = 3; i < 7; i++)
        value = value << 4 | hex(id[i]);
    put(b, OP_DWORD, 1);
    put(b, __builtin_bswap32(value), 4);
}

void aml_name(struct buf *b, const char *name)
{
    put(b, OP_NAME, 1);
    put_name(b, name);
}

/* ---- Resources (ACPI 6.4, section 6.4) ---- */

/* The buffer's size is an expression of its own; always a word, to be filled in at the end. */
size_t aml_begin_crs(struct buf *b)
{
    aml_name(b, "_CRS");
    put(b, OP_BUFFER, 1);
    size_t at = begin(b);
    put(b, OP_WORD, 1);
    put(b, 0, 2);
    return at;
}

void aml_end_crs(struct buf *b, size_t at)
{
    put(b, 0x79, 1); /* end tag; a checksum of zero means "not checked" */
    put(b, 0, 1);
    size_t first = at + LENGTH_BYTES + 3, len = b->len - first;
    b->data[first - 2] = (uint8_t)len;
    b->data[first - 1] = (uint8_t)(len >> 8);
    aml_end(b, at);
}

void aml_io(struct buf *b, uint16_t port, uint8_t len)
{
    put(b, 0x47, 1);
    put(b, 1, 1); /* decodes 16 bits */
    put(b, port, 2);
    put(b, port, 2);
    put(b, 1, 1);
    put(b, len, 1);
}

void aml_irq(struct buf *b, unsigned irq)
{
    put(b, 0x22, 1);
    put(b, 1u << irq, 2);
}

void aml_memory32_fixed(struct buf *b, uint32_t base, uint32_t len)
{
    put(b, 0x86, 1);
    put(b, 9, 2);
    put(b, 1, 1); /* writable */
    put(b, base, 4);
    put(b, len, 4);
}

/* Word, dword and qword address space descriptors differ in the width of their five numbers only.
 */
static void window(struct buf *b, unsigned width, unsigned resource, unsigned specific,
                   uint64_t first, uint64_t last)
{
    static const uint8_t tags[] = { [2] = 0x88, [4] = 0x87, [8] = 0x8a };
    put(b, tags[width], 1);
    put(b, 3 + 5 * width, 2);
    put(b, resource, 1);
    put(b, 0x0c, 1); /* both ends fixed, positive decoding, producer */
    put(b, specific, 1);
    put(b, 0, width);
    put(b, first, width);
    put(b, last, width);
    put(b, 0, width);
    put(b, last - first + 1, width);
}

void aml_bus_window(struct buf *b, uint16_t first, uint16_t last)
{
    window(b, 2, RESOURCE_BUS, 0, first, last);
}

void aml_io_window(struct buf *b, uint16_t first, uint16_t last)
{
    window(b, 2, RESOURCE_IO, 3, first, last); /* the entire range */
}

void aml_memory32_window(struct buf *b, uint32_t first, uint32_t last)
{
    window(b, 4, RESOURCE_MEMORY, 1, first, last); /* uncached, writable */
}

void aml_memory64_window(struct buf *b, uint64_t first, uint64_t last)
{
    window(b, 8, RESOURCE_MEMORY, 1, first, last);
}
