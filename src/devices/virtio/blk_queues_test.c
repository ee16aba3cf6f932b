/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A disk with four queues on four threads, driven by four threads of a guest at once: what was
 * written is read, whatever pauses, saved states, queue resets and changes of the chain come
 * between, and a reset of the whole device waits for all of its lanes.
 */
#include "devices/virtio/blk.h"
#include "devices/virtio/guest_model.h"
#include "devices/virtio/virtio_pci.h"

#include "base/checked.h"
#include "block/chain.h"
#include "block/dir_for_test.h"
#include "block/image.h"
#include "block/operations.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#ifndef VIRTIO_F_RING_RESET
#define VIRTIO_F_RING_RESET 40
#endif

enum { QUEUES = 4, DEPTH = 8, BLOCK = 4096, BLOCKS = 4096, DISK = BLOCK * BLOCKS };
enum { OWN = BLOCKS / QUEUES }; /* blocks of a queue */

struct driver { /* one thread of the guest, with a queue and a quarter of the disk */
    struct test *t;
    pthread_t thread;
    unsigned index;
    struct gq q;
    uint64_t memory, seed;
    uint64_t values[OWN]; /* a block is full of its value */
    unsigned done;
};

struct test {
    struct guest g;
    struct gdev d;
    struct block_node *node;
    uint64_t features;
    atomic_bool stop;
    pthread_mutex_t registers; /* a queue is selected and then changed */
    struct driver drivers[QUEUES];
};

static const char *test_path(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

/* ---- the guest's threads ---- */

static unsigned below(struct driver *v, unsigned most)
{
    v->seed = v->seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(v->seed >> 33) % most;
}

/* A slot has a page for header, status and range, and one for data. */
static uint64_t slot_at(const struct driver *v, unsigned slot)
{
    return v->memory + slot * 2ull * BLOCK;
}

struct op {
    uint32_t type;
    unsigned block;
    uint64_t value;
};

static void op_submit(struct driver *v, unsigned slot, const struct op *op)
{
    struct guest *g = &v->t->g;
    uint64_t at = slot_at(v, slot), first = (uint64_t)v->index * OWN + op->block;
    struct virtio_blk_outhdr header = { .type = htole32(op->type) };
    struct gq_buf bufs[3] = { { at, sizeof header, false }, { 0 }, { at + 64, 1, true } };
    unsigned count = 3;
    uint64_t data[BLOCK / 8];
    if (op->type == VIRTIO_BLK_T_IN || op->type == VIRTIO_BLK_T_OUT) {
        header.sector = htole64(first * (BLOCK / 512));
        bufs[1] = (struct gq_buf){ at + BLOCK, BLOCK, op->type == VIRTIO_BLK_T_IN };
        for (unsigned i = 0; i < BLOCK / 8; i++)
            data[i] = op->value;
        if (op->type == VIRTIO_BLK_T_OUT)
            guest_write(g, at + BLOCK, data, BLOCK);
    } else if (op->type == VIRTIO_BLK_T_WRITE_ZEROES) {
        struct virtio_blk_discard_write_zeroes range = { .sector = htole64(first * (BLOCK / 512)),
                                                         .num_sectors = htole32(BLOCK / 512),
                                                         .flags = htole32(op->block & 1) };
        guest_write(g, at + 128, &range, sizeof range);
        bufs[1] = (struct gq_buf){ at + 128, sizeof range, false };
    } else { /* flush */
        bufs[1] = bufs[2];
        count = 2;
    }
    uint8_t none = 0xee;
    guest_write(g, at, &header, sizeof header);
    guest_write(g, at + 64, &none, 1);
    assert_true(gq_add(&v->q, bufs, count) >= 0);
}

static void op_check(struct driver *v, unsigned slot, const struct op *op)
{
    struct guest *g = &v->t->g;
    uint64_t data[BLOCK / 8];
    uint8_t status;
    guest_read(g, slot_at(v, slot) + 64, &status, 1);
    assert_int_equal(status, VIRTIO_BLK_S_OK);
    if (op->type == VIRTIO_BLK_T_OUT)
        v->values[op->block] = op->value;
    if (op->type == VIRTIO_BLK_T_WRITE_ZEROES)
        v->values[op->block] = 0;
    if (op->type != VIRTIO_BLK_T_IN)
        return;
    guest_read(g, slot_at(v, slot) + BLOCK, data, BLOCK);
    for (unsigned i = 0; i < BLOCK / 8; i++)
        assert_int_equal(data[i], v->values[op->block]);
}

/* Different blocks each time, so their order does not matter. */
static void batch_make(struct driver *v, struct op ops[DEPTH])
{
    for (unsigned i = 0; i < DEPTH; i++) {
        unsigned what = below(v, 16);
        ops[i] = (struct op){ .type = what < 7    ? VIRTIO_BLK_T_IN
                                      : what < 14 ? VIRTIO_BLK_T_OUT
                                      : what < 15 ? VIRTIO_BLK_T_WRITE_ZEROES
                                                  : VIRTIO_BLK_T_FLUSH,
                              .block = i * (OWN / DEPTH) + below(v, OWN / DEPTH),
                              .value = v->seed };
        op_submit(v, i, &ops[i]);
    }
    gdev_kick(&v->q);
}

static void queue_make(struct driver *v)
{
    struct test *t = v->t;
    struct loop *served =
        t->d.pci ? virtio_lane((struct virtio_device *)t->d.pci, v->index)->loop : NULL;
    t->g.next_page = v->memory + DEPTH * 2ull * BLOCK; /* where its ring lay before */
    gdev_queue(&t->d, &v->q, v->index, v->index & 1 ? GQ_EVENT_IDX | GQ_INDIRECT : 0, 64);
    v->q.served = served;
}

/* The queue alone; the others go on. */
static void queue_renew(struct driver *v)
{
    struct test *t = v->t;
    uint64_t common = t->d.common;
    LOCKED(&t->registers);
    bus_write(t->g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_Q_SELECT, 2, v->index);
    bus_write(t->g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_Q_RESET, 2, 1);
    for (unsigned i = 0; bus_read(t->g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_Q_RESET, 2) != 0;
         i++) {
        assert_true(i < 60000);
        usleep(1000);
    }
    queue_make(v);
}

static void *driver_thread(void *arg)
{
    struct driver *v = arg;
    struct op ops[DEPTH];
    uint32_t written;
    while (!atomic_load(&v->t->stop)) {
        batch_make(v, ops);
        for (unsigned i = 0; i < DEPTH; i++)
            gq_wait(&v->q, &written);
        for (unsigned i = 0; i < DEPTH; i++)
            op_check(v, i, &ops[i]);
        v->done += DEPTH;
        if (v->done % 1024 == 0)
            queue_renew(v);
    }
    return NULL;
}

/* ---- the host ---- */

static void test_open(struct test *t, const char *format)
{
    struct err err = { 0 };
    struct image_create create = { .path = test_path("disk"), .format = format, .size = DISK };
    assert_int_equal(image_create(&create, &err), 0);
    struct block_options options = { .path = create.path, .format = format, .live = true };
    if (block_open(&options, &t->node, &err) < 0)
        fail_msg("%s", err.text);
    pthread_mutex_init(&t->registers, NULL);
    guest_init(&t->g, true);
    struct loop *loops[QUEUES];
    static const char *const names[QUEUES] = { "0", "1", "2", "3" };
    for (unsigned i = 0; i < QUEUES; i++)
        assert_int_equal(machine_io_loop(t->g.m, names[i], &loops[i], NULL), 0);
    struct virtio_blk_options disk = {
        .id = "disk0", .node = t->node, .queues = QUEUES, .loops = loops, .loop_count = QUEUES
    };
    struct pci_device *pci;
    assert_int_equal(virtio_blk_create(t->g.m, &disk, &pci, &err), 0);
    gdev_add(&t->d, &t->g, pci);
    machine_start(t->g.m);
    for (unsigned i = 0; i < QUEUES; i++) {
        t->drivers[i] = (struct driver){ .t = t, .index = i, .seed = 77 + i };
        t->drivers[i].memory = guest_alloc(&t->g, 1 << 20);
    }
    t->features = 1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_MQ |
                  1ull << VIRTIO_BLK_F_WRITE_ZEROES | 1ull << VIRTIO_BLK_F_CONFIG_WCE |
                  1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC |
                  1ull << VIRTIO_F_RING_RESET;
}

static void test_begin(struct test *t)
{
    gdev_negotiate(&t->d, t->features);
    for (unsigned i = 0; i < QUEUES; i++)
        queue_make(&t->drivers[i]);
    gdev_driver_ok(&t->d);
}

static void test_run(struct test *t)
{
    atomic_store(&t->stop, false);
    for (unsigned i = 0; i < QUEUES; i++)
        assert_int_equal(pthread_create(&t->drivers[i].thread, NULL, driver_thread, &t->drivers[i]),
                         0);
}

static void test_stop(struct test *t)
{
    atomic_store(&t->stop, true);
    for (unsigned i = 0; i < QUEUES; i++)
        pthread_join(t->drivers[i].thread, NULL);
}

/* Pauses in the middle, with a saved state that lists every lane's requests. */
static void host_pause(struct test *t)
{
    struct buf saved = { 0 };
    LOCKED(&t->registers); /* a vCPU that stands still writes none */
    machine_pause(t->g.m);
    guest_run_loop(&t->g);
    device_save(&t->d.pci->dev, &saved);
    assert_true(saved.len > 0);
    buf_fini(&saved);
    machine_resume(t->g.m);
}

static void host_snapshot(struct test *t, unsigned n)
{
    struct err err = { 0 };
    struct store *store;
    char name[16];
    snprintf(name, sizeof name, "snap%u", n);
    int fd = open(test_path(name), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(store_open_fd(fd, true, &store, NULL), 0);
    struct snapshot_options o = { .path = test_path(name) };
    if (chain_snapshot(block_chain(t->node), &o, store, &err) < 0)
        fail_msg("%s", err.text);
}

/* All lanes have requests under way when the device is reset: it is 0 only when they ended, and
 * each block has what it had or what was being written. */
static void host_reset(struct test *t)
{
    struct op ops[QUEUES][DEPTH];
    for (unsigned i = 0; i < QUEUES; i++)
        batch_make(&t->drivers[i], ops[i]);
    test_begin(t);
    for (unsigned i = 0; i < QUEUES; i++) {
        struct driver *v = &t->drivers[i];
        for (unsigned n = 0; n < DEPTH; n++) {
            struct op read = { .type = VIRTIO_BLK_T_IN, .block = ops[i][n].block };
            uint64_t found, was = v->values[read.block];
            uint64_t new = ops[i][n].type == VIRTIO_BLK_T_OUT            ? ops[i][n].value
                           : ops[i][n].type == VIRTIO_BLK_T_WRITE_ZEROES ? 0
                                                                         : was;
            uint32_t written;
            op_submit(v, n, &read);
            gdev_kick(&v->q);
            gq_wait(&v->q, &written);
            guest_read(&t->g, slot_at(v, n) + BLOCK, &found, sizeof found);
            assert_true(found == was || found == new);
            v->values[read.block] = found;
            op_check(v, n, &read);
        }
    }
}

static void test_end(struct test *t)
{
    struct err err = { 0 };
    AUTO(free) char *top = strdup(block_path(t->node));
    AUTO(free) char *format = strdup(block_format(t->node));
    guest_fini(&t->g);
    block_close(t->node);
    pthread_mutex_destroy(&t->registers);
    AUTO(image_drop) struct image *image = NULL;
    struct image_options options = { .path = top, .format = format, .readonly = true };
    if (image_open(&options, &image, &err) < 0)
        fail_msg("%s", err.text);
    for (unsigned i = 0; i < BLOCKS; i++) {
        uint64_t data[BLOCK / 8];
        assert_int_equal(image_read(image, data, BLOCK, (uint64_t)i * BLOCK), 0);
        for (unsigned k = 0; k < BLOCK / 8; k++)
            assert_int_equal(data[k], t->drivers[i / OWN].values[i % OWN]);
    }
    struct image_check check = { .repair_leaks = false };
    if (image->format->check) {
        assert_int_equal(image_check(image, &check, &err), 0);
        assert_int_equal(check.count.corruptions, 0);
    }
}

static void run(const char *format)
{
    struct test *t = calloc(1, sizeof *t);
    assert_non_null(t);
    test_open(t, format);
    test_begin(t);
    for (unsigned round = 0; round < 2; round++) {
        test_run(t);
        for (unsigned i = 0; i < 4; i++) {
            usleep(60000);
            host_pause(t);
            if (i == 1)
                host_snapshot(t, round);
            if (i == 2) {
                assert_int_equal(
                    chain_resize(block_chain(t->node), DISK * 2, PREALLOC_OFF, false, NULL), 0);
                assert_int_equal(chain_resize(block_chain(t->node), DISK, PREALLOC_OFF, true, NULL),
                                 0);
            }
        }
        test_stop(t);
        host_reset(t);
    }
    for (unsigned i = 0; i < QUEUES; i++)
        assert_true(t->drivers[i].done >= 16);
    test_end(t);
    free(t);
}

static void test_raw(void **state) { run("raw"); }
static void test_qcow2(void **state) { run("qcow2"); }
static void test_vhdx(void **state) { run("vhdx"); }

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_raw), cmocka_unit_test(test_qcow2),
                                        cmocka_unit_test(test_vhdx) };
    return cmocka_run_group_tests(tests, dir_setup, dir_teardown);
}
