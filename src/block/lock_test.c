/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Image locks: between two of our disks, and both ways with QEMU's tools. */
#include "block/block.h"

#include "base/log.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

static char path[] = "/tmp/lock-test-XXXXXX";

static struct block_node *open_image(bool readonly, struct err *err)
{
    struct block_node *node = NULL;
    struct block_options options = { .path = path, .format = "raw", .readonly = readonly };
    block_open(&options, &node, err);
    return node;
}

static void test_own(void **state)
{
    struct err err;
    struct block_node *writer = open_image(false, &err);
    assert_non_null(writer);
    assert_null(open_image(false, &err));
    assert_int_equal(err.code, EBUSY);
    assert_non_null(strstr(err.text, "another disk of this same process"));
    assert_null(open_image(true, &err));
    block_close(writer);

    struct block_node *one = open_image(true, &err), *two = open_image(true, &err);
    assert_non_null(one);
    assert_non_null(two);
    assert_null(open_image(false, &err));
    block_close(one);
    block_close(two);
    writer = open_image(false, &err);
    assert_non_null(writer);
    block_close(writer);
}

/* A holder in another process is named, and its death releases the lock. */
static void test_named(void **state)
{
    int ready[2];
    struct err err;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (!pid) {
        char byte = open_image(false, &err) ? 'y' : 'n';
        if (write(ready[1], &byte, 1) == 1)
            pause();
        _exit(0);
    }
    char byte = 0, text[64];
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    assert_null(open_image(false, &err));
    snprintf(text, sizeof text, "in use by process %d (lock_test)", (int)pid);
    assert_non_null(strstr(err.text, text));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    struct block_node *node = open_image(false, &err);
    assert_non_null(node);
    block_close(node);
    close(ready[0]);
    close(ready[1]);
}

static void need(const char *tool)
{
    char command[128];
    snprintf(command, sizeof command, "command -v %s >/dev/null", tool);
    if (system(command)) {
        print_message("skipped: %s is not installed\n", tool);
        skip();
    }
}

static int tool(const char *format)
{
    char command[256];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(command, sizeof command, format, path);
#pragma GCC diagnostic pop
    return system(command);
}

/* The permissions are the same, so a reader of QEMU's tools that allows writers (raw needs no
 * stable image) may look at what we write, and nobody else may write. */
static void test_refuses_qemu(void **state)
{
    struct err err;
    need("qemu-io");
    static const char write_it[] = "qemu-io -f raw -c 'write 0 512' %s 2>&1 | grep -q lock";
    for (unsigned readonly = 0; readonly < 2; readonly++) {
        struct block_node *node = open_image(readonly, &err);
        assert_non_null(node);
        assert_int_equal(tool(write_it), 0);
        block_close(node);
    }
    assert_int_not_equal(tool(write_it), 0);
}

struct holder {
    const char *name;
    char *const *argv;
    const char *says, *answers; /* once it holds the image */
};

/* The process, and where it reads; -1: it ended, since the kernel had not given back the lock of
 * who held the image before. */
static pid_t holder_try(const struct holder *holder, int *input)
{
    int in[2], out[2];
    char text[4096] = "";
    size_t len = 0;
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (!pid) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        execvp(holder->argv[0], holder->argv);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    assert_int_equal(write(in[1], holder->says, strlen(holder->says)), strlen(holder->says));
    while (!strstr(text, holder->answers)) {
        ssize_t n = read(out[0], text + len, sizeof text - 1 - len);
        if (n <= 0) {
            close(in[1]);
            close(out[0]);
            waitpid(pid, NULL, 0);
            return -1;
        }
        len += (size_t)n;
        text[len] = 0;
    }
    close(out[0]);
    *input = in[1];
    return pid;
}

/* Starts a holder, because of which we are refused. We do not look before it has the image: our own
 * lock, for that moment, would keep it out. */
static pid_t start_holder(const struct holder *holder, int *input)
{
    struct err err;
    pid_t pid = -1;
    for (unsigned tries = 0; tries < 100 && pid < 0; tries++) {
        usleep(tries ? 100000 : 0);
        pid = holder_try(holder, input);
    }
    assert_true(pid > 0);
    assert_null(open_image(false, &err));
    assert_int_equal(err.code, EBUSY);
    char text[64];
    snprintf(text, sizeof text, "process %d (%s)", (int)pid, holder->name);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
    return pid;
}

static void stop_holder(pid_t pid, int input)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(input);
    struct err err;
    struct block_node *node = open_image(false, &err);
    assert_non_null(node);
    block_close(node);
}

static void test_refused_by_qemu_io(void **state)
{
    int input;
    struct err err;
    need("qemu-io");
    char *argv[] = { (char *)"qemu-io", (char *)"-f", (char *)"raw", path, NULL };
    const struct holder holder = { "qemu-io", argv, "read 0 512\n", "read 512/512" };
    pid_t pid = start_holder(&holder, &input);
    assert_null(open_image(true, &err));
    stop_holder(pid, input);
}

static void test_refused_by_qemu_vm(void **state)
{
    int input;
    struct err err;
    char drive[128];
    need("qemu-system-x86_64");
    snprintf(drive, sizeof drive, "file=%s,format=raw,if=virtio,readonly=on", path);
    /* clang-format off */
    char *argv[] = {
        (char *)"qemu-system-x86_64", (char *)"-nodefaults", (char *)"-display", (char *)"none",
        (char *)"-S", (char *)"-m", (char *)"64", (char *)"-accel", (char *)"tcg",
        (char *)"-qmp", (char *)"stdio", (char *)"-drive", drive, NULL };
    /* clang-format on */
    const struct holder holder = { "qemu-system-x86", argv, "{\"execute\": \"qmp_capabilities\"}",
                                   "\"return\"" };
    pid_t pid = start_holder(&holder, &input);
    struct block_node *node = open_image(true, &err); /* readers do not mind each other */
    assert_non_null(node);
    block_close(node);
    stop_holder(pid, input);
}

static int setup(void **state)
{
    log_set_level(LOG_ERROR, LOG_ERROR);
    int fd = mkstemp(path);
    return fd < 0 || ftruncate(fd, 65536) || close(fd) ? -1 : 0;
}
static int teardown(void **state) { return unlink(path); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own),
        cmocka_unit_test(test_named),
        cmocka_unit_test(test_refuses_qemu),
        cmocka_unit_test(test_refused_by_qemu_io),
        cmocka_unit_test(test_refused_by_qemu_vm),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
