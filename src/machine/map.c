/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The address map: placed regions with priorities, flattened into one sorted array per space.
 *
 *  1. A view never changes once published, and its sections are sorted, not empty and do not
 * overlap.
 *  2. Mappings change only under map.lock, and each change publishes the views that it touches
 * before it drops the lock. The engine hears of it behind the lock, since it may take locks of its
 * own.
 */
#include "base/checked.h"
#include "machine/priv.h"

#include <string.h>

#define MEMORY_END ((uint64_t)1 << 52) /* x86 has no more physical address bits */
enum { IO_END = 1 << 16 };

struct mapping {
    struct mapping *next;
    enum space space;
    int priority;
    struct section whole; /* as placed */
};

struct view {
    unsigned count;
    struct section sections[];
};

/* ---- flattening ---- */

static bool mapping_shows(const struct mapping *mapping, enum space space)
{
    return mapping->space == space || (space == SPACE_SMM && mapping->space == SPACE_MEMORY);
}

/* In SPACE_SMM what was placed there outranks everything of SPACE_MEMORY. */
static int64_t mapping_rank(const struct mapping *mapping)
{
    return mapping->priority + (mapping->space == SPACE_SMM ? (int64_t)1 << 32 : 0);
}

static int edge_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static const struct mapping *map_top(const struct address_map *map, enum space space, uint64_t addr)
{
    const struct mapping *top = NULL;
    for (const struct mapping *i = map->mappings; i; i = i->next)
        if (mapping_shows(i, space) && addr >= i->whole.start &&
            addr - i->whole.start < i->whole.size && (!top || mapping_rank(i) > mapping_rank(top)))
            top = i;
    return top;
}

static struct section section_cut(const struct section *whole, uint64_t start, uint64_t end)
{
    struct section s = *whole;
    uint64_t skip = start - whole->start;
    s.start = start;
    s.size = end - start;
    s.ram_offset += s.ram ? skip : 0;
    s.dev_offset += s.dev ? skip : 0;
    return s;
}

/* NULL when out of memory. */
static struct view *view_build(const struct address_map *map, enum space space)
{
    unsigned edges_max = 0;
    for (const struct mapping *i = map->mappings; i; i = i->next)
        edges_max += mapping_shows(i, space) ? 2 : 0;
    AUTO(free) uint64_t *edges = calloc(edges_max + 1, sizeof *edges);
    struct view *view = calloc(1, sizeof *view + edges_max * sizeof view->sections[0]);
    if (!edges || !view) {
        free(view);
        return NULL;
    }
    unsigned count = 0;
    for (const struct mapping *i = map->mappings; i; i = i->next)
        if (mapping_shows(i, space)) {
            edges[count++] = i->whole.start;
            edges[count++] = i->whole.start + i->whole.size;
        }
    qsort(edges, count, sizeof *edges, edge_compare);

    /* Between two edges the same mapping is on top; neighbours with the same one are joined. */
    const struct mapping *last = NULL;
    for (unsigned i = 0; i + 1 < count; i++) {
        if (edges[i] == edges[i + 1])
            continue;
        const struct mapping *top = map_top(map, space, edges[i]);
        if (top && top == last)
            view->sections[view->count - 1].size += edges[i + 1] - edges[i];
        else if (top)
            view->sections[view->count++] = section_cut(&top->whole, edges[i], edges[i + 1]);
        last = top;
    }
    return view;
}

/* Publishes the spaces in which a change of `space` shows. -ENOMEM leaves all views as they were.
 */
static int map_publish(struct address_map *map, enum space space)
{
    struct view *smm = NULL, *view = view_build(map, space);
    if (view && space == SPACE_MEMORY)
        smm = view_build(map, SPACE_SMM);
    if (!view || (space == SPACE_MEMORY && !smm)) {
        free(view);
        return -ENOMEM;
    }
    gate_retire(&map->readers, atomic_exchange(&map->views[space], view));
    if (smm)
        gate_retire(&map->readers, atomic_exchange(&map->views[SPACE_SMM], smm));
    return 0;
}

static void map_tell_engine(struct machine *m, enum space space)
{
    if (m->engine && space != SPACE_IO && m->engine->type->map_changed)
        m->engine->type->map_changed(m->engine);
}

/* ---- changing ---- */

/* May `whole` lie at `start`, next to all mappings but `self`? */
static int map_check_place(const struct address_map *map, const struct mapping *self,
                           uint64_t start, struct err *err)
{
    const struct section *whole = &self->whole;
    uint64_t end = self->space == SPACE_IO ? IO_END : MEMORY_END;
    if (!whole->size || !range_fits(start, whole->size, end))
        return err_set(err, EINVAL,
                       "region of %#llx bytes at %#llx does not fit into the address space",
                       (unsigned long long)whole->size, (unsigned long long)start);
    if (whole->ram && (start | whole->size | whole->ram_offset) % PAGE_SIZE)
        return err_set(err, EINVAL, "memory at %#llx is not placed by whole pages",
                       (unsigned long long)start);
    for (const struct mapping *i = map->mappings; i; i = i->next)
        if (i != self && i->space == self->space && i->priority == self->priority &&
            ranges_overlap(start, whole->size, i->whole.start, i->whole.size))
            return err_set(err, EEXIST, "region at %#llx overlaps the one at %#llx",
                           (unsigned long long)start, (unsigned long long)i->whole.start);
    return 0;
}

static void map_link(struct address_map *map, struct mapping *mapping)
{
    mapping->next = map->mappings;
    map->mappings = mapping;
}

static void map_unlink(struct address_map *map, struct mapping *mapping)
{
    struct mapping **at = &map->mappings;
    while (*at != mapping) {
        assert(*at && "the mapping is not of this machine");
        at = &(*at)->next;
    }
    *at = mapping->next;
}

static int map_add_locked(struct address_map *map, struct mapping *mapping, struct err *err)
{
    LOCKED(&map->lock);
    int r = map_check_place(map, mapping, mapping->whole.start, err);
    if (r < 0)
        return r;
    map_link(map, mapping);
    if (map_publish(map, mapping->space) < 0) {
        map_unlink(map, mapping);
        return err_set(err, ENOMEM, "out of memory");
    }
    return 0;
}

static int map_add(struct machine *m, const struct mapping *template, struct mapping **out,
                   struct err *err)
{
    AUTO(free) struct mapping *mapping = malloc(sizeof *mapping);
    if (!mapping)
        return err_set(err, ENOMEM, "out of memory");
    *mapping = *template;
    int r = map_add_locked(&m->priv->map, mapping, err);
    if (r < 0)
        return r;
    map_tell_engine(m, mapping->space);
    struct mapping *added = TAKE(mapping);
    if (out)
        *out = added;
    return 0;
}

int map_ram(struct machine *m, enum space space, uint64_t gpa, uint64_t size, enum region_kind kind,
            struct ram *ram, uint64_t ram_offset, int priority, struct mapping **out,
            struct err *err)
{
    assert((kind == REGION_RAM || kind == REGION_ROM) && space != SPACE_IO);
    if (!range_fits(ram_offset, size, ram->size))
        return err_set(err, EINVAL, "region at %#llx goes beyond its memory \"%s\"",
                       (unsigned long long)gpa, ram->name);
    struct section whole = {
        .start = gpa, .size = size, .kind = kind, .ram = ram, .ram_offset = ram_offset
    };
    struct mapping mapping = { .space = space, .priority = priority, .whole = whole };
    return map_add(m, &mapping, out, err);
}

int map_rom_trap(struct machine *m, enum space space, uint64_t gpa, uint64_t size, struct ram *ram,
                 uint64_t ram_offset, struct device *dev, unsigned region, int priority,
                 struct mapping **out, struct err *err)
{
    assert(space != SPACE_IO);
    if (!range_fits(ram_offset, size, ram->size))
        return err_set(err, EINVAL, "region at %#llx goes beyond its memory \"%s\"",
                       (unsigned long long)gpa, ram->name);
    struct section whole = { .start = gpa,
                             .size = size,
                             .kind = REGION_ROM_TRAP,
                             .ram = ram,
                             .ram_offset = ram_offset,
                             .dev = dev,
                             .region = region };
    struct mapping mapping = { .space = space, .priority = priority, .whole = whole };
    return map_add(m, &mapping, out, err);
}

int map_device(struct machine *m, enum space space, uint64_t start, uint64_t size,
               struct device *dev, unsigned region, int priority, struct mapping **out,
               struct err *err)
{
    struct section whole = {
        .start = start, .size = size, .kind = REGION_DEVICE, .dev = dev, .region = region
    };
    struct mapping mapping = { .space = space, .priority = priority, .whole = whole };
    return map_add(m, &mapping, out, err);
}

static void map_publish_or_abort(struct address_map *map, enum space space)
{
    if (map_publish(map, space) < 0)
        abort();
}

void map_remove(struct machine *m, struct mapping *mapping)
{
    if (!mapping)
        return;
    struct address_map *map = &m->priv->map;
    pthread_mutex_lock(&map->lock);
    map_unlink(map, mapping);
    map_publish_or_abort(map, mapping->space);
    pthread_mutex_unlock(&map->lock);
    map_tell_engine(m, mapping->space);
    free(mapping);
}

static int map_move_locked(struct address_map *map, struct mapping *mapping, uint64_t start,
                           struct err *err)
{
    LOCKED(&map->lock);
    int r = map_check_place(map, mapping, start, err);
    if (r < 0)
        return r;
    uint64_t old = mapping->whole.start;
    mapping->whole.start = start;
    if (map_publish(map, mapping->space) < 0) {
        mapping->whole.start = old;
        return err_set(err, ENOMEM, "out of memory");
    }
    return 0;
}

int map_move(struct machine *m, struct mapping *mapping, uint64_t start, struct err *err)
{
    int r = map_move_locked(&m->priv->map, mapping, start, err);
    if (r == 0)
        map_tell_engine(m, mapping->space);
    return r;
}

/* ---- reading ---- */

static const struct section *view_find(const struct view *view, uint64_t addr)
{
    unsigned low = 0, high = view->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        const struct section *s = &view->sections[middle];
        if (addr < s->start)
            high = middle;
        else if (addr - s->start >= s->size)
            low = middle + 1;
        else
            return s;
    }
    return NULL;
}

bool map_lookup(struct machine *m, enum space space, uint64_t addr, struct section *out)
{
    struct address_map *map = &m->priv->map;
    unsigned token = gate_enter(&map->readers);
    const struct section *s = view_find(map->views[space], addr);
    if (s)
        *out = *s;
    gate_leave(&map->readers, token);
    return s;
}

void map_walk(struct machine *m, enum space space, void (*fn)(void *arg, const struct section *s),
              void *arg)
{
    struct address_map *map = &m->priv->map;
    unsigned token = gate_enter(&map->readers);
    const struct view *view = map->views[space];
    for (unsigned i = 0; i < view->count; i++)
        fn(arg, &view->sections[i]);
    gate_leave(&map->readers, token);
}

void map_init(struct machine *m)
{
    struct address_map *map = &m->priv->map;
    pthread_mutex_init(&map->lock, NULL);
    gate_init(&map->readers);
    for (int space = 0; space < SPACE_COUNT; space++)
        map_publish_or_abort(map, (enum space)space);
}

void map_fini(struct machine *m)
{
    struct address_map *map = &m->priv->map;
    while (map->mappings) {
        struct mapping *mapping = map->mappings;
        map->mappings = mapping->next;
        free(mapping);
    }
    for (int space = 0; space < SPACE_COUNT; space++)
        free(map->views[space]);
    gate_fini(&map->readers);
    pthread_mutex_destroy(&map->lock);
}
