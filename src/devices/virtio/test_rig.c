/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Random numbers, garbage for registers and rings, and a disk for the tests of the virtio kinds. */
#include "devices/virtio/test_rig.h"

#include "base/checked.h"
#include "base/log.h"
#include "devices/pci.h"
#include "devices/virtio/blk.h"

#include <endian.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t seed; /* of rnd */

void rnd_seed(uint64_t value) { seed = value; }

uint32_t rnd32(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 29);
}
unsigned rnd(unsigned below) { return rnd32() % below; }

unsigned ring_flags(uint64_t features)
{
    return (features & BIT(VIRTIO_F_RING_PACKED) ? GQ_PACKED : 0) |
           (features & BIT(VIRTIO_RING_F_EVENT_IDX) ? GQ_EVENT_IDX : 0) |
           (features & BIT(VIRTIO_RING_F_INDIRECT_DESC) ? GQ_INDIRECT : 0);
}

void wait_for(bool (*fn)(void *arg), void *arg)
{
    for (unsigned i = 0; i < 5000; i++) {
        if (fn(arg))
            return;
        usleep(1000);
    }
    fail_msg("it did not happen within 5 seconds");
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

void garbage(struct gdev *d, struct gq *queues, unsigned count, unsigned rounds)
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

void new_seed(const char *what)
{
    const char *text = getenv("VIRTIO_TEST_SEED");
    seed = text ? strtoull(text, NULL, 0) : monotonic_ns() | 1;
    print_message("%s: seed 0x%llx (VIRTIO_TEST_SEED)\n", what, (unsigned long long)seed);
}
/* ---- The disk ---- */

uint64_t slot_at(struct disk *k, unsigned slot) { return k->memory + slot * (uint64_t)SLOT; }

void disk_open(struct disk *k, struct block_node *node, const char *id, unsigned queues,
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
    struct loop *loops[ARRAY_LEN(k->q)];
    for (unsigned i = 0; i < k->lanes; i++)
        assert_int_equal(machine_io_loop(k->g.m, i ? "1" : "0", &loops[i], NULL), 0);
    options.loops = loops;
    options.loop_count = k->lanes;
    assert_int_equal(virtio_blk_create(k->g.m, &options, &pci, NULL), 0);
    gdev_add(&k->d, &k->g, pci);
    k->memory = guest_alloc(&k->g, 64 * SLOT);
}

void disk_queues(struct disk *k, uint64_t features, unsigned queues)
{
    gdev_negotiate(&k->d, features);
    for (unsigned i = 0; i < queues; i++)
        gdev_queue(&k->d, &k->q[i], i, ring_flags(features), 128);
    gdev_driver_ok(&k->d);
}

void disk_close(struct disk *k)
{
    guest_fini(&k->g);
    block_close(k->node);
}

int disk_add(struct disk *k, unsigned queue, unsigned slot, uint32_t type, uint64_t sector,
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

uint8_t disk_status(struct disk *k, unsigned slot)
{
    uint8_t status;
    guest_read(&k->g, slot_at(k, slot) + 64, &status, 1);
    return status;
}

uint8_t disk_do(struct disk *k, uint32_t type, uint64_t sector, uint32_t len)
{
    uint32_t written;
    int id = disk_add(k, 0, 0, type, sector, len);
    assert_true(id >= 0);
    gdev_kick(&k->q[0]);
    assert_int_equal(gq_wait(&k->q[0], &written), id);
    return disk_status(k, 0);
}
