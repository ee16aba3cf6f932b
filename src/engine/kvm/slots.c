/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory slots, doorbells and the dirty log.
 *
 *  1. Slots are cut at fixed places below 1 MiB (the granules of a chipset's shadow RAM), so that
 *     remapping those never touches the slot of main memory. KVM can change a slot only by removing
 *     it first; a vCPU that runs into the gap exits, and the bus serves its access or it is entered
 *     again (slots_generation).
 *  2. A slot that goes while the log is on leaves all its pages marked: KVM drops its bitmap, and
 *     what its ring entries mean is no longer known.
 *  3. With rings: vCPUs are brought out first, so that what the CPU has logged on its own (PML) is
 * in the ring; then the entries are taken; then KVM write-protects those pages again and makes
 * every vCPU forget its translations before the ioctl returns. A write that comes in between is
 * either in this round's bitmap or in the ring of the next.
 *  4. Without rings the same holds for KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG.
 */
#include "engine/kvm/kvm.h"

#include "base/log.h"

#include <string.h>
#include <sys/mman.h>

#define SLOT_SIZE_MAX ((uint64_t)1 << 40) /* KVM takes fewer than 2^31 pages */

/* ---- which slots there should be ---- */

struct slot_list {
    struct kvm_slot slots[KVM_SLOTS_MAX];
    unsigned count, max;
    bool overflow;
};

static bool slot_continues(const struct kvm_slot *slot, const struct section *s, bool readonly)
{
    return slot->ram == s->ram && slot->readonly == readonly &&
           slot->gpa + slot->size == s->start && slot->ram_offset + slot->size == s->ram_offset;
}

static void list_add(struct slot_list *list, const struct kvm_slot *slot)
{
    if (list->count == list->max)
        list->overflow = true;
    else
        list->slots[list->count++] = *slot;
}

static void list_section(void *arg, const struct section *s)
{
    struct slot_list *list = arg;
    if (s->kind == REGION_DEVICE)
        return;
    bool readonly = s->kind != REGION_RAM;
    struct kvm_slot *last = list->count ? &list->slots[list->count - 1] : NULL;
    if (last && slot_continues(last, s, readonly))
        last->size += s->size;
    else
        list_add(list, &(struct kvm_slot){ s->start, s->size, s->ram, s->ram_offset, readonly });
}

/* How far from gpa to the next place where slots are cut? (1) */
static uint64_t cut_distance(uint64_t gpa)
{
    enum { LOW = 0xa0000, SHADOW = 0xc0000, GRANULE = 0x4000, HIGH = 0x100000 };
    if (gpa < LOW)
        return LOW - gpa;
    if (gpa < SHADOW)
        return SHADOW - gpa;
    if (gpa < HIGH)
        return GRANULE - gpa % GRANULE;
    return SLOT_SIZE_MAX - gpa % SLOT_SIZE_MAX;
}

static void list_cut(const struct slot_list *whole, struct slot_list *out)
{
    for (unsigned i = 0; i < whole->count; i++) {
        struct kvm_slot rest = whole->slots[i];
        while (rest.size) {
            struct kvm_slot piece = rest;
            uint64_t room = cut_distance(rest.gpa);
            piece.size = room < rest.size ? room : rest.size;
            list_add(out, &piece);
            rest.gpa += piece.size;
            rest.ram_offset += piece.size;
            rest.size -= piece.size;
        }
    }
}

/* ---- telling KVM ---- */

static int slot_set(struct kvm_engine *e, unsigned id, const struct kvm_slot *slot, bool present)
{
    struct kvm_userspace_memory_region region = {
        .slot = id,
        .flags = (slot->readonly ? KVM_MEM_READONLY : 0) |
                 (e->logging && !slot->readonly ? KVM_MEM_LOG_DIRTY_PAGES : 0),
        .guest_phys_addr = slot->gpa,
        .memory_size = present ? slot->size : 0,
        .userspace_addr = (uint64_t)(uintptr_t)(slot->ram->hva + slot->ram_offset),
    };
    return ioctl(e->fd, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : 0;
}

static void pages_mark(struct ram *ram, uint64_t first, uint64_t count)
{
    for (uint64_t page = first; page < first + count; page++)
        atomic_fetch_or(&ram->page_flags[page], RAM_PAGE_DIRTY);
}

static void slot_drop(struct kvm_engine *e, unsigned id)
{
    struct kvm_slot *slot = &e->slots[id];
    int r = slot_set(e, id, slot, false);
    if (r < 0)
        log_error("kvm: slot %u stays: %s", id, strerror(-r));
    if (e->logging && !slot->readonly) /* 2 */
        pages_mark(slot->ram, slot->ram_offset >> PAGE_SHIFT, slot->size >> PAGE_SHIFT);
    *slot = (struct kvm_slot){ 0 };
}

static void slot_place(struct kvm_engine *e, const struct kvm_slot *slot)
{
    unsigned id = 0;
    while (id < e->slots_max && e->slots[id].ram)
        id++;
    int r = id == e->slots_max ? -ENOSPC : slot_set(e, id, slot, true);
    if (r < 0) {
        /* The guest still reaches this memory, one access at a time through the bus. */
        log_error("kvm: no slot for %#llx bytes at %#llx: %s", (unsigned long long)slot->size,
                  (unsigned long long)slot->gpa, strerror(-r));
        return;
    }
    e->slots[id] = *slot;
}

static bool slot_same(const struct kvm_slot *a, const struct kvm_slot *b)
{
    return a->gpa == b->gpa && a->size == b->size && a->ram == b->ram &&
           a->ram_offset == b->ram_offset && a->readonly == b->readonly;
}

void slots_changed(struct engine *engine)
{
    struct kvm_engine *e = kvm_engine_of(engine);
    AUTO(free) struct slot_list *whole = calloc(2, sizeof *whole);
    if (!whole)
        abort();
    struct slot_list *want = whole + 1;
    whole->max = KVM_SLOTS_MAX;
    want->max = e->slots_max;

    /* Under the lock, or a later view could be overtaken by an earlier one. */
    LOCKED(&e->slots_lock);
    map_walk(engine->machine, SPACE_MEMORY, list_section, whole);
    list_cut(whole, want);
    if (whole->overflow || want->overflow)
        log_error("kvm: the guest's address map has more pieces than KVM has slots");

    bool present[KVM_SLOTS_MAX] = { 0 };
    bool changes = false;
    for (unsigned id = 0; id < e->slots_max; id++) {
        if (!e->slots[id].ram)
            continue;
        unsigned i = 0;
        while (i < want->count && !slot_same(&want->slots[i], &e->slots[id]))
            i++;
        if (i < want->count) {
            present[i] = true;
            continue;
        }
        if (!changes)
            atomic_fetch_add(&e->slots_generation, 1);
        changes = true;
        slot_drop(e, id);
    }
    for (unsigned i = 0; i < want->count; i++)
        if (!present[i])
            slot_place(e, &want->slots[i]);
    if (changes)
        atomic_fetch_add(&e->slots_generation, 1);
}

/* ---- the dirty rings ---- */

int ring_map(struct kvm_engine *e, struct kvm_vcpu *v, struct err *err)
{
    if (!e->has_ring)
        return 0;
    void *ring = mmap(NULL, KVM_RING_ENTRIES * sizeof *v->ring, PROT_READ | PROT_WRITE, MAP_SHARED,
                      v->fd, KVM_DIRTY_LOG_PAGE_OFFSET * (off_t)PAGE_SIZE);
    if (ring == MAP_FAILED)
        return err_errno(err, errno, "cannot map the dirty ring");
    v->ring = ring;
    return 0;
}

void ring_unmap(struct kvm_vcpu *v)
{
    if (v->ring)
        munmap(v->ring, KVM_RING_ENTRIES * sizeof *v->ring);
    v->ring = NULL;
}

static void ring_entry(struct kvm_engine *e, uint32_t id, uint64_t offset, struct ram *ram,
                       uint64_t *bitmap)
{
    if (id >= e->slots_max)
        return;
    const struct kvm_slot *slot = &e->slots[id];
    if (!slot->ram || offset >= slot->size >> PAGE_SHIFT)
        return; /* of a slot that is gone (2) */
    uint64_t page = (slot->ram_offset >> PAGE_SHIFT) + offset;
    if (slot->ram == ram)
        bitmap[page / 64] |= 1ull << page % 64;
    else
        pages_mark(slot->ram, page, 1);
}

/* Takes all entries; those of `ram` go to bitmap, the rest to their page flags. */
static void rings_take(struct kvm_engine *e, struct ram *ram, uint64_t *bitmap)
{
    unsigned taken = 0;
    for (unsigned i = 0; i < e->vcpu_count; i++) {
        struct kvm_vcpu *v = e->vcpus[i];
        for (;;) {
            struct kvm_dirty_gfn *entry = &v->ring[v->ring_next % KVM_RING_ENTRIES];
            if (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
                break;
            ring_entry(e, entry->slot & 0xffff, entry->offset, ram, bitmap);
            __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
            v->ring_next++;
            taken++;
        }
    }
    if (taken && ioctl(e->fd, KVM_RESET_DIRTY_RINGS, 0) < 0)
        log_error("kvm: cannot reset the dirty rings: %s", strerror(errno));
}

void slots_ring_full(struct kvm_engine *e)
{
    LOCKED(&e->slots_lock);
    rings_take(e, NULL, NULL);
}

/* ---- the dirty bitmaps ---- */

static void bitmap_merge(uint64_t *to, uint64_t first, const uint64_t *from, uint64_t pages)
{
    for (uint64_t i = 0; i < (pages + 63) / 64; i++) {
        uint64_t word = from[i];
        if (!word)
            continue;
        uint64_t at = first + i * 64, shift = at % 64;
        to[at / 64] |= word << shift;
        if (shift && word >> (64 - shift))
            to[at / 64 + 1] |= word >> (64 - shift);
    }
}

/* KVM takes and gives whole words; bits behind the end are not ours. */
static int slot_bitmap_take(struct kvm_engine *e, unsigned id, uint64_t *bitmap)
{
    const struct kvm_slot *slot = &e->slots[id];
    uint64_t pages = slot->size >> PAGE_SHIFT;
    AUTO(free) uint64_t *dirty = calloc((pages + 63) / 64, sizeof *dirty);
    if (!dirty)
        return -ENOMEM;
    struct kvm_dirty_log get = { .slot = id, .dirty_bitmap = dirty };
    if (ioctl(e->fd, KVM_GET_DIRTY_LOG, &get) < 0)
        return -errno;
    if (pages % 64)
        dirty[pages / 64] &= (1ull << pages % 64) - 1;
    bitmap_merge(bitmap, slot->ram_offset >> PAGE_SHIFT, dirty, pages);
    struct kvm_clear_dirty_log clear = { .slot = id,
                                         .num_pages = (uint32_t)pages,
                                         .dirty_bitmap = dirty };
    return ioctl(e->fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0 ? -errno : 0;
}

static void bitmaps_take(struct kvm_engine *e, struct ram *ram, uint64_t *bitmap)
{
    for (unsigned id = 0; id < e->slots_max; id++) {
        const struct kvm_slot *slot = &e->slots[id];
        if (slot->ram != ram || slot->readonly)
            continue;
        int r = slot_bitmap_take(e, id, bitmap);
        if (r == 0)
            continue;
        /* Too many pages are right; too few never are. */
        log_error("kvm: no dirty log of slot %u: %s", id, strerror(-r));
        uint64_t first = slot->ram_offset >> PAGE_SHIFT;
        for (uint64_t page = first; page < first + (slot->size >> PAGE_SHIFT); page++)
            bitmap[page / 64] |= 1ull << page % 64;
    }
}

/* ---- the dirty log ---- */

static void nothing(void *arg) { (void)arg; }

void slots_dirty_sync(struct engine *engine, struct ram *ram, uint64_t *bitmap)
{
    struct kvm_engine *e = kvm_engine_of(engine);
    if (e->has_ring)
        kvm_rendezvous(engine, nothing, NULL); /* 3 */
    LOCKED(&e->slots_lock);
    if (!e->logging)
        return;
    if (e->has_ring)
        rings_take(e, ram, bitmap);
    else
        bitmaps_take(e, ram, bitmap);
}

static int slots_log(struct kvm_engine *e, bool on)
{
    e->logging = on;
    int worst = 0;
    for (unsigned id = 0; id < e->slots_max; id++) {
        if (!e->slots[id].ram || e->slots[id].readonly)
            continue;
        int r = slot_set(e, id, &e->slots[id], true);
        worst = r < 0 ? r : worst;
    }
    return worst;
}

int slots_dirty_log(struct engine *engine, bool on, struct err *err)
{
    struct kvm_engine *e = kvm_engine_of(engine);
    LOCKED(&e->slots_lock);
    int r = slots_log(e, on);
    if (r < 0 && on) {
        slots_log(e, false);
        return err_errno(err, -r, "KVM cannot log the guest's writes");
    }
    if (!on && e->has_ring)
        rings_take(e, NULL, NULL); /* so that none is full of what nobody asks for */
    return 0;
}

/* ---- doorbells ---- */

int slots_doorbell(struct engine *engine, enum space space, uint64_t addr, unsigned size,
                   int eventfd, bool add)
{
    struct kvm_engine *e = kvm_engine_of(engine);
    if (!size && !e->any_length_doorbell)
        return -ENOTSUP;
    struct kvm_ioeventfd bell = {
        .addr = addr,
        .len = size,
        .fd = eventfd,
        .flags = (space == SPACE_IO ? KVM_IOEVENTFD_FLAG_PIO : 0) |
                 (add ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };
    return ioctl(e->fd, KVM_IOEVENTFD, &bell) < 0 ? -errno : 0;
}

void slots_init(struct kvm_engine *e) { pthread_mutex_init(&e->slots_lock, NULL); }

void slots_fini(struct kvm_engine *e) { pthread_mutex_destroy(&e->slots_lock); }
