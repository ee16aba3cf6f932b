/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * AVX and AVX2: moves, masked moves and gathers, broadcasts, permutations, inserts and extracts.
 */
#include "engine/soft/fp_avx.h"
#include "engine/soft/run.h"

/* ---- Whole registers ---- */

static int move(struct soft_vcpu *v, unsigned to, unsigned from, bool wide)
{
    const x256 *s = ymm(v, from);
    ENTER(avx);
    *ymm(v, to) = (x256){ { s->q[0], s->q[1], wide ? s->q[2] : 0, wide ? s->q[3] : 0 } };
    return OP_NEXT;
}
static int move_r(struct soft_vcpu *v, const struct insn *i)
{
    return move(v, i->reg, i->rm, vex_wide(i));
}
static int move_back_r(struct soft_vcpu *v, const struct insn *i)
{
    return move(v, i->rm, i->reg, vex_wide(i));
}

static int load(struct soft_vcpu *v, const struct insn *i, unsigned size, bool aligned)
{
    x256 s;
    ENTER(avx);
    TRY(vfetch(v, i, size, aligned, &s));
    *ymm(v, i->reg) = s;
    return OP_NEXT;
}
static int load_u(struct soft_vcpu *v, const struct insn *i)
{
    return load(v, i, vex_bytes(i), false);
}
static int load_a(struct soft_vcpu *v, const struct insn *i)
{
    return load(v, i, vex_bytes(i), true);
}
static int load_4(struct soft_vcpu *v, const struct insn *i) { return load(v, i, 4, false); }
static int load_8(struct soft_vcpu *v, const struct insn *i) { return load(v, i, 8, false); }

static int store_u(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    return vput(v, i, vex_bytes(i), false, ymm(v, i->reg));
}
static int store_a(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    return vput(v, i, vex_bytes(i), true, ymm(v, i->reg));
}
static int store_4(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    return put(v, i, 4, false, xmm(v, i->reg));
}
static int store_8(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    return put(v, i, 8, false, xmm(v, i->reg));
}
static int store_high(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    return put(v, i, 8, false, &xmm(v, i->reg)->q[1]);
}

/* ---- Parts of a register: the rest comes from VEX.vvvv ---- */

/* `s` is the new value of the register's low (or high) 8 bytes. */
static int merge(struct soft_vcpu *v, unsigned to, const struct insn *i, unsigned half, uint64_t s)
{
    x128 r = *xmm(v, i->vvvv);
    r.q[half] = s;
    ymm_set_low(v, to, r);
    return OP_NEXT;
}
static uint64_t low_4(struct soft_vcpu *v, const struct insn *i, unsigned from)
{
    return (xmm(v, i->vvvv)->q[0] & ~0xffffffffull) | (uint32_t)xmm(v, from)->q[0];
}
static int movss(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    return merge(v, i->reg, i, 0, low_4(v, i, i->rm));
}
static int movss_back(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    return merge(v, i->rm, i, 0, low_4(v, i, i->reg));
}
static int movsd(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    return merge(v, i->reg, i, 0, xmm(v, i->rm)->q[0]);
}
static int movsd_back(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    return merge(v, i->rm, i, 0, xmm(v, i->reg)->q[0]);
}
static int movhlps(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    return merge(v, i->reg, i, 0, xmm(v, i->rm)->q[1]);
}
static int mov_half(struct soft_vcpu *v, const struct insn *i, unsigned half)
{
    x256 buf;
    ENTER(avx);
    const x256 *s = vsource(v, i, 8, &buf);
    return s ? merge(v, i->reg, i, half, s->q[0]) : OP_FAULT;
}
static int movlp(struct soft_vcpu *v, const struct insn *i) { return mov_half(v, i, 0); }
static int movhp(struct soft_vcpu *v, const struct insn *i) { return mov_half(v, i, 1); }

static int movq_r(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    ymm_set_low(v, i->reg, (x128){ { xmm(v, i->rm)->q[0], 0 } });
    return OP_NEXT;
}
static int movq_st_r(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    ymm_set_low(v, i->rm, (x128){ { xmm(v, i->reg)->q[0], 0 } });
    return OP_NEXT;
}
static int movd_r(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    ymm_set_low(v, i->reg, (x128){ { v->gpr[i->rm] & size_mask(i->size), 0 } });
    return OP_NEXT;
}
static int movd_st_r(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    gpr_set(v, i->rm, i->size, xmm(v, i->reg)->q[0]);
    return OP_NEXT;
}

const struct op op_avx_movu = OP_RM(move_r, load_u);
const struct op op_avx_movu_st = OP_RM(move_back_r, store_u);
const struct op op_avx_mova = OP_RM(move_r, load_a);
const struct op op_avx_mova_st = OP_RM(move_back_r, store_a);
const struct op op_avx_load_4 = OP_ALL(load_4);
const struct op op_avx_load_8 = OP_RM(movq_r, load_8);
const struct op op_avx_store_4 = OP_ALL(store_4);
const struct op op_avx_store_8 = OP_ALL(store_8);
const struct op op_avx_store_high = OP_ALL(store_high);
const struct op op_avx_movss = OP_ALL(movss);
const struct op op_avx_movss_back = OP_ALL(movss_back);
const struct op op_avx_movsd = OP_ALL(movsd);
const struct op op_avx_movsd_back = OP_ALL(movsd_back);
const struct op op_avx_movhlps = OP_ALL(movhlps);
const struct op op_avx_movlp = OP_ALL(movlp);
const struct op op_avx_movhp = OP_ALL(movhp); /* register form: movlhps */
const struct op op_avx_movq_st = OP_RM(movq_st_r, store_8);
const struct op op_avx_movd = { .r = { [2] = movd_r, movd_r }, .m = { [2] = load_4, load_8 } };
const struct op op_avx_movd_st = { .r = { [2] = movd_st_r, movd_st_r },
                                   .m = { [2] = store_4, store_8 } };

/* ---- VZEROUPPER, VZEROALL: eight registers outside 64-bit mode ---- */

static int zero(struct soft_vcpu *v, unsigned from)
{
    ENTER(avx);
    for (unsigned n = 0; n < (v->mode == MODE_64 ? 16 : 8); n++)
        memset(v->fpu.vec[n] + from, 0, 32 - from);
    return OP_NEXT;
}
static int zeroupper(struct soft_vcpu *v, const struct insn *i) { return zero(v, 16); }
static int zeroall(struct soft_vcpu *v, const struct insn *i) { return zero(v, 0); }
const struct op op_avx_zeroupper = OP_ALL(zeroupper);
const struct op op_avx_zeroall = OP_ALL(zeroall);

static int ldmxcsr(struct soft_vcpu *v, const struct insn *i)
{
    x128 src;
    ENTER(avx);
    TRY(fetch(v, i, 4, false, &src));
    if (src.q[0] & ~(uint64_t)MX_VALID)
        return raise_gp(v, 0);
    v->fpu.mxcsr = (uint32_t)src.q[0];
    return OP_NEXT;
}
static int stmxcsr(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    return put(v, i, 4, false, &v->fpu.mxcsr);
}
const struct op op_avx_ldmxcsr = OP_ALL(ldmxcsr);
const struct op op_avx_stmxcsr = OP_ALL(stmxcsr);

/* ---- Sign bits to a general register ---- */

static int sign_bits(struct soft_vcpu *v, const struct insn *i, unsigned size)
{
    uint32_t mask = 0;
    ENTER(avx);
    for (unsigned n = 0; n < vex_bytes(i) / size; n++)
        mask |= (uint32_t)(v->fpu.vec[i->rm][n * size + size - 1] >> 7) << n;
    v->gpr[i->reg] = mask;
    return OP_NEXT;
}
static int movmskps(struct soft_vcpu *v, const struct insn *i) { return sign_bits(v, i, 4); }
static int movmskpd(struct soft_vcpu *v, const struct insn *i) { return sign_bits(v, i, 8); }
static int pmovmskb(struct soft_vcpu *v, const struct insn *i) { return sign_bits(v, i, 1); }
const struct op op_avx_movmskps = OP_ALL(movmskps);
const struct op op_avx_movmskpd = OP_ALL(movmskpd);
const struct op op_avx_pmovmskb = OP_ALL(pmovmskb);

/* ---- Masked moves ---- */

static int maskmovdqu(struct soft_vcpu *v, const struct insn *i)
{
    ENTER(avx);
    return masked_store(v, i, xmm(v, i->reg), xmm(v, i->rm), 16);
}
const struct op op_avx_maskmovdqu = OP_ALL(maskmovdqu);

static bool masked(const x256 *mask, unsigned n, unsigned size)
{
    return ((const uint8_t *)mask)[n * size + size - 1] & 0x80;
}
static int element_load(struct soft_vcpu *v, uint64_t va, unsigned size, void *out)
{
    return size == 4 ? load32(v, va, out) : load64(v, va, out);
}

/* The alignment of elements under a mask is never checked (SDM volume 2, VMASKMOV; gathers do as
 * Intel's CPUs do): bytes are always aligned. */
static int masked_element_load(struct soft_vcpu *v, uint64_t va, unsigned size, uint8_t *out)
{
    if (likely(!v->align_check))
        return element_load(v, va, size, out);
    for (unsigned n = 0; n < size; n++)
        TRY(load8(v, va + n, out + n));
    return 0;
}
static int masked_element_probe(struct soft_vcpu *v, uint64_t va, unsigned size)
{
    if (likely(tlb_hit(tlb_slot(v, va), tlb_slot(v, va)->write, va, size)))
        return 0;
    if (likely(!v->align_check))
        return gva_probe_write(v, va, size);
    for (unsigned n = 0; n < size; n++)
        TRY(gva_probe_write(v, va + n, 1));
    return 0;
}
static int masked_element_store(struct soft_vcpu *v, uint64_t va, unsigned size,
                                const uint8_t *data)
{
    if (likely(!v->align_check))
        return size == 4 ? store32(v, va, *(const uint32_t *)data)
                         : store64(v, va, *(const uint64_t *)data);
    for (unsigned n = 0; n < size; n++)
        TRY(store8(v, va + n, data[n]));
    return 0;
}

/* The address of the element `offset` bytes into a masked move's operand, with the checks for that
 * element only. Address size wraps the operand's address, not what follows. */
static int masked_address(struct soft_vcpu *v, const struct insn *i, unsigned offset, unsigned size,
                          bool write, uint64_t *va)
{
    if (i->flags & IF_SLOWEA)
        return segment_linear(v, i->seg, ea_offset(v, i) + offset, size, write, va);
    TRY(ea(v, i, size, write, va));
    *va += offset;
    return 0;
}

/* Elements that are not asked for are not accessed, and cannot fault. */
static int maskmov(struct soft_vcpu *v, const struct insn *i, unsigned size)
{
    x256 r = { { 0, 0, 0, 0 } };
    uint64_t va;
    ENTER(avx);
    for (unsigned n = 0; n < vex_bytes(i) / size; n++) {
        if (!masked(ymm(v, i->vvvv), n, size))
            continue;
        TRY(masked_address(v, i, n * size, size, false, &va));
        TRY(masked_element_load(v, va, size, (uint8_t *)&r + n * size));
    }
    *ymm(v, i->reg) = r;
    return OP_NEXT;
}

/* All elements are probed before the first is stored: a fault leaves memory as it was. */
static int maskmov_st(struct soft_vcpu *v, const struct insn *i, unsigned size)
{
    const unsigned count = vex_bytes(i) / size;
    const uint8_t *data = v->fpu.vec[i->reg];
    uint64_t va[8];
    ENTER(avx);
    for (unsigned n = 0; n < count; n++) {
        if (!masked(ymm(v, i->vvvv), n, size))
            continue;
        TRY(masked_address(v, i, n * size, size, true, &va[n]));
        TRY(masked_element_probe(v, va[n], size));
    }
    for (unsigned n = 0; n < count; n++) {
        if (masked(ymm(v, i->vvvv), n, size))
            TRY(masked_element_store(v, va[n], size, data + n * size));
    }
    return OP_NEXT;
}
static int maskmov4(struct soft_vcpu *v, const struct insn *i) { return maskmov(v, i, 4); }
static int maskmov8(struct soft_vcpu *v, const struct insn *i) { return maskmov(v, i, 8); }
static int maskmov4_st(struct soft_vcpu *v, const struct insn *i) { return maskmov_st(v, i, 4); }
static int maskmov8_st(struct soft_vcpu *v, const struct insn *i) { return maskmov_st(v, i, 8); }
const struct op op_avx_maskmov4 = OP_ALL(maskmov4);
const struct op op_avx_maskmov8 = OP_ALL(maskmov8);
const struct op op_avx_maskmov4_st = OP_ALL(maskmov4_st);
const struct op op_avx_maskmov8_st = OP_ALL(maskmov8_st);

/* ---- Gathers ---- */

static uint64_t gather_index(const x256 *index, unsigned n, unsigned size)
{
    return size == 4 ? (uint64_t)((const int32_t *)index)[n] : ((const uint64_t *)index)[n];
}
static void element_clear(x256 *x, unsigned n, unsigned size)
{
    memset((uint8_t *)x + n * size, 0, size);
}
static bool trap_is_due(const struct soft_vcpu *v) { return v->flags & FL_TF || v->run->dr6_trap; }

/*
 * `index_size` and `size`: bytes of an index and of an element; the wider says how many there are.
 * When an element faults, those before it are in the destination and gone from the mask, so the
 * instruction goes on where it stopped (SDM volume 2, VGATHERDPS). The mask's other elements stay
 * as they are: the SDM's pseudo-code extends their signs first, the CPUs do not. The decoder made
 * sure that the three registers differ.
 *
 * What the elements before it owe, a single step's trap or a watchpoint's, comes in place of the
 * fault, which comes again when the instruction goes on.
 */
static int gather(struct soft_vcpu *v, const struct insn *i, unsigned index_size, unsigned size)
{
    x256 *d = ymm(v, i->reg), *mask = ymm(v, i->vvvv);
    const x256 *index = ymm(v, insn_sel(i));
    const unsigned count = vex_bytes(i) / (index_size > size ? index_size : size);
    const uint64_t cr2 = v->cr2;
    bool some = false;
    ENTER(avx);

    for (unsigned n = 0; n < count; n++) {
        uint64_t va;
        if (!masked(mask, n, size)) {
            element_clear(mask, n, size);
            continue;
        }
        const uint64_t offset = ea_indexed(v, i, gather_index(index, n, index_size));
        int r = segment_linear(v, i->seg, offset, size, false, &va);
        if (!r)
            r = masked_element_load(v, va, size, (uint8_t *)d + n * size);
        if (r && some && trap_is_due(v)) {
            v->cr2 = cr2;
            return OP_AGAIN;
        }
        if (r)
            return r;
        element_clear(mask, n, size);
        some = true;
    }
    *mask = (x256){ { 0, 0, 0, 0 } };
    memset((uint8_t *)d + count * size, 0, 32 - count * size);
    return OP_NEXT;
}
static int gatherd4(struct soft_vcpu *v, const struct insn *i) { return gather(v, i, 4, 4); }
static int gatherd8(struct soft_vcpu *v, const struct insn *i) { return gather(v, i, 4, 8); }
static int gatherq4(struct soft_vcpu *v, const struct insn *i) { return gather(v, i, 8, 4); }
static int gatherq8(struct soft_vcpu *v, const struct insn *i) { return gather(v, i, 8, 8); }
const struct op op_avx_gatherd4 = OP_ALL(gatherd4);
const struct op op_avx_gatherd8 = OP_ALL(gatherd8);
const struct op op_avx_gatherq4 = OP_ALL(gatherq4);
const struct op op_avx_gatherq8 = OP_ALL(gatherq8);

/* ---- Broadcasts ---- */

/* clang-format off */
AVX_C(broadcast1, uint8_t, 1, 1, s[0])
AVX_C(broadcast2, uint16_t, 2, 2, s[0])
AVX_C(broadcast4, uint32_t, 4, 4, s[0])
AVX_C(broadcast8, uint64_t, 8, 8, s[0])
AVX_C(broadcast16, uint64_t, 16, 16, s[n & 1]);
/* clang-format on */

/* ---- Shuffles by an immediate: within 16 bytes unless they are named for more ---- */

/* clang-format off */
AVX_C(pshufd, uint32_t, 16, 32, s[(n & 4) + (imm >> 2 * (n & 3) & 3)])
AVX_C(pshuflw, uint16_t, 16, 32, n & 4 ? s[n] : s[(n & 8) + (imm >> 2 * (n & 3) & 3)])
AVX_C(pshufhw, uint16_t, 16, 32, n & 4 ? s[(n & 8) + 4 + (imm >> 2 * (n & 3) & 3)] : s[n])
AVX_C(shufps, uint32_t, 16, 32, (n & 2 ? s : a)[(n & 4) + (imm >> 2 * (n & 3) & 3)])
AVX_C(shufpd, uint64_t, 16, 32, (n & 1 ? s : a)[(n & 2) + (imm >> n & 1)])
AVX_C(permilpd_imm, uint64_t, 16, 32, s[(n & 2) + (imm >> n & 1)])
AVX_C(permq, uint64_t, 32, 32, s[imm >> 2 * n & 3])
AVX_C(perm2x128, uint64_t, 32, 32,
      imm >> (n & 2) * 2 & 8 ? 0 : (imm >> (n & 2) * 2 & 2 ? s : a)[(imm >> (n & 2) * 2 & 1) * 2 + (n & 1)])
AVX_C(insert128, uint64_t, 16, 16, n >> 1 == (imm & 1) ? s[n & 1] : a[n])
AVX_C(blendd, uint32_t, 16, 32, (imm >> n & 1 ? s : a)[n])
AVX_C(blendq, uint64_t, 16, 32, (imm >> n & 1 ? s : a)[n])
AVX_C(pblendw, uint16_t, 16, 32, (imm >> (n & 7) & 1 ? s : a)[n])
AVX_C(palignr, uint8_t, 16, 32,
      imm + (n & 15) < 16 ? s[imm + n] : imm + (n & 15) < 32 ? a[imm + n - 16] : 0);
/* clang-format on */

/* ---- Shuffles by a register ---- */

/* clang-format off */
AVX_OP(permilps) AVX_OP(permilpd) AVX_OP(pshufb)
AVX_OP(unpcklps) AVX_OP(unpckhps) AVX_OP(unpcklpd) AVX_OP(unpckhpd)
AVX_UNARY(movsldup, 16, 32) AVX_UNARY(movshdup, 16, 32) AVX_UNARY(movddup, 8, 32)
static inline void run_permd(x256 *d, const x256 *a, const x256 *s)
{
    AVX_BODY3("vpermd", "ymm0", "\n\tvzeroupper");
}
AVX_HANDLER(permd, run_permd, run_permd, 32, 32);
/* clang-format on */

/* The mask is a register in the immediate. */
#define BLENDV_BODY(text, width, end)                                                   \
    __asm__("vmovdqa %1, %%" width "0\n\tvmovdqa %3, %%" width "1\n\t" text " %%" width \
            "1, %2, %%" width "0, %%" width "0\n\tvmovdqa %%ymm0, %0" end               \
            : "=m"(*ymm(v, i->reg))                                                     \
            : "m"(*ymm(v, i->vvvv)), "m"(*s), "m"(*ymm(v, insn_sel(i)))                 \
            : "xmm0", "xmm1")
#define BLENDV(name)                                                 \
    static int avx_##name(struct soft_vcpu *v, const struct insn *i) \
    {                                                                \
        x256 buf;                                                    \
        ENTER(avx);                                                  \
        const x256 *s = vsource(v, i, vex_bytes(i), &buf);           \
        if (!s)                                                      \
            return OP_FAULT;                                         \
        if (vex_wide(i))                                             \
            BLENDV_BODY("v" #name, "ymm", "\n\tvzeroupper");         \
        else                                                         \
            BLENDV_BODY("v" #name, "xmm", "");                       \
        return OP_NEXT;                                              \
    }                                                                \
    const struct op op_avx_##name = OP_ALL(avx_##name);
/* clang-format off */
BLENDV(blendvps)
BLENDV(blendvpd)
BLENDV(pblendvb);
/* clang-format on */

/* ---- Elements out of and into a register ---- */

static int extract128(struct soft_vcpu *v, const struct insn *i)
{
    const x128 *s = xmm(v, i->reg) + (i->imm & 1);
    ENTER(avx);
    if (i->flags & IF_MEM)
        return put(v, i, 16, false, s);
    ymm_set_low(v, i->rm, *s);
    return OP_NEXT;
}
const struct op op_avx_extract128 = OP_ALL(extract128);

static int extract(struct soft_vcpu *v, const struct insn *i, unsigned reg, unsigned size,
                   unsigned to)
{
    uint64_t r = 0;
    ENTER(avx);
    memcpy(&r, v->fpu.vec[reg] + (i->imm & (16 / size - 1)) * size, size);
    if (i->flags & IF_MEM)
        return put(v, i, size, false, &r);
    v->gpr[to] = r;
    return OP_NEXT;
}
static int pextrb(struct soft_vcpu *v, const struct insn *i)
{
    return extract(v, i, i->reg, 1, i->rm);
}
static int pextrw(struct soft_vcpu *v, const struct insn *i)
{
    return extract(v, i, i->rm, 2, i->reg);
}
static int pextrw_st(struct soft_vcpu *v, const struct insn *i)
{
    return extract(v, i, i->reg, 2, i->rm);
}
static int pextrd(struct soft_vcpu *v, const struct insn *i)
{
    return extract(v, i, i->reg, i->size, i->rm);
}
const struct op op_avx_pextrb = OP_ALL(pextrb);
const struct op op_avx_pextrw = OP_ALL(pextrw);
const struct op op_avx_pextrw_st = OP_ALL(pextrw_st);
const struct op op_avx_pextrd = OP_ALL(pextrd);
const struct op op_avx_extractps = OP_ALL(pextrd); /* its operand size is 4 */

static int insert(struct soft_vcpu *v, const struct insn *i, unsigned size)
{
    x128 s = { { v->gpr[i->rm], 0 } }, r = *xmm(v, i->vvvv);
    ENTER(avx);
    if (i->flags & IF_MEM)
        TRY(fetch(v, i, size, false, &s));
    memcpy((uint8_t *)&r + (i->imm & (16 / size - 1)) * size, &s, size);
    ymm_set_low(v, i->reg, r);
    return OP_NEXT;
}
static int pinsrb(struct soft_vcpu *v, const struct insn *i) { return insert(v, i, 1); }
static int pinsrw(struct soft_vcpu *v, const struct insn *i) { return insert(v, i, 2); }
static int pinsrd(struct soft_vcpu *v, const struct insn *i) { return insert(v, i, i->size); }
const struct op op_avx_pinsrb = OP_ALL(pinsrb);
const struct op op_avx_pinsrw = OP_ALL(pinsrw);
const struct op op_avx_pinsrd = OP_ALL(pinsrd);

static int insertps(struct soft_vcpu *v, const struct insn *i)
{
    x256 buf;
    const unsigned imm = (uint8_t)i->imm;
    x128 r = *xmm(v, i->vvvv);
    ENTER(avx);
    const x256 *s = vsource(v, i, 4, &buf);
    if (!s)
        return OP_FAULT;
    uint32_t *d = (uint32_t *)&r;
    d[imm >> 4 & 3] = ((const uint32_t *)s)[i->flags & IF_MEM ? 0 : imm >> 6];
    for (unsigned n = 0; n < 4; n++)
        if (imm >> n & 1)
            d[n] = 0;
    ymm_set_low(v, i->reg, r);
    return OP_NEXT;
}
const struct op op_avx_insertps = OP_ALL(insertps);
