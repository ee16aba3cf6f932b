/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Frames between the back end and the rings of an 82574L. The numbered rules are those of e1000e.c.
 */
#include "devices/nic/e1000e_priv.h"

#include "machine/machine.h"
#include "net/offload.h"

#include <endian.h>
#include <string.h>

enum { BATCH = 64, DESCRIPTOR = 16 };
enum { RCTL_EN = 1 << 1, RCTL_UPE = 1 << 3, RCTL_MPE = 1 << 4, RCTL_BAM = 1 << 15 };
enum { RCTL_VFE = 1 << 18, RCTL_BSEX = 1 << 25, RCTL_SECRC = 1 << 26 };
enum { TCTL_EN = 1 << 1, RFCTL_EXTEN = 1 << 15 };
enum { TX_EOP = 1 << 24, TX_IC = 1 << 26, TX_TSE = 1 << 26, TX_RS = 1 << 27, TX_DEXT = 1 << 29 };
enum { TX_VLE = 1 << 30, TX_DATA = 1 << 20, TX_DD = 1, POPTS_IXSM = 1, POPTS_TXSM = 2 };
enum { TUCMD_IPV4 = 1 << 25 };
enum { RX_DD = 1, RX_EOP = 2, RX_VP = 8, RX_TCPCS = 0x20, RX_IPCS = 0x40 };

/* ---- receiving; io_loop ---- */

struct rx_ring {
    uint64_t base;
    uint32_t count, head, tail;
};

static struct rx_ring ring_get(struct e1000e *nic, unsigned base, unsigned queue)
{
    unsigned at = base + queue * QUEUE_STEP;
    struct rx_ring ring = { .count = *reg(nic, at + 8) / DESCRIPTOR,
                            .head = *reg(nic, at + 0x10),
                            .tail = *reg(nic, at + 0x18) };
    ring.base = (uint64_t)*reg(nic, at + 4) << 32 | *reg(nic, at);
    if (ring.head >= ring.count || ring.tail >= ring.count)
        ring.head = ring.tail = ring.count = 0; /* nonsense: empty */
    return ring;
}

static bool listed(struct e1000e *nic, const uint8_t *mac)
{
    uint32_t low = mac[0] | (uint32_t)mac[1] << 8 | (uint32_t)mac[2] << 16 | (uint32_t)mac[3] << 24;
    uint32_t high = mac[4] | (uint32_t)mac[5] << 8;
    for (unsigned i = 0; i < RA_COUNT; i++)
        if (*reg(nic, RAL + 8 * i) == low && (*reg(nic, RAH + 8 * i) & 0xffff) == high &&
            (*reg(nic, RAH + 8 * i) & RAH_AV))
            return true;
    return false;
}

/* The filters of 10.2.5; lock held. */
static bool nic_wants(struct e1000e *nic, const uint8_t *frame, size_t len)
{
    static const uint8_t broadcast[6] = { 255, 255, 255, 255, 255, 255 };
    static const uint8_t shifts[4] = { 4, 3, 2, 0 };
    uint32_t rctl = *reg(nic, RCTL);
    if ((rctl & RCTL_VFE) && len >= 16 && frame[12] == 0x81 && frame[13] == 0) {
        unsigned vlan = (unsigned)(frame[14] & 15) << 8 | frame[15];
        if (!(*reg(nic, VFTA + vlan / 32 * 4) >> vlan % 32 & 1))
            return false;
    }
    if (!memcmp(frame, broadcast, 6))
        return rctl & (RCTL_BAM | RCTL_MPE);
    if (listed(nic, frame) || (rctl & (frame[0] & 1 ? RCTL_MPE : RCTL_UPE)))
        return true;
    if (!(frame[0] & 1))
        return false;
    unsigned hash = (frame[4] | (unsigned)frame[5] << 8) >> shifts[rctl >> 12 & 3] & 0xfff;
    return *reg(nic, MTA + hash / 32 * 4) >> hash % 32 & 1;
}

static unsigned rx_buffer_size(uint32_t rctl)
{
    unsigned size = 2048u >> (rctl >> 16 & 3);
    return rctl & RCTL_BSEX && size != 2048 ? size * 16 : size;
}

struct rx_frame {
    const uint8_t *data;
    size_t len;
    uint16_t vlan;
    uint8_t status;
    bool extended;
};

/* One descriptor: its buffer, then the descriptor itself. Answers the bytes taken, or -EFAULT. */
static int64_t rx_fill(struct e1000e *nic, uint64_t gpa, const struct rx_frame *f, size_t at,
                       unsigned size)
{
    struct machine *m = nic->pci.dev.machine;
    uint64_t buffer;
    uint8_t back[DESCRIPTOR] = { 0 };
    size_t len = f->len - at < size ? f->len - at : size;
    uint8_t status = (uint8_t)(RX_DD | f->status | (at + len == f->len ? RX_EOP : 0));
    if (mem_read(m, gpa, &buffer, 8) < 0)
        return -EFAULT;
    buffer = le64toh(buffer);
    if (buffer && mem_write(m, buffer, f->data + at, len) < 0)
        return -EFAULT;
    if (f->extended) {
        back[8] = status;
        back[12] = (uint8_t)len;
        back[13] = (uint8_t)(len >> 8);
    } else {
        memcpy(back, &(uint64_t){ htole64(buffer) }, 8);
        back[8] = (uint8_t)len;
        back[9] = (uint8_t)(len >> 8);
        back[12] = status;
    }
    back[14] = (uint8_t)f->vlan;
    back[15] = (uint8_t)(f->vlan >> 8);
    return mem_write(m, gpa, back, sizeof back) < 0 ? -EFAULT : (int64_t)len;
}

bool e1000e_receive(void *arg, const uint8_t *data, size_t len, const struct net_offload *offload)
{
    struct e1000e *nic = arg;
    struct rx_ring ring;
    uint32_t rctl;
    unsigned generation;
    uint8_t stripped[NET_MAX_FRAME];
    struct rx_frame frame = { .len = len };
    if (nic->paused)
        return false;
    {
        LOCKED(&nic->pci.dev.lock);
        rctl = *reg(nic, RCTL);
        if (!(rctl & RCTL_EN) || !pci_bus_master(&nic->pci) || !nic_wants(nic, data, len) ||
            len > sizeof stripped - 64)
            return true;
        ring = ring_get(nic, RDBAL, 0);
        generation = nic->generation;
        frame.extended = *reg(nic, RFCTL) & RFCTL_EXTEN;
        frame.status = offload->csum_valid ? RX_TCPCS | RX_IPCS : 0;
        if ((*reg(nic, CTRL) & CTRL_VME) && len >= 18 && data[12] == 0x81 && data[13] == 0) {
            frame.vlan = (uint16_t)(data[14] << 8 | data[15]);
            frame.status |= RX_VP;
            memcpy(stripped, data, 12);
            memcpy(stripped + 12, data + 16, len - 16);
            frame.len = len - 4;
        } else {
            memcpy(stripped, data, len);
        }
    }
    if (frame.len < 60) { /* a frame on a wire is not shorter */
        memset(stripped + frame.len, 0, 60 - frame.len);
        frame.len = 60;
    }
    if (!(rctl & RCTL_SECRC)) { /* the driver wants the check sum; it never looks at it */
        memset(stripped + frame.len, 0, 4);
        frame.len += 4;
    }
    frame.data = stripped;
    unsigned size = rx_buffer_size(rctl), need = (unsigned)((frame.len + size - 1) / size);
    unsigned have = ring.count ? (ring.tail + ring.count - ring.head) % ring.count : 0;
    if (need > have)
        return ring.count &&
               need >= ring.count; /* hopeless, or RDT is written when there is room */
    int64_t taken = 0;
    for (size_t at = 0; at < frame.len && taken >= 0; at += (size_t)taken) {
        taken = rx_fill(nic, ring.base + (uint64_t)ring.head * DESCRIPTOR, &frame, at, size);
        ring.head = (ring.head + 1) % ring.count;
    }
    LOCKED(&nic->pci.dev.lock);
    if (generation == nic->generation) { /* 2 */
        *reg(nic, RDH) = ring.head;
        ++*reg(nic, GPRC);
        e1000e_raise(nic, IRQ_RXT0 | IRQ_RXQ0);
    }
    return true;
}

/* ---- sending; io_loop ---- */

struct tx_frame {
    size_t len;
    uint32_t flags, upper; /* of its first descriptor */
    bool extended;
    bool too_long;
};

static void put16(uint8_t *p, unsigned value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

/* Sum over [start, end) of the frame, stored at `store`. */
static void tx_checksum(uint8_t *frame, size_t len, size_t start, size_t store, size_t end)
{
    if (!end || end >= len)
        end = len - 1;
    if (start > end || store + 2 > len)
        return;
    put16(frame + store, 0);
    put16(frame + store, offload_fold(offload_sum(frame + start, end + 1 - start, 0)));
}

/* Before a segmentation, lengths and the sum of the pseudo header are as for one big frame. */
static void tx_prepare_tso(uint8_t *frame, size_t len, const struct tx_context *c, bool ipv4)
{
    size_t ip = c->ip & 0xff, tcp = c->tcp & 0xff, at = c->tcp >> 8 & 0xff;
    if (tcp < ip + 20 || tcp > len || at + 2 > len || (!ipv4 && tcp < ip + 40))
        return;
    uint8_t protocol[2] = { 0, 6 }, payload[2];
    put16(payload, (unsigned)(len - tcp));
    uint32_t sum = offload_sum(protocol, 2, offload_sum(payload, 2, 0));
    if (ipv4) {
        put16(frame + ip + 2, (unsigned)(len - ip));
        put16(frame + ip + 10, 0);
        put16(frame + ip + 10, offload_fold(offload_sum(frame + ip, tcp - ip, 0)));
        sum = offload_sum(frame + ip + 12, 8, sum);
    } else {
        put16(frame + ip + 4, (unsigned)(len - ip - 40));
        sum = offload_sum(frame + ip + 8, 32, sum);
    }
    put16(frame + at, (uint16_t)~offload_fold(sum));
}

static void tx_offloads(struct e1000e *nic, struct tx_frame *f, const struct tx_context *c,
                        struct net_offload *offload)
{
    uint8_t *frame = nic->frame;
    if (!f->extended) {
        unsigned store = f->flags >> 16 & 0xff, start = f->upper >> 8 & 0xff;
        if (f->flags & TX_IC)
            tx_checksum(frame, f->len, start, store, 0);
        return;
    }
    unsigned options = f->upper >> 8 & 0xff, start = c->tcp & 0xff, store = c->tcp >> 8 & 0xff;
    bool ipv4 = c->flags & TUCMD_IPV4;
    if ((f->flags & TX_TSE) && c->upper >> 16) {
        tx_prepare_tso(frame, f->len, c, ipv4);
        offload->gso = ipv4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6;
        offload->gso_size = (uint16_t)(c->upper >> 16);
        offload->hdr_len = (uint16_t)(c->upper >> 8 & 0xff);
    } else if (options & POPTS_IXSM) {
        tx_checksum(frame, f->len, c->ip & 0xff, c->ip >> 8 & 0xff, c->ip >> 16);
    }
    if ((offload->gso || (options & POPTS_TXSM)) && store >= start) {
        offload->needs_csum = true;
        offload->csum_start = (uint16_t)start;
        offload->csum_offset = (uint16_t)(store - start);
    }
}

static int tx_send(struct e1000e *nic, struct tx_frame *f, const struct tx_context *context,
                   uint16_t tag)
{
    struct net_offload offload = { 0 };
    struct iovec iov[3] = { { nic->frame, f->len } };
    uint8_t vlan[4] = { 0x81, 0x00, (uint8_t)(tag >> 8), (uint8_t)tag };
    unsigned count = 1;
    if (f->too_long || f->len < NET_MIN_FRAME)
        return 0;
    tx_offloads(nic, f, context, &offload);
    if (f->flags & TX_VLE) { /* behind both addresses */
        iov[0].iov_len = 12;
        iov[1] = (struct iovec){ vlan, sizeof vlan };
        iov[2] = (struct iovec){ nic->frame + 12, f->len - 12 };
        count = 3;
        offload.csum_start = (uint16_t)(offload.csum_start + (offload.needs_csum ? 4 : 0));
    }
    return net_send(nic->backend, iov, count, &offload);
}

/* Gathers the next frame from `at` on: how many descriptors it has; 0: not all are there; -EFAULT.
 * A context descriptor is a "frame" of its own with no bytes. */
static int tx_gather(struct e1000e *nic, const struct rx_ring *ring, uint32_t at,
                     struct tx_context *context, struct tx_frame *f)
{
    struct machine *m = nic->pci.dev.machine;
    *f = (struct tx_frame){ 0 };
    for (int count = 1; at != ring->tail; count++, at = (at + 1) % ring->count) {
        uint32_t d[4];
        if (mem_read(m, ring->base + (uint64_t)at * DESCRIPTOR, d, sizeof d) < 0)
            return -EFAULT;
        uint64_t buffer = (uint64_t)le32toh(d[1]) << 32 | le32toh(d[0]);
        uint32_t flags = le32toh(d[2]), upper = le32toh(d[3]);
        bool extended = flags & TX_DEXT;
        if (extended && !(flags & TX_DATA) && count == 1) {
            *context = (struct tx_context){ le32toh(d[0]), le32toh(d[1]), flags, upper };
            f->flags = flags & TX_RS;
            return 1;
        }
        size_t len = flags & (extended ? 0xfffff : 0xffff);
        if (count == 1)
            *f = (struct tx_frame){ .flags = flags, .upper = upper, .extended = extended };
        if (len > NET_MAX_FRAME - f->len)
            f->too_long = true;
        else if (mem_read(m, buffer, nic->frame + f->len, len) < 0)
            return -EFAULT;
        else
            f->len += len;
        f->flags |= flags & TX_RS;
        if (flags & TX_EOP) {
            f->flags |= flags & TX_VLE;
            f->upper |= upper & 0xffff0000; /* the tag counts where the frame ends, too */
            return count;
        }
    }
    return 0;
}

/* Tells the driver which descriptors are done. */
static void tx_write_back(struct e1000e *nic, const struct rx_ring *ring, uint32_t at, int count)
{
    struct machine *m = nic->pci.dev.machine;
    for (; count > 0; count--, at = (at + 1) % ring->count) {
        uint64_t gpa = ring->base + (uint64_t)at * DESCRIPTOR;
        uint32_t d[2];
        if (mem_read(m, gpa + 8, d, sizeof d) < 0 || !(le32toh(d[0]) & TX_RS))
            continue;
        d[1] |= htole32(TX_DD);
        mem_write(m, gpa + 12, &d[1], 4);
    }
}

void e1000e_transmit(struct e1000e *nic, unsigned queue)
{
    for (unsigned budget = BATCH; budget; budget--) {
        struct rx_ring ring;
        struct tx_context context;
        struct tx_frame frame;
        unsigned generation;
        {
            LOCKED(&nic->pci.dev.lock);
            ring = ring_get(nic, TDBAL, queue);
            if (!(*reg(nic, TCTL) & TCTL_EN) || !pci_bus_master(&nic->pci) ||
                ring.head == ring.tail)
                return;
            context = nic->regs.contexts[queue];
            generation = nic->generation;
        }
        int count = tx_gather(nic, &ring, ring.head, &context, &frame);
        if (count == 0)
            return;      /* 1 */
        if (count < 0) { /* nothing sensible to read: the ring is given up */
            count = 0;
            frame.flags = 0;
            ring.head = ring.tail;
        } else if (frame.len &&
                   tx_send(nic, &frame, &context, (uint16_t)(frame.upper >> 16)) == -EAGAIN) {
            return; /* `ready` comes */
        }
        if (frame.flags & TX_RS)
            tx_write_back(nic, &ring, ring.head, count);
        LOCKED(&nic->pci.dev.lock);
        if (generation != nic->generation)
            return; /* 2 */
        nic->regs.contexts[queue] = context;
        *reg(nic, TDH + queue * QUEUE_STEP) = (ring.head + (unsigned)count) % ring.count;
        *reg(nic, GPTC) += frame.len != 0;
        if (frame.flags & TX_RS)
            e1000e_raise(nic, IRQ_TXDW | (uint32_t)IRQ_TXQ0 << queue);
    }
    io_work_kick(&nic->work);
}
