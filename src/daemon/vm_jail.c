/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a VM's process is kept from the host: by bedplate-jail, with a user id that no other VM that
 * runs has, in a control group of its own.
 *
 * The ids are a range of the host's (--vm-ids), or the user's first range in /etc/subuid and
 * /etc/subgid. Which one a VM has is kept in its run directory while it runs.
 */
#include "base/log.h"
#include "base/sub_range.h"
#include "base/text.h"
#include "daemon/child.h"
#include "daemon/vms.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    /* Above those that containers are given, below those that are taken for negative numbers. */
    IDS_FIRST = 2130706432,
    IDS_COUNT = 65536,
    /* Beside the guest's memory: code caches, tables, buffers of disks, helpers. */
    OVERHEAD_MIB = 512,
    OVERHEAD_SHARE = 8, /* and this part of the guest's memory */
    TASKS = 256,        /* beside a thread for each vCPU */
    WRITABLE_DISKS = 24,
};

/* ---- ids ---- */

void vm_ids_begin(struct daemon *daemon)
{
    struct vm_ids *ids = &daemon->ids;
    unsigned uids = 0, gids = 0;
    if (geteuid() == 0) {
        if (!ids->count)
            *ids = (struct vm_ids){ IDS_FIRST, IDS_FIRST, IDS_COUNT };
        return;
    }
    if (access("/usr/bin/newuidmap", X_OK) == 0 && sub_range("/etc/subuid", &ids->uid, &uids) &&
        sub_range("/etc/subgid", &ids->gid, &gids))
        ids->count = uids < gids ? uids : gids;
    else
        ids->count = 0;
    if (!ids->count)
        log_warning("VMs run as you: /etc/subuid or /etc/subgid has no range for you, or the "
                    "package uidmap is missing");
}

static bool id_used(const struct vm *except, unsigned number)
{
    for (const struct vm *vm = vms_first(); vm; vm = vm->next)
        if (vm != except && vm->own_id == (int)number)
            return true;
    return false;
}

/* -1: there is none. */
static int id_choose(const struct vm *vm)
{
    for (unsigned n = 0; n < vm->daemon->ids.count; n++)
        if (!id_used(vm, n))
            return (int)n;
    return -1;
}

void vm_id_adopt(struct vm *vm)
{
    char path[PATH_MAX];
    AUTO(buf_fini) struct buf text = { 0 };
    vm_run_path(vm, "id", path);
    if (file_read(path, 16, &text, NULL) < 0)
        return;
    buf_add(&text, "", 1);
    vm->own_id = atoi((const char *)text.data);
}

static int id_keep(const struct vm *vm, struct err *err)
{
    char path[PATH_MAX], text[16];
    vm_run_path(vm, "id", path);
    AUTO(fd_close) int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int len = snprintf(text, sizeof text, "%d", vm->own_id);
    if (fd < 0 || write_full(fd, text, (size_t)len) < 0)
        return err_errno(err, errno, "cannot write %s", path);
    return 0;
}

/* ---- limits ---- */

static unsigned number_of(const json_t *json, const char *member, unsigned usual)
{
    const json_t *value = json_object_get(json, member); /* VMs of earlier versions lack it */
    return value ? (unsigned)json_integer_value(value) : usual;
}

static struct cgroup_limits limits_of(const json_t *json)
{
    uint64_t memory = (uint64_t)json_integer_value(json_object_get(json, "memory"));
    return (struct cgroup_limits){
        .cpu_limit = number_of(json, "cpu_limit", 0),
        .cpu_weight = number_of(json, "cpu_weight", 100),
        .io_weight = number_of(json, "io_weight", 100),
        .memory = memory + memory / OVERHEAD_SHARE + ((uint64_t)OVERHEAD_MIB << 20),
        .tasks = number_of(json, "cpus", 1) + TASKS,
    };
}

/* What can change while it runs; the rest is as it was started with. */
static struct cgroup_limits limits_wanted(const struct vm *vm)
{
    struct cgroup_limits limits = limits_of(vm_object(vm)->json);
    json_int_t memory = json_integer_value(json_object_get(vm->status, "memory")),
               cpus = json_integer_value(json_object_get(vm->status, "cpus"));
    AUTO(json_decref) json_t *real = json_pack("{s:I, s:I}", "memory", memory, "cpus", cpus);
    struct cgroup_limits start = limits_of(real);
    limits.memory = start.memory;
    limits.tasks = start.tasks;
    return limits;
}

static bool limits_same(const struct cgroup_limits *a, const struct cgroup_limits *b)
{
    return a->cpu_limit == b->cpu_limit && a->cpu_weight == b->cpu_weight &&
           a->io_weight == b->io_weight && a->memory == b->memory && a->tasks == b->tasks;
}

static void limits_answered(void *arg, const char *wrong)
{
    struct vm *vm = vm_find(arg);
    if (vm)
        vm_limits_done(vm, wrong);
    free(arg);
}

int vm_limits_step(struct vm *vm, struct err *err)
{
    struct cgroup_limits wanted = limits_wanted(vm);
    if (!*cgroups_about() || limits_same(&wanted, &vm->limits))
        return 0;
    char *id = strdup(vm->id);
    if (!id)
        abort();
    int r = cgroup_limit(vm->id, vm->pid, &wanted, limits_answered, id, err);
    if (r != 1)
        free(id);
    vm->limits = wanted;
    if (r < 0)
        memset(&vm->limits, 0, sizeof vm->limits);
    return r < 0 ? r : r + 1;
}

void vm_limits_tell(const struct vm *vm, json_t *now)
{
    const char *sandbox = json_string_value(json_object_get(vm->status, "sandbox"));
    const char *missing = cgroups_missing();
    char size[32], text[400];
    const struct cgroup_limits *l = &vm->limits;
    if (sandbox)
        json_object_set_new(now, "confinement", json_string(sandbox));
    if (l->tasks) {
        snprintf(text, sizeof text, "%s; memory %s, %u tasks", cgroups_about(),
                 size_print(l->memory, size, sizeof size), l->tasks);
        json_object_set_new(now, "limits", json_string(text));
    }
    if (l->tasks && cgroups_limit_cpu()) {
        json_object_set_new(now, "cpu_limit", json_integer(l->cpu_limit));
        json_object_set_new(now, "cpu_weight", json_integer(l->cpu_weight));
    }
    if (l->tasks && cgroups_weigh_io())
        json_object_set_new(now, "io_weight", json_integer(l->io_weight));
    if (*missing)
        json_object_set_new(now, "warning", json_string(missing));
}

/* A limit that the host cannot keep waits, and so does one that was refused. */
void vm_limits_pending(const struct vm *vm, const json_t *object, json_t *pending)
{
    struct cgroup_limits wanted = limits_of(object);
    static const char *const names[] = { "cpu_limit", "cpu_weight", "io_weight" };
    const unsigned usual[] = { 0, 100, 100 };
    const unsigned want[] = { wanted.cpu_limit, wanted.cpu_weight, wanted.io_weight };
    const unsigned is[] = { vm->limits.cpu_limit, vm->limits.cpu_weight, vm->limits.io_weight };
    const bool kept[] = { cgroups_limit_cpu(), cgroups_limit_cpu(), cgroups_weigh_io() };
    for (unsigned i = 0; i < 3; i++)
        if (want[i] != (vm->limits.tasks && kept[i] ? is[i] : usual[i]))
            json_array_append_new(pending, json_string(names[i]));
}

/* ---- starting and ending ---- */

static void writable_add(char *argv[], unsigned *count, const char *path)
{
    char *copy = strdup(path);
    if (!copy)
        abort();
    argv[(*count)++] = (char *)"--writable";
    argv[(*count)++] = copy;
}

/* Its own directories, and those of its disks, whose files may be several. What is a device can be
 * written anyway. */
static void writable_words(const struct vm *vm, char *argv[], unsigned *count)
{
    const json_t *disks = json_object_get(vm->config, "disk");
    char path[PATH_MAX];
    vm_run_path(vm, "", path);
    writable_add(argv, count, path);
    vm_state_path(vm, "", path);
    writable_add(argv, count, path);
    for (size_t i = 0; i < json_array_size(disks) && i < WRITABLE_DISKS; i++) {
        const json_t *disk = json_array_get(disks, i);
        const char *name = json_string_value(json_object_get(disk, "path"));
        if (!name || *name != '/' || json_is_true(json_object_get(disk, "readonly")) ||
            !realpath(name, path) || strncmp(path, "/dev/", 5) == 0)
            continue;
        char *slash = strrchr(path, '/');
        if (slash != path) /* in / itself: that file alone */
            *slash = 0;
        writable_add(argv, count, path);
    }
}

int vm_jail_start(struct vm *vm, const char *config, int errors, const int *fds, unsigned fd_count,
                  pid_t *pid, struct err *err)
{
    char *groups[CGROUP_WORDS], ids[32], hold[16];
    char *argv[CGROUP_WORDS + 14 + 2 * (WRITABLE_DISKS + 2)];
    int all[VM_FDS_MAX + 1];
    AUTO(fd_close) int lock = -1;
    const struct vm_ids *range = &vm->daemon->ids;
    unsigned before, count = 0, n = 0;
    struct cgroup_limits limits = limits_of(vm_object(vm)->json);
    int r = vm_lock_take(vm, &lock, err);
    if (r == 0)
        r = cgroup_make(vm->id, &limits, groups, &before, err);
    if (r < 0)
        return r;
    assert(fd_count <= VM_FDS_MAX);
    for (unsigned i = 0; i < fd_count; i++)
        all[i] = fds[i];
    all[fd_count] = lock;
    vm->own_id = id_choose(vm);
    r = id_keep(vm, err);
    for (; n < before; n++)
        argv[count++] = groups[n];
    argv[count++] = vm->daemon->jail;
    for (; groups[n]; n++)
        argv[count++] = groups[n];
    if (vm->own_id >= 0) {
        snprintf(ids, sizeof ids, "%u:%u", range->uid + (unsigned)vm->own_id,
                 range->gid + (unsigned)vm->own_id);
        argv[count++] = (char *)"--ids";
        argv[count++] = ids;
    }
    snprintf(hold, sizeof hold, "%u", CHILD_FD + fd_count);
    argv[count++] = (char *)"--hold";
    argv[count++] = hold;
    unsigned first = count;
    writable_words(vm, argv, &count);
    unsigned last = count;
    argv[count++] = (char *)"--";
    argv[count++] = vm->daemon->vmm;
    argv[count++] = (char *)"--config";
    argv[count++] = (char *)config;
    argv[count] = NULL;
    if (r == 0)
        r = process_spawn(argv, -1, errors, all, fd_count + 1, pid, err);
    while (n)
        free(groups[--n]);
    for (; first < last; first += 2)
        free(argv[first + 1]);
    if (r < 0) {
        vm_jail_end(vm);
        return r;
    }
    if (*cgroups_about())
        vm->limits = limits;
    return 0;
}

void vm_jail_end(struct vm *vm)
{
    vm->own_id = -1;
    memset(&vm->limits, 0, sizeof vm->limits);
    cgroup_remove(vm->id);
}

/* The first process inside, which takes all others with it; 0: there is none, or no jail. */
static pid_t jail_inside(pid_t jail)
{
    char path[64];
    AUTO(buf_fini) struct buf name = { 0 };
    AUTO(buf_fini) struct buf children = { 0 };
    snprintf(path, sizeof path, "/proc/%d/comm", (int)jail);
    if (file_read(path, 64, &name, NULL) < 0 || name.len != 8 ||
        memcmp(name.data, "vm-jail\n", 8) != 0)
        return 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)jail, (int)jail);
    if (file_read(path, 4096, &children, NULL) < 0)
        return 0;
    buf_add(&children, "", 1);
    return (pid_t)atoi((const char *)children.data);
}

int vm_jail_kill(const struct vm *vm)
{
    pid_t inside = jail_inside(vm->pid);
    return kill(inside > 0 ? inside : vm->pid, SIGKILL);
}
