/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host's debugger: breakpoints and watchpoints are the CPU's four debug registers, which leaves
 * guest memory alone; and addresses as the guest's paging has them.
 */
#include "engine/kvm/kvm.h"

enum { DR7_GE = 1 << 9, DR7_ONE = 1 << 10, DR6_STEP = 1 << 14, FLAG_RF = 1 << 16 };

static uint64_t dr7_point(unsigned i, const struct debug_point *p)
{
    static const uint8_t lengths[9] = { [1] = 0, [2] = 1, [4] = 3, [8] = 2 };
    unsigned len = p->kind == DEBUG_EXEC ? 0 : lengths[p->len];
    return (uint64_t)1 << (2 * i + 1) | (uint64_t)(p->kind | len << 2) << (16 + 4 * i);
}

/* A breakpoint where the guest stands now is the one that it has just hit. */
static int step_off(struct kvm_vcpu *v, const struct debug_point *points, unsigned count)
{
    struct kvm_regs regs;
    if (ioctl(v->fd, KVM_GET_REGS, &regs) < 0)
        return -errno;
    for (unsigned i = 0; i < count; i++)
        if (points[i].kind == DEBUG_EXEC && points[i].gva == regs.rip) {
            regs.rflags |= FLAG_RF;
            return ioctl(v->fd, KVM_SET_REGS, &regs) < 0 ? -errno : 0;
        }
    return 0;
}

int debug_set(struct vcpu *vcpu, const struct debug_point *points, unsigned count, bool step,
              struct err *err)
{
    struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
    if (count > KVM_DEBUG_MAX)
        return err_set(err, ENOSPC, "at most %d breakpoints and watchpoints under KVM",
                       KVM_DEBUG_MAX);
    struct kvm_guest_debug debug = { 0 };
    if (step)
        debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    if (count)
        debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    debug.arch.debugreg[7] = count ? DR7_GE | DR7_ONE : 0;
    for (unsigned i = 0; i < count; i++) {
        const struct debug_point *p = &points[i];
        if (p->kind != DEBUG_EXEC && (p->len > 8 || !is_power_of_two(p->len) || p->gva % p->len))
            return err_set(err, EINVAL, "a watchpoint spans 1, 2, 4 or 8 aligned bytes");
        debug.arch.debugreg[i] = p->gva;
        debug.arch.debugreg[7] |= dr7_point(i, p);
    }
    int r = step_off(v, points, count);
    if (r == 0 && ioctl(v->fd, KVM_SET_GUEST_DEBUG, &debug) < 0)
        r = -errno;
    if (r < 0)
        return err_errno(err, -r, "vcpu %u: KVM refuses breakpoints", vcpu->index);
    v->point_count = count;
    for (unsigned i = 0; i < count; i++)
        v->points[i] = points[i];
    return 0;
}

void debug_exit(struct kvm_vcpu *v)
{
    const struct kvm_debug_exit_arch *arch = &v->run->debug.arch;
    v->vcpu.debug_hit =
        (struct debug_hit){ .step = arch->dr6 & DR6_STEP, .point = -1, .gva = arch->pc };
    for (unsigned i = 0; i < v->point_count; i++)
        if (arch->dr6 & 1u << i) {
            v->vcpu.debug_hit.point = (int)i;
            v->vcpu.debug_hit.gva = v->points[i].gva;
            break;
        }
}

/* ---- translation: our own walk, because KVM's sets accessed bits ---- */

enum { PTE_PRESENT = 1, PTE_LARGE = 1 << 7 };
#define PTE_ADDRESS 0x000ffffffffff000ull

struct walk {
    unsigned levels, bits, entry_size; /* of the table index */
    uint64_t table;
};

/* false: no paging, addresses are physical. */
static bool walk_begin(const struct kvm_sregs2 *s, struct walk *w)
{
    enum { CR4_PSE = 1 << 4, CR4_PAE = 1 << 5, CR4_LA57 = 1 << 12, EFER_LMA = 1 << 10 };
    if (!(s->cr0 >> 31 & 1))
        return false;
    if (!(s->cr4 & CR4_PAE))
        *w = (struct walk){ 2, 10, 4, s->cr3 & 0xfffff000 };
    else if (!(s->efer & EFER_LMA))
        *w = (struct walk){ 3, 9, 8, s->cr3 & 0xffffffe0 };
    else
        *w = (struct walk){ s->cr4 & CR4_LA57 ? 5 : 4, 9, 8, s->cr3 & PTE_ADDRESS };
    return true;
}

static int walk_go(struct machine *m, const struct walk *w, uint64_t gva, uint64_t *gpa)
{
    uint64_t table = w->table;
    for (unsigned level = w->levels; level; level--) {
        unsigned shift = PAGE_SHIFT + (level - 1) * w->bits;
        uint64_t index = gva >> shift & ((1u << w->bits) - 1), entry = 0;
        if (w->levels == 3 && level == 3)
            index &= 3;
        int r = mem_read(m, table + index * w->entry_size, &entry, w->entry_size);
        if (r < 0 || !(entry & PTE_PRESENT))
            return -EFAULT;
        bool large = entry & PTE_LARGE && level > 1 && level <= (w->levels == 4 ? 3 : 2);
        if (level == 1 || large) {
            uint64_t mask = ((uint64_t)1 << shift) - 1, base = entry & PTE_ADDRESS;
            if (large && w->entry_size == 4) /* PSE-36: bits 13-20 are address bits 32-39 */
                base = (entry & 0xffc00000) | (entry >> 13 & 0xff) << 32;
            *gpa = (base & ~mask) | (gva & mask);
            return 0;
        }
        table = entry & PTE_ADDRESS;
    }
    return -EFAULT;
}

int debug_translate(struct vcpu *vcpu, uint64_t gva, uint64_t *gpa)
{
    struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
    struct kvm_sregs2 sregs;
    struct walk walk;
    if (ioctl(v->fd, KVM_GET_SREGS2, &sregs) < 0)
        return -EFAULT;
    if (!walk_begin(&sregs, &walk)) {
        *gpa = gva;
        return 0;
    }
    if (walk.levels >= 4) {
        unsigned unused = 64 - PAGE_SHIFT - 9 * walk.levels;
        if ((uint64_t)((int64_t)(gva << unused) >> unused) != gva)
            return -EFAULT;
    } else {
        gva &= 0xffffffff;
    }
    return walk_go(vcpu->engine->machine, &walk, gva, gpa);
}
