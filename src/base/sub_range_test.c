/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tests of sub_range: whose line it is, and lines that are none. */
#include "base/sub_range.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

/* In a file that has our number between these. */
static bool find(const char *before, const char *behind, unsigned *first, unsigned *count)
{
    char path[64];
    int fd = memfd_create("sub_range", MFD_CLOEXEC);
    assert_true(fd >= 0);
    dprintf(fd, "%s%u%s", before, (unsigned)geteuid(), behind);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    bool found = sub_range(path, first, count);
    close(fd);
    return found;
}

static void ours_is_found(void **state)
{
    unsigned first, count;
    assert_true(find("nobody-else:1:2\n", ":300000:65536\nnobody-else:3:4\n", &first, &count));
    assert_int_equal(first, 300000);
    assert_int_equal(count, 65536);
}

static void others_are_not(void **state)
{
    unsigned first, count;
    assert_false(find("nobody-else:1:2\n", "1:1:2\n", &first, &count));
    assert_false(find("", "\n", &first, &count));
    assert_false(find("", ":5\n", &first, &count));
    assert_false(find("", ":5:0\n:1:2\n", &first, &count));
    assert_false(sub_range("/nonexistent", &first, &count));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ours_is_found),
        cmocka_unit_test(others_are_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
