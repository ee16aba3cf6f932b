/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Kernels made up for the test: good ones end where the protocol says, bad ones in one sentence. */
#include "board/linux_boot.h"

#include "base/text.h"
#include "board/layout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

enum { RAM_SIZE = 32 << 20, SETUP = 2 * 512, CODE = 64 << 10 };
#define MIB (1ull << 20)

static uint8_t *ram;
static uint8_t image[SETUP + CODE];

static int setup(void **state)
{
    ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return ram == MAP_FAILED ? -1 : 0;
}

static int teardown(void **state) { return munmap(ram, RAM_SIZE); }

static void put(size_t at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        image[at + i] = (uint8_t)(value >> 8 * i);
}

static uint64_t get(uint64_t gpa, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)ram[gpa + i] << 8 * i;
    return value;
}

/* A 64-bit relocatable kernel of 64 KiB that wants 1 MiB at 16 MiB. */
static void make_linux(void)
{
    memset(image, 0, sizeof image);
    memset(image + SETUP, 0xcc, CODE);
    put(0x1f1, SETUP / 512 - 1, 1);
    put(0x1f4, CODE / 16, 4);
    put(0x1fe, 0xaa55, 2);
    put(0x200, 0x6aeb, 2); /* jumps over a header of 0x6c bytes from 0x202 */
    memcpy(image + 0x202, "HdrS", 4);
    put(0x206, 0x20f, 2);
    put(0x211, 1, 1);
    put(0x22c, 0x7fffffff, 4);
    put(0x230, 2 * MIB, 4);
    put(0x234, 1, 1);
    put(0x236, 1, 2);
    put(0x238, 2047, 4);
    put(0x258, 16 * MIB, 8);
    put(0x260, MIB, 4);
}

static int make_file(const void *data, size_t len)
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    assert_int_equal(pwrite_full(fd, data, len, 0), 0);
    return fd;
}

static struct boot_request request(int kernel)
{
    return (struct boot_request){
        .kernel_fd = kernel,
        .initrd_fd = -1,
        .kernel_name = "vmlinuz",
        .initrd_name = "initrd.img",
        .ram = ram,
        .ram_size = RAM_SIZE,
        .rsdp = LAYOUT_ACPI,
        .memory = { { 0, RAM_SIZE, E820_RAM } },
        .memory_count = 1,
    };
}

static void expect_failure(struct boot_request *q, const char *sentence)
{
    struct boot_entry entry;
    struct err err = { 0 };
    assert_true(linux_boot_load(q, &entry, &err) < 0);
    if (!strstr(err.text, sentence))
        fail_msg("\"%s\" does not say \"%s\"", err.text, sentence);
}

static void boots_linux(void **state)
{
    struct boot_entry entry;
    struct err err = { 0 };
    make_linux();
    int kernel = make_file(image, sizeof image), initrd = make_file("cpio", 4);
    struct boot_request q = request(kernel);
    q.initrd_fd = initrd;
    q.cmdline = "console=ttyS0 quiet";
    if (linux_boot_load(&q, &entry, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(entry.protocol, BOOT_LINUX64);
    assert_int_equal(entry.address, 16 * MIB + 0x200);
    assert_memory_equal(ram + 16 * MIB, image + SETUP, CODE);
    uint64_t params = entry.info;
    assert_int_equal(get(params + 0x70, 8), LAYOUT_ACPI);
    assert_int_equal(get(params + 0x1e8, 1), 1);
    assert_int_equal(get(params + 0x2d0 + 8, 8), RAM_SIZE);
    assert_memory_equal(ram + params + 0x202, "HdrS", 4);
    assert_int_equal(get(params + 0x210, 1), 0xff);
    assert_string_equal((char *)ram + get(params + 0x228, 4), "console=ttyS0 quiet");
    uint64_t at = get(params + 0x218, 4);
    assert_int_equal(at, RAM_SIZE - 4096);
    assert_int_equal(get(params + 0x21c, 4), 4);
    assert_memory_equal(ram + at, "cpio", 4);
    assert_int_equal(get(LAYOUT_PAGE_TABLES, 8), LAYOUT_PAGE_TABLES + 4096 + 3);
    assert_int_equal(get(LAYOUT_PAGE_TABLES + 5 * 4096 + 511 * 8, 8), 0xffe00083);

    put(0x22c, 20 * MIB - 1, 4); /* the initrd must stay below */
    pwrite_full(kernel, image, sizeof image, 0);
    assert_int_equal(linux_boot_load(&q, &entry, &err), 0);
    assert_int_equal(get(params + 0x218, 4), 20 * MIB - 4096);
    q.ram_size = 8 * MIB; /* too little for the preferred place: moves to 2 MiB */
    assert_int_equal(linux_boot_load(&q, &entry, &err), 0);
    assert_int_equal(entry.address, 2 * MIB + 0x200);
    close(kernel);
    close(initrd);
}

static void bad_header(size_t at, uint64_t value, unsigned bytes, const char *sentence)
{
    make_linux();
    put(at, value, bytes);
    int kernel = make_file(image, sizeof image);
    struct boot_request q = request(kernel);
    expect_failure(&q, sentence);
    close(kernel);
}

static void refuses_bad_linux(void **state)
{
    bad_header(0x206, 0x20b, 2, "vmlinuz: boot protocol 2.11 is too old");
    bad_header(0x236, 0, 2, "not a 64-bit kernel");
    bad_header(0x230, 3, 4, "alignment 0x3 is not a power of two");
    bad_header(0x1f4, 0xffffffff, 4, "truncated kernel image");
    bad_header(0x1f4, 0, 4, "truncated kernel image");
    bad_header(0x260, 0xffffffff, 4, "give it more memory");
    bad_header(0x202, 0, 4, "neither a Linux bzImage nor an ELF file");
    make_linux();
    put(0x234, 0, 1);
    put(0x258, UINT64_MAX, 8);
    int kernel = make_file(image, sizeof image);
    struct boot_request q = request(kernel);
    expect_failure(&q, "load address 0xffffffffffffffff is not one");
    close(kernel);
}

static void refuses_bad_files(void **state)
{
    char long_line[3000];
    make_linux();
    int kernel = make_file(image, sizeof image), shorter = make_file(image, sizeof image - 16),
        stub = make_file(image, 100), empty = make_file("", 0), initrd = make_file("", 0), pipes[2];
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(ftruncate(initrd, 1 << 30), 0);
    memset(long_line, 'x', sizeof long_line);
    long_line[2048] = 0;

    struct boot_request q = request(shorter);
    expect_failure(&q,
                   "truncated kernel image: its header speaks of 66560 bytes, the file has 66544");
    q = request(stub);
    expect_failure(&q, "truncated kernel image: the file has only 100 bytes");
    q = request(empty);
    expect_failure(&q, "truncated kernel image");
    q = request(pipes[0]);
    expect_failure(&q, "vmlinuz: not a regular file");
    q = request(kernel);
    q.initrd_fd = pipes[0];
    expect_failure(&q, "initrd.img: not a regular file");
    q.initrd_fd = initrd;
    expect_failure(&q, "initrd.img: the initrd has 1 GiB, but memory has room for 15 MiB");
    q = request(kernel);
    q.cmdline = long_line;
    expect_failure(&q, "the command line has 2048 characters, vmlinuz takes at most 2047");
    q = request(kernel);
    q.ram_size = 2 * MIB;
    expect_failure(&q, "give it more memory");
    const int all[] = { kernel, shorter, stub, empty, initrd, pipes[0], pipes[1] };
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        close(all[i]);
}

/* ---- PVH ---- */

enum { PH = 64, NOTE = 0x100, SEGMENT = 0x1000 };

/* ELF64: a segment of 4 KiB (8 KiB in memory) at 2 MiB, and the note */
static void make_pvh(void)
{
    memset(image, 0, sizeof image);
    memcpy(image, "\177ELF\2\1\1", 7);
    put(16, 2, 2);
    put(18, 62, 2);
    put(32, PH, 8);
    put(54, 56, 2);
    put(56, 2, 2);
    put(PH, 1, 4); /* PT_LOAD */
    put(PH + 8, SEGMENT, 8);
    put(PH + 24, 2 * MIB, 8);
    put(PH + 32, 4096, 8);
    put(PH + 40, 8192, 8);
    put(PH + 56, 4, 4); /* PT_NOTE */
    put(PH + 56 + 8, NOTE, 8);
    put(PH + 56 + 32, 40, 8);
    put(NOTE, 4, 4); /* somebody else's note first */
    put(NOTE + 8, 18, 4);
    memcpy(image + NOTE + 12, "GNU", 4);
    put(NOTE + 16, 4, 4);
    put(NOTE + 20, 4, 4);
    put(NOTE + 24, 18, 4);
    memcpy(image + NOTE + 28, "Xen", 4);
    put(NOTE + 32, 2 * MIB + 0x10, 4);
    memset(image + SEGMENT, 0xf4, 4096);
}

static void boots_pvh(void **state)
{
    struct boot_entry entry;
    struct err err = { 0 };
    make_pvh();
    int kernel = make_file(image, sizeof image), initrd = make_file("module", 6);
    struct boot_request q = request(kernel);
    q.initrd_fd = initrd;
    q.cmdline = "hello";
    memset(ram + 2 * MIB, 0xee, 16384);
    if (linux_boot_load(&q, &entry, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(entry.protocol, BOOT_PVH);
    assert_int_equal(entry.address, 2 * MIB + 0x10);
    assert_int_equal(ram[2 * MIB + 4095], 0xf4);
    assert_int_equal(ram[2 * MIB + 4096], 0); /* cleared */
    assert_int_equal(ram[2 * MIB + 8191], 0);
    assert_int_equal(ram[2 * MIB + 8192], 0xee);
    assert_int_equal(get(entry.info, 4), 0x336ec578);
    assert_int_equal(get(entry.info + 12, 4), 1);
    uint64_t module = get(entry.info + 16, 8);
    assert_memory_equal(ram + get(module, 8), "module", 6);
    assert_int_equal(get(module + 8, 8), 6);
    assert_string_equal((char *)ram + get(entry.info + 24, 8), "hello");
    assert_int_equal(get(entry.info + 32, 8), LAYOUT_ACPI);
    assert_int_equal(get(get(entry.info + 40, 8) + 8, 8), RAM_SIZE);
    close(kernel);
    close(initrd);
}

static void bad_pvh(size_t at, uint64_t value, unsigned bytes, const char *sentence)
{
    make_pvh();
    put(at, value, bytes);
    int kernel = make_file(image, 8192);
    struct boot_request q = request(kernel);
    expect_failure(&q, sentence);
    close(kernel);
}

static void refuses_bad_pvh(void **state)
{
    bad_pvh(NOTE + 24, 17, 4, "no PVH entry note");
    bad_pvh(NOTE + 16, UINT32_MAX, 4, "no PVH entry note");
    bad_pvh(18, 40, 2, "another processor");
    bad_pvh(5, 2, 1, "not a little-endian ELF file");
    bad_pvh(56, 65, 2, "program headers make no sense");
    bad_pvh(54, 8, 2, "program headers make no sense");
    bad_pvh(32, UINT64_MAX, 8, "truncated kernel image");
    bad_pvh(32, 8192 - 60, 8, "truncated kernel image");
    bad_pvh(PH + 24, 0x1000, 8, "below 1 MiB");
    bad_pvh(PH + 24, UINT64_MAX - 4096, 8, "give it more memory");
    bad_pvh(PH + 40, UINT64_MAX, 8, "give it more memory");
    bad_pvh(PH + 32, 8193, 8, "a segment makes no sense");
    bad_pvh(PH + 32, 8192, 8, "truncated kernel image");
    bad_pvh(NOTE + 32, 0x1000, 4, "not inside the kernel");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(boots_linux, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_bad_linux, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_bad_files, setup, teardown),
        cmocka_unit_test_setup_teardown(boots_pvh, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_bad_pvh, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
