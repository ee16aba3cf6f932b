/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Test only; see guest_model.h. Asserts are the tests' own: a failed one ends the test program. */
#include "devices/virtio/guest_model.h"

#include "base/checked.h"
#include "devices/pci.h"

#include <assert.h>
#include <endian.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <unistd.h>

/* ---- An engine that runs nothing ---- */

struct still_vcpu {
    struct vcpu vcpu;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool kicked; /* lock */
};
struct still_engine {
    struct engine engine;
    struct guest *guest;
};
static __thread struct guest *creating;

static int still_create(struct machine *m, const struct engine_config *config, struct engine **out,
                        struct err *err)
{
    struct still_engine *e = calloc(1, sizeof *e);
    extern const struct engine_type still_type;
    assert(e);
    e->engine = (struct engine){ .type = &still_type, .machine = m };
    e->guest = creating;
    *out = &e->engine;
    return 0;
}
static int still_dirty_log(struct engine *e, bool on, struct err *err) { return 0; }
static void still_destroy(struct engine *e) { free(e); }

static int still_vcpu_create(struct engine *e, unsigned index, uint32_t apic_id, struct vcpu **out,
                             struct err *err)
{
    struct still_vcpu *v = calloc(1, sizeof *v);
    assert(v);
    v->vcpu = (struct vcpu){ .engine = e, .index = index, .apic_id = apic_id };
    pthread_mutex_init(&v->lock, NULL);
    pthread_cond_init(&v->cond, NULL);
    *out = &v->vcpu;
    return 0;
}
static void still_vcpu_destroy(struct vcpu *vcpu) { free(vcpu); }
static void still_vcpu_reset(struct vcpu *vcpu) { (void)vcpu; }

static enum vcpu_exit still_run(struct vcpu *vcpu, struct err *err)
{
    struct still_vcpu *v = (struct still_vcpu *)vcpu;
    LOCKED(&v->lock);
    while (!v->kicked)
        pthread_cond_wait(&v->cond, &v->lock);
    v->kicked = false;
    return VCPU_STOPPED;
}
static void still_kick(struct vcpu *vcpu)
{
    struct still_vcpu *v = (struct still_vcpu *)vcpu;
    LOCKED(&v->lock);
    v->kicked = true;
    pthread_cond_signal(&v->cond);
}
static void still_msi(struct engine *e, uint64_t address, uint32_t data)
{
    struct guest *g = ((struct still_engine *)e)->guest;
    g->msi[data % GUEST_VECTORS]++;
}
static void still_extint(struct engine *e, bool level) { (void)e, (void)level; }
static void still_map_changed(struct engine *e) { (void)e; }
static void still_invalidate(struct engine *e, struct ram *ram, uint64_t offset, uint64_t len)
{
    (void)e, (void)ram, (void)offset, (void)len;
}

extern const struct engine_type still_type;
const struct engine_type still_type = {
    .name = "still",
    .about = "runs nothing; for tests of devices",
    .create = still_create,
    .destroy = still_destroy,
    .vcpu_create = still_vcpu_create,
    .vcpu_destroy = still_vcpu_destroy,
    .vcpu_reset = still_vcpu_reset,
    .run = still_run,
    .kick = still_kick,
    .msi = still_msi,
    .extint = still_extint,
    .map_changed = still_map_changed,
    .invalidate = still_invalidate,
    .dirty_log = still_dirty_log,
};

/* ---- The machine ---- */

static void guest_event(void *arg, enum machine_event event, unsigned vcpu, const char *detail)
{
    struct guest *g = arg;
    g->events[event]++;
}

void guest_init(struct guest *g, bool with_engine)
{
    struct err err = { 0 };
    struct mapping *mapping;
    memset(g, 0, sizeof *g);
    int r = loop_create(&g->loop, &err);
    assert(r == 0);
    struct machine_config config = { .engine = with_engine ? &still_type : NULL,
                                     .engine_config = { .max_vcpus = 1 },
                                     .cpus = with_engine ? 1 : 0,
                                     .memory = GUEST_MEMORY,
                                     .loop = g->loop,
                                     .on_event = guest_event,
                                     .arg = g };
    creating = g;
    r = machine_create(&config, &g->m, &err);
    assert(r == 0);
    r = map_ram(g->m, SPACE_MEMORY, 0, GUEST_MEMORY, REGION_RAM, g->m->main_ram, 0, 0, &mapping,
                &err);
    assert(r == 0);
    r = pci_bus_create(&g->bus, &err);
    assert(r == 0);
    g->next_page = PAGE_SIZE;
}

void guest_fini(struct guest *g)
{
    machine_destroy(g->m);
    pci_bus_destroy(g->bus);
    loop_destroy(g->loop);
}

uint64_t guest_alloc(struct guest *g, uint64_t len)
{
    uint64_t at = g->next_page;
    g->next_page += round_up(len, PAGE_SIZE);
    assert(g->next_page <= GUEST_MEMORY);
    return at;
}

void guest_write(struct guest *g, uint64_t gpa, const void *data, uint64_t len)
{
    int r = mem_write(g->m, gpa, data, len);
    assert(r == 0);
}

void guest_read(struct guest *g, uint64_t gpa, void *out, uint64_t len)
{
    int r = mem_read(g->m, gpa, out, len);
    assert(r == 0);
}

static void loop_end(void *arg) { loop_stop(arg, 0); }

void guest_run_loop(struct guest *g)
{
    loop_post(g->loop, loop_end, g->loop);
    loop_run(g->loop);
}

/* ---- Rings ---- */

enum { VIRTQ_MAX = 1024 };

static uint16_t read16(struct guest *g, uint64_t gpa)
{
    uint16_t v;
    guest_read(g, gpa, &v, 2);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return le16toh(v);
}
static void write16(struct guest *g, uint64_t gpa, uint16_t v)
{
    v = htole16(v);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    guest_write(g, gpa, &v, 2);
}

void gq_init(struct gq *q, struct guest *g, unsigned flags, unsigned size)
{
    memset(q, 0, sizeof *q);
    q->g = g;
    q->flags = flags;
    q->size = size;
    q->desc = guest_alloc(g, size * 16ull);
    q->driver = guest_alloc(g, 8 + 2ull * size);
    q->device = guest_alloc(g, 8 + 8ull * size);
    static const uint8_t zeros[VIRTQ_MAX * 16];
    guest_write(g, q->desc, zeros, size * 16ull); /* the memory may have been used before */
    guest_write(g, q->driver, zeros, 8 + 2ull * size);
    guest_write(g, q->device, zeros, 8 + 8ull * size);
    if (flags & GQ_INDIRECT)
        q->tables = guest_alloc(g, size * PAGE_SIZE);
    q->avail_wrap = q->used_wrap = true;
    q->free_count = (uint16_t)size;
    for (unsigned i = 0; i < size; i++)
        q->next[i] = (uint16_t)(i + 1);
}

static void desc_write(struct gq *q, uint64_t at, const struct gq_buf *b, uint16_t flags,
                       uint16_t next)
{
    struct vring_desc d = { .addr = htole64(b->gpa),
                            .len = htole32(b->len),
                            .flags = htole16((uint16_t)(flags | (b->write ? 2 : 0))),
                            .next = htole16(next) };
    guest_write(q->g, at, &d, sizeof d);
}

/* The table of an indirect descriptor, which replaces the chain. */
static struct gq_buf indirect_table(struct gq *q, unsigned id, const struct gq_buf *bufs,
                                    unsigned count)
{
    uint64_t table = q->tables + id * PAGE_SIZE;
    assert(count <= PAGE_SIZE / 16);
    for (unsigned i = 0; i < count; i++) {
        if (q->flags & GQ_PACKED) {
            struct vring_packed_desc d = { .addr = htole64(bufs[i].gpa),
                                           .len = htole32(bufs[i].len),
                                           .flags = htole16(bufs[i].write ? 2 : 0) };
            guest_write(q->g, table + i * 16, &d, sizeof d);
        } else {
            desc_write(q, table + i * 16, &bufs[i], i + 1 < count ? 1 : 0, (uint16_t)(i + 1));
        }
    }
    return (struct gq_buf){ .gpa = table, .len = count * 16 };
}

static int split_add(struct gq *q, const struct gq_buf *bufs, unsigned count, bool indirect)
{
    uint16_t head = q->free_head, at = head;
    for (unsigned i = 0; i < count; i++) {
        uint16_t next = q->next[at];
        desc_write(q, q->desc + at * 16ull, &bufs[i], indirect ? 4 : i + 1 < count ? 1 : 0, next);
        at = next;
    }
    q->free_head = at;
    write16(q->g, q->driver + 4 + 2 * (q->avail_idx % q->size), head);
    write16(q->g, q->driver + 2, ++q->avail_idx);
    return head;
}

static int packed_add(struct gq *q, const struct gq_buf *bufs, unsigned count, bool indirect)
{
    uint16_t id = q->free_head, first = q->avail_idx, first_flags = 0;
    q->free_head = q->next[id]; /* an id a buffer */
    for (unsigned i = 0; i < count; i++) {
        uint16_t flags = (uint16_t)((q->avail_wrap ? 1 << 7 : 1 << 15) | (bufs[i].write ? 2 : 0) |
                                    (indirect        ? 4
                                     : i + 1 < count ? 1
                                                     : 0));
        struct vring_packed_desc d = { .addr = htole64(bufs[i].gpa),
                                       .len = htole32(bufs[i].len),
                                       .id = htole16(id) };
        uint64_t at = q->desc + q->avail_idx * 16ull;
        guest_write(q->g, at, &d, 14);
        if (i == 0)
            first_flags = flags;
        else
            write16(q->g, at + 14, flags);
        if (++q->avail_idx == q->size) {
            q->avail_idx = 0;
            q->avail_wrap = !q->avail_wrap;
        }
    }
    write16(q->g, q->desc + first * 16ull + 14, first_flags);
    return id;
}

int gq_add(struct gq *q, const struct gq_buf *bufs, unsigned count)
{
    struct gq_buf table;
    bool indirect = (q->flags & GQ_INDIRECT) && count > 1;
    if (q->free_count < (indirect ? 1 : count))
        return -1;
    if (indirect) {
        table = indirect_table(q, q->free_head, bufs, count);
        bufs = &table;
        count = 1;
    }
    int id = q->flags & GQ_PACKED ? packed_add(q, bufs, count, indirect)
                                  : split_add(q, bufs, count, indirect);
    q->slots[id] = (uint16_t)count;
    q->free_count = (uint16_t)(q->free_count - count);
    return id;
}

static bool crossed(uint16_t event, uint16_t now, uint16_t old)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

bool gq_wants_kick(struct gq *q, unsigned added)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!(q->flags & GQ_PACKED)) {
        if (q->flags & GQ_EVENT_IDX)
            return crossed(read16(q->g, q->device + 4 + 8 * q->size), q->avail_idx,
                           (uint16_t)(q->avail_idx - added));
        return !(read16(q->g, q->device) & 1);
    }
    uint16_t flags = read16(q->g, q->device + 2) & 3, off_wrap = read16(q->g, q->device);
    if (flags != 2)
        return flags == 0;
    uint16_t off = off_wrap & 0x7fff;
    if (!!(off_wrap >> 15) != q->avail_wrap)
        off = (uint16_t)(off - q->size);
    return crossed(off, q->avail_idx, (uint16_t)(q->avail_idx - added));
}

static int split_get(struct gq *q, uint32_t *len)
{
    struct vring_used_elem used;
    if (read16(q->g, q->device + 2) == q->used_idx)
        return -1;
    guest_read(q->g, q->device + 4 + 8ull * (q->used_idx % q->size), &used, sizeof used);
    q->used_idx++;
    *len = le32toh(used.len);
    int id = (int)le32toh(used.id);
    assert(id >= 0 && id < (int)q->size && q->slots[id]);
    uint16_t last = (uint16_t)id;
    for (unsigned i = 1; i < q->slots[id]; i++)
        last = q->next[last];
    q->next[last] = q->free_head;
    q->free_head = (uint16_t)id;
    return id;
}

static int packed_get(struct gq *q, uint32_t *len)
{
    struct vring_packed_desc d;
    uint64_t at = q->desc + q->used_idx * 16ull;
    uint16_t flags = read16(q->g, at + 14);
    if (!!(flags & 1 << 7) != q->used_wrap || !!(flags & 1 << 15) != q->used_wrap)
        return -1;
    guest_read(q->g, at, &d, sizeof d);
    *len = le32toh(d.len);
    uint16_t id = le16toh(d.id);
    assert(id < q->size && q->slots[id]);
    q->used_idx = (uint16_t)(q->used_idx + q->slots[id]);
    if (q->used_idx >= q->size) {
        q->used_idx = (uint16_t)(q->used_idx - q->size);
        q->used_wrap = !q->used_wrap;
    }
    q->next[id] = q->free_head;
    q->free_head = id;
    return id;
}

int gq_get(struct gq *q, uint32_t *len)
{
    int id = q->flags & GQ_PACKED ? packed_get(q, len) : split_get(q, len);
    if (id < 0)
        return -1;
    q->free_count = (uint16_t)(q->free_count + q->slots[id]);
    q->slots[id] = 0;
    return id;
}

void gq_interrupts(struct gq *q, bool on)
{
    if (q->flags & GQ_PACKED) {
        if (on && q->flags & GQ_EVENT_IDX) {
            write16(q->g, q->driver, (uint16_t)(q->used_idx | q->used_wrap << 15));
            write16(q->g, q->driver + 2, 2);
        } else {
            write16(q->g, q->driver + 2, on ? 0 : 1);
        }
    } else if (q->flags & GQ_EVENT_IDX) {
        write16(q->g, q->driver + 4 + 2 * q->size,
                on ? q->used_idx : (uint16_t)(q->used_idx + 0x8000));
    } else {
        write16(q->g, q->driver, on ? 0 : 1);
    }
}

/* ---- Devices ---- */

static const struct pci_windows windows = { .mem32 = 0xc0000000,
                                            .mem32_size = 0x10000000,
                                            .mem64 = 0x800000000,
                                            .mem64_size = 0x10000000,
                                            .io = 0xc000,
                                            .io_size = 0x1000 };

static uint32_t cfg(struct gdev *d, unsigned offset, unsigned size)
{
    return pci_config_read(d->g->bus, d->pci->devfn, offset, size);
}

static uint64_t bar_address(struct gdev *d, unsigned bar)
{
    uint64_t at = cfg(d, PCI_BAR0 + 4 * bar, 4);
    if ((at & 6) == 4)
        at |= (uint64_t)cfg(d, PCI_BAR0 + 4 * bar + 4, 4) << 32;
    return at & ~15ull;
}

static void msix_enable(struct gdev *d, unsigned cap)
{
    unsigned vectors = (cfg(d, cap + 2, 2) & 0x7ff) + 1;
    uint32_t where = cfg(d, cap + 4, 4);
    uint64_t table = bar_address(d, where & 7) + (where & ~7u);
    unsigned base = d->pci->devfn >> 3 << 5 & 0xff; /* a range of vectors a slot */
    for (unsigned i = 0; i < vectors; i++) {
        bus_write(d->g->m, SPACE_MEMORY, table + 16 * i, 4, 0xfee00000);
        bus_write(d->g->m, SPACE_MEMORY, table + 16 * i + 4, 4, 0);
        bus_write(d->g->m, SPACE_MEMORY, table + 16 * i + 8, 4, (base + i) & 0xff);
        bus_write(d->g->m, SPACE_MEMORY, table + 16 * i + 12, 4, 0);
    }
    pci_config_write(d->g->bus, d->pci->devfn, cap + 2, 2, 0x8000);
    d->msix = true;
}

void gdev_probe(struct gdev *d)
{
    struct err err = { 0 };
    int r = pci_bus_assign(d->g->bus, &windows, &err);
    assert(r == 0);
    for (unsigned cap = cfg(d, PCI_CAPABILITY_LIST, 1); cap; cap = cfg(d, cap + 1, 1)) {
        unsigned id = cfg(d, cap, 1);
        if (id == PCI_CAP_MSIX)
            msix_enable(d, cap);
        if (id != PCI_CAP_VENDOR)
            continue;
        uint64_t at = bar_address(d, cfg(d, cap + 4, 1)) + cfg(d, cap + 8, 4);
        switch (cfg(d, cap + 3, 1)) {
        case VIRTIO_PCI_CAP_COMMON_CFG: d->common = at; break;
        case VIRTIO_PCI_CAP_ISR_CFG: d->isr = at; break;
        case VIRTIO_PCI_CAP_DEVICE_CFG: d->config = at; break;
        case VIRTIO_PCI_CAP_NOTIFY_CFG:
            d->notify = at;
            d->notify_multiplier = cfg(d, cap + 16, 4);
            break;
        }
    }
    assert(d->common && d->isr && d->notify);
}

void gdev_add(struct gdev *d, struct guest *g, struct pci_device *take_pci)
{
    struct err err = { 0 };
    *d = (struct gdev){ .g = g, .pci = take_pci };
    int r = pci_bus_add(g->bus, take_pci, -1, &err);
    assert(r == 0);
    machine_add_device(g->m, &take_pci->dev);
    gdev_probe(d);
}

static void put(struct gdev *d, unsigned offset, unsigned size, uint64_t value)
{
    bus_write(d->g->m, SPACE_MEMORY, d->common + offset, size, value);
}
static uint64_t get(struct gdev *d, unsigned offset, unsigned size)
{
    return bus_read(d->g->m, SPACE_MEMORY, d->common + offset, size);
}

uint64_t gdev_features(struct gdev *d)
{
    put(d, VIRTIO_PCI_COMMON_DFSELECT, 4, 0);
    uint64_t features = get(d, VIRTIO_PCI_COMMON_DF, 4);
    put(d, VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
    return features | get(d, VIRTIO_PCI_COMMON_DF, 4) << 32;
}

uint8_t gdev_status(struct gdev *d) { return (uint8_t)get(d, VIRTIO_PCI_COMMON_STATUS, 1); }

void gdev_reset(struct gdev *d)
{
    put(d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
    for (unsigned i = 0; gdev_status(d); i++) {
        assert(i < 5000);
        usleep(1000);
    }
}

void gdev_negotiate(struct gdev *d, uint64_t features)
{
    gdev_reset(d);
    put(d, VIRTIO_PCI_COMMON_STATUS, 1, 1);
    put(d, VIRTIO_PCI_COMMON_STATUS, 1, 3);
    d->features = features | 1ull << VIRTIO_F_VERSION_1;
    put(d, VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
    put(d, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)d->features);
    put(d, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    put(d, VIRTIO_PCI_COMMON_GF, 4, d->features >> 32);
    put(d, VIRTIO_PCI_COMMON_STATUS, 1, 11);
    assert(gdev_status(d) == 11);
    put(d, VIRTIO_PCI_COMMON_MSIX, 2, 0);
}

static void put64(struct gdev *d, unsigned offset, uint64_t value)
{
    put(d, offset, 4, (uint32_t)value);
    put(d, offset + 4, 4, value >> 32);
}

void gdev_queue(struct gdev *d, struct gq *q, unsigned index, unsigned flags, unsigned size)
{
    if (!(d->features & 1ull << VIRTIO_F_RING_PACKED))
        flags &= ~(unsigned)GQ_PACKED;
    put(d, VIRTIO_PCI_COMMON_Q_SELECT, 2, index);
    uint64_t most = get(d, VIRTIO_PCI_COMMON_Q_SIZE, 2);
    gq_init(q, d->g, flags, size < most ? size : (unsigned)most);
    size = q->size;
    put(d, VIRTIO_PCI_COMMON_Q_SIZE, 2, size);
    put(d, VIRTIO_PCI_COMMON_Q_MSIX, 2, index + 1);
    put64(d, VIRTIO_PCI_COMMON_Q_DESCLO, q->desc);
    put64(d, VIRTIO_PCI_COMMON_Q_AVAILLO, q->driver);
    put64(d, VIRTIO_PCI_COMMON_Q_USEDLO, q->device);
    q->index = (uint16_t)index;
    q->notify = d->notify + get(d, VIRTIO_PCI_COMMON_Q_NOFF, 2) * d->notify_multiplier;
    put(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    assert(get(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2) == 1);
}

void gdev_driver_ok(struct gdev *d)
{
    put(d, VIRTIO_PCI_COMMON_STATUS, 1, 15);
    assert((gdev_status(d) & ~VIRTIO_CONFIG_S_NEEDS_RESET) == 15); /* bad rings fail at once */
}

void gdev_kick(struct gq *q) { bus_write(q->g->m, SPACE_MEMORY, q->notify, 2, q->index); }

static void nothing(void *arg) {}

int gq_wait(struct gq *q, uint32_t *len)
{
    for (unsigned i = 0; i < 5000; i++) {
        int id = gq_get(q, len);
        if (id >= 0) {
            /* The thread sanitizer does not know that a ring orders what lies around it. */
            loop_call(q->served ? q->served : q->g->m->io_loop, nothing, NULL);
            return id;
        }
        usleep(i < 50 ? 20 : 1000);
    }
    assert(!"no used buffer within 5 seconds");
    return -1;
}

uint64_t gdev_config(struct gdev *d, unsigned offset, unsigned size)
{
    return bus_read(d->g->m, SPACE_MEMORY, d->config + offset, size);
}

/* ---- State ---- */

void device_save(struct device *dev, struct buf *out)
{
    state_encode(dev->type->state, (uint8_t *)dev + dev->type->state->base, out);
}

int device_load(struct device *dev, const uint8_t *data, size_t len, struct err *err)
{
    const struct state_desc *desc = dev->type->state;
    void *scratch = calloc(1, desc->size);
    assert(scratch);
    int r = state_decode(desc, data, len, scratch, err);
    if (r == 0) {
        state_fini(desc, (uint8_t *)dev + desc->base);
        memcpy((uint8_t *)dev + desc->base, scratch, desc->size);
        r = dev->type->loaded(dev, err);
    }
    free(scratch);
    return r;
}

size_t device_uncovered(const struct device_type *type)
{
    uint8_t *covered = calloc(1, type->state->size);
    size_t missing = 0;
    assert(covered);
    state_coverage(type->state, covered);
    for (size_t i = 0; i < type->state->size; i++)
        missing += !covered[i];
    free(covered);
    return missing;
}
