/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Split and packed virtqueues from the device's side (VIRTIO 1.2, 2.7 and 2.8).
 *
 * Invariants:
 *  1. Every field of a ring is read once into a local, checked, and used from there. Nothing read
 *     earlier is believed to be still in guest memory.
 *  2. No address, index or length of the guest reaches memory but through mem_read, mem_write and
 *     dma_begin, which check it. No host address of a ring is kept, so freezes and remapping need
 *     no care here.
 *  3. A walk over descriptors ends: a direct chain after `size` steps, an indirect one after the
 *     entries of its table, both after VIRTQUEUE_MAX_SEGMENTS.
 *  4. inuse <= size: entries taken and not given back. A driver that offers more lies.
 *  5. An element is in vq->inflight from pop to push, drop or unpop, and its lease is open just as
 *     long (elements that came from a saved state: from virtqueue_elem_lease).
 *  6. Reads of what the driver published come behind an acquire fence, publishing behind a release
 *     fence; "publish, then look whether the other side sleeps" has a full fence in between.
 *  7. Once `stopped`, guest memory is not touched until the next start.
 */
#include "devices/virtio/virtqueue.h"

#include "base/checked.h"
#include "base/log.h"
#include "machine/machine.h"

#include <assert.h>
#include <endian.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* The formats of 2.7.5 and 2.8.13; all little-endian. */
struct split_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};
struct packed_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t id, flags;
};
enum { DESC_SIZE = 16, PACKED_AVAIL = 1 << 7, PACKED_USED = 1 << 15 };
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2 }; /* packed event structures */

struct virtqueue_segment {
    uint64_t gpa;
    uint32_t len;
    bool write;
};

/* Leases cost memory of ours: a queue holds no more of them at a time, and none of the elements
 * kept for reuse has more than the second figure. */
enum { LEASES_MAX = 32768, LEASES_SPARE = 128 };

static void virtqueue_fail(struct virtqueue *vq, const char *why)
{
    if (vq->stopped)
        return;
    vq->stopped = true;
    vq->broken(vq->arg, why);
}

/* ---- Fields of a ring. After a failure the queue is stopped and what was read is zero. ---- */

static bool ring_read(struct virtqueue *vq, uint64_t base, uint64_t offset, void *out, size_t len)
{
    uint64_t gpa;
    if (add_u64(base, offset, &gpa) && mem_read(vq->machine, gpa, out, len) == 0)
        return true;
    memset(out, 0, len);
    virtqueue_fail(vq, "ring outside of memory");
    return false;
}

static bool ring_write(struct virtqueue *vq, uint64_t base, uint64_t offset, const void *data,
                       size_t len)
{
    uint64_t gpa;
    if (add_u64(base, offset, &gpa) && mem_write(vq->machine, gpa, data, len) == 0)
        return true;
    virtqueue_fail(vq, "ring outside of memory");
    return false;
}

static uint16_t ring_read16(struct virtqueue *vq, uint64_t base, uint64_t offset)
{
    uint16_t value;
    ring_read(vq, base, offset, &value, sizeof value);
    return le16toh(value);
}

static void ring_write16(struct virtqueue *vq, uint64_t base, uint64_t offset, uint16_t value)
{
    value = htole16(value);
    ring_write(vq, base, offset, &value, sizeof value);
}

/* ---- Elements ---- */

static struct virtqueue_elem *elem_get(struct virtqueue *vq)
{
    struct virtqueue_elem *elem = vq->spare;
    if (elem)
        vq->spare = elem->next;
    else if (!(elem = calloc(1, sizeof *elem)))
        abort();
    elem->vq = vq;
    elem->segment_count = elem->out_count = elem->in_count = 0;
    elem->out_bytes = elem->in_bytes = elem->touched = 0;
    elem->user = NULL;
    elem->leased = false;
    return elem;
}

/* Not in flight. */
static void elem_put(struct virtqueue_elem *elem)
{
    if (elem->lease_room > LEASES_SPARE) {
        free(elem->leases);
        elem->leases = NULL;
        elem->lease_room = 0;
    }
    elem->next = elem->vq->spare;
    elem->vq->spare = elem;
}

static void elem_link(struct virtqueue_elem *elem)
{
    struct virtqueue *vq = elem->vq;
    elem->next = NULL;
    elem->prev = vq->inflight_end;
    *vq->inflight_end = elem;
    vq->inflight_end = &elem->next;
    vq->inuse += elem->slots;
}

static void elem_unlink(struct virtqueue_elem *elem)
{
    struct virtqueue *vq = elem->vq;
    *elem->prev = elem->next;
    if (elem->next)
        elem->next->prev = elem->prev;
    else
        vq->inflight_end = elem->prev;
    assert(vq->inuse >= elem->slots); /* 4 */
    vq->inuse -= elem->slots;
}

/* Appends a descriptor. Answers what is wrong with it, or NULL. */
static const char *elem_add(struct virtqueue_elem *elem, uint64_t gpa, uint32_t len, bool write)
{
    if (!len)
        return NULL;
    if (!write && elem->in_bytes)
        return "readable descriptor behind a writable one";
    if (elem->segment_count == VIRTQUEUE_MAX_SEGMENTS)
        return "too many descriptors in a chain";
    if (elem->out_bytes + elem->in_bytes + len > UINT32_MAX)
        return "a buffer of more than 4 GiB";

    if (elem->segment_count == elem->segment_room) {
        unsigned room = elem->segment_room ? elem->segment_room * 2 : 8;
        void *segments = realloc(elem->segments, room * sizeof *elem->segments);
        if (!segments)
            abort();
        elem->segments = segments;
        elem->segment_room = room;
    }
    elem->segments[elem->segment_count++] =
        (struct virtqueue_segment){ .gpa = gpa, .len = len, .write = write };
    *(write ? &elem->in_bytes : &elem->out_bytes) += len;
    return NULL;
}

/* Ends the leases of the first `count` segments. `written` bytes of the writable part changed. */
static void elem_end_leases(struct virtqueue_elem *elem, unsigned count, uint64_t written)
{
    for (unsigned i = 0; i < count; i++) {
        const struct virtqueue_segment *seg = &elem->segments[i];
        uint64_t part = 0;
        if (seg->write) {
            part = written < seg->len ? written : seg->len;
            written -= part;
        }
        dma_end(&elem->leases[i], part);
    }
}

/* Ends the lease if there is one. */
static void elem_release(struct virtqueue_elem *elem, uint64_t written)
{
    if (!elem->leased)
        return;
    elem_end_leases(elem, elem->segment_count, written);
    elem->vq->leases -= elem->segment_count;
    elem->leased = false;
}

/* Room for `count` leases and vectors. No lease is open: open ones may not move. */
static void elem_lease_reserve(struct virtqueue_elem *elem, unsigned count)
{
    if (count <= elem->lease_room)
        return;
    free(elem->leases);
    elem->lease_room = (unsigned)round_up(count, 8);
    elem->leases = malloc(elem->lease_room * sizeof *elem->leases);
    if (!elem->leases)
        abort();
}

static void elem_iov_reserve(struct virtqueue_elem *elem, unsigned room)
{
    if (room <= elem->iov_room)
        return;
    room = (unsigned)round_up(room, 16);
    void *iov = realloc(elem->iov, room * sizeof *elem->iov);
    if (!iov)
        abort();
    elem->iov = iov;
    elem->iov_room = room;
}

bool virtqueue_elem_lease(struct virtqueue_elem *elem)
{
    unsigned used = 0;
    elem->out_count = elem->in_count = 0;
    elem_lease_reserve(elem, elem->segment_count);
    for (unsigned i = 0; i < elem->segment_count; i++) {
        const struct virtqueue_segment *seg = &elem->segments[i];
        struct dma *lease = &elem->leases[i];
        if (dma_begin(elem->vq->machine, seg->gpa, seg->len, seg->write, lease) < 0) {
            elem_end_leases(elem, i, 0);
            virtqueue_fail(elem->vq, "a buffer outside of memory");
            return false;
        }
        elem_iov_reserve(elem, used + lease->count);
        memcpy(&elem->iov[used], lease->iov, lease->count * sizeof *lease->iov);
        used += lease->count;
        *(seg->write ? &elem->in_count : &elem->out_count) += lease->count;
    }
    elem->out = elem->iov;
    elem->in = elem->iov ? elem->iov + elem->out_count : NULL;
    elem->leased = true;
    elem->vq->leases += elem->segment_count;
    return true;
}

uint64_t virtqueue_elem_discard(struct virtqueue_elem *elem)
{
    uint64_t given = 0;
    for (unsigned i = 0; i < elem->segment_count; i++)
        if (elem->segments[i].write)
            given += dma_discard(&elem->leases[i]);
    elem->touched = elem->in_bytes;
    return given;
}

void virtqueue_elem_unlease(struct virtqueue_elem *elem) { elem_release(elem, elem->touched); }

void virtqueue_drop(struct virtqueue_elem *elem)
{
    elem_release(elem, elem->touched);
    elem_unlink(elem);
    elem_put(elem);
}

/* ---- Life ---- */

void virtqueue_init(struct virtqueue *vq, struct machine *m, unsigned index,
                    struct virtqueue_regs *regs)
{
    *vq = (struct virtqueue){ .machine = m, .index = index, .regs = regs, .stopped = true };
    vq->inflight_end = &vq->inflight;
}

static void elem_destroy(struct virtqueue_elem *elem)
{
    free(elem->segments);
    free(elem->leases);
    free(elem->iov);
    free(elem);
}

void virtqueue_fini(struct virtqueue *vq)
{
    while (vq->inflight)
        virtqueue_drop(vq->inflight);
    while (vq->spare) {
        struct virtqueue_elem *elem = vq->spare;
        vq->spare = elem->next;
        elem_destroy(elem);
    }
}

void virtqueue_regs_reset(struct virtqueue_regs *regs, uint16_t max_size)
{
    *regs = (struct virtqueue_regs){
        .size = max_size, .vector = 0xffff, .avail_wrap = 1, .used_wrap = 1
    };
}

/* Bytes of the areas, 2.7 and 2.8; the event fields at the end are there in any case. */
static void virtqueue_check_areas(struct virtqueue *vq)
{
    const struct virtqueue_regs *r = vq->regs;
    uint64_t driver_len = vq->packed ? 4 : 6 + 2ull * r->size;
    uint64_t device_len = vq->packed ? 4 : 6 + 8ull * r->size;
    unsigned driver_align = vq->packed ? 4 : 2;
    uint64_t end;

    if (!r->size || r->size > VIRTQUEUE_MAX_SIZE || (!vq->packed && !is_power_of_two(r->size)))
        virtqueue_fail(vq, "impossible queue size");
    else if (r->desc % DESC_SIZE || r->driver % driver_align || r->device % 4)
        virtqueue_fail(vq, "misaligned ring");
    else if (!add_u64(r->desc, DESC_SIZE * (uint64_t)r->size, &end) ||
             !add_u64(r->driver, driver_len, &end) || !add_u64(r->device, device_len, &end))
        virtqueue_fail(vq, "ring outside of memory");
    else if (vq->packed && (r->avail_idx >= r->size || r->used_idx >= r->size))
        virtqueue_fail(vq, "ring position beyond the ring");
}

void virtqueue_start(struct virtqueue *vq, uint64_t features)
{
    vq->packed = features & (1ull << VIRTIO_F_RING_PACKED);
    vq->event_idx = features & (1ull << VIRTIO_RING_F_EVENT_IDX);
    vq->indirect = features & (1ull << VIRTIO_RING_F_INDIRECT_DESC);
    vq->started = true;
    vq->stopped = false;
    vq->notification = true;
    vq->unsignalled = 0;
    vq->starved = false;
    virtqueue_check_areas(vq);
}

void virtqueue_stop(struct virtqueue *vq)
{
    assert(!vq->inflight); /* 5 */
    vq->started = false;
    vq->stopped = true;
}

/* ---- Chains ---- */

/* The table of an indirect descriptor; its entries are split or packed ones. 2.7.5.3, 2.8.8 */
static const char *chain_indirect(struct virtqueue *vq, struct virtqueue_elem *elem, uint64_t table,
                                  uint32_t len)
{
    if (!vq->indirect)
        return "indirect descriptor that was not negotiated";
    if (!len || len % DESC_SIZE || len / DESC_SIZE > VIRTQUEUE_MAX_SEGMENTS)
        return "impossible indirect table";
    unsigned count = len / DESC_SIZE, at = 0;

    for (unsigned steps = 0; steps < count; steps++) { /* 3 */
        struct split_desc d;
        uint16_t flags, next;
        if (!ring_read(vq, table, at * (uint64_t)DESC_SIZE, &d, sizeof d))
            return "indirect table outside of memory";
        if (vq->packed) {
            flags = le16toh(d.next) & VRING_DESC_F_WRITE; /* the last field; order is implied */
            next = (uint16_t)(at + 1);
        } else {
            flags = le16toh(d.flags);
            next = le16toh(d.next);
        }
        if (flags & VRING_DESC_F_INDIRECT)
            return "indirect descriptor inside an indirect table";
        const char *why =
            elem_add(elem, le64toh(d.addr), le32toh(d.len), flags & VRING_DESC_F_WRITE);
        if (why)
            return why;
        if (vq->packed ? next == count : !(flags & VRING_DESC_F_NEXT))
            return NULL;
        if (next >= count)
            return "link beyond the indirect table";
        at = next;
    }
    return "loop in an indirect table";
}

static const char *chain_split(struct virtqueue *vq, struct virtqueue_elem *elem, uint16_t at)
{
    unsigned size = vq->regs->size;
    for (unsigned steps = 0; steps < size; steps++) { /* 3 */
        struct split_desc d;
        if (at >= size)
            return "link beyond the descriptor table";
        if (!ring_read(vq, vq->regs->desc, at * (uint64_t)DESC_SIZE, &d, sizeof d))
            return "descriptor table outside of memory";
        uint16_t flags = le16toh(d.flags);
        if (flags & VRING_DESC_F_INDIRECT) {
            if (steps || (flags & VRING_DESC_F_NEXT))
                return "indirect descriptor inside a chain";
            return chain_indirect(vq, elem, le64toh(d.addr), le32toh(d.len));
        }
        const char *why =
            elem_add(elem, le64toh(d.addr), le32toh(d.len), flags & VRING_DESC_F_WRITE);
        if (why)
            return why;
        if (!(flags & VRING_DESC_F_NEXT))
            return NULL;
        at = le16toh(d.next);
    }
    return "loop in a descriptor chain";
}

/* Sets elem->slots and elem->id. */
static const char *chain_packed(struct virtqueue *vq, struct virtqueue_elem *elem)
{
    const struct virtqueue_regs *r = vq->regs;
    unsigned at = r->avail_idx;
    for (unsigned steps = 1; steps <= r->size; steps++) { /* 3 */
        struct packed_desc d;
        if (!ring_read(vq, r->desc, at * (uint64_t)DESC_SIZE, &d, sizeof d))
            return "descriptor ring outside of memory";
        uint16_t flags = le16toh(d.flags);
        elem->slots = (uint16_t)steps;
        elem->id = le16toh(d.id); /* the last descriptor's counts */
        if (flags & VRING_DESC_F_INDIRECT) {
            if (steps > 1 || (flags & VRING_DESC_F_NEXT))
                return "indirect descriptor inside a chain";
            return chain_indirect(vq, elem, le64toh(d.addr), le32toh(d.len));
        }
        const char *why =
            elem_add(elem, le64toh(d.addr), le32toh(d.len), flags & VRING_DESC_F_WRITE);
        if (why)
            return why;
        if (!(flags & VRING_DESC_F_NEXT))
            return NULL;
        at = at + 1 == r->size ? 0 : at + 1;
    }
    return "a descriptor chain longer than the ring";
}

/* ---- Taking buffers ---- */

static bool split_pending(struct virtqueue *vq)
{
    uint16_t idx = ring_read16(vq, vq->regs->driver, 2);
    if (vq->stopped)
        return false;
    uint16_t count = (uint16_t)(idx - vq->regs->avail_idx);
    if (count > vq->regs->size) {
        virtqueue_fail(vq, "the available index ran away");
        return false;
    }
    return count;
}

static bool packed_pending(struct virtqueue *vq)
{
    const struct virtqueue_regs *r = vq->regs;
    uint16_t flags = ring_read16(vq, r->desc, r->avail_idx * (uint64_t)DESC_SIZE + 14);
    return !vq->stopped && !!(flags & PACKED_AVAIL) == r->avail_wrap &&
           !!(flags & PACKED_USED) != r->avail_wrap;
}

bool virtqueue_pending(struct virtqueue *vq)
{
    if (vq->stopped)
        return false;
    return vq->packed ? packed_pending(vq) : split_pending(vq);
}

/* Moves a packed position by `slots` entries. */
static void packed_advance(const struct virtqueue_regs *r, uint16_t *idx, uint8_t *wrap,
                           unsigned slots)
{
    unsigned at = *idx + slots;
    if (at >= r->size) {
        at -= r->size;
        *wrap ^= 1;
    }
    *idx = (uint16_t)at;
}

struct virtqueue_elem *virtqueue_pop(struct virtqueue *vq)
{
    if (!virtqueue_pending(vq))
        return NULL;
    atomic_thread_fence(memory_order_acquire); /* 6 */

    struct virtqueue_regs *r = vq->regs;
    struct virtqueue_elem *elem = elem_get(vq);
    const char *why;
    if (vq->packed) {
        why = chain_packed(vq, elem);
    } else {
        elem->slots = 1;
        elem->id = ring_read16(vq, r->driver, 4 + 2ull * (r->avail_idx % r->size));
        why = chain_split(vq, elem, elem->id);
    }
    if (!why && vq->inuse + elem->slots > r->size) /* 4 */
        why = "more buffers than the ring has entries";
    if (why)
        virtqueue_fail(vq, why);
    vq->starved = !vq->stopped && vq->leases && vq->leases + elem->segment_count > LEASES_MAX;
    if (vq->stopped || vq->starved || !virtqueue_elem_lease(elem)) {
        elem_put(elem);
        return NULL;
    }
    if (vq->packed)
        packed_advance(r, &r->avail_idx, &r->avail_wrap, elem->slots);
    else
        r->avail_idx++;
    elem_link(elem);
    return elem;
}

void virtqueue_unpop(struct virtqueue_elem *elem)
{
    struct virtqueue_regs *r = elem->vq->regs;
    assert(!elem->next); /* the last one */
    if (!elem->vq->packed) {
        r->avail_idx--;
    } else if (elem->slots > r->avail_idx) {
        r->avail_idx = (uint16_t)(r->avail_idx + r->size - elem->slots);
        r->avail_wrap ^= 1;
    } else {
        r->avail_idx = (uint16_t)(r->avail_idx - elem->slots);
    }
    virtqueue_drop(elem);
}

/* ---- Giving buffers back ---- */

static void split_push(struct virtqueue *vq, struct virtqueue_elem *const *elems,
                       const uint32_t *written, unsigned count)
{
    struct virtqueue_regs *r = vq->regs;
    for (unsigned i = 0; i < count; i++) {
        struct vring_used_elem used = { .id = htole32(elems[i]->id), .len = htole32(written[i]) };
        uint16_t at = (uint16_t)(r->used_idx + i) % r->size;
        ring_write(vq, r->device, 4 + 8ull * at, &used, sizeof used);
    }
    atomic_thread_fence(memory_order_release); /* 6 */
    r->used_idx = (uint16_t)(r->used_idx + count);
    ring_write16(vq, r->device, 2, r->used_idx);
    vq->unsignalled += count;
}

static void packed_push_one(struct virtqueue *vq, uint16_t at, uint8_t wrap, uint16_t id,
                            uint32_t written)
{
    struct {
        uint32_t len;
        uint16_t id;
    } used = { .len = htole32(written), .id = htole16(id) };
    uint64_t desc = at * (uint64_t)DESC_SIZE;
    uint16_t flags =
        (uint16_t)((wrap ? PACKED_AVAIL | PACKED_USED : 0) | (written ? VRING_DESC_F_WRITE : 0));
    ring_write(vq, vq->regs->desc, desc + 8, &used, 6);
    atomic_thread_fence(memory_order_release); /* 6 */
    ring_write16(vq, vq->regs->desc, desc + 14, flags);
}

/* The first one is published last, so that the driver sees all of them or none. */
static void packed_push(struct virtqueue *vq, struct virtqueue_elem *const *elems,
                        const uint32_t *written, unsigned count)
{
    struct virtqueue_regs *r = vq->regs;
    uint16_t first = r->used_idx;
    uint8_t first_wrap = r->used_wrap;
    for (unsigned i = 0; i < count; i++) {
        if (i)
            packed_push_one(vq, r->used_idx, r->used_wrap, elems[i]->id, written[i]);
        packed_advance(r, &r->used_idx, &r->used_wrap, elems[i]->slots);
        vq->unsignalled += elems[i]->slots;
    }
    packed_push_one(vq, first, first_wrap, elems[0]->id, written[0]);
}

void virtqueue_push_many(struct virtqueue *vq, struct virtqueue_elem *const *elems,
                         const uint32_t *written, unsigned count)
{
    if (!count)
        return;
    for (unsigned i = 0; i < count; i++) { /* leases end before the driver may reuse the memory */
        uint64_t touched = elems[i]->touched > written[i] ? elems[i]->touched : written[i];
        elem_release(elems[i], touched);
    }
    if (!vq->stopped) { /* 7 */
        if (vq->packed)
            packed_push(vq, elems, written, count);
        else
            split_push(vq, elems, written, count);
    }
    for (unsigned i = 0; i < count; i++) {
        elem_unlink(elems[i]);
        elem_put(elems[i]);
    }
}

void virtqueue_push(struct virtqueue_elem *elem, uint32_t written)
{
    virtqueue_push_many(elem->vq, &elem, &written, 1);
}

/* ---- Notifications ---- */

/* 2.7.10: does the driver want to hear of the last `pushed` entries, up to but without `now`? */
static bool event_crossed(uint16_t event, uint16_t now, unsigned pushed)
{
    return (uint16_t)(now - event - 1) < pushed;
}

static bool split_wanted(struct virtqueue *vq)
{
    const struct virtqueue_regs *r = vq->regs;
    if (!vq->event_idx)
        return !(ring_read16(vq, r->driver, 0) & VRING_AVAIL_F_NO_INTERRUPT);
    uint16_t event = ring_read16(vq, r->driver, 4 + 2ull * r->size);
    return vq->unsignalled > UINT16_MAX || event_crossed(event, r->used_idx, vq->unsignalled);
}

static bool packed_wanted(struct virtqueue *vq)
{
    const struct virtqueue_regs *r = vq->regs;
    uint16_t event[2];
    if (!ring_read(vq, r->driver, 0, event, sizeof event))
        return false;
    unsigned flags = le16toh(event[1]) & 3;
    if (flags != EVENT_DESC || !vq->event_idx)
        return flags != EVENT_DISABLE;
    uint16_t off_wrap = le16toh(event[0]);
    uint16_t off = off_wrap & 0x7fff;
    if (off_wrap >> 15 != r->used_wrap)
        off = (uint16_t)(off - r->size);
    return event_crossed(off, r->used_idx, vq->unsignalled);
}

void virtqueue_notify(struct virtqueue *vq)
{
    if (vq->stopped || !vq->unsignalled)
        return;
    atomic_thread_fence(memory_order_seq_cst); /* 6 */
    bool wanted = vq->packed ? packed_wanted(vq) : split_wanted(vq);
    vq->unsignalled = 0;
    if (wanted && !vq->stopped)
        vq->interrupt(vq->arg, vq->index);
}

static void split_notification(struct virtqueue *vq, bool on)
{
    const struct virtqueue_regs *r = vq->regs;
    if (!vq->event_idx)
        ring_write16(vq, r->device, 0, on ? 0 : VRING_USED_F_NO_NOTIFY);
    else if (on)
        ring_write16(vq, r->device, 4 + 8ull * r->size, r->avail_idx);
}

static void packed_notification(struct virtqueue *vq, bool on)
{
    const struct virtqueue_regs *r = vq->regs;
    if (on && vq->event_idx) {
        ring_write16(vq, r->device, 0, (uint16_t)(r->avail_idx | r->avail_wrap << 15));
        atomic_thread_fence(memory_order_release); /* 6 */
        ring_write16(vq, r->device, 2, EVENT_DESC);
    } else {
        ring_write16(vq, r->device, 2, on ? EVENT_ENABLE : EVENT_DISABLE);
    }
}

bool virtqueue_notification(struct virtqueue *vq, bool on)
{
    if (vq->stopped)
        return false;
    if (on || on != vq->notification) {
        if (vq->packed)
            packed_notification(vq, on);
        else
            split_notification(vq, on);
    }
    vq->notification = on;
    atomic_thread_fence(memory_order_seq_cst); /* 6 */
    return on && virtqueue_pending(vq);
}

/* ---- Copies ---- */

unsigned iov_part(const struct iovec *iov, unsigned count, size_t offset, size_t len,
                  struct iovec *out)
{
    unsigned used = 0;
    for (unsigned i = 0; i < count && len; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        size_t part = iov[i].iov_len - offset;
        if (part > len)
            part = len;
        out[used++] = (struct iovec){ (char *)iov[i].iov_base + offset, part };
        offset = 0;
        len -= part;
    }
    return used;
}

/* Moves bytes between iov and flat memory; exactly one of out and data is set. A page of the guest
 * that cannot be had ends the copy. */
static size_t iov_copy(const struct iovec *iov, unsigned count, size_t offset, uint8_t *out,
                       const uint8_t *data, size_t len)
{
    size_t done = 0;
    for (unsigned i = 0; i < count && done < len; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        size_t part = iov[i].iov_len - offset;
        if (part > len - done)
            part = len - done;
        char *at = (char *)iov[i].iov_base + offset;
        int r = out ? copy_from_hva(out + done, at, part) : copy_to_hva(at, data + done, part);
        if (r < 0)
            break;
        done += part;
        offset = 0;
    }
    return done;
}

size_t iov_to_buf(const struct iovec *iov, unsigned count, size_t offset, void *out, size_t len)
{
    return iov_copy(iov, count, offset, out, NULL, len);
}

size_t iov_from_buf(const struct iovec *iov, unsigned count, size_t offset, const void *data,
                    size_t len)
{
    return iov_copy(iov, count, offset, NULL, data, len);
}

/* ---- State ---- */

/*
 * Elements in flight, little-endian: u16 queue, u16 id, u16 slots, u16 segments, and for each
 * segment u64 gpa, u32 len, u32 write. Descriptors are saved and not only their index, because in a
 * packed ring a later buffer that finished first has overwritten them.
 */
enum { INFLIGHT_HEAD = 8, INFLIGHT_SEGMENT = 16 };

void virtqueue_inflight_save(const struct virtqueue *vq, struct buf *out)
{
    for (const struct virtqueue_elem *elem = vq->inflight; elem; elem = elem->next) {
        uint16_t head[4] = { htole16((uint16_t)vq->index), htole16(elem->id), htole16(elem->slots),
                             htole16((uint16_t)elem->segment_count) };
        buf_add(out, head, sizeof head);
        for (unsigned i = 0; i < elem->segment_count; i++) {
            const struct virtqueue_segment *seg = &elem->segments[i];
            uint64_t gpa = htole64(seg->gpa);
            uint32_t rest[2] = { htole32(seg->len), htole32(seg->write) };
            buf_add(out, &gpa, sizeof gpa);
            buf_add(out, rest, sizeof rest);
        }
    }
}

struct inflight_head {
    uint16_t queue, id, slots, segments;
};

/* Reads the head at `at`; false when the rest does not hold the whole element. */
static bool inflight_head(const uint8_t *data, size_t len, size_t at, struct inflight_head *head)
{
    if (!range_fits(at, INFLIGHT_HEAD, len))
        return false;
    uint16_t raw[4];
    memcpy(raw, data + at, sizeof raw);
    *head = (struct inflight_head){ le16toh(raw[0]), le16toh(raw[1]), le16toh(raw[2]),
                                    le16toh(raw[3]) };
    return range_fits(at + INFLIGHT_HEAD, INFLIGHT_SEGMENT * (size_t)head->segments, len);
}

static void inflight_segment(const uint8_t *data, struct virtqueue_segment *seg)
{
    uint64_t gpa;
    uint32_t rest[2];
    memcpy(&gpa, data, sizeof gpa);
    memcpy(rest, data + sizeof gpa, sizeof rest);
    *seg = (struct virtqueue_segment){ .gpa = le64toh(gpa),
                                       .len = le32toh(rest[0]),
                                       .write = le32toh(rest[1]) != 0 };
}

/* A segment list that virtqueue_pop could have made. */
static bool inflight_possible(const uint8_t *data, const struct inflight_head *head)
{
    uint64_t total = 0;
    bool write = false;
    for (unsigned i = 0; i < head->segments; i++) {
        struct virtqueue_segment seg;
        inflight_segment(data + i * (size_t)INFLIGHT_SEGMENT, &seg);
        total += seg.len;
        if (!seg.len || (write && !seg.write) || total > UINT32_MAX)
            return false;
        write = seg.write;
    }
    return head->segments <= VIRTQUEUE_MAX_SEGMENTS && head->slots > 0 &&
           head->slots <= VIRTQUEUE_MAX_SIZE;
}

int virtqueue_inflight_check(const uint8_t *data, size_t len, unsigned queues, uint32_t *slots,
                             uint32_t *elems, struct err *err)
{
    struct inflight_head head;
    for (size_t at = 0; at < len; at += INFLIGHT_HEAD + INFLIGHT_SEGMENT * (size_t)head.segments) {
        if (!inflight_head(data, len, at, &head) || head.queue >= queues ||
            !inflight_possible(data + at + INFLIGHT_HEAD, &head))
            return err_set(err, EINVAL, "requests in flight are damaged");
        slots[head.queue] += head.slots;
        elems[head.queue]++;
        if (slots[head.queue] > VIRTQUEUE_MAX_SIZE)
            return err_set(err, EINVAL, "more requests in flight than a ring has entries");
    }
    return 0;
}

void virtqueue_inflight_load(struct virtqueue *vq, const uint8_t *data, size_t len)
{
    struct inflight_head head;
    for (size_t at = 0; at < len && inflight_head(data, len, at, &head);
         at += INFLIGHT_HEAD + INFLIGHT_SEGMENT * (size_t)head.segments) {
        if (head.queue != vq->index)
            continue;
        struct virtqueue_elem *elem = elem_get(vq);
        elem->id = head.id;
        elem->slots = head.slots;
        for (unsigned i = 0; i < head.segments; i++) {
            struct virtqueue_segment seg;
            inflight_segment(data + at + INFLIGHT_HEAD + i * (size_t)INFLIGHT_SEGMENT, &seg);
            elem_add(elem, seg.gpa, seg.len, seg.write);
        }
        elem_link(elem);
    }
}

static int virtqueue_check(const void *state, struct err *err)
{
    const struct virtqueue_regs *r = state;
    if (r->size > VIRTQUEUE_MAX_SIZE)
        return err_set(err, EINVAL, "a virtqueue of %u entries", r->size);
    if (r->enabled > 1 || r->avail_wrap > 1 || r->used_wrap > 1 || r->reset_pending > 1)
        return err_set(err, EINVAL, "a virtqueue flag that is neither 0 nor 1");
    return 0;
}

static const struct state_field virtqueue_fields[] = {
    STATE_U64(struct virtqueue_regs, desc),         STATE_U64(struct virtqueue_regs, driver),
    STATE_U64(struct virtqueue_regs, device),       STATE_U32(struct virtqueue_regs, size),
    STATE_U32(struct virtqueue_regs, vector),       STATE_U8(struct virtqueue_regs, enabled),
    STATE_U8(struct virtqueue_regs, avail_wrap),    STATE_U8(struct virtqueue_regs, used_wrap),
    STATE_U8(struct virtqueue_regs, reset_pending), STATE_U16(struct virtqueue_regs, avail_idx),
    STATE_U16(struct virtqueue_regs, used_idx),     STATE_END,
};
const struct state_desc virtqueue_state = {
    .name = "virtqueue",
    .version = 1,
    .size = sizeof(struct virtqueue_regs),
    .fields = virtqueue_fields,
    .check = virtqueue_check,
};
