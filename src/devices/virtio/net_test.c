/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The virtio network card, driven as a guest's driver would, with a socket as its peer. */
#include "base/checked.h"
#include "base/text.h"
#include "devices/pci.h"
#include "devices/virtio/net.h"
#include "devices/virtio/test_rig.h"
#include "net/net.h"

#include <endian.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

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
    for (unsigned i = 0; i < 60000; i++) {
        ssize_t n = recv(c->peer, frame, room, 0);
        if (n > 0)
            return n;
        usleep(1000);
    }
    fail_msg("no frame within a minute");
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
    rnd_seed(99);
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

static void test_coverage(void **state)
{
    struct card c;
    card_open(&c);
    assert_int_equal(device_uncovered(c.d.pci->dev.type), 0);
    card_close(&c);
}

/* virtio_net_test ['*pattern*'] */
int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_net_traffic), cmocka_unit_test(test_net_merge),
        cmocka_unit_test(test_net_control), cmocka_unit_test(test_net_checksum),
        cmocka_unit_test(test_net_garbage), cmocka_unit_test(test_coverage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
