/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The balloon, driven as a guest's driver would; what the host got back is counted in its file. */
#include "devices/virtio/balloon.h"

#include "base/checked.h"
#include "base/text.h"
#include "devices/pci.h"
#include "devices/virtio/test_rig.h"
#include "machine/machine.h"

#include <endian.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/stat.h>

enum { INFLATE, DEFLATE, STATS, REPORT, REPORT_BY_SPECIFICATION, QUEUES };
enum { AREA = 2 << 20 }; /* memory that the tests give away */

struct balloon_test {
    struct guest g;
    struct gdev d;
    struct gq q[QUEUES];
    struct pci_device *pci;
    uint64_t area, page;
    _Atomic unsigned refreshed;
};

static void on_refreshed(void *arg) { ((struct balloon_test *)arg)->refreshed++; }

static void balloon_open(struct balloon_test *b)
{
    b->refreshed = 0;
    guest_init(&b->g, true);
    struct virtio_balloon_options options = { "balloon0", on_refreshed, b };
    assert_int_equal(virtio_balloon_create(b->g.m, &options, &b->pci, NULL), 0);
    assert_int_equal(device_uncovered(b->pci->dev.type), 0);
    gdev_add(&b->d, &b->g, b->pci);
    b->page = guest_alloc(&b->g, 4096);
    b->area = guest_alloc(&b->g, AREA);
    machine_start(b->g.m);
}

static void balloon_drive(struct balloon_test *b, uint64_t features)
{
    gdev_negotiate(&b->d, features);
    for (unsigned i = 0; i < QUEUES; i++)
        gdev_queue(&b->d, &b->q[i], i, ring_flags(features), 16);
    gdev_driver_ok(&b->d);
}

static void area_fill(struct balloon_test *b)
{
    static uint8_t data[AREA];
    memset(data, 0x5a, sizeof data);
    guest_write(&b->g, b->area, data, sizeof data);
}

static uint8_t area_byte(struct balloon_test *b, uint64_t offset)
{
    uint8_t byte;
    guest_read(&b->g, b->area + offset, &byte, 1);
    return byte;
}

/* Bytes that the guest's memory takes on the host. */
static uint64_t host_bytes(struct balloon_test *b)
{
    struct stat st;
    assert_int_equal(fstat(b->g.m->main_ram->fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void balloon_send(struct balloon_test *b, unsigned queue, struct gq_buf buf)
{
    uint32_t len;
    gq_add(&b->q[queue], &buf, 1);
    gdev_kick(&b->q[queue]);
    gq_wait(&b->q[queue], &len);
    assert_int_equal(len, 0);
}

/* Pages of the area, counted down as Linux has them, and one that is no memory at all. */
static struct gq_buf balloon_pfns(struct balloon_test *b, unsigned first, unsigned count)
{
    uint32_t pfns[256];
    for (unsigned i = 0; i < count; i++)
        pfns[i] = htole32((uint32_t)(b->area >> 12) + first + count - 1 - i);
    pfns[count] = htole32(0xfffffff0);
    guest_write(&b->g, b->page, pfns, (count + 1ul) * sizeof pfns[0]);
    return (struct gq_buf){ b->page, (uint32_t)((count + 1) * sizeof pfns[0]), false };
}

static void test_inflate(uint64_t features)
{
    struct balloon_test b;
    struct virtio_balloon_status s;
    balloon_open(&b);
    virtio_balloon_status(b.pci, &s);
    assert_false(s.driver);
    balloon_drive(&b, features);
    area_fill(&b);
    struct gq_buf pages = balloon_pfns(&b, 3, 100);
    uint64_t before = host_bytes(&b);

    virtio_balloon_target(b.pci, 100 * 4096);
    assert_int_equal(gdev_config(&b.d, 0, 4), 100);
    balloon_send(&b, INFLATE, pages);
    assert_int_equal(before - host_bytes(&b), 100 * 4096);
    assert_int_equal(area_byte(&b, 3 * 4096 - 1), 0x5a);
    assert_int_equal(area_byte(&b, 3 * 4096), 0);
    assert_int_equal(area_byte(&b, 103 * 4096 - 1), 0);
    assert_int_equal(area_byte(&b, 103 * 4096), 0x5a);
    bus_write(b.g.m, SPACE_MEMORY, b.d.config + 4, 4, 100);
    virtio_balloon_status(b.pci, &s);
    assert_true(s.driver);
    assert_int_equal(s.target, 100 * 4096);
    assert_int_equal(s.actual, 100 * 4096);
    assert_int_equal(s.inflated, 100 * 4096);

    balloon_send(&b, DEFLATE, pages);
    area_fill(&b); /* pages come back when they are used */
    assert_int_equal(area_byte(&b, 50 * 4096), 0x5a);
    guest_fini(&b.g);
}

static void test_inflate_split(void **state) { test_inflate(RING_FEATURES); }
static void test_inflate_packed(void **state)
{
    test_inflate(RING_FEATURES | BIT(VIRTIO_F_RING_PACKED));
}

/* What was given back counts as written. */
static void test_dirty(void **state)
{
    struct balloon_test b;
    balloon_open(&b);
    balloon_drive(&b, RING_FEATURES);
    area_fill(&b);
    AUTO(free) uint64_t *bitmap = calloc(GUEST_MEMORY >> 18, sizeof *bitmap);
    assert_int_equal(dirty_log_start(b.g.m, NULL), 0);
    balloon_send(&b, INFLATE, balloon_pfns(&b, 0, 7));
    balloon_send(&b, REPORT, (struct gq_buf){ b.area + 64 * 4096, 64 * 4096, true });
    dirty_log_fetch_clear(b.g.m, b.g.m->main_ram, bitmap);
    uint64_t first = b.area >> 12;
    for (unsigned i = 0; i < 140; i++) {
        bool marked = bitmap[(first + i) / 64] >> (first + i) % 64 & 1;
        assert_int_equal(marked, i < 7 || (i >= 64 && i < 128));
    }
    dirty_log_stop(b.g.m);
    guest_fini(&b.g);
}

static void test_report(void **state)
{
    struct balloon_test b;
    struct virtio_balloon_status s;
    balloon_open(&b);
    balloon_drive(&b, RING_FEATURES | BIT(VIRTIO_BALLOON_F_REPORTING) |
                          BIT(VIRTIO_BALLOON_F_PAGE_POISON));
    for (unsigned queue = REPORT; queue < QUEUES; queue++) {
        area_fill(&b);
        uint64_t before = host_bytes(&b);
        /* 16 whole pages in a buffer that begins and ends within one */
        balloon_send(&b, queue, (struct gq_buf){ b.area + 4000, 96 + 16 * 4096 + 96, true });
        assert_int_equal(before - host_bytes(&b), 16 * 4096);
        assert_int_equal(area_byte(&b, 4095), 0x5a);
        assert_int_equal(area_byte(&b, 4096), 0);
        assert_int_equal(area_byte(&b, 17 * 4096), 0x5a);
    }
    virtio_balloon_status(b.pci, &s);
    assert_int_equal(s.reported, 2 * 16 * 4096);

    /* a guest that fills its free pages finds them as it left them */
    bus_write(b.g.m, SPACE_MEMORY, b.d.config + 12, 4, 0x5a5a5a5a);
    area_fill(&b);
    balloon_send(&b, REPORT, (struct gq_buf){ b.area, 16 * 4096, true });
    assert_int_equal(area_byte(&b, 4096), 0x5a);
    guest_fini(&b.g);
}

static void stats_offer(struct balloon_test *b, uint64_t free_bytes)
{
    struct virtio_balloon_stat entries[3] = {
        { .tag = htole16(VIRTIO_BALLOON_S_MEMFREE), .val = htole64(free_bytes) },
        { .tag = htole16(VIRTIO_BALLOON_S_MEMTOT), .val = htole64(GUEST_MEMORY) },
        { .tag = htole16(999), .val = htole64(1) },
    };
    guest_write(&b->g, b->page, entries, sizeof entries);
    struct gq_buf buf = { b->page, sizeof entries, false };
    gq_add(&b->q[STATS], &buf, 1);
    gdev_kick(&b->q[STATS]);
}

static bool stats_refreshed(void *arg) { return ((struct balloon_test *)arg)->refreshed; }

static bool stats_known(void *arg)
{
    struct virtio_balloon_status s;
    virtio_balloon_status(((struct balloon_test *)arg)->pci, &s);
    return s.known;
}

static uint64_t stats_free(struct balloon_test *b)
{
    struct virtio_balloon_status s;
    virtio_balloon_status(b->pci, &s);
    assert_int_equal(s.known, 1 << VIRTIO_BALLOON_S_MEMFREE | 1 << VIRTIO_BALLOON_S_MEMTOT);
    assert_int_equal(s.stats[VIRTIO_BALLOON_S_MEMTOT], GUEST_MEMORY);
    return s.stats[VIRTIO_BALLOON_S_MEMFREE];
}

static void test_stats(uint64_t features)
{
    struct balloon_test b;
    uint32_t len;
    balloon_open(&b);
    balloon_drive(&b, features | BIT(VIRTIO_BALLOON_F_STATS_VQ));
    stats_offer(&b, 1000);
    wait_for(stats_known, &b);
    assert_int_equal(stats_free(&b), 1000);
    assert_int_equal(gq_get(&b.q[STATS], &len), -1); /* it is kept */
    for (unsigned i = 1; i < 40; i++) {              /* more rounds than the ring has entries */
        b.refreshed = 0;
        virtio_balloon_refresh(b.pci);
        gq_wait(&b.q[STATS], &len);
        assert_int_equal(b.refreshed, 0);
        stats_offer(&b, 1000 + i);
        wait_for(stats_refreshed, &b);
        assert_int_equal(stats_free(&b), 1000 + i);
    }

    /* the kept buffer goes along with a saved state */
    machine_pause(b.g.m);
    struct buf saved = { 0 };
    device_save(&b.pci->dev, &saved);
    assert_int_equal(device_load(&b.pci->dev, saved.data, saved.len, NULL), 0);
    buf_fini(&saved);
    machine_resume(b.g.m);
    b.refreshed = 0;
    virtio_balloon_refresh(b.pci);
    gq_wait(&b.q[STATS], &len);
    stats_offer(&b, 7);
    wait_for(stats_refreshed, &b);
    assert_int_equal(stats_free(&b), 7);
    guest_fini(&b.g);
}

static void test_stats_split(void **state) { test_stats(RING_FEATURES); }
static void test_stats_packed(void **state) { test_stats(BIT(VIRTIO_F_RING_PACKED)); }

static void test_garbage(void **state)
{
    struct balloon_test b;
    balloon_open(&b);
    balloon_drive(&b, RING_FEATURES);
    new_seed("balloon");
    garbage(&b.d, b.q, QUEUES, 30);
    balloon_drive(&b, RING_FEATURES);
    area_fill(&b);
    balloon_send(&b, INFLATE, balloon_pfns(&b, 0, 1));
    assert_int_equal(area_byte(&b, 0), 0);
    guest_fini(&b.g);
}

/* virtio_balloon_test ['*pattern*'] */
int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inflate_split), cmocka_unit_test(test_inflate_packed),
        cmocka_unit_test(test_dirty),         cmocka_unit_test(test_report),
        cmocka_unit_test(test_stats_split),   cmocka_unit_test(test_stats_packed),
        cmocka_unit_test(test_garbage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
