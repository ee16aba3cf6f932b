/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Virtqueues against a driver written from the other side of the specification, and against bad
 * ones. */
#include "devices/virtio/virtqueue.h"

#include "base/checked.h"
#include "devices/virtio/guest_model.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { SIZE = 64, BUFFER = 8192 };

struct fixture {
    struct guest g;
    struct gq q;
    struct virtqueue_regs regs;
    struct virtqueue vq;
    unsigned interrupts, failures;
    char why[100];
};

static void on_broken(void *arg, const char *why)
{
    struct fixture *f = arg;
    f->failures++;
    snprintf(f->why, sizeof f->why, "%s", why);
}
static void on_interrupt(void *arg, unsigned queue) { ((struct fixture *)arg)->interrupts++; }

static uint64_t features_of(unsigned flags)
{
    return (flags & GQ_PACKED ? 1ull << VIRTIO_F_RING_PACKED : 0) |
           (flags & GQ_EVENT_IDX ? 1ull << VIRTIO_RING_F_EVENT_IDX : 0) |
           (flags & GQ_INDIRECT ? 1ull << VIRTIO_RING_F_INDIRECT_DESC : 0);
}

static void queue_open(struct fixture *f, unsigned flags, unsigned size)
{
    gq_init(&f->q, &f->g, flags, size);
    virtqueue_regs_reset(&f->regs, (uint16_t)size);
    f->regs.desc = f->q.desc;
    f->regs.driver = f->q.driver;
    f->regs.device = f->q.device;
    f->regs.enabled = 1;
    virtqueue_init(&f->vq, f->g.m, 3, &f->regs);
    f->vq.broken = on_broken;
    f->vq.interrupt = on_interrupt;
    f->vq.arg = f;
    virtqueue_start(&f->vq, features_of(flags));
}

static struct fixture *open_fixture(unsigned flags, unsigned size)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    guest_init(&f->g, false);
    queue_open(f, flags, size);
    return f;
}

static void close_fixture(struct fixture *f)
{
    virtqueue_fini(&f->vq);
    guest_fini(&f->g);
    free(f);
}

static uint64_t seed = 0x9e3779b97f4a7c15;
static unsigned rnd(unsigned below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)(seed >> 33) % below;
}

/* Random chains, completed in random order, checked byte by byte on both sides. */
static void traffic(unsigned flags, unsigned size)
{
    struct fixture *f = open_fixture(flags, size);
    uint64_t memory = guest_alloc(&f->g, (uint64_t)size * BUFFER);
    struct virtqueue_elem *held[SIZE];
    unsigned held_count = 0, sent = 0, done = 0;
    uint32_t sum[1024] = { 0 };

    while (done < 3000) {
        if (sent < 3000 && f->q.free_count >= 4 && rnd(2)) {
            uint64_t at = memory + (uint64_t)(f->q.free_head % size) * BUFFER;
            unsigned outs = 1 + rnd(2), ins = rnd(3);
            struct gq_buf bufs[4];
            uint8_t data[2][64];
            uint32_t total = 0;
            for (unsigned i = 0; i < outs; i++) {
                uint32_t len = 1 + rnd(64);
                for (unsigned k = 0; k < len; k++)
                    total += data[i][k] = (uint8_t)rnd(256);
                bufs[i] = (struct gq_buf){ at + i * 4096 - (i ? 7 : 0), len, false };
                guest_write(&f->g, bufs[i].gpa, data[i], len);
            }
            for (unsigned i = 0; i < ins; i++)
                bufs[outs + i] = (struct gq_buf){ at + 1024 + i * 512, 100 + rnd(100), true };
            int id = gq_add(&f->q, bufs, outs + ins);
            if (id >= 0) {
                sum[id] = total;
                sent++;
            }
        }
        struct virtqueue_elem *elem = held_count < SIZE ? virtqueue_pop(&f->vq) : NULL;
        if (elem)
            held[held_count++] = elem;
        if (held_count && rnd(2)) {
            unsigned pick = rnd(held_count);
            elem = held[pick];
            held[pick] = held[--held_count];
            uint8_t flat[256];
            size_t n = iov_to_buf(elem->out, elem->out_count, 0, flat, sizeof flat);
            assert_int_equal(n, elem->out_bytes);
            uint32_t total = 0;
            for (size_t i = 0; i < n; i++)
                total += flat[i];
            uint8_t answer[4] = { (uint8_t)total, (uint8_t)(total >> 8), (uint8_t)(total >> 16),
                                  0 };
            n = iov_from_buf(elem->in, elem->in_count, 0, answer, 4);
            assert_int_equal(n, elem->in_bytes ? 4 : 0);
            virtqueue_push(elem, (uint32_t)n);
        }
        uint32_t len;
        int id = gq_get(&f->q, &len);
        if (id >= 0) {
            assert_true(len == 0 || len == 4);
            if (len) {
                uint8_t answer[4];
                guest_read(&f->g, memory + (uint64_t)((unsigned)id % size) * BUFFER + 1024, answer,
                           4);
                assert_int_equal(answer[0] | answer[1] << 8 | answer[2] << 16, sum[id] & 0xffffff);
            }
            done++;
        }
    }
    assert_int_equal(f->failures, 0);
    assert_int_equal(f->vq.inuse, 0);
    assert_int_equal(f->vq.leases, 0);
    close_fixture(f);
}

static void test_traffic(void **state)
{
    for (unsigned flags = 0; flags < 8; flags++)
        traffic(flags, SIZE);
    traffic(GQ_PACKED, 37); /* packed rings have any size */
    traffic(GQ_PACKED | GQ_INDIRECT | GQ_EVENT_IDX, 5);
    traffic(0, 8);
}

static struct gq_buf some(struct fixture *f, bool write)
{
    return (struct gq_buf){ guest_alloc(&f->g, 4096), 16, write };
}

static void notifications(unsigned flags)
{
    struct fixture *f = open_fixture(flags, SIZE);
    struct gq_buf buf = some(f, true);
    uint32_t len;

    /* interrupts */
    gq_interrupts(&f->q, true);
    for (unsigned i = 0; i < 200; i++) {
        gq_add(&f->q, &buf, 1);
        virtqueue_push(virtqueue_pop(&f->vq), 0);
        virtqueue_notify(&f->vq);
        assert_int_equal(f->interrupts, i + 1);
        assert_true(gq_get(&f->q, &len) >= 0);
        gq_interrupts(&f->q, true);
    }
    virtqueue_notify(&f->vq); /* nothing new */
    assert_int_equal(f->interrupts, 200);
    gq_interrupts(&f->q, false);
    for (unsigned i = 0; i < 200; i++) {
        gq_add(&f->q, &buf, 1);
        virtqueue_push(virtqueue_pop(&f->vq), 0);
        virtqueue_notify(&f->vq);
        assert_true(gq_get(&f->q, &len) >= 0);
        gq_interrupts(&f->q, false);
    }
    assert_int_equal(f->interrupts, 200);

    /* doorbells: on, then off, then one that came in between is seen when they go on again */
    assert_false(virtqueue_notification(&f->vq, true));
    gq_add(&f->q, &buf, 1);
    assert_true(gq_wants_kick(&f->q, 1));
    virtqueue_notification(&f->vq, false);
    virtqueue_push(virtqueue_pop(&f->vq), 0);
    assert_true(gq_get(&f->q, &len) >= 0);
    gq_add(&f->q, &buf, 1);
    assert_false(gq_wants_kick(&f->q, 1));
    assert_true(virtqueue_notification(&f->vq, true));
    virtqueue_push(virtqueue_pop(&f->vq), 0);
    assert_false(virtqueue_notification(&f->vq, true));
    gq_add(&f->q, &buf, 1);
    assert_true(gq_wants_kick(&f->q, 1));
    close_fixture(f);
}

static void test_notifications(void **state)
{
    for (unsigned flags = 0; flags < 4; flags++)
        notifications(flags);
}

/* Several buffers appear at once, and one that was not needed goes back. */
static void many(unsigned flags)
{
    struct fixture *f = open_fixture(flags, 8);
    struct gq_buf bufs[2] = { some(f, true), some(f, true) };
    for (unsigned round = 0; round < 20; round++) {
        int ids[3];
        for (unsigned i = 0; i < 3; i++) {
            ids[i] = gq_add(&f->q, bufs, 1 + (i == 1));
            assert_true(ids[i] >= 0);
        }
        struct virtqueue_elem *elems[3];
        for (unsigned i = 0; i < 3; i++)
            assert_non_null(elems[i] = virtqueue_pop(&f->vq));
        assert_null(virtqueue_pop(&f->vq));
        virtqueue_unpop(elems[2]);
        uint32_t written[2] = { 5, 7 }, len;
        virtqueue_push_many(&f->vq, elems, written, 2);
        assert_int_equal(gq_get(&f->q, &len), ids[0]);
        assert_int_equal(len, 5);
        assert_int_equal(gq_get(&f->q, &len), ids[1]);
        assert_int_equal(len, 7);
        assert_int_equal(gq_get(&f->q, &len), -1);
        struct virtqueue_elem *again = virtqueue_pop(&f->vq);
        assert_non_null(again);
        virtqueue_push(again, 1);
        assert_int_equal(gq_get(&f->q, &len), ids[2]);
    }
    assert_int_equal(f->failures, 0);
    close_fixture(f);
}

static void test_many(void **state)
{
    for (unsigned flags = 0; flags < 8; flags++)
        many(flags);
}

/* ---- A driver that breaks the rules ---- */

static void expect_broken(struct fixture *f, const char *why)
{
    assert_null(virtqueue_pop(&f->vq));
    assert_null(virtqueue_pop(&f->vq));
    assert_int_equal(f->failures, 1);
    if (!strstr(f->why, why))
        fail_msg("'%s' is not '%s'", f->why, why);
    assert_int_equal(f->vq.inuse, 0);
    assert_int_equal(f->vq.leases, 0);
    close_fixture(f);
}

static void put16(struct fixture *f, uint64_t gpa, uint16_t v) { guest_write(&f->g, gpa, &v, 2); }

static void test_bad_split(void **state)
{
    struct fixture *f;
    struct gq_buf b[3];

    f = open_fixture(0, SIZE); /* the index ran away */
    put16(f, f->q.driver + 2, SIZE + 1);
    expect_broken(f, "ran away");

    f = open_fixture(0, SIZE); /* head beyond the table */
    put16(f, f->q.driver + 4, SIZE);
    put16(f, f->q.driver + 2, 1);
    expect_broken(f, "beyond the descriptor table");

    f = open_fixture(0, SIZE); /* next beyond the table */
    b[0] = b[1] = some(f, false);
    gq_add(&f->q, b, 2);
    put16(f, f->q.desc + 14, 0xffff);
    expect_broken(f, "beyond the descriptor table");

    f = open_fixture(0, SIZE); /* a loop */
    b[0] = b[1] = some(f, false);
    gq_add(&f->q, b, 2);
    put16(f, f->q.desc + 14, 0);
    expect_broken(f, "loop");

    f = open_fixture(0, SIZE); /* readable behind writable */
    b[0] = some(f, true);
    b[1] = some(f, false);
    gq_add(&f->q, b, 2);
    expect_broken(f, "behind a writable one");

    f = open_fixture(0, SIZE); /* not negotiated */
    b[0] = some(f, false);
    gq_add(&f->q, b, 1);
    put16(f, f->q.desc + 12, 4);
    expect_broken(f, "not negotiated");

    f = open_fixture(GQ_INDIRECT, SIZE); /* indirect in indirect */
    b[0] = b[1] = some(f, false);
    gq_add(&f->q, b, 2);
    put16(f, f->q.tables + 12, 4);
    expect_broken(f, "inside an indirect table");

    f = open_fixture(GQ_INDIRECT, SIZE); /* a loop in the table */
    b[0] = b[1] = some(f, false);
    gq_add(&f->q, b, 2);
    put16(f, f->q.tables + 16 + 12, 1);
    put16(f, f->q.tables + 16 + 14, 0);
    expect_broken(f, "loop");

    f = open_fixture(GQ_INDIRECT, SIZE); /* a table of 17 bytes */
    b[0] = b[1] = some(f, false);
    gq_add(&f->q, b, 2);
    put16(f, f->q.desc + 8, 17);
    expect_broken(f, "impossible indirect table");

    f = open_fixture(0, SIZE); /* a buffer that begins inside and ends outside of memory */
    b[0] = (struct gq_buf){ GUEST_MEMORY - 8, 16, true };
    gq_add(&f->q, b, 1);
    expect_broken(f, "outside of memory");

    f = open_fixture(0, SIZE); /* one that wraps around */
    b[0] = some(f, true);
    b[1] = (struct gq_buf){ UINT64_MAX - 8, 16, true };
    gq_add(&f->q, b, 2);
    expect_broken(f, "outside of memory");

    f = open_fixture(0, SIZE); /* more than 4 GiB */
    b[0] = b[1] = (struct gq_buf){ 0, 0xffffffff, false };
    gq_add(&f->q, b, 2);
    expect_broken(f, "4 GiB");
}

static void test_bad_packed(void **state)
{
    struct gq_buf b[3];
    struct fixture *f = open_fixture(GQ_PACKED, 4); /* a chain round the whole ring and on */
    b[0] = b[1] = some(f, false);
    gq_add(&f->q, b, 2);
    for (unsigned i = 1; i < 4; i++)
        put16(f, f->q.desc + 16 * i + 14, 1 | 1 << 7);
    expect_broken(f, "longer than the ring");

    f = open_fixture(GQ_PACKED | GQ_INDIRECT, SIZE);
    b[0] = b[1] = some(f, false);
    gq_add(&f->q, b, 2);
    put16(f, f->q.desc + 14, 4 | 1 | 1 << 7);
    expect_broken(f, "inside a chain");
}

/* The ring itself is not in memory, or cannot be one. */
static void test_bad_ring(void **state)
{
    struct fixture *f = open_fixture(0, SIZE);
    f->regs.driver = GUEST_MEMORY + 4096;
    virtqueue_start(&f->vq, 0);
    expect_broken(f, "outside of memory");

    f = open_fixture(0, SIZE);
    f->regs.device = UINT64_MAX - 3;
    virtqueue_start(&f->vq, 0);
    expect_broken(f, "outside of memory");

    f = open_fixture(0, SIZE);
    f->regs.desc += 8;
    virtqueue_start(&f->vq, 0);
    expect_broken(f, "misaligned");

    f = open_fixture(0, SIZE);
    f->regs.size = 12;
    virtqueue_start(&f->vq, 0);
    expect_broken(f, "size");

    /* The used ring vanishes between pop and push: nothing is written, the element is gone. */
    f = open_fixture(0, SIZE);
    struct gq_buf b = some(f, true);
    gq_add(&f->q, &b, 1);
    struct virtqueue_elem *elem = virtqueue_pop(&f->vq);
    f->regs.device = GUEST_MEMORY;
    virtqueue_push(elem, 1);
    virtqueue_notify(&f->vq);
    assert_int_equal(f->interrupts, 0);
    expect_broken(f, "outside of memory");
}

/* The same head over and over: no more is taken than the ring has entries. */
static void test_flood(void **state)
{
    struct fixture *f = open_fixture(0, 8);
    struct gq_buf b = some(f, true);
    gq_add(&f->q, &b, 1);
    unsigned taken = 0;
    for (uint16_t idx = 1; idx < 100; idx++) {
        put16(f, f->q.driver + 2, idx);
        taken += virtqueue_pop(&f->vq) != NULL;
    }
    assert_int_equal(taken, 8);
    assert_int_equal(f->failures, 1);
    close_fixture(f);
}

/* Chains of many leases: back-pressure, not memory without bounds. */
static void test_starved(void **state)
{
    struct fixture *f = open_fixture(GQ_INDIRECT, SIZE);
    struct gq_buf *b = calloc(1024, sizeof *b);
    assert_non_null(b);
    uint64_t page = guest_alloc(&f->g, 4096), table = guest_alloc(&f->g, 1024 * 16);
    struct vring_desc d = { .addr = page, .len = 1, .flags = 1 };
    for (unsigned i = 0; i < 1024; i++) {
        d.next = (uint16_t)(i + 1);
        d.flags = i < 1023 ? 1 : 0;
        guest_write(&f->g, table + 16 * i, &d, sizeof d);
    }
    for (unsigned i = 0; i < SIZE; i++) {
        struct gq_buf ind = { table, 1024 * 16, false };
        int id = gq_add(&f->q, &ind, 1);
        assert_true(id >= 0);
        put16(f, f->q.desc + 16 * (unsigned)id + 12, 4);
    }
    unsigned taken = 0;
    while (virtqueue_pop(&f->vq))
        taken++;
    assert_in_range(taken, 1, SIZE - 1);
    assert_true(f->vq.starved);
    assert_int_equal(f->failures, 0);
    while (taken < SIZE) {
        virtqueue_push(f->vq.inflight, 0);
        assert_non_null(virtqueue_pop(&f->vq));
        taken++;
    }
    assert_null(virtqueue_pop(&f->vq));
    free(b);
    close_fixture(f);
}

/* ---- State ---- */

static void in_flight(unsigned flags)
{
    struct fixture *f = open_fixture(flags, SIZE);
    struct gq_buf b[3] = { some(f, false), some(f, true), some(f, true) };
    struct virtqueue_elem *elems[10];
    int ids[10];
    for (unsigned i = 0; i < 10; i++) {
        ids[i] = gq_add(&f->q, b, 1 + i % 3);
        elems[i] = virtqueue_pop(&f->vq);
    }
    uint32_t len;
    for (unsigned i = 1; i < 10;
         i += 2) { /* out of order: packed slots of others are overwritten */
        virtqueue_push(elems[i], i);
        assert_int_equal(gq_get(&f->q, &len), ids[i]);
    }
    struct buf saved = { 0 };
    virtqueue_inflight_save(&f->vq, &saved);
    virtqueue_fini(&f->vq);

    uint32_t slots[4] = { 0 }, count[4] = { 0 };
    assert_int_equal(virtqueue_inflight_check(saved.data, saved.len, 4, slots, count, NULL), 0);
    assert_int_equal(count[3], 5);
    for (size_t cut = 1; cut < 24; cut++) /* truncated ones are refused */
        assert_true(virtqueue_inflight_check(saved.data, saved.len - cut, 4, slots, count, NULL) <
                    0);

    virtqueue_init(&f->vq, f->g.m, 3, &f->regs);
    f->vq.broken = on_broken;
    f->vq.interrupt = on_interrupt;
    f->vq.arg = f;
    virtqueue_start(&f->vq, features_of(flags));
    virtqueue_inflight_load(&f->vq, saved.data, saved.len);
    struct buf again = { 0 };
    virtqueue_inflight_save(&f->vq, &again);
    assert_int_equal(saved.len, again.len);
    assert_memory_equal(saved.data, again.data, saved.len);
    for (unsigned i = 0; i < 10; i += 2) {
        struct virtqueue_elem *elem = f->vq.inflight;
        assert_non_null(elem);
        assert_true(virtqueue_elem_lease(elem));
        assert_int_equal(elem->out_bytes, 16);
        assert_int_equal(elem->in_bytes, 16 * (i % 3));
        virtqueue_push(elem, i);
        assert_int_equal(gq_get(&f->q, &len), ids[i]);
        assert_int_equal(len, i);
    }
    assert_null(f->vq.inflight);
    assert_int_equal(f->failures, 0);
    buf_fini(&saved);
    buf_fini(&again);
    close_fixture(f);
}

static void test_in_flight(void **state)
{
    for (unsigned flags = 0; flags < 8; flags++)
        in_flight(flags);
}

static void test_iov(void **state)
{
    char a[3] = "abc", b[4] = "defg", out[8] = "";
    struct iovec iov[3] = { { a, 3 }, { NULL, 0 }, { b, 4 } }, part[3];
    assert_int_equal(iov_to_buf(iov, 3, 2, out, 3), 3);
    assert_memory_equal(out, "cde", 3);
    assert_int_equal(iov_to_buf(iov, 3, 6, out, 8), 1);
    assert_int_equal(iov_to_buf(iov, 3, 7, out, 8), 0);
    assert_int_equal(iov_from_buf(iov, 3, 2, "XY", 2), 2);
    assert_memory_equal(a, "abX", 3);
    assert_memory_equal(b, "Yefg", 4);
    assert_int_equal(iov_part(iov, 3, 1, 4, part), 2);
    assert_ptr_equal(part[0].iov_base, a + 1);
    assert_int_equal(part[1].iov_len, 2);
    assert_int_equal(iov_part(iov, 3, 7, 4, part), 0);
}

static void test_coverage(void **state)
{
    uint8_t covered[sizeof(struct virtqueue_regs)] = { 0 };
    state_coverage(&virtqueue_state, covered);
    for (size_t i = 0; i < sizeof covered; i++)
        assert_true(covered[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_traffic),    cmocka_unit_test(test_notifications),
        cmocka_unit_test(test_many),       cmocka_unit_test(test_bad_split),
        cmocka_unit_test(test_bad_packed), cmocka_unit_test(test_bad_ring),
        cmocka_unit_test(test_flood),      cmocka_unit_test(test_starved),
        cmocka_unit_test(test_in_flight),  cmocka_unit_test(test_iov),
        cmocka_unit_test(test_coverage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
