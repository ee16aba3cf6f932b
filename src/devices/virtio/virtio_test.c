/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The virtio devices, driven through PCI as a guest's drivers would: configuration cycles, BAR
 * accesses, rings in memory, doorbells, MSI-X messages.
 */
#include "base/checked.h"
#include "base/log.h"
#include "base/text.h"
#include "block/driver.h"
#include "devices/input.h"
#include "devices/pci.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/console.h"
#include "devices/virtio/guest_model.h"
#include "devices/virtio/input.h"
#include "devices/virtio/net.h"
#include "devices/virtio/rng.h"
#include "devices/virtio/virtio_pci.h"
#include "net/net.h"

#include <endian.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_console.h>
#include <linux/virtio_net.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define BIT(n) (1ull << (n))
#define RING_FEATURES (BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_RING_F_INDIRECT_DESC))

static uint64_t seed;
static uint32_t rnd32(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 29);
}
static unsigned rnd(unsigned below) { return rnd32() % below; }

static unsigned ring_flags(uint64_t features)
{
    return (features & BIT(VIRTIO_F_RING_PACKED) ? GQ_PACKED : 0) |
           (features & BIT(VIRTIO_RING_F_EVENT_IDX) ? GQ_EVENT_IDX : 0) |
           (features & BIT(VIRTIO_RING_F_INDIRECT_DESC) ? GQ_INDIRECT : 0);
}

static void wait_for(bool (*fn)(void *arg), void *arg)
{
    for (unsigned i = 0; i < 5000; i++) {
        if (fn(arg))
            return;
        usleep(1000);
    }
    fail_msg("it did not happen within 5 seconds");
}

/* ---- A disk of memory that can be full or hang ---- */

enum { FAKE_SIZE = 4 << 20 };
enum fake_mode { FAKE_WORKS, FAKE_FULL, FAKE_BROKEN, FAKE_HANGS };

struct fake {
    struct block_node node;
    _Atomic int mode;
    _Atomic unsigned submitted, flags; /* flags: of the last request */
    struct block_request *held;        /* io_loop */
    uint8_t data[FAKE_SIZE];
};

static int fake_do(struct fake *fake, struct block_request *req)
{
    uint8_t *at = fake->data + req->offset;
    if (req->op == BLOCK_WRITE_ZEROES || req->op == BLOCK_DISCARD)
        memset(at, 0, req->len);
    for (unsigned i = 0; i < req->iov_count; i++) {
        if (req->op == BLOCK_WRITE)
            memcpy(at, req->iov[i].iov_base, req->iov[i].iov_len);
        else
            memcpy(req->iov[i].iov_base, at, req->iov[i].iov_len);
        at += req->iov[i].iov_len;
    }
    return 0;
}

static void fake_submit(struct block_queue *queue, struct block_request *req)
{
    struct fake *fake = (struct fake *)queue->node;
    fake->submitted++;
    fake->flags = req->flags;
    if (fake->mode == FAKE_HANGS) {
        req->next = fake->held;
        fake->held = req;
    } else if (fake->mode == FAKE_BROKEN) {
        block_complete_later(req, -EIO);
    } else if (fake->mode == FAKE_FULL && req->op == BLOCK_WRITE) {
        block_complete_later(req, -ENOSPC);
    } else {
        block_complete_later(req, fake_do(fake, req));
    }
}

static int fake_queue_create(struct block_node *node, const struct block_queue *init,
                             struct block_queue **out, struct err *err)
{
    struct block_queue *queue = calloc(1, sizeof *queue);
    assert_non_null(queue);
    block_queue_init(queue, init);
    *out = queue;
    return 0;
}
static void fake_queue_destroy(struct block_queue *queue) { free(queue); }
static void fake_nothing(struct block_queue *queue) {}
static void fake_close(struct block_node *node) { free(node); }

static const struct block_driver fake_driver = {
    .name = "fake",
    .close = fake_close,
    .queue_create = fake_queue_create,
    .queue_destroy = fake_queue_destroy,
    .submit = fake_submit,
    .kick = fake_nothing,
    .reap = fake_nothing,
};

static struct fake *fake_open(void)
{
    struct fake *fake = calloc(1, sizeof *fake);
    assert_non_null(fake);
    assert_int_equal(block_node_init(&fake->node, &fake_driver, "fake", NULL), 0);
    fake->node.size = FAKE_SIZE;
    fake->node.limits = (struct block_limits){ .request_align = 512,
                                               .max_transfer = 1 << 20,
                                               .max_segments = 1024,
                                               .max_discard = 1 << 20,
                                               .discard_align = 4096,
                                               .max_write_zeroes = 1 << 20 };
    return fake;
}

/* On io_loop: lets go what hung. */
static void fake_release(void *arg)
{
    struct fake *fake = arg;
    struct block_request *req = TAKE(fake->held);
    fake->mode = FAKE_WORKS;
    while (req) {
        struct block_request *next = req->next;
        block_complete(req, fake_do(fake, req));
        req = next;
    }
}

/* ---- Disks ---- */

struct disk {
    struct guest g;
    struct block_node *node;
    struct fake *fake;
    struct gdev d;
    struct gq q[2];
    uint64_t memory;
};

/* A page for header and status, then data, for each slot. */
enum { SLOT = 64 << 10 };
static uint64_t slot_at(struct disk *k, unsigned slot) { return k->memory + slot * (uint64_t)SLOT; }

static void disk_open(struct disk *k, struct block_node *node, const char *id, unsigned queues,
                      enum virtio_blk_policy policy)
{
    struct pci_device *pci;
    guest_init(&k->g, true);
    k->node = node;
    struct virtio_blk_options options = { .id = id,
                                          .node = node,
                                          .serial = "SERIAL-0123456789-TOO-LONG",
                                          .queues = queues,
                                          .on_full = policy,
                                          .on_error = policy };
    assert_int_equal(virtio_blk_create(k->g.m, &options, &pci, NULL), 0);
    gdev_add(&k->d, &k->g, pci);
    k->memory = guest_alloc(&k->g, 64 * SLOT);
}

static void disk_queues(struct disk *k, uint64_t features, unsigned queues)
{
    gdev_negotiate(&k->d, features);
    for (unsigned i = 0; i < queues; i++)
        gdev_queue(&k->d, &k->q[i], i, ring_flags(features), 128);
    gdev_driver_ok(&k->d);
}

static void disk_close(struct disk *k)
{
    guest_fini(&k->g);
    block_close(k->node);
}

/* Queues a request; data lies in the slot behind the first page. */
static int disk_add(struct disk *k, unsigned queue, unsigned slot, uint32_t type, uint64_t sector,
                    uint32_t len)
{
    struct virtio_blk_outhdr header = { .type = htole32(type), .sector = htole64(sector) };
    uint64_t at = slot_at(k, slot);
    uint8_t none = 0xee;
    bool out = type != VIRTIO_BLK_T_IN && type != VIRTIO_BLK_T_GET_ID;
    guest_write(&k->g, at, &header, sizeof header);
    guest_write(&k->g, at + 64, &none, 1);
    struct gq_buf bufs[4] = { { at, 16, false },
                              { at + 4096, len / 2, !out },
                              { at + 4096 + len / 2, len - len / 2, !out },
                              { at + 64, 1, true } };
    if (!len)
        bufs[1] = bufs[3];
    return gq_add(&k->q[queue], bufs, len ? 4 : 2);
}

static uint8_t disk_status(struct disk *k, unsigned slot)
{
    uint8_t status;
    guest_read(&k->g, slot_at(k, slot) + 64, &status, 1);
    return status;
}

static uint8_t disk_do(struct disk *k, uint32_t type, uint64_t sector, uint32_t len)
{
    uint32_t written;
    int id = disk_add(k, 0, 0, type, sector, len);
    assert_true(id >= 0);
    gdev_kick(&k->q[0]);
    assert_int_equal(gq_wait(&k->q[0], &written), id);
    return disk_status(k, 0);
}

static struct block_node *raw_file(char path[32], uint64_t size)
{
    struct block_node *node;
    struct err err = { 0 };
    strcpy(path, "/tmp/virtio-test-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
    struct block_options options = { .path = path, .format = "raw" };
    if (block_open(&options, &node, &err) < 0)
        fail_msg("%s", err.text);
    return node;
}

static void disk_traffic(struct disk *k, int fd, uint8_t *shadow, unsigned rounds)
{
    unsigned sectors = FAKE_SIZE / 512;
    for (unsigned round = 0; round < rounds; round++) {
        /* 40 requests at once on both queues, each in a region of its own */
        uint64_t sector[40];
        uint32_t type[40], len[40];
        uint8_t *data = malloc(40 * SLOT);
        assert_non_null(data);
        for (unsigned i = 0; i < 40; i++) {
            sector[i] = sectors / 40 * i + rnd(16);
            len[i] = 512 * (1 + rnd(64));
            type[i] = rnd(2) ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
            uint8_t *at = data + i * SLOT;
            for (unsigned n = 0; n < len[i]; n++)
                at[n] = (uint8_t)rnd32();
            guest_write(&k->g, slot_at(k, i) + 4096, at, len[i]);
            assert_true(disk_add(k, i & 1, i, type[i], sector[i], len[i]) >= 0);
            if (i % 7 == 6)
                gdev_kick(&k->q[i & 1]);
        }
        gdev_kick(&k->q[0]);
        gdev_kick(&k->q[1]);
        for (unsigned i = 0; i < 40; i++) {
            uint32_t written;
            gq_wait(&k->q[i & 1], &written);
        }
        for (unsigned i = 0; i < 40; i++) {
            assert_int_equal(disk_status(k, i), 0);
            if (type[i] == VIRTIO_BLK_T_OUT) {
                memcpy(shadow + sector[i] * 512, data + i * SLOT, len[i]);
            } else {
                guest_read(&k->g, slot_at(k, i) + 4096, data + i * SLOT, len[i]);
                assert_memory_equal(data + i * SLOT, shadow + sector[i] * 512, len[i]);
            }
        }
        free(data);
    }
    assert_int_equal(disk_do(k, VIRTIO_BLK_T_FLUSH, 0, 0), 0);
    uint8_t *file = malloc(FAKE_SIZE);
    assert_non_null(file);
    assert_int_equal(pread_full(fd, file, FAKE_SIZE, 0), 0);
    assert_memory_equal(file, shadow, FAKE_SIZE);
    free(file);
}

static void test_blk_traffic(void **state)
{
    struct disk k = { 0 };
    char path[32];
    uint8_t *shadow = calloc(1, FAKE_SIZE);
    seed = 42;
    disk_open(&k, raw_file(path, FAKE_SIZE), "disk0", 2, VIRTIO_BLK_REPORT);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    machine_start(k.g.m);
    const uint64_t rings[] = { 0, RING_FEATURES, BIT(VIRTIO_F_RING_PACKED),
                               BIT(VIRTIO_F_RING_PACKED) | RING_FEATURES };
    for (unsigned i = 0; i < ARRAY_LEN(rings); i++) {
        uint64_t features = BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_MQ) | rings[i];
        k.g.next_page = k.memory + 64 * SLOT;
        disk_queues(&k, features, 2);
        disk_traffic(&k, fd, shadow, 10);
        assert_true(k.g.msi[(k.d.pci->devfn >> 3 << 5 & 0xff) + 1] > 0);
    }
    close(fd);
    unlink(path);
    free(shadow);
    disk_close(&k);
}

static void put_range(struct disk *k, uint64_t sector, uint32_t count, uint32_t flags)
{
    struct virtio_blk_discard_write_zeroes range = { .sector = htole64(sector),
                                                     .num_sectors = htole32(count),
                                                     .flags = htole32(flags) };
    guest_write(&k->g, slot_at(k, 0) + 4096, &range, sizeof range);
}

static void test_blk_commands(void **state)
{
    struct disk k = { 0 };
    k.fake = fake_open();
    disk_open(&k, &k.fake->node, "disk0", 1, VIRTIO_BLK_REPORT);
    machine_start(k.g.m);
    disk_queues(&k, gdev_features(&k.d), 1);

    assert_int_equal(gdev_config(&k.d, 0, 8), FAKE_SIZE / 512);
    assert_int_equal(gdev_config(&k.d, offsetof(struct virtio_blk_config, seg_max), 4), 254);
    assert_int_equal(gdev_config(&k.d, offsetof(struct virtio_blk_config, wce), 1), 1);
    assert_int_equal(gdev_config(&k.d, 59, 2), 0); /* behind the end */

    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
    char id[20];
    guest_read(&k.g, slot_at(&k, 0) + 4096, id, 20);
    assert_memory_equal(id, "SERIAL-0123456789-TO", 20);

    memset(k.fake->data, 0x55, FAKE_SIZE);
    put_range(&k, 8, 16, 1);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_OK);
    assert_int_equal(k.fake->data[8 * 512 - 1], 0x55);
    assert_int_equal(k.fake->data[8 * 512], 0);
    assert_int_equal(k.fake->data[24 * 512 - 1], 0);
    assert_int_equal(k.fake->data[24 * 512], 0x55);
    put_range(&k, 32, 8, 0);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_OK);
    assert_int_equal(k.fake->data[32 * 512], 0);
    put_range(&k, 32, 8, 1); /* unmap means nothing for a discard */
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_UNSUPP);
    put_range(&k, UINT64_MAX / 512, 8, 0);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_IOERR);
    put_range(&k, 0, UINT32_MAX, 0);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_DISCARD, 0, 32), VIRTIO_BLK_S_UNSUPP);

    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, FAKE_SIZE / 512, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, FAKE_SIZE / 512 - 1, 1024), VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, UINT64_MAX, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 100), VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk_do(&k, 77, 0, 512), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, FAKE_SIZE / 512 - 1, 512), VIRTIO_BLK_S_OK);

    k.fake->mode = FAKE_FULL; /* on_full=report */
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(gdev_status(&k.d), 15);

    /* a request without a status byte: the device asks for a reset, which works */
    struct gq_buf header = { slot_at(&k, 0), 16, false };
    gq_add(&k.q[0], &header, 1);
    gdev_kick(&k.q[0]);
    for (unsigned i = 0; gdev_status(&k.d) != (15 | VIRTIO_CONFIG_S_NEEDS_RESET); i++) {
        assert_true(i < 5000);
        usleep(1000);
    }
    k.fake->mode = FAKE_WORKS;
    disk_queues(&k, BIT(VIRTIO_BLK_F_FLUSH), 1);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    disk_close(&k);
}

/* Who cannot flush, or has switched write-back off, gets every write durable. */
static void test_blk_writethrough(void **state)
{
    struct disk k = { 0 };
    k.fake = fake_open();
    disk_open(&k, &k.fake->node, "disk0", 1, VIRTIO_BLK_REPORT);
    machine_start(k.g.m);
    uint64_t wce = k.d.config + offsetof(struct virtio_blk_config, wce);
    disk_queues(&k, 0, 1);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(k.fake->flags, BLOCK_FUA);
    disk_queues(&k, BIT(VIRTIO_BLK_F_FLUSH), 1);
    bus_write(k.g.m, SPACE_MEMORY, wce, 1, 0); /* not negotiated: ignored */
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(k.fake->flags, 0);
    disk_queues(&k, BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE), 1);
    bus_write(k.g.m, SPACE_MEMORY, wce, 1, 0);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(k.fake->flags, BLOCK_FUA);
    put_range(&k, 0, 8, 1);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_OK);
    assert_int_equal(k.fake->flags, BLOCK_FUA | BLOCK_UNMAP);
    bus_write(k.g.m, SPACE_MEMORY, wce, 1, 1);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(k.fake->flags, 0);
    bus_write(k.g.m, SPACE_MEMORY, wce, 1, 0);
    gdev_reset(&k.d); /* puts it back */
    assert_int_equal(gdev_config(&k.d, offsetof(struct virtio_blk_config, wce), 1), 1);
    disk_close(&k);
}

static void test_blk_readonly(void **state)
{
    struct disk k = { 0 };
    struct pci_device *pci;
    k.fake = fake_open();
    guest_init(&k.g, true);
    k.node = &k.fake->node;
    struct virtio_blk_options options = { .id = "cd", .node = k.node, .readonly = true };
    assert_int_equal(virtio_blk_create(k.g.m, &options, &pci, NULL), 0);
    gdev_add(&k.d, &k.g, pci);
    k.memory = guest_alloc(&k.g, 64 * SLOT);
    machine_start(k.g.m);
    assert_true(gdev_features(&k.d) & BIT(VIRTIO_BLK_F_RO));
    disk_queues(&k, BIT(VIRTIO_BLK_F_RO), 1);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    options.queues = VIRTIO_BLK_MAX_QUEUES + 1;
    assert_int_equal(virtio_blk_create(k.g.m, &options, &pci, NULL), -EINVAL);
    disk_close(&k);
}

static bool kept_seen(void *arg)
{
    struct disk *k = arg;
    guest_run_loop(&k->g);
    return k->g.events[MACHINE_DISK_FULL] || k->g.events[MACHINE_DISK_ERROR];
}

static void blk_pauses(enum fake_mode mode, enum machine_event event)
{
    struct disk k = { 0 };
    uint32_t len;
    k.fake = fake_open();
    disk_open(&k, &k.fake->node, "disk0", 1, VIRTIO_BLK_PAUSE);
    machine_start(k.g.m);
    disk_queues(&k, RING_FEATURES, 1);
    k.fake->mode = mode;
    for (unsigned i = 0; i < 3; i++) {
        uint8_t fill[512];
        memset(fill, (int)('a' + i), sizeof fill);
        guest_write(&k.g, slot_at(&k, i) + 4096, fill, sizeof fill);
        assert_true(disk_add(&k, 0, i, VIRTIO_BLK_T_OUT, i, 512) >= 0);
    }
    gdev_kick(&k.q[0]);
    wait_for(kept_seen, &k);
    machine_pause(k.g.m);
    guest_run_loop(&k.g);
    assert_int_equal(k.g.events[event], 1); /* once for all three */
    assert_int_equal(gq_get(&k.q[0], &len), -1);
    dma_freeze(k.g.m); /* hangs if they held leases */
    dma_thaw(k.g.m);
    k.fake->mode = FAKE_WORKS;
    machine_resume(k.g.m);
    for (unsigned i = 0; i < 3; i++)
        gq_wait(&k.q[0], &len);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(disk_status(&k, i), VIRTIO_BLK_S_OK);
        assert_int_equal(k.fake->data[i * 512], 'a' + i);
    }
    disk_close(&k);
}

static void test_blk_pauses(void **state)
{
    blk_pauses(FAKE_FULL, MACHINE_DISK_FULL);
    blk_pauses(FAKE_BROKEN, MACHINE_DISK_ERROR);
}

static void test_blk_ignores(void **state)
{
    struct disk k = { 0 };
    k.fake = fake_open();
    disk_open(&k, &k.fake->node, "disk0", 1, VIRTIO_BLK_IGNORE);
    machine_start(k.g.m);
    disk_queues(&k, RING_FEATURES, 1);
    k.fake->mode = FAKE_FULL;
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    k.fake->mode = FAKE_BROKEN;
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    /* but not the guest's own mistakes */
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, FAKE_SIZE / 512, 512), VIRTIO_BLK_S_IOERR);
    disk_close(&k);
}

/* A disk with a thread of its own: requests, pausing while one hangs, a reset, its end. */
static void test_blk_io_thread(void **state)
{
    struct disk k = { 0 };
    struct pci_device *pci;
    struct loop *loop, *same;
    uint32_t len;
    guest_init(&k.g, true);
    assert_int_equal(machine_io_loop(k.g.m, "fast", &loop, NULL), 0);
    assert_int_equal(machine_io_loop(k.g.m, "fast", &same, NULL), 0);
    assert_ptr_equal(loop, same);
    assert_ptr_not_equal(loop, k.g.m->io_loop);
    assert_int_equal(machine_io_loop(k.g.m, "a-name-too-long", &same, NULL), -EINVAL);
    k.fake = fake_open();
    k.node = &k.fake->node;
    const struct virtio_blk_options options = { .id = "disk0", .node = k.node, .loop = loop };
    assert_int_equal(virtio_blk_create(k.g.m, &options, &pci, NULL), 0);
    gdev_add(&k.d, &k.g, pci);
    k.memory = guest_alloc(&k.g, 64 * SLOT);
    machine_start(k.g.m);
    disk_queues(&k, RING_FEATURES, 1);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, i, 512), VIRTIO_BLK_S_OK);
    k.fake->mode = FAKE_HANGS;
    assert_true(disk_add(&k, 0, 0, VIRTIO_BLK_T_IN, 0, 512) >= 0);
    gdev_kick(&k.q[0]);
    usleep(20000);
    machine_pause(k.g.m);
    loop_call(loop, fake_release, k.fake); /* ends while paused: not told before the resume */
    assert_int_equal(gq_get(&k.q[0], &len), -1);
    k.fake->mode = FAKE_WORKS;
    machine_resume(k.g.m);
    gq_wait(&k.q[0], &len);
    assert_int_equal(disk_status(&k, 0), VIRTIO_BLK_S_OK);
    gdev_reset(&k.d);
    disk_queues(&k, RING_FEATURES, 1);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    disk_close(&k);
}

static bool all_submitted(void *arg)
{
    struct disk *k = arg;
    return k->fake->submitted == 4;
}

/* Requests hang; the machine is paused, saved, and goes on elsewhere, where they are submitted
 * again. */
static void blk_move(uint64_t features)
{
    struct disk from = { 0 }, to = { 0 };
    uint32_t len;
    struct err err = { 0 };
    from.fake = fake_open();
    to.fake = fake_open();
    disk_open(&from, &from.fake->node, "disk0", 1, VIRTIO_BLK_REPORT);
    disk_open(&to, &to.fake->node, "disk0", 1, VIRTIO_BLK_REPORT);
    machine_start(from.g.m);
    disk_queues(&from, features, 1);
    assert_int_equal(disk_do(&from, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    from.fake->mode = FAKE_HANGS;
    for (unsigned i = 1; i < 4; i++) {
        uint8_t fill[1024];
        memset(fill, (int)('a' + i), sizeof fill);
        guest_write(&from.g, slot_at(&from, i) + 4096, fill, sizeof fill);
        assert_true(disk_add(&from, 0, i, VIRTIO_BLK_T_OUT, i * 8, 1024) >= 0);
    }
    gdev_kick(&from.q[0]);
    wait_for(all_submitted, &from);
    log_set_level(LOG_ERROR, LOG_ERROR);
    machine_pause(from.g.m); /* its deadline passes */
    log_set_level(LOG_WARNING, LOG_WARNING);
    struct buf saved = { 0 };
    device_save(&from.d.pci->dev, &saved);

    memcpy(to.g.m->main_ram->hva, from.g.m->main_ram->hva, GUEST_MEMORY);
    if (device_load(&to.d.pci->dev, saved.data, saved.len, &err) < 0)
        fail_msg("%s", err.text);
    struct buf again = { 0 };
    device_save(&to.d.pci->dev, &again);
    assert_int_equal(saved.len, again.len);
    assert_memory_equal(saved.data, again.data, saved.len);
    to.memory = from.memory;
    to.q[0] = from.q[0];
    to.q[0].g = &to.g;
    machine_start(to.g.m);
    for (unsigned i = 1; i < 4; i++)
        gq_wait(&to.q[0], &len);
    for (unsigned i = 1; i < 4; i++) {
        assert_int_equal(disk_status(&to, i), VIRTIO_BLK_S_OK);
        assert_int_equal(to.fake->data[i * 8 * 512 + 1023], 'a' + i);
    }
    assert_int_equal(disk_do(&to, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);

    /* The source goes on, too: what completes while it is paused is told after resume. */
    loop_call(from.g.m->io_loop, fake_release, from.fake);
    assert_int_equal(gq_get(&from.q[0], &len), -1);
    dma_freeze(from.g.m);
    dma_thaw(from.g.m);
    machine_resume(from.g.m);
    for (unsigned i = 1; i < 4; i++)
        gq_wait(&from.q[0], &len);
    assert_int_equal(disk_do(&from, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);

    /* Damaged state is refused or loads; it never crashes. */
    seed = 7;
    machine_pause(to.g.m);
    for (unsigned i = 0; i < 300; i++) {
        struct buf bad = { 0 };
        buf_add(&bad, saved.data, saved.len);
        for (unsigned n = 0; n < 3; n++)
            bad.data[rnd((unsigned)bad.len)] = (uint8_t)rnd32();
        device_load(&to.d.pci->dev, bad.data, bad.len, &err);
        buf_fini(&bad);
    }
    buf_fini(&saved);
    buf_fini(&again);
    disk_close(&from);
    disk_close(&to);
}

static void test_blk_move(void **state)
{
    blk_move(RING_FEATURES);
    blk_move(RING_FEATURES | BIT(VIRTIO_F_RING_PACKED));
}

/* A reset waits for what is in flight, of the device and of one queue. */
static void test_blk_reset_waits(void **state)
{
    struct disk k = { 0 };
    uint32_t len;
    k.fake = fake_open();
    disk_open(&k, &k.fake->node, "disk0", 1, VIRTIO_BLK_REPORT);
    machine_start(k.g.m);
    uint64_t common = k.d.common;
    disk_queues(&k, BIT(VIRTIO_F_RING_RESET), 1);
    for (unsigned whole = 0; whole < 2; whole++) {
        k.fake->mode = FAKE_HANGS;
        k.fake->submitted = 0;
        assert_true(disk_add(&k, 0, 1, VIRTIO_BLK_T_IN, 0, 512) >= 0);
        gdev_kick(&k.q[0]);
        for (unsigned i = 0; !k.fake->submitted && i < 5000; i++)
            usleep(1000);
        unsigned reg = whole ? VIRTIO_PCI_COMMON_STATUS : VIRTIO_PCI_COMMON_Q_RESET;
        unsigned size = whole ? 1 : 2;
        bus_write(k.g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
        bus_write(k.g.m, SPACE_MEMORY, common + reg, size, whole ? 0 : 1);
        usleep(20000);
        assert_int_not_equal(bus_read(k.g.m, SPACE_MEMORY, common + reg, size), 0);
        loop_call(k.g.m->io_loop, fake_release, k.fake);
        assert_int_equal(bus_read(k.g.m, SPACE_MEMORY, common + reg, size), 0);
        assert_int_equal(bus_read(k.g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
        assert_int_equal(gq_get(&k.q[0], &len), -1); /* never told */
        if (!whole) {
            assert_int_equal(gdev_status(&k.d), 15);
            gdev_queue(&k.d, &k.q[0], 0, 0, 64);
            assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
        }
    }
    disk_queues(&k, 0, 1);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);

    machine_reset_now(k.g.m);
    assert_int_equal(k.d.pci->regs->config[PCI_COMMAND], 0);
    struct pci_windows windows = { .mem32 = 0xc0000000,
                                   .mem32_size = 0x10000000,
                                   .mem64 = 0x800000000,
                                   .mem64_size = 0x10000000 };
    assert_int_equal(pci_bus_assign(k.g.bus, &windows, NULL), 0);
    assert_int_equal(gdev_status(&k.d), 0);
    disk_queues(&k, 0, 1);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    disk_close(&k);
}

/* ---- The transport ---- */

static void test_transport(void **state)
{
    struct disk k = { 0 };
    k.fake = fake_open();
    disk_open(&k, &k.fake->node, "disk0", 1, VIRTIO_BLK_REPORT);
    machine_start(k.g.m);
    struct pci_bus *bus = k.g.bus;
    unsigned devfn = k.d.pci->devfn;
    uint64_t common = k.d.common;
    assert_int_equal(pci_config_read(bus, devfn, 0, 4), 0x10421af4);
    assert_int_equal(pci_config_read(bus, devfn, 8, 1), 1);

    /* features: without VERSION_1, or with what was not offered, FEATURES_OK does not stick */
    bus_write(k.g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_STATUS, 1, 3);
    bus_write(k.g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_STATUS, 1, 11);
    assert_int_equal(gdev_status(&k.d), 3);
    bus_write(k.g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    bus_write(k.g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_GF, 4, 0x80000001);
    bus_write(k.g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_STATUS, 1, 11);
    assert_int_equal(gdev_status(&k.d), 3);
    bus_write(k.g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_STATUS, 1, 4); /* not without it */
    assert_int_equal(gdev_status(&k.d), 3);

    /* vectors beyond the table, queues that are not there */
    bus_write(k.g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_MSIX, 2, 2);
    assert_int_equal(bus_read(k.g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_MSIX, 2), 0xffff);
    bus_write(k.g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
    assert_int_equal(bus_read(k.g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);

    /* INTx: the line and the ISR, which reading clears */
    unsigned msix = 0;
    for (unsigned cap = pci_config_read(bus, devfn, PCI_CAPABILITY_LIST, 1); cap;
         cap = pci_config_read(bus, devfn, cap + 1, 1))
        msix = pci_config_read(bus, devfn, cap, 1) == PCI_CAP_MSIX ? cap : msix;
    pci_config_write(bus, devfn, msix + 2, 2, 0);
    disk_queues(&k, 0, 1);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    for (unsigned i = 0; !(pci_config_read(bus, devfn, PCI_STATUS, 2) & PCI_STATUS_INTX); i++) {
        assert_true(i < 5000);
        usleep(1000);
    }
    assert_int_equal(bus_read(k.g.m, SPACE_MEMORY, k.d.isr, 1), 1);
    assert_int_equal(bus_read(k.g.m, SPACE_MEMORY, k.d.isr, 1), 0);
    assert_false(pci_config_read(bus, devfn, PCI_STATUS, 2) & PCI_STATUS_INTX);

    /* a doorbell of another width; the window in configuration space */
    uint32_t len;
    disk_add(&k, 0, 0, VIRTIO_BLK_T_IN, 0, 512);
    bus_write(k.g.m, SPACE_MEMORY, k.q[0].notify, 4, 0);
    gq_wait(&k.q[0], &len);
    unsigned window = 0;
    for (unsigned cap = pci_config_read(bus, devfn, PCI_CAPABILITY_LIST, 1); cap;
         cap = pci_config_read(bus, devfn, cap + 1, 1))
        if (pci_config_read(bus, devfn, cap, 1) == PCI_CAP_VENDOR &&
            pci_config_read(bus, devfn, cap + 3, 1) == VIRTIO_PCI_CAP_PCI_CFG)
            window = cap;
    assert_true(window);
    pci_config_write(bus, devfn, window + 4, 1, 0);
    pci_config_write(bus, devfn, window + 8, 4, VIRTIO_BAR_COMMON + VIRTIO_PCI_COMMON_NUMQ);
    pci_config_write(bus, devfn, window + 12, 4, 2);
    assert_int_equal(pci_config_read(bus, devfn, window + 16, 2), 1);
    pci_config_write(bus, devfn, window + 8, 4, VIRTIO_BAR_COMMON + VIRTIO_PCI_COMMON_Q_SELECT);
    pci_config_write(bus, devfn, window + 16, 2, 0x1234);
    assert_int_equal(bus_read(k.g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_Q_SELECT, 2), 0x1234);
    pci_config_write(bus, devfn, window + 8, 4, 0xfffffffe);
    assert_int_equal(pci_config_read(bus, devfn, window + 16, 2), 0x1234); /* out of the BAR */

    /* the BAR moves, and the doorbells with it */
    bus_write(k.g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    uint64_t old = k.d.common;
    pci_config_write(bus, devfn, PCI_BAR0 + 4 * VIRTIO_BAR, 4, 0xd0000000);
    pci_config_write(bus, devfn, PCI_BAR0 + 4 * VIRTIO_BAR + 4, 4, 0);
    assert_int_equal(bus_read(k.g.m, SPACE_MEMORY, old, 4), 0xffffffff);
    k.q[0].notify = 0xd0000000 + VIRTIO_BAR_NOTIFY;
    k.d.common = 0xd0000000;
    assert_int_equal(gdev_status(&k.d), 15);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    disk_close(&k);
}

/* ---- Random garbage with the queues live ---- */

static void spray_registers(struct gdev *d, unsigned count)
{
    uint64_t bar = d->common - VIRTIO_BAR_COMMON;
    for (unsigned i = 0; i < count; i++) {
        unsigned size = 1u << rnd(4), area = rnd(6);
        uint64_t at;
        if (rnd(8) == 0) {
            size = 1u << rnd(3);
            pci_config_write(d->g->bus, d->pci->devfn, rnd(4 * 64) & ~(size - 1), size, rnd32());
            continue;
        }
        switch (area) {
        case 0:
        case 1: at = rnd(64); break;
        case 2: at = VIRTIO_BAR_DEVICE + rnd(64); break;
        case 3: at = VIRTIO_BAR_NOTIFY + rnd(128); break;
        case 4: at = VIRTIO_BAR_MSIX_TABLE + rnd(256); break;
        default: at = rnd(VIRTIO_BAR_SIZE - 8);
        }
        at &= ~(uint64_t)(size - 1);
        if (rnd(3) == 0)
            bus_read(d->g->m, SPACE_MEMORY, bar + at, size);
        else
            bus_write(d->g->m, SPACE_MEMORY, bar + at, size,
                      rnd(2) ? rnd(32) : (uint64_t)rnd32() << 32 | rnd32());
    }
}

static void spray_ring(struct gdev *d, struct gq *q, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint64_t area = rnd(3) == 0 ? q->driver : rnd(2) ? q->device : q->desc;
        uint32_t value = rnd(2) ? rnd(8) : rnd(2) ? (uint32_t)q->desc : rnd32();
        unsigned at = rnd(2) ? rnd(16) : rnd(q->size * 16);
        guest_write(d->g, area + at, &value, 1 + rnd(4));
        if (rnd(4) == 0)
            gdev_kick(q);
    }
}

/* Alternates sane set-ups with garbage. The seed is printed by a failing run. */
static void garbage(struct gdev *d, struct gq *queues, unsigned count, unsigned rounds)
{
    log_set_level(LOG_ERROR, LOG_ERROR);
    uint64_t keep = d->g->next_page;
    for (unsigned round = 0; round < rounds; round++) {
        d->g->next_page = keep;
        gdev_reset(d); /* the garbage may have begun one */
        gdev_negotiate(d, (gdev_features(d) & ~BIT(VIRTIO_F_RING_PACKED)) |
                              (round & 1 ? BIT(VIRTIO_F_RING_PACKED) : 0));
        for (unsigned i = 0; i < count; i++) {
            gdev_queue(d, &queues[i], i, ring_flags(d->features), 16);
            for (unsigned n = 0; n < 4; n++) {
                struct gq_buf bufs[3] = { { rnd(GUEST_MEMORY), rnd(8192), rnd(2) },
                                          { rnd(GUEST_MEMORY), rnd(100), rnd(2) },
                                          { rnd32(), rnd32(), true } };
                gq_add(&queues[i], bufs, 1 + rnd(3));
            }
        }
        gdev_driver_ok(d);
        for (unsigned n = 0; n < 30; n++) {
            spray_ring(d, &queues[rnd(count)], 10);
            if (round % 3)
                spray_registers(d, 10);
        }
        gdev_probe(d);
    }
    gdev_reset(d);
    d->g->next_page = keep;
    log_set_level(LOG_WARNING, LOG_WARNING);
}

static void new_seed(const char *what)
{
    const char *text = getenv("VIRTIO_TEST_SEED");
    seed = text ? strtoull(text, NULL, 0) : monotonic_ns() | 1;
    print_message("%s: seed 0x%llx (VIRTIO_TEST_SEED)\n", what, (unsigned long long)seed);
}

static void test_blk_garbage(void **state)
{
    struct disk k = { 0 };
    struct gdev cd;
    struct fake *cd_fake = fake_open();
    struct pci_device *pci;
    k.fake = fake_open();
    new_seed("blk");
    disk_open(&k, &k.fake->node, "disk0", 2, VIRTIO_BLK_PAUSE);
    memset(cd_fake->data, 0x77, FAKE_SIZE);
    struct virtio_blk_options options = {
        .id = "cd", .node = &cd_fake->node, .queues = 2, .readonly = true
    };
    assert_int_equal(virtio_blk_create(k.g.m, &options, &pci, NULL), 0);
    gdev_add(&cd, &k.g, pci);
    gdev_probe(&k.d);
    machine_start(k.g.m);
    garbage(&k.d, k.q, 2, 60);
    garbage(&cd, k.q, 2, 60);
    for (unsigned i = 0; i < FAKE_SIZE; i++)
        assert_int_equal(cd_fake->data[i], 0x77); /* read-only whatever the guest does */
    disk_queues(&k, RING_FEATURES | BIT(VIRTIO_BLK_F_FLUSH), 2);
    uint8_t data[512], back[512];
    memset(data, 0x5a, sizeof data);
    guest_write(&k.g, slot_at(&k, 0) + 4096, data, sizeof data);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 3, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, 3, 512), VIRTIO_BLK_S_OK);
    guest_read(&k.g, slot_at(&k, 0) + 4096, back, sizeof back);
    assert_memory_equal(data, back, sizeof data);
    disk_close(&k);
    block_close(&cd_fake->node);
}

/* ---- input ---- */

struct input_event { /* virtio 1.2, 5.8.6 */
    uint16_t type, code;
    uint32_t value;
};

static struct input_event input_next(struct guest *g, struct gq *q, uint64_t page, unsigned *at)
{
    struct input_event event;
    uint32_t len;
    gq_wait(q, &len);
    assert_int_equal(len, sizeof event);
    guest_read(g, page + 8ul * (*at)++, &event, sizeof event);
    return event;
}

static void test_input(void **state)
{
    struct guest g;
    struct gdev d;
    struct gq q;
    struct pci_device *pci;
    struct input *hub;
    unsigned at = 0;
    guest_init(&g, true);
    assert_int_equal(input_create(&hub, NULL), 0);
    assert_int_equal(virtio_input_create(g.m, "input0", VIRTIO_INPUT_TABLET, hub, &pci, NULL), 0);
    assert_int_equal(device_uncovered(pci->dev.type), 0);
    gdev_add(&d, &g, pci);
    uint64_t page = guest_alloc(&g, 4096);
    machine_start(g.m);
    bus_write(g.m, SPACE_MEMORY, d.config, 1, 0x12); /* absolute axis 1: its range */
    bus_write(g.m, SPACE_MEMORY, d.config + 1, 1, 1);
    assert_int_equal(gdev_config(&d, 2, 1), 20);
    assert_int_equal(gdev_config(&d, 12, 4), INPUT_POSITION_MAX);
    bus_write(g.m, SPACE_MEMORY, d.config, 1, 0x77); /* nothing */
    assert_int_equal(gdev_config(&d, 2, 1), 0);
    assert_false(input_has_tablet(hub));
    gdev_negotiate(&d, RING_FEATURES);
    gdev_queue(&d, &q, 0, ring_flags(RING_FEATURES), 64);
    gdev_driver_ok(&d);
    for (unsigned i = 0; i < 16; i++) {
        struct gq_buf buf = { page + 8 * i, 8, true };
        gq_add(&q, &buf, 1);
    }
    gdev_kick(&q);
    for (unsigned i = 0; i < 500 && !input_has_tablet(hub); i++) {
        usleep(2000);
        guest_run_loop(&g);
    }
    assert_true(input_pointer(hub, 799, 0, 800, 600, INPUT_BUTTON_RIGHT));
    struct input_event event = input_next(&g, &q, page, &at);
    assert_int_equal(event.type << 16 | event.code, 3 << 16 | 0); /* EV_ABS, ABS_X */
    assert_int_equal(event.value, INPUT_POSITION_MAX);
    assert_int_equal(input_next(&g, &q, page, &at).value, 0);
    assert_int_equal(input_next(&g, &q, page, &at).type, 0); /* EV_SYN */
    event = input_next(&g, &q, page, &at);
    assert_int_equal(event.type << 16 | event.code, 1 << 16 | 0x111); /* BTN_RIGHT */
    assert_int_equal(input_next(&g, &q, page, &at).type, 0);
    new_seed("input");
    garbage(&d, &q, 1, 30);
    gdev_negotiate(&d, 0);
    guest_run_loop(&g);
    guest_fini(&g);
    input_destroy(hub);
}

/* ---- rng ---- */

static void test_rng(void **state)
{
    struct guest g;
    struct gdev d;
    struct gq q;
    struct pci_device *pci;
    uint32_t len;
    guest_init(&g, true);
    assert_int_equal(virtio_rng_create(g.m, "rng0", &pci, NULL), 0);
    gdev_add(&d, &g, pci);
    uint64_t page = guest_alloc(&g, 8192);
    machine_start(g.m);
    gdev_negotiate(&d, RING_FEATURES);
    gdev_queue(&d, &q, 0, ring_flags(RING_FEATURES), 8);
    gdev_driver_ok(&d);
    uint8_t first[64], second[64];
    struct gq_buf buf = { page, 64, true };
    for (unsigned i = 0; i < 2; i++) {
        gq_add(&q, &buf, 1);
        gdev_kick(&q);
        gq_wait(&q, &len);
        assert_int_equal(len, 64);
        guest_read(&g, page, i ? second : first, 64);
    }
    assert_memory_not_equal(first, second, 64);

    /* More than the budget of a period: it takes longer, but comes. */
    uint64_t start = monotonic_ns();
    buf.len = 8192;
    for (unsigned total = 0; total < 300 << 10; total += len) {
        gq_add(&q, &buf, 1);
        gdev_kick(&q);
        gq_wait(&q, &len);
        assert_in_range(len, 1, 4096);
    }
    assert_true(monotonic_ns() - start > 100000000);

    new_seed("rng");
    garbage(&d, &q, 1, 30);
    gdev_negotiate(&d, 0);
    gdev_queue(&d, &q, 0, 0, 8);
    gdev_driver_ok(&d);
    buf.len = 64;
    gq_add(&q, &buf, 1);
    gdev_kick(&q);
    gq_wait(&q, &len);
    assert_int_equal(len, 64);
    guest_fini(&g);
}

/* ---- console ---- */

struct terminal {
    pthread_mutex_t lock;
    char out[1024];
    size_t len;
    _Atomic unsigned rooms, opens, closes;
};

static void terminal_output(void *arg, const uint8_t *data, size_t len)
{
    struct terminal *t = arg;
    LOCKED(&t->lock);
    for (size_t i = 0; i < len && t->len + 1 < sizeof t->out; i++)
        t->out[t->len++] = (char)data[i];
}
static void terminal_room(void *arg) { ((struct terminal *)arg)->rooms++; }
static void terminal_opened(void *arg, bool open)
{
    struct terminal *t = arg;
    ++*(open ? &t->opens : &t->closes);
}

struct con {
    struct guest g;
    struct gdev d;
    struct gq q[6]; /* rx0 tx0 control-rx control-tx rx1 tx1 */
    struct terminal t[2];
    uint64_t rx;
};

static void con_open(struct con *c, unsigned ports)
{
    struct pci_device *pci;
    struct virtio_console_port port[2];
    memset(c, 0, sizeof *c);
    guest_init(&c->g, true);
    for (unsigned i = 0; i < 2; i++) {
        pthread_mutex_init(&c->t[i].lock, NULL);
        port[i] = (struct virtio_console_port){ .name = i ? "org.bedplate.test" : NULL,
                                                .output = terminal_output,
                                                .input_room = terminal_room,
                                                .opened = terminal_opened,
                                                .arg = &c->t[i] };
    }
    struct virtio_console_options options = {
        .id = "console0", .ports = port, .port_count = ports, .cols = 80, .rows = 25
    };
    assert_int_equal(virtio_console_create(c->g.m, &options, &pci, NULL), 0);
    gdev_add(&c->d, &c->g, pci);
    c->rx = guest_alloc(&c->g, 16 * 4096);
}

static void con_start(struct con *c, uint64_t features, unsigned queues)
{
    gdev_negotiate(&c->d, features);
    for (unsigned i = 0; i < queues; i++)
        gdev_queue(&c->d, &c->q[i], i, ring_flags(features), 16);
    gdev_driver_ok(&c->d);
}

static void con_offer(struct con *c, unsigned queue, uint32_t len)
{
    struct gq_buf buf = { c->rx + queue * 4096, len, true };
    assert_true(gq_add(&c->q[queue], &buf, 1) >= 0);
    gdev_kick(&c->q[queue]);
}

static void con_send(struct con *c, unsigned queue, const void *data, uint32_t len)
{
    uint32_t used;
    struct gq_buf buf = { c->rx + (8 + queue) * 4096, len, false };
    guest_write(&c->g, buf.gpa, data, len);
    gq_add(&c->q[queue], &buf, 1);
    gdev_kick(&c->q[queue]);
    gq_wait(&c->q[queue], &used);
}

static void con_expect(struct con *c, unsigned queue, const void *data, uint32_t len)
{
    uint8_t got[256];
    uint32_t used;
    gq_wait(&c->q[queue], &used);
    assert_int_equal(used, len);
    guest_read(&c->g, c->rx + queue * 4096, got, len);
    assert_memory_equal(got, data, len);
}

static void con_control(struct con *c, uint32_t id, uint16_t event, uint16_t value)
{
    struct virtio_console_control msg = { htole32(id), htole16(event), htole16(value) };
    con_send(c, 3, &msg, sizeof msg);
}

static void con_expect_control(struct con *c, uint32_t id, uint16_t event, uint16_t value,
                               const void *more, uint32_t more_len)
{
    uint8_t bytes[128];
    struct virtio_console_control msg = { htole32(id), htole16(event), htole16(value) };
    memcpy(bytes, &msg, sizeof msg);
    memcpy(bytes + sizeof msg, more, more_len);
    con_offer(c, 2, 256);
    con_expect(c, 2, bytes, (uint32_t)sizeof msg + more_len);
}

static void test_console_single(void **state)
{
    struct con c;
    con_open(&c, 1);
    machine_start(c.g.m);
    bus_write(c.g.m, SPACE_MEMORY, c.d.config + 8, 4, 'E'); /* before any queue is there */
    assert_string_equal(c.t[0].out, "E");
    assert_false(gdev_features(&c.d) & BIT(VIRTIO_CONSOLE_F_MULTIPORT));
    con_start(&c, RING_FEATURES | BIT(VIRTIO_CONSOLE_F_SIZE), 2);
    con_send(&c, 1, "hello", 5);
    assert_string_equal(c.t[0].out, "Ehello");

    assert_int_equal(virtio_console_input(c.d.pci, 0, (const uint8_t *)"abcdef", 6), 6);
    con_offer(&c, 0, 4);
    con_expect(&c, 0, "abcd", 4);
    con_offer(&c, 0, 4);
    con_expect(&c, 0, "ef", 2);

    uint8_t much[5000];
    memset(much, 'x', sizeof much);
    assert_int_equal(virtio_console_input(c.d.pci, 0, much, sizeof much), 4096);
    assert_int_equal(c.t[0].rooms, 0);
    uint32_t used, got = 0;
    while (got < 4096) {
        con_offer(&c, 0, 4096);
        gq_wait(&c.q[0], &used);
        got += used;
    }
    for (unsigned i = 0; !c.t[0].rooms && i < 5000; i++)
        usleep(1000);
    assert_int_equal(c.t[0].rooms, 1);

    assert_int_equal(gdev_config(&c.d, 0, 2), 80);
    unsigned generation =
        (unsigned)bus_read(c.g.m, SPACE_MEMORY, c.d.common + VIRTIO_PCI_COMMON_CFGGENERATION, 1);
    unsigned interrupts = c.g.msi[c.d.pci->devfn >> 3 << 5 & 0xff];
    virtio_console_resize(c.d.pci, 132, 43);
    assert_int_equal(gdev_config(&c.d, 0, 2), 132);
    assert_int_equal(gdev_config(&c.d, 2, 2), 43);
    assert_int_equal(c.g.msi[c.d.pci->devfn >> 3 << 5 & 0xff], interrupts + 1);
    assert_int_not_equal(
        bus_read(c.g.m, SPACE_MEMORY, c.d.common + VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation);
    guest_fini(&c.g);
}

static void test_console_ports(void **state)
{
    struct con c;
    con_open(&c, 2);
    machine_start(c.g.m);
    con_start(&c, RING_FEATURES | BIT(VIRTIO_CONSOLE_F_SIZE) | BIT(VIRTIO_CONSOLE_F_MULTIPORT), 6);
    con_control(&c, VIRTIO_CONSOLE_BAD_ID, VIRTIO_CONSOLE_DEVICE_READY, 1);
    con_expect_control(&c, 0, VIRTIO_CONSOLE_PORT_ADD, 1, "", 0);
    con_expect_control(&c, 1, VIRTIO_CONSOLE_PORT_ADD, 1, "", 0);
    con_control(&c, 0, VIRTIO_CONSOLE_PORT_READY, 1);
    con_expect_control(&c, 0, VIRTIO_CONSOLE_CONSOLE_PORT, 1, "", 0);
    con_expect_control(&c, 0, VIRTIO_CONSOLE_PORT_OPEN, 1, "", 0);
    con_expect_control(&c, 0, VIRTIO_CONSOLE_RESIZE, 1, "\x19\0\x50", 4);
    con_control(&c, 1, VIRTIO_CONSOLE_PORT_READY, 1);
    con_expect_control(&c, 1, VIRTIO_CONSOLE_PORT_NAME, 1, "org.bedplate.test", 17);
    con_expect_control(&c, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, "", 0);

    /* input waits until the guest opens the port */
    assert_int_equal(virtio_console_input(c.d.pci, 1, (const uint8_t *)"ping", 4), 4);
    con_offer(&c, 4, 64);
    usleep(20000);
    uint32_t len;
    assert_int_equal(gq_get(&c.q[4], &len), -1);
    con_control(&c, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
    con_expect(&c, 4, "ping", 4);
    assert_int_equal(c.t[1].opens, 1);
    con_send(&c, 5, "pong", 4);
    assert_string_equal(c.t[1].out, "pong");
    virtio_console_resize(c.d.pci, 100, 30);
    con_expect_control(&c, 0, VIRTIO_CONSOLE_RESIZE, 1, "\x1e\0\x64", 4);

    /* nonsense from the driver is ignored */
    con_control(&c, 77, VIRTIO_CONSOLE_PORT_OPEN, 1);
    con_control(&c, 0, 99, 1);
    con_send(&c, 3, "xyz", 3);

    /* input that waits is part of the state */
    assert_int_equal(virtio_console_input(c.d.pci, 1, (const uint8_t *)"kept", 4), 4);
    machine_pause(c.g.m);
    struct buf saved = { 0 };
    device_save(&c.d.pci->dev, &saved);
    struct con to;
    con_open(&to, 2);
    memcpy(to.g.m->main_ram->hva, c.g.m->main_ram->hva, GUEST_MEMORY);
    assert_int_equal(device_load(&to.d.pci->dev, saved.data, saved.len, NULL), 0);
    memcpy(to.q, c.q, sizeof to.q);
    for (unsigned i = 0; i < 6; i++)
        to.q[i].g = &to.g;
    machine_start(to.g.m);
    con_offer(&to, 4, 64);
    con_expect(&to, 4, "kept", 4);
    buf_fini(&saved);
    guest_fini(&to.g);

    machine_resume(c.g.m);
    gdev_reset(&c.d);
    assert_int_equal(c.t[1].closes, 1);
    guest_fini(&c.g);
}

static void test_console_garbage(void **state)
{
    struct con c;
    con_open(&c, 2);
    machine_start(c.g.m);
    new_seed("console");
    garbage(&c.d, c.q, 6, 40);
    c.t[0].len = 0;
    memset(c.t[0].out, 0, sizeof c.t[0].out);
    con_start(&c, 0, 2);
    con_send(&c, 1, "hello", 5);
    assert_string_equal(c.t[0].out, "hello");
    guest_fini(&c.g);
}

/* ---- net ---- */

struct card {
    struct guest g;
    struct gdev d;
    struct gq q[3];
    int peer;
    uint64_t memory;
};

static const uint8_t card_mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };

struct backend_call {
    struct card *c;
    int fd;
    struct net_backend *backend;
};
static void backend_open(void *arg)
{
    struct backend_call *call = arg;
    assert_int_equal(net_fd_create(call->c->g.m->io_loop, call->fd, &call->backend, NULL), 0);
}

static void card_open(struct card *c)
{
    struct pci_device *pci;
    int pair[2];
    memset(c, 0, sizeof *c);
    guest_init(&c->g, true);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
                     0);
    struct backend_call call = { c, pair[0], NULL };
    loop_call(c->g.m->io_loop, backend_open, &call);
    struct virtio_net_options options = { .id = "net0", .take_backend = call.backend };
    memcpy(options.mac, card_mac, 6);
    assert_int_equal(virtio_net_create(c->g.m, &options, &pci, NULL), 0);
    c->peer = pair[1];
    gdev_add(&c->d, &c->g, pci);
    c->memory = guest_alloc(&c->g, 64 * 4096);
}

static void card_start(struct card *c, uint64_t features)
{
    gdev_negotiate(&c->d, features);
    for (unsigned i = 0; i < 3; i++)
        gdev_queue(&c->d, &c->q[i], i, ring_flags(features), 64);
    gdev_driver_ok(&c->d);
}

static void card_close(struct card *c)
{
    guest_fini(&c->g);
    close(c->peer);
}

static void frame_make(uint8_t *frame, size_t len, unsigned char tag)
{
    memcpy(frame, card_mac, 6);
    memset(frame + 6, 0x22, 6);
    frame[12] = 0x88, frame[13] = 0xb5; /* local experimental */
    for (size_t i = 14; i < len; i++)
        frame[i] = (uint8_t)(tag + i);
}

static void card_offer(struct card *c, unsigned slot, uint32_t len)
{
    struct gq_buf buf = { c->memory + slot * 4096, len, true };
    assert_true(gq_add(&c->q[0], &buf, 1) >= 0);
}

static ssize_t peer_receive(struct card *c, uint8_t *frame, size_t room)
{
    for (unsigned i = 0; i < 5000; i++) {
        ssize_t n = recv(c->peer, frame, room, 0);
        if (n > 0)
            return n;
        usleep(1000);
    }
    fail_msg("no frame within 5 seconds");
    return -1;
}

static void card_transmit(struct card *c, const struct virtio_net_hdr_v1 *header,
                          const uint8_t *frame, uint32_t len)
{
    uint32_t used;
    uint64_t at = c->memory + 40 * 4096;
    guest_write(&c->g, at, header, sizeof *header);
    guest_write(&c->g, at + 4096, frame, len);
    struct gq_buf bufs[3] = { { at, sizeof *header, false },
                              { at + 4096, len / 2, false },
                              { at + 4096 + len / 2, len - len / 2, false } };
    assert_true(gq_add(&c->q[1], bufs, 3) >= 0);
    gdev_kick(&c->q[1]);
    gq_wait(&c->q[1], &used);
}

static void card_traffic(uint64_t features)
{
    struct card c;
    struct virtio_net_hdr_v1 header = { 0 }, got;
    uint8_t frame[1514], back[2048];
    uint32_t used;
    card_open(&c);
    machine_start(c.g.m);
    card_start(&c, features | BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS));
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(gdev_config(&c.d, i, 1), card_mac[i]);
    assert_int_equal(gdev_config(&c.d, 6, 2), VIRTIO_NET_S_LINK_UP);

    for (unsigned i = 0; i < 200; i++) { /* out */
        uint32_t len = 60 + rnd(1454);
        frame_make(frame, len, (unsigned char)i);
        card_transmit(&c, &header, frame, len);
        assert_int_equal(peer_receive(&c, back, sizeof back), len);
        assert_memory_equal(frame, back, len);
    }
    for (unsigned i = 0; i < 200; i++) { /* in; every other one waits for its buffer */
        uint32_t len = 60 + rnd(1454);
        frame_make(frame, len, (unsigned char)i);
        if (i & 1) {
            card_offer(&c, 0, 2048);
            gdev_kick(&c.q[0]);
        }
        assert_int_equal(send(c.peer, frame, len, 0), len);
        if (!(i & 1)) {
            usleep(500);
            card_offer(&c, 0, 2048);
            if (gq_wants_kick(&c.q[0], 1))
                gdev_kick(&c.q[0]);
        }
        gq_wait(&c.q[0], &used);
        assert_int_equal(used, len + sizeof got);
        guest_read(&c.g, c.memory, &got, sizeof got);
        assert_int_equal(le16toh(got.num_buffers), 1);
        guest_read(&c.g, c.memory + sizeof got, back, len);
        assert_memory_equal(frame, back, len);
    }
    card_close(&c);
}

static void test_net_traffic(void **state)
{
    seed = 99;
    card_traffic(0);
    card_traffic(RING_FEATURES);
    card_traffic(BIT(VIRTIO_F_RING_PACKED));
    card_traffic(RING_FEATURES | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_NET_F_MRG_RXBUF));
}

/* A frame over several small buffers, the last of which comes late and only if rung for. */
static void net_merge(uint64_t features)
{
    struct card c;
    uint8_t frame[1000], back[1000];
    uint32_t used;
    card_open(&c);
    machine_start(c.g.m);
    card_start(&c, features | BIT(VIRTIO_NET_F_MRG_RXBUF));
    for (unsigned round = 0; round < 30; round++) {
        frame_make(frame, sizeof frame, (unsigned char)round);
        for (unsigned i = 0; i < 3; i++) {
            card_offer(&c, i, 300);
            if (gq_wants_kick(&c.q[0], 1))
                gdev_kick(&c.q[0]);
        }
        assert_int_equal(send(c.peer, frame, sizeof frame, 0), sizeof frame);
        usleep(3000);
        assert_int_equal(gq_get(&c.q[0], &used), -1); /* all or nothing */
        card_offer(&c, 3, 300);
        if (gq_wants_kick(&c.q[0], 1))
            gdev_kick(&c.q[0]);
        gq_wait(&c.q[0], &used);
        struct virtio_net_hdr_v1 header;
        guest_read(&c.g, c.memory, &header, sizeof header);
        assert_int_equal(le16toh(header.num_buffers), 4);
        size_t at = used - sizeof header;
        guest_read(&c.g, c.memory + sizeof header, back, at);
        for (unsigned i = 1; i < 4; i++) {
            assert_true(gq_get(&c.q[0], &used) >= 0); /* published together */
            guest_read(&c.g, c.memory + i * 4096, back + at, used);
            at += used;
        }
        assert_int_equal(at, sizeof frame);
        assert_memory_equal(frame, back, sizeof frame);
    }
    card_close(&c);
}

static void test_net_merge(void **state)
{
    net_merge(0);
    net_merge(RING_FEATURES);
    net_merge(BIT(VIRTIO_F_RING_PACKED));
    net_merge(BIT(VIRTIO_F_RING_PACKED) | RING_FEATURES);
}

static uint8_t card_control(struct card *c, uint8_t class, uint8_t cmd, const void *data,
                            uint32_t len)
{
    uint8_t bytes[600] = { class, cmd }, ack = 0xee;
    uint32_t used;
    uint64_t at = c->memory + 50 * 4096;
    memcpy(bytes + 2, data, len);
    guest_write(&c->g, at, bytes, 2 + len);
    guest_write(&c->g, at + 4000, &ack, 1);
    struct gq_buf bufs[3] = { { at, 2, false }, { at + 2, len, false }, { at + 4000, 1, true } };
    assert_true(gq_add(&c->q[2], bufs, 3) >= 0);
    gdev_kick(&c->q[2]);
    gq_wait(&c->q[2], &used);
    guest_read(&c->g, at + 4000, &ack, 1);
    return ack;
}

/* Does a frame to this address arrive? */
static bool card_hears(struct card *c, const uint8_t *mac)
{
    uint8_t frame[60], marker[60], back[60];
    uint32_t used;
    frame_make(frame, sizeof frame, 1);
    memcpy(frame, mac, 6);
    frame_make(marker, sizeof marker, 2); /* to our own address: always arrives */
    send(c->peer, frame, sizeof frame, 0);
    send(c->peer, marker, sizeof marker, 0);
    bool heard = false;
    for (;;) {
        card_offer(c, 0, 2048);
        gdev_kick(&c->q[0]);
        gq_wait(&c->q[0], &used);
        guest_read(&c->g, c->memory + 12, back, sizeof back);
        if (!memcmp(back, marker, sizeof back))
            return heard;
        heard = true;
    }
}

static void test_net_control(void **state)
{
    static const uint8_t broadcast[6] = { 255, 255, 255, 255, 255, 255 };
    static const uint8_t other[6] = { 0x52, 0x54, 0, 9, 9, 9 }, group[6] = { 1, 0, 0x5e, 0, 0, 1 };
    struct card c;
    uint8_t on = 1, off = 0;
    card_open(&c);
    machine_start(c.g.m);
    card_start(&c, BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CSUM) |
                       BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) | BIT(VIRTIO_NET_F_HOST_TSO4) |
                       BIT(VIRTIO_NET_F_MAC));
    assert_true(card_hears(&c, other)); /* promiscuous until told otherwise */
    assert_int_equal(card_control(&c, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &off, 1), 0);
    assert_false(card_hears(&c, other));
    assert_false(card_hears(&c, group));
    assert_true(card_hears(&c, broadcast));
    assert_int_equal(card_control(&c, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, &on, 1), 0);
    assert_true(card_hears(&c, group));
    assert_int_equal(card_control(&c, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, &off, 1), 0);
    uint8_t table[4 + 6 + 4 + 6] = { 1 };
    memcpy(table + 4, other, 6);
    table[10] = 1;
    memcpy(table + 14, group, 6);
    assert_int_equal(
        card_control(&c, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, sizeof table),
        0);
    assert_true(card_hears(&c, other));
    assert_true(card_hears(&c, group));
    table[0] = 0xff; /* more entries than the command holds: refused, the old table stays */
    assert_int_equal(
        card_control(&c, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, sizeof table),
        1);
    assert_true(card_hears(&c, other));
    assert_int_equal(card_control(&c, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, group, 6),
                     1);
    assert_int_equal(card_control(&c, 200, 0, &on, 1), 1);

    /* The filter is part of the state. */
    machine_pause(c.g.m);
    struct buf saved = { 0 }, again = { 0 };
    device_save(&c.d.pci->dev, &saved);
    struct card to;
    card_open(&to);
    memcpy(to.g.m->main_ram->hva, c.g.m->main_ram->hva, GUEST_MEMORY);
    assert_int_equal(device_load(&to.d.pci->dev, saved.data, saved.len, NULL), 0);
    device_save(&to.d.pci->dev, &again);
    assert_int_equal(saved.len, again.len);
    assert_memory_equal(saved.data, again.data, saved.len);
    memcpy(to.q, c.q, sizeof to.q);
    for (unsigned i = 0; i < 3; i++)
        to.q[i].g = &to.g;
    machine_start(to.g.m);
    assert_true(card_hears(&to, other));
    assert_int_equal(card_control(&to, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 6),
                     0);
    assert_int_equal(gdev_config(&to.d, 5, 1), 9);
    buf_fini(&saved);
    buf_fini(&again);
    card_close(&to);
    card_close(&c);
}

/* A checksum left to us arrives filled in at a peer that takes complete frames only. */
static void test_net_checksum(void **state)
{
    struct card c;
    uint8_t frame[60] = { 0 }, back[60];
    card_open(&c);
    machine_start(c.g.m);
    card_start(&c, BIT(VIRTIO_NET_F_CSUM));
    frame_make(frame, 14, 0);
    frame[12] = 8, frame[13] = 0;
    static const uint8_t ip[20] = { 0x45, 0, 0,  46, 0, 0, 0,  0, 64, 17,
                                    0,    0, 10, 0,  0, 1, 10, 0, 0,  2 };
    memcpy(frame + 14, ip, 20);
    frame[35] = 53, frame[37] = 53, frame[39] = 26;
    memcpy(frame + 42, "some payload here!", 18);
    uint32_t pseudo = 0x0a00 + 1 + 0x0a00 + 2 + 17 + 26; /* the driver leaves this in the field */
    frame[40] = (uint8_t)(pseudo >> 8), frame[41] = (uint8_t)pseudo;
    struct virtio_net_hdr_v1 header = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                        .csum_start = htole16(34),
                                        .csum_offset = htole16(6) };
    card_transmit(&c, &header, frame, 60);
    assert_int_equal(peer_receive(&c, back, sizeof back), 60);
    uint32_t sum = 0x0a00 + 1 + 0x0a00 + 2 + 17 + 26;
    for (unsigned i = 34; i < 60; i += 2)
        sum += (uint32_t)(back[i] << 8 | back[i + 1]);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    assert_int_equal(sum, 0xffff);
    card_close(&c);
}

static void test_net_garbage(void **state)
{
    struct card c;
    struct virtio_net_hdr_v1 header = { 0 };
    uint8_t frame[60], back[65536];
    card_open(&c);
    machine_start(c.g.m);
    new_seed("net");
    garbage(&c.d, c.q, 3, 60);
    while (recv(c.peer, back, sizeof back, 0) > 0)
        ;
    card_start(&c, 0);
    frame_make(frame, sizeof frame, 3);
    card_transmit(&c, &header, frame, sizeof frame);
    assert_int_equal(peer_receive(&c, back, sizeof back), sizeof frame);
    assert_memory_equal(frame, back, sizeof frame);
    card_close(&c);
}

/* ---- State ---- */

static void covered(struct pci_device *pci)
{
    assert_int_equal(device_uncovered(pci->dev.type), 0);
    pci->dev.type->destroy(&pci->dev);
}

static void test_coverage(void **state)
{
    struct disk k = { 0 };
    struct card c;
    struct con con;
    struct pci_device *pci;
    k.fake = fake_open();
    disk_open(&k, &k.fake->node, "disk0", 1, VIRTIO_BLK_REPORT);
    assert_int_equal(device_uncovered(k.d.pci->dev.type), 0);
    assert_int_equal(virtio_rng_create(k.g.m, "rng0", &pci, NULL), 0);
    covered(pci);
    disk_close(&k);
    card_open(&c);
    assert_int_equal(device_uncovered(c.d.pci->dev.type), 0);
    card_close(&c);
    con_open(&con, 2);
    assert_int_equal(device_uncovered(con.d.pci->dev.type), 0);
    guest_fini(&con.g);
}

/* virtio_test ['*pattern*'] */
int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blk_traffic),
        cmocka_unit_test(test_blk_commands),
        cmocka_unit_test(test_blk_writethrough),
        cmocka_unit_test(test_blk_readonly),
        cmocka_unit_test(test_blk_pauses),
        cmocka_unit_test(test_blk_ignores),
        cmocka_unit_test(test_blk_io_thread),
        cmocka_unit_test(test_blk_move),
        cmocka_unit_test(test_blk_reset_waits),
        cmocka_unit_test(test_transport),
        cmocka_unit_test(test_blk_garbage),
        cmocka_unit_test(test_rng),
        cmocka_unit_test(test_input),
        cmocka_unit_test(test_console_single),
        cmocka_unit_test(test_console_ports),
        cmocka_unit_test(test_console_garbage),
        cmocka_unit_test(test_net_traffic),
        cmocka_unit_test(test_net_merge),
        cmocka_unit_test(test_net_control),
        cmocka_unit_test(test_net_checksum),
        cmocka_unit_test(test_net_garbage),
        cmocka_unit_test(test_coverage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
