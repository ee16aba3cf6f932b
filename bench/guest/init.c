/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest benchmark kit: PID 1.
 *
 * Command line: bench.run=LIST (all) bench.skip=LIST bench.secs=N (2)
 *   bench.timeout=N (120) bench.idle=N (1) bench.blk=DEV (/dev/vda)
 *   bench.tty=DEV (/dev/ttyS0) bench.end=poweroff|reboot|halt
 */
#define _GNU_SOURCE
#include "bench.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

int run_list(const char *list);

static char cmdline[4096];

static int slurp(const char *path, char *b, size_t n)
{
    int fd = open(path, O_RDONLY);
    ssize_t r = fd < 0 ? -1 : read(fd, b, n - 1);
    if (fd >= 0)
        close(fd);
    b[r > 0 ? r : 0] = 0;
    return r > 0 ? 0 : -1;
}

/* value of KEY=... on the kernel command line, else def */
static const char *arg(const char *key, const char *def)
{
    static char out[8][1024];
    static int slot;
    size_t k = strlen(key);
    for (char *p = cmdline; (p = strstr(p, key)); p += k)
        if ((p == cmdline || p[-1] == ' ') && p[k] == '=') {
            char *o = out[slot++ & 7];
            size_t n = strcspn(p + k + 1, " \n");
            if (n > 1023)
                n = 1023;
            memcpy(o, p + k + 1, n);
            o[n] = 0;
            return o;
        }
    return def;
}

static double uptime(void)
{
    char b[64];
    slurp("/proc/uptime", b, sizeof b);
    return atof(b);
}

static int byname(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* load the drivers under /mod/RELEASE/ */
static void load_modules(void)
{
    struct utsname u;
    char dir[200], path[512], *names[64];
    int n = 0;
    uname(&u);
    snprintf(dir, sizeof dir, "/mod/%s", u.release);
    DIR *d = opendir(dir);
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d)) && n < 64;)
        if (strstr(e->d_name, ".ko"))
            names[n++] = strdup(e->d_name);
    closedir(d);
    qsort(names, n, sizeof *names, byname);
    /* ENOENT: a symbol of a module not loaded yet; go round again */
    for (int left = n, before = n + 1; left && left < before;) {
        before = left;
        for (int i = 0; i < n; i++) {
            snprintf(path, sizeof path, "%s/%s", dir, names[i] ? names[i] : "");
            int fd = names[i] ? open(path, O_RDONLY | O_CLOEXEC) : -1;
            if (fd < 0)
                continue;
            int e = syscall(SYS_finit_module, fd, "", 0) ? errno : 0;
            close(fd);
            if (e == ENOENT)
                continue;
            if (e && e != EEXIST)
                printf("BENCH-INFO module %s: %s\n", names[i], strerror(e));
            names[i] = NULL;
            left--;
        }
    }
    for (int i = 0; i < n; i++)
        if (names[i])
            printf("BENCH-INFO module %s: unknown symbols\n", names[i]);
}

static void info(void)
{
    char b[16384], *p;
    struct utsname u;
    uname(&u);
    printf("BENCH-INFO kernel %s cpus %ld mem_kb %ld\n", u.release, sysconf(_SC_NPROCESSORS_ONLN),
           sysconf(_SC_PHYS_PAGES) * (sysconf(_SC_PAGESIZE) / 1024));
    slurp("/proc/cpuinfo", b, sizeof b);
    if ((p = strstr(b, "model name"))) {
        p[strcspn(p, "\n")] = 0;
        printf("BENCH-INFO cpu %s\n", strchr(p, ':') ? strchr(p, ':') + 2 : p);
    }
    if (!slurp("/sys/devices/system/cpu/vulnerabilities/meltdown", b, sizeof b))
        printf("BENCH-INFO meltdown %s", b);
}

int init_main(void)
{
    mkdir("/dev", 0755);
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/tmp", 01777);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sys", "/sys", "sysfs", 0, NULL);
    mount("tmp", "/tmp", "tmpfs", 0, NULL);
    slurp("/proc/cmdline", cmdline, sizeof cmdline);

    int fd = open(arg("bench.tty", "/dev/ttyS0"), O_RDWR | O_NOCTTY);
    if (fd < 0)
        fd = open("/dev/console", O_RDWR | O_NOCTTY);
    for (int i = 0; i < 3 && fd >= 0; i++)
        dup2(fd, i);
    if (fd > 2)
        close(fd);
    setvbuf(stdout, NULL, _IOLBF, 1024);

    printf("\nBENCH boot_uptime %.2f s\n", uptime());
    info();
    load_modules();

    setenv("BENCH_SECS", arg("bench.secs", "2"), 1);
    setenv("BENCH_TIMEOUT", arg("bench.timeout", "120"), 1);
    setenv("BENCH_SKIP", arg("bench.skip", ""), 1);
    setenv("BENCH_BLK", arg("bench.blk", "/dev/vda"), 1);
    setenv("BENCH_TMP", "/tmp", 1);

    /* Two stamps: the host compares guest time with its own between them. */
    printf("BENCH-CLOCK begin %.6f\n", bench_now());
    run_list(arg("bench.run", "all"));
    printf("BENCH-CLOCK end %.6f\n", bench_now());
    char src[64];
    if (!slurp("/sys/devices/system/clocksource/clocksource0/current_clocksource", src, sizeof src))
        printf("BENCH-INFO clocksource %s", src);

    /* An idle guest: the host measures what the VMM process burns. */
    int idle = atoi(arg("bench.idle", "1"));
    if (idle > 0) {
        usleep(100000);
        printf("BENCH-IDLE begin\n");
        usleep(idle * 1000000u);
        printf("BENCH-IDLE end\n");
    }
    printf("BENCH-DONE\n");
    usleep(300000);
    sync();

    const char *end = arg("bench.end", "poweroff");
    reboot(!strcmp(end, "reboot") ? RB_AUTOBOOT
           : !strcmp(end, "halt") ? RB_HALT_SYSTEM
                                  : RB_POWER_OFF);
    for (;;)
        pause();
}
