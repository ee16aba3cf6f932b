/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Firmware in memory and in fw_cfg.
 *
 * The code ends at 4 GiB, UEFI variables lie right below it, as both Debian images were linked. The
 * names and layouts of the fw_cfg items are those of QEMU's documentation (docs/specs/fw_cfg,
 * hw/acpi/bios-linker-loader): firmware knows no others.
 */
#include "board/firmware.h"

#include "base/checked.h"
#include "board/acpi.h"
#include "board/linux_boot.h"
#include "board/smbios.h"
#include "devices/fw_cfg.h"
#include "devices/pflash.h"
#include "machine/machine.h"

#include <assert.h>
#include <string.h>
#include <sys/stat.h>

enum { PRIORITY_ROM = 10 };
#define TOP (1ull << 32)

/* ---- images ---- */

enum firmware_kind firmware_probe(int fd, uint64_t size)
{
    enum { VOLUME_SIGNATURE = 40, JUMP_FAR = 0xea };
    uint8_t head[VOLUME_SIGNATURE + 4], tail[16];

    if (size < 65536 || size > FIRMWARE_BIOS_MAX || size % FIRMWARE_ALIGN)
        return FIRMWARE_NONE;
    if (pread_full(fd, head, sizeof head, 0) < 0 ||
        pread_full(fd, tail, sizeof tail, (off_t)(size - sizeof tail)) < 0)
        return FIRMWARE_NONE;
    if (!memcmp(head + VOLUME_SIGNATURE, "_FVH", 4))
        return FIRMWARE_UEFI;
    return tail[0] == JUMP_FAR ? FIRMWARE_BIOS : FIRMWARE_NONE;
}

static int rom_load(struct machine *m, const char *name, int fd, uint64_t size, struct ram **out,
                    struct err *err)
{
    AUTO(ram_destroy) struct ram *ram = NULL;
    int r = ram_create(name, size, &ram, err);
    if (r == 0 && fd >= 0 && (r = pread_full(fd, ram->hva, size, 0)) < 0)
        err_errno(err, -r, "cannot read the firmware");
    if (r < 0)
        return r;
    struct ram *loaded = ram;
    r = machine_add_ram(m, TAKE(ram), err);
    if (r == 0)
        *out = loaded;
    return r;
}

int firmware_place(struct machine *m, const struct board_firmware *firmware, struct ram **code,
                   struct err *err)
{
    struct ram *rom, *vars;
    uint64_t base = TOP - firmware->code_size;
    int r = rom_load(m, "firmware", firmware->code_fd, firmware->code_size, &rom, err);
    if (r == 0)
        r = map_ram(m, SPACE_MEMORY, base, firmware->code_size, REGION_ROM, rom, 0, PRIORITY_ROM,
                    NULL, err);
    if (r < 0)
        return err_prefix(err, "firmware");
    *code = rom;
    if (!firmware->vars_size)
        return 0;

    r = rom_load(m, "uefi-vars", firmware->vars_fd, firmware->vars_size, &vars, err);
    if (r < 0)
        return err_prefix(err, "UEFI variables");
    if (firmware->vars_fd < 0 && firmware->vars)
        memcpy(vars->hva, firmware->vars, firmware->vars_size);
    struct pflash_config config = {
        .id = "uefi-vars", .gpa = base - firmware->vars_size, .ram = vars, .fd = firmware->vars_fd
    };
    struct device *flash;
    return pflash_create(m, &config, &flash, err);
}

/* ---- ACPI by linker and loader ---- */

static const char tables_file[] = "etc/acpi/tables";
static const char rsdp_file[] = "etc/acpi/rsdp";
static const char generation_file[] = "etc/vmgenid_guid";
static const char generation_address_file[] = "etc/vmgenid_addr";

enum { COMMAND_SIZE = 128 };
enum { COMMAND_ALLOCATE = 1, COMMAND_POINTER = 2, COMMAND_CHECKSUM = 3, COMMAND_WRITE_POINTER = 4 };
enum { ZONE_HIGH = 1, ZONE_FSEG = 2 };

static uint8_t *command_add(struct buf *b, uint32_t command, const char *file)
{
    uint8_t *at = buf_grow(b, COMMAND_SIZE);
    at[0] = (uint8_t)command;
    strcpy((char *)at + 4, file);
    return at;
}

static void put32(uint8_t *at, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

static void loader_allocate(struct buf *b, const char *file, uint32_t align, uint8_t zone)
{
    uint8_t *at = command_add(b, COMMAND_ALLOCATE, file);
    put32(at + 60, align);
    at[64] = zone;
}

static void loader_pointer(struct buf *b, const char *in, const char *to, uint32_t offset,
                           uint8_t bytes)
{
    uint8_t *at = command_add(b, COMMAND_POINTER, in);
    strcpy((char *)at + 60, to);
    put32(at + 116, offset);
    at[120] = bytes;
}

/* The address that `of` got is written to the start of the file `to`. */
static void loader_write_pointer(struct buf *b, const char *to, const char *of, uint8_t bytes)
{
    uint8_t *at = command_add(b, COMMAND_WRITE_POINTER, to);
    strcpy((char *)at + 60, of);
    at[124] = bytes;
}

static void loader_checksum(struct buf *b, const char *file, uint32_t offset, uint32_t start,
                            uint32_t len)
{
    uint8_t *at = command_add(b, COMMAND_CHECKSUM, file);
    put32(at + 60, offset);
    put32(at + 64, start);
    put32(at + 68, len);
}

/* The file that the byte at `offset` of acpi_build's output is in, and where. */
static const char *acpi_file(uint32_t offset, uint32_t *at)
{
    bool rsdp = offset < ACPI_RSDP_SIZE;
    *at = offset - (rsdp ? 0 : ACPI_TABLES_OFFSET);
    return rsdp ? rsdp_file : tables_file;
}

static void describe_acpi(struct device *fw_cfg, const struct acpi_config *config)
{
    AUTO(buf_fini) struct buf tables = { 0 };
    AUTO(buf_fini) struct buf loader = { 0 };
    struct acpi_fixups fixups;
    uint32_t at;

    /* So addresses are offsets in the second file. */
    acpi_build(config, (uint32_t)-ACPI_TABLES_OFFSET, &tables, &fixups);
    loader_allocate(&loader, rsdp_file, 16, ZONE_FSEG);
    loader_allocate(&loader, tables_file, 64, ZONE_HIGH);
    loader_allocate(&loader, generation_file, PAGE_SIZE, ZONE_HIGH);
    for (unsigned i = 0; i < fixups.pointer_count; i++) {
        const char *file = acpi_file(fixups.pointers[i].at, &at);
        loader_pointer(&loader, file, tables_file, at, fixups.pointers[i].bytes);
    }
    acpi_file(fixups.generation_at, &at);
    loader_pointer(&loader, tables_file, generation_file, at, 4);
    loader_write_pointer(&loader, generation_address_file, generation_file, 8);
    for (unsigned i = 0; i < fixups.sum_count; i++) {
        uint32_t start;
        acpi_file(fixups.sums[i].start, &start);
        const char *file = acpi_file(fixups.sums[i].at, &at);
        tables.data[fixups.sums[i].at] = 0; /* UEFI firmware sums that byte up, too */
        loader_checksum(&loader, file, at, start, fixups.sums[i].len);
    }
    fw_cfg_add_file(fw_cfg, rsdp_file, tables.data, ACPI_RSDP_SIZE);
    fw_cfg_add_file(fw_cfg, tables_file, tables.data + ACPI_TABLES_OFFSET,
                    tables.len - ACPI_TABLES_OFFSET);
    fw_cfg_add_file(fw_cfg, "etc/table-loader", loader.data, loader.len);
}

static void describe_generation(struct device *fw_cfg, const uint8_t *id)
{
    uint8_t page[PAGE_SIZE] = { 0 };
    memcpy(page + FIRMWARE_GENERATION_OFFSET, id, 16);
    fw_cfg_add_file(fw_cfg, generation_file, page, sizeof page);
    fw_cfg_add_writable(fw_cfg, generation_address_file, 8);
}

uint64_t firmware_generation_gpa(struct device *fw_cfg)
{
    uint8_t bytes[8];
    uint64_t gpa = 0;
    if (!fw_cfg_read_file(fw_cfg, generation_address_file, bytes, sizeof bytes))
        return 0;
    for (unsigned i = 0; i < 8; i++)
        gpa |= (uint64_t)bytes[i] << 8 * i;
    return gpa ? gpa + FIRMWARE_GENERATION_OFFSET : 0;
}

static void describe_smbios(struct device *fw_cfg, const struct smbios_config *config)
{
    enum { ANCHOR_SIZE = 24, STRUCTURES = 32 };
    AUTO(buf_fini) struct buf b = { 0 };
    smbios_build(config, 0, &b);
    fw_cfg_add_file(fw_cfg, "etc/smbios/smbios-anchor", b.data, ANCHOR_SIZE);
    fw_cfg_add_file(fw_cfg, "etc/smbios/smbios-tables", b.data + STRUCTURES, b.len - STRUCTURES);
}

/* ---- memory, boot order, the rest ---- */

static void put_number(struct buf *b, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        buf_add(b, &(uint8_t){ (uint8_t)(value >> 8 * i) }, 1);
}

static void put_range(struct buf *b, uint64_t start, uint64_t size, enum e820_type type)
{
    if (!size)
        return;
    put_number(b, start, 8);
    put_number(b, size, 8);
    put_number(b, type, 4);
}

static void file_number(struct device *fw_cfg, const char *name, uint64_t value, unsigned bytes)
{
    AUTO(buf_fini) struct buf b = { 0 };
    put_number(&b, value, bytes);
    fw_cfg_add_file(fw_cfg, name, b.data, b.len);
}

static void describe_boot(struct device *fw_cfg, const struct firmware_items *items)
{
    if (items->boot_order && *items->boot_order)
        fw_cfg_add_file(fw_cfg, "bootorder", items->boot_order, strlen(items->boot_order) + 1);
    fw_cfg_add_int(fw_cfg, FW_CFG_BOOT_MENU, items->menu.show, 2);
    if (items->menu.show)
        file_number(fw_cfg, "etc/boot-menu-wait", items->menu.timeout_ms, 2);
    /* Nothing to boot: the person at the console shall read why, so no automatic reboot. */
    file_number(fw_cfg, "etc/boot-fail-wait", UINT32_MAX, 4);
    /* seabios runs a file of such a name as that function's ROM and tells it which one it is; a ROM
     * in vgaroms/ is not told, and would report the frame buffer where it was on the ISA bus. */
    if (items->vga_bios)
        fw_cfg_add_file(fw_cfg, items->vga_bios_name, items->vga_bios->data, items->vga_bios->len);
    if (items->serial_console)
        file_number(fw_cfg, "etc/sercon-port", 0x3f8, 2);
}

/* S3 and S4 are not offered; bit 7 says that a state is (S5). */
static void describe_sleep(struct device *fw_cfg)
{
    static const uint8_t states[] = { 0x80, 0, 0, 1, 2, 0x80 };
    fw_cfg_add_file(fw_cfg, "etc/system-states", states, sizeof states);
}

static int file_size(int fd, uint64_t *size, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_errno(err, errno, "cannot look at the kernel's file");
    *size = (uint64_t)st.st_size;
    return 0;
}

/* UEFI firmware loads a kernel's two parts and the initrd by itself. */
static int describe_kernel(struct device *fw_cfg, const struct firmware_items *items,
                           struct err *err)
{
    enum { SETUP_SECTORS = 0x1f1, DEFAULT_SECTORS = 4 };
    uint64_t size = 0, initrd = 0;
    uint8_t sectors;
    const char *cmdline = items->cmdline ? items->cmdline : "";
    int r = file_size(items->kernel_fd, &size, err);
    if (r == 0 && items->initrd_fd >= 0)
        r = file_size(items->initrd_fd, &initrd, err);
    if (r < 0)
        return r;
    r = pread_full(items->kernel_fd, &sectors, 1, SETUP_SECTORS);
    uint64_t setup = 512ull * ((sectors ? sectors : DEFAULT_SECTORS) + 1u);
    if (r < 0 || setup >= size || size > UINT32_MAX || initrd > UINT32_MAX)
        return err_set(err, EINVAL, "the kernel or initrd cannot be handed to firmware");
    fw_cfg_add_int(fw_cfg, FW_CFG_SETUP_SIZE, setup, 4);
    fw_cfg_add_source(fw_cfg, FW_CFG_SETUP_DATA, items->kernel_fd, 0, setup);
    fw_cfg_add_int(fw_cfg, FW_CFG_KERNEL_SIZE, size - setup, 4);
    fw_cfg_add_source(fw_cfg, FW_CFG_KERNEL_DATA, items->kernel_fd, setup, size - setup);
    fw_cfg_add_int(fw_cfg, FW_CFG_INITRD_SIZE, initrd, 4);
    if (initrd)
        fw_cfg_add_source(fw_cfg, FW_CFG_INITRD_DATA, items->initrd_fd, 0, initrd);
    fw_cfg_add_int(fw_cfg, FW_CFG_CMDLINE_SIZE, strlen(cmdline) + 1, 4);
    fw_cfg_add(fw_cfg, FW_CFG_CMDLINE_DATA, cmdline, strlen(cmdline) + 1);
    return 0;
}

int firmware_describe(struct device *fw_cfg, const struct firmware_items *items, struct err *err)
{
    AUTO(buf_fini) struct buf memory = { 0 };
    put_range(&memory, 0, items->low_ram, E820_RAM);
    put_range(&memory, items->high_ram_base, items->high_ram, E820_RAM);
    fw_cfg_add_file(fw_cfg, "etc/e820", memory.data, memory.len);

    fw_cfg_add(fw_cfg, FW_CFG_UUID, items->uuid, 16);
    fw_cfg_add_int(fw_cfg, FW_CFG_RAM_SIZE, items->low_ram + items->high_ram, 8);
    fw_cfg_add_int(fw_cfg, FW_CFG_CPUS, items->cpus, 2);
    fw_cfg_add_int(fw_cfg, FW_CFG_MAX_CPUS, items->cpus, 2);
    fw_cfg_add_int(fw_cfg, FW_CFG_IRQ0_OVERRIDE, 1, 4);
    describe_generation(fw_cfg, items->generation);
    describe_acpi(fw_cfg, items->acpi);
    describe_smbios(fw_cfg, items->smbios);
    describe_boot(fw_cfg, items);
    describe_sleep(fw_cfg);
    return items->kernel_fd < 0 ? 0 : describe_kernel(fw_cfg, items, err);
}
