/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Processes that sleep, that compute, and that wait for the host. */
#include "daemon/effort.h"

#include "base/loop.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MS 1000000ull
enum { LIMIT_MS = 60000, STEP_MS = 10, TICK_MS = 10 };

/* A test that fails leaves nobody behind. */
static void end_with_parent(void) { prctl(PR_SET_PDEATHSIG, SIGKILL); }

static void sleep_on(void)
{
    for (;;)
        pause();
}

/* By a child, whose parent only waits for it. */
static void compute(void)
{
    if (fork() == 0) {
        end_with_parent();
        for (volatile unsigned n = 0;; n++) {
        }
    }
    sleep_on();
}

/* Uninterruptible, as for a disk: the parent of a process that shares its memory. */
static void wait_for_disk(void)
{
    if (vfork() == 0) {
        end_with_parent();
        sleep_on();
    }
}

/* In a group of its own, with its children. */
static pid_t begin(void (*what)(void))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setpgid(0, 0);
        end_with_parent();
        what();
        _exit(0);
    }
    setpgid(pid, pid);
    return pid;
}

static void end(pid_t pid)
{
    assert_int_equal(kill(-pid, SIGKILL), 0);
    waitpid(pid, NULL, 0);
}

static char state_of(pid_t pid)
{
    char path[40], state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%*d (%*[^)]) %c", &state), 1);
    fclose(file);
    return state;
}

/* Until it has had so much. */
static uint64_t look_until(struct effort *effort, pid_t pid, uint64_t had_ns)
{
    uint64_t had = 0;
    for (unsigned ms = 0; ms < LIMIT_MS && had < had_ns; ms += STEP_MS) {
        usleep(STEP_MS * 1000);
        had = effort_look(effort, pid);
    }
    assert_true(had >= had_ns);
    return had;
}

static void sleeping_counts(void **state)
{
    struct effort effort;
    pid_t pid = begin(sleep_on);
    effort_begin(&effort);
    look_until(&effort, pid, 100 * MS);
    end(pid);
}

static void computing_counts_as_far_as_it_came(void **state)
{
    struct effort effort;
    pid_t pid = begin(compute);
    uint64_t began = monotonic_ns();
    effort_begin(&effort);
    uint64_t had = look_until(&effort, pid, 200 * MS);
    assert_true(had <= monotonic_ns() - began + TICK_MS * MS);
    end(pid);
}

static void waiting_for_the_host_does_not_count(void **state)
{
    struct effort effort;
    pid_t pid = begin(wait_for_disk);
    for (unsigned ms = 0; ms < LIMIT_MS && state_of(pid) != 'D'; ms += STEP_MS)
        usleep(STEP_MS * 1000);
    effort_begin(&effort);
    effort_look(&effort, pid);
    usleep(100000);
    assert_int_equal(effort_look(&effort, pid), 0);
    end(pid);
}

/* It may have used hours before. */
static void the_past_does_not_count(void **state)
{
    struct effort before, after;
    pid_t pid = begin(compute);
    effort_begin(&before);
    look_until(&before, pid, 300 * MS);
    uint64_t began = monotonic_ns();
    effort_begin(&after);
    uint64_t had = effort_look(&after, pid);
    assert_true(had <= monotonic_ns() - began);
    end(pid);
}

static void without_a_process_all_time_counts(void **state)
{
    struct effort effort;
    effort_begin(&effort);
    usleep(20000);
    assert_true(effort_look(&effort, 0) >= 20 * MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sleeping_counts),
        cmocka_unit_test(computing_counts_as_far_as_it_came),
        cmocka_unit_test(waiting_for_the_host_does_not_count),
        cmocka_unit_test(the_past_does_not_count),
        cmocka_unit_test(without_a_process_all_time_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
