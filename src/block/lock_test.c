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

static void test_refuses_qemu(void **state)
{
    struct err err;
    need("qemu-img");
    need("qemu-io");
    static const char info[] = "qemu-img info -f raw %s >/dev/null 2>&1";
    static const char write_it[] = "qemu-io -f raw -c 'write 0 512' %s 2>&1 | grep -q lock";
    assert_int_equal(tool(info), 0);
    struct block_node *node = open_image(false, &err);
    assert_non_null(node);
    assert_int_not_equal(tool(info), 0);
    assert_int_equal(tool(write_it), 0);
    block_close(node);

    node = open_image(true, &err);
    assert_int_equal(tool(info), 0);
    assert_int_equal(tool(write_it), 0);
    block_close(node);
    assert_int_not_equal(tool(write_it), 0);
}

static void qemu_holds(const char *option, bool readonly_works)
{
    int in[2], out[2];
    struct err err;
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (!pid) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        execlp("qemu-io", "qemu-io", "-f", "raw", option, path, (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    char text[256] = "";
    assert_true(read(out[0], text, sizeof text - 1) > 0); /* the prompt: it is open */
    assert_null(open_image(false, &err));
    assert_int_equal(err.code, EBUSY);
    snprintf(text, sizeof text, "process %d (qemu-io)", (int)pid);
    assert_non_null(strstr(err.text, text));
    struct block_node *node = open_image(true, &err);
    assert_int_equal(node != NULL, readonly_works);
    block_close(node);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(in[0]);
    close(in[1]);
    close(out[0]);
}

static void test_refused_by_qemu(void **state)
{
    need("qemu-io");
    qemu_holds("-n", false); /* -n: no cache; a writer */
    qemu_holds("-r", true);
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
        cmocka_unit_test(test_refused_by_qemu),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
