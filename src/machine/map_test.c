/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The address map against a model that asks every mapping for every page, and readers beside a
 * writer. */
#include "machine/fake_engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { PAGES = 64, SLOTS = 24, ROUNDS = 3000 };

static const struct device_type quiet_type = { .name = "quiet" };

struct slot {
    struct mapping *mapping; /* NULL: free */
    enum space space;
    unsigned start, pages;
    int priority;
    bool device;
    unsigned tag; /* of the device region, or the page offset in ram */
};

struct model {
    struct machine *m;
    struct device dev;
    struct slot slots[SLOTS];
    uint64_t random;
};

static unsigned model_random(struct model *model, unsigned below)
{
    model->random = model->random * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(model->random >> 33) % below;
}

static const struct slot *model_top(const struct model *model, enum space space, unsigned page)
{
    const struct slot *top = NULL;
    int64_t top_rank = 0;
    for (unsigned i = 0; i < SLOTS; i++) {
        const struct slot *s = &model->slots[i];
        bool shows = s->space == space || (space == SPACE_SMM && s->space == SPACE_MEMORY);
        if (!s->mapping || !shows || page < s->start || page >= s->start + s->pages)
            continue;
        int64_t rank = s->priority + (s->space == SPACE_SMM ? 1000 : 0);
        if (!top || rank > top_rank) {
            top = s;
            top_rank = rank;
        }
    }
    return top;
}

static bool model_collides(const struct model *model, const struct slot *self, enum space space,
                           unsigned start, unsigned pages, int priority)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        const struct slot *s = &model->slots[i];
        if (s != self && s->mapping && s->space == space && s->priority == priority &&
            start < s->start + s->pages && s->start < start + pages)
            return true;
    }
    return false;
}

static void model_check_page(const struct model *model, enum space space, unsigned page)
{
    struct section got;
    uint64_t addr = page * PAGE_SIZE + 5;
    bool mapped = map_lookup(model->m, space, addr, &got);
    const struct slot *want = model_top(model, space, page);
    assert_int_equal(mapped, want != NULL);
    if (!want)
        return;
    assert_true(addr >= got.start && addr - got.start < got.size);
    uint64_t skip = addr - got.start;
    if (want->device) {
        assert_int_equal(got.kind, REGION_DEVICE);
        assert_int_equal(got.region, want->tag);
        assert_int_equal(got.dev_offset + skip, addr - want->start * PAGE_SIZE);
    } else {
        assert_int_equal(got.kind, REGION_RAM);
        assert_int_equal(got.ram_offset + skip,
                         addr - want->start * PAGE_SIZE + want->tag * PAGE_SIZE);
    }
}

struct walk {
    uint64_t end, bytes;
};

static void walk_section(void *arg, const struct section *s)
{
    struct walk *walk = arg;
    assert_true(s->start >= walk->end && s->size > 0);
    walk->end = s->start + s->size;
    walk->bytes += s->size;
}

static void model_check(const struct model *model)
{
    for (enum space space = SPACE_MEMORY; space <= SPACE_SMM; space++) {
        struct walk walk = { 0 };
        uint64_t bytes = 0;
        for (unsigned page = 0; page < PAGES; page++) {
            model_check_page(model, space, page);
            bytes += model_top(model, space, page) ? PAGE_SIZE : 0;
        }
        map_walk(model->m, space, walk_section, &walk);
        assert_int_equal(walk.bytes, bytes);
    }
}

static void model_add(struct model *model, struct slot *slot)
{
    struct slot s = { .space = model_random(model, 4) ? SPACE_MEMORY : SPACE_SMM,
                      .start = model_random(model, PAGES),
                      .pages = 1 + model_random(model, 16),
                      .priority = (int)model_random(model, 4) - 1,
                      .device = model_random(model, 2),
                      .tag = model_random(model, 32) };
    if (s.start + s.pages > PAGES)
        s.pages = PAGES - s.start;
    uint64_t gpa = s.start * PAGE_SIZE, size = s.pages * PAGE_SIZE;
    bool collides = model_collides(model, NULL, s.space, s.start, s.pages, s.priority);
    int r = s.device ? map_device(model->m, s.space, gpa, size, &model->dev, s.tag, s.priority,
                                  &s.mapping, NULL)
                     : map_ram(model->m, s.space, gpa, size, REGION_RAM, model->m->main_ram,
                               s.tag * PAGE_SIZE, s.priority, &s.mapping, NULL);
    assert_int_equal(r, collides ? -EEXIST : 0);
    if (r == 0)
        *slot = s;
}

static void model_change(struct model *model)
{
    struct slot *slot = &model->slots[model_random(model, SLOTS)];
    if (!slot->mapping) {
        model_add(model, slot);
    } else if (model_random(model, 2)) {
        map_remove(model->m, slot->mapping);
        slot->mapping = NULL;
    } else {
        unsigned start = model_random(model, PAGES - slot->pages + 1);
        bool collides =
            model_collides(model, slot, slot->space, start, slot->pages, slot->priority);
        int r = map_move(model->m, slot->mapping, start * PAGE_SIZE, NULL);
        assert_int_equal(r, collides ? -EEXIST : 0);
        if (r == 0)
            slot->start = start;
    }
}

static void test_against_model(void **state)
{
    struct model model = { .m = fake_machine_create(64 * PAGE_SIZE, 1, NULL, NULL), .random = 7 };
    device_init(&model.dev, model.m, &quiet_type, "quiet");
    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned before = fake_engine(model.m)->map_changes;
        model_change(&model);
        assert_in_range(fake_engine(model.m)->map_changes, before, before + 1);
        if (i % 8 == 0)
            model_check(&model);
    }
    model_check(&model);
    assert_true(fake_engine(model.m)->map_changes > ROUNDS / 4);
    fake_machine_destroy(model.m);
    device_fini(&model.dev);
}

static void test_limits(void **state)
{
    struct machine *m = fake_machine_create(4 * PAGE_SIZE, 0, NULL, NULL);
    struct device dev;
    device_init(&dev, m, &quiet_type, "quiet");
    struct ram *ram = m->main_ram;
    struct err err;
    struct mapping *mapping;
    assert_int_equal(map_ram(m, SPACE_MEMORY, 0, 5 * PAGE_SIZE, REGION_RAM, ram, 0, 0, NULL, &err),
                     -EINVAL);
    assert_int_equal(
        map_ram(m, SPACE_MEMORY, 0, PAGE_SIZE, REGION_RAM, ram, 4 * PAGE_SIZE, 0, NULL, &err),
        -EINVAL);
    assert_int_equal(map_ram(m, SPACE_MEMORY, 1, PAGE_SIZE, REGION_RAM, ram, 0, 0, NULL, &err),
                     -EINVAL);
    assert_int_equal(map_device(m, SPACE_MEMORY, UINT64_MAX, 2, &dev, 0, 0, NULL, &err), -EINVAL);
    assert_int_equal(map_device(m, SPACE_MEMORY, 0, 0, &dev, 0, 0, NULL, &err), -EINVAL);
    assert_int_equal(map_device(m, SPACE_IO, 0xffff, 2, &dev, 0, 0, NULL, &err), -EINVAL);
    assert_int_equal(map_device(m, SPACE_IO, 0xffff, 1, &dev, 0, 0, NULL, &err), 0);

    uint64_t top = ((uint64_t)1 << 52) - 16;
    assert_int_equal(map_device(m, SPACE_MEMORY, top, 16, &dev, 3, 0, &mapping, &err), 0);
    struct section s;
    assert_true(map_lookup(m, SPACE_SMM, top + 15, &s));
    assert_int_equal(s.region, 3);
    assert_false(map_lookup(m, SPACE_MEMORY, top + 16, &s));
    assert_false(map_lookup(m, SPACE_MEMORY, UINT64_MAX, &s));
    assert_int_equal(map_move(m, mapping, top + 1, &err), -EINVAL);
    map_remove(m, mapping);
    assert_false(map_lookup(m, SPACE_MEMORY, top, &s));
    map_remove(m, NULL);
    fake_machine_destroy(m);
    device_fini(&dev);
}

/* ---- readers beside a writer; the thread and address sanitizers look on ---- */

struct race {
    struct machine *m;
    _Atomic bool stop;
    _Atomic unsigned begun; /* readers; on a busy host the writer could be done before them */
};

/* Two devices lie side by side and swap: a reader must see either order, whole. */
static void *race_read(void *arg)
{
    struct race *race = arg;
    uintptr_t count = 0;
    while (!race->stop) {
        struct section s;
        assert(map_lookup(race->m, SPACE_MEMORY, 0x1000 + count % 16, &s));
        assert(s.start == 0x1000 && s.size == 16 && (s.region == 1 || s.region == 2));
        if (!count++)
            race->begun++;
    }
    return (void *)count;
}

static void test_readers(void **state)
{
    struct race race = { .m = fake_machine_create(4 * PAGE_SIZE, 0, NULL, NULL) };
    struct device dev;
    device_init(&dev, race.m, &quiet_type, "quiet");
    struct mapping *low, *high;
    assert_int_equal(map_device(race.m, SPACE_MEMORY, 0x1000, 16, &dev, 1, 0, &low, NULL), 0);
    assert_int_equal(map_device(race.m, SPACE_MEMORY, 0x2000, 16, &dev, 2, 1, &high, NULL), 0);
    pthread_t threads[3];
    for (unsigned i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, race_read, &race);
    while (race.begun < 3)
        sched_yield();
    for (unsigned i = 0; i < 4000; i++)
        assert_int_equal(map_move(race.m, high, i % 2 ? 0x2000 : 0x1000, NULL), 0);
    race.stop = true;
    uintptr_t reads = 0;
    for (unsigned i = 0; i < 3; i++) {
        void *count;
        pthread_join(threads[i], &count);
        reads += (uintptr_t)count;
    }
    assert_true(reads > 0);
    fake_machine_destroy(race.m);
    device_fini(&dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_model),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_readers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
