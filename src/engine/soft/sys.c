/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * System instructions of programs and kernels alike: SYSCALL and its kin, GS and FS bases, flags
 * with privileges, port I/O, random numbers, hints. Control registers are in sys_control.c, MSRs,
 * CPUID and time in sys_msr.c.
 */
#include "engine/soft/sys.h"

#include "engine/soft/mem.h"
#include "engine/soft/run.h"
#include "engine/soft/seg.h"
#include "machine/machine.h"

#include <sys/random.h>

/* ---- Hints and fences ---- */

static int nothing(struct soft_vcpu *v, const struct insn *i)
{
    (void)v, (void)i;
    return OP_NEXT;
}

static int clflush(struct soft_vcpu *v,
                   const struct insn *i) /* faults as a load of one byte does */
{
    uint64_t va;
    uint8_t byte;
    int r = ea(v, i, 1, false, &va);
    return r ? r : load8(v, va, &byte);
}

static int fence(struct soft_vcpu *v, const struct insn *i)
{
    (void)v, (void)i;
    atomic_thread_fence(memory_order_seq_cst);
    return OP_NEXT;
}

static int pause_insn(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    vcpu_spin(v);
    return OP_NEXT;
}

/* ---- SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS ---- */

static void flat_segments(struct soft_vcpu *v, uint16_t cs, uint16_t ss, uint8_t cpl, bool cs64)
{
    v->seg[S_CS] = (struct x86_segment){
        .selector = cs,
        .limit = 0xffffffff,
        .attr = (uint16_t)(SEG_P | SEG_S | SEG_G | 0xb | cpl << SEG_DPL_SHIFT |
                           (cs64 ? SEG_L : SEG_DB)),
    };
    v->seg[S_SS] = (struct x86_segment){
        .selector = ss,
        .limit = 0xffffffff,
        .attr = (uint16_t)(SEG_P | SEG_S | SEG_G | SEG_DB | 3 | cpl << SEG_DPL_SHIFT),
    };
    v->cpl = cpl;
    vcpu_mode_update(v);
}

static int syscall_insn(struct soft_vcpu *v, const struct insn *i)
{
    if (!(v->efer & EFER_SCE) || !v->long_mode)
        return raise_ud(v);
    v->gpr[R_CX] = next_rip(v, i);
    v->gpr[R_11] = rflags_get(v) & ~(uint32_t)FL_RF;
    v->rip = v->mode == MODE_64 ? v->lstar : v->cstar;
    flags_set(v, 0, (uint32_t)v->sfmask | FL_RF);
    uint16_t cs = (uint16_t)(v->star >> 32 & 0xfffc);
    flat_segments(v, cs, (uint16_t)(cs + 8), 0, true);
    return OP_JUMP;
}

static int sysret_insn(struct soft_vcpu *v, const struct insn *i)
{
    if (!(v->efer & EFER_SCE) || v->mode != MODE_64)
        return raise_ud(v);
    if (v->cpl || (i->size == 8 && !is_canonical(v->gpr[R_CX])))
        return raise_gp(v, 0);
    uint16_t base = (uint16_t)(v->star >> 48);
    uint16_t cs = (uint16_t)((base + (i->size == 8 ? 16 : 0)) | 3), ss = (uint16_t)((base + 8) | 3);
    flags_set(v, (uint32_t)v->gpr[R_11], SYSRET_FLAGS);
    flat_segments(v, cs, ss, 3, i->size == 8);
    v->rip = i->size == 8 ? v->gpr[R_CX] : (uint32_t)v->gpr[R_CX];
    return OP_JUMP;
}

static int sysenter_insn(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    if (real_mode(v) || !(v->sysenter_cs & 0xfffc))
        return raise_gp(v, 0);
    flags_set(v, 0, FL_VM | FL_IF | FL_RF);
    uint16_t cs = (uint16_t)(v->sysenter_cs & 0xfffc);
    flat_segments(v, cs, (uint16_t)(cs + 8), 0, v->long_mode);
    v->gpr[R_SP] = v->long_mode ? v->sysenter_esp : (uint32_t)v->sysenter_esp;
    v->rip = v->long_mode ? v->sysenter_eip : (uint32_t)v->sysenter_eip;
    return OP_JUMP;
}

static int sysexit_insn(struct soft_vcpu *v, const struct insn *i)
{
    if (real_mode(v) || !(v->sysenter_cs & 0xfffc) || v->cpl)
        return raise_gp(v, 0);
    bool wide = i->size == 8;
    if (wide && (!is_canonical(v->gpr[R_CX]) || !is_canonical(v->gpr[R_DX])))
        return raise_gp(v, 0);
    uint16_t cs = (uint16_t)((v->sysenter_cs & 0xfffc) + (wide ? 32 : 16));
    uint64_t rip = wide ? v->gpr[R_DX] : (uint32_t)v->gpr[R_DX];
    uint64_t sp = wide ? v->gpr[R_CX] : (uint32_t)v->gpr[R_CX];
    flat_segments(v, cs | 3, (uint16_t)(cs + 8) | 3, 3, wide);
    v->gpr[R_SP] = sp;
    v->rip = rip;
    return OP_JUMP;
}

static int swapgs(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    uint64_t base = v->seg[S_GS].base;
    v->seg[S_GS].base = v->seg_base[S_GS] = v->kernel_gs_base;
    v->kernel_gs_base = base;
    return OP_NEXT;
}

static int fsgsbase_check(struct soft_vcpu *v) { return v->cr4 & CR4_FSGSBASE ? 0 : raise_ud(v); }

static int rd_base(struct soft_vcpu *v, const struct insn *i, unsigned seg)
{
    int r = fsgsbase_check(v);
    if (!r)
        gpr_set(v, i->rm, i->size, v->seg[seg].base);
    return r;
}
static int wr_base(struct soft_vcpu *v, const struct insn *i, unsigned seg)
{
    int r = fsgsbase_check(v);
    uint64_t value = i->size == 8 ? v->gpr[i->rm] : (uint32_t)v->gpr[i->rm];
    if (!r && !is_canonical(value))
        r = raise_gp(v, 0);
    if (!r)
        v->seg[seg].base = v->seg_base[seg] = value;
    return r;
}
static int rdfsbase(struct soft_vcpu *v, const struct insn *i) { return rd_base(v, i, S_FS); }
static int rdgsbase(struct soft_vcpu *v, const struct insn *i) { return rd_base(v, i, S_GS); }
static int wrfsbase(struct soft_vcpu *v, const struct insn *i) { return wr_base(v, i, S_FS); }
static int wrgsbase(struct soft_vcpu *v, const struct insn *i) { return wr_base(v, i, S_GS); }

/* ---- Flags with privileges ---- */

static bool io_privileged(const struct soft_vcpu *v) { return v->cpl <= (v->flags >> 12 & 3); }

static int cli(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    if (!io_privileged(v))
        return virtual_cli(v);
    v->flags &= ~(uint32_t)FL_IF;
    return OP_NEXT;
}

static int sti(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    if (!io_privileged(v))
        return virtual_sti(v);
    if (v->flags & FL_IF)
        return OP_NEXT;
    v->flags |= FL_IF;
    /* Nobody looks at the requests within a block, and nothing waits. */
    if (!v->held_back && !v->run->single && i[1].fn != op_block_end)
        return OP_NEXT;
    v->interrupt_shadow = 1;
    vcpu_request_self(v, REQ_INTERRUPT);
    return OP_END;
}

static int pushf(struct soft_vcpu *v, const struct insn *i)
{
    if (v8086_mode(v))
        return v86_pushf(v, i);
    return push(v, i->size, rflags_get(v) & ~(uint32_t)(FL_RF | FL_VM));
}

static int popf(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t value;
    if (v8086_mode(v))
        return v86_popf(v, i);
    int r = pop(v, i->size, &value);
    if (r)
        return r;
    uint32_t mask = F_ALL | FL_TF | FL_DF | FL_NT;
    if (i->size > 2)
        mask |= FL_AC | FL_ID | FL_RF;
    if (io_privileged(v))
        mask |= FL_IF;
    if (v->cpl == 0)
        mask |= FL_IOPL;
    uint32_t before = v->flags;
    flags_set(v, (uint32_t)value & ~(uint32_t)FL_RF, mask);
    return (before ^ v->flags) & (FL_IF | FL_TF | FL_AC) ? OP_END : OP_NEXT;
}

static int ac_write(struct soft_vcpu *v, uint32_t value)
{
    if (v->cpl)
        return raise_ud(v);
    v->flags = (v->flags & ~(uint32_t)FL_AC) | value;
    tlb_mode_changed(v);
    return OP_NEXT;
}
static int clac(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    return ac_write(v, 0);
}
static int stac(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    return ac_write(v, FL_AC);
}

static int hlt(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    v->activity = X86_HALTED;
    vcpu_request_self(v, REQ_INTERRUPT);
    return OP_END;
}

/* ---- Port I/O ---- */

int io_check(struct soft_vcpu *v, uint16_t port, unsigned size)
{
    if (real_mode(v) || (io_privileged(v) && !v8086_mode(v)))
        return 0;
    const struct x86_segment *tr = &v->seg[S_TR];
    uint16_t base, bits;
    if (tr->attr & SEG_UNUSABLE || tr->limit < 0x67 || (tr->attr & SEG_TYPE & ~2) == 1)
        return raise_gp(v, 0);
    int r = gva_load_system(v, tr->base + 0x66, &base, 2);
    if (r)
        return r;
    uint32_t at = (uint32_t)base + port / 8;
    if (at + 1 > tr->limit)
        return raise_gp(v, 0);
    r = gva_load_system(v, tr->base + at, &bits, 2);
    if (r)
        return r;
    return bits >> (port & 7) & ((1u << size) - 1) ? raise_gp(v, 0) : 0;
}

static int in(struct soft_vcpu *v, const struct insn *i, uint16_t port)
{
    unsigned size = i->size > 4 ? 4 : i->size;
    int r = io_check(v, port, size);
    if (r)
        return r;
    uint64_t value = bus_read(machine_of(v), SPACE_IO, port, size);
    if (size == 1)
        *(uint8_t *)&v->gpr[R_AX] = (uint8_t)value;
    else
        gpr_set(v, R_AX, size, value);
    return OP_NEXT;
}
static int out(struct soft_vcpu *v, const struct insn *i, uint16_t port)
{
    unsigned size = i->size > 4 ? 4 : i->size;
    int r = io_check(v, port, size);
    if (r)
        return r;
    bus_write(machine_of(v), SPACE_IO, port, size, v->gpr[R_AX] & size_mask(size));
    return OP_END; /* it may have changed the address map */
}
static int in_i(struct soft_vcpu *v, const struct insn *i) { return in(v, i, (uint8_t)i->imm); }
static int in_dx(struct soft_vcpu *v, const struct insn *i)
{
    return in(v, i, (uint16_t)v->gpr[R_DX]);
}
static int out_i(struct soft_vcpu *v, const struct insn *i) { return out(v, i, (uint8_t)i->imm); }
static int out_dx(struct soft_vcpu *v, const struct insn *i)
{
    return out(v, i, (uint16_t)v->gpr[R_DX]);
}

/* ---- Random numbers, hypercalls ---- */

static int random_number(struct soft_vcpu *v, const struct insn *i)
{
    uint64_t value;
    bool ok = getrandom(&value, sizeof value, GRND_NONBLOCK) == sizeof value;
    gpr_set(v, i->rm, i->size, ok ? value : 0);
    status_set(v, ok ? CF : 0);
    return OP_NEXT;
}

static int hypercall(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    v->gpr[R_AX] = (uint64_t)-1000; /* KVM_ENOSYS: no call is offered by the model's leaves */
    return OP_NEXT;
}

static int undefined(struct soft_vcpu *v, const struct insn *i)
{
    (void)i;
    return raise_ud(v);
}

const struct op op_invd = OP_ALL(nothing), op_nop = OP_ALL(nothing), op_pause = OP_ALL(pause_insn),
                op_clflush = OP_ALL(clflush), op_lfence = OP_ALL(fence), op_mfence = OP_ALL(fence),
                op_sfence = OP_ALL(fence), op_syscall = OP_ALL(syscall_insn),
                op_sysret = OP_ALL(sysret_insn), op_sysenter = OP_ALL(sysenter_insn),
                op_sysexit = OP_ALL(sysexit_insn), op_swapgs = OP_ALL(swapgs),
                op_rdfsbase = OP_ALL(rdfsbase), op_rdgsbase = OP_ALL(rdgsbase),
                op_wrfsbase = OP_ALL(wrfsbase), op_wrgsbase = OP_ALL(wrgsbase),
                op_cli = OP_ALL(cli), op_sti = OP_ALL(sti), op_pushf = OP_ALL(pushf),
                op_popf = OP_ALL(popf), op_clac = OP_ALL(clac), op_stac = OP_ALL(stac),
                op_hlt = OP_ALL(hlt), op_in_I = OP_ALL(in_i), op_in_DX = OP_ALL(in_dx),
                op_out_I = OP_ALL(out_i), op_out_DX = OP_ALL(out_dx),
                op_rdrand = OP_ALL(random_number), op_rdseed = OP_ALL(random_number),
                op_vmcall = OP_ALL(hypercall), op_vmmcall = OP_ALL(hypercall),
                op_monitor = OP_ALL(undefined), op_mwait = OP_ALL(undefined),
                op_rsm = OP_ALL(undefined);
