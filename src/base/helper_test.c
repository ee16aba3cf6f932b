/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Helpers that another process starts: orders that are none, and one that is. */
#include "base/helper.h"

#include "base/cleanup.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

static char folder[] = "/tmp/helper-test-XXXXXX";

/* A helper that says what it was told; it ends with its socket. */
static int helper_write(void **state)
{
    static const char script[] = "#!/bin/sh\n"
                                 "echo \"ok: $* $BEDPLATE_IDS\" >&3\n"
                                 "read line <&3\n";
    char path[PATH_MAX];
    if (!mkdtemp(folder) || setenv("BEDPLATE_LIBEXEC", folder, 1) < 0)
        return -1;
    snprintf(path, sizeof path, "%s/bedplate-echo", folder);
    AUTO(fd_close) int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
    return fd < 0 ? -1 : write_full(fd, script, strlen(script));
}

static int helper_remove(void **state)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/bedplate-echo", folder);
    unlink(path);
    return rmdir(folder);
}

/* A process that serves orders until our end closes. */
static pid_t server_start(int *ours)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(pair[0]);
        helper_run_as(1234, 5678);
        while (helper_serve(pair[1])) {
        }
        _exit(0);
    }
    close(pair[1]);
    *ours = pair[0];
    return pid;
}

static void server_end(pid_t pid, int ours)
{
    int status = -1;
    helper_ask(-1);
    close(ours);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void started_by_another(void **state)
{
    const char *const argv[] = { "--word", "of two", NULL };
    char hello[256], expected[64];
    struct err err = { 0 };
    int ours, fd = -1;
    pid_t helper = 0, server = server_start(&ours);
    helper_ask(ours);
    assert_int_equal(helper_start("bedplate-echo", "base", argv, false, &fd, &helper, &err), 0);
    assert_int_equal(helper_wait("bedplate-echo", fd, 10000, hello, sizeof hello, &err), 0);
    snprintf(expected, sizeof expected, "--parent %d --word of two 1234:5678", (int)server);
    assert_string_equal(hello, expected);
    close(fd);
    assert_int_equal(helper_end(&helper), -1); /* it is no child of ours */
    server_end(server, ours);
}

static void missing(void **state)
{
    const char *const none[] = { NULL };
    struct err err = { 0 };
    int ours, fd = -1;
    pid_t helper, server = server_start(&ours);
    helper_ask(ours);
    assert_int_equal(helper_start("bedplate-none", "base", none, true, &fd, &helper, &err),
                     -ENOENT);
    assert_non_null(strstr(err.text, "bedplate-none is missing"));
    assert_int_equal(fd, -1);
    server_end(server, ours);
}

/* Only our own programs, whatever the bytes are; and the server goes on. */
static void no_orders(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } orders[] = {
        { "x", 1 },
        { "\0\0\0", 3 },
        { "bedplate-echo", 13 },
        { "sh\0base\0-c\0true", 15 },
        { "bedplate-echo/../sh\0base", 24 },
        { "bedplate-echo\0../base", 21 },
    };
    int ours;
    pid_t server = server_start(&ours);
    for (unsigned i = 0; i < sizeof orders / sizeof *orders; i++) {
        struct {
            int result;
            char rest[1024];
        } answer = { .result = 1 };
        assert_int_equal(send(ours, orders[i].bytes, orders[i].len, 0), orders[i].len);
        assert_true(recv(ours, &answer, sizeof answer, 0) > (ssize_t)sizeof answer.result);
        assert_int_equal(answer.result, -EINVAL);
    }
    server_end(server, ours);
}

static void server_gone(void **state)
{
    const char *const none[] = { NULL };
    struct err err = { 0 };
    int ours, fd = -1;
    pid_t helper, server = server_start(&ours);
    int again = dup(ours);
    shutdown(ours, SHUT_RDWR);
    server_end(server, ours);
    helper_ask(again);
    assert_int_equal(helper_start("bedplate-echo", "base", none, true, &fd, &helper, &err), -EPIPE);
    helper_ask(-1);
    close(again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(started_by_another),
        cmocka_unit_test(missing),
        cmocka_unit_test(no_orders),
        cmocka_unit_test(server_gone),
    };
    return cmocka_run_group_tests(tests, helper_write, helper_remove);
}
