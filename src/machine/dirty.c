/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The dirty log: whose writes are in it, and when.
 *
 * The promise: a page read after one fetch and found clean by the next has not changed between the
 * read and that next call. For each kind of writer:
 *
 *  1. The host's copies write, then mark, inside the gate `writers`. A fetch first waits for those
 * that began before it, so their marks are set when it takes the marks.
 *  2. Leases may write at any time until they end. A fetch reports the pages of open write leases
 * in every round, before it takes the marks; a lease marks its pages before it leaves the list.
 *  3. vCPUs mark a page before they may write it without looking. A fetch makes them look again
 *     (dirty_sync), and what they write until then is written before the fetch returns.
 */
#include "base/checked.h"
#include "machine/priv.h"

#include <string.h>

static uint64_t page_count(const struct ram *ram) { return ram->size >> PAGE_SHIFT; }

/* Are the flags of 8 pages from `page` (a multiple of 8) all clear? Mere speed: a flag that is set
 * just now belongs to the next round as well as to this one. */
static bool flags_clear(const struct ram *ram, uint64_t page)
{
    uint64_t word =
        __atomic_load_n((const uint64_t *)(const void *)&ram->page_flags[page], __ATOMIC_SEQ_CST);
    return !(word & RAM_PAGE_DIRTY * 0x0101010101010101ull);
}

static void flags_take(struct ram *ram, uint64_t *bitmap)
{
    uint64_t pages = page_count(ram);
    for (uint64_t page = 0; page < pages; page++) {
        if (page % 8 == 0 && page + 8 <= pages && flags_clear(ram, page)) {
            page += 7;
            continue;
        }
        if (!(ram->page_flags[page] & RAM_PAGE_DIRTY))
            continue;
        atomic_fetch_and(&ram->page_flags[page], (uint8_t)~RAM_PAGE_DIRTY);
        bitmap[page / 64] |= 1ull << page % 64;
    }
}

static void dirty_fetch_locked(struct machine *m, struct ram *ram, uint64_t *bitmap)
{
    gate_wait(&m->priv->dirty.writers); /* 1 */
    dma_mark_open(m, ram, bitmap);      /* 2 */
    flags_take(ram, bitmap);
    if (m->engine && m->engine->type->dirty_sync)
        m->engine->type->dirty_sync(m->engine, ram, bitmap); /* 3 */
}

uint64_t dirty_log_fetch_clear(struct machine *m, struct ram *ram, uint64_t *bitmap)
{
    LOCKED(&m->priv->dirty.lock);
    uint64_t words = (page_count(ram) + 63) / 64, count = 0;
    memset(bitmap, 0, words * sizeof *bitmap);
    dirty_fetch_locked(m, ram, bitmap);
    for (uint64_t i = 0; i < words; i++)
        count += (uint64_t)__builtin_popcountll(bitmap[i]);
    return count;
}

static void dirty_log_mark(struct machine *m, bool on)
{
    for (unsigned i = 0; i < m->ram_count; i++)
        m->rams[i]->dirty_log = on;
}

static int dirty_log_clean(struct machine *m, struct err *err)
{
    for (unsigned i = 0; i < m->ram_count; i++) {
        AUTO(free) uint64_t *bitmap = calloc((page_count(m->rams[i]) + 63) / 64, sizeof *bitmap);
        if (!bitmap)
            return err_set(err, ENOMEM, "out of memory");
        dirty_fetch_locked(m, m->rams[i], bitmap);
    }
    return 0;
}

static void dirty_log_stop_locked(struct machine *m)
{
    if (!m->priv->dirty.on)
        return;
    m->priv->dirty.on = false;
    dirty_log_mark(m, false);
    if (m->engine)
        m->engine->type->dirty_log(m->engine, false, NULL);
}

int dirty_log_start(struct machine *m, struct err *err)
{
    LOCKED(&m->priv->dirty.lock);
    if (m->priv->dirty.on)
        return err_set(err, EBUSY, "the dirty log is in use already");
    dirty_log_mark(m, true);
    int r = m->engine ? m->engine->type->dirty_log(m->engine, true, err) : 0;
    if (r < 0) {
        dirty_log_mark(m, false);
        return r;
    }
    m->priv->dirty.on = true;
    r = dirty_log_clean(m, err);
    if (r < 0)
        dirty_log_stop_locked(m);
    return r;
}

void dirty_log_stop(struct machine *m)
{
    LOCKED(&m->priv->dirty.lock);
    dirty_log_stop_locked(m);
}

void dirty_init(struct machine *m)
{
    pthread_mutex_init(&m->priv->dirty.lock, NULL);
    gate_init(&m->priv->dirty.writers);
}

void dirty_fini(struct machine *m)
{
    gate_fini(&m->priv->dirty.writers);
    pthread_mutex_destroy(&m->priv->dirty.lock);
}
