/* SPDX-License-Identifier: GPL-2.0-or-later */
/* State tables: the wire form byte by byte, round trips, and everything that must be refused. */
#include "machine/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct chip_line {
    uint8_t level;
    uint16_t vector;
};
struct chip {
    uint8_t a;
    uint16_t b;
    uint32_t c;
    uint64_t d;
    uint8_t bytes[6];
    uint32_t words[3];
    struct chip_line line, lines[3];
    uint8_t *queue;
    size_t queue_len;
    uint32_t forgotten;
};

static const struct state_field line_fields[] = {
    STATE_U8(struct chip_line, level),
    STATE_U16(struct chip_line, vector),
    STATE_END,
};
static int line_check(const void *state, struct err *err)
{
    const struct chip_line *line = state;
    return line->level > 1 ? err_set(err, EINVAL, "level is 0 or 1") : 0;
}
static const struct state_desc line_desc = {
    .name = "line",
    .version = 1,
    .size = sizeof(struct chip_line),
    .fields = line_fields,
    .check = line_check,
};
static const struct state_field chip_fields[] = {
    STATE_U8(struct chip, a),
    STATE_U16(struct chip, b),
    STATE_U32(struct chip, c),
    STATE_U64(struct chip, d),
    STATE_BYTES(struct chip, bytes),
    STATE_UINTS(struct chip, words),
    STATE_STRUCT(struct chip, line, &line_desc),
    STATE_STRUCTS(struct chip, lines, &line_desc),
    STATE_VARBYTES(struct chip, queue, queue_len, 8),
    STATE_END,
};
static int chip_check(const void *state, struct err *err)
{
    const struct chip *chip = state;
    return chip->a == 0xee ? err_set(err, EINVAL, "a cannot be 0xee") : 0;
}
static const struct state_desc chip_desc = {
    .name = "chip",
    .version = 3,
    .size = sizeof(struct chip),
    .fields = chip_fields,
    .check = chip_check,
};

static void test_wire_form(void **state)
{
    struct chip chip = { .b = 0x1234, .bytes = { 0, 0, 7 } };
    AUTO(buf_fini) struct buf out = { 0 };
    state_encode(&chip_desc, &chip, &out);
    /* clang-format off */
    static const uint8_t want[] = {
        6 + 9 + 17, 0, 0, 0, 3, 0, /* length, version */
        1, 'b', STATE_UINT_, 2, 0, 0, 0, 0x34, 0x12,
        5, 'b', 'y', 't', 'e', 's', STATE_BYTES_, 6, 0, 0, 0, 0, 0, 7, 0, 0, 0,
    };
    /* clang-format on */
    assert_int_equal(out.len, sizeof want);
    assert_memory_equal(out.data, want, sizeof want);
}

static struct chip full_chip(void)
{
    static uint8_t queue[8] = { 1, 2, 3, 4, 5 };
    return (struct chip){
        .a = 1,
        .b = 0x8000,
        .c = 0xdeadbeef,
        .d = 0x8123456789abcdef,
        .bytes = { 1, 2, 3, 4, 5, 6 },
        .words = { 0, 0xffffffff, 7 },
        .line = { 1, 0x30 },
        .lines = { { 0, 0 }, { 1, 0x1234 }, { 0, 0 } },
        .queue = queue,
        .queue_len = 5,
    };
}

static void test_round_trip(void **state)
{
    struct chip chip = full_chip(), back;
    struct err err = { 0 };
    AUTO(buf_fini) struct buf out = { 0 };
    buf_add(&out, "xyz", 3); /* appended to what is there */
    state_encode(&chip_desc, &chip, &out);
    assert_int_equal(state_decode(&chip_desc, out.data + 3, out.len - 3, &back, &err), 0);
    assert_int_equal(back.d, chip.d);
    assert_memory_equal(back.words, chip.words, sizeof chip.words);
    assert_int_equal(back.line.vector, 0x30);
    assert_int_equal(back.lines[1].vector, 0x1234);
    assert_int_equal(back.queue_len, 5);
    assert_memory_equal(back.queue, chip.queue, 5);
    AUTO(buf_fini) struct buf again = { 0 };
    state_encode(&chip_desc, &back, &again);
    assert_int_equal(again.len, out.len - 3);
    assert_memory_equal(again.data, out.data + 3, again.len);
    state_fini(&chip_desc, &back);
    assert_null(back.queue);

    struct chip zero = { 0 };
    zero.forgotten = 5;
    again.len = 0;
    state_encode(&chip_desc, &zero, &again);
    assert_int_equal(again.len, 6);
    assert_int_equal(state_decode(&chip_desc, again.data, again.len, &back, &err), 0);
    assert_int_equal(back.forgotten, 0);
}

/* Cut anywhere, or with any one byte changed: an error or a chip that passes its check, never more.
 */
static void test_mutations(void **state)
{
    struct chip chip = full_chip(), back;
    struct err err;
    AUTO(buf_fini) struct buf out = { 0 };
    state_encode(&chip_desc, &chip, &out);
    for (size_t len = 0; len < out.len; len++) {
        uint8_t *cut = malloc(len ? len : 1); /* exact, for the address sanitizer */
        memcpy(cut, out.data, len);
        err = (struct err){ 0 };
        assert_true(state_decode(&chip_desc, cut, len, &back, &err) < 0);
        assert_true(err.text[0]);
        assert_null(back.queue);
        free(cut);
    }
    unsigned refused = 0;
    for (size_t i = 0; i < out.len; i++)
        for (unsigned change = 1; change < 256; change = change * 2 + 1) {
            out.data[i] ^= (uint8_t)change;
            if (state_decode(&chip_desc, out.data, out.len, &back, &err) < 0) {
                refused++;
            } else {
                assert_true(back.line.level <= 1 && back.queue_len <= 8);
                state_fini(&chip_desc, &back);
            }
            out.data[i] ^= (uint8_t)change;
        }
    assert_true(refused > out.len);
}

static void expect_refused(const void *fields, size_t len, uint16_t version, const char *words)
{
    AUTO(buf_fini) struct buf in = { 0 };
    uint8_t head[6] = { (uint8_t)(6 + len), 0, 0, 0, (uint8_t)version, 0 };
    buf_add(&in, head, 6);
    buf_add(&in, fields, len);
    struct chip chip;
    struct err err = { 0 };
    int r = state_decode(&chip_desc, in.data, in.len, &chip, &err);
    if (!words) {
        assert_int_equal(r, 0);
        state_fini(&chip_desc, &chip);
        return;
    }
    assert_true(r < 0);
    if (!strstr(err.text, words))
        fail_msg("\"%s\" does not say \"%s\"", err.text, words);
}
#define REFUSED(bytes, words) expect_refused(bytes, sizeof bytes - 1, 3, words)

static void test_refusals(void **state)
{
    REFUSED("\1a\1\1\0\0\0\7", NULL);
    REFUSED("\1d\1\1\0\0\0\7", NULL); /* narrower than the field */
    REFUSED("\1a\1\2\0\0\0\7\0", "field a: 2 bytes do not fit");
    REFUSED("\1a\1\0\0\0\0", "field a: 0 bytes do not fit");
    REFUSED("\1a\2\1\0\0\0\7", "field a is of type 2 instead of 1");
    REFUSED("\1z\1\1\0\0\0\7", "unknown field z");
    REFUSED("\2\n!\1\1\0\0\0\7", "unknown field ?!");
    REFUSED("\0\1\1\0\0\0\7", "unknown field");
    REFUSED("\1a\1\1\0\0\0\7\1a\1\1\0\0\0\7", "field a comes twice");
    REFUSED("\1a\1\xff\xff\xff\xff\7", "cut short");
    REFUSED("\1a\1\1\0\0\0\xee", "a cannot be 0xee");
    REFUSED("\5words\3\3\0\0\0\1\2\3", "field words: 3 bytes do not fit");
    REFUSED("\5words\3\4\0\0\0\1\2\3\4", NULL);
    REFUSED("\5queue\4\x9\0\0\0\1\2\3\4\5\6\7\x8\x9", "field queue: 9 bytes do not fit");
    REFUSED("\5queue\4\0\0\0\0", NULL);
    REFUSED("\5bytes\2\7\0\0\0\1\2\3\4\5\6\7", "field bytes: 7 bytes do not fit");
    REFUSED("\4line\5\6\0\0\0\6\0\0\0\1\0", NULL);
    REFUSED("\4line\5\xc\0\0\0\6\0\0\0\1\0\6\0\0\0\1\0", "field line: more than 1 elements");
    REFUSED("\4line\5\6\0\0\0\x7\0\0\0\1\0", "field line: section line is cut short");
    REFUSED("\4line\5\6\0\0\0\5\0\0\0\1\0", "field line: section line is cut short");
    REFUSED("\4line\5\6\0\0\0\6\0\0\0\2\0", "section line has version 2");
    REFUSED("\5lines\5\x12\0\0\0\x12\0\0\0\1\0\5level\1\1\0\0\0\2",
            "field lines: element 0: level is 0 or 1");
    expect_refused("", 0, 4, "section chip has version 4, this release knows 3");
    expect_refused("", 0, 2, NULL);
    struct chip chip;
    struct err err;
    assert_true(state_decode(&chip_desc, (const uint8_t *)"\6\0\0\0\3\0!", 7, &chip, &err) < 0);
    assert_non_null(strstr(err.text, "1 bytes behind section chip"));
}

static void test_coverage(void **state)
{
    uint8_t covered[sizeof(struct chip)] = { 0 };
    state_coverage(&chip_desc, covered);
    for (size_t i = 0; i < sizeof(uint32_t); i++)
        assert_int_equal(covered[offsetof(struct chip, forgotten) + i], 0);
    static const struct {
        size_t offset, len;
    } parts[] = {
        { offsetof(struct chip, a), 1 },
        { offsetof(struct chip, bytes), 6 },
        { offsetof(struct chip, words), 12 },
        { offsetof(struct chip, lines[2].vector), 2 },
        { offsetof(struct chip, queue), sizeof(void *) },
        { offsetof(struct chip, queue_len), sizeof(size_t) },
    };
    for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++)
        for (size_t i = 0; i < parts[p].len; i++)
            assert_int_equal(covered[parts[p].offset + i], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wire_form), cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_mutations), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_coverage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
