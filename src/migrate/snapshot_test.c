/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Out and back in, and every way in which a file can be wrong. */
#include "migrate/toy_machine.h"

#include "base/text.h"
#include "migrate/crc32c.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/mman.h>

#include <cmocka.h>

static struct toy_device *toy(struct machine *m, const char *id)
{
    return (struct toy_device *)machine_find_device(m, id);
}

/* A machine with something in every corner, saved. */
static struct buf saved;

static void save_once(void)
{
    struct machine *m = toy_machine_create();
    arch_state_reset(&toy_cpus[0], 0);
    arch_state_reset(&toy_cpus[1], 1);
    toy_cpus[0].rip = 0x1234;
    toy_cpus[1].gpr[R_15] = 0x5678;
    toy(m, "toy0")->regs.number = 77;
    toy(m, "toy1")->regs = (struct toy_regs){ .data = (uint8_t *)strdup("hello"), .data_len = 5 };
    m->main_ram->hva[0] = 1;
    m->main_ram->hva[4096 * 255 + 4095] = 2;
    m->main_ram->hva[TOY_MEMORY - 1] = 3;
    clock_set(m, 5000000000, 1000000000000000000);

    int fd = memfd_create("saved", MFD_CLOEXEC);
    struct snapshot_config config = toy_config();
    struct err err = { 0 };
    assert_int_equal(snapshot_save(m, &config, fd, NULL, NULL, &err), 0);
    off_t len = lseek(fd, 0, SEEK_END);
    buf_grow(&saved, (size_t)len);
    assert_int_equal(pread_full(fd, saved.data, saved.len, 0), 0);
    close(fd);
    fake_machine_destroy(m);
}

static const struct device_type *one_more; /* what the machine to load into has beside the saved */

/* Loads bytes into a fresh machine, which is left in *out when that worked. */
static int load(const uint8_t *data, size_t len, struct machine **out, struct err *err)
{
    int fd = memfd_create("saved", MFD_CLOEXEC);
    assert_int_equal(pwrite_full(fd, data, len, 0), 0);
    struct snapshot *snapshot = NULL;
    struct machine *m = NULL;
    int r = snapshot_open(fd, &snapshot, err);
    if (r == 0) {
        memset(toy_cpus, 0, sizeof toy_cpus);
        m = toy_machine_create();
        if (one_more)
            toy_add(m, one_more, "toy2");
        r = snapshot_load(snapshot, m, err);
    }
    snapshot_close(snapshot);
    if (r == 0)
        *out = m;
    else if (m)
        fake_machine_destroy(m);
    assert_true(r == 0 || err->text[0]);
    return r;
}

static int begin(void **state)
{
    save_once();
    return 0;
}
static int end(void **state)
{
    buf_fini(&saved);
    return 0;
}

static void round_trip(void **state)
{
    struct machine *m;
    struct err err = { 0 };
    assert_int_equal(load(saved.data, saved.len, &m, &err), 0);
    assert_int_equal(toy_cpus[0].rip, 0x1234);
    assert_int_equal(toy_cpus[1].gpr[R_15], 0x5678);
    assert_int_equal(toy(m, "toy0")->regs.number, 77);
    assert_int_equal(toy(m, "toy1")->regs.data_len, 5);
    assert_memory_equal(toy(m, "toy1")->regs.data, "hello", 5);
    assert_int_equal(toy(m, "toy0")->loads, 1);
    assert_int_equal(guest_now_ns(m), 5000000000);
    for (uint64_t i = 0; i < TOY_MEMORY; i++) {
        int want = i == 0 ? 1 : i == 4096 * 255 + 4095 ? 2 : i == TOY_MEMORY - 1 ? 3 : 0;
        if (m->main_ram->hva[i] != want)
            fail_msg("byte %llu", (unsigned long long)i);
    }
    fake_machine_destroy(m);
    assert_true(saved.len < 20000); /* three pages and little more */
}

static void config_comes_back(void **state)
{
    int fd = memfd_create("saved", MFD_CLOEXEC);
    assert_int_equal(pwrite_full(fd, saved.data, saved.len, 0), 0);
    AUTO(snapshot_close) struct snapshot *snapshot = NULL;
    struct err err = { 0 };
    assert_int_equal(snapshot_open(fd, &snapshot, &err), 0);
    struct snapshot_config want = toy_config();
    const struct snapshot_config *got = snapshot_config(snapshot);
    assert_string_equal(got->cpu, want.cpu);
    assert_int_equal(got->memory, want.memory);
    assert_int_equal(got->disks[0].queues, 2);
    assert_string_equal(got->disks[0].bus, "sata");
    assert_int_equal(got->disks[0].size, 1 << 20);
    assert_memory_equal(got->nets[0].mac, want.nets[0].mac, 6);
    assert_true(got->console);
}

static void devices_that_came_later(void **state)
{
    struct device_type late = toy_type;
    struct machine *m;
    struct err err = { 0 };
    one_more = &toy_type;
    assert_int_equal(load(saved.data, saved.len, &m, &err), -EINVAL);
    assert_non_null(strstr(err.text, "has no device 'toy2'"));
    late.late = true;
    one_more = &late;
    assert_int_equal(load(saved.data, saved.len, &m, &err), 0);
    assert_int_equal(toy(m, "toy2")->loads, 1);
    assert_int_equal(toy(m, "toy0")->regs.number, 77);
    fake_machine_destroy(m);
    one_more = NULL;
}

static void what_was_there_is_gone(void **state)
{
    int fd = memfd_create("saved", MFD_CLOEXEC);
    assert_int_equal(pwrite_full(fd, saved.data, saved.len, 0), 0);
    struct snapshot *snapshot = NULL;
    assert_int_equal(snapshot_open(fd, &snapshot, NULL), 0);
    struct machine *m = toy_machine_create();
    memset(m->main_ram->hva, 0xaa, TOY_MEMORY); /* as a board's tables would be */
    toy(m, "toy0")->regs = (struct toy_regs){ .data = (uint8_t *)strdup("old"), .data_len = 3 };
    assert_int_equal(snapshot_load(snapshot, m, NULL), 0);
    assert_int_equal(m->main_ram->hva[1], 0);
    assert_int_equal(m->main_ram->hva[2 << 20], 0);
    assert_int_equal(toy(m, "toy0")->regs.data_len, 0);
    snapshot_close(snapshot);
    fake_machine_destroy(m);
}

static void cut_anywhere(void **state)
{
    struct machine *m;
    /* Each place near the front, then some. */
    for (size_t len = 0; len < saved.len; len += len < 600 ? 1 : 211) {
        struct err err = { 0 };
        assert_int_equal(load(saved.data, len, &m, &err), -EINVAL);
    }
}

static void any_byte_changed(void **state)
{
    struct machine *m;
    for (size_t i = 0; i < saved.len; i += i < 600 ? 1 : 97) {
        struct err err = { 0 };
        saved.data[i] ^= 0x10;
        int r = load(saved.data, saved.len, &m, &err);
        saved.data[i] ^= 0x10;
        if (r != -EINVAL)
            fail_msg("byte %zu: %d %s", i, r, err.text);
    }
}

/* ---- files that are well made and wrong ---- */

struct part {
    size_t start, len; /* in saved */
};

/* The sections of `saved`. */
static unsigned parts_find(struct part parts[32])
{
    unsigned count = 0;
    for (size_t at = 12; at < saved.len; count++) {
        uint64_t len;
        memcpy(&len, saved.data + at + 8, 8);
        parts[count] = (struct part){ at, 48 + len + 4 };
        at += parts[count].len;
    }
    return count;
}

static void crc_fix(struct buf *file, size_t start, size_t len)
{
    uint32_t crc = crc32c(0, file->data + start, len - 4);
    memcpy(file->data + start + len - 4, &crc, 4);
}

/* Copies all sections, but `twice` twice and not `without`; the end's count is made right. */
static void file_make(struct buf *file, int without, int twice)
{
    struct part parts[32];
    unsigned count = parts_find(parts);
    file->len = 0;
    buf_add(file, saved.data, 12);
    uint64_t sections = 0;
    for (unsigned i = 0; i < count; i++) {
        for (int times = (int)i == without ? 0 : (int)i == twice ? 2 : 1; times; times--) {
            size_t start = file->len;
            buf_add(file, saved.data + parts[i].start, parts[i].len);
            if (i == count - 1) {
                memcpy(file->data + start + 48, &sections, 8);
                crc_fix(file, start, parts[i].len);
            }
            sections++;
        }
    }
}

static void sections_missing_or_twice(void **state)
{
    struct part parts[32];
    unsigned count = parts_find(parts);
    AUTO(buf_fini) struct buf file = { 0 };
    struct machine *m;
    for (int i = 0; i < (int)count; i++) {
        bool is_ram = memcmp(saved.data + parts[i].start, "ram ", 4) == 0;
        struct err err = { 0 };
        file_make(&file, i, -1);
        int r = load(file.data, file.len, &m, &err);
        /* Missing memory is zeros; nobody can tell. */
        assert_int_equal(r, is_ram ? 0 : -EINVAL);
        if (r == 0)
            fake_machine_destroy(m);
        if (i == (int)count - 1)
            continue; /* what follows the end is not looked at */
        file_make(&file, -1, i);
        r = load(file.data, file.len, &m, &err);
        assert_int_equal(r, is_ram ? 0 : -EINVAL);
        if (r == 0)
            fake_machine_destroy(m);
    }
}

/* Changes bytes of the first section of a kind, with a right checksum. */
static int load_patched(const char *kind, size_t offset, const void *bytes, size_t len,
                        struct err *err)
{
    struct part parts[32];
    unsigned count = parts_find(parts), i = 0;
    while (i < count && memcmp(saved.data + parts[i].start, kind, 4) != 0)
        i++;
    assert_true(i < count);
    AUTO(buf_fini) struct buf file = { 0 };
    buf_add(&file, saved.data, saved.len);
    memcpy(file.data + parts[i].start + offset, bytes, len);
    crc_fix(&file, parts[i].start, parts[i].len);
    struct machine *m;
    int r = load(file.data, file.len, &m, err);
    if (r == 0)
        fake_machine_destroy(m);
    return r;
}

static void wrong_contents(void **state)
{
    static const uint32_t big = 100, huge = 0xffffffff;
    static const uint64_t far = UINT64_MAX;
    static const uint8_t all[32] = { [0 ... 31] = 0xff };
    const struct {
        const char *kind;
        size_t offset, len;
        const void *bytes;
        const char *sentence;
    } cases[] = {
        { "vcpu", 4, 4, &big, "vCPU 100 is too many" },
        { "vcpu", 48, 4, &huge, "vCPU 0" },
        { "devi", 16, 5, "other", "which this one has not" },
        { "devi", 16, 6, "plain0", "which this one has not" },
        { "devi", 16, 5, "toy1", "there twice" },
        { "devi", 48, 4, &huge, "device 'toy0'" },
        { "ram ", 4, 4, &big, "damaged" },
        { "ram ", 4, 4, &huge, "damaged" },
        { "ram ", 16, 5, "rest", "which this one has not" },
        { "ram ", 48, 32, all, "damaged" },
        { "cloc", 48, 8, &far, "out of range" },
        { "conf", 48, 1, "x", "JSON" },
        { "conf", 0, 4, "xxxx", "makes no sense" },
        { "end ", 48, 4, &big, "sections are missing" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = { 0 };
        int r = load_patched(cases[i].kind, cases[i].offset, cases[i].bytes, cases[i].len, &err);
        if (r != -EINVAL || !strstr(err.text, cases[i].sentence))
            fail_msg("case %zu: %d %s", i, r, err.text);
    }
}

static void hostile_lengths(void **state)
{
    struct part parts[32];
    parts_find(parts);
    static const uint64_t lengths[] = { 1ull << 20, 1ull << 32, 1ull << 63, UINT64_MAX };
    for (size_t i = 0; i < 4; i++) {
        AUTO(buf_fini) struct buf file = { 0 };
        struct err err = { 0 };
        struct machine *m;
        buf_add(&file, saved.data, saved.len);
        memcpy(file.data + parts[0].start + 8, &lengths[i], 8);
        assert_int_equal(load(file.data, file.len, &m, &err), -EINVAL);
    }
}

static void full_disk_while_saving(void **state)
{
    struct machine *m = toy_machine_create();
    struct snapshot_config config = toy_config();
    struct err err = { 0 };
    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        skip();
    assert_int_equal(snapshot_save(m, &config, fd, NULL, NULL, &err), -ENOSPC);
    close(fd);
    fake_machine_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(config_comes_back),
        cmocka_unit_test(devices_that_came_later),
        cmocka_unit_test(what_was_there_is_gone),
        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(any_byte_changed),
        cmocka_unit_test(sections_missing_or_twice),
        cmocka_unit_test(wrong_contents),
        cmocka_unit_test(hostile_lengths),
        cmocka_unit_test(full_disk_while_saving),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
