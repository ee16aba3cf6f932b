/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Blocks of random instructions are translated and verified; then every instruction of some blocks
 * is spoilt in each way that would be an escape, and the verifier must notice all of them.
 */
#include "verify.h"

#include "base/checked.h"
#include "engine/soft/run.h"

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CACHE = 8 << 20, RANDOM_BLOCKS = 30000, SPOILT_BLOCKS = 20 };

static uint64_t random_state = 88172645463325252ull;
static unsigned random_below(unsigned n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)((random_state * 0x2545f4914f6cdd1d) >> 33) % n;
}

/* ---- Blocks ---- */

static struct block *block_new(void)
{
    struct block *b = calloc(1, sizeof *b + (BLOCK_MAX + 1) * sizeof(struct insn));
    if (!b)
        abort();
    b->key = MODE_64 | CODE_SSE | CODE_X87 | (random_below(2) ? CODE_CPL0 : 0);
    b->place = (uint16_t)random_below(4096);
    return b;
}

/* One more instruction; false: it is none, or the block has its end. */
static bool block_add(struct block *b, const uint8_t *bytes, unsigned len)
{
    bool gp = false;
    int r = insn_decode(bytes, len, b->key & CODE_MODE, ~0ull, b->bytes, &b->insns[b->count], &gp);
    if (r <= 0)
        return true;
    bool end = (insn_rows[b->insns[b->count].row].attr & (AT_END | AT_FALLS)) == AT_END;
    b->bytes += (uint16_t)r;
    return !end && ++b->count < BLOCK_MAX;
}

/* Prefixes and opcodes as compilers choose them, so that most bytes are an instruction. */
static void random_insn(uint8_t *bytes)
{
    static const uint8_t prefixes[] = { 0x66, 0xf2, 0xf3, 0xf0, 0x64, 0x65, 0x67 };
    unsigned n = 0;
    for (unsigned k = 0; k < 16; k++)
        bytes[k] = (uint8_t)random_below(256);
    if (random_below(3) == 0)
        bytes[n++] = prefixes[random_below(sizeof prefixes)];
    if (random_below(2))
        bytes[n++] = (uint8_t)(0x40 + random_below(16));
    if (random_below(2))
        bytes[n++] = 0x0f;
    if (random_below(4) == 0)
        memset(bytes + n + 3, 0, 5);
}

static void random_block(struct jit *j)
{
    struct block *b = block_new();
    static const uint32_t keys[] = {
        MODE_32 | CODE_FLAT | CODE_SSE | CODE_X87,
        MODE_32 | CODE_SEGMENTS | CODE_SSE | CODE_X87,
        MODE_32 | CODE_SEGMENTS | CODE_BY_IP | CODE_STACK16,
        MODE_16 | CODE_SEGMENTS | CODE_BY_IP | CODE_STACK16 | CODE_REAL | CODE_CPL0,
        MODE_16 | CODE_SEGMENTS | CODE_BY_IP | CODE_SSE,
    };
    if (random_below(2) == 0)
        b->key = keys[random_below(ARRAY_LEN(keys))];
    b->ip = 0x1000;
    const struct jit_cs cs = { 0x12340, random_below(2) ? 0xffff : 0x1020 };
    uint8_t bytes[16];
    unsigned want = 1 + random_below(20);
    do
        random_insn(bytes);
    while (block_add(b, bytes, 15) && b->count < want);
    if (b->count)
        jit_translate(j, b, cs);
    free(b);
}

static bool random_blocks(void)
{
    struct jit j = { 0 };
    struct err err = { 0 };
    if (jit_create(&j, CACHE, &err) < 0) {
        printf("%s\n", err.text);
        return false;
    }
    jit_inspect = verify_or_die;
    j.link = j.windows = j.loops = j.pins = j.syscalls = j.sse = j.x87 = j.last = true;
    for (unsigned n = 0; n < RANDOM_BLOCKS; n++) {
        random_block(&j);
        if (j.full)
            jit_reset(&j);
    }
    printf("%u random blocks, %llu translated\n", RANDOM_BLOCKS, (unsigned long long)j.blocks);
    bool many = j.blocks > RANDOM_BLOCKS / 2;
    jit_destroy(&j);
    jit_inspect = NULL;
    return many;
}

/* The longest code that a block can become must fit the room that the translator sets aside: all
 * vector registers changed, and every instruction with two checks. */
static bool fullest_blocks(void)
{
    static const struct {
        uint8_t bytes[9], len, reg; /* reg: where the register's number goes, shifted by 3 */
    } insns[] = {
        { { 0xc5, 0xfc, 0x28, 0x81, 0, 1, 0, 0 }, 8, 3 },       /* vmovaps disp32(%rcx), %ymmN */
        { { 0xc5, 0xfc, 0x29, 0x81, 0, 1, 0, 0 }, 8, 3 },       /* and back */
        { { 0x0f, 0x28, 0x81, 0, 1, 0, 0 }, 7, 2 },             /* movaps */
        { { 0x0f, 0x58, 0x81, 0, 1, 0, 0 }, 7, 2 },             /* addps */
        { { 0xc5, 0xfc, 0x58, 0x81, 0, 1, 0, 0 }, 8, 3 },       /* vaddps */
        { { 0x0f, 0x84, 0, 1, 0, 0 }, 6, 0 },                   /* jz */
        { { 0x0f, 0x2e, 0x81, 0, 1, 0, 0 }, 7, 2 },             /* ucomiss */
        { { 0x66, 0x0f, 0x38, 0x17, 0x81, 0, 1, 0, 0 }, 9, 4 }, /* ptest */
        { { 0xd8, 0x81, 0, 1, 0, 0 }, 6, 0 },                   /* fadd */
        { { 0xd9, 0xa9, 0, 1, 0, 0 }, 6, 0 },                   /* fldcw */
        { { 0x48, 0xf7, 0xb1, 0, 1, 0, 0 }, 7, 0 },             /* div */
        { { 0x48, 0xf7, 0xb9, 0, 1, 0, 0 }, 7, 0 },             /* idiv */
    };
    for (unsigned first = 0; first < ARRAY_LEN(insns); first++)
        for (unsigned second = 0; second < ARRAY_LEN(insns); second++) {
            struct jit j = { 0 };
            struct err err = { 0 };
            struct verdict v;
            if (jit_create(&j, 1 << 20, &err) < 0)
                abort();
            j.link = j.windows = j.loops = j.pins = j.syscalls = j.sse = j.x87 = j.last = true;
            struct block *b = block_new();
            b->key |= CODE_AVX;
            b->place = 0;
            for (unsigned n = 0; n < BLOCK_MAX; n++) {
                /* 8 registers by themselves, those behind them with a prefix */
                unsigned k = n < 14 ? first % 2 : n % 3 ? first : second;
                uint8_t bytes[16] = { 0 };
                memcpy(bytes, insns[k].bytes, insns[k].len);
                if (insns[k].reg)
                    bytes[insns[k].reg] |= (uint8_t)((n & 7) << 3);
                if (insns[k].reg == 3 && n % 14 >= 8)
                    bytes[1] &= 0x7f;
                block_add(b, bytes, 15);
            }
            jit_translate(&j, b, (struct jit_cs){ 0, UINT32_MAX });
            verify_cache(&j, &v);
            if (v.faults || !v.blocks)
                printf("full block: %s\n", v.first);
            bool fine = v.blocks && !v.faults;
            jit_destroy(&j);
            free(b);
            if (!fine)
                return false;
        }
    return true;
}

/* ---- Spoiling ---- */

struct spoiler {
    struct jit *j;
    uint8_t *at; /* in the writable view */
    ZydisDecodedInstruction z;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    const uint8_t *block;
};

static bool overwrite(struct spoiler *s, const uint8_t *bytes, unsigned len)
{
    if (s->z.length < len || memcmp(s->at, bytes, len) == 0)
        return false;
    memset(s->at, 0x90, s->z.length);
    memcpy(s->at, bytes, len);
    return true;
}
#define FORBIDDEN(name, ...)                            \
    static bool put_##name(struct spoiler *s)           \
    {                                                   \
        static const uint8_t bytes[] = { __VA_ARGS__ }; \
        return overwrite(s, bytes, sizeof bytes);       \
    }
FORBIDDEN(syscall, 0x0f, 0x05)
FORBIDDEN(sysenter, 0x0f, 0x34)
FORBIDDEN(int80, 0xcd, 0x80)
FORBIDDEN(in, 0xec)
FORBIDDEN(ret, 0xc3)
FORBIDDEN(pop, 0x58)
FORBIDDEN(popf, 0x9d)
FORBIDDEN(std, 0xfd)
FORBIDDEN(movs, 0xa4)
FORBIDDEN(hlt, 0xf4)
FORBIDDEN(int3, 0xcc)
FORBIDDEN(wrgsbase, 0xf3, 0x48, 0x0f, 0xae, 0xd8)
FORBIDDEN(wrfsbase, 0xf3, 0x0f, 0xae, 0xd0)
FORBIDDEN(wrpkru, 0x0f, 0x01, 0xef)
FORBIDDEN(mov_fs, 0x8e, 0xe0)
FORBIDDEN(gather, 0xc4, 0xe2, 0x69, 0x90, 0x04, 0x08)
FORBIDDEN(maskmov, 0x66, 0x0f, 0xf7, 0xc1)
FORBIDDEN(fxrstor, 0x65, 0x0f, 0xae, 0x0c, 0x25, 0, 0, 0, 0)
FORBIDDEN(ldmxcsr, 0x0f, 0xae, 0x10)
FORBIDDEN(fldcw, 0xd9, 0x28)
FORBIDDEN(fninit, 0xdb, 0xe3)
FORBIDDEN(fnstenv, 0xd9, 0x30)
FORBIDDEN(frstor, 0xdd, 0x20)
FORBIDDEN(mov_rsp, 0x48, 0x89, 0xc4)
FORBIDDEN(load_rsp, 0x48, 0x8b, 0x04, 0x24)
FORBIDDEN(load_rcx, 0x48, 0x8b, 0x01)
FORBIDDEN(load_fs, 0x64, 0x48, 0x8b, 0x00)
FORBIDDEN(load_absolute, 0x8b, 0x04, 0x25, 0, 0, 0, 0)
FORBIDDEN(load_rip, 0x8b, 0x05, 0, 0, 0, 0)
FORBIDDEN(store_indexed, 0x89, 0x04, 0x08)
FORBIDDEN(gs_indexed, 0x65, 0x8b, 0x01)
FORBIDDEN(store_tlb, 0x65, 0x48, 0x89, 0x04, 0x25, (uint8_t)offsetof(struct soft_vcpu, tlb),
          offsetof(struct soft_vcpu, tlb) >> 8, 0, 0)
FORBIDDEN(gs_beyond, 0x65, 0x8b, 0x04, 0x25, (uint8_t)sizeof(struct soft_vcpu),
          (uint8_t)(sizeof(struct soft_vcpu) >> 8), (uint8_t)(sizeof(struct soft_vcpu) >> 16), 0)
FORBIDDEN(gs_before, 0x65, 0x8b, 0x04, 0x25, 0xf8, 0xff, 0xff, 0xff)
FORBIDDEN(jmp_rax, 0xff, 0xe0)
FORBIDDEN(call_rax, 0xff, 0xd0)

static bool is_rax(const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->reg.value == ZYDIS_REGISTER_RAX;
}
static bool is_entry_field(const ZydisDecodedOperand *o, size_t field)
{
    return o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.base == ZYDIS_REGISTER_R14 &&
           (size_t)o->mem.disp.value == field;
}
static bool after_tag(const struct spoiler *s, unsigned back)
{
    const uint8_t *p = s->at - back; /* sub rax, [r14] or [r14 + 8] */
    return (p[0] == 0x49 && p[1] == 0x2b && p[2] == 0x06) ||
           (p[-1] == 0x49 && p[0] == 0x2b && p[1] == 0x46);
}

/* One byte more than was checked. */
static bool limit_raised(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_CMP || !is_rax(&s->o[0]) || !after_tag(s, 3) ||
        s->z.length != 7)
        return false;
    uint32_t limit;
    memcpy(&limit, s->at + 3, 4);
    limit++;
    memcpy(s->at + 3, &limit, 4);
    return true;
}
static bool check_ignored(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_JNBE || !after_tag(s, 10))
        return false;
    memset(s->at, 0x90, s->z.length);
    return true;
}
static bool check_reversed(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_JNBE || !after_tag(s, 10))
        return false;
    s->at[1] ^= 1;
    return true;
}
static bool host_not_added(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_ADD || !is_rax(&s->o[0]) ||
        !is_entry_field(&s->o[1], offsetof(struct tlb_entry, host)))
        return false;
    memset(s->at, 0x90, s->z.length);
    return true;
}
static bool read_for_write(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_SUB || !is_rax(&s->o[0]) ||
        !is_entry_field(&s->o[1], offsetof(struct tlb_entry, write)))
        return false;
    s->at[3] = offsetof(struct tlb_entry, read);
    return true;
}
static bool mask_widened(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_AND || s->o[0].reg.value != ZYDIS_REGISTER_R14D ||
        s->o[1].imm.value.u != (TLB_SIZE - 1) * sizeof(struct tlb_entry))
        return false;
    s->at[5] = 1;
    return true;
}
/* The quick table: an entry beyond it, one for another address, a page that is not its own. */
static bool quick_mask_widened(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_AND || s->o[0].reg.value != ZYDIS_REGISTER_EAX ||
        s->o[1].imm.value.u != (QUICK_SIZE - 1) << QUICK_SHIFT)
        return false;
    s->at[4] = 1;
    return true;
}
static bool quick_unasked(struct spoiler *s)
{
    static const uint8_t cmp[] = { 0x4c, 0x39, 0x30 }; /* cmp [rax], r14 */
    if (s->z.mnemonic != ZYDIS_MNEMONIC_JNZ || memcmp(s->at - 3, cmp, 3) != 0)
        return false;
    memset(s->at, 0x90, s->z.length);
    return true;
}
static bool page_unmasked(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_AND || s->o[0].reg.value != ZYDIS_REGISTER_R14)
        return false;
    s->at[4] ^= 0x20;
    return true;
}
static bool page_kept(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_MOV || s->o[0].type != ZYDIS_OPERAND_TYPE_MEMORY ||
        s->o[0].mem.segment != ZYDIS_REGISTER_GS ||
        s->o[0].mem.disp.value != offsetof(struct soft_vcpu, jit_page))
        return false;
    memset(s->at, 0x90, s->z.length);
    return true;
}
static bool jump_by_address(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_JMP || s->o[0].type != ZYDIS_OPERAND_TYPE_MEMORY)
        return false;
    s->at[2] = offsetof(struct quick_entry, va);
    return true;
}
/* Behind the OR that masks the exceptions of FLDCW */
static bool exceptions_unmasked(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_OR || s->o[0].reg.value != ZYDIS_REGISTER_R14D ||
        s->z.length != 4 || s->at[3] != 0x7f)
        return false;
    s->at[3] = 0x7e;
    return true;
}
static bool jump_moved(struct spoiler *s)
{
    if (s->z.meta.category != ZYDIS_CATEGORY_COND_BR &&
        s->z.meta.category != ZYDIS_CATEGORY_UNCOND_BR && s->z.mnemonic != ZYDIS_MNEMONIC_CALL)
        return false;
    int32_t rel = (int32_t)(s->block + 2 - (s->at + s->z.length));
    memcpy(s->at + s->z.length - 4, &rel, 4);
    return true;
}
/* Back behind the addition that makes a host address. */
static bool store_back_late(struct spoiler *s)
{
    int32_t rel;
    if (s->z.mnemonic != ZYDIS_MNEMONIC_JNB || s->at[-5] != 0xe8)
        return false;
    memcpy(&rel, s->at + 2, 4);
    rel += 4;
    memcpy(s->at + 2, &rel, 4);
    return true;
}
static bool call_moved(struct spoiler *s, const uint8_t *to)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_CALL)
        return false;
    int32_t rel = (int32_t)(to - s->j->rx + s->j->rw - (s->at + 5));
    if (memcmp(s->at + 1, &rel, 4) == 0)
        return false;
    memcpy(s->at + 1, &rel, 4);
    return true;
}
/* Behind its straight way a block names itself to C: its instructions, its exits. */
static bool is_r14_load(const uint8_t *at, uint8_t rex) { return at[0] == rex && at[1] == 0xbe; }
static bool block_named_wrongly(struct spoiler *s)
{
    if (!is_r14_load(s->at, 0x49))
        return false;
    s->at[2] ^= 64;
    return true;
}
static bool insn_named_wrongly(struct spoiler *s)
{
    if (s->at[0] != 0xb0)
        return false;
    s->at[1] = BLOCK_MAX;
    return true;
}
static bool exit_named_wrongly(struct spoiler *s)
{
    if (s->at[0] != 0xb8 || !is_r14_load(s->at + 5, 0x41))
        return false;
    s->at[1] ^= 4;
    return true;
}
static bool exit_of_another(struct spoiler *s)
{
    if (!is_r14_load(s->at, 0x41) || s->at[6] != 0xe9)
        return false;
    s->at[3] ^= 1 << (NAME_PLACE_BITS - 8);
    return true;
}
static bool jumps_to(struct spoiler *s, const uint8_t *to)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_JMP || s->z.length != 5 || is_r14_load(s->at - 10, 0x49))
        return false;
    int32_t rel = (int32_t)(to - s->j->rx + s->j->rw - (s->at + 5));
    memcpy(s->at + 1, &rel, 4);
    return true;
}
static bool into_handler(struct spoiler *s) { return jumps_to(s, s->j->call_handler); }
static bool into_find(struct spoiler *s) { return jumps_to(s, s->j->find_on); }
/* Where another check failed, and where nothing did */
static bool load_stored(struct spoiler *s) { return call_moved(s, s->j->code_store[0]); }
static bool large_stored(struct spoiler *s)
{
    int32_t rel;
    memcpy(&rel, s->at + 1, 4);
    return s->z.mnemonic == ZYDIS_MNEMONIC_CALL &&
           s->at + 5 + rel == s->j->code_store[1] - s->j->rx + s->j->rw && load_stored(s);
}
static bool store_found(struct spoiler *s) { return call_moved(s, s->j->find); }
static bool jump_outside(struct spoiler *s)
{
    if (!jump_moved(s))
        return false;
    s->at[s->z.length - 1] = 0x7f;
    return true;
}

/* A site's last page: a field of another site, for a byte more, not compared, one found elsewhere.
 */
static bool site_field(const struct spoiler *s, size_t field)
{
    return s->z.length == 9 && s->z.operand_count > 1 &&
           s->o[1].type == ZYDIS_OPERAND_TYPE_MEMORY && s->o[1].mem.segment == ZYDIS_REGISTER_GS &&
           (uint64_t)s->o[1].mem.disp.value - field < LAST_SITES * 8;
}
static bool site_exchanged(struct spoiler *s, size_t field)
{
    if (!site_field(s, field))
        return false;
    s->at[5] ^= 16;
    return true;
}
static bool site_tag(struct spoiler *s)
{
    return site_exchanged(s, offsetof(struct soft_vcpu, last.tag));
}
static bool site_room(struct spoiler *s)
{
    return site_exchanged(s, offsetof(struct soft_vcpu, last.room));
}
static bool site_host(struct spoiler *s)
{
    return site_exchanged(s, offsetof(struct soft_vcpu, last.host));
}
static bool site_not_compared(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_CMP ||
        !site_field(s, offsetof(struct soft_vcpu, last.room)))
        return false;
    memset(s->at, 0x90, s->z.length);
    return true;
}
static bool site_ignored(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_JNB || s->at[-9] != 0x65)
        return false;
    memset(s->at, 0x90, s->z.length);
    return true;
}
static bool is_site_asked(const struct spoiler *s)
{
    return s->at[0] == 0x41 && s->at[1] == 0xbe && s->at[6] == 0xe8;
}
static bool site_asked(struct spoiler *s)
{
    if (!is_site_asked(s))
        return false;
    s->at[2] ^= 16;
    return true;
}
static bool site_asked_smaller(struct spoiler *s)
{
    if (!is_site_asked(s))
        return false;
    s->at[4]++;
    return true;
}

/* The look of a turn: not heeded, at something else, and leaving for the loop itself */
static bool is_look(const struct spoiler *s, unsigned back)
{
    static const uint8_t look[] = { 0x65,
                                    0x83,
                                    0x3c,
                                    0x25,
                                    (uint8_t)offsetof(struct soft_vcpu, request),
                                    offsetof(struct soft_vcpu, request) >> 8,
                                    0,
                                    0,
                                    0 };
    return s->at > s->block + back && memcmp(s->at - back, look, sizeof look) == 0;
}
static bool look_not_heeded(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_JNZ || !is_look(s, 9))
        return false;
    memset(s->at, 0x90, s->z.length);
    return true;
}
static bool look_elsewhere(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_CMP || !is_look(s, 0))
        return false;
    s->at[4] ^= 4;
    return true;
}
static bool look_goes_round(struct spoiler *s)
{
    if (s->z.mnemonic != ZYDIS_MNEMONIC_JNZ || !is_look(s, 9))
        return false;
    int32_t rel = (int32_t)(-9 - (int32_t)s->z.length);
    memcpy(s->at + 2, &rel, 4);
    return true;
}

#define P(name)           \
    {                     \
#name, put_##name \
    }
static const struct {
    const char *name;
    bool (*spoil)(struct spoiler *s);
} spoilers[] = {
    P(syscall),
    P(sysenter),
    P(int80),
    P(in),
    P(ret),
    P(pop),
    P(popf),
    P(std),
    P(movs),
    P(hlt),
    P(int3),
    P(wrgsbase),
    P(wrfsbase),
    P(wrpkru),
    P(mov_fs),
    P(gather),
    P(maskmov),
    P(fxrstor),
    P(ldmxcsr),
    P(fldcw),
    P(fninit),
    P(fnstenv),
    P(frstor),
    P(mov_rsp),
    P(load_rsp),
    P(load_rcx),
    P(load_fs),
    P(load_absolute),
    P(load_rip),
    P(store_indexed),
    P(gs_indexed),
    P(store_tlb),
    P(gs_beyond),
    P(gs_before),
    P(jmp_rax),
    P(call_rax),
    { "limit raised", limit_raised },
    { "check ignored", check_ignored },
    { "check reversed", check_reversed },
    { "host not added", host_not_added },
    { "read tag for write", read_for_write },
    { "mask widened", mask_widened },
    { "exceptions not masked", exceptions_unmasked },
    { "jump into an instruction", jump_moved },
    { "jump outside", jump_outside },
    { "code_store comes back late", store_back_late },
    { "code_store without a store", load_stored },
    { "code_store for a larger store", large_stored },
    { "a request not heeded", look_not_heeded },
    { "a look at something else", look_elsewhere },
    { "a request that goes round", look_goes_round },
    { "find without a look at the quick table", store_found },
    { "mask of the quick table widened", quick_mask_widened },
    { "another block named", block_named_wrongly },
    { "an instruction named that there is not", insn_named_wrongly },
    { "another exit named", exit_named_wrongly },
    { "an exit of another block", exit_of_another },
    { "straight into a handler", into_handler },
    { "on without a look at the quick table", into_find },
    { "address not compared", quick_unasked },
    { "page not masked", page_unmasked },
    { "page not stored", page_kept },
    { "jump to the address", jump_by_address },
    { "another site's tag", site_tag },
    { "another site's room", site_room },
    { "another site's host page", site_host },
    { "room not compared", site_not_compared },
    { "room not heeded", site_ignored },
    { "another site asked for", site_asked },
    { "a site asked for a byte less", site_asked_smaller },
};

static bool spoil_all(void)
{
    static unsigned done[ARRAY_LEN(spoilers)], missed[ARRAY_LEN(spoilers)];
    struct jit j = { 0 };
    struct err err = { 0 };
    ZydisDecoder decoder;
    bool fine = true;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (unsigned n = 0; n < SPOILT_BLOCKS; n++) {
        if (jit_create(&j, 1 << 20, &err) < 0)
            abort();
        j.link = j.windows = j.loops = j.pins = j.syscalls = j.sse = j.x87 = j.last = true;
        struct verdict v;
        /* Loads and stores first, so that there is something to spoil: 8, 2, 16, 1 and 10 bytes,
         * and a control word. */
        static const uint8_t moves[][4] = { { 0x48, 0x89, 0x51, 8 }, { 0x48, 0x8b, 0x53, 16 },
                                            { 0x66, 0x89, 0x51, 8 }, { 0xf, 0x10, 0x01 },
                                            { 0xf, 0x11, 0x09 },     { 0x88, 0x11 },
                                            { 0xdb, 0x39 },          { 0xd9, 0x69, 4 } };
        struct block *b = block_new();
        uint8_t bytes[16];
        for (unsigned k = 0; k < 3; k++) {
            memset(bytes, 0, sizeof bytes);
            memcpy(bytes, moves[random_below(ARRAY_LEN(moves))], 4);
            block_add(b, bytes, 15);
        }
        do
            random_insn(bytes);
        while (block_add(b, bytes, 15) && b->count < 8);
        if (b->count < BLOCK_MAX) { /* round and round */
            memcpy(bytes, (const uint8_t[]){ 0x0f, 0x85 }, 2);
            int32_t rel = -(int32_t)b->bytes - 6;
            memcpy(bytes + 2, &rel, 4);
            block_add(b, bytes, 15);
        }
        /* out of the block: in its page and to another one */
        if (b->count < BLOCK_MAX)
            block_add(b, (const uint8_t[15]){ 0x0f, 0x84, 0, 2 }, 15);
        if (b->count < BLOCK_MAX)
            block_add(b, (const uint8_t[15]){ 0x0f, 0x88, 0, 0x20 }, 15);
        block_add(b, (const uint8_t[15]){ 0xc3 }, 15); /* a return, as it is not counted */
        b->count++;
        jit_translate(&j, b, (struct jit_cs){ 0, UINT32_MAX });
        verify_cache(&j, &v);
        if (v.faults) {
            printf("unspoilt: %s\n", v.first);
            fine = false;
        }
        uint8_t *block = j.rw + j.first, *end = j.rw + j.used;
        struct spoiler s = { .j = &j, .at = block, .block = block };
        for (; s.at < end && *s.at != 0xcc; s.at += s.z.length) {
            if (!ZYAN_SUCCESS(
                    ZydisDecoderDecodeFull(&decoder, s.at, (ZyanUSize)(end - s.at), &s.z, s.o)))
                abort();
            uint8_t saved[16];
            memcpy(saved, s.at, sizeof saved);
            for (unsigned k = 0; k < ARRAY_LEN(spoilers); k++) {
                if (spoilers[k].spoil(&s)) {
                    done[k]++;
                    verify_cache(&j, &v);
                    if (!v.faults && !missed[k]++)
                        printf("not noticed: %s at +%#tx\n", spoilers[k].name, s.at - block);
                }
                memcpy(s.at, saved, sizeof saved);
            }
        }
        jit_destroy(&j);
        j = (struct jit){ 0 };
        free(b);
    }
    unsigned total = 0;
    for (unsigned k = 0; k < ARRAY_LEN(spoilers); k++) {
        total += done[k];
        fine &= done[k] && !missed[k];
        if (!done[k] || missed[k])
            printf("%s: %u times, %u not noticed\n", spoilers[k].name, done[k], missed[k]);
    }
    printf("%u spoilt blocks\n", total);
    return fine;
}

int main(void)
{
    insn_table_init();
    jit_table_init();
    bool fine = random_blocks();
    fine &= fullest_blocks();
    verify_print_total();
    fine &= spoil_all();
    printf("%s\n", fine ? "passed" : "FAILED");
    return fine ? 0 : 1;
}
