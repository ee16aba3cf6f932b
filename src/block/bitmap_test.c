/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dirty bitmaps of qcow2 across power cuts: after a cut at any event, torn or reordered, a bitmap
 * is complete (whatever differs from the content when it began is in it), unless another program
 * wrote to the image in between; then nobody takes it for complete.
 *
 *     bitmap_test [ROUNDS [SEED]]
 */
#include "base/checked.h"
#include "base/log.h"
#include "base/text.h"
#include "block/qcow2.h"
#include "block/test_store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { UNIT = 64 << 10, UNITS = 1024, STEPS = 90 }; /* 64 MiB: 16 regions of notes */
#define DISK ((uint64_t)UNIT * UNITS)

static unsigned rounds = 1;
static uint64_t seed = 0xb17;
static const char name[] = "nightly";

static struct image *disk_open(struct recorder *file, bool readonly)
{
    struct err err = { 0 };
    struct store *store;
    struct image *image;
    struct image_options options = { .path = "/disk", .format = "qcow2", .readonly = readonly };
    assert_int_equal(recorder_open(file, &store), 0);
    if (image_open_store(&options, store, &image, &err) < 0)
        fail_msg("%s", err.text);
    return image;
}

static void disk_create(struct recorder *file)
{
    struct err err = { 0 };
    struct store *store;
    struct image_create create = {
        .path = "/disk", .format = "qcow2", .size = DISK, .options = "cluster_size=4K"
    };
    assert_int_equal(recorder_open(file, &store), 0);
    if (image_create_store(&create, store, &err) < 0)
        fail_msg("%s", err.text);
    store_close(store);
}

/* A unit shows its number of the last change in each of its bytes, or 0. */
static void unit_change(struct image *image, unsigned unit, uint8_t number)
{
    static uint8_t data[UNIT];
    uint64_t at = (uint64_t)unit * UNIT;
    unsigned what = (unsigned)(test_random(&seed) % 4);
    memset(data, number, sizeof data);
    int r = what == 0   ? image_zero(image, at, UNIT, 0)
            : what == 1 ? image_discard(image, at, UNIT)
                        : image_write(image, data, UNIT, at);
    assert_int_equal(r, 0);
}

static void must(int r, const struct err *err)
{
    if (r < 0)
        fail_msg("%s", err->text);
}

static void step(struct image **image, struct recorder *file, bool *touched)
{
    struct err err = { 0 };
    unsigned unit = (unsigned)(test_random(&seed) % UNITS);
    switch (test_random(&seed) % 12) {
    case 0: must(qcow2_bitmaps_checkpoint(*image, &err), &err); break;
    case 1: assert_int_equal(image_flush(*image), 0); break;
    case 2:
        if (test_random(&seed) % 3 == 0) {
            assert_int_equal(image_close(*image), 0);
            *image = disk_open(file, false);
            break;
        }
        __attribute__((fallthrough));
    default:
        for (unsigned n = (unsigned)(test_random(&seed) % 3) + 1; n && unit < UNITS; n--, unit++) {
            touched[unit] = true;
            unit_change(*image, unit, (uint8_t)(2 + test_random(&seed) % 250));
        }
    }
}

/* What is not marked is as it was: 1 in the units that were written before, otherwise 0. */
static void complete(struct image *image, const bool *touched)
{
    static uint8_t data[UNIT];
    struct bitmap_bits bits;
    struct err err = { 0 };
    must(qcow2_bitmap_read(image, name, &bits, &err), &err);
    assert_true(qcow2_bitmap_is_good(image, name));
    assert_int_equal(bits.count, UNITS);
    for (unsigned unit = 0; unit < UNITS; unit++) {
        uint8_t was = unit % 8 == 0;
        if (!touched[unit] || (bits.data[unit / 8] >> (unit % 8) & 1))
            continue;
        assert_int_equal(image_read(image, data, UNIT, (uint64_t)unit * UNIT), 0);
        if (data[0] != was || memcmp(data, data + 1, UNIT - 1) != 0)
            fail_msg("unit %u changed from %u to %u and is not marked", unit, was, data[0]);
    }
    free(bits.data);
}

static void sound(struct image *image)
{
    struct err err = { 0 };
    struct image_check check = { 0 };
    must(image_check(image, &check, &err), &err);
    assert_int_equal(check.count.corruptions + check.count.check_errors, 0);
}

/* Twice: what the first crash left is not forgotten by the second. */
static void crash(struct buf *content, const bool *touched)
{
    for (unsigned again = 0; again < 2; again++) {
        struct recorder file;
        recorder_init(&file, content);
        file.off = true;
        struct image *image = disk_open(&file, false);
        complete(image, touched);
        sound(image);
        /* Closed on a copy, so that the file is left as a crash leaves it. */
        struct buf copy = { 0 };
        buf_add(&copy, content->data, content->len);
        assert_int_equal(image_close(image), 0);
        buf_fini(content);
        *content = copy;
        recorder_fini(&file);
    }
}

/* Another program clears the feature bit that it does not know before it writes. */
static void foreign(const struct buf *content)
{
    struct buf copy = { 0 };
    struct recorder file;
    buf_add(&copy, content->data, content->len);
    copy.data[88] &= 0x7f;
    recorder_init(&file, &copy);
    file.off = true;
    struct image *image = disk_open(&file, false);
    assert_false(qcow2_bitmap_is_good(image, name));
    assert_int_equal(image_close(image), 0);
    image = disk_open(&file, false); /* nor later */
    assert_false(qcow2_bitmap_is_good(image, name));
    assert_int_equal(image_close(image), 0);
    recorder_fini(&file);
    buf_fini(&copy);
}

static void disk_prepare(struct recorder *file)
{
    static uint8_t ones[UNIT];
    struct err err = { 0 };
    memset(ones, 1, sizeof ones);
    disk_create(file);
    struct image *image = disk_open(file, false);
    for (unsigned unit = 0; unit < UNITS; unit += 8)
        assert_int_equal(image_write(image, ones, UNIT, (uint64_t)unit * UNIT), 0);
    must(qcow2_bitmap_add(image, name, UNIT, &err), &err);
    assert_int_equal(image_close(image), 0);
}

static void test_cuts(void **state)
{
    log_set_level(LOG_ERROR, LOG_ERROR);
    unsigned long cuts = 0, in_use = 0;
    for (unsigned round = 0; round < rounds; round++) {
        static bool touched[UNITS];
        struct recorder file;
        struct buf content = { 0 }, durable = { 0 };
        memset(touched, 0, sizeof touched);
        recorder_init(&file, &content);
        file.off = true;
        disk_prepare(&file);
        buf_add(&durable, content.data, content.len);
        file.off = false;
        struct image *image = disk_open(&file, false);
        for (unsigned i = 0; i < STEPS; i++)
            step(&image, &file, touched);
        assert_int_equal(image_close(image), 0);
        for (size_t from = 0, count = 0; count <= file.count; count += 1 + test_random(&seed) % 5) {
            struct buf out = { 0 };
            recorder_cut(&file, count, &durable, &from, (unsigned)(test_random(&seed) % 4), &seed,
                         &out);
            bool crashed = out.data[88] & 0x80;
            in_use += crashed;
            if (crashed && count % 7 == 0)
                foreign(&out);
            crash(&out, touched);
            buf_fini(&out);
            cuts++;
        }
        recorder_fini(&file);
        buf_fini(&content);
        buf_fini(&durable);
    }
    print_message("%lu cuts, %lu while in use\n", cuts, in_use);
    assert_true(in_use > cuts / 2);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        rounds = (unsigned)strtoul(argv[1], NULL, 10);
    if (argc > 2)
        seed = strtoull(argv[2], NULL, 0);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_cuts) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
