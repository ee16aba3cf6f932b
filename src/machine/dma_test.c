/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Leases and the dirty log, and how they meet. */
#include "machine/fake_engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { PAGES = 80 };

static struct machine *memory_machine(void)
{
    struct machine *m = fake_machine_create(PAGES * PAGE_SIZE, 1, NULL, NULL);
    struct ram *ram = m->main_ram;
    assert_int_equal(map_ram(m, SPACE_MEMORY, 0, 0x4000, REGION_RAM, ram, 0, 0, NULL, NULL), 0);
    assert_int_equal(
        map_ram(m, SPACE_MEMORY, 0x4000, 0x1000, REGION_RAM, ram, 0x6000, 0, NULL, NULL), 0);
    assert_int_equal(
        map_ram(m, SPACE_MEMORY, 0x5000, 0x1000, REGION_ROM, ram, 0x7000, 0, NULL, NULL), 0);
    return m;
}

static void test_lease(void **state)
{
    struct machine *m = memory_machine();
    struct dma lease;
    assert_int_equal(dma_begin(m, 0x3ff0, 0x20, true, &lease), 0);
    assert_int_equal(lease.count, 2);
    assert_ptr_equal(lease.iov[0].iov_base, m->main_ram->hva + 0x3ff0);
    assert_ptr_equal(lease.iov[1].iov_base, m->main_ram->hva + 0x6000);
    assert_int_equal(lease.iov[1].iov_len, 0x10);
    dma_end(&lease, 0x20);
    /* 0x4000 and 0x5000 are neighbours in the ram, too: one segment */
    assert_int_equal(dma_begin(m, 0x4ff0, 0x20, false, &lease), 0);
    assert_int_equal(lease.count, 1);
    dma_end(&lease, 0);
    assert_int_equal(dma_begin(m, 0x4ff0, 0x20, true, &lease), -EFAULT);
    assert_int_equal(dma_begin(m, 0x5ff0, 0x20, false, &lease), -EFAULT);
    assert_int_equal(dma_begin(m, UINT64_MAX - 4, 0x20, false, &lease), -EFAULT);
    assert_int_equal(dma_begin(m, 0x100000, 0, true, &lease), 0);
    assert_int_equal(lease.count, 0);
    dma_end(&lease, 0);
    fake_machine_destroy(m);
}

/* Every other page of a long range elsewhere: more pieces than a lease holds. */
static void test_lease_in_pieces(void **state)
{
    struct machine *m = fake_machine_create(PAGES * PAGE_SIZE, 0, NULL, NULL);
    for (unsigned i = 0; i < DMA_MAX_SEGMENTS + 1; i++)
        assert_int_equal(map_ram(m, SPACE_MEMORY, i * PAGE_SIZE, PAGE_SIZE, REGION_RAM, m->main_ram,
                                 2 * i * PAGE_SIZE, 0, NULL, NULL),
                         0);
    struct dma lease;
    assert_int_equal(dma_begin(m, 0, DMA_MAX_SEGMENTS * PAGE_SIZE, true, &lease), 0);
    assert_int_equal(lease.count, DMA_MAX_SEGMENTS);
    dma_end(&lease, 0);
    assert_int_equal(dma_begin(m, 0, (DMA_MAX_SEGMENTS + 1) * PAGE_SIZE, true, &lease), -EFAULT);
    dma_freeze(m); /* the failed ones are not open */
    dma_thaw(m);
    fake_machine_destroy(m);
}

struct freezing {
    struct machine *m;
    struct dma *open;
    _Atomic int stage;
};

static void *end_the_lease(void *arg)
{
    struct freezing *f = arg;
    usleep(20000);
    f->stage = 1;
    dma_end(f->open, 0);
    return NULL;
}

static void *begin_a_lease(void *arg)
{
    struct freezing *f = arg;
    struct dma lease;
    assert(dma_begin(f->m, 0, 8, true, &lease) == 0);
    assert(f->stage == 2);
    dma_end(&lease, 8);
    return NULL;
}

static void test_freeze(void **state)
{
    struct machine *m = memory_machine();
    struct dma lease;
    struct freezing f = { .m = m, .open = &lease };
    pthread_t thread;
    assert_int_equal(dma_begin(m, 0, 8, false, &lease), 0);
    pthread_create(&thread, NULL, end_the_lease, &f);
    dma_freeze(m);
    assert_int_equal(f.stage, 1);
    pthread_join(thread, NULL);

    pthread_create(&thread, NULL, begin_a_lease, &f);
    usleep(20000);
    dma_freeze(m); /* they nest */
    dma_thaw(m);
    f.stage = 2;
    dma_thaw(m);
    pthread_join(thread, NULL);
    fake_machine_destroy(m);
}

static bool bit(const uint64_t *bitmap, unsigned page)
{
    return bitmap[page / 64] >> page % 64 & 1;
}

static void test_dirty(void **state)
{
    struct machine *m = memory_machine();
    struct ram *ram = m->main_ram;
    uint64_t bitmap[(PAGES + 63) / 64];
    assert_int_equal(mem_write(m, 0x1000, "x", 1), 0);
    assert_int_equal(ram->page_flags[1], 0);
    assert_int_equal(dirty_log_start(m, NULL), 0);
    assert_int_equal(dirty_log_start(m, NULL), -EBUSY);
    assert_true(fake_engine(m)->logging);
    assert_int_equal(dirty_log_fetch_clear(m, ram, bitmap), 0);

    assert_int_equal(mem_write(m, 0x1fff, "xy", 2), 0);
    bus_write(m, SPACE_MEMORY, 0x4008, 4, 1);
    bus_write(m, SPACE_MEMORY, 0x5000, 4, 1); /* ROM */
    ram_written(m, ram, 79 * PAGE_SIZE, 1);
    assert_int_equal(dirty_log_fetch_clear(m, ram, bitmap), 4);
    assert_true(bit(bitmap, 1) && bit(bitmap, 2) && bit(bitmap, 6) && bit(bitmap, 79));
    assert_int_equal(dirty_log_fetch_clear(m, ram, bitmap), 0);

    fake_engine(m)->sync_ram = ram;
    fake_engine(m)->sync_page = 70;
    assert_int_equal(dirty_log_fetch_clear(m, ram, bitmap), 1);
    assert_true(bit(bitmap, 70));
    fake_engine(m)->sync_ram = NULL;

    /* A failed lease marks nothing, an ended one what it says, an open one all of it, every round.
     */
    struct dma lease;
    assert_int_equal(dma_begin(m, 0x0ff0, 0x2000, true, &lease), 0);
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(dirty_log_fetch_clear(m, ram, bitmap), 3);
        assert_true(bit(bitmap, 0) && bit(bitmap, 1) && bit(bitmap, 2));
    }
    dma_end(&lease, 0x11);
    assert_int_equal(dirty_log_fetch_clear(m, ram, bitmap), 2);
    assert_true(bit(bitmap, 0) && bit(bitmap, 1));
    assert_int_equal(dirty_log_fetch_clear(m, ram, bitmap), 0);

    dirty_log_stop(m);
    assert_false(fake_engine(m)->logging);
    assert_int_equal(mem_write(m, 0, "x", 1), 0);
    assert_int_equal(dirty_log_start(m, NULL), 0);
    assert_int_equal(dirty_log_fetch_clear(m, ram, bitmap), 0);
    fake_machine_destroy(m);
}

static void test_code_pages(void **state)
{
    struct machine *m = memory_machine();
    struct fake_engine *fake = fake_engine(m);
    atomic_fetch_or(&m->main_ram->page_flags[2], RAM_PAGE_CODE);
    assert_int_equal(mem_write(m, 0x1f00, "x", 1), 0);
    assert_int_equal(fake->invalidations, 0);
    assert_int_equal(mem_write(m, 0x1fff, "xy", 2), 0);
    assert_int_equal(fake->invalidations, 1);
    assert_ptr_equal(fake->invalid_ram, m->main_ram);
    assert_int_equal(fake->invalid_offset, 0x1fff);
    assert_int_equal(fake->invalid_len, 2);
    struct dma lease;
    assert_int_equal(dma_begin(m, 0x2000, 16, true, &lease), 0);
    dma_end(&lease, 0);
    assert_int_equal(fake->invalidations, 1);
    assert_int_equal(dma_begin(m, 0x2000, 16, true, &lease), 0);
    dma_end(&lease, 1);
    assert_int_equal(fake->invalidations, 2);
    /* The log's clearing leaves the code mark alone. */
    uint64_t bitmap[(PAGES + 63) / 64];
    assert_int_equal(dirty_log_start(m, NULL), 0);
    ram_written(m, m->main_ram, 0x2000, 1);
    assert_int_equal(dirty_log_fetch_clear(m, m->main_ram, bitmap), 1);
    assert_int_equal(m->main_ram->page_flags[2], RAM_PAGE_CODE);
    fake_machine_destroy(m);
}

/* ---- the log's promise, with writers that do not stop ---- */

struct copying {
    struct machine *m;
    _Atomic bool stop;
};

static void *write_copies(void *arg)
{
    struct copying *c = arg;
    for (uint64_t i = 1; !c->stop; i++) {
        assert(mem_write(c->m, i * 72 % 0x4000, &i, 8) == 0);
        struct dma lease;
        if (i % 16 == 0) {
            assert(dma_begin(c->m, 0x4000 + i % 0xf00, 8, true, &lease) == 0);
            assert(copy_to_hva(lease.iov[0].iov_base, &i, 8) == 0);
            dma_end(&lease, 8);
        }
    }
    return NULL;
}

static void copy_dirty(const uint64_t *bitmap, struct ram *ram, uint8_t *copy)
{
    for (unsigned page = 0; page < PAGES; page++)
        if (bit(bitmap, page))
            assert_int_equal(
                copy_from_hva(copy + page * PAGE_SIZE, ram->hva + page * PAGE_SIZE, PAGE_SIZE), 0);
}

static void test_dirty_copy(void **state)
{
    struct copying c = { .m = memory_machine() };
    struct ram *ram = c.m->main_ram;
    uint64_t bitmap[(PAGES + 63) / 64];
    uint8_t *copy = calloc(PAGES, PAGE_SIZE);
    assert_int_equal(dirty_log_start(c.m, NULL), 0);
    pthread_t threads[2];
    for (unsigned i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, write_copies, &c);
    uint64_t dirty = 0;
    for (unsigned round = 0; round < 200 || !dirty; round++) {
        dirty += dirty_log_fetch_clear(c.m, ram, bitmap);
        copy_dirty(bitmap, ram, copy);
    }
    c.stop = true;
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    dirty_log_fetch_clear(c.m, ram, bitmap);
    copy_dirty(bitmap, ram, copy);
    assert_memory_equal(copy, ram->hva, PAGES * PAGE_SIZE);
    free(copy);
    fake_machine_destroy(c.m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lease),      cmocka_unit_test(test_lease_in_pieces),
        cmocka_unit_test(test_freeze),     cmocka_unit_test(test_dirty),
        cmocka_unit_test(test_code_pages), cmocka_unit_test(test_dirty_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
