/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ACPI tables: RSDP, XSDT, FADT, FACS, MADT, MCFG and DSDT, after ACPI 6.4 (chapter 5) and the
 * PCI firmware specification 3.3 (MCFG, _OSC). All objects of the DSDT are plain data but _OSC,
 * which systems have to run before they use PCI Express by themselves.
 */
#include "board/acpi.h"

#include "base/checked.h"
#include "board/aml.h"
#include "devices/hpet.h"
#include "devices/ioapic.h"
#include "devices/pci_host.h"
#include "devices/pm.h"
#include "devices/pvpanic.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum {
    HEADER_SIZE = 36,
    HEADER_CHECKSUM = 9,
    RSDP_SIZE = ACPI_RSDP_SIZE,
    FACS_SIZE = 64,
    LAPIC_BASE = 0xfee00000
};
enum { SPACE_SYSTEM_IO = 1 };

static void put(struct buf *b, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        buf_add(b, &(uint8_t){ (uint8_t)(value >> 8 * i) }, 1);
}

static void store(uint8_t *at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

static uint8_t checksum(const uint8_t *data, size_t len)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < len; i++)
        sum += data[i];
    return (uint8_t)-sum;
}

static void align(struct buf *b, size_t to)
{
    while (b->len % to)
        put(b, 0, 1);
}

/* The header that all tables but RSDP and FACS have. Returns where the table begins. */
static size_t table_begin(struct buf *b, const char *signature, uint8_t revision)
{
    align(b, 16);
    size_t at = b->len;
    buf_add(b, signature, 4);
    put(b, 0, 4); /* length */
    put(b, revision, 1);
    put(b, 0, 1); /* checksum */
    buf_add(b, "BEDPLT", 6);
    buf_add(b, "BEDPLATE", 8);
    put(b, 1, 4);
    buf_add(b, "BEDP", 4);
    put(b, 1, 4);
    assert(b->len - at == HEADER_SIZE);
    return at;
}

static void table_end(struct buf *b, size_t at)
{
    store(b->data + at + 4, b->len - at, 4);
    b->data[at + HEADER_CHECKSUM] = checksum(b->data + at, b->len - at);
}

static void fix_pointer(struct acpi_fixups *fixups, size_t at, unsigned bytes)
{
    assert(fixups->pointer_count < ACPI_FIXUPS_MAX);
    fixups->pointers[fixups->pointer_count].at = (uint32_t)at;
    fixups->pointers[fixups->pointer_count++].bytes = (uint8_t)bytes;
}

static void fix_sum(struct acpi_fixups *fixups, size_t at, size_t start, size_t len)
{
    assert(fixups->sum_count < ACPI_FIXUPS_MAX);
    fixups->sums[fixups->sum_count].at = (uint32_t)at;
    fixups->sums[fixups->sum_count].start = (uint32_t)start;
    fixups->sums[fixups->sum_count++].len = (uint32_t)len;
}

/* ---- DSDT ---- */

static void dsdt_hid(struct buf *b, const char *id)
{
    aml_name(b, "_HID");
    aml_eisa_id(b, id);
}

/* _PRT: every pin of every slot, wired to a GSI without a link device in between. */
static void dsdt_routes(struct buf *b)
{
    enum { SLOTS = 32, PINS = 4 };
    aml_name(b, "_PRT");
    size_t all = aml_begin_package(b, SLOTS * PINS);
    for (unsigned slot = 0; slot < SLOTS; slot++)
        for (unsigned pin = 1; pin <= PINS; pin++) {
            size_t one = aml_begin_package(b, 4);
            aml_integer(b, (uint64_t)slot << 16 | 0xffff);
            aml_integer(b, pin - 1);
            aml_integer(b, 0);
            aml_integer(b, pci_intx_gsi(slot, pin));
            aml_end(b, one);
        }
    aml_end(b, all);
}

/*
 * _OSC: the system asks to do PCI Express hot-plug, power management events and the rest by itself,
 * and gets the first two and the capability structure (PCI firmware specification, 4.5.1):
 *
 *   CreateDWordField (Arg3, 0, CDW1)
 *   If (LEqual (Arg0, uuid)) {
 *       CreateDWordField (Arg3, 8, CDW3)
 *       And (CDW3, 0x15, CDW3)
 *       If (LNot (LEqual (Arg1, One))) { Or (CDW1, 0x08, CDW1) }       unknown revision
 *   } Else { Or (CDW1, 0x04, CDW1) }                                   unknown UUID
 *   Return (Arg3)
 */
static void dsdt_osc(struct buf *b)
{
    static const uint8_t cdw1[] = { 0x8a, 0x6b, 0x00, 'C', 'D', 'W', '1' };
    static const uint8_t uuid_equal[] = { 0x93, 0x68, 0x11, 0x13, 0x0a, 0x10, 0x5b, 0x4d,
                                          0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40, 0x96, 0x57,
                                          0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66 };
    static const uint8_t grant[] = { 0x8a, 0x6b, 0x0a, 0x08, 'C',  'D', 'W', '3', 0x7b, 'C',
                                     'D',  'W',  '3',  0x0a, 0x15, 'C', 'D', 'W', '3' };
    static const uint8_t other_revision[] = { 0x92, 0x93, 0x69, 0x01 };
    static const uint8_t flag_revision[] = { 0x7d, 'C', 'D', 'W', '1', 0x0a,
                                             0x08, 'C', 'D', 'W', '1' };
    static const uint8_t flag_uuid[] = { 0x7d, 'C', 'D', 'W', '1', 0x0a, 0x04, 'C', 'D', 'W', '1' };
    static const uint8_t give_back[] = { 0xa4, 0x6b };

    size_t method = aml_begin_method(b, "_OSC", 4);
    aml_bytes(b, cdw1, sizeof cdw1);
    size_t known = aml_begin_if(b);
    aml_bytes(b, uuid_equal, sizeof uuid_equal);
    aml_bytes(b, grant, sizeof grant);
    size_t revision = aml_begin_if(b);
    aml_bytes(b, other_revision, sizeof other_revision);
    aml_bytes(b, flag_revision, sizeof flag_revision);
    aml_end(b, revision);
    aml_end(b, known);
    size_t unknown = aml_begin_else(b);
    aml_bytes(b, flag_uuid, sizeof flag_uuid);
    aml_end(b, unknown);
    aml_bytes(b, give_back, sizeof give_back);
    aml_end(b, method);
}

static void dsdt_pci(struct buf *b, const struct acpi_config *config)
{
    const struct pci_windows *w = &config->pci;
    size_t device = aml_begin_device(b, "PCI0");
    dsdt_hid(b, "PNP0A08");
    aml_name(b, "_CID");
    aml_eisa_id(b, "PNP0A03");
    aml_name(b, "_UID");
    aml_integer(b, 0);
    aml_name(b, "_SEG");
    aml_integer(b, 0);
    aml_name(b, "_BBN");
    aml_integer(b, 0);

    size_t crs = aml_begin_crs(b);
    aml_bus_window(b, 0, 0xff);
    aml_io(b, 0xcf8, 8);
    aml_io_window(b, 0, 0xcf7);
    aml_io_window(b, 0xd00, 0xffff);
    aml_memory32_window(b, (uint32_t)w->mem32, (uint32_t)(w->mem32 + w->mem32_size - 1));
    if (w->mem64_size)
        aml_memory64_window(b, w->mem64, w->mem64 + w->mem64_size - 1);
    aml_end_crs(b, crs);
    dsdt_routes(b);
    if (config->legacy)
        dsdt_osc(b);
    aml_end(b, device);
}

/* What is in use without a device object of its own (PNP0C02). Linux uses ECAM only if it is listed
 * here. */
static void dsdt_board(struct buf *b, const struct acpi_config *config)
{
    size_t device = aml_begin_device(b, "MBRD");
    dsdt_hid(b, "PNP0C02");
    aml_name(b, "_UID");
    aml_integer(b, 0);
    size_t crs = aml_begin_crs(b);
    if (config->legacy) {
        /* All that PMBASE of the LPC bridge decodes: Linux gives up ranges that are a part of it.
         */
        aml_io(b, PM_BASE, PM_SIZE);
        aml_io(b, 0x61, 1);
        aml_io(b, 0x4d0, 2);
    } else {
        aml_io(b, PM_EVENT_PORT, 12);
        aml_io(b, PM_GPE0_PORT, PM_GPE0_LEN);
    }
    aml_memory32_fixed(b, PCI_HOST_ECAM_BASE, PCI_HOST_ECAM_SIZE);
    aml_end_crs(b, crs);
    aml_end(b, device);
}

struct port_range {
    uint16_t port;
    uint8_t len;
};

/* A device of the ISA kind: one or two port ranges and one interrupt (-1: none). */
static void dsdt_isa(struct buf *b, const char *name, const char *id, struct port_range first,
                     struct port_range second, int irq)
{
    size_t device = aml_begin_device(b, name);
    dsdt_hid(b, id);
    aml_name(b, "_UID");
    aml_integer(b, 0);
    size_t crs = aml_begin_crs(b);
    aml_io(b, first.port, first.len);
    if (second.len)
        aml_io(b, second.port, second.len);
    if (irq >= 0)
        aml_irq(b, (unsigned)irq);
    aml_end_crs(b, crs);
    aml_end(b, device);
}

/* The mouse behind the keyboard's controller: an interrupt, no ports of its own. */
static void dsdt_mouse(struct buf *b)
{
    size_t device = aml_begin_device(b, "MOU");
    dsdt_hid(b, "PNP0F13");
    size_t crs = aml_begin_crs(b);
    aml_irq(b, 12);
    aml_end_crs(b, crs);
    aml_end(b, device);
}

/* A chip in memory, in the reserved part of the address space. */
static void dsdt_hpet(struct buf *b)
{
    size_t device = aml_begin_device(b, "HPET");
    dsdt_hid(b, "PNP0103");
    aml_name(b, "_UID");
    aml_integer(b, 0);
    size_t crs = aml_begin_crs(b);
    aml_memory32_fixed(b, HPET_BASE, HPET_SIZE);
    aml_end_crs(b, crs);
    aml_end(b, device);
}

static void dsdt_panic(struct buf *b)
{
    size_t device = aml_begin_device(b, "PEVT");
    aml_name(b, "_HID");
    aml_string(b, "QEMU0001");
    size_t crs = aml_begin_crs(b);
    aml_io(b, PVPANIC_PORT, 1);
    aml_end_crs(b, crs);
    aml_end(b, device);
}

/* The generation id ("Virtual Machine Generation ID", Microsoft 2012): ADDR says where its 16 bytes
 * are; event 5 of GPE0 tells that they changed. */
static void dsdt_generation(struct buf *b, uint32_t gpa, struct acpi_fixups *fixups)
{
    enum { OP_DWORD = 0x0c };
    size_t device = aml_begin_device(b, "VGEN");
    aml_name(b, "_HID");
    aml_string(b, "BEDP0001");
    aml_name(b, "_CID");
    aml_string(b, "VM_Gen_Counter");
    aml_name(b, "_DDN");
    aml_string(b, "VM_Gen_Counter");
    aml_name(b, "ADDR");
    size_t package = aml_begin_package(b, 2);
    put(b, OP_DWORD, 1);
    fixups->generation_at = (uint32_t)b->len;
    put(b, gpa, 4);
    aml_integer(b, 0);
    aml_end(b, package);
    aml_end(b, device);
}

/* Scope (\_GPE) { Method (_E05) { Notify (\_SB.VGEN, 0x80) } } */
static void dsdt_generation_event(struct buf *b)
{
    static const uint8_t notify[] = { 0x86, '\\', 0x2e, '_', 'S',  'B', '_',
                                      'V',  'G',  'E',  'N', 0x0a, 0x80 };
    size_t scope = aml_begin_scope(b, "\\_GPE");
    size_t method = aml_begin_method(b, "_E05", 0);
    aml_bytes(b, notify, sizeof notify);
    aml_end(b, method);
    aml_end(b, scope);
}

static void dsdt_cpus(struct buf *b, unsigned cpus)
{
    for (unsigned i = 0; i < cpus; i++) {
        char name[5];
        snprintf(name, sizeof name, "C%03X", i & 0xfff);
        size_t device = aml_begin_device(b, name);
        aml_name(b, "_HID");
        aml_string(b, "ACPI0007");
        aml_name(b, "_UID");
        aml_integer(b, i);
        aml_end(b, device);
    }
}

static void build_dsdt(struct buf *b, const struct acpi_config *config, struct acpi_fixups *fixups)
{
    size_t at = table_begin(b, "DSDT", 2);
    size_t scope = aml_begin_scope(b, "\\_SB");
    dsdt_pci(b, config);
    dsdt_board(b, config);
    if (config->legacy) {
        dsdt_isa(b, "PIC", "PNP0000", (struct port_range){ 0x20, 2 },
                 (struct port_range){ 0xa0, 2 }, 2);
        dsdt_isa(b, "TIMR", "PNP0100", (struct port_range){ 0x40, 4 }, (struct port_range){ 0 }, 0);
        dsdt_isa(b, "RTC", "PNP0B00", (struct port_range){ 0x70, 2 }, (struct port_range){ 0 }, 8);
        dsdt_isa(b, "KBD", "PNP0303", (struct port_range){ 0x60, 1 },
                 (struct port_range){ 0x64, 1 }, 1);
        dsdt_mouse(b);
    }
    if (config->serial)
        dsdt_isa(b, "COM1", "PNP0501", (struct port_range){ 0x3f8, 8 }, (struct port_range){ 0 },
                 4);
    if (config->legacy) {
        dsdt_hpet(b);
        dsdt_panic(b);
    }
    if (config->generation)
        dsdt_generation(b, config->generation, fixups);
    dsdt_cpus(b, config->cpus);
    aml_end(b, scope);
    if (config->generation)
        dsdt_generation_event(b);

    aml_name(b, "\\_S5");
    size_t s5 = aml_begin_package(b, 4);
    aml_integer(b, PM_SLEEP_TYPE_S5); /* for PM1a; there is no PM1b */
    aml_integer(b, PM_SLEEP_TYPE_S5);
    aml_integer(b, 0);
    aml_integer(b, 0);
    aml_end(b, s5);
    if (config->generation)
        fix_sum(fixups, at + HEADER_CHECKSUM, at, b->len - at);
    table_end(b, at);
}

/* ---- FADT ---- */

static void generic_address(uint8_t *at, uint16_t port, uint8_t bytes)
{
    static const uint8_t access[] = { [1] = 1, [2] = 2, [4] = 3 };
    at[0] = SPACE_SYSTEM_IO;
    at[1] = (uint8_t)(8 * bytes);
    at[2] = 0;
    at[3] = access[bytes];
    store(at + 4, port, 8);
}

enum { /* IA-PC boot architecture flags */
       BOOT_LEGACY_DEVICES = 1 << 0,
       BOOT_8042 = 1 << 1,
       BOOT_NO_VGA = 1 << 2,
       BOOT_NO_CMOS_RTC = 1 << 5
};
enum { /* fixed feature flags */
       FADT_WBINVD = 1 << 0,
       FADT_C1 = 1 << 2,
       FADT_NO_SLEEP_BUTTON = 1 << 5,
       FADT_NO_FIXED_RTC = 1 << 6,
       FADT_TIMER_32 = 1 << 8,
       FADT_RESET_REGISTER = 1 << 10
};

/* Offsets are those of the specification's table 5.9. */
static void build_fadt(struct buf *b, const struct acpi_config *config, uint32_t facs,
                       uint32_t dsdt, struct acpi_fixups *fixups)
{
    enum { SIZE = 276, RESET_VALUE = 6 };
    size_t at = table_begin(b, "FACP", 6);
    buf_grow(b, SIZE - HEADER_SIZE);
    uint8_t *t = b->data + at;

    store(t + 36, facs, 4);
    store(t + 40, dsdt, 4);
    fix_pointer(fixups, at + 36, 4);
    fix_pointer(fixups, at + 40, 4);
    fix_pointer(fixups, at + 140, 8);
    store(t + 46, PM_SCI_GSI, 2);
    store(t + 56, PM_EVENT_PORT, 4);
    store(t + 64, PM_CONTROL_PORT, 4);
    store(t + 76, PM_TIMER_PORT, 4);
    store(t + 80, PM_GPE0_PORT, 4);
    t[88] = 4; /* lengths of event, control and timer blocks */
    t[89] = 2;
    t[91] = 4;
    t[92] = PM_GPE0_LEN;
    store(t + 96, 0xfff, 2); /* latencies beyond the limits: no C2, no C3 */
    store(t + 98, 0xfff, 2);
    t[108] = config->legacy ? 0x32 : 0; /* CMOS byte of the century */
    store(t + 109,
          BOOT_NO_VGA | (config->legacy ? BOOT_LEGACY_DEVICES | BOOT_8042 : BOOT_NO_CMOS_RTC), 2);
    store(t + 112,
          FADT_WBINVD | FADT_C1 | FADT_NO_SLEEP_BUTTON | FADT_TIMER_32 | FADT_RESET_REGISTER |
              (config->legacy ? 0 : FADT_NO_FIXED_RTC),
          4);
    generic_address(t + 116, PCI_HOST_RESET_PORT, 1);
    t[128] = RESET_VALUE;
    t[131] = 4; /* minor version: 6.4 */
    store(t + 140, dsdt, 8);
    generic_address(t + 148, PM_EVENT_PORT, 4);
    generic_address(t + 172, PM_CONTROL_PORT, 2);
    generic_address(t + 208, PM_TIMER_PORT, 4);
    generic_address(t + 220, PM_GPE0_PORT, PM_GPE0_LEN);
    fix_sum(fixups, at + HEADER_CHECKSUM, at, b->len - at);
    table_end(b, at);
}

/* ---- The others ---- */

static void build_facs(struct buf *b)
{
    align(b, 64);
    size_t at = b->len;
    buf_add(b, "FACS", 4);
    put(b, FACS_SIZE, 4);
    buf_grow(b, FACS_SIZE - 8);
    b->data[at + 32] = 2; /* version */
}

static void madt_override(struct buf *b, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    put(b, 2, 1);
    put(b, 10, 1);
    put(b, 0, 1); /* ISA */
    put(b, irq, 1);
    put(b, gsi, 4);
    put(b, flags, 2);
}

static void build_madt(struct buf *b, const struct acpi_config *config)
{
    enum { ENABLED = 1, PCAT_COMPAT = 1, LEVEL_HIGH = 0xd, ALL_PROCESSORS = 0xff };
    size_t at = table_begin(b, "APIC", 5);
    put(b, LAPIC_BASE, 4);
    put(b, config->legacy ? PCAT_COMPAT : 0, 4);
    for (unsigned i = 0; i < config->cpus; i++) {
        put(b, 0, 1); /* local APIC; all ids are below 255 */
        put(b, 8, 1);
        put(b, i, 1);
        put(b, i, 1);
        put(b, ENABLED, 4);
    }
    put(b, 1, 1); /* I/O APIC 0 at GSI 0 */
    put(b, 12, 1);
    put(b, 0, 2);
    put(b, IOAPIC_BASE, 4);
    put(b, 0, 4);
    if (config->legacy)
        madt_override(b, 0, 2, 0);
    madt_override(b, PM_SCI_GSI, PM_SCI_GSI, LEVEL_HIGH);
    put(b, 4, 1); /* NMI on LINT1 of all processors */
    put(b, 6, 1);
    put(b, ALL_PROCESSORS, 1);
    put(b, 0, 2);
    put(b, 1, 1);
    table_end(b, at);
}

static void build_hpet(struct buf *b)
{
    size_t at = table_begin(b, "HPET", 1);
    put(b, HPET_ID, 4);
    put(b, 0, 1); /* in memory */
    put(b, 64, 1);
    put(b, 0, 2);
    put(b, HPET_BASE, 8);
    put(b, 0, 1);    /* its number */
    put(b, 1000, 2); /* ticks that a period needs at least: 10 us */
    put(b, 0, 1);
    table_end(b, at);
}

/* An ACPI PM timer that needs no second reading, and a clock that keeps time (Microsoft's WAET). */
static void build_waet(struct buf *b)
{
    enum { RTC_GOOD = 1, PM_TIMER_GOOD = 2 };
    size_t at = table_begin(b, "WAET", 1);
    put(b, RTC_GOOD | PM_TIMER_GOOD, 4);
    table_end(b, at);
}

static void build_mcfg(struct buf *b)
{
    size_t at = table_begin(b, "MCFG", 1);
    put(b, 0, 8);
    put(b, PCI_HOST_ECAM_BASE, 8);
    put(b, 0, 2); /* segment */
    put(b, 0, 1); /* first and last bus */
    put(b, PCI_HOST_ECAM_SIZE / (1 << 20) - 1, 1);
    put(b, 0, 4);
    table_end(b, at);
}

/* XSDT, or for old software the RSDT with addresses of four bytes. */
static void build_root(struct buf *b, const char *signature, unsigned bytes, const uint32_t *tables,
                       unsigned count, struct acpi_fixups *fixups)
{
    size_t at = table_begin(b, signature, 1);
    for (unsigned i = 0; i < count; i++) {
        fix_pointer(fixups, b->len, bytes);
        put(b, tables[i], bytes);
    }
    fix_sum(fixups, at + HEADER_CHECKSUM, at, b->len - at);
    table_end(b, at);
}

static void fill_rsdp(uint8_t *at, uint32_t rsdt, uint32_t xsdt, struct acpi_fixups *fixups)
{
    enum { V1_SIZE = 20, V1_CHECKSUM = 8, CHECKSUM = 32 };
    memcpy(at, "RSD PTR ", 8);
    memcpy(at + 9, "BEDPLT", 6);
    at[15] = 2; /* revision */
    store(at + 16, rsdt, 4);
    store(at + 20, RSDP_SIZE, 4);
    store(at + 24, xsdt, 8);
    fix_pointer(fixups, 16, 4);
    fix_pointer(fixups, 24, 8);
    fix_sum(fixups, V1_CHECKSUM, 0, V1_SIZE);
    fix_sum(fixups, CHECKSUM, 0, RSDP_SIZE);
    at[V1_CHECKSUM] = checksum(at, V1_SIZE);
    at[CHECKSUM] = checksum(at, RSDP_SIZE);
}

/* Where the table appended next will lie. */
static uint32_t next_table(struct buf *b, uint32_t gpa, size_t alignment)
{
    align(b, alignment);
    return gpa + (uint32_t)b->len;
}

void acpi_build(const struct acpi_config *config, uint32_t gpa, struct buf *out,
                struct acpi_fixups *fixups)
{
    struct acpi_fixups unused = { 0 };
    uint32_t tables[5];
    unsigned count = 0;
    assert(!out->len && gpa % 64 == 0);

    fixups = fixups ? fixups : &unused;
    *fixups = (struct acpi_fixups){ 0 };
    buf_grow(out, RSDP_SIZE);
    uint32_t facs = next_table(out, gpa, 64);
    assert(facs - gpa == ACPI_TABLES_OFFSET);
    build_facs(out);
    uint32_t dsdt = next_table(out, gpa, 16);
    build_dsdt(out, config, fixups);
    tables[count++] = next_table(out, gpa, 16);
    build_fadt(out, config, facs, dsdt, fixups);
    tables[count++] = next_table(out, gpa, 16);
    build_madt(out, config);
    tables[count++] = next_table(out, gpa, 16);
    build_mcfg(out);
    if (config->legacy) {
        tables[count++] = next_table(out, gpa, 16);
        build_hpet(out);
        tables[count++] = next_table(out, gpa, 16);
        build_waet(out);
    }
    uint32_t rsdt = next_table(out, gpa, 16);
    build_root(out, "RSDT", 4, tables, count, fixups);
    uint32_t xsdt = next_table(out, gpa, 16);
    build_root(out, "XSDT", 8, tables, count, fixups);
    fill_rsdp(out->data, rsdt, xsdt, fixups);
}
