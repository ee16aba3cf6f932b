/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Kernel-heavy workloads: system calls, processes, faults, clocks, threads, files. */
#define _GNU_SOURCE
#include "bench.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char path[2][4200];

static void getpid_run(uint64_t n)
{
    for (uint64_t i = 0; i < n * 10; i++)
        if (syscall(SYS_getpid) <= 0)
            bench_fail("getpid");
}

/* --- pipe_pingpong --------------------------------------------------------- */

static int to[2], from[2];
static pid_t echo;

static int pipe_setup(void)
{
    if (pipe(to) || pipe(from) || (echo = fork()) < 0)
        return SETUP_FAIL;
    if (echo == 0) {
        char c;
        close(to[1]);
        while (read(to[0], &c, 1) == 1 && write(from[1], &c, 1) == 1)
            ;
        _exit(0);
    }
    return SETUP_OK;
}

static void pipe_run(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        char c = (char)i, d = 0;
        if (write(to[1], &c, 1) != 1 || read(from[0], &d, 1) != 1 || c != d)
            bench_fail("echo");
    }
}

static void pipe_done(void)
{
    kill(echo, SIGKILL);
    waitpid(echo, NULL, 0);
}

/* --- fork ------------------------------------------------------------------- */

static void reap(pid_t p, int want)
{
    int st;
    if (p < 0 || waitpid(p, &st, 0) != p || !WIFEXITED(st) || WEXITSTATUS(st) != want)
        bench_fail("child: %s", p < 0 ? strerror(errno) : "bad exit");
}

static void fork_run(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        pid_t p = fork();
        if (p == 0)
            _exit(7);
        reap(p, 7);
    }
}

static int tool(const char *name, const char *env)
{
    const char *e = env ? getenv(env) : NULL;
    if (e && *e)
        snprintf(path[0], sizeof path[0], "%s", e);
    else
        snprintf(path[0], sizeof path[0], "%s/%s", bench_dir(), name);
    return access(path[0], X_OK) ? SETUP_SKIP : SETUP_OK;
}

static int exec_setup(void) { return tool("tiny", NULL); }

static void exec_run(uint64_t n)
{
    char *av[] = { path[0], NULL }, *ev[] = { NULL };
    for (uint64_t i = 0; i < n; i++) {
        pid_t p = fork();
        if (p == 0) {
            execve(path[0], av, ev);
            _exit(9);
        }
        reap(p, 0);
    }
}

/* --- pagefault ---------------------------------------------------------------- */

#define FAULT_PAGES 256

static void fault_run(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        size_t len = FAULT_PAGES * 4096;
        char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            bench_fail("mmap");
        madvise(p, len, MADV_NOHUGEPAGE);
        for (size_t k = 0; k < len; k += 4096) {
            if (p[k])
                bench_fail("page not zero");
            p[k] = 1;
        }
        munmap(p, len);
    }
}

/* --- clocks --------------------------------------------------------------------- */

static void clock_run(uint64_t n)
{
    struct timespec a = { 0 }, b;
    for (uint64_t i = 0; i < n * 10; i++) {
        clock_gettime(CLOCK_MONOTONIC, &b);
        if (b.tv_sec < a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec < a.tv_nsec))
            bench_fail("time went back");
        a = b;
    }
}

static void tod_run(uint64_t n)
{
    struct timeval t;
    for (uint64_t i = 0; i < n * 10; i++)
        gettimeofday(&t, NULL);
}

/* --- signals --------------------------------------------------------------------- */

static volatile sig_atomic_t got;

static void on_usr1(int s)
{
    (void)s;
    got++;
}

static void signal_run(uint64_t n)
{
    signal(SIGUSR1, on_usr1);
    got = 0;
    for (uint64_t i = 0; i < n; i++)
        kill(getpid(), SIGUSR1);
    if ((uint64_t)got != (n & 0x7fffffff))
        bench_fail("%ld of %lu signals", (long)got, (unsigned long)n);
}

/* --- two threads ------------------------------------------------------------------ */

static uint64_t shared __attribute__((aligned(64)));
static uint64_t mt_n;

static void *mt_add(void *arg)
{
    (void)arg;
    for (uint64_t i = 0; i < mt_n * 1000; i++)
        __atomic_fetch_add(&shared, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void *mt_work(void *arg)
{
    uint64_t s = (uintptr_t)arg + 1, x = 0;
    for (uint64_t i = 0; i < mt_n * 1000; i++) {
        x += rng_next(&s);
        KEEP(x);
    }
    return (void *)(uintptr_t)x;
}

/* Thread i runs on the i-th CPU this process may use, so that the result does
 * not hang on when the scheduler thinks of spreading them. */
static void two(void *(*fn)(void *), uint64_t n)
{
    static cpu_set_t may;
    pthread_t t[2];
    mt_n = n;
    if (!CPU_COUNT(&may))
        sched_getaffinity(0, sizeof may, &may);
    for (int i = 0; i < 2; i++) {
        pthread_attr_t a;
        cpu_set_t one;
        CPU_ZERO(&one);
        for (int c = 0, k = 0; c < CPU_SETSIZE; c++)
            if (CPU_ISSET(c, &may) && k++ == i % CPU_COUNT(&may))
                CPU_SET(c, &one);
        pthread_attr_init(&a);
        pthread_attr_setaffinity_np(&a, sizeof one, &one);
        if (pthread_create(&t[i], &a, fn, (void *)(uintptr_t)(i * 77 + 1)))
            bench_fail("pthread_create");
        pthread_attr_destroy(&a);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
}

static void mt_atomic_run(uint64_t n)
{
    shared = 0;
    two(mt_add, n);
    if (shared != n * 2000)
        bench_fail("lost adds");
}

static void mt_indep_run(uint64_t n) { two(mt_work, n); }

/* futex hand-off between two threads */
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cv = PTHREAD_COND_INITIALIZER;
static int turn;

static void *mt_pass(void *arg)
{
    int me = (uintptr_t)arg != 1;
    for (uint64_t i = 0; i < mt_n; i++) {
        pthread_mutex_lock(&mu);
        while (turn != me)
            pthread_cond_wait(&cv, &mu);
        turn = !me;
        pthread_cond_signal(&cv);
        pthread_mutex_unlock(&mu);
    }
    return NULL;
}

static void mt_pass_run(uint64_t n)
{
    turn = 0;
    two(mt_pass, n);
}

/* --- files on tmpfs ------------------------------------------------------------------ */

#define CHUNK 65536
#define CHUNKS 16
static char *chunk;

static int file_setup(void)
{
    chunk = malloc(2 * CHUNK);
    if (!chunk)
        return SETUP_FAIL;
    for (int i = 0; i < CHUNK; i++)
        chunk[i] = (char)(i * 31 + (i >> 8));
    snprintf(path[0], sizeof path[0], "%s/bench.%d", bench_tmp(), (int)getpid());
    return SETUP_OK;
}

static void file_run(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        int fd = open(path[0], O_RDWR | O_CREAT | O_TRUNC, 0600);
        if (fd < 0)
            bench_fail("open: %s", strerror(errno));
        for (int k = 0; k < CHUNKS; k++)
            if (write(fd, chunk, CHUNK) != CHUNK)
                bench_fail("write");
        lseek(fd, 0, SEEK_SET);
        for (int k = 0; k < CHUNKS; k++)
            if (read(fd, chunk + CHUNK, CHUNK) != CHUNK)
                bench_fail("read");
        if (memcmp(chunk, chunk + CHUNK, CHUNK))
            bench_fail("data differs");
        close(fd);
    }
}

static void file_done(void) { unlink(path[0]); }

/* --- gzip: busybox on 512 KiB of made-up text -------------------------------------------- */

#define GZ_SIZE (512u << 10)

static int gzip_setup(void)
{
    static const char *const word[16] = { "the",   "guest", "page",  "fault",   "walks",  "a",
                                          "table", "and",   "finds", "nothing", "mapped", "there",
                                          "so",    "it",    "stops", "0x7fff" };
    uint64_t s = 42;
    int r = tool("busybox", "BENCH_BUSYBOX");
    if (r)
        return r;
    snprintf(path[1], sizeof path[1], "%s/bench.%d.txt", bench_tmp(), (int)getpid());
    FILE *f = fopen(path[1], "w");
    if (!f)
        return SETUP_FAIL;
    for (size_t n = 0; n < GZ_SIZE;) {
        uint64_t x = rng_next(&s);
        n += (size_t)fprintf(f, "%s%c", word[x >> 8 & 15], (x & 15) ? ' ' : '\n');
        if ((x >> 12 & 15) == 0)
            n += (size_t)fprintf(f, "%u ", (unsigned)(x >> 20 & 0xffff));
    }
    return fclose(f) || truncate(path[1], GZ_SIZE) ? SETUP_FAIL : SETUP_OK;
}

static void gzip_run(uint64_t n)
{
    char *av[] = { "gzip", "-c", path[1], NULL }, *ev[] = { NULL };
    for (uint64_t i = 0; i < n; i++) {
        pid_t p = fork();
        if (p == 0) {
            dup2(open("/dev/null", O_WRONLY), 1);
            execve(path[0], av, ev);
            _exit(9);
        }
        reap(p, 0);
    }
}

static void gzip_done(void) { unlink(path[1]); }

const struct bench sys_benches[] = {
    { "getpid", "ops/s", 10, NULL, getpid_run, NULL },
    { "pipe_pingpong", "trips/s", 1, pipe_setup, pipe_run, pipe_done },
    { "signal", "ops/s", 1, NULL, signal_run, NULL },
    { "fork_wait", "ops/s", 1, NULL, fork_run, NULL },
    { "fork_exec", "ops/s", 1, exec_setup, exec_run, NULL },
    { "pagefault", "pages/s", FAULT_PAGES, NULL, fault_run, NULL },
    { "clock_gettime", "ops/s", 10, NULL, clock_run, NULL },
    { "gettimeofday", "ops/s", 10, NULL, tod_run, NULL },
    { "mt_atomic", "Mops/s", 2e-3, NULL, mt_atomic_run, NULL },
    { "mt_indep", "Mops/s", 2e-3, NULL, mt_indep_run, NULL },
    { "mt_handoff", "ops/s", 2, NULL, mt_pass_run, NULL },
    { "tmpfs_rw", "MB/s", 2.0 * CHUNK *CHUNKS / 1e6, file_setup, file_run, file_done },
    { "gzip", "MB/s", GZ_SIZE / 1e6, gzip_setup, gzip_run, gzip_done },
    { 0 },
};
