/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Groups by the kernel's files: cgroup-v1/ and cgroup-v2.rst of its documentation; scopes by
 * systemd-run(1), systemctl(1) and busctl(1), which speak D-Bus for us.
 *
 * A group of version 2 without controllers is used beside those of version 1: it can be killed
 * whole (cgroup.kill).
 */
#include "daemon/cgroup.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "daemon/child.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define GUESTS_UNIT "bedplate-guests.service"

enum controller { CPU, MEMORY, IO, PIDS, TREE, CONTROLLERS };
enum version { NONE, V1, V2 };

enum {
    DIR_LEN = 1024,
    PERIOD_US = 100000,
    LOOK_MS = 20,
    GRACE_MS = 2000, /* for the processes of a VM that ended, before they are killed */
    GIVE_UP_MS = 20000,
    PROBE_MS = 3000, /* for systemd to make a scope */
};

static const struct {
    const char *name, *v1;
} controllers[] = {
    { "cpu", "cpu" }, { "memory", "memory" }, { "io", "blkio" }, { "pids", "pids" }, { "", "" }
};

/* A group that goes when it is empty. */
struct leaving {
    struct leaving *next;
    char id[40];
    uint64_t since_ns;
};

static struct {
    struct loop *loop;
    struct loop_timer *timer;
    bool systemd, user;
    enum version version[CONTROLLERS];
    char base[CONTROLLERS][DIR_LEN]; /* .../bedplate */
    char about[120], missing[200];
    unsigned scopes; /* made so far */
    struct leaving *leaving;
} host;

/* ---- what there is ---- */

/* Where this process is in a hierarchy: "cpu,cpuacct", or "" for version 2. */
static bool own_path(const char *hierarchy, char out[DIR_LEN])
{
    AUTO(file_close) FILE *file = fopen("/proc/self/cgroup", "re");
    char line[DIR_LEN + 200];
    while (file && fgets(line, sizeof line, file)) {
        char *names = strchr(line, ':'), *path = names ? strchr(++names, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        path[strcspn(path, "\n")] = 0;
        if (strcmp(names, hierarchy) == 0)
            return (size_t)snprintf(out, DIR_LEN, "%s", path) < DIR_LEN;
    }
    return false;
}

static bool has_word(const char *words, const char *word, char between)
{
    size_t len = strlen(word);
    for (const char *at = words; (at = strstr(at, word)); at += len)
        if ((at == words || at[-1] == between) && (at[len] == between || at[len] == 0))
            return true;
    return false;
}

/* The group below ours, in a hierarchy that is mounted with `root` of it at `point`. */
static bool base_make(const char *point, const char *root, const char *hierarchy, char out[DIR_LEN])
{
    char own[DIR_LEN];
    if (!own_path(hierarchy, own))
        return false;
    const char *below = strcmp(root, "/") == 0                  ? own
                        : strncmp(own, root, strlen(root)) == 0 ? own + strlen(root)
                                                                : "";
    if (strcmp(below, "/") == 0)
        below = "";
    return (size_t)snprintf(out, DIR_LEN, "%s%s/bedplate", point, below) < DIR_LEN &&
           (mkdir(out, 0755) == 0 || (errno == EEXIST && access(out, W_OK) == 0));
}

static bool file_has(const char *dir, const char *name, const char *word)
{
    char path[DIR_LEN + 64];
    AUTO(buf_fini) struct buf text = { 0 };
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (file_read(path, 4096, &text, NULL) < 0 || !text.len)
        return false;
    text.data[text.len - 1] = 0; /* its newline */
    return has_word((const char *)text.data, word, ' ');
}

static int group_write(const char *dir, const char *name, const char *text)
{
    char path[DIR_LEN + 64];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return file_write(path, text);
}

/* A group of version 2 has either processes or controllers for those below, but for the root: we
 * go into one of our own. False: others are in ours, too, and must not find themselves with
 * controllers (some would be given to them, and then no group below could have processes). */
static bool processes_leave(const char *base)
{
    char above[DIR_LEN], ours[DIR_LEN + 16], path[DIR_LEN + 32];
    AUTO(buf_fini) struct buf left = { 0 };
    snprintf(above, sizeof above, "%s", base);
    *strrchr(above, '/') = 0;
    snprintf(path, sizeof path, "%s/cgroup.type", above);
    if (access(path, F_OK) < 0)
        return true; /* the root */
    snprintf(ours, sizeof ours, "%s.daemon", base);
    if ((mkdir(ours, 0755) < 0 && errno != EEXIST) || group_write(ours, "cgroup.procs", "0") < 0)
        return false;
    snprintf(path, sizeof path, "%s/cgroup.procs", above);
    if (file_read(path, 1 << 16, &left, NULL) == 0 && !left.len)
        return true;
    (void)group_write(above, "cgroup.procs", "0");
    rmdir(ours);
    return false;
}

static void controller_enable(const char *base, const char *name)
{
    char above[DIR_LEN], word[16];
    snprintf(above, sizeof above, "%s", base);
    *strrchr(above, '/') = 0;
    snprintf(word, sizeof word, "+%s", name);
    (void)group_write(above, "cgroup.subtree_control", word);
    (void)group_write(base, "cgroup.subtree_control", word);
}

static void mount_v1(const char *point, const char *root, const char *options)
{
    for (unsigned c = 0; c < TREE; c++) {
        char own[DIR_LEN];
        if (!has_word(options, controllers[c].v1, ','))
            continue;
        /* Mounted together, they are named together: "cpu,cpuacct". */
        const char *names =
            strstr(options, "cpuacct") && c == CPU ? "cpu,cpuacct" : controllers[c].v1;
        if (base_make(point, root, own_path(names, own) ? names : controllers[c].v1, host.base[c]))
            host.version[c] = V1;
    }
}

static void mount_v2(const char *point, const char *root)
{
    if (!base_make(point, root, "", host.base[TREE]))
        return;
    host.version[TREE] = V2;
    bool offered = false; /* by the group above */
    char above[DIR_LEN];
    snprintf(above, sizeof above, "%s", host.base[TREE]);
    *strrchr(above, '/') = 0;
    for (unsigned c = 0; c < TREE; c++)
        offered |=
            host.version[c] == NONE && file_has(above, "cgroup.controllers", controllers[c].name);
    if (!offered || !processes_leave(host.base[TREE]))
        return;
    for (unsigned c = 0; c < TREE; c++) {
        if (host.version[c] != NONE)
            continue;
        controller_enable(host.base[TREE], controllers[c].name);
        if (!file_has(host.base[TREE], "cgroup.subtree_control", controllers[c].name))
            continue;
        host.version[c] = V2;
        snprintf(host.base[c], DIR_LEN, "%s", host.base[TREE]);
    }
}

/* proc(5): id parent device root point options [tags] - type source super-options */
static void mounts_look(enum version version)
{
    AUTO(file_close) FILE *file = fopen("/proc/self/mountinfo", "re");
    char line[4096], root[DIR_LEN], point[DIR_LEN], type[32], options[300];
    while (file && fgets(line, sizeof line, file)) {
        const char *rest = strstr(line, " - ");
        if (!rest || sscanf(line, "%*d %*d %*s %1023s %1023s", root, point) != 2 ||
            sscanf(rest, " - %31s %*s %299s", type, options) != 2)
            continue;
        if (version == V1 && strcmp(type, "cgroup") == 0)
            mount_v1(point, root, options);
        else if (version == V2 && strcmp(type, "cgroup2") == 0)
            mount_v2(point, root);
    }
}

/* Does systemd make scopes for us? It may run and not let us. */
static bool systemd_answers(bool user)
{
    char *const argv[] = { (char *)"/usr/bin/systemd-run",
                           (char *)(user ? "--user" : "--system"),
                           (char *)"--scope",
                           (char *)"--quiet",
                           (char *)"--collect",
                           (char *)"/bin/true",
                           NULL };
    pid_t pid;
    int status = -1;
    if (access("/run/systemd/system", F_OK) < 0 || access(argv[0], X_OK) < 0 ||
        process_spawn(argv, -1, -1, NULL, 0, &pid, NULL) < 0)
        return false;
    for (unsigned ms = 0; waitpid(pid, &status, WNOHANG) == 0; ms++) {
        if (ms == PROBE_MS)
            kill(pid, SIGKILL);
        usleep(1000);
    }
    return status == 0;
}

static const char *const io_files[] = { "blkio.weight", "blkio.bfq.weight", "io.weight",
                                        "io.bfq.weight" };

static bool io_weighs(const char *dir)
{
    bool found = false;
    for (unsigned i = 0; i < 4; i++) {
        char path[DIR_LEN + 64];
        snprintf(path, sizeof path, "%s/%s", dir, io_files[i]);
        found |= access(path, F_OK) == 0;
    }
    return found;
}

static void leaving_look(void *arg);

void cgroups_begin(struct loop *loop, bool user)
{
    char missing[80] = "", v1[80] = "", v2[80] = "";
    host.loop = loop;
    host.user = user && geteuid() != 0;
    host.systemd = systemd_answers(host.user);
    if (loop_timer_create(loop, leaving_look, NULL, &host.timer, NULL) < 0)
        abort();
    if (host.systemd) {
        snprintf(host.about, sizeof host.about, "systemd");
        log_info("VMs are limited by scopes of systemd");
        return;
    }
    mounts_look(V1);
    mounts_look(V2);
    /* Only some I/O schedulers weigh. */
    if (host.version[IO] != NONE && !io_weighs(host.base[IO]))
        host.version[IO] = NONE;
    for (unsigned c = 0; c < TREE; c++) {
        char *in = host.version[c] == V1 ? v1 : host.version[c] == V2 ? v2 : missing;
        snprintf(in + strlen(in), sizeof v1 - strlen(in), " %s", controllers[c].name);
    }
    snprintf(host.about, sizeof host.about, "%s%s%s%s%s", *v1 ? "cgroup v1:" : "", v1,
             *v1 && *v2 ? ", " : "", *v2 ? "cgroup v2:" : "", v2);
    if (*missing)
        snprintf(host.missing, sizeof host.missing,
                 "this host has no control groups for us that limit%s: VMs are not limited there",
                 missing);
    if (*host.missing)
        log_warning("%s", host.missing);
    if (*host.about)
        log_info("VMs are limited by %s", host.about);
}

void cgroups_end(void)
{
    while (host.leaving) {
        struct leaving *gone = host.leaving;
        host.leaving = gone->next;
        free(gone);
    }
    if (host.timer)
        loop_timer_destroy(TAKE(host.timer));
    for (unsigned c = 0; c < CONTROLLERS; c++)
        if (host.version[c] != NONE)
            rmdir(host.base[c]); /* stays where VMs run on */
}

const char *cgroups_about(void) { return host.about; }
const char *cgroups_missing(void) { return host.missing; }
bool cgroups_limit_cpu(void) { return host.systemd || host.version[CPU] != NONE; }
bool cgroups_weigh_io(void) { return host.systemd || host.version[IO] != NONE; }

/* ---- limits ---- */

static int number_write(const char *dir, const char *name, long long value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", value);
    return group_write(dir, name, text);
}

static long long within(long long value, long long low, long long high)
{
    return value < low ? low : value > high ? high : value;
}

static int cpu_write(const char *dir, enum version version, const struct cgroup_limits *l)
{
    char text[48];
    long long quota = (long long)l->cpu_limit * PERIOD_US / 100;
    if (version == V1) {
        int r = number_write(dir, "cpu.cfs_period_us", PERIOD_US);
        if (r == 0)
            r = number_write(dir, "cpu.cfs_quota_us", quota ? quota : -1);
        /* 1024 is usual there. */
        return r < 0 ? r
                     : number_write(dir, "cpu.shares",
                                    within((long long)l->cpu_weight * 1024 / 100, 2, 262144));
    }
    if (quota)
        snprintf(text, sizeof text, "%lld %d", quota, PERIOD_US);
    else
        snprintf(text, sizeof text, "max %d", PERIOD_US);
    int r = group_write(dir, "cpu.max", text);
    return r < 0 ? r : number_write(dir, "cpu.weight", l->cpu_weight);
}

/* In whichever file is there. Version 1 goes from 10 to 1000. */
static int io_write(const char *dir, enum version version, const struct cgroup_limits *l)
{
    long long weight = version == V1 ? within(l->io_weight, 10, 1000) : l->io_weight;
    int r = -ENOENT;
    for (unsigned i = 0; r == -ENOENT && i < 4; i++)
        r = number_write(dir, io_files[i], weight);
    return r;
}

static int limits_write(const char *id, const struct cgroup_limits *l, struct err *err)
{
    for (unsigned c = 0; c < TREE; c++) {
        char dir[DIR_LEN + 48];
        int r = 0;
        if (host.version[c] == NONE)
            continue;
        snprintf(dir, sizeof dir, "%s/%s", host.base[c], id);
        switch (c) {
        case CPU: r = cpu_write(dir, host.version[c], l); break;
        case MEMORY:
            r = number_write(dir, host.version[c] == V1 ? "memory.limit_in_bytes" : "memory.max",
                             (long long)l->memory);
            break;
        case IO: r = io_write(dir, host.version[c], l); break;
        default: r = number_write(dir, "pids.max", l->tasks); break;
        }
        if (r < 0)
            return err_errno(err, -r, "the control group %s takes no limits", dir);
    }
    return 0;
}

/* ---- scopes ---- */

static void word_add(char *words[CGROUP_WORDS], unsigned *count, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void word_add(char *words[CGROUP_WORDS], unsigned *count, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (*count + 1 >= CGROUP_WORDS || vasprintf(&words[*count], fmt, args) < 0)
        abort();
    va_end(args);
    words[++*count] = NULL;
}

/* Properties as systemd.resource-control(5) names them, each behind `option` if that is one. */
static void scope_properties(char *words[CGROUP_WORDS], unsigned *count, const char *option,
                             const struct cgroup_limits *l)
{
    char quota[24] = "";
    if (l->cpu_limit)
        snprintf(quota, sizeof quota, "%u%%", l->cpu_limit);
    word_add(words, count, "%sCPUQuota=%s", option, quota);
    word_add(words, count, "%sCPUWeight=%u", option, l->cpu_weight);
    word_add(words, count, "%sIOWeight=%u", option, l->io_weight);
    word_add(words, count, "%sMemoryMax=%llu", option, (unsigned long long)l->memory);
    word_add(words, count, "%sTasksMax=%u", option, l->tasks);
}

static void scope_words(const char *id, const struct cgroup_limits *limits,
                        char *words[CGROUP_WORDS], unsigned *count)
{
    word_add(words, count, "/usr/bin/systemd-run");
    word_add(words, count, "%s", host.user ? "--user" : "--system");
    word_add(words, count, "--scope");
    word_add(words, count, "--quiet");
    word_add(words, count, "--collect");
    word_add(words, count, "--slice=bedplate.slice");
    /* A scope of the same VM may not be gone yet. */
    word_add(words, count, "--unit=bedplate-%s-%llx.scope", id,
             (unsigned long long)monotonic_ns() + host.scopes++);
    word_add(words, count, "--property=Delegate=yes"); /* or it takes no process later */
    /* Which asks guests to shut down when it is stopped, before their scopes are. */
    word_add(words, count, "--property=Wants=" GUESTS_UNIT);
    word_add(words, count, "--property=Before=" GUESTS_UNIT);
    scope_properties(words, count, "--property=", limits);
    word_add(words, count, "--");
}

/* The unit that a process is in: the last name of its path. */
static bool scope_of(pid_t pid, char *out, size_t len)
{
    char path[40], line[DIR_LEN];
    snprintf(path, sizeof path, "/proc/%d/cgroup", (int)pid);
    AUTO(file_close) FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file)) {
        char *name = strrchr(line, '/');
        line[strcspn(line, "\n")] = 0;
        if (name && strncmp(name + 1, "bedplate-", 9) == 0 && strstr(name, ".scope"))
            return (size_t)snprintf(out, len, "%s", name + 1) < len;
    }
    return false;
}

struct asking {
    void (*done)(void *arg, const char *wrong);
    void *arg;
};

static void systemd_answered(void *arg, int status, const char *said)
{
    struct asking *asking = arg;
    asking->done(asking->arg, status == 0 ? "" : *said ? said : "systemd refuses");
    free(asking);
}

/* By such a program, whose words are freed here. */
static int systemd_ask(char *words[CGROUP_WORDS], unsigned count,
                       void (*done)(void *arg, const char *wrong), void *arg, struct err *err)
{
    static const struct child_calls calls = { .ended = systemd_answered };
    struct child *child;
    struct asking *asking = malloc(sizeof *asking);
    if (!asking)
        abort();
    *asking = (struct asking){ done, arg };
    int r = child_start(host.loop, words, &calls, asking, &child, err);
    while (count)
        free(words[--count]);
    if (r < 0)
        free(asking);
    return r;
}

static int scope_limit(pid_t pid, const struct cgroup_limits *limits,
                       void (*done)(void *arg, const char *wrong), void *arg, struct err *err)
{
    char unit[256], *words[CGROUP_WORDS];
    unsigned count = 0;
    if (!scope_of(pid, unit, sizeof unit))
        return err_set(err, ENOENT, "the VM is in no scope of systemd");
    word_add(words, &count, "/usr/bin/systemctl");
    word_add(words, &count, "%s", host.user ? "--user" : "--system");
    word_add(words, &count, "set-property");
    word_add(words, &count, "--runtime");
    word_add(words, &count, "%s", unit);
    scope_properties(words, &count, "", limits);
    int r = systemd_ask(words, count, done, arg, err);
    return r < 0 ? r : 1;
}

static void scope_added(void *arg, const char *wrong)
{
    if (*wrong)
        log_warning("%s is in no scope of systemd: %s", (char *)arg, wrong);
    free(arg);
}

/* systemctl(1) has no word for it, so busctl(1) calls org.freedesktop.systemd1(5). */
static int scope_add(const char *id, pid_t in, pid_t pid, struct err *err)
{
    static const char manager[] = "org.freedesktop.systemd1";
    char unit[256], *words[CGROUP_WORDS], *who;
    unsigned count = 0;
    if (!scope_of(in, unit, sizeof unit))
        return err_set(err, ENOENT, "the VM is in no scope of systemd");
    if (asprintf(&who, "VM %s: process %d", id, (int)pid) < 0)
        abort();
    word_add(words, &count, "/usr/bin/busctl");
    word_add(words, &count, "%s", host.user ? "--user" : "--system");
    word_add(words, &count, "call");
    word_add(words, &count, "%s", manager);
    word_add(words, &count, "/org/freedesktop/systemd1");
    word_add(words, &count, "%s.Manager", manager);
    word_add(words, &count, "AttachProcessesToUnit");
    word_add(words, &count, "ssau");
    word_add(words, &count, "%s", unit);
    word_add(words, &count, "/");
    word_add(words, &count, "1");
    word_add(words, &count, "%d", (int)pid);
    int r = systemd_ask(words, count, scope_added, who, err);
    if (r < 0)
        free(who);
    return r;
}

/* ---- groups ---- */

static void leaving_forget(const char *id)
{
    struct leaving **at = &host.leaving;
    while (*at && strcmp((*at)->id, id) != 0)
        at = &(*at)->next;
    if (!*at)
        return;
    struct leaving *gone = *at;
    *at = gone->next;
    free(gone);
}

/* Of `c`, unless another controller's is the same. */
static bool group_dir(const char *id, unsigned c, char out[DIR_LEN + 48])
{
    if (host.version[c] == NONE)
        return false;
    for (unsigned before = 0; before < c; before++)
        if (host.version[before] != NONE && strcmp(host.base[before], host.base[c]) == 0)
            return false;
    snprintf(out, DIR_LEN + 48, "%s/%s", host.base[c], id);
    return true;
}

/* Another daemon that ended may have removed what we both are in. */
static void base_again(unsigned c)
{
    if (mkdir(host.base[c], 0755) < 0 || host.version[c] != V2)
        return;
    for (unsigned other = 0; other < TREE; other++)
        if (host.version[other] == V2)
            controller_enable(host.base[other], controllers[other].name);
}

int cgroup_make(const char *id, const struct cgroup_limits *limits, char *words[CGROUP_WORDS],
                unsigned *before, struct err *err)
{
    unsigned count = 0;
    char dir[DIR_LEN + 48];
    words[0] = NULL;
    *before = 0;
    if (host.systemd) {
        scope_words(id, limits, words, &count);
        *before = count;
        return 0;
    }
    leaving_forget(id);
    for (unsigned c = 0; c < CONTROLLERS; c++) {
        if (!group_dir(id, c, dir))
            continue;
        base_again(c);
        if (mkdir(dir, 0755) < 0 && errno != EEXIST) {
            err_errno(err, errno, "cannot make the control group %s", dir);
            while (count)
                free(words[--count]);
            return -err->code;
        }
        word_add(words, &count, "--cgroup");
        word_add(words, &count, "%s", dir);
    }
    int r = limits_write(id, limits, err);
    while (r < 0 && count)
        free(words[--count]);
    return r;
}

int cgroup_limit(const char *id, pid_t pid, const struct cgroup_limits *limits,
                 void (*done)(void *arg, const char *wrong), void *arg, struct err *err)
{
    return host.systemd ? scope_limit(pid, limits, done, arg, err) : limits_write(id, limits, err);
}

static void group_add(const char *id, pid_t pid)
{
    char dir[DIR_LEN + 48], text[16];
    snprintf(text, sizeof text, "%d", (int)pid);
    for (unsigned c = 0; c < CONTROLLERS; c++)
        if (group_dir(id, c, dir) && group_write(dir, "cgroup.procs", text) < 0)
            log_warning("VM %s: process %d is not in the control group %s", id, (int)pid, dir);
}

void cgroup_add(const char *id, pid_t in, pid_t pid)
{
    struct err err;
    if (!host.systemd)
        group_add(id, pid);
    else if (scope_add(id, in, pid, &err) < 0)
        log_warning("VM %s: process %d is in no scope of systemd: %s", id, (int)pid, err.text);
}

/* ---- their end ---- */

static void group_kill(const char *dir)
{
    char path[DIR_LEN + 64];
    int pid;
    if (group_write(dir, "cgroup.kill", "1") == 0)
        return;
    snprintf(path, sizeof path, "%s/cgroup.procs", dir);
    AUTO(file_close) FILE *file = fopen(path, "re");
    while (file && fscanf(file, "%d", &pid) == 1)
        kill(pid, SIGKILL);
}

/* True: all of its groups are gone. */
static bool group_remove(const char *id, bool by_force)
{
    char dir[DIR_LEN + 48];
    bool gone = true;
    for (unsigned c = 0; c < CONTROLLERS; c++) {
        if (!group_dir(id, c, dir) || rmdir(dir) == 0 || errno == ENOENT)
            continue;
        gone = false;
        if (by_force)
            group_kill(dir);
    }
    return gone;
}

static void leaving_look(void *arg)
{
    uint64_t now = monotonic_ns();
    for (struct leaving *l = host.leaving, *next; l; l = next) {
        uint64_t ms = (now - l->since_ns) / 1000000;
        next = l->next;
        if (ms > GIVE_UP_MS)
            log_warning("VM %s: its control group cannot be removed", l->id);
        if (ms > GIVE_UP_MS || group_remove(l->id, ms > GRACE_MS))
            leaving_forget(l->id);
    }
    if (host.leaving)
        loop_timer_arm(host.timer, now + LOOK_MS * 1000000ull);
}

void cgroup_remove(const char *id)
{
    leaving_forget(id);
    if (group_remove(id, false))
        return;
    struct leaving *l = calloc(1, sizeof *l);
    if (!l)
        abort();
    snprintf(l->id, sizeof l->id, "%s", id);
    l->since_ns = monotonic_ns();
    l->next = host.leaving;
    host.leaving = l;
    loop_timer_arm(host.timer, monotonic_ns() + LOOK_MS * 1000000ull);
}
