/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The user network with a hand-made guest: DHCP, ARP, ping, TCP to a server on the host's loopback,
 * UDP, a forwarded port, DNS's address; how the helper is confined, how it ends.
 */
#include "net/net.h"

#include "base/checked.h"
#include "base/text.h"
#include "net/loop_for_test.h"
#include "net/offload.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

struct guest {
    struct net_backend *net;
    bool (*wanted)(const uint8_t *frame, size_t len); /* stops the loop */
    uint8_t frame[NET_MAX_FRAME];
    size_t len;
    bool down;
    uint8_t gateway[6];
};
static struct guest guest;

static const uint8_t guest_mac[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };
#define GUEST_IP "\x0a\x00\x02\x0f"
#define HOST_IP "\x0a\x00\x02\x02"

static bool guest_receive(void *arg, const uint8_t *frame, size_t len, const struct net_offload *o)
{
    assert_int_equal(o->gso, NET_GSO_NONE);
    if (guest.wanted && guest.wanted(frame, len)) {
        guest.wanted = NULL;
        memcpy(guest.frame, frame, len);
        guest.len = len;
        loop_stop(loop, 1);
    }
    return true;
}
static void guest_ready(void *arg) {}
static void guest_link(void *arg, bool up)
{
    guest.down = !up;
    loop_stop(loop, 2);
}
static const struct net_receiver receiver = { guest_receive, guest_ready, guest_link };

static void await(bool (*wanted)(const uint8_t *frame, size_t len))
{
    guest.wanted = wanted;
    assert_int_equal(run_for(5000), 1);
}

static int start(const struct net_user_options *options, struct err *err)
{
    guest = (struct guest){ 0 };
    int r = net_user_create(loop, options, &guest.net, err);
    if (!r)
        net_set_receiver(guest.net, &receiver, NULL);
    return r;
}

static void start_plain(void)
{
    struct err err;
    if (start(&(struct net_user_options){ 0 }, &err) < 0)
        fail_msg("%s", err.text);
}

/* ---- making frames ---- */

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static unsigned get16(const uint8_t *p) { return p[0] * 256u + p[1]; }
static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}
static uint32_t get32(const uint8_t *p) { return get16(p) << 16 | get16(p + 2); }

static void send_frame(const uint8_t *frame, size_t len, const struct net_offload *offload)
{
    static const struct net_offload none;
    struct iovec iov = { (void *)frame, len };
    assert_int_equal(net_send(guest.net, &iov, 1, offload ? offload : &none), 0);
}

/* Fills Ethernet and IPv4 around a payload that is in place; leaves the upper checksum undone as a
 * driver with offloads does. */
static void send_ipv4(uint8_t *frame, const char *src, const char *dst, unsigned protocol,
                      size_t upper, struct net_offload *offload)
{
    uint8_t *ip = frame + 14;
    memcpy(frame, guest.gateway, 6);
    memcpy(frame + 6, guest_mac, 6);
    put16(frame + 12, 0x800);
    memset(ip, 0, 20);
    ip[0] = 0x45;
    put16(ip + 2, (unsigned)(20 + upper));
    ip[8] = 64;
    ip[9] = (uint8_t)protocol;
    memcpy(ip + 12, src, 4);
    memcpy(ip + 16, dst, 4);
    put16(ip + 10, offload_fold(offload_sum(ip, 20, 0)));
    unsigned field = protocol == 6 ? 16 : 6;
    if (protocol != 1) {
        uint32_t pseudo = offload_sum(ip + 12, 8, protocol + (uint32_t)upper);
        put16(ip + 20 + field, (uint16_t)~offload_fold(pseudo));
        offload->needs_csum = true;
        offload->csum_start = 34;
        offload->csum_offset = (uint16_t)field;
    }
    send_frame(frame, 34 + upper, offload);
}

static void send_udp(const char *src, const char *dst, unsigned from, unsigned to,
                     const uint8_t *data, size_t len)
{
    uint8_t frame[1500] = { 0 };
    struct net_offload offload = { 0 };
    put16(frame + 34, from);
    put16(frame + 36, to);
    put16(frame + 38, (unsigned)(8 + len));
    memcpy(frame + 42, data, len);
    send_ipv4(frame, src, dst, 17, 8 + len, &offload);
}

static bool is_ipv4(const uint8_t *frame, size_t len, unsigned protocol)
{
    return len >= 34 + 8 && get16(frame + 12) == 0x800 && frame[14 + 9] == protocol &&
           !offload_fold(offload_sum(frame + 14, 20, 0));
}

/* ---- the exchanges ---- */

static bool is_arp_reply(const uint8_t *frame, size_t len)
{
    return len >= 42 && get16(frame + 12) == 0x806 && get16(frame + 20) == 2 &&
           !memcmp(frame + 28, HOST_IP, 4);
}

static void do_arp(void)
{
    uint8_t frame[42] = { 0 };
    memset(frame, 0xff, 6);
    memcpy(frame + 6, guest_mac, 6);
    memcpy(frame + 12, "\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01", 10);
    memcpy(frame + 22, guest_mac, 6);
    memcpy(frame + 28, GUEST_IP, 4);
    memcpy(frame + 38, HOST_IP, 4);
    send_frame(frame, sizeof frame, NULL);
    await(is_arp_reply);
    memcpy(guest.gateway, guest.frame + 22, 6);
}

static bool is_dhcp_reply(const uint8_t *frame, size_t len)
{
    return is_ipv4(frame, len, 17) && get16(frame + 34) == 67 && get16(frame + 36) == 68 &&
           len > 42 + 240;
}

static const uint8_t *dhcp_option(unsigned code)
{
    for (size_t at = 42 + 240; at + 2 < guest.len && guest.frame[at] != 255;
         at += 2u + guest.frame[at + 1])
        if (guest.frame[at] == code)
            return guest.frame + at + 2;
    return NULL;
}

static void dhcp(unsigned type)
{
    uint8_t data[300] = { 1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef };
    memcpy(data + 28, guest_mac, 6);
    memcpy(data + 236, "\x63\x82\x53\x63\x35\x01", 6);
    data[242] = (uint8_t)type;
    memcpy(data + 243, "\x32\x04" GUEST_IP "\xff", 7);
    memset(guest.gateway, 0xff, 6);
    send_udp("\0\0\0\0", "\xff\xff\xff\xff", 68, 67, data, sizeof data);
    await(is_dhcp_reply);
}

static void test_dhcp(void **state)
{
    start_plain();
    dhcp(1);
    assert_int_equal(dhcp_option(53)[0], 2); /* offer */
    assert_memory_equal(guest.frame + 42 + 16, GUEST_IP, 4);
    dhcp(3);
    assert_int_equal(dhcp_option(53)[0], 5); /* ack */
    assert_memory_equal(dhcp_option(3), HOST_IP, 4);
    assert_memory_equal(dhcp_option(6), "\x0a\x00\x02\x03", 4);
    net_destroy(guest.net);
}

static bool is_ping_reply(const uint8_t *frame, size_t len)
{
    return is_ipv4(frame, len, 1) && frame[34] == 0 && get16(frame + 38) == 0x4242;
}

static void test_ping(void **state)
{
    start_plain();
    do_arp();
    uint8_t frame[14 + 20 + 32] = { 0 };
    struct net_offload none = { 0 };
    frame[34] = 8;
    put16(frame + 38, 0x4242);
    put16(frame + 36, offload_fold(offload_sum(frame + 34, 32, 0)));
    send_ipv4(frame, GUEST_IP, HOST_IP, 1, 32, &none);
    await(is_ping_reply);
    net_destroy(guest.net);
}

static int host_socket(int type, uint16_t *port)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof at;
    int s = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s, (struct sockaddr *)&at, len), 0);
    assert_int_equal(getsockname(s, (struct sockaddr *)&at, &len), 0);
    *port = ntohs(at.sin_port);
    return s;
}

static bool is_udp(const uint8_t *frame, size_t len)
{
    return is_ipv4(frame, len, 17) && get16(frame + 36) == 4000;
}

static void test_udp(void **state)
{
    uint16_t port;
    char data[64];
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    int s = host_socket(SOCK_DGRAM, &port);
    start_plain();
    do_arp();
    send_udp(GUEST_IP, HOST_IP, 4000, port, (const uint8_t *)"hello", 5);
    struct pollfd poll_fd = { .fd = s, .events = POLLIN };
    assert_int_equal(poll(&poll_fd, 1, 5000), 1);
    assert_int_equal(recvfrom(s, data, sizeof data, 0, (struct sockaddr *)&from, &len), 5);
    assert_memory_equal(data, "hello", 5);
    assert_int_equal(sendto(s, "world!", 6, 0, (struct sockaddr *)&from, len), 6);
    await(is_udp);
    assert_memory_equal(guest.frame + 42, "world!", 6);
    net_destroy(guest.net);
    close(s);
}

/* ---- TCP ---- */

struct tcp {
    unsigned ours, theirs;
    uint32_t seq, ack;
};
static struct tcp tcp;

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };

static void tcp_send(unsigned flags, const uint8_t *data, size_t len, unsigned gso_size)
{
    static uint8_t frame[NET_MAX_FRAME];
    struct net_offload offload = { 0 };
    uint8_t *t = frame + 34;
    memset(t, 0, 20);
    put16(t, tcp.ours);
    put16(t + 2, tcp.theirs);
    put32(t + 4, tcp.seq);
    put32(t + 8, tcp.ack);
    t[12] = 0x50;
    t[13] = (uint8_t)flags;
    put16(t + 14, 65535);
    if (len)
        memcpy(t + 20, data, len);
    if (gso_size) {
        offload.gso = NET_GSO_TCPV4;
        offload.gso_size = (uint16_t)gso_size;
    }
    send_ipv4(frame, GUEST_IP, HOST_IP, 6, 20 + len, &offload);
    tcp.seq += (uint32_t)len + !!(flags & (SYN | FIN));
}

static bool is_tcp(const uint8_t *frame, size_t len)
{
    return is_ipv4(frame, len, 6) && len >= 54 && get16(frame + 36) == tcp.ours;
}
static bool is_tcp_data(const uint8_t *frame, size_t len)
{
    return is_tcp(frame, len) && get16(frame + 16) > 20u + (frame[46] >> 4) * 4u;
}
static bool is_tcp_fin(const uint8_t *frame, size_t len)
{
    return is_tcp(frame, len) && frame[47] & FIN;
}

static void tcp_connect(uint16_t port)
{
    tcp = (struct tcp){ .ours = 5000, .theirs = port, .seq = 1000 };
    tcp_send(SYN, NULL, 0, 0);
    await(is_tcp);
    assert_int_equal(guest.frame[47], SYN | ACK);
    tcp.ack = get32(guest.frame + 38) + 1;
    tcp_send(ACK, NULL, 0, 0);
}

static void test_tcp(void **state)
{
    enum { BULK = 40000 };
    uint16_t port;
    int s = host_socket(SOCK_STREAM, &port);
    assert_int_equal(listen(s, 1), 0);
    start_plain();
    do_arp();
    tcp_connect(port);
    int c = accept4(s, NULL, NULL, SOCK_CLOEXEC);
    assert_true(c >= 0);

    tcp_send(ACK | PSH, (const uint8_t *)"GET", 3, 0);
    char text[8];
    assert_int_equal(read_full(c, text, 3), 0);
    assert_memory_equal(text, "GET", 3);

    /* A large segment with its work undone. */
    uint8_t *bulk = malloc(BULK), *back = malloc(BULK);
    for (unsigned i = 0; i < BULK; i++)
        bulk[i] = (uint8_t)(i * 7 + i / 256);
    tcp_send(ACK | PSH, bulk, BULK, 1460);
    assert_int_equal(read_full(c, back, BULK), 0);
    assert_memory_equal(bulk, back, BULK);
    free(bulk);
    free(back);

    assert_int_equal(write(c, "answer", 6), 6);
    await(is_tcp_data);
    assert_memory_equal(guest.frame + 34 + (guest.frame[46] >> 4) * 4, "answer", 6);
    tcp.ack += 6;
    tcp_send(ACK, NULL, 0, 0);
    close(c);
    await(is_tcp_fin);
    net_destroy(guest.net);
    close(s);
}

static bool is_tcp_syn(const uint8_t *frame, size_t len)
{
    return is_ipv4(frame, len, 6) && frame[47] == SYN;
}

static void test_hostfwd(void **state)
{
    uint16_t port;
    char text[64];
    struct err err;
    struct net_hostfwd fwd;
    close(host_socket(SOCK_STREAM, &port)); /* free, most likely */
    snprintf(text, sizeof text, "tcp::%u-:22", port);
    assert_int_equal(net_hostfwd_parse(text, &fwd, &err), 0);
    struct net_user_options options = { .hostfwd = &fwd, .hostfwd_count = 1 };
    if (start(&options, &err) < 0)
        fail_msg("%s", err.text);
    dhcp(3); /* slirp now knows our address */
    do_arp();
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons(port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(c, (struct sockaddr *)&at, sizeof at), 0);
    await(is_tcp_syn);
    assert_memory_equal(guest.frame + 30, GUEST_IP, 4);
    assert_int_equal(get16(guest.frame + 36), 22);
    close(c);

    /* The port is taken: said in one sentence. */
    struct net_backend *second;
    assert_int_equal(net_user_create(loop, &options, &second, &err), -EIO);
    snprintf(text, sizeof text, "cannot forward TCP port 127.0.0.1:%u", port);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
    net_destroy(guest.net);
}

/* ---- the process ---- */

static void test_killed(void **state)
{
    start_plain();
    pid_t pid = net_user_pid(guest.net);
    assert_true(pid > 0);
    do_arp();
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(run_for(5000), 2);
    assert_true(guest.down);
    assert_int_equal(kill(pid, 0), -1); /* reaped */
    uint8_t frame[64] = { 0 };
    send_frame(frame, sizeof frame, NULL); /* dropped, no error */
    net_destroy(guest.net);
}

static void test_ends(void **state)
{
    start_plain();
    pid_t pid = net_user_pid(guest.net);
    assert_int_equal(kill(pid, 0), 0);
    net_destroy(guest.net);
    assert_int_equal(kill(pid, 0), -1);
}

/* The VMM is killed: the helper goes, too. */
static void test_orphan(void **state)
{
    int tell[2];
    pid_t helper = 0;
    assert_int_equal(pipe(tell), 0);
    pid_t vmm = fork();
    if (!vmm) {
        struct err err;
        loop_create(&loop, &err);
        start_plain();
        helper = net_user_pid(guest.net);
        if (write(tell[1], &helper, sizeof helper) == sizeof helper)
            pause();
        _exit(1);
    }
    assert_int_equal(read_full(tell[0], &helper, sizeof helper), 0);
    assert_int_equal(kill(helper, 0), 0);
    kill(vmm, SIGKILL);
    waitpid(vmm, NULL, 0);
    char path[64], text[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)helper);
    bool gone = false;
    for (unsigned i = 0; i < 1200 && !gone; i++) {
        AUTO(file_close) FILE *f = fopen(path, "re");
        /* A zombie counts: who adopts it is not our affair. */
        gone = !f || !fgets(text, sizeof text, f) || strstr(text, ") Z ");
        if (!gone)
            usleep(50000);
    }
    assert_true(gone);
    close(tell[0]);
    close(tell[1]);
}

static void status_says(pid_t pid, const char *line)
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    AUTO(file_close) FILE *f = fopen(path, "re");
    assert_non_null(f);
    while (fgets(text, sizeof text, f))
        if (!strncmp(text, line, strlen(line)))
            return;
    fail_msg("%s lacks \"%s\"", path, line);
}

static void test_confined(void **state)
{
    start_plain();
    pid_t pid = net_user_pid(guest.net);
    status_says(pid, "Seccomp:\t2");
    status_says(pid, "NoNewPrivs:\t1");
    status_says(pid, "CapEff:\t0000000000000000");
    status_says(pid, "CapPrm:\t0000000000000000");
    if (!getuid()) {
        char path[64], target[256] = "";
        status_says(pid, "Uid:\t65534\t65534\t65534");
        /* Only its own copy of resolv.conf is in its root. */
        snprintf(path, sizeof path, "/proc/%d/root/etc/resolv.conf", (int)pid);
        assert_int_equal(access(path, R_OK), 0);
        snprintf(path, sizeof path, "/proc/%d/root/proc", (int)pid);
        bool own_root = access(path, F_OK) < 0;
        snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
        assert_true(readlink(path, target, sizeof target - 1) > 0);
        char ours[256] = "";
        assert_true(readlink("/proc/self/ns/net", ours, sizeof ours - 1) > 0);
        assert_string_equal(ours, target);
        print_message("own root: %s\n", own_root ? "yes" : "refused by the host");
    }
    net_destroy(guest.net);
}

static void test_missing(void **state)
{
    struct err err;
    char *before = strdup(getenv("BEDPLATE_LIBEXEC") ? getenv("BEDPLATE_LIBEXEC") : "");
    setenv("BEDPLATE_LIBEXEC", "/nonexistent", 1);
    if (start(&(struct net_user_options){ 0 }, &err) < 0)
        assert_non_null(strstr(err.text, "bedplate-net is missing"));
    else /* it lies beside this test */
        net_destroy(guest.net);
    setenv("BEDPLATE_LIBEXEC", before, 1);
    free(before);
}

/* Random frames do not end the helper. */
static void test_nonsense(void **state)
{
    const char *given = getenv("TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : monotonic_ns();
    print_message("seed %llu\n", (unsigned long long)seed);
    start_plain();
    do_arp();
    for (unsigned i = 0; i < 3000; i++) {
        uint8_t frame[256];
        for (unsigned k = 0; k < sizeof frame; k++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            frame[k] = (uint8_t)(seed >> 40);
        }
        memcpy(frame, guest.gateway, 6);
        put16(frame + 12, i % 3 ? 0x800 : i % 2 ? 0x86dd : 0x806);
        if (i % 3) {
            frame[14] = i % 3 == 1 ? 0x45 : frame[14];
            memcpy(frame + 26, GUEST_IP HOST_IP, 8);
            put16(frame + 24, 0);
            put16(frame + 24, offload_fold(offload_sum(frame + 14, 20, 0)));
        }
        struct iovec iov = { frame, 14 + frame[200] % 242 };
        struct net_offload none = { 0 };
        if (net_send(guest.net, &iov, 1, &none) == -EAGAIN)
            run_for(10);
    }
    run_for(200);
    assert_false(guest.down);
    do_arp();
    net_destroy(guest.net);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dhcp),     cmocka_unit_test(test_ping),
        cmocka_unit_test(test_udp),      cmocka_unit_test(test_tcp),
        cmocka_unit_test(test_hostfwd),  cmocka_unit_test(test_killed),
        cmocka_unit_test(test_ends),     cmocka_unit_test(test_orphan),
        cmocka_unit_test(test_confined), cmocka_unit_test(test_missing),
        cmocka_unit_test(test_nonsense),
    };
    return cmocka_run_group_tests(tests, loop_setup, loop_teardown);
}
