/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The loaders. Linux: Documentation/arch/x86/boot.rst, protocol 2.12 and later, 64-bit entry point.
 * PVH: the "x86/HVM direct boot ABI" (hvm_start_info version 1) and its ELF note 18.
 *
 *  1. Every write to guest memory goes through ram_put, ram_clear or ram_read_file, which check it
 * against ram_size.
 *  2. Header bytes are copied once; what was checked is what is used.
 */
#include "board/linux_boot.h"

#include "base/checked.h"
#include "base/text.h"
#include "board/layout.h"
#include "machine/memory.h"

#include <assert.h>
#include <elf.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

/* ---- Guest memory and files ---- */

static int no_room(const struct boot_request *q, const char *what, uint64_t start, uint64_t len,
                   struct err *err)
{
    char have[32];
    return err_set(
        err, ENOMEM,
        "%s: %s needs memory from 0x%llx to 0x%llx, the VM has %s below 4 GiB; give it more memory",
        q->kernel_name, what, (unsigned long long)start, (unsigned long long)(start + len),
        size_print(q->ram_size, have, sizeof have));
}

static int ram_put(const struct boot_request *q, uint64_t gpa, const void *data, uint64_t len,
                   struct err *err)
{
    if (!range_fits(gpa, len, q->ram_size))
        return no_room(q, "it", gpa, len, err);
    int r = copy_to_hva(q->ram + gpa, data, len);
    return r < 0 ? err_set(err, -r, "cannot write guest memory") : 0;
}

static int ram_clear(const struct boot_request *q, uint64_t gpa, uint64_t len, struct err *err)
{
    static const uint8_t zeros[4096];
    int r = 0;
    for (uint64_t done = 0; done < len && r == 0; done += sizeof zeros)
        r = ram_put(q, gpa + done, zeros, len - done < sizeof zeros ? len - done : sizeof zeros,
                    err);
    return r;
}

static int ram_read_file(const struct boot_request *q, int fd, const char *name, uint64_t offset,
                         uint64_t gpa, uint64_t len, struct err *err)
{
    if (!range_fits(gpa, len, q->ram_size))
        return no_room(q, "it", gpa, len, err);
    int r = pread_full(fd, q->ram + gpa, len, (off_t)offset);
    if (r == -ENODATA)
        return err_set(err, EINVAL, "%s: the file shrank while it was read", name);
    return r < 0 ? err_errno(err, -r, "%s: cannot read", name) : 0;
}

static int file_size(int fd, const char *name, uint64_t *out, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_errno(err, errno, "%s", name);
    if (!S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "%s: not a regular file", name);
    *out = (uint64_t)st.st_size;
    return 0;
}

/* `len` bytes of the file at `offset`; a short file is a sentence. */
static int file_get(const struct boot_request *q, uint64_t offset, void *out, uint64_t len,
                    struct err *err)
{
    if (offset > INT64_MAX - len)
        return err_set(err, EINVAL, "%s: truncated kernel image", q->kernel_name);
    int r = pread_full(q->kernel_fd, out, len, (off_t)offset);
    if (r == -ENODATA)
        return err_set(err, EINVAL, "%s: truncated kernel image", q->kernel_name);
    return r < 0 ? err_errno(err, -r, "%s: cannot read", q->kernel_name) : 0;
}

static uint64_t get(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static void set(uint8_t *at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

/* ---- Command line and initrd, which both protocols have ---- */

static int load_cmdline(const struct boot_request *q, uint64_t most, struct err *err)
{
    const char *cmdline = q->cmdline ? q->cmdline : "";
    uint64_t len = strlen(cmdline);
    if (most > LAYOUT_CMDLINE_SIZE - 1)
        most = LAYOUT_CMDLINE_SIZE - 1;
    if (len > most)
        return err_set(err, E2BIG, "the command line has %llu characters, %s takes at most %llu",
                       (unsigned long long)len, q->kernel_name, (unsigned long long)most);
    return ram_put(q, LAYOUT_CMDLINE, cmdline, len + 1, err);
}

/* As high as `max` (its last byte) and memory allow, above the kernel. */
static int load_initrd(const struct boot_request *q, uint64_t kernel_end, uint64_t max,
                       uint64_t *start, uint64_t *len, struct err *err)
{
    char size[32], room[32];
    *start = *len = 0;
    if (q->initrd_fd < 0)
        return 0;
    int r = file_size(q->initrd_fd, q->initrd_name, len, err);
    if (r < 0 || !*len)
        return r;
    uint64_t end = q->ram_size;
    if (max < end)
        end = max + 1;
    end = round_down(end, PAGE_SIZE);
    kernel_end = round_up(kernel_end, PAGE_SIZE);
    if (kernel_end > end || *len > end - kernel_end)
        return err_set(
            err, ENOMEM,
            "%s: the initrd has %s, but memory has room for %s beside the kernel; give the VM "
            "more memory",
            q->initrd_name, size_print(*len, size, sizeof size),
            size_print(kernel_end > end ? 0 : end - kernel_end, room, sizeof room));
    *start = round_down(end - *len, PAGE_SIZE);
    return ram_read_file(q, q->initrd_fd, q->initrd_name, 0, *start, *len, err);
}

/* ---- Linux ---- */

enum { /* offsets in the first sectors of a bzImage, and in boot_params */
       BP_RSDP = 0x070,
       BP_EXT_RAMDISK_IMAGE = 0x0c0,
       BP_EXT_RAMDISK_SIZE = 0x0c4,
       BP_EXT_CMDLINE = 0x0c8,
       BP_E820_COUNT = 0x1e8,
       HDR = 0x1f1,
       HDR_SETUP_SECTS = 0x1f1,
       HDR_SYSSIZE = 0x1f4,
       HDR_VID_MODE = 0x1fa,
       HDR_BOOT_FLAG = 0x1fe,
       HDR_JUMP = 0x201,
       HDR_MAGIC = 0x202,
       HDR_VERSION = 0x206,
       HDR_LOADER = 0x210,
       HDR_LOADFLAGS = 0x211,
       HDR_CODE32_START = 0x214,
       HDR_RAMDISK_IMAGE = 0x218,
       HDR_RAMDISK_SIZE = 0x21c,
       HDR_CMDLINE = 0x228,
       HDR_INITRD_MAX = 0x22c,
       HDR_ALIGNMENT = 0x230,
       HDR_RELOCATABLE = 0x234,
       HDR_XLOADFLAGS = 0x236,
       HDR_CMDLINE_SIZE = 0x238,
       HDR_PREF_ADDRESS = 0x258,
       HDR_INIT_SIZE = 0x260,
       HDR_END = 0x290,
       BP_E820 = 0x2d0,
       BP_SIZE = 4096,
       SECTOR = 512
};
enum {
    VERSION_2_12 = 0x20c,
    LOADFLAGS_HIGH = 1,
    XLOADFLAGS_64 = 1,
    ENTRY_64 = 0x200,
    VID_MODE_NORMAL = 0xffff
};

struct linux_header {
    uint8_t bytes[HDR_END]; /* from the start of the file */
    uint64_t file_size, setup_size, code_size;
    uint64_t load, init_size;
};

static int header_check(const struct boot_request *q, struct linux_header *h, struct err *err)
{
    const uint8_t *b = h->bytes;
    unsigned version = (unsigned)get(b + HDR_VERSION, 2), setup_sects = b[HDR_SETUP_SECTS];

    if (version < VERSION_2_12)
        return err_set(err, EINVAL,
                       "%s: boot protocol %u.%02u is too old; this needs 2.12 (Linux 3.8)",
                       q->kernel_name, version >> 8, version & 0xff);
    if (!(b[HDR_LOADFLAGS] & LOADFLAGS_HIGH) || !(get(b + HDR_XLOADFLAGS, 2) & XLOADFLAGS_64))
        return err_set(err, EINVAL, "%s: not a 64-bit kernel", q->kernel_name);
    if (!is_power_of_two(get(b + HDR_ALIGNMENT, 4)))
        return err_set(err, EINVAL, "%s: the header's alignment 0x%llx is not a power of two",
                       q->kernel_name, (unsigned long long)get(b + HDR_ALIGNMENT, 4));

    h->setup_size = ((setup_sects ? setup_sects : 4) + 1u) * SECTOR;
    uint64_t wanted = get(b + HDR_SYSSIZE, 4) * 16;
    uint64_t there = h->file_size > h->setup_size ? h->file_size - h->setup_size : 0;
    if (wanted <= ENTRY_64 || round_up(there, 16) < wanted)
        return err_set(
            err, EINVAL,
            "%s: truncated kernel image: its header speaks of %llu bytes, the file has %llu",
            q->kernel_name, (unsigned long long)(h->setup_size + wanted),
            (unsigned long long)h->file_size);
    h->code_size = wanted < there ? wanted : there;
    h->init_size = get(b + HDR_INIT_SIZE, 4);
    if (h->init_size < h->code_size)
        h->init_size = h->code_size;
    return 0;
}

/* Where the kernel prefers to be, or as low as it can be moved. */
static int kernel_place(const struct boot_request *q, struct linux_header *h, struct err *err)
{
    uint64_t preferred = get(h->bytes + HDR_PREF_ADDRESS, 8);
    uint64_t lowest = round_up(LAYOUT_KERNEL_MIN, get(h->bytes + HDR_ALIGNMENT, 4));

    if (preferred >= LAYOUT_KERNEL_MIN && range_fits(preferred, h->init_size, q->ram_size))
        h->load = preferred;
    else if (h->bytes[HDR_RELOCATABLE] && range_fits(lowest, h->init_size, q->ram_size))
        h->load = lowest;
    else if (h->bytes[HDR_RELOCATABLE])
        return no_room(q, "the kernel", lowest, h->init_size, err);
    else if (preferred < LAYOUT_KERNEL_MIN || preferred > UINT32_MAX)
        return err_set(err, EINVAL, "%s: the header's load address 0x%llx is not one",
                       q->kernel_name, (unsigned long long)preferred);
    else
        return no_room(q, "the kernel", preferred, h->init_size, err);
    return 0;
}

static void put_e820(const struct boot_request *q, uint8_t *params)
{
    for (unsigned i = 0; i < q->memory_count; i++) {
        uint8_t *entry = params + BP_E820 + 20 * i;
        set(entry, q->memory[i].start, 8);
        set(entry + 8, q->memory[i].size, 8);
        set(entry + 16, q->memory[i].type, 4);
    }
    params[BP_E820_COUNT] = (uint8_t)q->memory_count;
}

static int put_boot_params(const struct boot_request *q, const struct linux_header *h,
                           uint64_t initrd, uint64_t initrd_len, struct err *err)
{
    uint8_t params[BP_SIZE] = { 0 };
    unsigned end = HDR_MAGIC + h->bytes[HDR_JUMP]; /* the jump goes over the header */
    if (end > HDR_END)
        end = HDR_END;

    memcpy(params + HDR, h->bytes + HDR, end - HDR);
    set(params + BP_RSDP, q->rsdp, 8);
    set(params + HDR_VID_MODE, VID_MODE_NORMAL, 2);
    params[HDR_LOADER] = 0xff; /* a loader without a number */
    set(params + HDR_CODE32_START, h->load, 4);
    set(params + HDR_RAMDISK_IMAGE, initrd, 4);
    set(params + HDR_RAMDISK_SIZE, initrd_len, 4);
    set(params + BP_EXT_RAMDISK_IMAGE, initrd >> 32, 4);
    set(params + BP_EXT_RAMDISK_SIZE, initrd_len >> 32, 4);
    set(params + HDR_CMDLINE, LAYOUT_CMDLINE, 4);
    put_e820(q, params);
    return ram_put(q, LAYOUT_BOOT_PARAMS, params, sizeof params, err);
}

/* Code and data segments of the protocol: 0x10 and 0x18. */
static int put_gdt(const struct boot_request *q, struct err *err)
{
    static const uint64_t gdt[4] = { 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff };
    return ram_put(q, LAYOUT_GDT, gdt, sizeof gdt, err);
}

static int put_page_tables(const struct boot_request *q, struct err *err)
{
    enum { PRESENT_WRITABLE = 3, LARGE = 0x80, ENTRIES = 512, DIRECTORIES = 4 };
    static uint64_t tables[2 + DIRECTORIES][ENTRIES];

    tables[0][0] = (LAYOUT_PAGE_TABLES + PAGE_SIZE) | PRESENT_WRITABLE;
    for (unsigned i = 0; i < DIRECTORIES; i++) {
        tables[1][i] = (LAYOUT_PAGE_TABLES + (2 + i) * PAGE_SIZE) | PRESENT_WRITABLE;
        for (uint64_t j = 0; j < ENTRIES; j++)
            tables[2 + i][j] = (i * ENTRIES + j) << 21 | PRESENT_WRITABLE | LARGE;
    }
    return ram_put(q, LAYOUT_PAGE_TABLES, tables, sizeof tables, err);
}

static int load_linux(const struct boot_request *q, struct linux_header *h, struct boot_entry *out,
                      struct err *err)
{
    uint64_t initrd, initrd_len;
    int r = header_check(q, h, err);
    if (r == 0)
        r = kernel_place(q, h, err);
    if (r == 0)
        r = load_cmdline(q, get(h->bytes + HDR_CMDLINE_SIZE, 4), err);
    if (r == 0)
        r = ram_read_file(q, q->kernel_fd, q->kernel_name, h->setup_size, h->load, h->code_size,
                          err);
    if (r == 0)
        r = load_initrd(q, h->load + h->init_size, get(h->bytes + HDR_INITRD_MAX, 4), &initrd,
                        &initrd_len, err);
    if (r == 0)
        r = put_boot_params(q, h, initrd, initrd_len, err);
    if (r == 0)
        r = put_gdt(q, err);
    if (r == 0)
        r = put_page_tables(q, err);
    if (r == 0)
        *out = (struct boot_entry){ BOOT_LINUX64, h->load + ENTRY_64, LAYOUT_BOOT_PARAMS };
    return r;
}

/* ---- PVH ---- */

enum { PVH_NOTE_TYPE = 18, PVH_MAGIC = 0x336ec578, NOTES_MAX = 64 << 10, SEGMENTS_MAX = 64 };

/* The parts of ELF32 and ELF64 headers that we use. */
struct elf_segment {
    uint32_t type;
    uint64_t offset, paddr, filesz, memsz;
};
struct elf_image {
    struct elf_segment segments[SEGMENTS_MAX];
    unsigned count;
    uint64_t end; /* of what was loaded */
    uint64_t entry;
    bool found;
};

static int bad_elf(const struct boot_request *q, const char *what, struct err *err)
{
    return err_set(err, EINVAL, "%s: not a kernel this can boot: %s", q->kernel_name, what);
}

static int elf_read_segments(const struct boot_request *q, const uint8_t *ident,
                             struct elf_image *elf, struct err *err)
{
    bool wide = ident[EI_CLASS] == ELFCLASS64;
    uint8_t h[sizeof(Elf64_Ehdr)];
    int r = file_get(q, 0, h, wide ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr), err);
    if (r < 0)
        return r;
    if ((!wide && ident[EI_CLASS] != ELFCLASS32) || ident[EI_DATA] != ELFDATA2LSB)
        return bad_elf(q, "it is not a little-endian ELF file", err);
    unsigned machine = (unsigned)get(h + 18, 2);
    if (machine != EM_X86_64 && machine != EM_386)
        return bad_elf(q, "it is for another processor", err);

    uint64_t phoff = wide ? get(h + 32, 8) : get(h + 28, 4);
    unsigned size = (unsigned)get(h + (wide ? 54 : 42), 2),
             count = (unsigned)get(h + (wide ? 56 : 44), 2);
    unsigned least = wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    if (size < least || !count || count > SEGMENTS_MAX)
        return bad_elf(q, "its program headers make no sense", err);
    for (unsigned i = 0; i < count; i++) {
        uint8_t p[sizeof(Elf64_Phdr)];
        uint64_t at;
        if (!add_u64(phoff, (uint64_t)i * size, &at))
            return bad_elf(q, "its program headers make no sense", err);
        r = file_get(q, at, p, least, err);
        if (r < 0)
            return r;
        elf->segments[i] =
            wide ? (struct elf_segment){ (uint32_t)get(p, 4), get(p + 8, 8), get(p + 24, 8),
                                         get(p + 32, 8), get(p + 40, 8) }
                 : (struct elf_segment){ (uint32_t)get(p, 4), get(p + 4, 4), get(p + 12, 4),
                                         get(p + 16, 4), get(p + 20, 4) };
    }
    elf->count = count;
    return 0;
}

/* Looks for Xen's note 18 in one PT_NOTE segment. */
static int elf_scan_notes(const struct boot_request *q, const struct elf_segment *s,
                          struct elf_image *elf, struct err *err)
{
    uint64_t len = s->filesz < NOTES_MAX ? s->filesz : NOTES_MAX;
    AUTO(buf_fini) struct buf notes = { 0 };
    int r = file_get(q, s->offset, buf_grow(&notes, len), len, err);
    if (r < 0)
        return r;
    for (uint64_t at = 0; range_fits(at, 12, len);) {
        uint64_t name_len = get(notes.data + at, 4), desc_len = get(notes.data + at + 4, 4);
        uint64_t type = get(notes.data + at + 8, 4);
        uint64_t name = at + 12, desc = name + round_up(name_len, 4);
        if (!range_fits(name, name_len, len) || !range_fits(desc, desc_len, len))
            return 0;
        if (type == PVH_NOTE_TYPE && name_len == 4 && !memcmp(notes.data + name, "Xen", 4) &&
            (desc_len == 4 || desc_len == 8)) {
            elf->entry = get(notes.data + desc, (unsigned)desc_len);
            elf->found = true;
            return 0;
        }
        at = desc + round_up(desc_len, 4);
    }
    return 0;
}

static int elf_load_segment(const struct boot_request *q, const struct elf_segment *s,
                            struct elf_image *elf, struct err *err)
{
    if (!s->memsz)
        return 0;
    if (s->filesz > s->memsz || s->offset > INT64_MAX)
        return bad_elf(q, "a segment makes no sense", err);
    if (s->paddr < LAYOUT_KERNEL_MIN)
        return bad_elf(q, "a segment wants memory below 1 MiB", err);
    if (!range_fits(s->paddr, s->memsz, q->ram_size))
        return no_room(q, "the kernel", s->paddr, s->memsz, err);
    int r = pread_full(q->kernel_fd, q->ram + s->paddr, s->filesz, (off_t)s->offset);
    if (r < 0)
        return r == -ENODATA ? err_set(err, EINVAL, "%s: truncated kernel image", q->kernel_name)
                             : err_errno(err, -r, "%s: cannot read", q->kernel_name);
    if (s->paddr + s->memsz > elf->end)
        elf->end = s->paddr + s->memsz;
    return ram_clear(q, s->paddr + s->filesz, s->memsz - s->filesz, err);
}

/* hvm_start_info, the list of one module, and the memory map, one behind the other. */
static int put_start_info(const struct boot_request *q, uint64_t initrd, uint64_t initrd_len,
                          struct err *err)
{
    enum { MODULES = 64, MEMORY = 128, MEMORY_ENTRY = 24 };
    uint8_t info[MEMORY + E820_MAX * MEMORY_ENTRY] = { 0 };

    set(info, PVH_MAGIC, 4);
    set(info + 4, 1, 4); /* version */
    set(info + 12, initrd_len ? 1 : 0, 4);
    set(info + 16, initrd_len ? LAYOUT_BOOT_PARAMS + MODULES : 0, 8);
    set(info + 24, LAYOUT_CMDLINE, 8);
    set(info + 32, q->rsdp, 8);
    set(info + 40, LAYOUT_BOOT_PARAMS + MEMORY, 8);
    set(info + 48, q->memory_count, 4);
    set(info + MODULES, initrd, 8);
    set(info + MODULES + 8, initrd_len, 8);
    for (unsigned i = 0; i < q->memory_count; i++) {
        uint8_t *entry = info + MEMORY + MEMORY_ENTRY * i;
        set(entry, q->memory[i].start, 8);
        set(entry + 8, q->memory[i].size, 8);
        set(entry + 16, q->memory[i].type, 4);
    }
    return ram_put(q, LAYOUT_BOOT_PARAMS, info, sizeof info, err);
}

static int load_pvh(const struct boot_request *q, const uint8_t *ident, struct boot_entry *out,
                    struct err *err)
{
    struct elf_image elf = { 0 };
    uint64_t initrd, initrd_len;
    int r = elf_read_segments(q, ident, &elf, err);

    for (unsigned i = 0; i < elf.count && r == 0 && !elf.found; i++)
        if (elf.segments[i].type == PT_NOTE)
            r = elf_scan_notes(q, &elf.segments[i], &elf, err);
    if (r == 0 && !elf.found)
        return bad_elf(q, "the ELF file has no PVH entry note", err);
    for (unsigned i = 0; i < elf.count && r == 0; i++)
        if (elf.segments[i].type == PT_LOAD)
            r = elf_load_segment(q, &elf.segments[i], &elf, err);
    if (r == 0 && (elf.entry < LAYOUT_KERNEL_MIN || elf.entry >= elf.end))
        r = bad_elf(q, "its PVH entry point is not inside the kernel", err);
    if (r == 0)
        r = load_cmdline(q, LAYOUT_CMDLINE_SIZE - 1, err);
    if (r == 0)
        r = load_initrd(q, elf.end, UINT32_MAX, &initrd, &initrd_len, err);
    if (r == 0)
        r = put_start_info(q, initrd, initrd_len, err);
    if (r == 0)
        *out = (struct boot_entry){ BOOT_PVH, elf.entry, LAYOUT_BOOT_PARAMS };
    return r;
}

int linux_boot_load(const struct boot_request *q, struct boot_entry *out, struct err *err)
{
    struct linux_header header = { 0 };
    assert(q->ram_size >= LAYOUT_KERNEL_MIN && q->ram_size <= 1ull << 32 &&
           q->memory_count <= E820_MAX);

    int r = file_size(q->kernel_fd, q->kernel_name, &header.file_size, err);
    if (r < 0)
        return r;
    uint64_t len = header.file_size < HDR_END ? header.file_size : HDR_END;
    r = file_get(q, 0, header.bytes, len, err);
    if (r < 0)
        return r;
    if (len >= EI_NIDENT && !memcmp(header.bytes, ELFMAG, SELFMAG))
        return load_pvh(q, header.bytes, out, err);
    if (len == HDR_END && get(header.bytes + HDR_BOOT_FLAG, 2) == 0xaa55 &&
        !memcmp(header.bytes + HDR_MAGIC, "HdrS", 4))
        return load_linux(q, &header, out, err);
    if (len < HDR_END)
        return err_set(err, EINVAL, "%s: truncated kernel image: the file has only %llu bytes",
                       q->kernel_name, (unsigned long long)header.file_size);
    return bad_elf(q, "it is neither a Linux bzImage nor an ELF file", err);
}
