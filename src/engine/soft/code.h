/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The cache of decoded blocks: shared by all vCPUs, keyed by where the code lies in RAM.
 *
 * Invariants
 *  1. A page's RAM_PAGE_CODE flag is set before its bytes are read for decoding, and stays while
 * any block lies in it.
 *  2. Once the flag is set, every vCPU other than the marker drops its write tags at its next safe
 * point and publishes the epoch (vcpu_run.acked). A block is put into the cache only if every vCPU
 * that is not parked has acknowledged the page's epoch, and its bytes are still the same then;
 * until then blocks of the page run once and are forgotten. So no store misses a kept block.
 *  3. A store into a code page writes first and then takes the lock and retires what overlaps;
 * decoding reads the bytes and inserts under the same lock. So a block never outlives the bytes it
 * was made of.
 *  4. A retired block's handlers are all op_stale, so that a vCPU inside it leaves at the next
 * instruction boundary; its memory is freed only in a rendezvous after every jump cache was
 * cleared.
 *  5. A granule's bit in its page is set while any kept block lies in it. Setting one is like
 * marking the page, but for the tags, which stay: a new epoch, and blocks are kept only when all
 * vCPUs have acknowledged it, at a point where no store is between its look at the bits and its
 * bytes. So a store that finds the bits of its bytes clear need not look any further.
 *  6. v->quick goes with the jump keys: its key is one of them, or none that an entry has. Only
 * entries of the jump cache with that key get into its table, and whatever takes an address out of
 * the jump cache takes it out of all tables.
 */
#ifndef ENGINE_SOFT_CODE_H
#define ENGINE_SOFT_CODE_H

#include "engine/soft/insn.h"
#include "engine/soft/jit.h"
#include "machine/memory.h"

#include <pthread.h>

struct soft_engine;
struct soft_vcpu;

enum { BLOCK_MAX = 48 }; /* instructions; the sentinel comes on top */
_Static_assert(BLOCK_MAX *INSN_LONGEST <= INSN_START_MAX, "insn.start has room");
enum { SOURCE_PIECE = 64, SOURCE_MAX = BLOCK_MAX * INSN_LONGEST + SOURCE_PIECE };
enum { WINDOW_FAULTS_MAX = 16, SCATTERED_MAX = 3 };

/* What running a block looks at comes last, beside its instructions. 72 bytes: with them and the 8
 * that malloc adds it is a multiple of 16, as malloc gives. */
enum { NO_RAM = 0xff };
struct block {
    struct block *bucket_next; /* same page, same bucket; lock for writing */
    struct block *page_next;  /* lock; all blocks that start in the page, or all that are retired */
    struct block *cross_next; /* lock; blocks of the previous page that reach into this one */
    uint64_t scattered; /* lock; a bit for each instruction that hardly ever finds its last page */
    uint32_t out;       /* lock; offset in the translation: leaves at the block's start */
    uint32_t page2;     /* the second page in ram2 */
    uint32_t key;       /* CODE_* */
    uint32_t ip;        /* CODE_BY_IP: of the first byte; otherwise 0 */
    uint32_t page;      /* where it begins: of the RAM, and the offset in it */
    uint16_t place;
    uint16_t bytes;
    uint8_t ram, ram2;   /* their index; ram2: of the second page, NO_RAM if it lies in one */
    bool no_windows : 1; /* lock; too many of them */
    bool loops : 1;      /* lock; its translation can run on in itself */
    uint8_t count;
    _Atomic uint8_t window_faults; /* windows that could not be opened */
    _Atomic bool stale;
    _Atomic uint16_t heat; /* how often it was interpreted; some turns are lost, only a hint */
    const uint8_t *_Atomic code; /* its translation, whole when it is seen, or NULL */
    struct insn insns[];         /* count + 1: the last is op_block_end */
};
_Static_assert(sizeof(struct block) == 72 && BLOCK_MAX < 64, "as said above; bits of scattered");

/* Aligned, so that a TLB entry can name one in few bits (cpu.h, tlb_code_tag). */
enum {
    PAGE_BUCKETS = 32,
    CODE_PAGE_ALIGN = 64,
    GRANULE_BITS = 3,
    PAGE_GRANULES = PAGE_SIZE >> GRANULE_BITS
};
struct code_page {
    /* A bit for each 8 bytes: code may lie there. All ones at first. A page that is written often
     * goes by its blocks from then on, so that data beside code costs little: invariant 5. Lock for
     * writing; first, and one word more that stays 0: translated code reads 64 bits from any byte.
     */
    _Atomic uint64_t granules[PAGE_GRANULES / 64 + 1];
    struct block *bucket[PAGE_BUCKETS]; /* read without locks */
    struct block *blocks, *cross;
    struct ram *ram; /* fixed at create, as is the offset */
    uint64_t offset;
    uint32_t epoch;   /* when it was marked, or granules were added */
    uint16_t stores;  /* to the page as a whole so far */
    uint16_t idle;    /* stores since it has no block */
    uint16_t spreads; /* how often other vCPUs had to be told of new granules */
    uint16_t whole;   /* stores since that was too often */
};

/* Bases and limits of CS that blocks have been made for: base << 32 | limit, 0 for none. Set once.
 */
enum { CODE_NAMES = 1 << 12 };

enum { CODE_RAMS = 16 }; /* as a machine has */

struct code_cache {
    pthread_mutex_t lock;
    _Atomic uint64_t names[CODE_NAMES];
    struct code_page **pages[CODE_RAMS]; /* [ram index][page]; lazily made, entries read without
                                            locks */
    uint32_t page_count[CODE_RAMS];
    _Atomic uint32_t epoch, drops; /* drops: the newest epoch that wants write tags dropped; lock */
    uint64_t bytes, retired_bytes; /* lock */
    struct block *retired;         /* lock */
    uint64_t limit,
        limit_most;   /* of bytes; lock. Grows up to limit_most, which is fixed at create */
    uint64_t full_at; /* lock; CPU time of the process when the limit was last reached, ns */
    struct jit jit;   /* lock */
    bool jit_on;      /* fixed at create */
    bool quick;       /* quick tables are used; fixed at create */
    bool granules;    /* pages that are written often go by them; fixed at create */
    unsigned translate_after; /* times a block is interpreted before; fixed at create */
    uint32_t generation; /* counts what has freed blocks or code; changes in a rendezvous only */
    uint64_t flushes, cold_drops; /* of all that, and of blocks without translation; lock */
    _Atomic bool want_flush; /* over the limit: the next block look-up flushes in a rendezvous */
};

/*
 * Jump cache: linear address -> block, per vCPU. Entries of one page lie together, so that INVLPG
 * can clear them; an address has two places, next to each other. All are cleared at once by a new
 * epoch, which the keys tell.
 */
enum {
    JUMP_MIX = 6,
    JUMP_PAGE_BITS = 7,
    JUMP_PAGES = 256,
    JUMP_SIZE = JUMP_PAGES << JUMP_PAGE_BITS,
    JUMP_SEEN = 4096
};
enum { JUMP_KEY_SHIFT = 32 }; /* in a key: CODE_* of the block; below: epoch, address space */
struct jump_entry {
    uint64_t va;
    const uint8_t *code; /* the block's translation, for translated code */
    uint64_t key;
    struct block *block;
};

/*
 * Before it, for translated code alone: a table for each address space and mode, so that an address
 * is all that has to be compared. What is in one is also in the jump cache, and goes with it. The
 * kernel's has global pages only and is the same for all address spaces.
 */
enum { QUICK_BITS = 10, QUICK_SIZE = 1 << QUICK_BITS, QUICK_MIX = 9, QUICK_SHIFT = 4 };
struct quick_entry {
    uint64_t va;         /* an empty one has an address that does not look here */
    const uint8_t *code; /* as in jump_entry, which can stand for it */
};
struct quick_table {
    uint64_t key; /* of the jump entries that belong here */
    struct quick_entry entries[QUICK_SIZE];
};

/* Everything besides the bytes that decoding and translation depend on. */
enum {
    CODE_MODE = 3, /* MODE_* */
    CODE_CPL0 = 4,
    CODE_REAL = 8,
    CODE_V86 = 16,
    CODE_SSE = 32,  /* SSE may be used and all its exceptions are masked */
    CODE_AVX = 64,  /* the same for AVX */
    CODE_X87 = 128, /* the same for x87 */
    /* 32-bit code: CS, SS, DS and ES are the whole 4 GiB from 0 */
    CODE_FLAT = 256,
    /* Other code: limits and bases of data segments count at each access */
    CODE_SEGMENTS = 512,
    CODE_STACK16 = 1024, /* with it: the stack goes by SP */
    /* With it: 16-bit code, or CS is not the whole 4 GiB from 0. Such a block is of one IP and of
     * one base and limit of CS: CODE_CS is the base in paragraphs, or names both (CODE_NAMED) */
    CODE_BY_IP = 2048,
    CODE_NAMED = 4096,
    CODE_CS_SHIFT = 16,
};

/* Of the first byte in its RAM */
static inline uint64_t block_offset(const struct block *b)
{
    return (uint64_t)b->page << PAGE_SHIFT | b->place;
}
static inline uint64_t block_offset2(const struct block *b)
{
    return (uint64_t)b->page2 << PAGE_SHIFT;
}
/* Of a block that is of one IP: that of what lies `delta` behind its start. */
static inline uint32_t block_ip_at(const struct block *b, int64_t delta)
{
    const uint32_t ip = (uint32_t)(b->ip + delta);
    return (b->key & CODE_MODE) == MODE_16 ? (uint16_t)ip : ip;
}

int code_cache_init(struct code_cache *c);
void code_cache_fini(struct code_cache *c);

/* The block at v->rip, or NULL with v->exc set. May be a one-time block (v->run->scratch). */
struct block *code_lookup(struct soft_vcpu *v);
/* The translation of the block at v->rip, if it may be run at once, without leaving translated
 * code; v->jit_page is set then. NULL otherwise. */
const uint8_t *code_go_on(struct soft_vcpu *v);
void code_translate(struct soft_vcpu *v, struct block *b);
void code_link(struct soft_vcpu *v);
/* Translates v->jit_again once more, without what it does not gain by. */
void code_translate_again(struct soft_vcpu *v);
/* Between two blocks: whatever was checked before is over. */
void code_acknowledge(struct soft_vcpu *v);
/* Retires what overlaps. Any thread. */
void code_written(struct soft_engine *e, struct ram *ram, uint64_t offset, uint64_t len);
/* Forgets everything. Only inside a rendezvous. */
void code_flush(struct soft_engine *e);
/* The vCPU has just stored to a page that may hold code. */
void code_stored(struct soft_vcpu *v, struct code_page *p, unsigned at, unsigned len);
/* The page's blocks, or NULL if it never had any. */
struct code_page *code_page_find(struct soft_engine *e, const struct ram *ram, uint64_t offset);
void jump_cache_clear(struct soft_vcpu *v);
void jump_cache_clear_page(struct soft_vcpu *v, uint64_t va);

/* CODE_NAMED with a number that stands for this base and limit of CS; 0 when there are too many. */
uint32_t code_cs_name(struct soft_engine *e, uint32_t base, uint32_t limit);

extern insn_fn op_stale, op_block_end, op_privileged;

#endif
