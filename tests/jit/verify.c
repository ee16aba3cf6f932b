/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The verifier of translated code; verify.h says what it proves. */
#include "verify.h"

#include "engine/soft/run.h"

#include <Zydis/Zydis.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { POLL_BYTES = 9, BLOCK_INSNS_MAX = 1 << 16 };

/* What a scratch register holds, as far as the straight line tells. */
enum kind {
    UNKNOWN,
    SLOT,    /* TLB_SIZE entries times 32 at most: an offset into the TLB */
    ENTRY,   /* an entry of the TLB */
    OFFSET,  /* address - tag */
    LIMITED, /* the same, compared with 4096 - size */
    INSIDE,  /* the same, and at most that */
    HOST,    /* host address of `size` checked bytes */
    MASKED,  /* an x87 control word that masks all exceptions */
    QSLOT,   /* rax: QUICK_SIZE entries times 16 at most: an offset into the quick table */
    QENTRY,  /* rax: an entry of it */
    QASKED,  /* rax: the same, and its address was just compared with r14 */
    FOUND,   /* rax: the entry of the address that r14 has */
    TARGET,  /* r14: that address */
    PAGE,    /* r14: its page */
    READY,   /* rax: as FOUND, and jit_page was set just before */
    PAST,    /* address - the tag of a site's last page */
    ROOMY,   /* the same, compared with its room */
    WITHIN,  /* the same, and less than that */
};
struct value {
    enum kind kind;
    unsigned size;
    bool write;
    unsigned site;
};

struct insn_at {
    const uint8_t *at, *target; /* target: of a jump, or NULL */
    unsigned landings;          /* jumps of this block that lead here, but from second chances */
    const struct insn_at *from; /* the last of them */
    bool call, jump;            /* jump: unconditional */
    bool looked;         /* nothing was requested just before what follows; see rounds_check */
    uint8_t mark;        /* of rounds_check */
    bool write_check;    /* JNBE of the check of a store... */
    uint64_t write_size; /* ... of so many bytes */
    bool site_check;     /* JNB of the check by the last page of... */
    unsigned site;       /* ... this one */
    bool quick_check;    /* JNE of an entry of the quick table that is for another address */
    bool reached;        /* a jump further up leads here: window is what it had in r15 */
    bool no_window;      /* jumps lead here with different windows */
    struct value window; /* r15, once the instruction has been looked at what it has */
};

struct reader {
    const struct jit *j;
    struct verdict *verdict;
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    const uint8_t *at, *block;
    uint32_t name;                 /* of the block: they are counted in the order of the code */
    const uint8_t *replaced, *out; /* where the block's first jump leads, if it was replaced; where
                                      it leaves */
    struct value ax, r14, r15;
    bool again;      /* something less is known than was believed */
    uint8_t *starts; /* a bit for each 16 bytes of the cache */
    struct insn_at *insns;
    unsigned *stack; /* of rounds_check: as many */
    unsigned count;
};

static __attribute__((format(printf, 2, 3))) void fault(struct reader *r, const char *format, ...)
{
    if (r->verdict->faults++)
        return;
    char text[120], what[120] = "?";
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ZydisFormatterFormatInstruction(&r->formatter, &r->z, r->o, r->z.operand_count_visible, what,
                                    sizeof what, (ZyanU64)(uintptr_t)r->at, NULL);
    snprintf(r->verdict->first, sizeof r->verdict->first, "block +%#zx, instruction +%#zx: %s: %s",
             (size_t)(r->block - r->j->rx), (size_t)(r->at - r->block), what, text);
}

static bool decode(struct reader *r, const uint8_t *at, const uint8_t *end)
{
    r->at = at;
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&r->decoder, at, (ZyanUSize)(end - at), &r->z, r->o)))
        return true;
    memset(&r->z, 0, sizeof r->z);
    fault(r, "no instruction");
    return false;
}

/* ---- The allow-list ---- */

/* clang-format off */
static bool base_allowed(ZydisMnemonic m)
{
#define A(name) case ZYDIS_MNEMONIC_##name:
    switch (m) {
        A(ADD) A(OR) A(ADC) A(SBB) A(AND) A(SUB) A(XOR) A(CMP) A(TEST) A(MOV) A(MOVZX) A(MOVSX)
        A(MOVSXD) A(LEA) A(XCHG) A(INC) A(DEC) A(NOT) A(NEG) A(ROL) A(ROR) A(RCL) A(RCR) A(SHL)
        A(SHR) A(SAR) A(SHLD) A(SHRD) A(SHLX) A(SHRX) A(SARX) A(RORX) A(IMUL) A(MUL) A(MULX)
        A(DIV) A(IDIV) A(CDQ) A(CQO) A(CDQE) A(CWDE) A(CWD) A(CBW) A(BSWAP) A(BT) A(BTS) A(BTR) A(BTC) A(BSF)
        A(BSR) A(TZCNT) A(LZCNT) A(POPCNT) A(ANDN) A(BLSR) A(BLSI) A(BLSMSK) A(BEXTR) A(BZHI)
        A(PDEP) A(PEXT) A(ADCX) A(ADOX) A(MOVBE) A(CMPXCHG) A(XADD) A(NOP) A(LAHF) A(SAHF) A(JMP)
        A(CALL) A(SETO) A(SETNO) A(SETB) A(SETNB) A(SETZ) A(SETNZ) A(SETBE) A(SETNBE) A(SETS)
        A(SETNS) A(SETP) A(SETNP) A(SETL) A(SETNL) A(SETLE) A(SETNLE) A(CMOVO) A(CMOVNO) A(CMOVB)
        A(CMOVNB) A(CMOVZ) A(CMOVNZ) A(CMOVBE) A(CMOVNBE) A(CMOVS) A(CMOVNS) A(CMOVP) A(CMOVNP)
        A(CMPXCHG16B) A(CLC) A(STC) A(CMC) A(LFENCE) A(MFENCE) A(SFENCE) A(CMOVL) A(CMOVNL) A(CMOVLE) A(CMOVNLE) A(JO) A(JNO) A(JB) A(JNB) A(JZ) A(JNZ) A(JBE)
        A(JNBE) A(JRCXZ) A(JECXZ) A(JS) A(JNS) A(JP) A(JNP) A(JL) A(JNL) A(JLE) A(JNLE)
        return true;
    default: return false;
    }
#undef A
}
/* clang-format on */

/* Vector instructions are many and alike; these few of them have a memory operand of their own, or
 * touch more than vectors. */
static bool vector_allowed(const ZydisDecodedInstruction *z)
{
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_MONITOR:
    case ZYDIS_MNEMONIC_MWAIT: return false;
    default: break;
    }
    if (z->meta.category == ZYDIS_CATEGORY_GATHER || z->meta.category == ZYDIS_CATEGORY_AVX2GATHER)
        return false;
    switch (z->meta.isa_ext) {
    case ZYDIS_ISA_EXT_MMX:
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA:
    case ZYDIS_ISA_EXT_AVX:
    case ZYDIS_ISA_EXT_AVX2:
    case ZYDIS_ISA_EXT_AVXAES:
    case ZYDIS_ISA_EXT_FMA:
    case ZYDIS_ISA_EXT_F16C: return true;
    default: return false;
    }
}

/* What loads or stores the whole unit is larger than a checked operand can be said to be, and may
 * unmask exceptions. */
static bool x87_allowed(const ZydisDecodedInstruction *z)
{
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNINIT: return false;
    default: return z->meta.isa_ext == ZYDIS_ISA_EXT_X87;
    }
}

/* ---- Memory ---- */

static bool is_reg(const ZydisDecodedOperand *o, ZydisRegister reg)
{
    return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->reg.value == reg;
}
static bool is_mem(const ZydisDecodedOperand *o, ZydisRegister base, size_t disp)
{
    return o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.base == base &&
           o->mem.index == ZYDIS_REGISTER_NONE &&
           (o->mem.disp.has_displacement ? o->mem.disp.value : 0) == (int64_t)disp;
}

struct range {
    size_t at, size;
};
#define FIELD(f)                                                        \
    {                                                                   \
        offsetof(struct soft_vcpu, f), sizeof((struct soft_vcpu *)0)->f \
    }

static bool vcpu_store_allowed(size_t at, size_t size)
{
    static const struct range stores[] = {
        { offsetof(struct soft_vcpu, gpr), 16 * 8 }, /* neither REG_NONE nor REG_RIP */
        FIELD(cc),
        FIELD(jit_window_va),
        FIELD(jit_value),
        FIELD(flags),
        FIELD(seg[S_FS].base),
        FIELD(seg_base[S_FS]),
        FIELD(seg[S_GS].base),
        FIELD(seg_base[S_GS]),
        FIELD(kernel_gs_base),
        FIELD(fpu.vec),
        FIELD(fpu.mxcsr),
        FIELD(fpu.fop),
        FIELD(fpu.fip),
        FIELD(fpu.fdp),
    };
    for (unsigned n = 0; n < ARRAY_LEN(stores); n++)
        if (at >= stores[n].at && at + size <= stores[n].at + stores[n].size)
            return true;
    return false;
}

static struct value *value_of(struct reader *r, ZydisRegister reg)
{
    if (reg == ZYDIS_REGISTER_RAX)
        return &r->ax;
    if (reg == ZYDIS_REGISTER_R15)
        return &r->r15;
    return reg == ZYDIS_REGISTER_R14 ? &r->r14 : NULL;
}
static struct value *value_in(struct reader *r, const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_REGISTER ? value_of(r, o->reg.value) : NULL;
}

/* mov gs:[jit_page], r14 */
static bool page_store(struct reader *r)
{
    return r->z.mnemonic == ZYDIS_MNEMONIC_MOV && r->r14.kind == PAGE && r->ax.kind == FOUND &&
           r->o[0].mem.segment == ZYDIS_REGISTER_GS &&
           is_mem(&r->o[0], ZYDIS_REGISTER_NONE, offsetof(struct soft_vcpu, jit_page)) &&
           is_reg(&r->o[1], ZYDIS_REGISTER_R14);
}

/* mov gs:[fcw], r14w */
static bool control_word_store(struct reader *r)
{
    return r->z.mnemonic == ZYDIS_MNEMONIC_MOV && r->r14.kind == MASKED &&
           is_mem(&r->o[0], ZYDIS_REGISTER_NONE, offsetof(struct soft_vcpu, fpu.fcw)) &&
           is_reg(&r->o[1], ZYDIS_REGISTER_R14W);
}

/* cmp [rax], r14 and jmp [rax + 8] of a quick entry */
static bool quick_field(const struct reader *r, const ZydisDecodedOperand *o)
{
    if (o->size != 64)
        return false;
    if (r->z.mnemonic == ZYDIS_MNEMONIC_CMP)
        return r->ax.kind == QENTRY &&
               is_mem(o, ZYDIS_REGISTER_RAX, offsetof(struct quick_entry, va));
    return r->z.mnemonic == ZYDIS_MNEMONIC_JMP && r->ax.kind == READY &&
           is_mem(o, ZYDIS_REGISTER_RAX, offsetof(struct quick_entry, code));
}

static void memory_check(struct reader *r, const ZydisDecodedOperand *o)
{
    unsigned size = o->size / 8;
    int64_t disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
    bool write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    if (o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
        return;
    if (o->mem.type != ZYDIS_MEMOP_TYPE_MEM || o->mem.index != ZYDIS_REGISTER_NONE || !size) {
        fault(r, "an odd memory operand");
    } else if (o->mem.segment == ZYDIS_REGISTER_GS) {
        if (o->mem.base != ZYDIS_REGISTER_NONE || disp < 0 ||
            (size_t)disp + size > sizeof(struct soft_vcpu))
            fault(r, "outside the vCPU");
        else if (write && !vcpu_store_allowed((size_t)disp, size) && !control_word_store(r) &&
                 !page_store(r))
            fault(r, "a store to a field of the vCPU that is not its to change");
    } else {
        const struct value *base = value_of(r, o->mem.base);
        if (o->mem.segment == ZYDIS_REGISTER_FS || !base)
            fault(r, "neither gs: nor a checked address");
        else if (base->kind == ENTRY && !write && disp >= 0 &&
                 (size_t)disp + size <= sizeof(struct tlb_entry))
            return;
        else if (quick_field(r, o) && !write)
            return;
        else if (base->kind != HOST)
            fault(r, "the address is not checked");
        else if (disp < 0 || (uint64_t)disp + size > base->size)
            fault(r, "%u bytes at +%d, %u checked", size, (int)disp, base->size);
        else if (write && !base->write)
            fault(r, "a store by the read tag");
    }
}

/* An unmasked exception would be a signal here; the engine sees to it that these fields have none.
 */
static void control_check(struct reader *r)
{
    if ((r->z.mnemonic == ZYDIS_MNEMONIC_LDMXCSR || r->z.mnemonic == ZYDIS_MNEMONIC_VLDMXCSR) &&
        (r->o[0].mem.segment != ZYDIS_REGISTER_GS ||
         !is_mem(&r->o[0], ZYDIS_REGISTER_NONE, offsetof(struct soft_vcpu, fpu.mxcsr))))
        fault(r, "MXCSR from somewhere else");
    if (r->z.mnemonic == ZYDIS_MNEMONIC_FLDCW &&
        (r->o[0].mem.segment != ZYDIS_REGISTER_GS ||
         !is_mem(&r->o[0], ZYDIS_REGISTER_NONE, offsetof(struct soft_vcpu, fpu.fcw))))
        fault(r, "the x87 control word from somewhere else");
}

static void operands_check(struct reader *r)
{
    for (unsigned n = 0; n < r->z.operand_count; n++) {
        const ZydisDecodedOperand *o = &r->o[n];
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            /* The one call there is pushes its return address. */
            if (r->z.mnemonic != ZYDIS_MNEMONIC_CALL)
                memory_check(r, o);
        } else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            ZydisRegister full =
                ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o->reg.value);
            if (full == ZYDIS_REGISTER_RSP && r->z.mnemonic != ZYDIS_MNEMONIC_CALL)
                fault(r, "the host's stack pointer");
            if (ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT)
                fault(r, "a segment register");
        }
    }
}

/* ---- What rax, r14 and r15 become ---- */

static bool is_imm(const ZydisDecodedOperand *o, uint64_t *value)
{
    *value = o->imm.value.u;
    return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

static struct insn_at *insn_find(const struct reader *r, const uint8_t *at)
{
    unsigned low = 0, high = r->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (r->insns[middle].at < at)
            low = middle + 1;
        else
            high = middle;
    }
    return low < r->count && r->insns[low].at == at ? &r->insns[low] : NULL;
}

static bool is_last_find(const struct reader *r, const uint8_t *target)
{
    for (unsigned n = 0; n < 6; n++)
        if (target && target == r->j->last_find[n / 2][n % 2])
            return true;
    return false;
}

/* Is it this field of a site's last page? */
static bool site_field(const ZydisDecodedOperand *o, size_t field, unsigned *site)
{
    uint64_t at = (uint64_t)o->mem.disp.value - field;
    *site = (unsigned)(at / 8);
    return o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->size == 64 &&
           o->mem.segment == ZYDIS_REGISTER_GS && o->mem.base == ZYDIS_REGISTER_NONE &&
           o->mem.index == ZYDIS_REGISTER_NONE && at < LAST_SITES * 8 && at % 8 == 0;
}
#define LAST_FIELD(name) offsetof(struct soft_vcpu, last.name)

/* For how many bytes does the check at n ask where its site does not have the page? 0: for none
 * (site_second_check says whether it asks rightly). */
static unsigned site_size(const struct reader *r, unsigned n)
{
    const struct insn_at *to = r->insns[n].target ? insn_find(r, r->insns[n].target) : NULL;
    uint32_t imm;
    if (!to || to + 1 >= r->insns + r->count || to[0].at[0] != 0x41 || to[0].at[1] != 0xbe ||
        !is_last_find(r, to[1].target))
        return 0;
    memcpy(&imm, to[0].at + 2, 4);
    return imm >> LAST_SIZE_SHIFT < PAGE_SIZE ? (unsigned)PAGE_SIZE - (imm >> LAST_SIZE_SHIFT) : 0;
}

/* jnb behind the comparison with the room */
static bool site_branch(struct reader *r, unsigned n)
{
    struct value *v = r->ax.kind == ROOMY ? &r->ax : r->r15.kind == ROOMY ? &r->r15 : NULL;
    if (!v || r->z.mnemonic != ZYDIS_MNEMONIC_JNB)
        return false;
    unsigned most = v->site < LAST_WINDOWS ? LAST_OPERAND : LAST_WINDOW, size = site_size(r, n);
    if (!size || size > most)
        fault(r, "for %u bytes, where the room is for %u", size, most);
    *v = (struct value){ WITHIN, size, v->site % 2, v->site };
    r->insns[n].site_check = true;
    r->insns[n].site = v->site;
    return true;
}

/* sub, cmp and add: the check by a site's last page; false: it is none of them */
static bool site_step(struct reader *r)
{
    const ZydisDecodedOperand *o = r->o;
    struct value *v = value_in(r, &o[0]);
    unsigned site;
    if (!v || v == &r->r14 || o[0].size != 64)
        return false;
    if (r->z.mnemonic == ZYDIS_MNEMONIC_SUB && site_field(&o[1], LAST_FIELD(tag), &site) &&
        (site >= LAST_WINDOWS) == (v == &r->r15))
        *v = (struct value){ PAST, .site = site };
    else if (r->z.mnemonic == ZYDIS_MNEMONIC_CMP && v->kind == PAST &&
             site_field(&o[1], LAST_FIELD(room), &site) && site == v->site)
        v->kind = ROOMY;
    else if (r->z.mnemonic == ZYDIS_MNEMONIC_ADD && v->kind == WITHIN &&
             site_field(&o[1], LAST_FIELD(host), &site) && site == v->site)
        v->kind = HOST;
    else
        return false;
    return true;
}

/* The check's own instructions lead from one kind to the next. */
static bool check_step(struct reader *r)
{
    const ZydisDecodedOperand *o = r->o;
    struct value *v = value_in(r, &o[0]);
    uint64_t imm;
    switch (r->z.mnemonic) {
    case ZYDIS_MNEMONIC_AND:
        if (is_reg(&o[0], ZYDIS_REGISTER_EAX) && is_imm(&o[1], &imm) &&
            imm == (QUICK_SIZE - 1) << QUICK_SHIFT) {
            r->ax = (struct value){ QSLOT };
            return true;
        }
        if (is_reg(&o[0], ZYDIS_REGISTER_R14) && r->r14.kind == TARGET && is_imm(&o[1], &imm) &&
            imm == ~(uint64_t)(PAGE_SIZE - 1)) {
            r->r14 = (struct value){ PAGE };
            return true;
        }
        if (!is_reg(&o[0], ZYDIS_REGISTER_R14D) || !is_imm(&o[1], &imm) ||
            (imm & ~(uint64_t)((TLB_SIZE - 1) * sizeof(struct tlb_entry))))
            return false;
        r->r14 = (struct value){ SLOT };
        return true;
    case ZYDIS_MNEMONIC_OR:
        if (!is_reg(&o[0], ZYDIS_REGISTER_R14D) || !is_imm(&o[1], &imm) || (imm & 0x3f) != 0x3f)
            return false;
        r->r14 = (struct value){ MASKED };
        return true;
    case ZYDIS_MNEMONIC_ADD:
        if (is_reg(&o[0], ZYDIS_REGISTER_R14) && r->r14.kind == SLOT &&
            o[1].mem.segment == ZYDIS_REGISTER_GS &&
            is_mem(&o[1], ZYDIS_REGISTER_NONE, offsetof(struct soft_vcpu, tlb))) {
            r->r14 = (struct value){ ENTRY };
            return true;
        }
        if (is_reg(&o[0], ZYDIS_REGISTER_RAX) && r->ax.kind == QSLOT &&
            o[1].mem.segment == ZYDIS_REGISTER_GS &&
            is_mem(&o[1], ZYDIS_REGISTER_NONE, offsetof(struct soft_vcpu, quick.entries))) {
            r->ax = (struct value){ QENTRY };
            return true;
        }
        if (v && v->kind == INSIDE && r->r14.kind == ENTRY && o[0].size == 64 &&
            is_mem(&o[1], ZYDIS_REGISTER_R14, offsetof(struct tlb_entry, host))) {
            v->kind = HOST;
            return true;
        }
        return false;
    case ZYDIS_MNEMONIC_SUB:
        if (!v || v == &r->r14 || o[0].size != 64 || r->r14.kind != ENTRY)
            return false;
        if (is_mem(&o[1], ZYDIS_REGISTER_R14, offsetof(struct tlb_entry, write)))
            *v = (struct value){ OFFSET, 0, true };
        else if (is_mem(&o[1], ZYDIS_REGISTER_R14, offsetof(struct tlb_entry, read)))
            *v = (struct value){ OFFSET, 0, false };
        else
            return false;
        return true;
    case ZYDIS_MNEMONIC_CMP:
        if (quick_field(r, &o[0]) && is_reg(&o[1], ZYDIS_REGISTER_R14)) {
            r->ax = (struct value){ QASKED };
            return true;
        }
        if (!v || o[0].size != 64 || v->kind != OFFSET || !is_imm(&o[1], &imm) || imm >= PAGE_SIZE)
            return false;
        v->kind = LIMITED;
        v->size = (unsigned)(PAGE_SIZE - imm);
        return true;
    case ZYDIS_MNEMONIC_JNBE:
        if (r->ax.kind != LIMITED && r->r15.kind != LIMITED)
            return false;
        (r->ax.kind == LIMITED ? &r->ax : &r->r15)->kind = INSIDE;
        return true;
    case ZYDIS_MNEMONIC_JNZ:
        if (r->ax.kind != QASKED)
            return false;
        r->ax = (struct value){ FOUND };
        r->r14 = (struct value){ TARGET };
        return true;
    case ZYDIS_MNEMONIC_MOV:
        if (page_store(r)) {
            r->ax = (struct value){ READY };
            return true;
        }
        if (!is_reg(&o[0], ZYDIS_REGISTER_R14) || !is_reg(&o[1], ZYDIS_REGISTER_RAX))
            return false;
        r->r14 = r->ax;
        return true;
    default: return false;
    }
}

static bool is_brief(const struct value *v)
{
    return v->kind == LIMITED || v->kind == QASKED || v->kind == READY || v->kind == ROOMY ||
           v->kind == WITHIN;
}

static void values_step(struct reader *r, unsigned at)
{
    /* The comparison counts only for the jump right behind it; so do others. */
    struct value *brief = is_brief(&r->ax) ? &r->ax : is_brief(&r->r15) ? &r->r15 : NULL;
    if (check_step(r) || site_step(r) || site_branch(r, at))
        return;
    if (brief)
        *brief = (struct value){ UNKNOWN };
    for (unsigned n = 0; n < r->z.operand_count; n++) {
        const ZydisDecodedOperand *o = &r->o[n];
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER ||
            !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            continue;
        struct value *v =
            value_of(r, ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o->reg.value));
        if (v)
            *v = (struct value){ UNKNOWN };
    }
    if (r->z.mnemonic == ZYDIS_MNEMONIC_CALL)
        r->ax = r->r14 = (struct value){ UNKNOWN };
    if (r->z.mnemonic == ZYDIS_MNEMONIC_CALL && r->at + 5 + r->o[0].imm.value.s == r->j->find)
        r->r15 = (struct value){ UNKNOWN };
}

/* ---- One block ---- */

static bool is_jump(const ZydisDecodedInstruction *z)
{
    return z->meta.category == ZYDIS_CATEGORY_COND_BR ||
           z->meta.category == ZYDIS_CATEGORY_UNCOND_BR || z->mnemonic == ZYDIS_MNEMONIC_CALL;
}

static bool is_start(const struct reader *r, const uint8_t *at)
{
    uint64_t offset = (uint64_t)(at - r->j->rx);
    return at >= r->j->rx && offset < r->j->used && offset % 16 == 0 &&
           r->starts[offset / 128] >> (offset / 16 % 8) & 1;
}

/* Behind the look at `request`, or what a retired block has in its place. Answers its end. */
static const uint8_t *block_begin(struct reader *r, const uint8_t *at, const uint8_t *end)
{
    r->block = at;
    r->replaced = NULL;
    if (!decode(r, at, end))
        return NULL;
    if (r->z.mnemonic == ZYDIS_MNEMONIC_JMP) {
        int32_t rel;
        memcpy(&rel, at + 1, 4);
        r->replaced = at + 5 + rel;
        if (at[0] != 0xe9)
            fault(r, "a block that begins with an odd jump");
    } else {
        uint64_t imm;
        if (r->z.mnemonic != ZYDIS_MNEMONIC_CMP || r->z.length != POLL_BYTES ||
            !is_mem(&r->o[0], ZYDIS_REGISTER_NONE, offsetof(struct soft_vcpu, request)) ||
            r->o[0].mem.segment != ZYDIS_REGISTER_GS || !is_imm(&r->o[1], &imm) || imm)
            fault(r, "does not look at the requests");
    }
    at += POLL_BYTES;
    if (!decode(r, at, end))
        return NULL;
    int32_t rel;
    memcpy(&rel, at + 2, 4);
    r->out = at + 6 + rel;
    if (r->z.mnemonic != ZYDIS_MNEMONIC_JNZ || r->z.length != 6)
        fault(r, "does not leave when something is requested");
    return at + r->z.length;
}

static bool is_second(const struct reader *r, const uint8_t *target)
{
    return target && (target == r->j->code_store[0] || target == r->j->code_store[1] ||
                      target == r->j->find || is_last_find(r, target));
}

/* Is it the jump behind a call of code_store or find? */
static bool from_second(const struct reader *r, unsigned n)
{
    return n > 0 && r->insns[n - 1].call && is_second(r, r->insns[n - 1].target);
}

/* Behind one of last_find what r15 has is what the check would have made of it. */
static bool from_last_find(const struct reader *r, unsigned n)
{
    return n > 0 && r->insns[n - 1].call && is_last_find(r, r->insns[n - 1].target);
}

/*
 * code_store takes over where a store's check failed, find where the quick table's did, and their
 * success (carry clear) is that of the check: so they must be reached by that check's jump only,
 * and come back right behind it.
 */
/*
 * So does last_find for a site's last page, but behind the addition of `host`, as it answers the
 * whole address. Before it: mov r14d, what it asks for.
 */
static void site_second_check(struct reader *r, unsigned n)
{
    const struct insn_at *i = &r->insns[n], *asks = i - 1, *check = n < 2 ? NULL : asks->from;
    if (!check || !i[-2].jump || asks->landings != 1 || !check->site_check || i->landings ||
        n + 1 >= r->count || asks->at[0] != 0x41 || asks->at[1] != 0xbe) {
        fault(r, "not where the check of a site failed");
        return;
    }
    bool window = check->site >= LAST_WINDOWS;
    uint32_t imm;
    memcpy(&imm, asks->at + 2, 4);
    unsigned form = window                                                      ? LAST_IN_WINDOW
                    : PAGE_SIZE - (imm >> LAST_SIZE_SHIFT) > code_store_most[0] ? LAST_LONG
                                                                                : LAST_SHORT;
    if ((imm & 0xffff) != check->site * 8 || i->target != r->j->last_find[form][check->site % 2])
        fault(r, "asks for another site");
    else if (i[1].at[0] != 0x0f || i[1].at[1] != 0x83 || i[1].landings ||
             i[1].target != check[2].at)
        fault(r, "does not come back behind the check");
}

static void second_check(struct reader *r, unsigned n)
{
    const struct insn_at *i = &r->insns[n], *check = i->from;
    if (is_last_find(r, i->target))
        site_second_check(r, n);
    else if (n == 0 || !r->insns[n - 1].jump || i->landings != 1 ||
             !(i->target == r->j->find ? check->quick_check : check->write_check))
        fault(r, "not where a check failed that it is for");
    else if (i->target != r->j->find &&
             check->write_size > code_store_most[i->target == r->j->code_store[1]])
        fault(r, "code_store does not vouch for so many bytes");
    else if (n + 1 >= r->count || i[1].at[0] != 0x0f || i[1].at[1] != 0x83 || i[1].landings ||
             i[1].target != check[1].at)
        fault(r, "does not come back behind the check");
}

/* cmp dword gs:[request], 0 */
static bool is_look(const struct reader *r)
{
    uint64_t imm;
    return r->z.mnemonic == ZYDIS_MNEMONIC_CMP && r->o[0].size == 32 &&
           r->o[0].mem.segment == ZYDIS_REGISTER_GS &&
           is_mem(&r->o[0], ZYDIS_REGISTER_NONE, offsetof(struct soft_vcpu, request)) &&
           is_imm(&r->o[1], &imm) && !imm;
}

/*
 * Whoever runs in circles in a block looks at the requests in each (invariant 3 of jit.h): without
 * the ways on behind a look that found nothing no circle is left. Opening a window is the other
 * way back up, which is taken again only if C said that it will succeed then.
 */
enum { MARK_NEW, MARK_ON_WAY, MARK_DONE };
/* One step on, to `to` (NULL: out of the block); false: it closes a circle. */
static bool rounds_way(struct reader *r, unsigned *depth, struct insn_at *to)
{
    if (!to || to->mark == MARK_DONE)
        return true;
    if (to->mark == MARK_ON_WAY)
        return false;
    to->mark = MARK_ON_WAY;
    r->stack[(*depth)++] = (unsigned)(to - r->insns);
    return true;
}
static void rounds_check(struct reader *r, const uint8_t *end)
{
    unsigned depth = 0;
    for (unsigned start = 0; start < r->count; start++) {
        rounds_way(r, &depth, &r->insns[start]);
        while (depth) {
            struct insn_at *i = &r->insns[r->stack[depth - 1]];
            struct insn_at *next =
                i->jump || i->looked || i + 1 == r->insns + r->count ? NULL : i + 1;
            struct insn_at *to = i->target && !i->call ? insn_find(r, i->target) : NULL;
            unsigned before = depth;
            bool fine =
                rounds_way(r, &depth, next) && (depth > before || rounds_way(r, &depth, to));
            if (!fine) {
                if (decode(r, i->at, end))
                    fault(r, "runs in circles without a look at the requests");
                return;
            }
            if (depth == before) {
                i->mark = MARK_DONE;
                depth--;
            }
        }
    }
}

/* Lists the instructions up to the INT3 behind the block. */
static const uint8_t *block_list(struct reader *r, const uint8_t *at, const uint8_t *end)
{
    r->verdict->retired += *r->block == 0xe9;
    bool flows = true, look = false;
    r->count = 0;
    for (; at < end && *at != 0xcc; at += r->z.length) {
        if (!decode(r, at, end) || r->count == BLOCK_INSNS_MAX)
            return NULL;
        struct insn_at *i = &r->insns[r->count++];
        *i = (struct insn_at){ .at = at };
        if (is_jump(&r->z) && r->o[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
            i->target = at + r->z.length + r->o[0].imm.value.s;
        i->call = r->z.mnemonic == ZYDIS_MNEMONIC_CALL;
        i->jump = r->z.mnemonic == ZYDIS_MNEMONIC_JMP;
        i->looked = (look && r->z.mnemonic == ZYDIS_MNEMONIC_JNZ) ||
                    (i->call && i->target == r->j->open_window);
        look = is_look(r);
        flows = r->z.mnemonic != ZYDIS_MNEMONIC_JMP;
    }
    if (flows)
        fault(r, "falls out of the block");
    for (unsigned n = 0; n < r->count; n++) {
        struct insn_at *to = r->insns[n].target ? insn_find(r, r->insns[n].target) : NULL;
        if (to && !from_second(r, n)) {
            to->landings++;
            to->from = &r->insns[n];
        }
    }
    for (unsigned n = 0; n < r->count; n++)
        r->insns[n].looked &= r->insns[n].call || !r->insns[n].landings;
    rounds_check(r, end);
    return at;
}

static bool may_call(const struct reader *r, const uint8_t *target)
{
    const struct jit *j = r->j;
    return target == j->code_store[0] || target == j->code_store[1] || target == j->x87_enter ||
           target == j->vec_enter[VEC_XMM] || target == j->vec_enter[VEC_YMM] ||
           target == j->mxcsr_enter || target == j->ac[0] || target == j->ac[1] ||
           target == j->read_tsc || target == j->syscall || target == j->sysret ||
           target == j->find || target == j->flags_save || target == j->flags_load ||
           is_last_find(r, target);
}

/* mov eax, place; jmp leave_at (mov r14d, IP; jmp leave_to): how each block leaves when something
 * is requested or it is retired. One that was translated again goes on there. */
static void begin_check(struct reader *r)
{
    struct insn_at *out = insn_find(r, r->out);
    r->at = r->block;
    bool place = out && out->at[0] == 0xb8 && out[1].target == r->j->leave_at;
    bool ip = out && out->at[0] == 0x41 && out->at[1] == 0xbe && out[1].target == r->j->leave_to;
    if (!place && !ip)
        fault(r, "does not leave at its start");
    else if (r->replaced && r->replaced != r->out && !is_start(r, r->replaced))
        fault(r, "a retired block that does not leave");
}

/* movabs r14, this block */
static bool is_block_load(const struct reader *r, const struct insn_at *i)
{
    const struct block *block = jit_block(r->j, r->name);
    return i->at[0] == 0x49 && i->at[1] == 0xbe && !memcmp(i->at + 2, &block, sizeof block);
}

/* What slow paths call: movabs r14, this block; jmp call_handler. Nothing runs into it. */
static bool is_slow_call(const struct reader *r, const uint8_t *target)
{
    const struct insn_at *i = insn_find(r, target);
    return i && i + 1 < r->insns + r->count && (i == r->insns || i[-1].jump) &&
           is_block_load(r, i) && i[1].jump && i[1].target == r->j->call_handler && !i[1].landings;
}

/* mov al, the number of an instruction; call what runs its handler, or opens a window for it, with
 * this block in r14 */
static void number_check(struct reader *r, unsigned n)
{
    const struct insn_at *i = &r->insns[n], *number = i - 1;
    if (n > 0 && !is_slow_call(r, i->target)) {
        if (i->landings || !is_block_load(r, number))
            fault(r, "names another block");
        number -= n > 1;
    }
    if (n == 0 || number[1].landings || number->at[0] != 0xb0 || number->at[1] >= BLOCK_MAX)
        fault(r, "names no instruction");
}

/* mov eax, where the displacement of an exit of this block is; mov r14d, its name and a place;
 * jmp leave_link: what the exit leads to before it is joined */
static void link_check(struct reader *r, unsigned n)
{
    const struct insn_at *i = &r->insns[n];
    uint32_t slot, from;
    if (n < 3 || i->landings || i[-1].landings || i[-1].at[0] != 0x41 || i[-1].at[1] != 0xbe ||
        i[-2].at[0] != 0xb8 || !i[-3].jump || i[-3].at[0] != 0xe9) {
        fault(r, "no exit to be joined");
        return;
    }
    memcpy(&slot, i[-2].at + 1, 4);
    memcpy(&from, i[-1].at + 2, 4);
    if (slot != (size_t)(i[-3].at + 1 - r->j->rx) || slot % 4)
        fault(r, "not where the exit's displacement is");
    if (from >> NAME_PLACE_BITS != r->name)
        fault(r, "an exit of another block");
}

static void jump_check(struct reader *r, unsigned n, const uint8_t *target)
{
    const struct jit *j = r->j;
    if (!target) {
        if (r->z.mnemonic != ZYDIS_MNEMONIC_JMP || !quick_field(r, &r->o[0]))
            fault(r, "an indirect jump");
    } else if (r->z.mnemonic == ZYDIS_MNEMONIC_CALL) {
        const bool handler =
            target == j->call_handler || target == j->open_window || is_slow_call(r, target);
        if (!handler && !may_call(r, target))
            fault(r, "calls something else than a handler");
        else if (handler)
            number_check(r, n);
    } else if (target == j->call_handler) {
        if (n == 0 || !is_slow_call(r, r->insns[n - 1].at))
            fault(r, "runs into a handler");
    } else if (target == r->block || (is_start(r, target) && !insn_find(r, target))) {
        r->verdict->joined++;
        if (((uintptr_t)r->at + r->z.length) % 4)
            fault(r, "its displacement cannot be stored whole");
    } else if (target == j->leave_link) {
        link_check(r, n);
    } else if (target == j->find_on) {
        if (r->ax.kind != QASKED || r->z.mnemonic != ZYDIS_MNEMONIC_JNZ)
            fault(r, "not behind a look at the quick table");
    } else if (target != j->leave_at && target != j->leave_to && !insn_find(r, target))
        fault(r, "leads nowhere");
}

/* ---- Windows: what r15 has where a jump leads ---- */

static struct value window_now(const struct reader *r)
{
    return r->r15.kind == HOST ? r->r15 : (struct value){ UNKNOWN };
}
static bool same_window(struct value a, struct value b)
{
    return a.kind == b.kind && a.size == b.size && a.write == b.write;
}

/* The jump at n leads to `to`, with r15 as it is now. */
static void window_jump(struct reader *r, unsigned n, struct insn_at *to)
{
    struct value window = window_now(r);
    if (to <= &r->insns[n]) {
        if (to->window.kind == HOST && !same_window(to->window, window))
            to->no_window = r->again = true;
        return;
    }
    if (to->reached && !same_window(to->window, window))
        window = (struct value){ UNKNOWN };
    to->reached = true;
    to->window = window;
}

static void window_land(struct reader *r, unsigned n)
{
    struct insn_at *i = &r->insns[n];
    bool flows = n == 0 || !r->insns[n - 1].jump;
    if (!flows)
        r->r15 = i->reached ? i->window : (struct value){ UNKNOWN };
    else if (i->reached && !same_window(i->window, window_now(r)))
        r->r15 = (struct value){ UNKNOWN };
    if (i->no_window)
        r->r15 = (struct value){ UNKNOWN };
    i->window = window_now(r);
}

static void block_read(struct reader *r, const uint8_t *end)
{
    r->again = false;
    for (unsigned n = 0; n < r->count; n++)
        r->insns[n].reached = false;
    r->ax = r->r14 = r->r15 = (struct value){ UNKNOWN };
    begin_check(r);
    for (unsigned n = 0; n < r->count; n++) {
        struct insn_at *i = &r->insns[n];
        if (!decode(r, i->at, end))
            return;
        if (i->landings)
            r->ax = r->r14 = (struct value){ UNKNOWN };
        window_land(r, n);
        if (!base_allowed(r->z.mnemonic) && !vector_allowed(&r->z) && !x87_allowed(&r->z))
            fault(r, "not in the allow-list");
        if (r->z.attributes &
            (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
            fault(r, "a repeat prefix");
        operands_check(r);
        control_check(r);
        if (is_jump(&r->z))
            jump_check(r, n, i->target);
        if (i->call && is_second(r, i->target))
            second_check(r, n);
        i->quick_check = r->z.mnemonic == ZYDIS_MNEMONIC_JNZ && r->ax.kind == QASKED;
        i->write_check = r->z.mnemonic == ZYDIS_MNEMONIC_JNBE && r->ax.kind == LIMITED &&
                         r->ax.write && r->r14.kind == ENTRY;
        values_step(r, n);
        i->write_size = i->write_check ? r->ax.size : 0;
        struct insn_at *to = i->target && !i->call ? insn_find(r, i->target) : NULL;
        if (to && !from_last_find(r, n))
            window_jump(r, n, to);
        r->verdict->insns++;
    }
}

/* A jump up can tell that what was believed of r15 further up does not always hold: until nothing
 * is news. */
static void block_check(struct reader *r, const uint8_t *end)
{
    struct verdict before = *r->verdict;
    do {
        *r->verdict = before;
        block_read(r, end);
    } while (r->again);
}

/* ---- All ---- */

/* Where blocks begin: behind each run of INT3. Within a block no INT3 is allowed, so that reading
 * in line finds them all. */
static void starts_find(struct reader *r, const uint8_t *end)
{
    for (const uint8_t *at = r->j->rx + r->j->first; at && at < end && !r->verdict->faults;) {
        r->starts[(at - r->j->rx) / 128] |= (uint8_t)(1 << (at - r->j->rx) / 16 % 8);
        r->verdict->blocks++;
        at = block_begin(r, at, end);
        while (at && at < end && *at != 0xcc)
            at = decode(r, at, end) ? at + r->z.length : NULL;
        if (!at)
            return;
        if (at == end)
            fault(r, "nothing behind the block");
        while (at < end && *at == 0xcc)
            at++;
        if ((at - r->j->rx) % 16)
            fault(r, "something behind the block");
    }
}

void verify_cache(const struct jit *j, struct verdict *out)
{
    struct reader r = { .j = j, .verdict = out };
    memset(out, 0, sizeof *out);
    ZydisDecoderInit(&r.decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&r.formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    r.starts = calloc(1, j->size / 128 + 1);
    r.insns = calloc(BLOCK_INSNS_MAX, sizeof *r.insns);
    r.stack = calloc(BLOCK_INSNS_MAX, sizeof *r.stack);
    if (!r.starts || !r.insns || !r.stack)
        abort();
    const uint8_t *end = j->rx + j->used;
    starts_find(&r, end);
    for (uint64_t offset = j->first; offset < j->used && !out->faults; offset += 16) {
        if (!is_start(&r, j->rx + offset))
            continue;
        const uint8_t *at = block_begin(&r, j->rx + offset, end);
        if (at && block_list(&r, at, end))
            block_check(&r, end);
        r.name++;
    }
    free(r.starts);
    free(r.insns);
    free(r.stack);
}

static struct verdict total;
static unsigned long caches;

void verify_or_die(const struct jit *j)
{
    struct verdict v;
    verify_cache(j, &v);
    if (v.faults) {
        fprintf(stderr, "translated code is wrong: %s\n", v.first);
        _exit(99);
    }
    caches++;
    total.blocks += v.blocks;
    total.insns += v.insns;
    total.retired += v.retired;
    total.joined += v.joined;
}

void verify_print_total(void)
{
    fprintf(stderr,
            "verified %lu caches: %lu blocks (%lu retired), %lu instructions, %lu joined exits\n",
            caches, total.blocks, total.retired, total.insns, total.joined);
}
