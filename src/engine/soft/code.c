/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Finding and making blocks and translations, and linking them.
 */
#include "engine/soft/code.h"

#include "engine/soft/jump_cache.h"
#include "engine/soft/tlb.h"
#include "engine/soft/trace.h"

#include <string.h>

uint32_t code_cs_name(struct soft_engine *e, uint32_t base, uint32_t limit)
{
    enum { PROBES = 8 };
    const uint64_t cs = (uint64_t)base << 32 | limit;
    if (!cs) /* as a free name is; one byte of code */
        return 0;
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
    struct code_page *p = code_page_find(&soft_engine_of(v)->code.pages, src->ram, src->offset);
    if (!p)
        return NULL;
    struct block *b = __atomic_load_n(&p->bucket[bucket_of(place)], __ATOMIC_ACQUIRE);
    for (; b; b = __atomic_load_n(&b->bucket_next, __ATOMIC_ACQUIRE))
        if (b->place == place && b->key == key && b->ip == ip && !atomic_load(&b->stale))
            return b;
    return NULL;
}

/* Decodes the block; *keep: it may be run again. lock held. */
static struct block *block_make(struct soft_vcpu *v, struct source *src, uint32_t key, bool *keep)
{
    struct block *b = v->run->scratch;
    code_page_mark(v, src->ram, src->offset);
    if (block_decode(v, src, b))
        return NULL;
    b->key = key;
    b->ip = block_ip(v, key);
    *keep = code_pages_take(v, b) && block_is_current(b, src);
    return *keep ? block_keep(&soft_engine_of(v)->code, b) : b;
}

/* Finds or makes the block; *keep: it may go into the jump cache. */
static struct block *block_get(struct soft_vcpu *v, struct source *src, uint32_t key, bool *keep)
{
    struct code_cache *c = &soft_engine_of(v)->code;
    struct block *b = block_find(v, src, key);
    *keep = true;
    if (b && b->ram2 == NO_RAM)
        return b;
    if (b) { /* the second page must be the one it was decoded from */
        if (source_second(v, src))
            return NULL;
        if (src->ram2 && src->ram2->index == b->ram2 && src->page2 >> PAGE_SHIFT == b->page2)
            return b;
    }
    LOCKED(&c->lock);
    if (b && !atomic_load(&b->stale))
        block_retire(c, b);
    return block_make(v, src, key, keep);
}

static bool can_translate(const struct block *b)
{
    unsigned mode = b->key & CODE_MODE;
    uint64_t end = mode == MODE_16 ? 1ull << 16 : 1ull << 32; /* it does not wrap */
    return mode == MODE_64 ||
           (b->key & (CODE_FLAT | CODE_SEGMENTS) && (uint64_t)b->ip + b->bytes <= end);
}

/* lock held */
static void block_translate(struct soft_vcpu *v, struct block *b)
{
    struct code_cache *c = &soft_engine_of(v)->code;
    const uint8_t *old = b->code;
    jit_translate(&c->jit, b, block_cs(c, b->key));
    if (b->code != old)
        trace_translated(soft_engine_of(v)->trace, v, b->code,
                         (size_t)(c->jit.rx + c->jit.used - b->code));
    if (c->jit.full)
        atomic_store(&c->want_flush, true);
}

/* Translates the block when it is kept. May be called for one that has a translation, or is stale.
 */
void code_translate(struct soft_vcpu *v, struct block *b)
{
    LOCKED(&soft_engine_of(v)->code.lock);
    if (!b->code && !atomic_load(&b->stale) && b != v->run->scratch && can_translate(b))
        block_translate(v, b);
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
    block_translate(v, b);
    if (b->code != old)
        jit_replace(&c->jit, old, b);
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
        code_reclaim(v);
    struct source src = { .va = va, .bytes = v->run->source };
    if (tlb_fetch(v, va, &src.ram, &src.offset, &src.global))
        return NULL;
    if (!src.ram) { /* code outside RAM and ROM: nothing sensible runs there */
        raise_gp(v, 0);
        return NULL;
    }
    bool keep;
    b = block_get(v, &src, key, &keep);
    if (b && keep && v->jump_key == tag) /* not cleared meanwhile */
        jump_enter(v, va, b, src.global);
    return b;
}
