/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A block: decoded instructions from one address, and how it is decoded.
 *
 * Invariants
 *  1. A block says all that it was made of: its key, what decoding and translation depend on
 * besides the bytes (CODE_*, the IP where that counts), and where each of its bytes lies in RAM. So
 * whoever finds it by these may run it, whatever the address space.
 *  2. It is decoded from a copy of its bytes, under the cache's lock and in marked pages
 * (code_page.h), and kept only if they are still the same then.
 */
#ifndef ENGINE_SOFT_CODE_BLOCK_H
#define ENGINE_SOFT_CODE_BLOCK_H

#include "engine/soft/insn.h"
#include "machine/memory.h"

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

static inline size_t block_bytes(unsigned count)
{
    return sizeof(struct block) + (count + 1) * sizeof(struct insn);
}

/* The part of a block that lies in its first page, and in its second. */
static inline uint64_t block_head(const struct block *b)
{
    const unsigned room = PAGE_SIZE - b->place;
    return b->bytes < room ? b->bytes : room;
}
static inline uint64_t block_tail(const struct block *b) { return b->bytes - block_head(b); }

/* Where the bytes of a block come from: its first page, and the next one if an instruction crosses
 * into it. */
struct source {
    uint64_t va; /* linear address of the block */
    struct ram *ram, *ram2;
    uint64_t offset, page2;
    bool global;     /* all of it so far */
    uint8_t *bytes;  /* a copy, which is decoded, as the guest may write meanwhile... */
    unsigned copied; /* ... of so much of the first page; behind that comes the second */
};

/* Where the next page is: ram2, page2. Answers as tlb_fetch does. */
int source_second(struct soft_vcpu *v, struct source *src);
/*
 * Decodes a block into `b` (room for BLOCK_MAX + 1 instructions). Ends at an unconditional branch,
 * at the page's end, or before an instruction that crosses it (unless it is the first). Answers
 * OP_FAULT when the second page cannot be had. The cache's lock is held, the first page marked.
 */
int block_decode(struct soft_vcpu *v, struct source *src, struct block *b);
/* Are the bytes still those that were decoded? Asked when all have acknowledged: who had not may
 * have written until then without being noticed. */
bool block_is_current(const struct block *b, const struct source *src);

extern insn_fn op_stale, op_block_end;

#endif
