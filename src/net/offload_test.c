/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checksums and segmentation against a slow, independent reading of the RFCs; hostile headers. */
#include "net/offload.h"

#include "base/checked.h"
#include "base/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- the slow way: one 16-bit word after the other ---- */

static uint16_t slow_checksum(const uint8_t *data, size_t len, uint16_t start)
{
    unsigned sum = start;
    for (size_t i = 0; i < len; i++) {
        sum += i % 2 ? data[i] : (unsigned)data[i] << 8;
        if (sum > 0xffff)
            sum -= 0xffff;
    }
    return (uint16_t)(0xffff - sum);
}

static unsigned be16(const uint8_t *p) { return p[0] * 256u + p[1]; }

static uint16_t slow_pseudo(const uint8_t *addresses, size_t len, unsigned protocol, unsigned upper)
{
    uint8_t pseudo[48] = { 0 };
    memcpy(pseudo, addresses, len);
    pseudo[len + 2] = (uint8_t)(upper >> 8);
    pseudo[len + 3] = (uint8_t)upper;
    pseudo[len + 7] = (uint8_t)protocol;
    return (uint16_t)(0xffff - slow_checksum(pseudo, len + 8, 0));
}

/* ---- frames ---- */

struct frame {
    uint8_t data[NET_MAX_FRAME];
    size_t len;
    unsigned ip, tcp, payload;
    bool v6;
};

static uint64_t seed;
static unsigned next_random(unsigned below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % below;
}

static void frame_make(struct frame *f, bool v6, unsigned vlans, unsigned options, unsigned payload)
{
    memset(f->data, 0, 512);
    for (unsigned i = 0; i < 12; i++)
        f->data[i] = (uint8_t)(0x52 + i);
    unsigned at = 12;
    for (unsigned i = 0; i < vlans; i++, at += 4)
        memcpy(f->data + at, "\x81\x00\x00\x07", 4);
    memcpy(f->data + at, v6 ? "\x86\xdd" : "\x08\x00", 2);
    f->v6 = v6;
    f->ip = at + 2;
    uint8_t *ip = f->data + f->ip;
    if (v6) {
        ip[0] = 0x60;
        ip[6] = 0; /* hop-by-hop, then TCP */
        for (unsigned i = 8; i < 40; i++)
            ip[i] = (uint8_t)next_random(256);
        ip[40] = 6;
        ip[41] = 1;
        f->tcp = f->ip + 40 + 16;
    } else {
        ip[0] = 0x46; /* with one word of options */
        ip[4] = 0xff;
        ip[5] = 0xfe; /* the identification wraps */
        ip[9] = 6;
        for (unsigned i = 12; i < 20; i++)
            ip[i] = (uint8_t)next_random(256);
        f->tcp = f->ip + 24;
    }
    uint8_t *tcp = f->data + f->tcp;
    memcpy(tcp + 4, "\xff\xff\xff\x00", 4); /* the sequence number wraps */
    tcp[12] = (uint8_t)((20 + options) / 4 << 4);
    tcp[13] = 0x80 | 0x10 | 0x08 | 0x01; /* CWR ACK PSH FIN */
    f->payload = f->tcp + 20 + options;
    for (unsigned i = 0; i < payload; i++)
        f->data[f->payload + i] = (uint8_t)next_random(256);
    f->len = f->payload + payload;
}

struct check {
    const struct frame *from;
    unsigned size, done, count;
};

static int check_segment(void *arg, const struct iovec parts[2])
{
    struct check *check = arg;
    const struct frame *from = check->from;
    uint8_t seg[NET_MAX_FRAME];
    size_t len = parts[0].iov_len + parts[1].iov_len;
    memcpy(seg, parts[0].iov_base, parts[0].iov_len);
    memcpy(seg + parts[0].iov_len, parts[1].iov_base, parts[1].iov_len);
    unsigned total = (unsigned)from->len - from->payload;
    unsigned part = (unsigned)len - from->payload;
    bool last = check->done + part == total;

    assert_true(last || part == check->size);
    assert_true(part <= check->size);
    assert_memory_equal(seg + from->payload, from->data + from->payload + check->done, part);
    assert_memory_equal(seg, from->data, from->ip);

    const uint8_t *ip = seg + from->ip, *tcp = seg + from->tcp;
    unsigned upper = (unsigned)len - from->tcp;
    uint16_t pseudo;
    if (from->v6) {
        assert_int_equal(be16(ip + 4), len - from->ip - 40);
        pseudo = slow_pseudo(ip + 8, 32, 6, upper);
    } else {
        assert_int_equal(be16(ip + 2), len - from->ip);
        assert_int_equal(be16(ip + 4), (0xfffe + check->count) & 0xffff);
        assert_int_equal(slow_checksum(ip, 24, 0), 0);
        pseudo = slow_pseudo(ip + 12, 8, 6, upper);
    }
    assert_int_equal(slow_checksum(tcp, upper, pseudo), 0);
    assert_int_equal(be16(tcp + 4) * 65536u + be16(tcp + 6), 0xffffff00u + check->done);
    assert_int_equal(tcp[13], (check->done ? 0 : 0x80) | 0x10 | (last ? 0x09 : 0));
    check->done += part;
    check->count++;
    return 0;
}

static void test_segments(void **state)
{
    static struct frame f;
    for (unsigned i = 0; i < 300; i++) {
        bool v6 = next_random(2);
        unsigned payload = i < 4 ? i : 1 + next_random(64000);
        frame_make(&f, v6, next_random(3), next_random(11) * 4, payload);
        struct net_offload offload = { .needs_csum = true,
                                       .gso = v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4 };
        struct check check = { .from = &f, .size = OFFLOAD_MIN_GSO + next_random(3000) };
        assert_int_equal(
            offload_segment(f.data, f.len, &offload, check.size, check_segment, &check), 0);
        assert_int_equal(check.done, payload);
        assert_int_equal(check.count, payload ? (payload + check.size - 1) / check.size : 1);
    }
}

static void test_checksum(void **state)
{
    for (unsigned i = 0; i < 1000; i++) {
        uint8_t frame[600];
        unsigned len = 40 + next_random(sizeof frame - 40);
        for (unsigned k = 0; k < len; k++)
            frame[k] = (uint8_t)next_random(i % 3 ? 256 : 2);
        struct net_offload offload = { .needs_csum = true };
        offload.csum_start = (uint16_t)(14 + next_random(20));
        offload.csum_offset = (uint16_t)(next_random(2) ? 16 : 6);
        if (offload.csum_start + offload.csum_offset + 2u > len)
            continue;
        uint16_t want = slow_checksum(frame + offload.csum_start, len - offload.csum_start, 0);
        assert_int_equal(offload_checksum(frame, len, &offload), 0);
        assert_int_equal(be16(frame + offload.csum_start + offload.csum_offset),
                         want ? want : 0xffff);
    }
}

static int count_segment(void *arg, const struct iovec parts[2])
{
    (*(unsigned *)arg)++;
    return 0;
}

static int try(const struct frame *f, size_t len, unsigned size)
{
    unsigned count = 0;
    struct net_offload offload = { .needs_csum = true,
                                   .gso = f->v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4 };
    return offload_segment(f->data, len, &offload, size, count_segment, &count);
}

static void test_hostile(void **state)
{
    static struct frame f, broken;
    uint8_t frame[64] = { 0 };
    struct net_offload offload = { .needs_csum = true, .csum_start = 60, .csum_offset = 3 };
    assert_int_equal(offload_checksum(frame, 64, &offload), -EINVAL);
    offload = (struct net_offload){ .needs_csum = true, .csum_start = 65535, .csum_offset = 65535 };
    assert_int_equal(offload_checksum(frame, 64, &offload), -EINVAL);
    offload = (struct net_offload){ .needs_csum = true, .csum_start = 0, .csum_offset = 16 };
    assert_int_equal(offload_checksum(frame, 64, &offload), -EINVAL);

    for (unsigned v6 = 0; v6 < 2; v6++) {
        frame_make(&f, v6, 0, 0, 1000);
        assert_int_equal(try(&f, f.len, 100), 0);
        assert_int_equal(try(&f, f.len, OFFLOAD_MIN_GSO - 1), -EINVAL);
        for (size_t len = 0; len < f.payload; len++) /* cut in the headers */
            assert_int_equal(try(&f, len, 100), -EINVAL);
        broken = f;
        broken.v6 = !v6; /* the offload header says the other version */
        assert_int_equal(try(&broken, f.len, 100), -EINVAL);
        broken = f;
        broken.data[f.tcp + 12] = 0x40; /* TCP header of 16 bytes */
        assert_int_equal(try(&broken, f.len, 100), -EINVAL);
        broken = f;
        broken.data[f.ip] = v6 ? 0x40 : 0x44; /* wrong version, short header */
        assert_int_equal(try(&broken, f.len, 100), -EINVAL);
        broken = f;
        broken.data[f.ip + (v6 ? 40 : 9)] = 17; /* UDP */
        assert_int_equal(try(&broken, f.len, 100), -EINVAL);
        broken = f;
        if (v6)
            broken.data[f.ip + 41] = 255; /* an extension beyond the frame */
        else
            broken.data[f.ip + 7] = 1; /* a fragment */
        assert_int_equal(try(&broken, f.len, 100), -EINVAL);
    }
    /* Anything at all: no crash, and either refused or cut. */
    for (unsigned i = 0; i < 20000; i++) {
        frame_make(&f, i & 1, next_random(3), next_random(11) * 4, next_random(300));
        for (unsigned k = next_random(6); k; k--)
            f.data[12 + next_random(f.payload - 12)] = (uint8_t)next_random(256);
        int r = try(&f, next_random((unsigned)f.len + 1), next_random(200));
        assert_true(r == 0 || r == -EINVAL);
    }
}

int main(void)
{
    seed = monotonic_ns();
    print_message("seed %llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checksum),
        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
