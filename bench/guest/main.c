/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest benchmark kit: driver.
 *
 *   bench list                 names, one a line
 *   bench run NAME|all[,...]   run, each in its own process
 *   bench one NAME             run in this process
 *   bench mkdisk FILE MIB      write the test disk image
 *
 * Environment: BENCH_SECS (2), BENCH_TIMEOUT (120), BENCH_TMP, BENCH_BLK.
 * As PID 1 it is the guest's init.
 */
#define _GNU_SOURCE
#include "bench.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

volatile uint64_t bench_sink;

static const struct bench *const groups[] = {
    cpu_benches, mem_benches, fp_benches, jit_benches, sys_benches, blk_benches,
};
static const char *current = "?";

double bench_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

const char *bench_dir(void)
{
    static char d[4096];
    if (!d[0]) {
        ssize_t n = readlink("/proc/self/exe", d, sizeof d - 1);
        char *s = n > 0 ? strrchr(d, '/') : NULL;
        if (!s || s == d)
            strcpy(d, n > 0 ? "" : ".");
        else
            *s = 0;
    }
    return d;
}

const char *bench_tmp(void)
{
    const char *t = getenv("BENCH_TMP");
    return t && *t ? t : "/tmp";
}

/* One write per line, so that lines of several processes never mix. */
static void say(const char *fmt, ...)
{
    char b[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(b, sizeof b, fmt, ap);
    va_end(ap);
    if (n > (int)sizeof b - 1)
        n = sizeof b - 1;
    for (int off = 0; off < n;) {
        ssize_t w = write(1, b + off, n - off);
        if (w <= 0 && errno != EINTR)
            break;
        if (w > 0)
            off += w;
    }
}

void bench_fail(const char *fmt, ...)
{
    char why[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    say("BENCH %s FAIL %s\n", current, why);
    _exit(1);
}

static const struct bench *find(const char *name)
{
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (const struct bench *b = groups[g]; b->name; b++)
            if (!strcmp(b->name, name))
                return b;
    return NULL;
}

static int run_one(const char *name)
{
    const struct bench *b = find(name);
    const char *e = getenv("BENCH_SECS");
    double secs = e ? atof(e) : 2, t0, s, d;
    uint64_t n = 1, total = 0;

    if (!b) {
        say("BENCH %s FAIL unknown workload\n", name);
        return 1;
    }
    if (secs <= 0)
        secs = 2;
    current = b->name;
    int r = b->setup ? b->setup() : SETUP_OK;
    if (r == SETUP_SKIP) {
        say("BENCH %s skip\n", b->name);
        return 0;
    }
    if (r != SETUP_OK)
        bench_fail("setup: %s", strerror(errno));
    /* Fixed time: grow the batch to about 1/20 of it, never read the clock
     * more often than needed (a clock read may be costly under a VMM). */
    t0 = s = bench_now();
    for (;;) {
        b->run(n);
        double now = bench_now();
        total += n;
        d = now - s;
        s = now;
        if (now - t0 >= secs)
            break;
        if (d < secs / 40)
            n *= 2;
        else if (d > secs / 10 && n > 1)
            n /= 2;
    }
    if (b->done)
        b->done();
    double v = total * b->per / (s - t0);
    say("BENCH %s %.*f %s\n", b->name, v < 10 ? 4 : v < 1000 ? 2 : 0, v, b->unit);
    return 0;
}

static void run_child(const char *name)
{
    const char *e = getenv("BENCH_TIMEOUT");
    int limit = e ? atoi(e) : 0, st;
    double end = bench_now() + (limit > 0 ? limit : 120);
    pid_t p = fork();
    if (p == 0) {
        setpgid(0, 0);
        _exit(run_one(name));
    }
    if (p < 0) {
        say("BENCH %s FAIL fork: %s\n", name, strerror(errno));
        return;
    }
    for (;;) {
        pid_t w = waitpid(p, &st, WNOHANG);
        if (w == p)
            break;
        if (bench_now() > end) {
            kill(-p, SIGKILL);
            kill(p, SIGKILL);
            waitpid(p, &st, 0);
            say("BENCH %s FAIL timeout\n", name);
            return;
        }
        usleep(20000);
    }
    if (WIFSIGNALED(st))
        say("BENCH %s FAIL signal %d\n", name, WTERMSIG(st));
    kill(-p, SIGKILL); /* helpers left behind, if any */
}

int run_list(const char *list)
{
    char *copy = strdup(list), *save = NULL;
    const char *skip = getenv("BENCH_SKIP");
    for (char *t = strtok_r(copy, ",", &save); t; t = strtok_r(NULL, ",", &save)) {
        if (strcmp(t, "all")) {
            run_child(t);
            continue;
        }
        for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
            for (const struct bench *b = groups[g]; b->name; b++) {
                char pat[64], all[512];
                snprintf(pat, sizeof pat, ",%s,", b->name);
                snprintf(all, sizeof all, ",%s,", skip ? skip : "");
                if (!strstr(all, pat))
                    run_child(b->name);
            }
    }
    free(copy);
    return 0;
}

/* Every 8-byte word of the image holds its own offset, so reads can be checked. */
static int mkdisk(const char *file, long mib)
{
    static uint64_t buf[8192];
    int fd = open(file, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    if (fd < 0)
        return perror(file), 1;
    for (uint64_t off = 0; off < (uint64_t)mib << 20; off += sizeof buf) {
        for (size_t i = 0; i < 8192; i++)
            buf[i] = off + i * 8;
        if (write(fd, buf, sizeof buf) != sizeof buf)
            return perror(file), 1;
    }
    return close(fd) ? perror(file), 1 : 0;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (getpid() == 1)
        return init_main();
    if (argc >= 2 && !strcmp(argv[1], "list")) {
        for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
            for (const struct bench *b = groups[g]; b->name; b++)
                say("%s\n", b->name);
        return 0;
    }
    if (argc >= 3 && !strcmp(argv[1], "run"))
        return run_list(argv[2]);
    if (argc >= 3 && !strcmp(argv[1], "one"))
        return run_one(argv[2]);
    if (argc >= 4 && !strcmp(argv[1], "mkdisk"))
        return mkdisk(argv[2], atol(argv[3]));
    fprintf(stderr, "usage: bench list | run NAMES | one NAME | mkdisk FILE MIB\n");
    return 2;
}
