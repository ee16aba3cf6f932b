/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/text.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void sizes_parse(void **state)
{
    static const struct {
        const char *text;
        uint64_t unit, bytes;
    } good[] = {
        { "512M", 1, 512ull << 20 },
        { "2G", 1, 2ull << 30 },
        { "4096k", 1, 4 << 20 },
        { "1T", 1, 1ull << 40 },
        { "100B", 1 << 20, 100 },
        { "512", 1 << 20, 512ull << 20 },
        { "0", 1, 0 },
        { "16777215T", 1, 16777215ull << 40 },
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        uint64_t n = 1;
        assert_int_equal(size_parse(good[i].text, good[i].unit, &n, NULL), 0);
        assert_true(n == good[i].bytes);
    }
    static const char *const bad[] = { "",
                                       "M",
                                       "-1",
                                       "+1",
                                       " 1",
                                       "1 ",
                                       "1MB",
                                       "1X",
                                       "0x1",
                                       "1.5",
                                       "1e3",
                                       "16777216T",
                                       "18446744073709551616",
                                       "99999999999999999999999M" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err err = { 0 };
        uint64_t n = 42;
        assert_int_equal(size_parse(bad[i], 1, &n, &err), -EINVAL);
        assert_int_equal(n, 42);
        assert_non_null(strstr(err.text, bad[i]));
    }
}

static void sizes_print(void **state)
{
    char buf[32];
    assert_string_equal(size_print(0, buf, sizeof buf), "0 B");
    assert_string_equal(size_print(1023, buf, sizeof buf), "1023 B");
    assert_string_equal(size_print(1536, buf, sizeof buf), "1.5 KiB");
    assert_string_equal(size_print(2ull << 30, buf, sizeof buf), "2 GiB");
    assert_string_equal(size_print((1 << 20) - 1, buf, sizeof buf), "1023.9 KiB");
    assert_string_equal(size_print(UINT64_MAX, buf, sizeof buf), "15.9 EiB");
}

static void numbers(void **state)
{
    uint64_t n = 0;
    assert_int_equal(number_parse("10", 1, 10, &n, NULL), 0);
    assert_int_equal(n, 10);
    assert_int_equal(number_parse("0xFf", 0, 255, &n, NULL), 0);
    assert_int_equal(n, 255);
    assert_int_equal(number_parse("18446744073709551615", 0, UINT64_MAX, &n, NULL), 0);
    assert_true(n == UINT64_MAX);
    assert_int_equal(number_parse("0x10000000000000000", 0, UINT64_MAX, &n, NULL), -EINVAL);

    struct err err = { 0 };
    assert_int_equal(number_parse("11", 1, 10, &n, &err), -EINVAL);
    assert_string_equal(err.text, "11 is not between 1 and 10");
    static const char *const bad[] = { "", "0x", "-1", " 1", "1 ", "1a", "a" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(number_parse(bad[i], 0, UINT64_MAX, &n, NULL), -EINVAL);
    assert_true(n == UINT64_MAX);
}

static void buffers(void **state)
{
    AUTO(buf_fini) struct buf buf = { 0 };
    buf_add(&buf, NULL, 0);
    assert_int_equal(buf.len, 0);
    for (int i = 0; i < 1000; i++)
        buf_printf(&buf, "%03d,", i);
    assert_int_equal(buf.len, 4000);
    assert_memory_equal(buf.data + 4 * 567, "567,568,", 8);
    assert_int_equal(buf.data[buf.len], 0); /* usable as a string */

    uint8_t *zero = buf_grow(&buf, 100);
    assert_ptr_equal(zero, buf.data + 4000);
    for (int i = 0; i < 100; i++)
        assert_int_equal(zero[i], 0);
    buf_add(&buf, "end", 3);
    assert_int_equal(buf.len, 4103);
    assert_string_equal((char *)buf.data + 4100, "end");
}

enum { PIPE_BYTES = 1 << 20 };

static void *pipe_fill(void *arg)
{
    uint8_t *data = malloc(PIPE_BYTES);
    for (int i = 0; i < PIPE_BYTES; i++)
        data[i] = (uint8_t)(i * 7);
    int r = write_full(*(int *)arg, data, PIPE_BYTES);
    free(data);
    close(*(int *)arg);
    return r == 0 ? arg : NULL;
}

static void base64(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        { "", "" },        { "f", "Zg==" },          { "fo", "Zm8=" },
        { "foo", "Zm9v" }, { "foobar", "Zm9vYmFy" }, { "\xff\xfe\xfd", "//79" }
    };
    for (unsigned i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        AUTO(buf_fini) struct buf buf = { 0 };
        buf_base64(&buf, pairs[i][0], strlen(pairs[i][0]));
        assert_int_equal(buf.len, strlen(pairs[i][1]));
        assert_memory_equal(buf.data ? (const char *)buf.data : "", pairs[i][1], buf.len);
        AUTO(buf_fini) struct buf back = { 0 };
        assert_int_equal(base64_parse(pairs[i][1], strlen(pairs[i][1]), &back), 0);
        assert_int_equal(back.len, strlen(pairs[i][0]));
        assert_memory_equal(back.data ? (const char *)back.data : "", pairs[i][0], back.len);
    }
    static const char *const bad[] = { "Z",        "Zg",   "Zg=",  "Z===", "====",
                                       "Zg==Zg==", "Z=g=", "Zm9 ", "Zm9\n" };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        AUTO(buf_fini) struct buf buf = { 0 };
        assert_int_equal(base64_parse(bad[i], strlen(bad[i]), &buf), -EINVAL);
    }
}

static void transfers(void **state)
{
    /* A pipe holds 64 KiB, so both sides see short transfers. */
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, pipe_fill, &fds[1]), 0);
    uint8_t *data = malloc(PIPE_BYTES);
    assert_int_equal(read_full(fds[0], data, PIPE_BYTES), 0);
    for (int i = 0; i < PIPE_BYTES; i++)
        assert_int_equal(data[i], (uint8_t)(i * 7));
    assert_int_equal(read_full(fds[0], data, 1), -ENODATA);
    void *ok;
    pthread_join(thread, &ok);
    assert_non_null(ok);
    free(data);
    close(fds[0]);
    assert_int_equal(read_full(-1, &fds, 1), -EBADF);
}

static void files(void **state)
{
    AUTO(fd_close) int fd = memfd_create("text_test", 0);
    assert_true(fd >= 0);
    assert_int_equal(pwrite_full(fd, "hello", 5, 3), 0);
    char got[5];
    assert_int_equal(pread_full(fd, got, 5, 3), 0);
    assert_memory_equal(got, "hello", 5);
    assert_int_equal(pread_full(fd, got, 5, 4), -ENODATA);

    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    AUTO(buf_fini) struct buf buf = { 0 };
    struct err err = { 0 };
    buf_add(&buf, "=", 1);
    assert_int_equal(file_read(path, 8, &buf, &err), 0);
    assert_int_equal(buf.len, 9);
    assert_memory_equal(buf.data, "=\0\0\0hello", 9);
    assert_int_equal(file_read(path, 7, &buf, &err), -EFBIG);
    assert_int_equal(buf.len, 9);
    assert_int_equal(file_read("/nonexistent/x", 7, &buf, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent/x"));
    /* Files of unknown size too. */
    assert_int_equal(file_read("/proc/self/maps", 1 << 20, &buf, &err), 0);
    assert_true(buf.len > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_parse), cmocka_unit_test(sizes_print), cmocka_unit_test(numbers),
        cmocka_unit_test(buffers),     cmocka_unit_test(base64),      cmocka_unit_test(transfers),
        cmocka_unit_test(files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
