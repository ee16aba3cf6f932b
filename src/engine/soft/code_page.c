/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Code pages: granules, marking, epochs. The invariants are in code_page.h; "lock" is the cache's.
 */
#include "engine/soft/code_page.h"

#include "engine/soft/run.h"
#include "engine/soft/tlb.h"
#include "machine/machine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(ARRAY_LEN(((struct machine *)0)->rams) == CODE_RAMS, "each has its pages");

enum {
    PAGE_STORES = 4,   /* to a page as a whole; from then on its granules are looked at */
    PAGE_IDLE = 16,    /* stores to a page without blocks, until it is no code page any more */
    PAGE_SPREADS = 32, /* that others had to be told of; then the page is one whole... */
    PAGE_WHOLE = 256,  /* ... for so many stores */
};

/* ---- Granules ---- */

struct span { /* of granules, both ends in it */
    unsigned first, last;
};

/* Of [at, at + len) in a page; len > 0. */
static struct span span_of(uint64_t at, uint64_t len)
{
    return (struct span){ (unsigned)(at >> GRANULE_BITS),
                          (unsigned)((at + len - 1) >> GRANULE_BITS) };
}

/* Those of the span that lie in one word of the page's. */
static uint64_t span_word(struct span s, unsigned word)
{
    unsigned first = s.first > word * 64 ? s.first - word * 64 : 0;
    unsigned last = s.last < word * 64 + 63 ? s.last - word * 64 : 63;
    return ~0ull << first & ~0ull >> (63 - last);
}
#define EACH_WORD(s, word) for (unsigned word = (s).first / 64; word <= (s).last / 64; word++)

static bool granules_any(const struct code_page *p, struct span s)
{
    EACH_WORD(s, word)
    if (atomic_load(&p->granules[word]) & span_word(s, word))
        return true;
    return false;
}

/* lock held */
static void granule_word_set(struct code_page *p, unsigned word, uint64_t granules)
{
    atomic_store_explicit(&p->granules[word], granules, memory_order_relaxed);
}

/* Answers whether any was not set. lock held. */
static bool granules_set(struct code_page *p, struct span s)
{
    bool missing = false;
    EACH_WORD(s, word)
    {
        uint64_t before = atomic_load(&p->granules[word]);
        if (~before & span_word(s, word)) {
            granule_word_set(p, word, before | span_word(s, word));
            missing = true;
        }
    }
    return missing;
}

static bool page_whole(const struct code_page *p)
{
    for (unsigned n = 0; n < PAGE_GRANULES / 64; n++)
        if (~atomic_load(&p->granules[n]))
            return false;
    return true;
}

static void granules_all(struct code_page *p) { granules_set(p, span_of(0, PAGE_SIZE)); }

/* In its first page, and in its second, which may be the same. */
static struct span block_span(const struct block *b) { return span_of(b->place, block_head(b)); }
static struct span block_span2(const struct block *b) { return span_of(0, block_tail(b)); }

static void granules_note(uint64_t *granules, struct span s)
{
    EACH_WORD(s, word)
    granules[word] |= span_word(s, word);
}

/* By its blocks, not as a whole. One without blocks stays a whole: stores to it are counted, as it
 * may be no code page much longer. lock held. */
static void page_recount(struct code_page *p)
{
    uint64_t granules[PAGE_GRANULES / 64] = { 0 };
    if (!p->blocks && !p->cross) {
        granules_all(p);
        return;
    }
    for (const struct block *b = p->blocks; b; b = b->page_next)
        granules_note(granules, block_span(b));
    for (const struct block *b = p->cross; b; b = b->cross_next)
        granules_note(granules, block_span2(b));
    for (unsigned n = 0; n < PAGE_GRANULES / 64; n++)
        granule_word_set(p, n, granules[n]);
}

/* ---- Marking ---- */

/* lock held */
static struct code_page *page_make(struct code_pages *c, struct ram *ram, uint64_t offset)
{
    struct code_page **table = __atomic_load_n(&c->of[ram->index], __ATOMIC_RELAXED);
    if (!table) {
        assert(ram->size >> PAGE_SHIFT <= UINT32_MAX); /* block.page; 1 TiB is laid out at most */
        table = calloc(ram->size >> PAGE_SHIFT, sizeof *table);
        if (!table)
            abort();
        __atomic_store_n(&c->of[ram->index], table, __ATOMIC_RELEASE);
    }
    struct code_page **slot = &table[offset >> PAGE_SHIFT];
    if (!*slot) {
        struct code_page *p = aligned_alloc(CODE_PAGE_ALIGN, round_up(sizeof *p, CODE_PAGE_ALIGN));
        if (!p)
            abort();
        memset(p, 0, sizeof *p);
        granules_all(p);
        p->ram = ram;
        p->offset = round_down(offset, PAGE_SIZE);
        p->next = c->all;
        c->all = p;
        __atomic_store_n(slot, p, __ATOMIC_RELEASE);
    }
    return *slot;
}

/* Asks all others to pass a safe point, and to drop their write tags. The vCPU's own are no matter
 * of asking; so nobody will ask it for this epoch, and who waits for all to acknowledge it must not
 * wait for that. lock held. */
static void page_epoch_new(struct soft_vcpu *v, struct code_page *p, bool drop)
{
    struct soft_engine *e = soft_engine_of(v);
    const uint32_t before = atomic_load(&e->code.pages.epoch),
                   drops = atomic_load(&e->code.pages.drops);
    p->epoch = before + 1;
    if (drop)
        atomic_store(&e->code.pages.drops, p->epoch);
    atomic_store(&e->code.pages.epoch, p->epoch);
    if (drop && v->run->dropped == drops)
        v->run->dropped = p->epoch;
    if (atomic_load(&v->run->acked) == before)
        atomic_store(&v->run->acked, p->epoch);
    for (unsigned n = 0; n < e->vcpu_count; n++)
        if (e->vcpus[n] != v)
            vcpu_request(e->vcpus[n], REQ_EPOCH);
}

void code_acknowledge(struct soft_vcpu *v)
{
    struct code_pages *c = &soft_engine_of(v)->code.pages;
    const uint32_t epoch = atomic_load(&c->epoch); /* first: its drops are among those below */
    const uint32_t drops = atomic_load(&c->drops);
    if (drops != v->run->dropped) {
        v->run->dropped = drops;
        tlb_drop_writes(v);
    }
    atomic_store(&v->run->acked, epoch);
}

struct code_page *code_page_mark(struct soft_vcpu *v, struct ram *ram, uint64_t offset)
{
    struct soft_engine *e = soft_engine_of(v);
    struct code_page *p = page_make(&e->code.pages, ram, offset);
    _Atomic uint8_t *flags = &ram->page_flags[offset >> PAGE_SHIFT];
    if (atomic_load(flags) & RAM_PAGE_CODE)
        return p;
    atomic_fetch_or(flags, RAM_PAGE_CODE);
    page_epoch_new(v, p, true);
    tlb_drop_writes_of(v, flags);
    return p;
}

static bool others_parked(const struct soft_vcpu *v)
{
    const struct soft_engine *e = soft_engine_of(v);
    for (unsigned n = 0; n < e->vcpu_count; n++)
        if (e->vcpus[n] != v && !atomic_load(&e->vcpus[n]->run->parked))
            return false;
    return true;
}

/* Has everybody who might write without being noticed let go of the page? */
static bool page_settled(const struct soft_vcpu *v, const struct code_page *p)
{
    const struct soft_engine *e = soft_engine_of(v);
    for (unsigned n = 0; n < e->vcpu_count; n++) {
        const struct soft_vcpu *other = e->vcpus[n];
        if (other != v && !atomic_load(&other->run->parked) &&
            (int32_t)(atomic_load(&other->run->acked) - p->epoch) < 0)
            return false;
    }
    return true;
}

static void page_spread(struct soft_vcpu *v, struct code_page *p, struct span s)
{
    p->idle = 0;
    if (!granules_set(p, s))
        return;
    if (!others_parked(v) && ++p->spreads >= PAGE_SPREADS) /* telling them is dear */
        granules_all(p);
    page_epoch_new(v, p, false);
}

bool code_pages_take(struct soft_vcpu *v, const struct block *b)
{
    const struct code_pages *c = &soft_engine_of(v)->code.pages;
    struct code_page *p = code_page_of(c, b->ram, b->page);
    struct code_page *p2 = b->ram2 != NO_RAM ? code_page_of(c, b->ram2, b->page2) : NULL;
    page_spread(v, p, block_span(b));
    if (p2)
        page_spread(v, p2, block_span2(b));
    return page_settled(v, p) && (!p2 || page_settled(v, p2));
}

/* ---- Stores ---- */

bool code_page_may_hold(const struct code_page *p, unsigned at, unsigned len)
{
    /* The bytes are written before the bits are read, as their setter sets them before it reads. */
    atomic_thread_fence(memory_order_seq_cst);
    return granules_any(p, span_of(at, len));
}

void code_page_stored(const struct code_pages *c, struct code_page *p, bool hit)
{
    if (p->stores < PAGE_STORES)
        p->stores++;
    else if (c->granules && p->spreads < PAGE_SPREADS && (hit || page_whole(p)))
        page_recount(p);
    else if (p->spreads >= PAGE_SPREADS && ++p->whole >= PAGE_WHOLE)
        p->spreads = p->whole = 0;
    /* Code that is written is often run again soon, and marking a page is dear: not at once. */
    if (!p->blocks && !p->cross && ++p->idle >= PAGE_IDLE)
        atomic_fetch_and(&p->ram->page_flags[p->offset >> PAGE_SHIFT], (uint8_t)~RAM_PAGE_CODE);
}
