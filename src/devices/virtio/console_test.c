/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The virtio console, driven as a guest's driver would. */
#include "base/cleanup.h"
#include "base/text.h"
#include "devices/pci.h"
#include "devices/virtio/console.h"
#include "devices/virtio/test_rig.h"

#include <endian.h>
#include <linux/virtio_console.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

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

static void con_open(struct con *c, unsigned ports, bool no_console)
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
    struct virtio_console_options options = { .id = "console0",
                                              .ports = port,
                                              .port_count = ports,
                                              .no_console = no_console,
                                              .cols = 80,
                                              .rows = 25 };
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
    con_open(&c, 1, false);
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
    for (unsigned i = 0; !c.t[0].rooms && i < 60000; i++)
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

/* A device of named ports alone: no port 0 shows, whatever the driver says about it. */
static void test_ports_alone(void **state)
{
    struct con c;
    con_open(&c, 2, true);
    machine_start(c.g.m);
    assert_false(gdev_features(&c.d) &
                 (BIT(VIRTIO_CONSOLE_F_SIZE) | BIT(VIRTIO_CONSOLE_F_EMERG_WRITE)));
    con_start(&c, RING_FEATURES | BIT(VIRTIO_CONSOLE_F_MULTIPORT), 6);
    con_control(&c, VIRTIO_CONSOLE_BAD_ID, VIRTIO_CONSOLE_DEVICE_READY, 1);
    con_expect_control(&c, 1, VIRTIO_CONSOLE_PORT_ADD, 1, "", 0);
    con_control(&c, 0, VIRTIO_CONSOLE_PORT_READY, 1);
    con_control(&c, 0, VIRTIO_CONSOLE_PORT_OPEN, 1);
    con_control(&c, 1, VIRTIO_CONSOLE_PORT_READY, 1);
    con_expect_control(&c, 1, VIRTIO_CONSOLE_PORT_NAME, 1, "org.bedplate.test", 17);
    con_expect_control(&c, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, "", 0);
    assert_false(virtio_console_is_open(c.d.pci, 1));
    con_control(&c, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
    assert_true(virtio_console_is_open(c.d.pci, 1));
    assert_int_equal(c.t[0].opens, 0);
    guest_fini(&c.g);
}

static void test_console_ports(void **state)
{
    struct con c;
    con_open(&c, 2, false);
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
    con_open(&to, 2, false);
    memcpy(to.g.m->main_ram->hva, c.g.m->main_ram->hva, GUEST_MEMORY);
    assert_int_equal(device_load(&to.d.pci->dev, saved.data, saved.len, NULL), 0);
    memcpy(to.q, c.q, sizeof to.q);
    for (unsigned i = 0; i < 6; i++)
        to.q[i].g = &to.g;
    machine_start(to.g.m);
    con_offer(&to, 4, 64);
    con_expect(&to, 4, "kept", 4);

    /* the host hangs up: what was on its way is gone, and the port is there again after a close */
    assert_int_equal(virtio_console_input(to.d.pci, 1, (const uint8_t *)"lost", 4), 4);
    virtio_console_hang_up(to.d.pci, 1);
    con_expect_control(&to, 1, VIRTIO_CONSOLE_PORT_OPEN, 0, "", 0);
    con_control(&to, 1, VIRTIO_CONSOLE_PORT_OPEN, 0);
    con_expect_control(&to, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, "", 0);
    virtio_console_hang_up(to.d.pci, 1); /* nobody has it open */
    con_control(&to, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
    assert_int_equal(virtio_console_input(to.d.pci, 1, (const uint8_t *)"new", 3), 3);
    con_offer(&to, 4, 64);
    con_expect(&to, 4, "new", 3);
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
    con_open(&c, 2, false);
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

static void test_coverage(void **state)
{
    struct con c;
    con_open(&c, 2, false);
    assert_int_equal(device_uncovered(c.d.pci->dev.type), 0);
    guest_fini(&c.g);
}

/* virtio_console_test ['*pattern*'] */
int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_console_single), cmocka_unit_test(test_console_ports),
        cmocka_unit_test(test_ports_alone),    cmocka_unit_test(test_console_garbage),
        cmocka_unit_test(test_coverage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
