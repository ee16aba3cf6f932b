/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Access by guest-physical address: the vCPUs' bus, the host's checked copies, and doorbells. */
#include "base/checked.h"
#include "machine/priv.h"

#include <string.h>

/* ---- doorbells: a sorted array that is replaced as a whole ---- */

struct doorbell {
    uint64_t addr;
    enum space space; /* SPACE_MEMORY or SPACE_IO */
    unsigned size;    /* 0: any */
    int eventfd;
    bool engine; /* the engine serves it, too */
};
struct doorbells {
    unsigned count;
    struct doorbell bells[];
};

/* SMM sees the same doorbells as the rest of the world. */
static enum space doorbell_space(enum space space)
{
    return space == SPACE_SMM ? SPACE_MEMORY : space;
}

/* Index of the first doorbell at or behind (space, addr). */
static unsigned doorbells_find(const struct doorbells *bells, enum space space, uint64_t addr)
{
    unsigned low = 0, high = bells->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        const struct doorbell *bell = &bells->bells[middle];
        if (bell->space < space || (bell->space == space && bell->addr < addr))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool doorbell_ring(struct machine *m, enum space space, uint64_t addr, unsigned size)
{
    struct address_map *map = &m->priv->map;
    bool rang = false;
    unsigned token = gate_enter(&map->ringers);
    const struct doorbells *bells = map->doorbells;
    space = doorbell_space(space);
    for (unsigned i = doorbells_find(bells, space, addr); i < bells->count && !rang; i++) {
        const struct doorbell *bell = &bells->bells[i];
        if (bell->space != space || bell->addr != addr)
            break;
        if (bell->size && bell->size != size)
            continue;
        uint64_t one = 1;
        /* Fails only when the counter is full, and then it has been rung. */
        ssize_t n = write(bell->eventfd, &one, sizeof one);
        (void)n;
        rang = true;
    }
    gate_leave(&map->ringers, token);
    return rang;
}

static struct doorbells *doorbells_alloc(unsigned count)
{
    struct doorbells *bells = malloc(sizeof *bells + count * sizeof bells->bells[0]);
    if (!bells)
        abort();
    bells->count = count;
    return bells;
}

int doorbell_add(struct machine *m, enum space space, uint64_t addr, unsigned size, int eventfd,
                 struct err *err)
{
    struct address_map *map = &m->priv->map;
    space = doorbell_space(space);
    LOCKED(&map->lock);
    const struct doorbells *old = map->doorbells;
    unsigned at = doorbells_find(old, space, addr);
    for (unsigned i = at;
         i < old->count && old->bells[i].space == space && old->bells[i].addr == addr; i++)
        if (!size || !old->bells[i].size || old->bells[i].size == size)
            return err_set(err, EEXIST, "there is a doorbell at %#llx already",
                           (unsigned long long)addr);

    const struct engine_type *type = m->engine ? m->engine->type : NULL;
    struct doorbell bell = { .addr = addr, .space = space, .size = size, .eventfd = eventfd };
    bell.engine =
        type && type->doorbell && type->doorbell(m->engine, space, addr, size, eventfd, true) == 0;

    struct doorbells *bells = doorbells_alloc(old->count + 1);
    memcpy(bells->bells, old->bells, at * sizeof bell);
    bells->bells[at] = bell;
    memcpy(&bells->bells[at + 1], &old->bells[at], (old->count - at) * sizeof bell);
    gate_retire(&map->ringers, atomic_exchange(&map->doorbells, bells));
    return 0;
}

void doorbell_remove(struct machine *m, enum space space, uint64_t addr, int eventfd)
{
    struct address_map *map = &m->priv->map;
    space = doorbell_space(space);
    LOCKED(&map->lock);
    const struct doorbells *old = map->doorbells;
    unsigned at = doorbells_find(old, space, addr);
    while (at < old->count && old->bells[at].space == space && old->bells[at].addr == addr &&
           old->bells[at].eventfd != eventfd)
        at++;
    if (at == old->count || old->bells[at].space != space || old->bells[at].addr != addr)
        return;

    const struct doorbell *bell = &old->bells[at];
    if (bell->engine)
        m->engine->type->doorbell(m->engine, space, addr, bell->size, eventfd, false);
    struct doorbells *bells = doorbells_alloc(old->count - 1);
    memcpy(bells->bells, old->bells, at * sizeof *bell);
    memcpy(&bells->bells[at], &old->bells[at + 1], (old->count - at - 1) * sizeof *bell);
    gate_retire(&map->ringers, atomic_exchange(&map->doorbells, bells));
    /* The caller may close the eventfd as soon as we return, and its number be used again. */
    gate_wait(&map->ringers);
}

void doorbells_init(struct machine *m)
{
    gate_init(&m->priv->map.ringers);
    m->priv->map.doorbells = doorbells_alloc(0);
}

void doorbells_fini(struct machine *m)
{
    free(m->priv->map.doorbells);
    gate_fini(&m->priv->map.ringers);
}

/* ---- the bus ---- */

static uint64_t ones(unsigned size) { return size >= 8 ? ~0ull : (1ull << 8 * size) - 1; }

/* A host write and its mark form one section of the dirty log's writers, see dirty.c. */
static int host_store(struct machine *m, struct ram *ram, uint64_t offset, const void *data,
                      uint64_t len)
{
    struct gate *writers = &m->priv->dirty.writers;
    unsigned token = gate_enter(writers);
    int r = copy_to_hva(ram->hva + offset, data, len);
    ram_written(m, ram, offset, len); /* a failed copy may have written its beginning */
    gate_leave(writers, token);
    return r;
}

static uint64_t section_read(const struct section *s, uint64_t addr, unsigned size)
{
    uint64_t skip = addr - s->start, value = 0;
    if (s->kind == REGION_DEVICE)
        return device_read(s->dev, s->region, s->dev_offset + skip, size);
    if (copy_from_hva(&value, s->ram->hva + s->ram_offset + skip, size) < 0)
        return ones(size);
    return value;
}

static void section_write(struct machine *m, const struct section *s, uint64_t addr, unsigned size,
                          uint64_t value)
{
    uint64_t skip = addr - s->start;
    switch (s->kind) {
    case REGION_RAM: host_store(m, s->ram, s->ram_offset + skip, &value, size); break;
    case REGION_ROM: break;
    case REGION_ROM_TRAP:
    case REGION_DEVICE: device_write(s->dev, s->region, s->dev_offset + skip, size, value); break;
    }
}

/* The part of an access at `addr` that one section, or the hole there, answers: a power of two of
 * at most `size` bytes. */
static unsigned access_piece(bool mapped, const struct section *s, uint64_t addr, unsigned size)
{
    uint64_t room = mapped ? s->size - (addr - s->start) : 1;
    while (size > room)
        size /= 2;
    return size;
}

uint64_t bus_read(struct machine *m, enum space space, uint64_t addr, unsigned size)
{
    struct section s;
    bool mapped = map_lookup(m, space, addr, &s);
    if (likely(mapped && s.size - (addr - s.start) >= size))
        return section_read(&s, addr, size);

    uint64_t value = 0;
    for (unsigned done = 0; done < size;) {
        if (done)
            mapped = map_lookup(m, space, addr + done, &s);
        unsigned left = size - done;
        unsigned piece = access_piece(mapped, &s, addr + done, left & -left);
        value |= (mapped ? section_read(&s, addr + done, piece) : ones(piece)) << 8 * done;
        done += piece;
    }
    return value;
}

void bus_write(struct machine *m, enum space space, uint64_t addr, unsigned size, uint64_t value)
{
    if (doorbell_ring(m, space, addr, size))
        return;
    struct section s;
    bool mapped = map_lookup(m, space, addr, &s);
    if (likely(mapped && s.size - (addr - s.start) >= size)) {
        section_write(m, &s, addr, size, value);
        return;
    }
    for (unsigned done = 0; done < size;) {
        if (done)
            mapped = map_lookup(m, space, addr + done, &s);
        unsigned left = size - done;
        unsigned piece = access_piece(mapped, &s, addr + done, left & -left);
        if (mapped)
            section_write(m, &s, addr + done, piece, value >> 8 * done & ones(piece));
        done += piece;
    }
}

/* ---- the host's copies ---- */

enum host_access { HOST_READ, HOST_WRITE, HOST_LOAD };

static bool host_may(const struct section *s, enum host_access access)
{
    switch (s->kind) {
    case REGION_RAM: return true;
    case REGION_ROM:
    case REGION_ROM_TRAP: return access != HOST_WRITE;
    case REGION_DEVICE: return false;
    }
    return false;
}

static int host_copy(struct machine *m, uint64_t gpa, void *data, uint64_t len,
                     enum host_access access)
{
    uint64_t end;
    if (!add_u64(gpa, len, &end))
        return -EFAULT;
    uint8_t *at = data;
    while (len) {
        struct section s;
        if (!map_lookup(m, SPACE_MEMORY, gpa, &s) || !host_may(&s, access))
            return -EFAULT;
        uint64_t skip = gpa - s.start, piece = s.size - skip < len ? s.size - skip : len;
        uint64_t offset = s.ram_offset + skip;
        int r = access == HOST_READ ? copy_from_hva(at, s.ram->hva + offset, piece)
                                    : host_store(m, s.ram, offset, at, piece);
        if (r < 0)
            return r;
        gpa += piece;
        at += piece;
        len -= piece;
    }
    return 0;
}

int mem_read(struct machine *m, uint64_t gpa, void *out, uint64_t len)
{
    return host_copy(m, gpa, out, len, HOST_READ);
}

int mem_write(struct machine *m, uint64_t gpa, const void *data, uint64_t len)
{
    return host_copy(m, gpa, (void *)(uintptr_t)data, len, HOST_WRITE);
}

int mem_load(struct machine *m, uint64_t gpa, const void *data, uint64_t len)
{
    return host_copy(m, gpa, (void *)(uintptr_t)data, len, HOST_LOAD);
}
