/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The virtio source of random bytes, driven as a guest's driver would. */
#include "base/text.h"
#include "devices/pci.h"
#include "devices/virtio/rng.h"
#include "devices/virtio/test_rig.h"

#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

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

static void test_coverage(void **state)
{
    struct guest g;
    struct pci_device *pci;
    guest_init(&g, true);
    assert_int_equal(virtio_rng_create(g.m, "rng0", &pci, NULL), 0);
    assert_int_equal(device_uncovered(pci->dev.type), 0);
    pci->dev.type->destroy(&pci->dev);
    guest_fini(&g);
}

/* virtio_rng_test ['*pattern*'] */
int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rng),
        cmocka_unit_test(test_coverage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
