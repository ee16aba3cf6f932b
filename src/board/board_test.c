/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The board as a whole: what is where, what the first CPU finds, and what a reset brings back. */
#include "board/board.h"

#include "board/layout.h"
#include "devices/test_machine.h"
#include "engine/x86.h"

#include <fcntl.h>
#include <sys/mman.h>

enum { CODE = 4096, SETUP = 1024 };

static int make_kernel(void)
{
    static uint8_t image[SETUP + CODE];
    const struct {
        unsigned at, bytes;
        uint64_t value;
    } header[] = {
        { 0x1f1, 1, 1 },        { 0x1f4, 4, CODE / 16 },  { 0x1fe, 2, 0xaa55 },
        { 0x200, 2, 0x6aeb },   { 0x202, 4, 0x53726448 }, { 0x206, 2, 0x20f },
        { 0x211, 1, 1 },        { 0x22c, 4, 0x7fffffff }, { 0x230, 4, 0x200000 },
        { 0x234, 1, 1 },        { 0x236, 2, 1 },          { 0x238, 4, 2047 },
        { 0x258, 8, 0x200000 }, { 0x260, 4, 0x10000 },
    };
    memset(image + SETUP, 0x90, CODE);
    for (unsigned i = 0; i < sizeof header / sizeof *header; i++)
        memcpy(image + header[i].at, &header[i].value, header[i].bytes);
    int fd = memfd_create("kernel", MFD_CLOEXEC);
    assert_int_equal(pwrite_full(fd, image, sizeof image, 0), 0);
    return fd;
}

static struct arch_state vcpu_state;

static int get_state(struct vcpu *v, struct arch_state *out, struct err *err)
{
    arch_state_reset(out, v->apic_id);
    return 0;
}

static int set_state(struct vcpu *v, const struct arch_state *state, struct err *err)
{
    vcpu_state = *state;
    return 0;
}

/* The test machine's engine with registers. */
static struct engine_type engine;

static struct board *create(const char *profile, uint64_t memory, int kernel)
{
    struct err err = { 0 };
    struct board *board;
    struct machine *m = test_machine_create(memory);
    engine = test_engine_type;
    engine.get_state = get_state;
    engine.set_state = set_state;
    m->engine->type = &engine;
    const struct board_config config = { .profile = profile,
                                         .kernel_fd = kernel,
                                         .initrd_fd = -1,
                                         .kernel_name = "vmlinuz",
                                         .cmdline = "hello" };
    if (board_create(m, &config, &board, &err) < 0 || board_finish(board, &err) < 0)
        fail_msg("%s", err.text);
    return board;
}

static void destroy(struct board *board)
{
    test_machine_destroy();
    board_destroy(board);
}

static void pc_is_ready_to_run(void **state)
{
    int kernel = make_kernel();
    struct board *board = create("pc-1", 64 << 20, kernel);
    char line[6], signature[8];
    assert_int_equal(vcpu_state.rip, 0x200200);
    assert_int_equal(vcpu_state.gpr[R_SI], LAYOUT_BOOT_PARAMS);
    assert_int_equal(vcpu_state.cr3, LAYOUT_PAGE_TABLES);
    assert_int_equal(vcpu_state.efer, 0x500);
    assert_int_equal(vcpu_state.seg[S_CS].attr & (SEG_L | SEG_DB | SEG_P), SEG_L | SEG_P);
    assert_int_equal(vcpu_state.lapic.lvt_lint0, 0x700);
    struct err err = { 0 };
    if (arch_state_desc.check && arch_state_desc.check(&vcpu_state, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(mem_read(test_machine.m, LAYOUT_CMDLINE, line, 6), 0);
    assert_string_equal(line, "hello");
    assert_int_equal(mem_read(test_machine.m, LAYOUT_ACPI, signature, 8), 0);
    assert_memory_equal(signature, "RSD PTR ", 8);
    assert_int_equal(inb(0x21), 0); /* the PIC is there */
    outb(0x70, 0x34);
    assert_int_equal(inb(0x71), (48 << 20 >> 16) & 0xff);
    assert_int_equal(mmio_read(0xb0000000, 4), 0x29c08086);
    destroy(board);
    close(kernel);
}

static void micro_has_no_legacy(void **state)
{
    int kernel = make_kernel();
    struct board *board = create("micro-1", 64 << 20, kernel);
    assert_int_equal(inb(0x21), 0xff);
    assert_int_equal(inb(0x71), 0xff);
    assert_int_equal(inb(0x40), 0xff);
    assert_int_equal(inb(0x3fd), 0x60);
    destroy(board);
    close(kernel);
}

static void memory_goes_round_the_hole(void **state)
{
    struct board *board = create("pc-1", 3ull << 30, -1);
    uint32_t word = 0x12345678, back = 0;
    assert_int_equal(mem_write(test_machine.m, LAYOUT_LOW_RAM_MAX - 4, &word, 4), 0);
    assert_int_equal(mem_write(test_machine.m, LAYOUT_LOW_RAM_MAX, &word, 4), -EFAULT);
    assert_int_equal(mem_write(test_machine.m, LAYOUT_HIGH_RAM, &word, 4), 0);
    assert_int_equal(mem_read(test_machine.m, LAYOUT_HIGH_RAM, &back, 4), 0);
    assert_int_equal(back, word);
    assert_int_equal(mem_write(test_machine.m, LAYOUT_HIGH_RAM + (256 << 20), &word, 4), -EFAULT);
    destroy(board);
}

static void reset_loads_everything_again(void **state)
{
    int kernel = make_kernel();
    struct board *board = create("pc-1", 64 << 20, kernel);
    uint8_t junk[CODE], back[8];
    memset(junk, 0xff, sizeof junk);
    assert_int_equal(mem_write(test_machine.m, 0x200000, junk, sizeof junk), 0);
    assert_int_equal(mem_write(test_machine.m, LAYOUT_ACPI, junk, sizeof junk), 0);
    vcpu_state.rip = 0;
    machine_reset_now(test_machine.m);
    assert_int_equal(vcpu_state.rip, 0x200200);
    assert_int_equal(mem_read(test_machine.m, 0x200000, back, 8), 0);
    assert_int_equal(back[0], 0x90);
    assert_int_equal(mem_read(test_machine.m, LAYOUT_ACPI, back, 8), 0);
    assert_memory_equal(back, "RSD PTR ", 8);

    assert_int_equal(ftruncate(kernel, 100), 0); /* the kernel's file was broken meanwhile */
    machine_reset_now(test_machine.m);
    assert_int_equal(test_events(), 1);
    assert_int_equal(test_machine.event, MACHINE_ENGINE_FAILED);
    destroy(board);
    close(kernel);
}

static void refuses_what_it_cannot(void **state)
{
    struct err err = { 0 };
    struct board *board;
    struct board_config config = { .profile = "pc-2", .kernel_fd = -1, .initrd_fd = -1 };
    struct machine *m = test_machine_create(1 << 20);
    assert_int_equal(board_create(m, &config, &board, &err), -EINVAL);
    assert_string_equal(err.text, "unknown profile \"pc-2\"; there are pc-1 and micro-1");
    config.profile = "pc-1";
    assert_int_equal(board_create(m, &config, &board, &err), -EINVAL);
    assert_string_equal(err.text, "a VM needs at least 2 MiB of memory");
    test_machine_destroy();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pc_is_ready_to_run),
        cmocka_unit_test(micro_has_no_legacy),
        cmocka_unit_test(memory_goes_round_the_hole),
        cmocka_unit_test(reset_loads_everything_again),
        cmocka_unit_test(refuses_what_it_cannot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
