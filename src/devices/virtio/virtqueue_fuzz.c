/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtqueue whose addresses and guest memory come from the fuzzer.
 *
 * Input: 1 byte features, 1 byte log2 of the size (or the packed size), 3 x 2 bytes of ring
 * addresses, 1 byte operations, then memory from gpa 0 on. Between two pops some memory is changed,
 * as by a driver that does not wait. What was taken is checked against what an element promises.
 */
#include "devices/virtio/virtqueue.h"

#include "base/checked.h"
#include "devices/virtio/guest_model.h"

#include <assert.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { HEAD = 9, WINDOW = 64 << 10 };

static void on_broken(void *arg, const char *why) { ++*(unsigned *)arg; }
static void on_interrupt(void *arg, unsigned queue) {}

static uint64_t address(const uint8_t *data)
{
    uint64_t raw = (uint64_t)(data[0] | data[1] << 8);
    if (raw >= 0xfff0) /* near the end of memory, and of the address space */
        return raw & 1 ? GUEST_MEMORY - 64 + (raw & 15) * 4 : UINT64_MAX - 63 + (raw & 14) * 4;
    return raw;
}

static void check_elem(const struct virtqueue_elem *elem)
{
    uint64_t out = 0, in = 0;
    volatile uint8_t sum = 0;
    for (unsigned i = 0; i < elem->out_count; i++) {
        out += elem->out[i].iov_len;
        sum ^= *(uint8_t *)elem->out[i].iov_base;
    }
    for (unsigned i = 0; i < elem->in_count; i++) {
        in += elem->in[i].iov_len;
        ((uint8_t *)elem->in[i].iov_base)[elem->in[i].iov_len - 1] ^= 1;
    }
    (void)sum;
    assert(out == elem->out_bytes && in == elem->in_bytes && out + in <= UINT32_MAX);
}

/* What is in flight goes through its saved form and comes back the same. */
static void round_trip(struct virtqueue *vq)
{
    struct buf first = { 0 }, second = { 0 };
    uint32_t slots[1] = { 0 }, elems[1] = { 0 };
    virtqueue_inflight_save(vq, &first);
    int r = virtqueue_inflight_check(first.data, first.len, 1, slots, elems, NULL);
    assert(r == 0);
    while (vq->inflight)
        virtqueue_drop(vq->inflight);
    virtqueue_inflight_load(vq, first.data, first.len);
    virtqueue_inflight_save(vq, &second);
    assert(first.len == second.len && (!first.len || !memcmp(first.data, second.data, first.len)));
    for (struct virtqueue_elem *elem = vq->inflight; elem; elem = elem->next) {
        if (virtqueue_elem_lease(elem))
            check_elem(elem);
    }
    buf_fini(&first);
    buf_fini(&second);
}

static void operate(struct virtqueue *vq, uint8_t ops)
{
    for (unsigned i = 0; i < 40; i++) {
        struct virtqueue_elem *elem = virtqueue_pop(vq);
        if (elem) {
            check_elem(elem);
            if (ops & 1 && i % 3 == 0)
                virtqueue_unpop(elem);
        }
        if (ops & 2 && i % 5 == 4 && vq->inflight)
            virtqueue_push(vq->inflight, (uint32_t)vq->inflight->in_bytes);
        if (ops & 4 && vq->inflight && vq->inflight->next) {
            struct virtqueue_elem *two[2] = { vq->inflight->next, vq->inflight };
            uint32_t written[2] = { 0, 0 };
            virtqueue_push_many(vq, two, written, 2);
        }
        if (ops & 8)
            virtqueue_notification(vq, i & 1);
        if (ops & 16 && i == 20)
            round_trip(vq);
        virtqueue_notify(vq);
        assert(vq->inuse <= vq->regs->size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct guest g;
    if (!g.m)
        guest_init(&g, false);
    if (len < HEAD)
        return 0;
    size_t window = len - HEAD < WINDOW ? len - HEAD : WINDOW;
    memset(g.m->main_ram->hva, 0, WINDOW * 2);
    memcpy(g.m->main_ram->hva, data + HEAD, window);

    struct virtqueue_regs regs;
    struct virtqueue vq;
    unsigned failures = 0;
    virtqueue_regs_reset(&regs, 256);
    regs.size = data[0] & 8 ? data[1] : 1u << (data[1] & 15);
    regs.desc = address(data + 2);
    regs.driver = address(data + 4);
    regs.device = address(data + 6);
    regs.enabled = 1;
    virtqueue_init(&vq, g.m, 0, &regs);
    vq.broken = on_broken;
    vq.interrupt = on_interrupt;
    vq.arg = &failures;
    virtqueue_start(&vq, (data[0] & 1 ? 1ull << VIRTIO_F_RING_PACKED : 0) |
                             (data[0] & 2 ? 1ull << VIRTIO_RING_F_EVENT_IDX : 0) |
                             (data[0] & 4 ? 1ull << VIRTIO_RING_F_INDIRECT_DESC : 0));
    operate(&vq, data[8]);
    assert(failures <= 1 && (!failures || vq.stopped));

    uint32_t slots[4] = { 0 }, elems[4] = { 0 };
    if (virtqueue_inflight_check(data, len, 4, slots, elems, NULL) == 0) {
        while (vq.inflight)
            virtqueue_drop(vq.inflight);
        virtqueue_inflight_load(&vq, data, len);
    }
    virtqueue_fini(&vq);
    assert(vq.leases == 0 && vq.inuse == 0);
    return 0;
}
