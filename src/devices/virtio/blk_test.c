/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The virtio disk, driven as a guest's driver would; its image is a file or memory that hangs. */
#include "base/checked.h"
#include "base/log.h"
#include "base/text.h"
#include "devices/pci.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/test_rig.h"

#include <endian.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

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
    unsigned sectors = MDISK_SIZE / 512;
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
    uint8_t *file = malloc(MDISK_SIZE);
    assert_non_null(file);
    assert_int_equal(pread_full(fd, file, MDISK_SIZE, 0), 0);
    assert_memory_equal(file, shadow, MDISK_SIZE);
    free(file);
}

static void test_blk_traffic(void **state)
{
    struct disk k = { 0 };
    char path[32];
    uint8_t *shadow = calloc(1, MDISK_SIZE);
    rnd_seed(42);
    disk_open(&k, raw_file(path, MDISK_SIZE), "disk0", 2, VIRTIO_BLK_REPORT);
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
    k.mdisk = mdisk_open(MDISK_SIZE);
    disk_open(&k, &k.mdisk->node, "disk0", 1, VIRTIO_BLK_REPORT);
    machine_start(k.g.m);
    disk_queues(&k, gdev_features(&k.d), 1);

    assert_int_equal(gdev_config(&k.d, 0, 8), MDISK_SIZE / 512);
    assert_int_equal(gdev_config(&k.d, offsetof(struct virtio_blk_config, seg_max), 4), 254);
    assert_int_equal(gdev_config(&k.d, offsetof(struct virtio_blk_config, wce), 1), 1);
    assert_int_equal(gdev_config(&k.d, 59, 2), 0); /* behind the end */

    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
    char id[20];
    guest_read(&k.g, slot_at(&k, 0) + 4096, id, 20);
    assert_memory_equal(id, "SERIAL-0123456789-TO", 20);

    memset(k.mdisk->data, 0x55, MDISK_SIZE);
    put_range(&k, 8, 16, 1);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_OK);
    assert_int_equal(k.mdisk->data[8 * 512 - 1], 0x55);
    assert_int_equal(k.mdisk->data[8 * 512], 0);
    assert_int_equal(k.mdisk->data[24 * 512 - 1], 0);
    assert_int_equal(k.mdisk->data[24 * 512], 0x55);
    put_range(&k, 32, 8, 0);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_OK);
    assert_int_equal(k.mdisk->data[32 * 512], 0);
    put_range(&k, 32, 8, 1); /* unmap means nothing for a discard */
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_UNSUPP);
    put_range(&k, UINT64_MAX / 512, 8, 0);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_IOERR);
    put_range(&k, 0, UINT32_MAX, 0);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_DISCARD, 0, 32), VIRTIO_BLK_S_UNSUPP);

    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, MDISK_SIZE / 512, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, MDISK_SIZE / 512 - 1, 1024), VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, UINT64_MAX, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 100), VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk_do(&k, 77, 0, 512), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, MDISK_SIZE / 512 - 1, 512), VIRTIO_BLK_S_OK);

    k.mdisk->mode = MDISK_FULL; /* on_full=report */
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(gdev_status(&k.d), 15);

    /* a request without a status byte: the device asks for a reset, which works */
    struct gq_buf header = { slot_at(&k, 0), 16, false };
    gq_add(&k.q[0], &header, 1);
    gdev_kick(&k.q[0]);
    for (unsigned i = 0; gdev_status(&k.d) != (15 | VIRTIO_CONFIG_S_NEEDS_RESET); i++) {
        assert_true(i < 60000);
        usleep(1000);
    }
    k.mdisk->mode = MDISK_WORKS;
    disk_queues(&k, BIT(VIRTIO_BLK_F_FLUSH), 1);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    disk_close(&k);
}

/* Who cannot flush, or has switched write-back off, gets every write durable. */
static void test_blk_writethrough(void **state)
{
    struct disk k = { 0 };
    k.mdisk = mdisk_open(MDISK_SIZE);
    disk_open(&k, &k.mdisk->node, "disk0", 1, VIRTIO_BLK_REPORT);
    machine_start(k.g.m);
    uint64_t wce = k.d.config + offsetof(struct virtio_blk_config, wce);
    disk_queues(&k, 0, 1);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(k.mdisk->flags, BLOCK_FUA);
    disk_queues(&k, BIT(VIRTIO_BLK_F_FLUSH), 1);
    bus_write(k.g.m, SPACE_MEMORY, wce, 1, 0); /* not negotiated: ignored */
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(k.mdisk->flags, 0);
    disk_queues(&k, BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE), 1);
    bus_write(k.g.m, SPACE_MEMORY, wce, 1, 0);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(k.mdisk->flags, BLOCK_FUA);
    put_range(&k, 0, 8, 1);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_OK);
    assert_int_equal(k.mdisk->flags, BLOCK_FUA | BLOCK_UNMAP);
    bus_write(k.g.m, SPACE_MEMORY, wce, 1, 1);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(k.mdisk->flags, 0);
    bus_write(k.g.m, SPACE_MEMORY, wce, 1, 0);
    gdev_reset(&k.d); /* puts it back */
    assert_int_equal(gdev_config(&k.d, offsetof(struct virtio_blk_config, wce), 1), 1);
    disk_close(&k);
}

static void test_blk_readonly(void **state)
{
    struct disk k = { 0 };
    struct pci_device *pci;
    k.mdisk = mdisk_open(MDISK_SIZE);
    guest_init(&k.g, true);
    k.node = &k.mdisk->node;
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

static void blk_pauses(enum mdisk_mode mode, enum machine_event event)
{
    struct disk k = { 0 };
    uint32_t len;
    k.mdisk = mdisk_open(MDISK_SIZE);
    disk_open(&k, &k.mdisk->node, "disk0", 1, VIRTIO_BLK_PAUSE);
    machine_start(k.g.m);
    disk_queues(&k, RING_FEATURES, 1);
    k.mdisk->mode = mode;
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
    k.mdisk->mode = MDISK_WORKS;
    machine_resume(k.g.m);
    for (unsigned i = 0; i < 3; i++)
        gq_wait(&k.q[0], &len);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(disk_status(&k, i), VIRTIO_BLK_S_OK);
        assert_int_equal(k.mdisk->data[i * 512], 'a' + i);
    }
    disk_close(&k);
}

static void test_blk_pauses(void **state)
{
    blk_pauses(MDISK_FULL, MACHINE_DISK_FULL);
    blk_pauses(MDISK_BROKEN, MACHINE_DISK_ERROR);
}

static void test_blk_ignores(void **state)
{
    struct disk k = { 0 };
    k.mdisk = mdisk_open(MDISK_SIZE);
    disk_open(&k, &k.mdisk->node, "disk0", 1, VIRTIO_BLK_IGNORE);
    machine_start(k.g.m);
    disk_queues(&k, RING_FEATURES, 1);
    k.mdisk->mode = MDISK_FULL;
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    k.mdisk->mode = MDISK_BROKEN;
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    /* but not the guest's own mistakes */
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, MDISK_SIZE / 512, 512), VIRTIO_BLK_S_IOERR);
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
    k.mdisk = mdisk_open(MDISK_SIZE);
    k.node = &k.mdisk->node;
    const struct virtio_blk_options options = {
        .id = "disk0", .node = k.node, .loops = &loop, .loop_count = 1
    };
    assert_int_equal(virtio_blk_create(k.g.m, &options, &pci, NULL), 0);
    gdev_add(&k.d, &k.g, pci);
    k.memory = guest_alloc(&k.g, 64 * SLOT);
    machine_start(k.g.m);
    disk_queues(&k, RING_FEATURES, 1);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, i, 512), VIRTIO_BLK_S_OK);
    k.mdisk->mode = MDISK_HANGS;
    k.mdisk->submitted = 0;
    assert_true(disk_add(&k, 0, 0, VIRTIO_BLK_T_IN, 0, 512) >= 0);
    gdev_kick(&k.q[0]);
    for (unsigned i = 0; !k.mdisk->submitted && i < 60000; i++)
        usleep(1000);
    machine_pause(k.g.m);
    loop_call(loop, mdisk_release, k.mdisk); /* ends while paused: not told before the resume */
    assert_int_equal(gq_get(&k.q[0], &len), -1);
    k.mdisk->mode = MDISK_WORKS;
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
    return k->mdisk->submitted == 4;
}

/* Requests hang; the machine is paused, saved, and goes on elsewhere, where they are submitted
 * again. */
static void blk_move(uint64_t features, unsigned lanes)
{
    struct disk from = { 0 }, to = { .lanes = lanes };
    uint32_t len;
    struct err err = { 0 };
    from.mdisk = mdisk_open(MDISK_SIZE);
    to.mdisk = mdisk_open(MDISK_SIZE);
    disk_open(&from, &from.mdisk->node, "disk0", 2, VIRTIO_BLK_REPORT);
    disk_open(&to, &to.mdisk->node, "disk0", 2, VIRTIO_BLK_REPORT);
    machine_start(from.g.m);
    disk_queues(&from, features, 2);
    assert_int_equal(disk_do(&from, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    from.mdisk->mode = MDISK_HANGS;
    for (unsigned i = 1; i < 4; i++) {
        uint8_t fill[1024];
        memset(fill, (int)('a' + i), sizeof fill);
        guest_write(&from.g, slot_at(&from, i) + 4096, fill, sizeof fill);
        assert_true(disk_add(&from, i & 1, i, VIRTIO_BLK_T_OUT, i * 8, 1024) >= 0);
    }
    gdev_kick(&from.q[0]);
    gdev_kick(&from.q[1]);
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
    for (unsigned i = 0; i < 2; i++) {
        to.q[i] = from.q[i];
        to.q[i].g = &to.g;
        to.q[i].served = virtio_lane((struct virtio_device *)to.d.pci, i)->loop;
    }
    machine_start(to.g.m);
    for (unsigned i = 1; i < 4; i++)
        gq_wait(&to.q[i & 1], &len);
    for (unsigned i = 1; i < 4; i++) {
        assert_int_equal(disk_status(&to, i), VIRTIO_BLK_S_OK);
        assert_int_equal(to.mdisk->data[i * 8 * 512 + 1023], 'a' + i);
    }
    assert_int_equal(disk_do(&to, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);

    /* The source goes on, too: what completes while it is paused is told after resume. */
    loop_call(from.g.m->io_loop, mdisk_release, from.mdisk);
    assert_int_equal(gq_get(&from.q[0], &len), -1);
    dma_freeze(from.g.m);
    dma_thaw(from.g.m);
    machine_resume(from.g.m);
    for (unsigned i = 1; i < 4; i++)
        gq_wait(&from.q[i & 1], &len);
    assert_int_equal(disk_do(&from, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);

    /* Damaged state is refused or loads; it never crashes. */
    rnd_seed(7);
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
    blk_move(RING_FEATURES, 0);
    blk_move(RING_FEATURES | BIT(VIRTIO_F_RING_PACKED), 2); /* to where queues have threads */
}

/* A reset waits for what is in flight, of the device and of one queue. */
static void test_blk_reset_waits(void **state)
{
    struct disk k = { 0 };
    uint32_t len;
    k.mdisk = mdisk_open(MDISK_SIZE);
    disk_open(&k, &k.mdisk->node, "disk0", 1, VIRTIO_BLK_REPORT);
    machine_start(k.g.m);
    uint64_t common = k.d.common;
    disk_queues(&k, BIT(VIRTIO_F_RING_RESET), 1);
    for (unsigned whole = 0; whole < 2; whole++) {
        k.mdisk->mode = MDISK_HANGS;
        k.mdisk->submitted = 0;
        assert_true(disk_add(&k, 0, 1, VIRTIO_BLK_T_IN, 0, 512) >= 0);
        gdev_kick(&k.q[0]);
        for (unsigned i = 0; !k.mdisk->submitted && i < 60000; i++)
            usleep(1000);
        unsigned reg = whole ? VIRTIO_PCI_COMMON_STATUS : VIRTIO_PCI_COMMON_Q_RESET;
        unsigned size = whole ? 1 : 2;
        bus_write(k.g.m, SPACE_MEMORY, common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
        bus_write(k.g.m, SPACE_MEMORY, common + reg, size, whole ? 0 : 1);
        usleep(20000);
        assert_int_not_equal(bus_read(k.g.m, SPACE_MEMORY, common + reg, size), 0);
        loop_call(k.g.m->io_loop, mdisk_release, k.mdisk);
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

static void test_blk_garbage(void **state)
{
    struct disk k = { 0 };
    struct gdev cd;
    struct mdisk *cd_mdisk = mdisk_open(MDISK_SIZE);
    struct pci_device *pci;
    k.mdisk = mdisk_open(MDISK_SIZE);
    new_seed("blk");
    disk_open(&k, &k.mdisk->node, "disk0", 2, VIRTIO_BLK_PAUSE);
    memset(cd_mdisk->data, 0x77, MDISK_SIZE);
    struct virtio_blk_options options = {
        .id = "cd", .node = &cd_mdisk->node, .queues = 2, .readonly = true
    };
    assert_int_equal(virtio_blk_create(k.g.m, &options, &pci, NULL), 0);
    gdev_add(&cd, &k.g, pci);
    gdev_probe(&k.d);
    machine_start(k.g.m);
    garbage(&k.d, k.q, 2, 60);
    garbage(&cd, k.q, 2, 60);
    for (unsigned i = 0; i < MDISK_SIZE; i++)
        assert_int_equal(cd_mdisk->data[i], 0x77); /* read-only whatever the guest does */
    disk_queues(&k, RING_FEATURES | BIT(VIRTIO_BLK_F_FLUSH), 2);
    uint8_t data[512], back[512];
    memset(data, 0x5a, sizeof data);
    guest_write(&k.g, slot_at(&k, 0) + 4096, data, sizeof data);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_OUT, 3, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(disk_do(&k, VIRTIO_BLK_T_IN, 3, 512), VIRTIO_BLK_S_OK);
    guest_read(&k.g, slot_at(&k, 0) + 4096, back, sizeof back);
    assert_memory_equal(data, back, sizeof data);
    disk_close(&k);
    block_close(&cd_mdisk->node);
}

static void test_coverage(void **state)
{
    struct disk k = { 0 };
    k.mdisk = mdisk_open(MDISK_SIZE);
    disk_open(&k, &k.mdisk->node, "disk0", 1, VIRTIO_BLK_REPORT);
    assert_int_equal(device_uncovered(k.d.pci->dev.type), 0);
    disk_close(&k);
}

/* virtio_blk_test ['*pattern*'] */
int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blk_traffic),      cmocka_unit_test(test_blk_commands),
        cmocka_unit_test(test_blk_writethrough), cmocka_unit_test(test_blk_readonly),
        cmocka_unit_test(test_blk_pauses),       cmocka_unit_test(test_blk_ignores),
        cmocka_unit_test(test_blk_io_thread),    cmocka_unit_test(test_blk_move),
        cmocka_unit_test(test_blk_reset_waits),  cmocka_unit_test(test_blk_garbage),
        cmocka_unit_test(test_coverage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
