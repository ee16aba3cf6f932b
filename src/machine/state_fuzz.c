/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Any bytes decode to a refused or a checked chip; what decodes encodes, and decodes again to the
 * same. */
#include "machine/state.h"

#include <assert.h>
#include <string.h>

struct inner {
    uint16_t tag;
    uint8_t *data;
    size_t len;
};
struct outer {
    uint8_t a;
    uint64_t b;
    uint32_t words[4];
    uint8_t bytes[5];
    struct inner one, more[3];
};

static const struct state_field inner_fields[] = {
    STATE_U16(struct inner, tag),
    STATE_VARBYTES(struct inner, data, len, 64),
    STATE_END,
};
static int inner_check(const void *state, struct err *err)
{
    const struct inner *inner = state;
    return inner->tag == 0xffff ? err_set(err, EINVAL, "no such tag") : 0;
}
static const struct state_desc inner_desc = {
    .name = "inner",
    .version = 1,
    .size = sizeof(struct inner),
    .fields = inner_fields,
    .check = inner_check,
};
static const struct state_field outer_fields[] = {
    STATE_U8(struct outer, a),
    STATE_U64(struct outer, b),
    STATE_UINTS(struct outer, words),
    STATE_BYTES(struct outer, bytes),
    STATE_STRUCT(struct outer, one, &inner_desc),
    STATE_STRUCTS(struct outer, more, &inner_desc),
    STATE_END,
};
static const struct state_desc outer_desc = {
    .name = "outer", .version = 2, .size = sizeof(struct outer), .fields = outer_fields
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct outer first, second;
    struct err err = { 0 };
    if (state_decode(&outer_desc, data, len, &first, &err) < 0) {
        assert(err.code && err.text[0]);
        return 0;
    }
    assert(first.one.tag != 0xffff && first.more[2].len <= 64);

    AUTO(buf_fini) struct buf once = { 0 };
    AUTO(buf_fini) struct buf twice = { 0 };
    state_encode(&outer_desc, &first, &once);
    int r = state_decode(&outer_desc, once.data, once.len, &second, &err);
    assert(r == 0);
    state_encode(&outer_desc, &second, &twice);
    assert(once.len == twice.len && !memcmp(once.data, twice.data, once.len));
    state_fini(&outer_desc, &first);
    state_fini(&outer_desc, &second);
    return 0;
}
