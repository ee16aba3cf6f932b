/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The board. With firmware the first CPU starts there and finds the chips in their power-on state.
 * Without, what a firmware would have done before the kernel starts (addresses for PCI, chipset
 * registers, tables, memory map, MTRRs, virtual wire mode of the first local APIC) is done here, at
 * power-on and at every reset.
 */
#include "board/board.h"

#include "base/checked.h"
#include "base/text.h"
#include "board/acpi.h"
#include "board/layout.h"
#include "board/linux_boot.h"
#include "board/smbios.h"
#include "devices/fw_cfg.h"
#include "devices/hpet.h"
#include "devices/i8042.h"
#include "devices/ioapic.h"
#include "devices/isa_dma.h"
#include "devices/lpc.h"
#include "devices/pci_host.h"
#include "devices/pci_port.h"
#include "devices/pic.h"
#include "devices/pit.h"
#include "devices/pm.h"
#include "devices/pvpanic.h"
#include "devices/rtc.h"
#include "devices/serial.h"
#include "engine/x86.h"
#include "machine/machine.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { PRIORITY_RAM = 5 }; /* above BARs (0), below chips (10 and more) */
#define MEMORY_MIN (2ull << 20)

const char *const board_profiles[] = { "pc-1", "micro-1", NULL };

struct board_boot {
    const char *name, *unit; /* constant texts */
    unsigned devfn;
    char kind;
};

struct board {
    struct machine *machine;
    struct board_config config;
    bool legacy; /* pc-1 */
    uint64_t low_ram, high_ram;
    struct mapping *low, *high;
    struct pci_bus *pci;
    struct ram *code;                          /* of the firmware; the machine's. NULL: none */
    struct device *serial, *pm, *rtc, *fw_cfg; /* the machine's */
    struct device *isa_dma;                    /* the machine's; NULL without legacy chips */
    struct device *ports[BOARD_PORTS];
    uint8_t generation[16];
    struct pci_windows windows;
    struct board_boot boots[BOARD_BOOT_MAX];
    unsigned boot_count;
};

struct pci_bus *board_pci_bus(struct board *board) { return board->pci; }
struct device *board_serial(struct board *board) { return board->serial; }
struct device *board_isa_dma(struct board *board) { return board->isa_dma; }

void board_set_floppies(struct board *board, unsigned first, unsigned second)
{
    enum { CMOS_FLOPPIES = 0x10, CMOS_EQUIPMENT = 0x14 };
    unsigned count = !!first + !!second;
    rtc_set_cmos(board->rtc, CMOS_FLOPPIES, (uint8_t)(first << 4 | second));
    rtc_set_cmos(board->rtc, CMOS_EQUIPMENT, (uint8_t)(count ? 0x07 | (count - 1) << 6 : 0x06));
}

struct device *board_port(struct board *board, unsigned n) { return board->ports[n]; }
void board_power_button(struct board *board) { pm_power_button(board->pm); }

/* ---- Memory ---- */

static int board_place_ram(struct board *board, struct err *err)
{
    struct machine *m = board->machine;
    uint64_t size = m->main_ram->size;

    if (size < MEMORY_MIN)
        return err_set(err, EINVAL, "a VM needs at least 2 MiB of memory");
    board->low_ram = size < LAYOUT_LOW_RAM_MAX ? size : LAYOUT_LOW_RAM_MAX;
    board->high_ram = size - board->low_ram;
    if (board->high_ram > LAYOUT_PHYSICAL_END - LAYOUT_HIGH_RAM)
        return err_set(err, EINVAL, "a VM has at most 508 GiB of memory");
    int r = map_ram(m, SPACE_MEMORY, 0, board->low_ram, REGION_RAM, m->main_ram, 0, PRIORITY_RAM,
                    &board->low, err);
    if (r == 0 && board->high_ram)
        r = map_ram(m, SPACE_MEMORY, LAYOUT_HIGH_RAM, board->high_ram, REGION_RAM, m->main_ram,
                    board->low_ram, PRIORITY_RAM, &board->high, err);
    return r;
}

static int board_place_firmware(struct board *board, struct err *err)
{
    if (!board->legacy)
        return err_set(err, EINVAL, "the profile %s has no firmware; leave it out or take pc-1",
                       board->config.profile);
    return firmware_place(board->machine, &board->config.firmware, &board->code, err);
}

static void board_place_windows(struct board *board)
{
    uint64_t mem64 = round_up(LAYOUT_HIGH_RAM + board->high_ram, LAYOUT_MEM64_ALIGN);
    board->windows = (struct pci_windows){ .mem32 = LAYOUT_MEM32,
                                           .mem32_size = LAYOUT_MEM32_SIZE,
                                           .io = LAYOUT_IO,
                                           .io_size = LAYOUT_IO_SIZE };
    if (range_fits(mem64, LAYOUT_MEM64_SIZE, LAYOUT_PHYSICAL_END)) {
        board->windows.mem64 = mem64;
        board->windows.mem64_size = LAYOUT_MEM64_SIZE;
    }
}

static unsigned board_memory_map(const struct board *board, struct e820_range map[E820_MAX])
{
    const struct e820_range ranges[] = {
        { 0, LAYOUT_BASE_RAM_END, E820_RAM },
        { LAYOUT_BASE_RAM_END, 0xa0000 - LAYOUT_BASE_RAM_END, E820_RESERVED },
        { LAYOUT_ACPI, LAYOUT_KERNEL_MIN - LAYOUT_ACPI, E820_RESERVED },
        { LAYOUT_KERNEL_MIN, board->low_ram - LAYOUT_KERNEL_MIN, E820_RAM },
        { PCI_HOST_ECAM_BASE, PCI_HOST_ECAM_SIZE, E820_RESERVED },
        { IOAPIC_BASE, IOAPIC_SIZE, E820_RESERVED },
        { HPET_BASE, 0x1000, E820_RESERVED },
        { 0xfee00000, 0x1000, E820_RESERVED },
        { LAYOUT_HIGH_RAM, board->high_ram, E820_RAM },
    };
    unsigned count = ARRAY_LEN(ranges) - (board->high_ram ? 0 : 1);
    memcpy(map, ranges, count * sizeof *ranges);
    return count;
}

/* ---- Chips ---- */

/* Sizes as firmware leaves them in CMOS memory; old software reads them. */
static void board_fill_cmos(struct board *board)
{
    uint64_t above_1m = (board->low_ram - (1 << 20)) >> 10;
    uint64_t above_16m = board->low_ram > 16 << 20 ? (board->low_ram - (16 << 20)) >> 16 : 0;
    uint64_t above_4g = board->high_ram >> 16;

    above_1m = above_1m < 0xffff ? above_1m : 0xffff;
    above_16m = above_16m < 0xffff ? above_16m : 0xffff;
    for (unsigned i = 0; i < 2; i++) {
        rtc_set_cmos(board->rtc, 0x15 + i, (uint8_t)(640 >> 8 * i));
        rtc_set_cmos(board->rtc, 0x17 + i, (uint8_t)(above_1m >> 8 * i));
        rtc_set_cmos(board->rtc, 0x30 + i, (uint8_t)(above_1m >> 8 * i));
        rtc_set_cmos(board->rtc, 0x34 + i, (uint8_t)(above_16m >> 8 * i));
    }
    for (unsigned i = 0; i < 3; i++)
        rtc_set_cmos(board->rtc, 0x5b + i, (uint8_t)(above_4g >> 8 * i));
    rtc_set_cmos(board->rtc, 0x5f, (uint8_t)(board->machine->cpus - 1));
}

static int board_add_legacy(struct board *board, struct err *err)
{
    struct machine *m = board->machine;
    int r = pic_create(m, err);
    if (r == 0)
        r = pit_create(m, err);
    if (r == 0)
        r = rtc_create(m, &board->rtc, err);
    if (r == 0)
        board_fill_cmos(board);
    if (r == 0)
        r = i8042_create(m, board->config.input, err);
    if (r == 0)
        r = isa_dma_create(m, &board->isa_dma, err);
    return r;
}

/* Functions of slot 28, where the ICH9 has its ports. */
static int board_add_ports(struct board *board, struct err *err)
{
    enum { SLOT = 28 };
    int r = 0;
    for (unsigned i = 0; i < BOARD_PORTS && r == 0; i++) {
        char id[16];
        snprintf(id, sizeof id, "port%u", i + 1);
        const struct pci_port_config port = { .id = id,
                                              .devfn = SLOT << 3 | i,
                                              .number = i + 1,
                                              .power = board->config.port_power,
                                              .arg = board->config.port_arg };
        r = pci_port_create(board->machine, board->pci, &port, &board->ports[i], err);
    }
    return r;
}

static int board_add_chips(struct board *board, struct err *err)
{
    struct machine *m = board->machine;
    const struct serial_config serial = {
        .id = "serial0",
        .port = 0x3f8,
        .gsi = 4,
        .output = board->config.serial_output,
        .input_room = board->config.serial_room,
        .arg = board->config.serial_arg,
    };
    /* Interrupt controllers first: in this order devices are reset and loaded. */
    int r = ioapic_create(m, err);
    if (r == 0 && board->legacy)
        r = board_add_legacy(board, err);
    if (r == 0)
        r = pm_create(m, &board->pm, err);
    if (r == 0 && board->legacy)
        rtc_connect_pm(board->rtc, board->pm);
    if (r == 0)
        r = serial_create(m, &serial, &board->serial, err);
    const struct mch_config mch = { .ram = m->main_ram,
                                    .low_ram = board->low_ram,
                                    .rom = board->code };
    if (r == 0)
        r = pci_host_create(m, board->legacy ? &mch : NULL, &board->pci, err);
    if (r == 0 && board->legacy)
        r = lpc_create(m, board->pci, board->pm, err);
    if (r == 0 && board->legacy)
        r = board_add_ports(board, err);
    if (r == 0 && board->legacy)
        r = hpet_create(m, err);
    if (r == 0 && board->legacy)
        r = pvpanic_create(m, err);
    if (r == 0 && board->code)
        r = fw_cfg_create(m, &board->fw_cfg, err);
    return r;
}

/* ---- Tables and kernel ---- */

static struct acpi_config board_acpi(const struct board *board)
{
    return (struct acpi_config){ .generation = !board->legacy ? 0
                                               : board->code  ? FIRMWARE_GENERATION_OFFSET
                                                              : LAYOUT_GENERATION,
                                 .cpus = board->machine->cpus,
                                 .legacy = board->legacy,
                                 .serial = true,
                                 .pci = board->windows };
}

static struct smbios_config board_smbios(const struct board *board)
{
    struct smbios_config smbios = {
        .profile = board->config.profile,
        .serial = board->config.serial_number,
        .cpus = board->machine->cpus,
        .memory = board->machine->main_ram->size,
        .low_memory = board->low_ram,
    };
    memcpy(smbios.uuid, board->config.uuid, sizeof smbios.uuid);
    return smbios;
}

static int board_put_tables(struct board *board, struct err *err)
{
    struct machine *m = board->machine;
    const struct acpi_config acpi = board_acpi(board);
    const struct smbios_config smbios = board_smbios(board);

    AUTO(buf_fini) struct buf tables = { 0 };
    acpi_build(&acpi, LAYOUT_ACPI, &tables, NULL);
    assert(tables.len <= LAYOUT_ACPI_SIZE);
    int r = mem_load(m, LAYOUT_ACPI, tables.data, tables.len);

    if (r == 0 && board->legacy)
        r = mem_load(m, LAYOUT_GENERATION, board->generation, sizeof board->generation);

    AUTO(buf_fini) struct buf structures = { 0 };
    smbios_build(&smbios, LAYOUT_SMBIOS, &structures);
    assert(structures.len <= LAYOUT_SMBIOS_SIZE);
    if (r == 0)
        r = mem_load(m, LAYOUT_SMBIOS, structures.data, structures.len);
    return r < 0 ? err_set(err, -r, "cannot write guest memory") : 0;
}

/* What to boot from, best first, as Open Firmware device paths (fw_cfg's item "bootorder"). */
static void board_boot_order(const struct board *board, struct buf *out)
{
    const char *kinds = board->config.boot_order ? board->config.boot_order : "";
    for (; *kinds; kinds++)
        for (unsigned i = 0; i < board->boot_count; i++) {
            const struct board_boot *boot = &board->boots[i];
            if (boot->kind != *kinds)
                continue;
            buf_printf(out, "%s/pci@i0cf8/%s@%x", out->len ? "\n" : "", boot->name,
                       boot->devfn >> 3);
            if (boot->devfn & 7)
                buf_printf(out, ",%x", boot->devfn & 7);
            buf_printf(out, "%s", boot->unit);
        }
}

void board_add_boot(struct board *board, char kind, const struct pci_device *pci, const char *name,
                    const char *unit)
{
    assert(board->boot_count < BOARD_BOOT_MAX);
    board->boots[board->boot_count++] =
        (struct board_boot){ .kind = kind, .name = name, .unit = unit, .devfn = pci->devfn };
}

/* What the firmware will ask for; built once, it is in the saved state. */
static int board_describe(struct board *board, struct err *err)
{
    const struct board_config *config = &board->config;
    const struct acpi_config acpi = board_acpi(board);
    const struct smbios_config smbios = board_smbios(board);
    AUTO(buf_fini) struct buf order = { 0 };
    board_boot_order(board, &order);
    struct firmware_items items = {
        .acpi = &acpi,
        .smbios = &smbios,
        .low_ram = board->low_ram,
        .high_ram = board->high_ram,
        .high_ram_base = LAYOUT_HIGH_RAM,
        .cpus = board->machine->cpus,
        .uuid = config->uuid,
        .generation = board->generation,
        .menu = config->menu,
        .serial_console = true,
        .vga_bios = board->config.firmware.vga_bios,
        .vga_bios_name = board->config.firmware.vga_bios_name,
        .boot_order = (const char *)order.data,
        .kernel_fd = config->kernel_fd,
        .initrd_fd = config->initrd_fd,
        .cmdline = config->cmdline,
    };
    return firmware_describe(board->fw_cfg, &items, err);
}

static struct x86_segment flat(uint16_t selector, uint16_t attr)
{
    return (struct x86_segment){ .limit = 0xffffffff,
                                 .selector = selector,
                                 .attr = (uint16_t)(attr | SEG_S | SEG_P | SEG_G) };
}

static void state_flat_data(struct arch_state *s, uint16_t selector)
{
    enum { DATA_ACCESSED = 3 };
    static const uint8_t data[] = { S_DS, S_ES, S_SS, S_FS, S_GS };
    for (unsigned i = 0; i < sizeof data; i++)
        s->seg[data[i]] = flat(selector, DATA_ACCESSED | SEG_DB);
}

/* The state that the protocol of `entry` wants the first CPU in. */
static void state_for_entry(struct arch_state *s, const struct boot_entry *entry)
{
    enum {
        CODE_ACCESSED = 0xb,
        CR0_PE = 1,
        CR4_PAE = 1 << 5,
        EFER_LME = 1 << 8,
        EFER_LMA = 1 << 10
    };
    enum { CR0_ET = 1 << 4, SELECTOR_CODE = 0x10, SELECTOR_DATA = 0x18, TSS_LIMIT = 0x67 };

    s->rip = entry->address;
    s->rflags = 2;
    s->cr0 = CR0_PE | CR0_ET;
    s->gpr[R_SP] = LAYOUT_BOOT_PARAMS; /* grows down from there */
    s->idtr = (struct x86_table){ 0 };
    state_flat_data(s, SELECTOR_DATA);
    if (entry->protocol == BOOT_PVH) {
        s->seg[S_CS] = flat(SELECTOR_CODE, CODE_ACCESSED | SEG_DB);
        s->seg[S_TR] = (struct x86_segment){ .limit = TSS_LIMIT, .attr = SEG_P | 0xb };
        s->gpr[R_BX] = entry->info;
        return;
    }
    s->seg[S_CS] = flat(SELECTOR_CODE, CODE_ACCESSED | SEG_L);
    s->gdtr = (struct x86_table){ .base = LAYOUT_GDT, .limit = 31 };
    s->cr0 |= 1u << 31;
    s->cr3 = LAYOUT_PAGE_TABLES;
    s->cr4 = CR4_PAE;
    s->efer = EFER_LME | EFER_LMA;
    s->gpr[R_SI] = entry->info;
}

/* As firmware does: all memory write-back (nothing of ours minds, and page tables say what is a
 * device). */
static void state_firmware(struct arch_state *s, bool first)
{
    enum { MTRR_ENABLED = 1 << 11, MTRR_FIXED = 1 << 10, WRITE_BACK = 6 };
    enum { LAPIC_ENABLED_SPURIOUS = 0x1ff, LVT_EXTINT = 0x700, LVT_NMI = 0x400 };

    s->mtrr_def_type = MTRR_ENABLED | MTRR_FIXED | WRITE_BACK;
    for (unsigned i = 0; i < ARRAY_LEN(s->mtrr_fixed); i++)
        s->mtrr_fixed[i] = 0x0606060606060606;
    if (first) { /* virtual wire: the PIC reaches the first CPU through its local APIC */
        s->lapic.svr = LAPIC_ENABLED_SPURIOUS;
        s->lapic.lvt_lint0 = LVT_EXTINT;
        s->lapic.lvt_lint1 = LVT_NMI;
    }
}

static int board_set_vcpus(struct board *board, const struct boot_entry *entry, struct err *err)
{
    struct machine *m = board->machine;
    AUTO(free) struct arch_state *state = malloc(sizeof *state);
    if (!state)
        return err_set(err, ENOMEM, "out of memory");
    for (unsigned i = 0; i < m->cpus; i++) {
        int r = m->engine->type->get_state(m->vcpus[i], state, err);
        if (r < 0)
            return r;
        state_firmware(state, i == 0);
        if (i == 0)
            state_for_entry(state, entry);
        r = m->engine->type->set_state(m->vcpus[i], state, err);
        if (r < 0)
            return err_prefix(err, "vCPU %u", i);
    }
    return 0;
}

static int board_load_kernel(struct board *board, struct boot_entry *entry, struct err *err)
{
    const struct board_config *config = &board->config;
    struct ram *ram = board->machine->main_ram;
    struct boot_request request = {
        .kernel_fd = config->kernel_fd,
        .initrd_fd = config->initrd_fd,
        .kernel_name = config->kernel_name ? config->kernel_name : "kernel",
        .initrd_name = config->initrd_name ? config->initrd_name : "initrd",
        .cmdline = config->cmdline,
        .ram = ram->hva,
        .ram_size = board->low_ram,
        .rsdp = LAYOUT_ACPI,
    };
    request.memory_count = board_memory_map(board, request.memory);
    int r = linux_boot_load(&request, entry, err);
    ram_written(board->machine, ram, 0, board->low_ram);
    return r;
}

static int board_boot(struct board *board, struct err *err)
{
    struct boot_entry entry;
    if (board->legacy) {
        pci_host_as_firmware(board->pci);
        lpc_as_firmware(board->pci);
    }
    int r = pci_bus_assign(board->pci, &board->windows, err);
    if (r == 0)
        r = board_put_tables(board, err);
    if (r < 0 || board->config.kernel_fd < 0)
        return r;
    r = board_load_kernel(board, &entry, err);
    return r < 0 ? r : board_set_vcpus(board, &entry, err);
}

static void board_reset(void *arg)
{
    struct board *board = arg;
    struct err err = { 0 };

    if (board->code)
        return; /* the chips are in their power-on state, and so is the first CPU */
    if (board->config.kernel_fd < 0)
        machine_post_event(board->machine, MACHINE_ENGINE_FAILED,
                           "no kernel was given to boot again with");
    else if (board_boot(board, &err) < 0)
        machine_post_event(board->machine, MACHINE_ENGINE_FAILED, err.text);
}

/* ---- Life ---- */

static bool profile_known(const char *profile)
{
    for (const char *const *p = board_profiles; *p; p++)
        if (!strcmp(*p, profile))
            return true;
    return false;
}

int board_create(struct machine *m, const struct board_config *config, struct board **out,
                 struct err *err)
{
    if (!profile_known(config->profile))
        return err_set(err, EINVAL, "unknown profile \"%s\"; there are pc-1 and micro-1",
                       config->profile);
    AUTO(board_destroy) struct board *board = calloc(1, sizeof *board);
    if (!board)
        return err_set(err, ENOMEM, "out of memory");
    board->machine = m;
    board->config = *config;
    board->legacy = !strcmp(config->profile, "pc-1");
    if (getrandom(board->generation, sizeof board->generation, 0) != sizeof board->generation)
        return err_errno(err, errno, "no random numbers for a generation id");

    int r = board_place_ram(board, err);
    if (r == 0 && config->firmware.kind)
        r = board_place_firmware(board, err);
    if (r == 0)
        r = board_add_chips(board, err);
    if (r < 0)
        return r;
    board_place_windows(board);
    *out = TAKE(board);
    return 0;
}

void board_restored(struct board *board)
{
    enum { GENERATION_EVENT = 5 };
    uint64_t gpa = board->fw_cfg ? firmware_generation_gpa(board->fw_cfg) : LAYOUT_GENERATION;
    if (!board->legacy || !gpa)
        return;
    if (mem_write(board->machine, gpa, board->generation, sizeof board->generation) == 0)
        pm_gpe_raise(board->pm, GENERATION_EVENT);
}

int board_finish(struct board *board, struct err *err)
{
    int r = board->code ? board_describe(board, err) : board_boot(board, err);
    if (r == 0)
        machine_set_reset_hook(board->machine, board_reset, board);
    return r;
}

/* Chips and mappings are the machine's. */
void board_destroy(struct board *board) { free(board); }
