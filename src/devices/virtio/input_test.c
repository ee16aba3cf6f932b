/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The virtio tablet, driven as a guest's driver would. */
#include "devices/input.h"
#include "devices/pci.h"
#include "devices/virtio/input.h"
#include "devices/virtio/test_rig.h"

#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

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
    for (unsigned i = 0; i < 60000 && !input_has_tablet(hub); i++) {
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

/* virtio_input_test ['*pattern*'] */
int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
