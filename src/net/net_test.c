/* SPDX-License-Identifier: GPL-2.0-or-later */
/* hostfwd strings; back ends on descriptors: every framing, flow control both ways, a lost peer;
 * software offloads on the way out; a tap, where we may make one. */
#include "net/net.h"

#include "base/checked.h"
#include "base/text.h"
#include "net/loop_for_test.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

/* ---- hostfwd ---- */

static void test_hostfwd(void **state)
{
    struct net_hostfwd f;
    struct err err;
    assert_int_equal(net_hostfwd_parse("tcp:127.0.0.1:2222-:22", &f, &err), 0);
    assert_false(f.udp);
    assert_int_equal(f.host_addr.s_addr, htonl(INADDR_LOOPBACK));
    assert_int_equal(f.host_port, 2222);
    assert_int_equal(f.guest_addr.s_addr, 0);
    assert_int_equal(f.guest_port, 22);
    assert_int_equal(net_hostfwd_parse("udp:0.0.0.0:53-10.0.2.16:5353", &f, &err), 0);
    assert_true(f.udp);
    assert_int_equal(f.host_addr.s_addr, 0);
    assert_int_equal(f.guest_addr.s_addr, inet_addr("10.0.2.16"));
    assert_int_equal(net_hostfwd_parse(":80-:8080", &f, &err), 0);
    assert_int_equal(f.host_addr.s_addr, htonl(INADDR_LOOPBACK));

    static const struct {
        const char *text, *says;
    } bad[] = {
        { "", "no '-'" },
        { "tcp:127.0.0.1:2222", "no '-'" },
        { "sctp::1-:1", "tcp or udp" },
        { "tcp:2222-:22", "host side '2222' has no ':'" },
        { "tcp::2222-22", "guest side '22' has no ':'" },
        { "tcp:localhost:2222-:22", "host address 'localhost'" },
        { "tcp::0-:22", "host port '0'" },
        { "tcp::2222-:65536", "guest port '65536'" },
        { "tcp::2222-:22x", "guest port '22x'" },
        { "tcp::2222-:", "guest port ''" },
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(net_hostfwd_parse(bad[i].text, &f, &err), -EINVAL);
        if (!strstr(err.text, bad[i].says))
            fail_msg("\"%s\" does not say \"%s\"", err.text, bad[i].says);
    }
}

/* ---- a NIC that keeps what it gets ---- */

struct nic {
    struct net_backend *net;
    unsigned room; /* frames that it still takes */
    unsigned got, ready, expect;
    bool down;
    size_t last_len;
    uint8_t last[NET_MAX_FRAME];
    struct net_offload last_offload;
};

static bool nic_receive(void *arg, const uint8_t *frame, size_t len, const struct net_offload *o)
{
    struct nic *nic = arg;
    if (!nic->room)
        return false;
    nic->room--;
    memcpy(nic->last, frame, len);
    nic->last_len = len;
    nic->last_offload = *o;
    if (++nic->got == nic->expect)
        loop_stop(loop, 0);
    return true;
}
static void nic_ready(void *arg)
{
    ((struct nic *)arg)->ready++;
    loop_stop(loop, 1);
}
static void nic_link(void *arg, bool up)
{
    ((struct nic *)arg)->down = !up;
    loop_stop(loop, 2);
}
static const struct net_receiver nic_receiver = { nic_receive, nic_ready, nic_link };

static int nic_send(struct nic *nic, const void *frame, size_t len)
{
    struct net_offload none = { 0 };
    struct iovec iov[2] = { { (void *)frame, 3 }, { (char *)frame + 3, len - 3 } };
    return net_send(nic->net, iov, 2, &none);
}

static struct nic *nic_on(int type, int *other)
{
    int pair[2];
    struct err err;
    static struct nic nic;
    assert_int_equal(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair), 0);
    nic = (struct nic){ .room = UINT_MAX };
    if (net_fd_create(loop, pair[0], &nic.net, &err) < 0)
        fail_msg("%s", err.text);
    net_set_receiver(nic.net, &nic_receiver, &nic);
    *other = pair[1];
    return &nic;
}

static size_t frame_size(unsigned i) { return NET_MIN_FRAME + i * 37 % 1500; }

/* Puts frame number i on the wire as the peer would. */
static void peer_send(int fd, int type, unsigned i)
{
    uint8_t data[4 + 2048];
    size_t len = frame_size(i);
    memset(data + 4, (int)i, len);
    uint32_t prefix = htonl((uint32_t)len);
    memcpy(data, &prefix, 4);
    if (type == SOCK_STREAM)
        assert_int_equal(write_full(fd, data, len + 4), 0);
    else
        assert_int_equal(send(fd, data + 4, len, 0), len);
}

static void peer_receive(int fd, int type, unsigned i)
{
    uint8_t data[2048], want[2048];
    size_t len = frame_size(i);
    memset(want, (int)i, len);
    if (type == SOCK_STREAM) {
        uint32_t prefix;
        assert_int_equal(read_full(fd, &prefix, 4), 0);
        assert_int_equal(ntohl(prefix), len);
        assert_int_equal(read_full(fd, data, len), 0);
    } else {
        assert_int_equal(recv(fd, data, sizeof data, 0), len);
    }
    assert_memory_equal(data, want, len);
}

static void framing(int type)
{
    int peer;
    struct nic *nic = nic_on(type, &peer);

    /* To the guest, which takes two, then resumes. */
    nic->room = 2;
    for (unsigned i = 0; i < 5; i++)
        peer_send(peer, type, i);
    nic->expect = 2;
    assert_int_equal(run_for(2000), 0);
    nic->expect = 3;
    assert_int_equal(run_for(50), NOTHING_HAPPENED);
    assert_int_equal(nic->got, 2);
    nic->room = 100;
    nic->expect = 5;
    net_resume(nic->net);
    assert_int_equal(nic->got, 2); /* not inside net_resume */
    assert_int_equal(run_for(2000), 0);
    assert_int_equal(nic->last_len, frame_size(4));
    for (size_t i = 0; i < nic->last_len; i++)
        assert_int_equal(nic->last[i], 4);

    /* From the guest, until the peer's buffer is full and then on. */
    unsigned sent = 0, seen = 0;
    while (sent < 3000) {
        uint8_t frame[2048];
        memset(frame, (int)sent, frame_size(sent));
        int r = nic_send(nic, frame, frame_size(sent));
        if (r == -EAGAIN) {
            assert_int_equal(nic_send(nic, frame, frame_size(sent)), -EAGAIN);
            assert_int_equal(run_for(20), NOTHING_HAPPENED); /* not ready while the peer sleeps */
            break;
        }
        assert_int_equal(r, 0);
        sent++;
    }
    assert_in_range(sent, 2, 2999);
    /* A stream finishes the frame that was half sent, on being ready. */
    unsigned surely = type == SOCK_STREAM ? sent - 1 : sent;
    for (; seen < surely; seen++)
        peer_receive(peer, type, seen);
    assert_int_equal(run_for(2000), 1);
    assert_int_equal(nic->ready, 1);
    for (; seen < sent; seen++)
        peer_receive(peer, type, seen);
    uint8_t frame[2048];
    memset(frame, (int)sent, frame_size(sent));
    assert_int_equal(nic_send(nic, frame, frame_size(sent)), 0);
    peer_receive(peer, type, seen);

    /* Too short, too long: dropped. */
    uint64_t dropped = nic->net->dropped;
    static uint8_t huge[NET_MAX_FRAME + 1];
    assert_int_equal(nic_send(nic, huge, NET_MIN_FRAME - 1), 0);
    assert_int_equal(nic_send(nic, huge, sizeof huge), 0);
    assert_int_equal(nic->net->dropped, dropped + 2);

    close(peer);
    if (type != SOCK_DGRAM) {
        assert_int_equal(run_for(2000), 2);
        assert_true(nic->down);
    }
    assert_int_equal(nic_send(nic, frame, 64), 0); /* dropped, no error */
    net_destroy(nic->net);
}

static void test_stream(void **state) { framing(SOCK_STREAM); }
static void test_dgram(void **state) { framing(SOCK_DGRAM); }
static void test_seqpacket(void **state) { framing(SOCK_SEQPACKET); }

/* A stream peer that sends nonsense, and one that sends byte by byte. */
static void test_stream_peer(void **state)
{
    int peer;
    struct nic *nic = nic_on(SOCK_STREAM, &peer);
    uint8_t data[4 + 64] = { 0, 0, 0, 64, 1, 2, 3 };
    nic->expect = 1;
    for (unsigned i = 0; i < sizeof data - 1; i++) {
        assert_int_equal(send(peer, data + i, 1, 0), 1);
        if (i % 16 == 0)
            assert_int_equal(run_for(5), NOTHING_HAPPENED);
    }
    assert_int_equal(send(peer, data, 1, 0), 1);
    assert_int_equal(run_for(2000), 0);
    assert_int_equal(nic->last_len, 64);
    assert_int_equal(send(peer, "\xff\xff\xff\xff", 4, 0), 4);
    assert_int_equal(run_for(2000), 2);
    assert_true(nic->down);
    net_destroy(nic->net);
    close(peer);
}

static void test_bad_fd(void **state)
{
    struct net_backend *net;
    struct err err;
    assert_int_equal(net_fd_create(loop, 987, &net, &err), -EBADF);
    assert_non_null(strstr(err.text, "fd:987"));
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_int_equal(net_fd_create(loop, fd, &net, &err), -EINVAL);
    assert_int_equal(fcntl(fd, F_GETFD), -1); /* it was taken */
}

/* A guest that leaves work undone, on a back end that takes only complete frames. */
static void test_software(void **state)
{
    int peer;
    struct nic *nic = nic_on(SOCK_DGRAM, &peer);
    static uint8_t frame[54 + 5000], got[2048];
    memcpy(frame + 12, "\x08\x00\x45\x00", 4);
    frame[23] = 6;
    frame[46] = 0x50;
    struct net_offload o = { .needs_csum = true,
                             .gso = NET_GSO_TCPV4,
                             .gso_size = 1448,
                             .csum_start = 34,
                             .csum_offset = 16,
                             .hdr_len = 65535 };
    struct iovec iov[3] = { { frame, 20 }, { frame + 20, 40 }, { frame + 60, sizeof frame - 60 } };
    assert_int_equal(net_send(nic->net, iov, 3, &o), 0);
    static const int sizes[] = { 1448, 1448, 1448, 656 };
    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++)
        assert_int_equal(recv(peer, got, sizeof got, 0), 54 + sizes[i]);
    assert_int_equal(got[50] << 8 | got[51], /* a TCP sum that somebody else computed */
                     (uint16_t) ~(6 + 20 + 656 + 0x5000 + 4344));

    o.gso_size = 0;
    uint64_t dropped = nic->net->dropped;
    assert_int_equal(net_send(nic->net, iov, 3, &o), 0);
    assert_int_equal(nic->net->dropped, dropped + 1);
    net_destroy(nic->net);
    close(peer);
}

/* ---- a tap, in a network name space of our own ---- */

static void tap_works(void)
{
    struct err err;
    struct nic nic = { .room = 100 };
    if (net_tap_create(loop, "bedtest0", &nic.net, &err) < 0)
        fail_msg("%s", err.text);
    net_set_receiver(nic.net, &nic_receiver, &nic);
    assert_int_equal(nic.net->takes, NET_CSUM | NET_TSO4 | NET_TSO6 | NET_TSO_ECN);
    assert_int_equal(net_set_receive_offloads(nic.net, NET_CSUM | NET_TSO4), 0);

    /* Up, and a packet socket as the other side. */
    int s = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
    struct ifreq ifr = { .ifr_name = "bedtest0" };
    assert_int_equal(ioctl(s, SIOCGIFFLAGS, &ifr), 0);
    ifr.ifr_flags |= IFF_UP;
    assert_int_equal(ioctl(s, SIOCSIFFLAGS, &ifr), 0);
    assert_int_equal(ioctl(s, SIOCGIFINDEX, &ifr), 0);
    struct sockaddr_ll at = { .sll_family = AF_PACKET,
                              .sll_protocol = htons(ETH_P_ALL),
                              .sll_ifindex = ifr.ifr_ifindex };
    assert_int_equal(bind(s, (struct sockaddr *)&at, sizeof at), 0);

    uint8_t frame[100] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5, 42 };
    uint8_t got[2048];
    assert_int_equal(nic_send(&nic, frame, sizeof frame), 0);
    ssize_t n;
    do { /* the kernel's own frames come along */
        n = recv(s, got, sizeof got, 0);
    } while (n > 0 && memcmp(got + 12, frame + 12, 2));
    assert_int_equal(n, sizeof frame);
    assert_memory_equal(got, frame, sizeof frame);

    frame[14] = 43;
    assert_int_equal(send(s, frame, sizeof frame, 0), sizeof frame);
    for (unsigned i = 0; i < 50 && nic.last[14] != 43; i++) {
        nic.expect = nic.got + 1;
        run_for(100);
    }
    assert_memory_equal(nic.last, frame, sizeof frame);

    struct net_backend *second;
    assert_int_equal(net_tap_create(loop, "bedtest0", &second, &err), -EBUSY);
    assert_int_equal(net_tap_create(loop, "lo", &second, &err), -EINVAL);
    assert_int_equal(net_tap_create(loop, "a-name-much-too-long", &second, &err), -EINVAL);
    net_destroy(nic.net);
    close(s);
}

static void test_tap(void **state)
{
    pid_t pid = fork();
    if (!pid) {
        if (unshare(CLONE_NEWNET) || access("/dev/net/tun", R_OK | W_OK))
            _exit(77);
        struct err err;
        loop_create(&loop, &err);
        tap_works();
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("skipped: may not make a network name space with a tap\n");
        skip();
    }
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostfwd),     cmocka_unit_test(test_stream),
        cmocka_unit_test(test_dgram),       cmocka_unit_test(test_seqpacket),
        cmocka_unit_test(test_stream_peer), cmocka_unit_test(test_bad_fd),
        cmocka_unit_test(test_software),    cmocka_unit_test(test_tap),
    };
    return cmocka_run_group_tests(tests, loop_setup, loop_teardown);
}
