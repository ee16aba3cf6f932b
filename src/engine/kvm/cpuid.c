/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CPU models under KVM: a named model is checked against what KVM can do here; `host` is what KVM
 * offers less what our architectural state cannot hold (state beyond AVX, PMU, TSC_ADJUST,
 * nesting).
 */
#include "engine/kvm/kvm.h"

#include <stdio.h>
#include <string.h>

#define BIT(n) (1u << (n))

enum { SUPPORTED_MAX = 256 };
union supported {
    struct kvm_cpuid2 head;
    uint8_t bytes[sizeof(struct kvm_cpuid2) + SUPPORTED_MAX * sizeof(struct kvm_cpuid_entry2)];
};

static int supported_get(int kvm_fd, union supported *out, struct err *err)
{
    out->head.nent = SUPPORTED_MAX;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, out) < 0)
        return err_errno(err, errno, "KVM does not tell its CPUID");
    return 0;
}

static const struct kvm_cpuid_entry2 *supported_find(const union supported *s, uint32_t leaf,
                                                     uint32_t subleaf)
{
    for (uint32_t i = 0; i < s->head.nent; i++) {
        const struct kvm_cpuid_entry2 *e = &s->head.entries[i];
        bool indexed = e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        if (e->function == leaf && (!indexed || e->index == subleaf))
            return e;
    }
    return NULL;
}

/* ---- named models ---- */

/* Where CPUID lists features, and what is there without KVM listing it. */
static const struct {
    uint32_t leaf, subleaf;
    unsigned reg; /* 0 EAX, 1 EBX, 2 ECX, 3 EDX */
    uint32_t always;
} feature_words[] = {
    { 0x1, 0, 2, BIT(21) /* x2APIC */ | BIT(24) /* TSC deadline */ | BIT(31) /* hypervisor */ },
    { 0x1, 0, 3, BIT(28) /* HTT */ },
    { 0x7, 0, 1, 0 },
    { 0x7, 0, 2, 0 },
    { 0x7, 0, 3, 0 },
    { 0xd, 1, 0, 0 },
    /* AMD's names for what leaf 1 says, and for the shape of the package */
    { 0x80000001, 0, 2, BIT(1) | BIT(4) },
    { 0x80000001, 0, 3, 0x0183f3ff },
};

static int model_check(const struct kvm_engine *e, const struct cpuid_entry *table, unsigned count,
                       const union supported *supported, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(feature_words); i++) {
        uint32_t want[4], leaf = feature_words[i].leaf, subleaf = feature_words[i].subleaf;
        cpuid_lookup(table, count, leaf, subleaf, want);
        const struct kvm_cpuid_entry2 *have = supported_find(supported, leaf, subleaf);
        const uint32_t words[4] = { have ? have->eax : 0, have ? have->ebx : 0,
                                    have ? have->ecx : 0, have ? have->edx : 0 };
        unsigned reg = feature_words[i].reg;
        uint32_t missing = want[reg] & ~words[reg] & ~feature_words[i].always;
        if (missing)
            return err_set(err, ENOTSUP,
                           "this host's KVM lacks features of CPU model \"%s\" (CPUID %#x.%u %s "
                           "bits %#x); choose another model",
                           e->model->name, leaf, subleaf,
                           (const char *[]){ "EAX", "EBX", "ECX", "EDX" }[reg], missing);
    }
    return 0;
}

/* ---- model `host` ---- */

/* Leaf 1 ECX: no MONITOR, DTES64, VMX, SMX, PDCM, OSXSAVE (KVM fills it in). */
#define HOST_1_C_OFF (BIT(2) | BIT(3) | BIT(5) | BIT(6) | BIT(15) | BIT(27))
/* Leaf 1 EDX: no DS, ACPI throttling. */
#define HOST_1_D_OFF (BIT(21) | BIT(22))
/* Leaf 7: no TSC_ADJUST, SGX, MPX, AVX-512, processor trace; no PKU, WAITPKG, CET, LA57, SGX; no
 * AVX-512, UINTR, LBR, AMX, IBT. */
#define HOST_7_B_OFF                                                                         \
    (BIT(1) | BIT(2) | BIT(14) | BIT(16) | BIT(17) | BIT(21) | BIT(25) | BIT(26) | BIT(27) | \
     BIT(28) | BIT(30) | BIT(31))
#define HOST_7_C_OFF                                                                               \
    (BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(11) | BIT(12) | BIT(14) | BIT(16) | \
     BIT(23) | BIT(30) | BIT(31))
#define HOST_7_D_OFF                                                                       \
    (BIT(2) | BIT(3) | BIT(5) | BIT(8) | BIT(18) | BIT(19) | BIT(20) | BIT(22) | BIT(23) | \
     BIT(24) | BIT(25))
#define HOST_7_1_A_OFF (BIT(5) | BIT(17) | BIT(21) | BIT(22) | BIT(26))
/* Leaf 0x80000001 ECX: no SVM, SKINIT, IBS, LWP, topology and performance extensions. */
#define HOST_EXT_C_OFF \
    (BIT(2) | BIT(10) | BIT(12) | BIT(15) | BIT(22) | BIT(23) | BIT(24) | BIT(27) | BIT(28))

static bool host_leaf_filter(struct cpuid_entry *e)
{
    switch (e->leaf) {
    case 0x1:
        e->ebx &= 0xff00;
        e->ecx = (e->ecx & ~HOST_1_C_OFF) | BIT(21) | BIT(24) | BIT(31);
        e->edx &= ~(HOST_1_D_OFF | BIT(28));
        return true;
    case 0x7:
        if (e->subleaf > 1)
            return false;
        if (e->subleaf == 1) {
            *e = (struct cpuid_entry){ 0x7, 1, e->eax & ~HOST_7_1_A_OFF, 0, 0, 0 };
            return true;
        }
        e->eax = e->eax > 1 ? 1 : e->eax;
        e->ebx &= ~HOST_7_B_OFF;
        e->ecx &= ~HOST_7_C_OFF;
        e->edx &= ~HOST_7_D_OFF;
        return true;
    case 0xd:
        if (e->subleaf > 2)
            return false;
        if (e->subleaf == 0) {
            e->eax &= 7;
            e->edx = 0;
            e->ebx = e->ecx = e->eax & 4 ? 832 : 576;
        } else if (e->subleaf == 1) {
            *e = (struct cpuid_entry){ 0xd, 1, e->eax & 7, 0, 0, 0 };
        }
        return true;
    case 0x80000001: e->ecx &= ~(HOST_EXT_C_OFF | BIT(1)); return true;
    case 0x80000008: e->ecx = 0; return true;
    /* Cache sharing, monitor, PMU, topology, trace, SGX, tiles, nesting: counts of the host, or not
     * ours to give. */
    case 0x2: return true;
    case 0x4: e->eax &= 0x3ff; return true;
    }
    if (e->leaf >= 0x40000000 && e->leaf < 0x80000000)
        return false;
    static const uint32_t kept[] = { 0x0,        0x6,        0x80000000, 0x80000002, 0x80000003,
                                     0x80000004, 0x80000005, 0x80000006, 0x80000007 };
    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        if (e->leaf == kept[i])
            return true;
    return false;
}

static int host_build(struct kvm_engine *e, const union supported *supported, struct err *err)
{
    for (uint32_t i = 0; i < supported->head.nent; i++) {
        const struct kvm_cpuid_entry2 *from = &supported->head.entries[i];
        struct cpuid_entry entry = {
            .leaf = from->function,
            .subleaf =
                from->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX ? from->index : CPUID_ANY_SUBLEAF,
            .eax = from->eax,
            .ebx = from->ebx,
            .ecx = from->ecx,
            .edx = from->edx,
        };
        if (!host_leaf_filter(&entry))
            continue;
        if (entry.leaf == 0x6) /* ARAT only: the rest is power management */
            entry = (struct cpuid_entry){ 0x6, CPUID_ANY_SUBLEAF, BIT(2), 0, 0, 0 };
        if (entry.leaf == 0x80000000 && entry.eax > 0x80000008)
            entry.eax = 0x80000008;
        if (entry.leaf == 0x0)
            entry.eax = 0xd;
        if (e->host_cpuid_count == CPUID_MAX - 8)
            return err_set(err, E2BIG, "KVM's CPUID has too many leaves");
        e->host_cpuid[e->host_cpuid_count++] = entry;
    }
    e->host_cpuid[e->host_cpuid_count].leaf = 0xffffffff;
    return 0;
}

int cpuid_create(struct kvm_engine *e, int kvm_fd, struct err *err)
{
    AUTO(free) union supported *supported = calloc(1, sizeof *supported);
    if (!supported)
        return err_set(err, ENOMEM, "out of memory");
    int r = supported_get(kvm_fd, supported, err);
    if (r < 0)
        return r;
    if (!e->model->entries) {
        r = host_build(e, supported, err);
        e->host_model = *e->model;
        e->host_model.entries = e->host_cpuid;
        return r;
    }
    struct cpuid_entry table[CPUID_MAX];
    unsigned count = cpuid_build(e->model, 0, e->max_vcpus, e->engine.machine->tsc_khz, table);
    return model_check(e, table, count, supported, err);
}

int cpuid_vcpu_create(struct kvm_vcpu *v, struct err *err)
{
    struct kvm_engine *e = kvm_engine_of_vcpu(v);
    const struct cpu_model *model = e->model->entries ? e->model : &e->host_model;
    struct cpuid_entry table[CPUID_MAX];
    unsigned count =
        cpuid_build(model, v->vcpu.apic_id, e->max_vcpus, e->engine.machine->tsc_khz, table);
    union {
        struct kvm_cpuid2 head;
        uint8_t bytes[sizeof(struct kvm_cpuid2) + CPUID_MAX * sizeof(struct kvm_cpuid_entry2)];
    } cpuid = { .head.nent = count };
    for (unsigned i = 0; i < count; i++) {
        const struct cpuid_entry *from = &table[i];
        bool indexed = from->subleaf != CPUID_ANY_SUBLEAF;
        cpuid.head.entries[i] = (struct kvm_cpuid_entry2){
            .function = from->leaf,
            .index = indexed ? from->subleaf : 0,
            .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = from->eax,
            .ebx = from->ebx,
            .ecx = from->ecx,
            .edx = from->edx,
        };
    }
    if (ioctl(v->fd, KVM_SET_CPUID2, &cpuid) < 0)
        return err_errno(err, errno, "KVM refuses the CPUID of model \"%s\"", e->model->name);
    /* What a leaf does not offer, the guest shall not have either. */
    struct kvm_enable_cap enforce = { .cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = { 1 } };
    ioctl(v->fd, KVM_ENABLE_CAP, &enforce); /* since Linux 5.10; a matter of neatness */
    return 0;
}
