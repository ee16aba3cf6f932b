/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * State tables: one declarative description per device serves save, restore, migration, `inspect`,
 * the round-trip tests and fuzzing.
 *
 * A table describes the chip, not our implementation. On the wire each field carries its name, type
 * and length; raw structs never leave the process. A field whose bytes are all zero (its default)
 * is not written. Incoming state is hostile: state_decode() fills a zeroed scratch copy, runs
 * `check`, and only the caller installs it. An unknown field name, a wrong type or a length beyond
 * the field's is an error with the field's name; a missing field is its default.
 *
 * Wire form (little-endian): section := u32 total_len (of the whole section), u16 version,
 * fields...; field := u8 name_len, name, u8 type, u32 len, bytes. Nested structures are sections
 * inside a field, one after the other. A value may be shorter than its field (the rest is zero), so
 * a field can grow in a later release.
 */
#ifndef MACHINE_STATE_H
#define MACHINE_STATE_H

#include "base/err.h"
#include "base/text.h"

#include <stddef.h>
#include <stdint.h>

enum state_type {
    STATE_END_ = 0,
    STATE_UINT_,     /* one little-endian unsigned of `size` bytes (1, 2, 4, 8) */
    STATE_BYTES_,    /* `size` bytes as they are */
    STATE_UINTS_,    /* `count` unsigneds of `size` bytes each */
    STATE_VARBYTES_, /* a malloc'ed pointer at `offset`, its size_t length at `len_offset`, at most
                        `size` */
    STATE_STRUCT_,   /* `count` structures of `size` bytes each, described by `sub` */
};

struct state_desc;

struct state_field {
    const char *name;
    enum state_type type;
    size_t offset, size, count, len_offset;
    const struct state_desc *sub;
};

struct state_desc {
    const char *name;
    uint16_t version; /* newer than ours is refused */
    size_t base;      /* offset of the described struct inside the device; 0 for sub-structures */
    size_t size;      /* of the described struct */
    const struct state_field *fields;
    /* Is this decoded struct one that the chip can be in? Sentence in err. May be NULL. */
    int (*check)(const void *state, struct err *err);
};

#define STATE_LEN_(s, f) sizeof(((s *)0)->f)
#define STATE_SAME_(a, b) (0 * sizeof(char[(a) == (b) ? 1 : -1]))
/* clang-format off */
#define STATE_U_(s, f, n) \
    { #f, STATE_UINT_, offsetof(s, f), STATE_LEN_(s, f) + STATE_SAME_(STATE_LEN_(s, f), n), 1, 0, NULL }
#define STATE_U8(s, f) STATE_U_(s, f, 1)
#define STATE_U16(s, f) STATE_U_(s, f, 2)
#define STATE_U32(s, f) STATE_U_(s, f, 4)
#define STATE_U64(s, f) STATE_U_(s, f, 8)
#define STATE_BYTES(s, f) { #f, STATE_BYTES_, offsetof(s, f), STATE_LEN_(s, f), 1, 0, NULL }
/* An array of unsigned integers */
#define STATE_UINTS(s, f) \
    { #f, STATE_UINTS_, offsetof(s, f), STATE_LEN_(s, f[0]), STATE_LEN_(s, f) / STATE_LEN_(s, f[0]), 0, NULL }
#define STATE_VARBYTES(s, f, lenf, max) \
    { #f, STATE_VARBYTES_, offsetof(s, f), (max), 1, \
      offsetof(s, lenf) + STATE_SAME_(STATE_LEN_(s, lenf), sizeof(size_t)), NULL }
/* One nested struct, or an array of them */
#define STATE_STRUCT(s, f, desc) { #f, STATE_STRUCT_, offsetof(s, f), STATE_LEN_(s, f), 1, 0, (desc) }
#define STATE_STRUCTS(s, f, desc) \
    { #f, STATE_STRUCT_, offsetof(s, f), STATE_LEN_(s, f[0]), STATE_LEN_(s, f) / STATE_LEN_(s, f[0]), 0, (desc) }
#define STATE_END { NULL, STATE_END_, 0, 0, 0, 0, NULL }
/* clang-format on */

/* `state` points to the described struct itself (device + base). */
void state_encode(const struct state_desc *desc, const void *state, struct buf *out);
/*
 * Decodes a whole section of `len` bytes into `scratch` (desc->size bytes, zeroed by this call) and
 * checks it. Varbytes in scratch are malloc'ed: state_fini() frees them. On failure nothing is left
 * to free.
 */
int state_decode(const struct state_desc *desc, const uint8_t *data, size_t len, void *scratch,
                 struct err *err);
void state_fini(const struct state_desc *desc, void *state);
/* Sets covered[i] for each byte of the struct that a field covers: the test that finds forgotten
 * fields. */
void state_coverage(const struct state_desc *desc, uint8_t *covered);

#endif
