/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The x86 state's tables cover it, its check refuses what cannot be, the CPU models say what they
 * should. */
#include "engine/x86.h"

#include "base/checked.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* ---- coverage ---- */

struct span {
    size_t start, end;
};

/* Padding that the ABI puts behind a member that is followed by a stricter one. */
#define GAP(type, member, next)                                                    \
    {                                                                              \
        offsetof(type, member) + sizeof(((type *)0)->member), offsetof(type, next) \
    }
#define TAIL(type, last)                                               \
    {                                                                  \
        offsetof(type, last) + sizeof(((type *)0)->last), sizeof(type) \
    }

static void expect_covered(const struct state_desc *desc, const struct span *gaps, size_t count)
{
    uint8_t *covered = calloc(1, desc->size);
    state_coverage(desc, covered);
    for (size_t g = 0; g < count; g++) {
        assert_true(gaps[g].end - gaps[g].start < 8);
        for (size_t i = gaps[g].start; i < gaps[g].end; i++)
            assert_int_equal(covered[i]++, 0); /* no field lies in what is padding */
    }
    for (size_t i = 0; i < desc->size; i++)
        if (!covered[i])
            fail_msg("byte %zu of %s is in no field", i, desc->name);
    free(covered);
}

static void test_coverage(void **state)
{
    static const struct span table_gap = TAIL(struct x86_table, limit);
    static const struct span fpu_gaps[] = {
        GAP(struct x86_fpu, ftw, fop),
        GAP(struct x86_fpu, ymm_high, ymm_high),
    };
    size_t gdtr = offsetof(struct arch_state, gdtr), idtr = offsetof(struct arch_state, idtr);
    size_t fpu = offsetof(struct arch_state, fpu), lapic = offsetof(struct arch_state, lapic);
    const struct span gaps[] = {
        { gdtr + table_gap.start, gdtr + table_gap.end },
        { idtr + table_gap.start, idtr + table_gap.end },
        { fpu + fpu_gaps[0].start, fpu + fpu_gaps[0].end },
        { fpu + offsetof(struct x86_fpu, fop) + 2, fpu + offsetof(struct x86_fpu, fip) },
        { fpu + offsetof(struct x86_fpu, ymm_high) + 256, fpu + sizeof(struct x86_fpu) },
        { lapic + offsetof(struct x86_lapic, irr) + 32, lapic + offsetof(struct x86_lapic, icr) },
        { lapic + offsetof(struct x86_lapic, timer_divide) + 4,
          lapic + offsetof(struct x86_lapic, timer_deadline_ns) },
        GAP(struct arch_state, injected_has_error, injected_error),
        TAIL(struct arch_state, injected_error),
    };
    expect_covered(&arch_state_desc, gaps, ARRAY_LEN(gaps));
}

/* ---- round trip ---- */

static int decode_back(const struct arch_state *s, struct arch_state *back, struct err *err)
{
    AUTO(buf_fini) struct buf out = { 0 };
    state_encode(&arch_state_desc, s, &out);
    return state_decode(&arch_state_desc, out.data, out.len, back, err);
}

static void test_reset_round_trip(void **state)
{
    for (uint32_t id = 0; id < 255; id += 127) {
        struct arch_state s, back;
        struct err err = { 0 };
        arch_state_reset(&s, id);
        assert_int_equal(s.activity, id ? X86_WAIT_SIPI : X86_RUNNING);
        assert_int_equal(s.lapic.apic_base, id ? 0xfee00800 : 0xfee00900);
        if (decode_back(&s, &back, &err) < 0)
            fail_msg("%s", err.text);
        assert_memory_equal(&s, &back, sizeof s);
    }
}

/* A 64-bit kernel, plain enough to be valid. */
static void long_mode(struct arch_state *s)
{
    arch_state_reset(s, 0);
    s->cr0 = 0x80050033;
    s->cr4 = 0x200a0 | 1 << 20;
    s->efer = 0xd01;
    s->cr3 = 0x1000;
    s->rip = 0xffffffff81000000;
    s->rflags = 0x246;
    s->seg[S_CS].base = 0;
    s->seg[S_CS].attr = 0x29b | SEG_G;
    s->seg[S_GS].base = 0xffff888000000000;
    s->gdtr.base = s->idtr.base = 0xfffffe0000000000;
    s->lstar = 0xffffffff82000000;
    s->xcr0 = 7;
}

static void expect_refused(const struct arch_state *s, const char *words)
{
    struct arch_state back;
    struct err err = { 0 };
    assert_int_equal(decode_back(s, &back, &err), -EINVAL);
    if (!strstr(err.text, words))
        fail_msg("\"%s\" does not say \"%s\"", err.text, words);
}

static void test_check(void **state)
{
    struct arch_state s, back;
    struct err err = { 0 };
    long_mode(&s);
    if (decode_back(&s, &back, &err) < 0)
        fail_msg("%s", err.text);
#define REFUSE(member, value, words) \
    do {                             \
        long_mode(&s);               \
        s.member = (value);          \
        expect_refused(&s, words);   \
    } while (0)
    REFUSE(cr0, 0x80000000, "cr0");
    REFUSE(cr0, 0x100000000, "cr0");
    REFUSE(cr0, 0xa0050033, "cr0");
    REFUSE(cr0, 0x11, "efer"); /* LMA without paging */
    REFUSE(efer, 0x900, "efer");
    REFUSE(efer, 0x8d01, "efer");
    REFUSE(cr4, 0, "cr4");
    REFUSE(cr4, 0x20 | 1 << 15, "cr4");
    REFUSE(cr3, 1ull << 52, "cr3");
    REFUSE(cr8, 16, "cr8");
    REFUSE(xcr0, 0, "xcr0");
    REFUSE(xcr0, 5, "xcr0");
    REFUSE(xcr0, 0xe7, "xcr0");
    REFUSE(dr7, 1ull << 32, "dr6 or dr7");
    REFUSE(rflags, 0, "rflags");
    REFUSE(rflags, 0x8002, "rflags");
    REFUSE(rflags, 0x20002, "rflags");
    REFUSE(seg[S_CS].attr, 0x69b, "rip or cs");
    REFUSE(seg[S_DS].base, 1ull << 32, "a segment");
    REFUSE(seg[S_GS].base, 1ull << 47, "a segment");
    REFUSE(seg[S_TR].base, 0x8000000000000000, "a segment");
    REFUSE(seg[S_SS].attr, 0x2093, "a segment");
    REFUSE(gdtr.base, 1ull << 60, "gdtr");
    REFUSE(lstar, 1ull << 47, "address register");
    REFUSE(kernel_gs_base, 1ull << 47, "address register");
    REFUSE(sysenter_eip, 1ull << 47, "address register");
    REFUSE(pat, 2, "pat");
    REFUSE(mtrr_def_type, 7, "MTRR");
    REFUSE(mtrr_fixed[10], 0x0200000000000000, "MTRR");
    REFUSE(mtrr_base[7], 1ull << 52, "MTRR");
    REFUSE(mtrr_mask[0], 1, "MTRR");
    REFUSE(activity, 3, "activity");
    REFUSE(in_smm, 2, "pending event");
    REFUSE(interrupt_shadow, 3, "interrupt_shadow");
    REFUSE(injected_type, 1, "injected");
    REFUSE(fpu.mxcsr, 0x10000, "mxcsr");
    REFUSE(lapic.apic_base, 0xfee00400, "apic_base");
    REFUSE(lapic.apic_base, 0xfee00801, "apic_base");
    REFUSE(lapic.id, 1, "APIC register");
    REFUSE(lapic.tpr, 0x100, "APIC register");
    REFUSE(lapic.irr[0], 1, "below 16");
    REFUSE(lapic.timer_divide, 4, "APIC timer");
    REFUSE(lapic.timer_deadline_ns, 1ull << 62, "APIC timer");
    long_mode(&s);
    s.injected_type = 3;
    s.injected_vector = 32;
    expect_refused(&s, "injected");
    arch_state_reset(&s, 0);
    s.rip = 1ull << 32;
    expect_refused(&s, "rip");
    s.rip = 0;
    s.rflags |= 1 << 17;
    expect_refused(&s, "rflags");
}

/* Every byte of the state makes the round trip, where the check lets it be anything. */
static void test_random_round_trip(void **state)
{
    struct arch_state s, back;
    struct err err = { 0 };
    long_mode(&s);
    for (unsigned i = 0; i < 16; i++) {
        s.gpr[i] = 0x0123456789abcdef * (i + 1);
        memset(s.fpu.xmm[i], (int)i + 1, 16);
        memset(s.fpu.ymm_high[i], (int)i + 100, 16);
    }
    for (unsigned i = 0; i < 8; i++) {
        s.lapic.isr[i] = 0x10000u << i;
        s.lapic.irr[i] = 0x20000u << i;
        s.fpu.st[i][9] = (uint8_t)(i + 1);
        s.mtrr_base[i] = (uint64_t)i << 30 | 6;
    }
    s.tsc_offset = -5;
    s.kvmclock.system_time = 0x1001;
    s.injected_valid = 1;
    s.injected_type = 3;
    s.injected_vector = 14;
    s.injected_has_error = 1;
    s.injected_error = 0xffff;
    if (decode_back(&s, &back, &err) < 0)
        fail_msg("%s", err.text);
    assert_memory_equal(&s, &back, sizeof s);
}

/* ---- models ---- */

static void test_models(void **state)
{
    assert_ptr_equal(cpu_model_find("x86-64-v2"), &cpu_models[0]);
    assert_null(cpu_model_find("x86-64-v9"));
    struct cpuid_entry table[CPUID_MAX];
    assert_int_equal(cpuid_build(cpu_model_find("host"), 0, 1, 1, table), 0);
    for (const struct cpu_model *model = cpu_models; model->entries; model++) {
        unsigned count = cpuid_build(model, 3, 6, 2100000, table);
        uint32_t r[4];
        cpuid_lookup(table, count, 0, 0, r);
        assert_int_equal(r[0], 0xd);
        assert_memory_equal(&r[1], "Auth", 4);
        assert_memory_equal(&r[3], "enti", 4);
        assert_memory_equal(&r[2], "cAMD", 4);

        char brand[49] = { 0 }, want[32];
        for (uint32_t i = 0; i < 3; i++) {
            cpuid_lookup(table, count, 0x80000002 + i, 0, r);
            memcpy(brand + 16 * i, r, 16);
        }
        snprintf(want, sizeof want, "Bedplate %s", model->name);
        assert_string_equal(brand, want);

        cpuid_lookup(table, count, 1, 99, r);
        assert_int_equal(r[1], 3 << 24 | 6 << 16 | 8 << 8);
        assert_int_equal(r[3], 0x178bfbff);
        assert_int_equal(r[2] >> 28 & 1, model != cpu_models); /* AVX */
        assert_int_equal(r[2] >> 27 & 1, 0);                   /* OSXSAVE is the engine's */
        cpuid_lookup(table, count, 0xb, 0, r);
        assert_int_equal(r[1], 1);
        assert_int_equal(r[3], 3);
        cpuid_lookup(table, count, 0xb, 1, r);
        assert_int_equal(r[0], 3);
        assert_int_equal(r[1], 6);
        assert_int_equal(r[2], 0x201);
        cpuid_lookup(table, count, 0x80000008, 0, r);
        assert_int_equal(r[0], 40 | 48 << 8);
        assert_int_equal(r[2], 3 << 12 | 5);
        cpuid_lookup(table, count, 0x40000000, 0, r);
        assert_memory_equal(&r[1], "KVMKVMKVM\0\0\0", 12);
        cpuid_lookup(table, count, 0x40000010, 0, r);
        assert_int_equal(r[0], 2100000);
        assert_int_equal(r[1], 1000000);
        cpuid_lookup(table, count, 7, 1, r);
        assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
        cpuid_lookup(table, count, 0x12345678, 0, r);
        assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
    }
}

static void test_one_cpu(void **state)
{
    struct cpuid_entry table[CPUID_MAX];
    uint32_t r[4];
    unsigned count = cpuid_build(&cpu_models[0], 0, 1, 1, table);
    cpuid_lookup(table, count, 1, 0, r);
    assert_int_equal(r[1], 8 << 8);
    assert_int_equal(r[3] >> 28 & 1, 0);
    cpuid_lookup(table, count, 0x80000001, 0, r);
    assert_int_equal(r[2] & 2, 0);
    cpuid_lookup(table, count, 0x80000008, 0, r);
    assert_int_equal(r[2], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_coverage), cmocka_unit_test(test_reset_round_trip),
        cmocka_unit_test(test_check),    cmocka_unit_test(test_random_round_trip),
        cmocka_unit_test(test_models),   cmocka_unit_test(test_one_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
