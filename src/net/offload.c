/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checksums and TCP segmentation in software (RFC 1071, RFC 9293, RFC 3168 for CWR). */
#include "net/offload.h"

#include "base/checked.h"

#include <errno.h>
#include <string.h>

enum {
    ETH_LEN = 14,
    ETH_IPV4 = 0x0800,
    ETH_IPV6 = 0x86dd,
    ETH_VLAN = 0x8100,
    ETH_QINQ = 0x88a8,
    TCP_PROTOCOL = 6,
    TCP_LEN = 20,
    TCP_FIN = 0x01,
    TCP_PSH = 0x08,
    TCP_CWR = 0x80,
};

static uint16_t get16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static uint32_t get32(const uint8_t *p) { return (uint32_t)get16(p) << 16 | get16(p + 2); }
static void put16(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}
static void put32(uint8_t *p, uint32_t value)
{
    put16(p, value >> 16);
    put16(p + 2, value);
}

unsigned offload_needs(const struct net_offload *offload)
{
    unsigned needs = offload->needs_csum ? NET_CSUM : 0;
    if (offload->gso == NET_GSO_TCPV4)
        needs |= NET_CSUM | NET_TSO4;
    if (offload->gso == NET_GSO_TCPV6)
        needs |= NET_CSUM | NET_TSO6;
    if (offload->gso != NET_GSO_NONE && offload->ecn)
        needs |= NET_TSO_ECN;
    return needs;
}

/* ---- checksums ---- */

uint32_t offload_sum(const uint8_t *data, size_t len, uint32_t sum)
{
    /* One's complement addition works in any byte order and width; fold and swap at the end. */
    uint64_t wide = 0;
    for (; len >= 4; data += 4, len -= 4) {
        uint32_t word;
        memcpy(&word, data, 4);
        wide += word;
    }
    if (len >= 2) {
        uint16_t half;
        memcpy(&half, data, 2);
        wide += half;
        data += 2;
        len -= 2;
    }
    if (len) {
        uint16_t half = 0;
        memcpy(&half, data, 1);
        wide += half;
    }
    while (wide >> 16)
        wide = (wide & 0xffff) + (wide >> 16);
    uint8_t bytes[2];
    uint16_t folded = (uint16_t)wide;
    memcpy(bytes, &folded, 2);
    sum += get16(bytes);
    return (sum & 0xffff) + (sum >> 16);
}

uint16_t offload_fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

int offload_checksum(uint8_t *frame, size_t len, const struct net_offload *offload)
{
    if (!offload->needs_csum)
        return 0;
    size_t start = offload->csum_start, field = start + offload->csum_offset;
    if (start < ETH_LEN || !range_fits(field, 2, len))
        return -EINVAL;
    /* The field holds the sum of the pseudo header. Zero would mean "none" to UDP. */
    uint16_t sum = offload_fold(offload_sum(frame + start, len - start, 0));
    put16(frame + field, sum ? sum : 0xffff);
    return 0;
}

/* ---- segmentation ---- */

struct layout {
    bool v6;
    unsigned ip, tcp, payload; /* offsets into the frame */
};

/* The offset of the upper protocol behind an IPv6 header and its extensions, or 0. */
static unsigned layout_ipv6(const uint8_t *frame, size_t len, unsigned at)
{
    enum { HOP_BY_HOP = 0, ROUTING = 43, DESTINATION = 60 };
    if (!range_fits(at, 40, len) || frame[at] >> 4 != 6)
        return 0;
    uint8_t next = frame[at + 6];
    at += 40;
    while (next == HOP_BY_HOP || next == ROUTING || next == DESTINATION) {
        if (!range_fits(at, 8, len))
            return 0;
        next = frame[at];
        at += 8 + 8u * frame[at + 1];
    }
    return next == TCP_PROTOCOL ? at : 0;
}

static unsigned layout_ipv4(const uint8_t *frame, size_t len, unsigned at)
{
    if (!range_fits(at, 20, len) || frame[at] >> 4 != 4)
        return 0;
    unsigned header = (frame[at] & 15) * 4u;
    bool fragment = get16(frame + at + 6) & 0x3fff; /* more to come, or not the first */
    if (header < 20 || fragment || frame[at + 9] != TCP_PROTOCOL)
        return 0;
    return at + header;
}

static bool layout_find(const uint8_t *frame, size_t len, enum net_gso gso, struct layout *out)
{
    unsigned at = 12;
    for (unsigned tags = 0; tags < 3; tags++, at += 4) {
        if (!range_fits(at, 2, len))
            return false;
        uint16_t type = get16(frame + at);
        if (type != ETH_VLAN && type != ETH_QINQ)
            break;
    }
    if (!range_fits(at, 2, len))
        return false;
    uint16_t type = get16(frame + at);
    out->ip = at + 2;
    out->v6 = gso == NET_GSO_TCPV6;
    if (type != (out->v6 ? ETH_IPV6 : ETH_IPV4))
        return false;
    out->tcp = out->v6 ? layout_ipv6(frame, len, out->ip) : layout_ipv4(frame, len, out->ip);
    if (!out->tcp || !range_fits(out->tcp, TCP_LEN, len))
        return false;
    unsigned header = (frame[out->tcp + 12] >> 4) * 4u;
    out->payload = out->tcp + header;
    return header >= TCP_LEN && out->payload <= len && out->payload <= OFFLOAD_MAX_HEADERS;
}

/* Fills lengths and checksums of the headers in `head` for this payload. */
static void segment_finish(uint8_t *head, const struct layout *at, const uint8_t *payload,
                           unsigned len)
{
    uint8_t *ip = head + at->ip, *tcp = head + at->tcp;
    unsigned tcp_len = at->payload - at->tcp + len;
    uint32_t sum;
    if (at->v6) {
        put16(ip + 4, at->payload - at->ip - 40 + len);
        sum = offload_sum(ip + 8, 32, 0);
    } else {
        put16(ip + 2, at->payload - at->ip + len);
        put16(ip + 10, 0);
        put16(ip + 10, offload_fold(offload_sum(ip, at->tcp - at->ip, 0)));
        sum = offload_sum(ip + 12, 8, 0);
    }
    sum += TCP_PROTOCOL + tcp_len;
    put16(tcp + 16, 0);
    sum = offload_sum(tcp, at->payload - at->tcp, sum);
    put16(tcp + 16, offload_fold(offload_sum(payload, len, sum)));
}

int offload_segment(const uint8_t *frame, size_t len, const struct net_offload *offload,
                    unsigned size, offload_emit *emit, void *arg)
{
    struct layout at;
    if (size < OFFLOAD_MIN_GSO || !layout_find(frame, len, offload->gso, &at))
        return -EINVAL;
    /* The length field of IP has 16 bits. */
    unsigned room = 65535 - (at.payload - at.ip) + (at.v6 ? 40 : 0);
    if (size > room)
        size = room;

    uint8_t head[OFFLOAD_MAX_HEADERS];
    const uint8_t *payload = frame + at.payload;
    unsigned total = (unsigned)len - at.payload, done = 0;
    uint32_t seq = get32(frame + at.tcp + 4);
    uint16_t id = get16(frame + at.ip + 4);
    uint8_t flags = frame[at.tcp + 13];
    do {
        unsigned part = total - done < size ? total - done : size;
        memcpy(head, frame, at.payload);
        put32(head + at.tcp + 4, seq + done);
        uint8_t now = flags;
        if (done)
            now &= (uint8_t)~TCP_CWR;
        if (done + part < total)
            now &= (uint8_t) ~(TCP_FIN | TCP_PSH);
        head[at.tcp + 13] = now;
        if (!at.v6)
            put16(head + at.ip + 4, id++);
        segment_finish(head, &at, payload + done, part);
        struct iovec parts[2] = { { head, at.payload }, { (void *)(payload + done), part } };
        int r = emit(arg, parts);
        if (r < 0)
            return r;
        done += part;
    } while (done < total);
    return 0;
}
