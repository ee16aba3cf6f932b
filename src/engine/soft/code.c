/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The cache of decoded blocks. The invariants are in code.h.
 */
#include "engine/soft/code.h"

#include "engine/soft/mem.h"
#include "engine/soft/run.h"
#include "engine/soft/trace.h"
#include "machine/machine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

_Static_assert(ARRAY_LEN(((struct machine *)0)->rams) == CODE_RAMS, "each has its pages");

static size_t block_size(unsigned count)
{
    return sizeof(struct block) + (count + 1) * sizeof(struct insn);
}
enum {
    PAGE_STORES = 4,   /* to a page as a whole; from then on its granules are looked at */
    PAGE_IDLE = 16,    /* stores to a page without blocks, until it is no code page any more */
    PAGE_SPREADS = 32, /* that others had to be told of; then the page is one whole... */
    PAGE_WHOLE = 256,  /* ... for so many stores */
};

/* `place`: in the page */
static unsigned bucket_of(unsigned place) { return (place ^ place >> 5) & (PAGE_BUCKETS - 1); }

/* ---- Handlers that stand for no guest instruction ---- */

int op_stale(struct soft_vcpu *v, const struct insn *i)
{
    (void)v, (void)i;
    return OP_AGAIN;
}

/* Behind the last instruction; its own length is 0, so "the next instruction" is where the block
 * ended. */
int op_block_end(struct soft_vcpu *v, const struct insn *i)
{
    v->rip = insn_rip(v, i);
    return OP_JUMP;
}

int op_privileged(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    return raise_gp(v, 0);
}

static int op_undefined(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    return raise_ud(v);
}

/* ---- Life and death of the cache ---- */

int code_cache_init(struct code_cache *c)
{
    pthread_mutex_init(&c->lock, NULL);
    return 0;
}

static void page_free_blocks(struct code_page *p)
{
    for (struct block *b = p->blocks, *next; b; b = next) {
        next = b->page_next;
        free(b);
    }
}

void code_cache_fini(struct code_cache *c)
{
    for (unsigned r = 0; r < ARRAY_LEN(c->pages); r++) {
        for (uint64_t n = 0; c->pages[r] && n < c->page_count[r]; n++) {
            if (c->pages[r][n])
                page_free_blocks(c->pages[r][n]);
            free(c->pages[r][n]);
        }
        free(c->pages[r]);
    }
    for (struct block *b = c->retired, *next; b; b = next) {
        next = b->page_next;
        free(b);
    }
    pthread_mutex_destroy(&c->lock);
}

/* ---- Jump cache ---- */

static unsigned jump_page(uint64_t va)
{
    return (unsigned)((va ^ va >> JUMP_MIX) >> PAGE_SHIFT) & (JUMP_PAGES - 1);
}

static unsigned jump_index(uint64_t va)
{
    return jump_page(va) << JUMP_PAGE_BITS | ((va ^ va >> JUMP_MIX) & ((1u << JUMP_PAGE_BITS) - 1));
}

/* A key: what decoding depends on (CODE_*), the epoch, and the address space. Global pages keep
 * their entries when that changes. */
enum { JUMP_GLOBAL = 1 << 16, EPOCH_SHIFT = 17, EPOCHS = 1 << 15 };

static uint32_t jump_epoch(uint64_t key) { return key >> EPOCH_SHIFT & (EPOCHS - 1); }

static unsigned quick_index(uint64_t va)
{
    return (unsigned)(va ^ va >> QUICK_MIX) & (QUICK_SIZE - 1);
}

static void quick_entry_clear(struct quick_entry *entries, unsigned n)
{
    entries[n] = (struct quick_entry){ .va = n ? 0 : 1 };
}

static void quick_table_clear(struct quick_table *t, uint64_t key)
{
    memset(t, 0, sizeof *t);
    quick_entry_clear(t->entries, 0);
    t->key = key;
}

static struct quick_jumps quick_claim(struct quick_table *t, uint64_t key)
{
    if (t->key != key)
        quick_table_clear(t, key);
    return (struct quick_jumps){ t->entries, key };
}

/* For code whose key changes with CS, at each far call: clearing a table would cost more than it
 * saves. Nothing is entered here. */
static struct quick_table quick_none = { .key = ~0ull, .entries[0].va = 1 };

/* The tables for the keys just set. In 64-bit code for both levels, as a system call only goes from
 * one to the other. */
static void quick_select(struct soft_vcpu *v)
{
    if (v->seg_key & CODE_BY_IP) {
        v->quick = (struct quick_jumps){ quick_none.entries, ~0ull };
        return;
    }
    const uint64_t kernel = (uint64_t)CODE_CPL0 << JUMP_KEY_SHIFT;
    struct quick_table *tables = v->run->quick;
    if (!v->cpl || v->mode == MODE_64)
        v->quick_levels[0] = quick_claim(&tables[0], v->jump_key_global | kernel);
    if (v->cpl || v->mode == MODE_64)
        v->quick_levels[1] = quick_claim(&tables[1 + v->run->context], v->jump_key & ~kernel);
    v->quick = v->quick_levels[v->cpl != 0];
}

static void quick_drop(struct quick_entry *entries, uint64_t va)
{
    unsigned n = quick_index(va);
    if (entries[n].va == va)
        quick_entry_clear(entries, n);
}
static void quick_drop_all(struct soft_vcpu *v, uint64_t va)
{
    for (unsigned n = 0; n < ARRAY_LEN(v->run->quick); n++)
        quick_drop(v->run->quick[n].entries, va);
}

void jump_cache_clear(struct soft_vcpu *v)
{
    if (++v->run->jump_epoch == EPOCHS) {
        memset(v->run->jump, 0, sizeof v->run->jump);
        for (unsigned n = 0; n < ARRAY_LEN(v->run->quick); n++)
            v->run->quick[n].key = ~0ull;
        v->run->jump_epoch = 1;
    }
    memset(v->run->jump_seen, 0, sizeof v->run->jump_seen);
    v->jump_key = v->jump_key_global = ~0ull; /* until the next block is looked up */
    for (unsigned n = 0; n < ARRAY_LEN(v->quick_levels); n++) {
        struct quick_jumps *q = &v->quick_levels[n];
        quick_table_clear(CONTAINER_OF(q->entries, struct quick_table, entries[0]), ~0ull);
        q->key = ~0ull;
    }
    v->quick.key = ~0ull;
}

/* Most pages that are flushed hold data: answers whether this one can have entries. */
static bool jump_seen(struct soft_vcpu *v, uint64_t va, bool now)
{
    uint64_t bit = (va >> PAGE_SHIFT ^ va >> (PAGE_SHIFT + 12)) & (JUMP_SEEN - 1);
    uint64_t *word = &v->run->jump_seen[bit / 64];
    *word |= (uint64_t)now << bit % 64;
    return *word >> bit % 64 & 1;
}

void jump_cache_clear_page(struct soft_vcpu *v, uint64_t va)
{
    struct jump_entry *e = &v->run->jump[jump_page(va) << JUMP_PAGE_BITS];
    if (!jump_seen(v, va, false))
        return;
    for (unsigned n = 0; n < 1u << JUMP_PAGE_BITS; n++)
        if (!((e[n].va ^ va) >> PAGE_SHIFT)) {
            quick_drop_all(v, e[n].va);
            e[n] = (struct jump_entry){ 0 };
        }
}

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

/* The part of a block that lies in its first page, and in its second. */
static uint64_t block_head(const struct block *b)
{
    const unsigned room = PAGE_SIZE - b->place;
    return b->bytes < room ? b->bytes : room;
}
static uint64_t block_tail(const struct block *b) { return b->bytes - block_head(b); }

static struct span block_span(const struct block *b, const struct code_page *p)
{
    if (b->ram == p->ram->index && b->page == p->offset >> PAGE_SHIFT)
        return span_of(b->place, block_head(b));
    return span_of(0, block_tail(b));
}

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
        granules_note(granules, block_span(b, p));
    for (const struct block *b = p->cross; b; b = b->cross_next)
        granules_note(granules, block_span(b, p));
    for (unsigned n = 0; n < PAGE_GRANULES / 64; n++)
        granule_word_set(p, n, granules[n]);
}

/* ---- Pages ---- */

/* lock held */
static struct code_page *page_make(struct code_cache *c, struct ram *ram, uint64_t offset)
{
    struct code_page **table = __atomic_load_n(&c->pages[ram->index], __ATOMIC_RELAXED);
    if (!table) {
        assert(ram->size >> PAGE_SHIFT <= UINT32_MAX); /* the board lays out 1 TiB at most */
        c->page_count[ram->index] = (uint32_t)(ram->size >> PAGE_SHIFT);
        table = calloc(c->page_count[ram->index], sizeof *table);
        if (!table)
            abort();
        __atomic_store_n(&c->pages[ram->index], table, __ATOMIC_RELEASE);
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
        __atomic_store_n(slot, p, __ATOMIC_RELEASE);
    }
    return *slot;
}

static struct code_page *page_of(const struct code_cache *c, unsigned ram, uint64_t page)
{
    struct code_page **table = __atomic_load_n(&c->pages[ram], __ATOMIC_ACQUIRE);
    return table ? __atomic_load_n(&table[page], __ATOMIC_ACQUIRE) : NULL;
}
static struct code_page *page_find(const struct code_cache *c, const struct ram *ram,
                                   uint64_t offset)
{
    return page_of(c, ram->index, offset >> PAGE_SHIFT);
}

struct code_page *code_page_find(struct soft_engine *e, const struct ram *ram, uint64_t offset)
{
    return page_find(&e->code, ram, offset);
}

/* Asks all others to pass a safe point, and to drop their write tags. The vCPU's own are no matter
 * of asking; so nobody will ask it for this epoch, and who waits for all to acknowledge it must not
 * wait for that. lock held. */
static void page_epoch_new(struct soft_vcpu *v, struct code_page *p, bool drop)
{
    struct soft_engine *e = soft_engine_of(v);
    const uint32_t before = atomic_load(&e->code.epoch), drops = atomic_load(&e->code.drops);
    p->epoch = before + 1;
    if (drop)
        atomic_store(&e->code.drops, p->epoch);
    atomic_store(&e->code.epoch, p->epoch);
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
    struct code_cache *c = &soft_engine_of(v)->code;
    const uint32_t epoch = atomic_load(&c->epoch); /* first: its drops are among those below */
    const uint32_t drops = atomic_load(&c->drops);
    if (drops != v->run->dropped) {
        v->run->dropped = drops;
        tlb_drop_writes(v);
    }
    atomic_store(&v->run->acked, epoch);
}

/* Invariants 1 and 2. lock held. */
static struct code_page *page_mark(struct soft_vcpu *v, struct ram *ram, uint64_t offset)
{
    struct soft_engine *e = soft_engine_of(v);
    struct code_page *p = page_make(&e->code, ram, offset);
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

/* Invariant 5, before `b` is kept. lock held. */
static void page_spread(struct soft_vcpu *v, struct code_page *p, const struct block *b)
{
    p->idle = 0;
    if (!granules_set(p, block_span(b, p)))
        return;
    if (!others_parked(v) && ++p->spreads >= PAGE_SPREADS) /* telling them is dear */
        granules_all(p);
    page_epoch_new(v, p, false);
}

/* ---- Retiring ---- */

static void unlink_from(struct block **list, struct block *b, size_t next_offset)
{
    while (*list && *list != b)
        list = (struct block **)((char *)*list + next_offset);
    if (*list)
        __atomic_store_n(list, *(struct block **)((char *)b + next_offset), __ATOMIC_RELEASE);
}

/* lock held */
static void block_retire(struct code_cache *c, struct block *b)
{
    struct code_page *p = page_of(c, b->ram, b->page);
    unlink_from(&p->bucket[bucket_of(b->place)], b, offsetof(struct block, bucket_next));
    unlink_from(&p->blocks, b, offsetof(struct block, page_next));
    if (b->ram2 != NO_RAM) {
        struct code_page *p2 = page_of(c, b->ram2, b->page2);
        unlink_from(&p2->cross, b, offsetof(struct block, cross_next));
    }
    atomic_store(&b->stale, true);
    if (c->jit_on)
        jit_retire(&c->jit, b);
    if (b->loops) { /* who is inside leaves at the next turn */
        struct soft_engine *e = CONTAINER_OF(c, struct soft_engine, code);
        for (unsigned n = 0; n < e->vcpu_count; n++)
            vcpu_request(e->vcpus[n], REQ_SAFE_POINT);
    }
    for (unsigned n = 0; n <= b->count; n++)
        __atomic_store_n(&b->insns[n].fn, op_stale, __ATOMIC_RELEASE);
    b->page_next = c->retired;
    c->retired = b;
    c->bytes -= block_size(b->count);
    c->retired_bytes += block_size(b->count);
    if (c->retired_bytes > c->limit / 4)
        atomic_store(&c->want_flush, true);
}

static void page_written(struct code_cache *c, struct ram *ram, uint64_t offset, uint64_t len)
{
    struct code_page *p = page_find(c, ram, offset);
    bool hit = false;
    if (!p)
        return;
    for (struct block *b = p->blocks, *next; b; b = next) {
        next = b->page_next;
        if (ranges_overlap(block_offset(b), b->bytes, offset, len))
            block_retire(c, b), hit = true;
    }
    for (struct block *b = p->cross, *next; b; b = next) {
        next = b->cross_next;
        if (ranges_overlap(block_offset2(b), block_tail(b), offset, len))
            block_retire(c, b), hit = true;
    }
    if (p->stores < PAGE_STORES)
        p->stores++;
    else if (c->granules && p->spreads < PAGE_SPREADS && (hit || page_whole(p)))
        page_recount(p);
    else if (p->spreads >= PAGE_SPREADS && ++p->whole >= PAGE_WHOLE)
        p->spreads = p->whole = 0;
    /* Code that is written is often run again soon, and marking a page is dear: not at once. */
    if (!p->blocks && !p->cross && ++p->idle >= PAGE_IDLE)
        atomic_fetch_and(&ram->page_flags[offset >> PAGE_SHIFT], (uint8_t)~RAM_PAGE_CODE);
}

void code_stored(struct soft_vcpu *v, struct code_page *p, unsigned at, unsigned len)
{
    struct soft_engine *e = soft_engine_of(v);
    /* The bytes are written before the bits are read, as their setter sets them before it reads. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!granules_any(p, span_of(at, len)))
        return;
    LOCKED(&e->code.lock);
    page_written(&e->code, p->ram, p->offset + at, len);
}

void code_written(struct soft_engine *e, struct ram *ram, uint64_t offset, uint64_t len)
{
    LOCKED(&e->code.lock);
    while (len) {
        uint64_t part = PAGE_SIZE - (offset & (PAGE_SIZE - 1));
        if (part > len)
            part = len;
        if (atomic_load(&ram->page_flags[offset >> PAGE_SHIFT]) & RAM_PAGE_CODE)
            page_written(&e->code, ram, offset, part);
        offset += part;
        len -= part;
    }
}

static void cache_free_retired(struct soft_engine *e)
{
    struct block *kept = NULL;
    for (struct block *b = e->code.retired, *next; b; b = next) {
        next = b->page_next;
        bool used = false; /* by a vCPU that waits inside a bus access */
        for (unsigned n = 0; n < e->vcpu_count; n++)
            used |= e->vcpus[n]->run->current == b;
        if (used) {
            b->page_next = kept;
            kept = b;
        } else {
            free(b);
        }
    }
    e->code.retired = kept;
    e->code.retired_bytes = 0;
}

void code_flush(struct soft_engine *e)
{
    LOCKED(&e->code.lock);
    struct code_cache *c = &e->code;
    for (unsigned r = 0; r < ARRAY_LEN(c->pages); r++)
        for (uint64_t n = 0; c->pages[r] && n < c->page_count[r]; n++)
            while (c->pages[r][n] && c->pages[r][n]->blocks)
                block_retire(c, c->pages[r][n]->blocks);
    for (unsigned n = 0; n < e->vcpu_count; n++)
        jump_cache_clear(e->vcpus[n]);
    cache_free_retired(e);
    c->flushes++;
    c->bytes = 0;
    bool inside = false; /* a vCPU that waits in a bus access comes back into translated code */
    for (unsigned n = 0; n < e->vcpu_count; n++)
        inside |= e->vcpus[n]->run->in_jit;
    if (c->jit_on && !inside)
        jit_reset(&c->jit);
    atomic_store(&c->want_flush, false);
}

/* Large programs run most of their code a few times: what was not worth a translation goes first.
 */
static void cache_drop_cold(struct code_cache *c)
{
    for (unsigned r = 0; r < ARRAY_LEN(c->pages); r++)
        for (uint64_t n = 0; c->pages[r] && n < c->page_count[r]; n++)
            for (struct block *b = c->pages[r][n] ? c->pages[r][n]->blocks : NULL, *next; b;
                 b = next) {
                next = b->page_next;
                if (!b->code)
                    block_retire(c, b);
            }
    c->cold_drops++;
}

/*
 * The limit, and the translator's room with it, doubles when it was reached soon: a program that is
 * larger would be decoded and translated anew all the time. Soon is when that costs one part of
 * REFILL_SHARE of the time or more; a byte of the limit takes some REFILL_NS to fill. lock held.
 */
static bool limit_grow(struct code_cache *c)
{
    enum { REFILL_NS = 5, REFILL_SHARE = 20 };
    struct timespec cpu;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    const uint64_t before = c->full_at, soon = c->limit * REFILL_NS * REFILL_SHARE;
    c->full_at = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec;
    if (c->limit == c->limit_most || !before || c->full_at - before > soon)
        return false;
    c->limit = c->limit * 2 < c->limit_most ? c->limit * 2 : c->limit_most;
    if (c->jit_on)
        jit_room_set(&c->jit, c->limit / 2);
    return true;
}

static void reclaim(void *arg)
{
    struct soft_engine *e = arg;
    struct code_cache *c = &e->code;
    c->generation++;
    pthread_mutex_lock(&c->lock);
    bool full = (c->bytes > c->limit || c->jit.full) && !limit_grow(c);
    if (full) {
        if (c->bytes > c->limit)
            cache_drop_cold(c);
        full = c->bytes > c->limit - c->limit / 4 || c->jit.full;
    }
    pthread_mutex_unlock(&c->lock);
    if (full) {
        code_flush(e);
        return;
    }
    LOCKED(&c->lock);
    for (unsigned n = 0; n < e->vcpu_count; n++)
        jump_cache_clear(e->vcpus[n]);
    cache_free_retired(e);
    atomic_store(&c->want_flush, false);
}

/* ---- Decoding ---- */

/* Where the bytes of a block come from: its first page, and the next one if an instruction crosses
 * into it. */
struct source {
    uint64_t va; /* linear address of the block */
    struct ram *ram, *ram2;
    uint64_t offset, page2;
    bool global, global2;
    uint8_t *bytes;  /* a copy, which is decoded, as the guest may write meanwhile... */
    unsigned copied; /* ... of so much of the first page; behind that comes the second */
};

/* So that the bytes of an instruction at `used` are there, or all up to the page's end at `room`.
 */
static void source_copy(struct source *src, unsigned used, unsigned room)
{
    while (src->copied < used + INSN_LONGEST && src->copied < room) {
        unsigned n = room - src->copied < SOURCE_PIECE ? room - src->copied : SOURCE_PIECE;
        memcpy(src->bytes + src->copied, src->ram->hva + src->offset + src->copied, n);
        src->copied += n;
    }
}

static void block_key_attrs(struct soft_vcpu *v, struct insn *i)
{
    uint32_t attr = insn_rows[i->row].attr;
    if (attr & AT_CPL0 && v->cpl)
        i->fn = op_privileged;
    if (attr & AT_PM && (real_mode(v) || v8086_mode(v)))
        i->fn = op_undefined;
}

static void insn_bad(struct insn *i, unsigned offset, bool gp)
{
    *i = (struct insn){ .fn = gp ? op_privileged : op_undefined,
                        .start = (uint16_t)offset,
                        .base = REG_NONE,
                        .index = REG_NONE };
}

/* Does a conditional branch further up lead behind this jump, where the block is to go on then? */
static bool jumps_over(const struct block *b, unsigned count, unsigned used)
{
    extern const struct op op_jmp_J, op_jmp_E, op_ret, op_ret_I;
    const struct op *op = insn_rows[b->insns[count - 1].row].op;
    if (op != &op_jmp_J && op != &op_jmp_E && op != &op_ret && op != &op_ret_I)
        return false;
    for (unsigned n = 0; n < count; n++)
        if (insn_rows[b->insns[n].row].attr & AT_FALLS && b->insns[n].imm == (int64_t)used)
            return true;
    return false;
}

/*
 * Decodes a block into `b` (room for BLOCK_MAX + 1 instructions). Ends at an unconditional branch,
 * at the page's end, or before an instruction that crosses it (unless it is the first). Answers
 * OP_FAULT when the second page cannot be had.
 */
static int block_decode(struct soft_vcpu *v, struct source *src, struct block *b)
{
    const unsigned room = (unsigned)(PAGE_SIZE - (src->offset & (PAGE_SIZE - 1)));
    unsigned used = 0, count = 0;
    const bool loops = soft_engine_of(v)->code.jit.loops;
    counter_add_one(&v->run->blocks_decoded);
    while (count < BLOCK_MAX) {
        struct insn *i = &b->insns[count];
        bool gp = false;
        unsigned left = room - used < INSN_LONGEST ? room - used : INSN_LONGEST;
        source_copy(src, used, room);
        int len =
            left ? insn_decode(src->bytes + used, left, v->mode, v->features, used, i, &gp) : 0;
        if (len == 0) {
            if (count)
                break;
            int r = tlb_fetch(v, src->va + room, &src->ram2, &src->page2, &src->global2);
            if (r)
                return r;
            if (!src->ram2)
                return raise_gp(v, 0);
            page_mark(v, src->ram2, src->page2);
            memcpy(src->bytes + left, src->ram2->hva + src->page2, INSN_LONGEST - left);
            len = insn_decode(src->bytes, INSN_LONGEST, v->mode, v->features, 0, i, &gp);
            if (len == 0)
                len = -1;
        }
        if (len < 0) {
            if (count) /* its own block, so that its bytes are fully accounted for */
                break;
            insn_bad(i, used, gp);
            used += left; /* whatever is written there may make it another instruction */
            count++;
            break;
        }
        block_key_attrs(v, i);
        used += (unsigned)len;
        count++;
        if (used >= room || ((insn_rows[i->row].attr & (AT_END | AT_FALLS)) == AT_END &&
                             !(loops && jumps_over(b, count, used))))
            break;
    }
    b->insns[count] = (struct insn){
        .fn = op_block_end, .start = (uint16_t)used, .base = REG_NONE, .index = REG_NONE
    };
    b->count = (uint8_t)count;
    b->bytes = (uint16_t)used;
    b->ram = (uint8_t)src->ram->index;
    b->page = (uint32_t)(src->offset >> PAGE_SHIFT);
    b->place = src->offset & (PAGE_SIZE - 1);
    b->ram2 = used > room ? (uint8_t)src->ram2->index : NO_RAM;
    b->page2 = (uint32_t)(src->page2 >> PAGE_SHIFT);
    b->heat = 0; /* `b` is the scratch block, which ran before as others */
    return 0;
}

/* Are the bytes still those that were decoded? Asked when all have acknowledged: who had not may
 * have written until then without being noticed. */
static bool block_is_current(const struct block *b, const struct source *src)
{
    const size_t head = block_head(b);
    return memcmp(src->bytes, src->ram->hva + src->offset, head) == 0 &&
           (b->ram2 == NO_RAM ||
            memcmp(src->bytes + head, src->ram2->hva + src->page2, block_tail(b)) == 0);
}

uint32_t code_cs_name(struct soft_engine *e, uint32_t base, uint32_t limit)
{
    enum { PROBES = 8 };
    const uint64_t cs = (uint64_t)base << 32 | limit;
    const uint32_t first = (base ^ base >> 12 ^ limit) * 0x9e3779b1u >> 20;
    for (uint32_t n = 0; n < PROBES; n++) {
        uint32_t name = (first + n) % CODE_NAMES;
        uint64_t known = 0;
        if (atomic_compare_exchange_strong(&e->code.names[name], &known, cs) || known == cs)
            return CODE_NAMED | name << CODE_CS_SHIFT;
    }
    return 0;
}

/* CS of the blocks with this key, as far as they are for one alone. */
static struct jit_cs block_cs(const struct code_cache *c, uint32_t key)
{
    const uint32_t cs = key >> CODE_CS_SHIFT;
    if (!(key & CODE_BY_IP))
        return (struct jit_cs){ 0, UINT32_MAX };
    if (!(key & CODE_NAMED))
        return (struct jit_cs){ cs << 4, UINT16_MAX };
    const uint64_t named = atomic_load(&c->names[cs]);
    return (struct jit_cs){ (uint32_t)(named >> 32), (uint32_t)named };
}

static uint32_t block_ip(const struct soft_vcpu *v, uint32_t key)
{
    return key & CODE_BY_IP ? (uint32_t)v->rip : 0;
}

static struct block *block_find(struct soft_vcpu *v, const struct source *src, uint32_t key)
{
    const uint32_t ip = block_ip(v, key);
    const unsigned place = src->offset & (PAGE_SIZE - 1);
    struct code_page *p = page_find(&soft_engine_of(v)->code, src->ram, src->offset);
    if (!p)
        return NULL;
    struct block *b = __atomic_load_n(&p->bucket[bucket_of(place)], __ATOMIC_ACQUIRE);
    for (; b; b = __atomic_load_n(&b->bucket_next, __ATOMIC_ACQUIRE))
        if (b->place == place && b->key == key && b->ip == ip && !atomic_load(&b->stale))
            return b;
    return NULL;
}

/* Finds or makes the block; *keep: it may go into the jump cache. */
static struct block *block_get(struct soft_vcpu *v, struct source *src, uint32_t key, bool *keep)
{
    struct soft_engine *e = soft_engine_of(v);
    *keep = true;
    struct block *b = block_find(v, src, key);
    if (b && b->ram2 != NO_RAM) { /* the second page must be the one it was decoded from */
        struct ram *ram2;
        uint64_t page2;
        bool global2;
        uint64_t va2 = round_down(src->va, PAGE_SIZE) + PAGE_SIZE;
        if (tlb_fetch(v, va2, &ram2, &page2, &global2))
            return NULL;
        src->global &= global2;
        if (!ram2 || ram2->index != b->ram2 || page2 >> PAGE_SHIFT != b->page2) {
            LOCKED(&e->code.lock);
            if (!atomic_load(&b->stale))
                block_retire(&e->code, b);
            b = NULL;
        }
    }
    if (b)
        return b;

    LOCKED(&e->code.lock);
    struct code_page *p = page_mark(v, src->ram, src->offset);
    b = v->run->scratch;
    if (block_decode(v, src, b))
        return NULL;
    b->key = key;
    b->ip = block_ip(v, key);
    struct code_page *p2 = b->ram2 != NO_RAM ? page_of(&e->code, b->ram2, b->page2) : NULL;
    page_spread(v, p, b);
    if (p2)
        page_spread(v, p2, b);
    if (!page_settled(v, p) || (p2 && !page_settled(v, p2)) || !block_is_current(b, src)) {
        *keep = false;
        return b;
    }
    struct block *kept = malloc(block_size(b->count));
    if (!kept)
        abort();
    memcpy(kept, b, block_size(b->count));
    atomic_store(&kept->stale, false);
    kept->page_next = p->blocks;
    p->blocks = kept;
    if (p2) {
        kept->cross_next = p2->cross;
        p2->cross = kept;
    }
    struct block **bucket = &p->bucket[bucket_of(kept->place)];
    kept->bucket_next = *bucket;
    __atomic_store_n(bucket, kept, __ATOMIC_RELEASE);
    e->code.bytes += block_size(kept->count);
    if (e->code.bytes > e->code.limit)
        atomic_store(&e->code.want_flush, true);
    return kept;
}

static bool can_translate(const struct block *b)
{
    unsigned mode = b->key & CODE_MODE;
    uint64_t end = mode == MODE_16 ? 1ull << 16 : 1ull << 32; /* it does not wrap */
    return mode == MODE_64 ||
           (b->key & (CODE_FLAT | CODE_SEGMENTS) && (uint64_t)b->ip + b->bytes <= end);
}

/* Translates the block when it is kept. May be called for one that has a translation, or is stale.
 */
void code_translate(struct soft_vcpu *v, struct block *b)
{
    struct code_cache *c = &soft_engine_of(v)->code;
    LOCKED(&c->lock);
    if (b->code || atomic_load(&b->stale) || b == v->run->scratch || !can_translate(b))
        return;
    jit_translate(&c->jit, b, block_cs(c, b->key));
    if (b->code)
        trace_translated(soft_engine_of(v)->trace, v, b->code,
                         (size_t)(c->jit.rx + c->jit.used - b->code));
    if (c->jit.full)
        atomic_store(&c->want_flush, true);
}

void code_translate_again(struct soft_vcpu *v)
{
    struct code_cache *c = &soft_engine_of(v)->code;
    struct block *b = v->jit_again;
    v->jit_again = NULL;
    LOCKED(&c->lock);
    const bool no_windows = b->window_faults >= WINDOW_FAULTS_MAX;
    const uint64_t scattered = jit_scattered(b, v->jit_again_insn);
    if (atomic_load(&b->stale) || !b->code ||
        (no_windows == b->no_windows && scattered == b->scattered))
        return;
    b->no_windows = no_windows;
    b->scattered = scattered;
    const uint8_t *old = b->code;
    jit_translate(&c->jit, b, block_cs(c, b->key));
    if (b->code != old) {
        jit_replace(&c->jit, old, b);
        trace_translated(soft_engine_of(v)->trace, v, b->code,
                         (size_t)(c->jit.rx + c->jit.used - b->code));
    }
    if (c->jit.full)
        atomic_store(&c->want_flush, true);
}

/* The vCPU has just left translated code by an exit that leads into its own page: join it to what
 * is there now. */
void code_link(struct soft_vcpu *v)
{
    struct code_cache *c = &soft_engine_of(v)->code;
    const uint32_t slot = v->jit_link;
    const struct block *from = jit_block(&c->jit, v->jit_link_from >> NAME_PLACE_BITS);
    v->jit_link = 0;
    if (from->key & CODE_BY_IP) /* it went by the place in the page */
        v->rip = block_ip_at(from, (v->jit_link_from & (PAGE_SIZE - 1)) - (int64_t)from->place);
    uint32_t generation = c->generation;
    if (atomic_load(&v->request) || !c->jit.link)
        return;
    struct block *to = code_lookup(v); /* a fault comes again when the block is looked up to run */
    if (!to || !to->code || generation != c->generation)
        return;
    LOCKED(&c->lock);
    if (!atomic_load(&to->stale) && !atomic_load(&from->stale) && to->ram2 == NO_RAM &&
        to->ram == from->ram && to->page == from->page && to->key == from->key)
        jit_link(&c->jit, slot, to);
}

static uint32_t key_of(const struct soft_vcpu *v)
{
    enum { MX_ALL_MASKED = 0x1f80, FCW_ALL_MASKED = 0x3f };
    bool masked = (v->fpu.mxcsr & MX_ALL_MASKED) == MX_ALL_MASKED;
    bool sse = masked && !(v->cr0 & (CR0_EM | CR0_TS)) && v->cr4 & CR4_OSFXSR;
    bool avx = masked && !(v->cr0 & CR0_TS) && v->cr4 & CR4_OSXSAVE && (v->xcr0 & 6) == 6;
    bool x87 = (v->fpu.fcw & FCW_ALL_MASKED) == FCW_ALL_MASKED && !(v->cr0 & (CR0_EM | CR0_TS));
    return v->mode | (v->cpl ? 0 : CODE_CPL0) | (real_mode(v) ? CODE_REAL : 0) |
           (v8086_mode(v) ? CODE_V86 : 0) | (sse ? CODE_SSE : 0) | (avx ? CODE_AVX : 0) |
           (x87 ? CODE_X87 : 0) | v->seg_key;
}

static bool jump_hit(const struct jump_entry *j, uint64_t va, uint64_t key, uint64_t key_global)
{
    return likely(j->va == va && j->block && (j->key == key || j->key == key_global) &&
                  !j->block->stale);
}

/* The linear address of the block at rip; v->jump_key and jump_key_global are its. */
static uint64_t jump_keys_set(struct soft_vcpu *v, uint32_t key)
{
    uint64_t any = (uint64_t)key << JUMP_KEY_SHIFT | (uint64_t)v->run->jump_epoch << EPOCH_SHIFT;
    if (v->jump_key != (any | v->asid)) {
        v->jump_key = any | v->asid;
        v->jump_key_global = any | JUMP_GLOBAL;
        if (soft_engine_of(v)->code.quick)
            quick_select(v);
    }
    return v->mode == MODE_64 ? v->rip : (v->rip + v->seg[S_CS].base) & 0xffffffff;
}

static struct block *jump_find(struct soft_vcpu *v, uint64_t va)
{
    struct jump_entry *j = &v->run->jump[jump_index(va)];
    if (!jump_hit(j, va, v->jump_key, v->jump_key_global))
        j = &v->run->jump[jump_index(va) ^ 1];
    if (!jump_hit(j, va, v->jump_key, v->jump_key_global))
        return NULL;
    j->code = j->block->code;
    return j->block;
}

const uint8_t *code_go_on(struct soft_vcpu *v)
{
    const struct jit *jit = &soft_engine_of(v)->code.jit;
    if (atomic_load_explicit(&v->request, memory_order_relaxed) || v->activity != X86_RUNNING ||
        v->jit_again || jit->find == jit->find_nothing)
        return NULL;
    const struct block *b = jump_find(v, jump_keys_set(v, key_of(v)));
    v->jit_page = v->rip & ~(PAGE_SIZE - 1);
    return b ? b->code : NULL;
}

struct block *code_lookup(struct soft_vcpu *v)
{
    uint32_t key = key_of(v);
    uint64_t va = jump_keys_set(v, key), tag = v->jump_key;
    struct block *b = jump_find(v, va);
    if (b)
        return b;

    if (unlikely(atomic_load_explicit(&soft_engine_of(v)->code.want_flush, memory_order_relaxed)))
        soft_rendezvous(v->vcpu.engine, reclaim, soft_engine_of(v));
    struct source src = { .va = va, .bytes = v->run->source };
    if (tlb_fetch(v, va, &src.ram, &src.offset, &src.global))
        return NULL;
    if (!src.ram) { /* code outside RAM and ROM: nothing sensible runs there */
        raise_gp(v, 0);
        return NULL;
    }
    bool keep;
    b = block_get(v, &src, key, &keep);
    if (b && keep && v->jump_key == tag) { /* not cleared meanwhile */
        struct jump_entry *j = &v->run->jump[jump_index(va)],
                          *other = &v->run->jump[jump_index(va) ^ 1];
        quick_drop(v->quick.entries, va); /* it may be the code of a block that was retired */
        if (j->va != va && jump_epoch(j->key) == v->run->jump_epoch) {
            quick_drop_all(v, other->va);
            *other = *j;
        } else if (j->va != va) {
            quick_drop_all(v, j->va);
        }
        jump_seen(v, va, true);
        *j = (struct jump_entry){
            .va = va, .key = src.global ? v->jump_key_global : tag, .block = b, .code = b->code
        };
    }
    return b;
}
