/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bus accesses over section borders, doorbells, and host copies, also of pages that are gone. */
#include "machine/fake_engine.h"
#include "machine/priv.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <cmocka.h>

/* Reads give the offset, byte by byte; writes are noted. */
struct echo {
    struct device dev;
    unsigned writes, region, size;
    uint64_t offset, value;
};

static uint64_t echo_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= ((offset + i) & 0xff) << 8 * i;
    return value;
}

static void echo_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct echo *echo = (struct echo *)dev;
    assert_int_equal(pthread_mutex_trylock(&dev->lock), EBUSY);
    echo->writes++;
    echo->region = region;
    echo->offset = offset;
    echo->size = size;
    echo->value = value;
}

static const struct device_type echo_type = {
    .name = "echo", .threads = DEVICE_LOCKED, .read = echo_read, .write = echo_write
};
static const struct device_type mute_type = { .name = "mute" };

struct board {
    struct machine *m;
    struct echo echo;
    struct device mute;
};

/* RAM [0, 8 KiB), ROM [8, 12), ROM with trap [12, 16), device [16 KiB, + 6 bytes), hole. */
static int board_setup(void **state)
{
    struct board *board = calloc(1, sizeof *board);
    struct machine *m = board->m = fake_machine_create(16 * PAGE_SIZE, 1, NULL, NULL);
    struct ram *ram = m->main_ram;
    device_init(&board->echo.dev, m, &echo_type, "echo");
    device_init(&board->mute, m, &mute_type, "mute");
    assert_int_equal(map_ram(m, SPACE_MEMORY, 0, 0x2000, REGION_RAM, ram, 0x4000, 0, NULL, NULL),
                     0);
    assert_int_equal(map_ram(m, SPACE_MEMORY, 0x2000, 0x1000, REGION_ROM, ram, 0, 0, NULL, NULL),
                     0);
    assert_int_equal(map_rom_trap(m, SPACE_MEMORY, 0x3000, 0x1000, ram, 0x1000, &board->echo.dev, 9,
                                  0, NULL, NULL),
                     0);
    assert_int_equal(map_device(m, SPACE_MEMORY, 0x4000, 6, &board->echo.dev, 4, 0, NULL, NULL), 0);
    assert_int_equal(map_device(m, SPACE_IO, 0x70, 2, &board->mute, 0, 0, NULL, NULL), 0);
    *state = board;
    return 0;
}

static int board_teardown(void **state)
{
    struct board *board = *state;
    fake_machine_destroy(board->m);
    device_fini(&board->echo.dev);
    device_fini(&board->mute);
    free(board);
    return 0;
}

static void test_bus(void **state)
{
    struct board *board = *state;
    struct machine *m = board->m;
    bus_write(m, SPACE_MEMORY, 0x1000, 8, 0x1122334455667788);
    assert_int_equal(bus_read(m, SPACE_MEMORY, 0x1000, 8), 0x1122334455667788);
    assert_int_equal(bus_read(m, SPACE_SMM, 0x1003, 2), 0x4455);
    assert_int_equal(m->main_ram->hva[0x5000], 0x88);

    bus_write(m, SPACE_MEMORY, 0x2000, 4, 0x55);
    assert_int_equal(bus_read(m, SPACE_MEMORY, 0x2000, 4), 0);

    bus_write(m, SPACE_MEMORY, 0x3010, 2, 0x12345);
    assert_int_equal(board->echo.writes, 1);
    assert_int_equal(board->echo.region, 9);
    assert_int_equal(board->echo.offset, 0x10);
    assert_int_equal(board->echo.value, 0x2345);
    assert_int_equal(bus_read(m, SPACE_MEMORY, 0x3010, 2), 0);

    assert_int_equal(bus_read(m, SPACE_MEMORY, 0x4001, 4), 0x04030201);
    assert_int_equal(bus_read(m, SPACE_MEMORY, 0x9000, 4), 0xffffffff);
    bus_write(m, SPACE_MEMORY, 0x9000, 8, 1);
    assert_int_equal(bus_read(m, SPACE_IO, 0x70, 1), 0xff);
    bus_write(m, SPACE_IO, 0x70, 1, 1);
}

static void test_bus_borders(void **state)
{
    struct board *board = *state;
    struct machine *m = board->m;
    /* RAM and ROM */
    memset(m->main_ram->hva + 0x5ffc, 0xaa, 4);
    memset(m->main_ram->hva, 0xbb, 4);
    assert_int_equal(bus_read(m, SPACE_MEMORY, 0x1ffd, 8), 0x00bbbbbbbbaaaaaa);
    bus_write(m, SPACE_MEMORY, 0x1ffe, 4, 0x44332211);
    assert_int_equal(m->main_ram->hva[0x5fff], 0x22);
    assert_int_equal(m->main_ram->hva[0x6000], 0);
    assert_int_equal(m->main_ram->hva[0], 0xbb);
    /* the device's last bytes and the hole */
    assert_int_equal(bus_read(m, SPACE_MEMORY, 0x4004, 8), 0xffffffffffff0504);
    /* the trapping ROM and the device: one write each */
    bus_write(m, SPACE_MEMORY, 0x3ffe, 4, 0xddccbbaa);
    assert_int_equal(board->echo.writes, 2);
    assert_int_equal(board->echo.region, 4);
    assert_int_equal(board->echo.value, 0xddcc);
    /* the ends of the spaces */
    assert_int_equal(bus_read(m, SPACE_IO, 0xfffe, 4), 0xffffffff);
    assert_int_equal(bus_read(m, SPACE_MEMORY, (1ull << 52) - 2, 8), UINT64_MAX);
    bus_write(m, SPACE_MEMORY, (1ull << 52) - 1, 8, 0);
    /* 3 bytes before a border: pieces of 1, 2 and so on, whole and in order */
    for (unsigned size = 1; size <= 8; size *= 2)
        for (uint64_t addr = 0x1ff0; addr < 0x2008; addr++) {
            uint64_t want = 0;
            for (unsigned i = 0; i < size; i++)
                want |= bus_read(m, SPACE_MEMORY, addr + i, 1) << 8 * i;
            assert_int_equal(bus_read(m, SPACE_MEMORY, addr, size), want);
        }
}

static uint64_t rung(int fd)
{
    uint64_t count = 0;
    return read(fd, &count, sizeof count) < 0 ? 0 : count;
}

static void test_doorbells(void **state)
{
    struct board *board = *state;
    struct machine *m = board->m;
    int any = eventfd(0, EFD_NONBLOCK), two = eventfd(0, EFD_NONBLOCK);
    int four = eventfd(0, EFD_NONBLOCK);
    assert_int_equal(doorbell_add(m, SPACE_MEMORY, 0x4002, 2, two, NULL), 0);
    assert_int_equal(doorbell_add(m, SPACE_MEMORY, 0x4002, 4, four, NULL), 0);
    assert_int_equal(doorbell_add(m, SPACE_MEMORY, 0x4002, 0, any, NULL), -EEXIST);
    assert_int_equal(doorbell_add(m, SPACE_MEMORY, 0x4000, 0, any, NULL), 0);
    assert_int_equal(fake_engine(m)->doorbells, 3);
    bus_write(m, SPACE_MEMORY, 0x4002, 2, 7);
    bus_write(m, SPACE_SMM, 0x4002, 2, 7);
    bus_write(m, SPACE_MEMORY, 0x4002, 4, 7);
    bus_write(m, SPACE_MEMORY, 0x4000, 1, 7);
    assert_int_equal(board->echo.writes, 0);
    assert_int_equal(rung(two), 2);
    assert_int_equal(rung(four), 1);
    assert_int_equal(rung(any), 1);
    bus_write(m, SPACE_MEMORY, 0x4002, 1, 7);
    bus_write(m, SPACE_MEMORY, 0x4003, 2, 7);
    bus_write(m, SPACE_IO, 0x4002, 2, 7);
    assert_int_equal(board->echo.writes, 2);

    doorbell_remove(m, SPACE_MEMORY, 0x4002, two);
    doorbell_remove(m, SPACE_MEMORY, 0x4002, two);
    doorbell_remove(m, SPACE_MEMORY, 0x5555, two);
    assert_int_equal(fake_engine(m)->doorbells, 2);
    bus_write(m, SPACE_MEMORY, 0x4002, 2, 7);
    assert_int_equal(board->echo.writes, 3);
    assert_int_equal(rung(two), 0);
    fake_engine(m)->doorbell_result = -ENOSPC;
    assert_int_equal(doorbell_add(m, SPACE_MEMORY, 0x4002, 2, two, NULL), 0);
    bus_write(m, SPACE_MEMORY, 0x4002, 2, 7);
    assert_int_equal(rung(two), 1);
    fake_engine(m)->doorbell_result = 0;
    doorbell_remove(m, SPACE_MEMORY, 0x4002, two);
    assert_int_equal(fake_engine(m)->doorbells, 2);
    close(any);
    close(two);
    close(four);
}

struct ringing {
    struct machine *m;
    int fd;
    _Atomic int stage;
    _Atomic pid_t thread;
};

static void *ring_once(void *arg)
{
    struct ringing *ringing = arg;
    ringing->thread = gettid();
    ringing->stage = 1;
    bus_write(ringing->m, SPACE_MEMORY, 0x4002, 2, 0);
    return NULL;
}

/* Has the kernel put this thread to sleep? */
static bool sleeps(pid_t thread)
{
    char path[64], text[128];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)thread);
    AUTO(file_close) FILE *f = fopen(path, "re");
    return f && fgets(text, sizeof text, f) && strstr(text, ") S ");
}

static void *drain_later(void *arg)
{
    struct ringing *ringing = arg;
    usleep(30000);
    ringing->stage = 2;
    assert_true(rung(ringing->fd) > 0);
    return NULL;
}

/* Once removed, nobody writes to the descriptor any more, whoever owns its number then. An eventfd
 * that is full holds the ringing thread where it must be waited for. */
static void test_doorbell_close(void **state)
{
    struct board *board = *state;
    struct ringing ringing = { .m = board->m, .fd = eventfd(0, 0) };
    uint64_t full = UINT64_MAX - 1;
    assert_int_equal(write(ringing.fd, &full, sizeof full), sizeof full);
    assert_int_equal(doorbell_add(board->m, SPACE_MEMORY, 0x4002, 2, ringing.fd, NULL), 0);
    pthread_t ringer, drainer;
    pthread_create(&ringer, NULL, ring_once, &ringing);
    while (!ringing.stage || !sleeps(ringing.thread))
        usleep(100);
    pthread_create(&drainer, NULL, drain_later, &ringing);
    doorbell_remove(board->m, SPACE_MEMORY, 0x4002, ringing.fd);
    assert_int_equal(ringing.stage, 2);
    pthread_join(ringer, NULL);
    pthread_join(drainer, NULL);
    assert_int_equal(rung(ringing.fd), 1);
    close(ringing.fd);
}

static void test_mem(void **state)
{
    struct board *board = *state;
    struct machine *m = board->m;
    uint8_t out[0x3000], in[0x3000];
    for (unsigned i = 0; i < sizeof in; i++)
        in[i] = (uint8_t)(i * 7);
    assert_int_equal(mem_write(m, 0xff1, in, 0x100f), 0);
    assert_int_equal(mem_read(m, 0xff1, out, 0x100f), 0);
    assert_memory_equal(in, out, 0x100f);
    assert_int_equal(mem_write(m, 0x1ff8, in, 9), -EFAULT);
    assert_int_equal(mem_load(m, 0x1ff8, in, 9), 0);
    assert_int_equal(mem_read(m, 0x1ff8, out, 9), 0);
    assert_memory_equal(in, out, 9);
    assert_int_equal(mem_load(m, 0x3000, in, 4), 0);
    assert_int_equal(mem_write(m, 0x3000, in, 4), -EFAULT);
    assert_int_equal(mem_read(m, 0x3ffe, out, 4), -EFAULT);
    assert_int_equal(mem_read(m, 0x4000, out, 1), -EFAULT);
    assert_int_equal(mem_read(m, 0x9000, out, 1), -EFAULT);
    assert_int_equal(mem_read(m, 0x9000, out, 0), 0);
    assert_int_equal(mem_read(m, UINT64_MAX - 2, out, 8), -EFAULT);
    for (unsigned size = 1; size <= 40; size++)
        for (unsigned skip = 0; skip < 9; skip++) {
            assert_int_equal(mem_write(m, skip, in + size, size), 0);
            memset(out, 0x5a, sizeof out);
            assert_int_equal(mem_read(m, skip, out + 1, size), 0);
            assert_memory_equal(in + size, out + 1, size);
            assert_int_equal(out[0], 0x5a);
            assert_int_equal(out[1 + size], 0x5a);
        }
}

static void test_vanished_page(void **state)
{
    struct board *board = *state;
    struct machine *m = board->m;
    uint8_t data[64] = { 0 };
    copy_init(); /* cmocka has put its own handlers in front */
    assert_int_equal(ftruncate(m->main_ram->fd, 0x5000), 0); /* the RAM's second page and on */
    assert_int_equal(mem_read(m, 0x1000, data, 64), -EFAULT);
    assert_int_equal(mem_write(m, 0xfff, data, 64), -EFAULT);
    for (unsigned size = 1; size <= 8; size *= 2) {
        assert_int_equal(mem_read(m, 0x1008, data, size), -EFAULT);
        assert_int_equal(mem_write(m, 0x1008, data, size), -EFAULT);
    }
    assert_int_equal(bus_read(m, SPACE_MEMORY, 0x1000, 4), 0xffffffff);
    bus_write(m, SPACE_MEMORY, 0x1000, 4, 0);
    assert_int_equal(mem_read(m, 0xff0, data, 16), 0);

    void *none = mmap(NULL, PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_int_equal(copy_from_hva(data, none, 8), -EFAULT);
    assert_int_equal(copy_to_hva(none, data, 7), -EFAULT);
    munmap(none, PAGE_SIZE);
}

/* A fault that is not ours still kills, as it should. */
static void test_other_faults(void **state)
{
    struct board *board = *state;
    pid_t pid = fork();
    if (pid == 0) {
        alarm(20);
        signal(SIGBUS, SIG_DFL);
        copy_init();
        ftruncate(board->m->main_ram->fd, 0) < 0 ? _exit(1) : (void)0;
        *(volatile uint8_t *)board->m->main_ram->hva = 1;
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_true((WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) ||
                (WIFEXITED(status) && WEXITSTATUS(status) > 1)); /* a sanitizer's exit */
}

#define BOARD_TEST(fn) cmocka_unit_test_setup_teardown(fn, board_setup, board_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOARD_TEST(test_bus),          BOARD_TEST(test_bus_borders),
        BOARD_TEST(test_doorbells),    BOARD_TEST(test_doorbell_close),
        BOARD_TEST(test_mem),          BOARD_TEST(test_vanished_page),
        BOARD_TEST(test_other_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
