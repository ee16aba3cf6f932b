/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ACPI and SMBIOS tables: checksums and links, and what ACPICA's compiler says when it disassembles
 * each one and compiles the result. Without iasl in PATH the second half is skipped.
 */
#include "board/acpi.h"

#include "board/layout.h"
#include "board/smbios.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

enum { SKIPPED = 77 };

static const struct acpi_config configs[] = {
    { .cpus = 1,
      .serial = true,
      .pci = { .mem32 = LAYOUT_MEM32, .mem32_size = LAYOUT_MEM32_SIZE } },
    { .cpus = 255,
      .legacy = true,
      .generation = LAYOUT_GENERATION,
      .serial = true,
      .pci = { .mem32 = LAYOUT_MEM32,
               .mem32_size = LAYOUT_MEM32_SIZE,
               .mem64 = 0x1c0000000,
               .mem64_size = LAYOUT_MEM64_SIZE } },
};

static uint64_t get(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static uint8_t sum(const uint8_t *data, size_t len)
{
    uint8_t total = 0;
    for (size_t i = 0; i < len; i++)
        total += data[i];
    return total;
}

/* The table at `gpa`, checked; its length goes to *len. */
static const uint8_t *table(const struct buf *b, uint64_t gpa, const char *signature, size_t *len)
{
    assert_in_range(gpa, LAYOUT_ACPI, LAYOUT_ACPI + b->len - 8);
    const uint8_t *t = b->data + (gpa - LAYOUT_ACPI);
    *len = get(t + 4, 4);
    assert_memory_equal(t, signature, 4);
    assert_true(gpa - LAYOUT_ACPI + *len <= b->len);
    if (strcmp(signature, "FACS"))
        assert_int_equal(sum(t, *len), 0);
    return t;
}

static void tables_hang_together(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        struct buf b = { 0 };
        size_t len;
        acpi_build(&configs[i], LAYOUT_ACPI, &b, NULL);
        assert_true(b.len <= LAYOUT_ACPI_SIZE);
        assert_memory_equal(b.data, "RSD PTR ", 8);
        assert_int_equal(sum(b.data, 20), 0);
        assert_int_equal(sum(b.data, 36), 0);
        const uint8_t *xsdt = table(&b, get(b.data + 24, 8), "XSDT", &len);
        assert_int_equal(len, 36 + (configs[i].legacy ? 5 : 3) * 8);
        const uint8_t *fadt = table(&b, get(xsdt + 36, 8), "FACP", &len);
        assert_int_equal(len, 276);
        /* FIX_RTC: with a clock, its alarm is a fixed event (section 4.8.2.4); RTC_S4: no S4 */
        assert_int_equal(get(fadt + 112, 4) & 0xc0, configs[i].legacy ? 0 : 0x40);
        table(&b, get(fadt + 36, 4), "FACS", &len);
        table(&b, get(fadt + 40, 4), "DSDT", &len);
        assert_int_equal(get(fadt + 140, 8), get(fadt + 40, 4));
        table(&b, get(xsdt + 44, 8), "APIC", &len);
        assert_int_equal(len, 44 + 8 * configs[i].cpus + 12 + 10 * (configs[i].legacy ? 2 : 1) + 6);
        table(&b, get(xsdt + 52, 8), "MCFG", &len);
        if (configs[i].legacy) {
            table(&b, get(xsdt + 60, 8), "HPET", &len);
            assert_int_equal(len, 56);
            table(&b, get(xsdt + 68, 8), "WAET", &len);
        }
        const uint8_t *rsdt = table(&b, get(b.data + 16, 4), "RSDT", &len);
        assert_int_equal(get(rsdt + 36, 4), get(xsdt + 36, 8));
        buf_fini(&b);
    }
}

static int run(const char *dir, const char *command)
{
    char line[512];
    snprintf(line, sizeof line, "cd %s && %s", dir, command);
    int status = system(line);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void compile_again(const char *dir, const uint8_t *t, size_t len)
{
    char path[256], command[256], output[4096] = "", name[5] = "";
    memcpy(name, t, 4);
    snprintf(path, sizeof path, "%s/%s.aml", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(t, 1, len, f), len);
    fclose(f);
    snprintf(command, sizeof command,
             "iasl -d %s.aml >%s.out 2>&1 && iasl -we -p again %s.dsl >>%s.out 2>&1", name, name,
             name, name);
    int status = run(dir, command);
    snprintf(path, sizeof path, "%s/%s.out", dir, name);
    f = fopen(path, "rb");
    assert_non_null(f);
    output[fread(output, 1, sizeof output - 1, f)] = 0;
    fclose(f);
    if (status || !strstr(output, " 0 Errors, 0 Warnings"))
        fail_msg("iasl on %s: %s", name, output);
}

static void iasl_has_no_complaint(void **state)
{
    char dir[] = "/tmp/acpi-test-XXXXXX", command[64];
    assert_non_null(mkdtemp(dir));
    for (unsigned i = 0; i < 2; i++) {
        struct buf b = { 0 };
        acpi_build(&configs[i], LAYOUT_ACPI, &b, NULL);
        for (size_t at = 36; at + 8 < b.len; at++) {
            static const char *const signatures[] = { "DSDT", "FACP", "APIC", "MCFG",
                                                      "FACS", "HPET", "WAET" };
            for (unsigned j = 0; at % 16 == 0 && j < 7; j++)
                if (!memcmp(b.data + at, signatures[j], 4))
                    compile_again(dir, b.data + at, get(b.data + at + 4, 4));
        }
        buf_fini(&b);
    }
    snprintf(command, sizeof command, "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
}

/* Walks the structures as dmidecode does. */
static void smbios_structures(void **state)
{
    static const uint8_t expected[] = { 0, 1, 2, 3, 4, 16, 17, 19, 19, 32, 127 };
    const struct smbios_config config = { .profile = "pc-1",
                                          .serial = "ds=nocloud",
                                          .uuid = { 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc },
                                          .cpus = 4,
                                          .memory = 64ull << 30,
                                          .low_memory = LAYOUT_LOW_RAM_MAX };
    struct buf b = { 0 };
    smbios_build(&config, LAYOUT_SMBIOS, &b);
    assert_memory_equal(b.data, "_SM3_", 5);
    assert_int_equal(sum(b.data, b.data[6]), 0);
    assert_int_equal(get(b.data + 16, 8), LAYOUT_SMBIOS + 32);
    assert_int_equal(get(b.data + 12, 4), b.len - 32);

    size_t at = 32;
    for (unsigned i = 0; i < sizeof expected; i++) {
        assert_true(at + 4 <= b.len);
        assert_int_equal(b.data[at], expected[i]);
        const uint8_t *s = b.data + at;
        if (expected[i] == 1) {
            assert_memory_equal(s + 8, "\x78\x56\x34\x12\xbc\x9a", 6);
            assert_non_null(memmem(s, b.len - at, "ds=nocloud", 11));
            assert_string_equal((const char *)s + s[1], "Bedplate");
        }
        at += s[1];
        while (b.data[at] || b.data[at + 1])
            at++;
        at += 2;
    }
    assert_int_equal(at, b.len);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_hang_together),
        cmocka_unit_test(smbios_structures),
    };
    const struct CMUnitTest compiler[] = { cmocka_unit_test(iasl_has_no_complaint) };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed)
        return failed;
    if (system("iasl -v >/dev/null 2>&1")) {
        printf("skipped: iasl (package acpica-tools) is not here\n");
        return SKIPPED;
    }
    return cmocka_run_group_tests(compiler, NULL, NULL);
}
