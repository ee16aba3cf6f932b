/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The transport of virtio over PCI: features, interrupts, doorbells, BARs that move. */
#include "devices/pci.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/test_rig.h"
#include "devices/virtio/virtio_pci.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void test_transport(void **state)
{
    struct disk k = { 0 };
    k.mdisk = mdisk_open(MDISK_SIZE);
    disk_open(&k, &k.mdisk->node, "disk0", 1, VIRTIO_BLK_REPORT);
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
        assert_true(i < 60000);
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

/* virtio_pci_test ['*pattern*'] */
int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transport),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
