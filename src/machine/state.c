/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Encoding and strict decoding of state tables. */
#include "machine/state.h"

#include "base/checked.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { SECTION_HEADER = 6 }; /* u32 total_len, u16 version */

static void *at(const void *state, size_t offset) { return (uint8_t *)(uintptr_t)state + offset; }

/* ---- numbers ---- */

static uint64_t uint_load(const void *p, size_t size)
{
    switch (size) {
    case 1: return *(const uint8_t *)p;
    case 2: return *(const uint16_t *)p;
    case 4: return *(const uint32_t *)p;
    case 8: return *(const uint64_t *)p;
    }
    assert(!"a state table describes an integer of odd size");
    return 0;
}

static void uint_store(void *p, size_t size, uint64_t value)
{
    switch (size) {
    case 1: *(uint8_t *)p = (uint8_t)value; break;
    case 2: *(uint16_t *)p = (uint16_t)value; break;
    case 4: *(uint32_t *)p = (uint32_t)value; break;
    case 8: *(uint64_t *)p = value; break;
    default: assert(!"a state table describes an integer of odd size");
    }
}

static void le_put(uint8_t *p, size_t size, uint64_t value)
{
    for (size_t i = 0; i < size; i++)
        p[i] = (uint8_t)(value >> 8 * i);
}

static uint64_t le_get(const uint8_t *p, size_t size)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++)
        value |= (uint64_t)p[i] << 8 * i;
    return value;
}

/* ---- encoding ---- */

static bool all_zero(const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (data[i])
            return false;
    return true;
}

/* Appends the value; false: it is the default and nothing needs writing. */
static bool value_encode(const struct state_field *f, const void *state, struct buf *out)
{
    const void *field = at(state, f->offset);
    size_t start = out->len;
    switch (f->type) {
    case STATE_UINT_:
    case STATE_UINTS_:
        for (size_t i = 0; i < f->count; i++)
            le_put(buf_grow(out, f->size), f->size, uint_load(at(field, i * f->size), f->size));
        return !all_zero(out->data + start, out->len - start);
    case STATE_BYTES_: buf_add(out, field, f->size); return !all_zero(out->data + start, f->size);
    case STATE_VARBYTES_: {
        size_t len = *(const size_t *)at(state, f->len_offset);
        assert(len <= f->size);
        if (len)
            buf_add(out, *(void *const *)field, len);
        return len > 0;
    }
    case STATE_STRUCT_: {
        /* Elements at their default behind the last other one are left out. */
        size_t end = start;
        for (size_t i = 0; i < f->count; i++) {
            size_t before = out->len;
            state_encode(f->sub, at(field, i * f->size), out);
            if (out->len - before > SECTION_HEADER)
                end = out->len;
        }
        out->len = end;
        return end > start;
    }
    case STATE_END_: break;
    }
    assert(!"a state table holds an unknown type");
    return false;
}

static void field_encode(const struct state_field *f, const void *state, struct buf *out)
{
    size_t start = out->len, name_len = strlen(f->name);
    assert(name_len && name_len <= UINT8_MAX);
    uint8_t *head = buf_grow(out, 1 + name_len + 1 + 4);
    head[0] = (uint8_t)name_len;
    memcpy(head + 1, f->name, name_len);
    head[1 + name_len] = (uint8_t)f->type;
    size_t value = out->len;
    if (value_encode(f, state, out))
        le_put(out->data + value - 4, 4, out->len - value);
    else
        out->len = start;
}

void state_encode(const struct state_desc *desc, const void *state, struct buf *out)
{
    size_t start = out->len;
    buf_grow(out, SECTION_HEADER);
    for (const struct state_field *f = desc->fields; f->name; f++)
        field_encode(f, state, out);
    assert(out->len - start <= UINT32_MAX);
    le_put(out->data + start, 4, out->len - start);
    le_put(out->data + start + 4, 2, desc->version);
}

/* ---- decoding ---- */

struct cursor {
    const uint8_t *data;
    size_t len;
};

/* The next `len` bytes, or NULL when there are fewer. */
static const uint8_t *cursor_take(struct cursor *c, size_t len)
{
    if (len > c->len)
        return NULL;
    const uint8_t *p = c->data;
    c->data += len;
    c->len -= len;
    return p;
}

static int section_decode(const struct state_desc *desc, struct cursor *in, void *state,
                          struct err *err);

static int structs_decode(const struct state_field *f, struct cursor in, void *field,
                          struct err *err)
{
    for (size_t i = 0; in.len; i++) {
        if (i == f->count)
            return err_set(err, EINVAL, "more than %zu elements", f->count);
        int r = section_decode(f->sub, &in, at(field, i * f->size), err);
        if (r < 0)
            return f->count > 1 ? err_prefix(err, "element %zu", i) : r;
    }
    return 0;
}

static int uints_decode(const struct state_field *f, struct cursor in, void *field, struct err *err)
{
    /* A lone number may be narrower than its field; an array's elements have the field's width. */
    size_t width = f->type == STATE_UINT_ ? in.len : f->size;
    if (in.len > f->count * f->size || !width || in.len % width)
        return err_set(err, EINVAL, "%zu bytes do not fit", in.len);
    for (size_t i = 0; i < in.len / width; i++)
        uint_store(at(field, i * f->size), f->size, le_get(in.data + i * width, width));
    return 0;
}

static int varbytes_decode(const struct state_field *f, struct cursor in, void *state,
                           struct err *err)
{
    if (in.len > f->size)
        return err_set(err, EINVAL, "%zu bytes do not fit", in.len);
    void **data = at(state, f->offset);
    if (!in.len)
        return 0;
    *data = malloc(in.len);
    if (!*data)
        return err_set(err, ENOMEM, "out of memory");
    memcpy(*data, in.data, in.len);
    *(size_t *)at(state, f->len_offset) = in.len;
    return 0;
}

static int value_decode(const struct state_field *f, struct cursor in, void *state, struct err *err)
{
    void *field = at(state, f->offset);
    switch (f->type) {
    case STATE_UINT_:
    case STATE_UINTS_: return uints_decode(f, in, field, err);
    case STATE_BYTES_:
        if (in.len > f->size)
            return err_set(err, EINVAL, "%zu bytes do not fit", in.len);
        memcpy(field, in.data, in.len);
        return 0;
    case STATE_VARBYTES_: return varbytes_decode(f, in, state, err);
    case STATE_STRUCT_: return structs_decode(f, in, field, err);
    case STATE_END_: break;
    }
    assert(!"a state table holds an unknown type");
    return -EINVAL;
}

static const struct state_field *field_find(const struct state_desc *desc, const uint8_t *name,
                                            size_t len)
{
    for (const struct state_field *f = desc->fields; f->name; f++)
        if (strlen(f->name) == len && !memcmp(f->name, name, len))
            return f;
    return NULL;
}

/* A name out of a stream, fit for a sentence. */
static const char *name_print(const uint8_t *name, size_t len, char out[64])
{
    size_t n = 0;
    for (; n < len && n < 63; n++)
        out[n] = name[n] > ' ' && name[n] < 0x7f ? (char)name[n] : '?';
    out[n] = 0;
    return out;
}

static int field_decode(const struct state_desc *desc, struct cursor *in, uint64_t seen[4],
                        void *state, struct err *err)
{
    char text[64];
    const uint8_t *name_len = cursor_take(in, 1);
    const uint8_t *name = name_len ? cursor_take(in, *name_len) : NULL;
    const uint8_t *head = name ? cursor_take(in, 5) : NULL;
    size_t len = head ? le_get(head + 1, 4) : 0;
    const uint8_t *data = head ? cursor_take(in, len) : NULL;
    if (!data)
        return err_set(err, EINVAL, "a field is cut short");

    const struct state_field *f = field_find(desc, name, *name_len);
    if (!f)
        return err_set(err, EINVAL, "unknown field %s", name_print(name, *name_len, text));
    size_t index = (size_t)(f - desc->fields);
    assert(index < 256);
    if (seen[index / 64] >> index % 64 & 1)
        return err_set(err, EINVAL, "field %s comes twice", f->name);
    seen[index / 64] |= 1ull << index % 64;
    if (head[0] != f->type)
        return err_set(err, EINVAL, "field %s is of type %u instead of %u", f->name, head[0],
                       (unsigned)f->type);
    int r = value_decode(f, (struct cursor){ data, len }, state, err);
    return r < 0 ? err_prefix(err, "field %s", f->name) : 0;
}

/* Takes one section from `in`. */
static int section_decode(const struct state_desc *desc, struct cursor *in, void *state,
                          struct err *err)
{
    if (in->len < SECTION_HEADER)
        return err_set(err, EINVAL, "section %s is cut short", desc->name);
    size_t total = le_get(in->data, 4), version = le_get(in->data + 4, 2);
    if (total < SECTION_HEADER || total > in->len)
        return err_set(err, EINVAL, "section %s is cut short", desc->name);
    if (version > desc->version)
        return err_set(
            err, ENOTSUP,
            "section %s has version %zu, this release knows %u; load it with a newer one",
            desc->name, version, desc->version);

    struct cursor fields = { in->data + SECTION_HEADER, total - SECTION_HEADER };
    uint64_t seen[4] = { 0 };
    while (fields.len) {
        int r = field_decode(desc, &fields, seen, state, err);
        if (r < 0)
            return r;
    }
    cursor_take(in, total);
    return desc->check ? desc->check(state, err) : 0;
}

int state_decode(const struct state_desc *desc, const uint8_t *data, size_t len, void *scratch,
                 struct err *err)
{
    memset(scratch, 0, desc->size);
    struct cursor in = { data, len };
    int r = section_decode(desc, &in, scratch, err);
    if (r == 0 && in.len)
        r = err_set(err, EINVAL, "%zu bytes behind section %s", in.len, desc->name);
    if (r < 0)
        state_fini(desc, scratch);
    return r;
}

void state_fini(const struct state_desc *desc, void *state)
{
    for (const struct state_field *f = desc->fields; f->name; f++) {
        if (f->type == STATE_VARBYTES_) {
            void **data = at(state, f->offset);
            free(*data);
            *data = NULL;
            *(size_t *)at(state, f->len_offset) = 0;
        }
        for (size_t i = 0; f->type == STATE_STRUCT_ && i < f->count; i++)
            state_fini(f->sub, at(state, f->offset + i * f->size));
    }
}

void state_coverage(const struct state_desc *desc, uint8_t *covered)
{
    for (const struct state_field *f = desc->fields; f->name; f++) {
        if (f->type == STATE_VARBYTES_) {
            memset(covered + f->offset, 1, sizeof(void *));
            memset(covered + f->len_offset, 1, sizeof(size_t));
        } else if (f->type == STATE_STRUCT_) {
            for (size_t i = 0; i < f->count; i++)
                state_coverage(f->sub, covered + f->offset + i * f->size);
        } else {
            memset(covered + f->offset, 1, f->size * f->count);
        }
    }
}
