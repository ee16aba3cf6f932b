/* SPDX-License-Identifier: GPL-2.0-or-later */
/* By the kernel's files for each thread, proc(5): stat and children. */
#include "daemon/effort.h"

#include "base/loop.h"
#include "base/text.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STAT_LEN = 1024, CHILDREN_LEN = 4096, DEPTH_MAX = 8 };

struct look {
    uint64_t ticks; /* of CPU time, all of them */
    bool waits;     /* one waits for a CPU (or has it), or for a disk */
};

static void processes_look(pid_t pid, unsigned depth, struct look *look);

/* The fields behind the name, which may hold anything: state, ten more, utime, stime. */
static void thread_stat(const char *dir, struct look *look)
{
    char path[80], state;
    unsigned long long user, system;
    AUTO(buf_fini) struct buf text = { 0 };
    snprintf(path, sizeof path, "%s/stat", dir);
    if (file_read(path, STAT_LEN, &text, NULL) < 0)
        return;
    buf_add(&text, "", 1);
    const char *rest = strrchr((const char *)text.data, ')');
    if (!rest || sscanf(rest + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &state,
                        &user, &system) != 3)
        return;
    look->ticks += user + system;
    look->waits |= state == 'R' || state == 'D';
}

static void thread_children(const char *dir, unsigned depth, struct look *look)
{
    char path[80];
    AUTO(buf_fini) struct buf text = { 0 };
    snprintf(path, sizeof path, "%s/children", dir);
    if (depth == DEPTH_MAX || file_read(path, CHILDREN_LEN, &text, NULL) < 0)
        return;
    buf_add(&text, "", 1);
    char *at = (char *)text.data, *end;
    for (long child; (child = strtol(at, &end, 10)) > 0 && end != at; at = end)
        processes_look((pid_t)child, depth + 1, look);
}

/* All threads of a process, and its descendants. One that ends meanwhile is left out. */
static void processes_look(pid_t pid, unsigned depth, struct look *look)
{
    char dir[64];
    snprintf(dir, sizeof dir, "/proc/%d/task", (int)pid);
    DIR *threads = opendir(dir);
    for (struct dirent *entry; threads && (entry = readdir(threads));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(dir, sizeof dir, "/proc/%d/task/%.20s", (int)pid, entry->d_name);
        thread_stat(dir, look);
        thread_children(dir, depth, look);
    }
    if (threads)
        closedir(threads);
}

void effort_begin(struct effort *effort) { *effort = (struct effort){ .seen_ns = monotonic_ns() }; }

uint64_t effort_look(struct effort *effort, pid_t pid)
{
    struct look look = { 0 };
    uint64_t now = monotonic_ns(), past = now - effort->seen_ns;
    if (pid)
        processes_look(pid, 0, &look);
    uint64_t cpu_ns = look.ticks * (1000000000ull / (uint64_t)sysconf(_SC_CLK_TCK));
    /* A process that ended takes its CPU time along. */
    uint64_t used = effort->known && cpu_ns > effort->cpu_ns ? cpu_ns - effort->cpu_ns : 0;
    effort->had_ns += look.waits ? used : past;
    effort->seen_ns = now;
    effort->cpu_ns = cpu_ns;
    effort->known = pid != 0;
    return effort->had_ns;
}
