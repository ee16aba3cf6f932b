/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bedplate-jail: puts a VM's process where it can do no harm, as far as this host lets us.
 *
 *   bedplate-jail [--cgroup DIRECTORY]... [--ids UID:GID] [--writable PATH]... [--hold N]
 *                 -- PROGRAM ...
 *
 *   --cgroup  put the program and its helpers into this control group, before they do anything
 *   --ids     ids of this host that the program shall become once it has opened its files
 *   --writable  until then it can write only what is at or below these paths; without any: all
 *   --hold    keep this descriptor as long as the program runs, whose it is not: a lock, into whose
 *             file goes our number
 *
 * Three processes: this one stays in the host's name spaces, makes those of the others, waits and
 * ends as the program does. `init` is the first process of the new process name space: it starts
 * the program and its helpers and buries the dead; when it ends, the kernel kills what is left.
 * When this one dies, init is killed, and all with it.
 *
 * To move a process into a control group makes the kernel wait for all CPUs, 10 ms and more. It
 * does not where a single thread moves itself (version 1) or a process begins there (version 2), so
 * init enters its groups like that, and what it starts is born in them.
 *
 * A user name space comes first, for root too: what the program may while it opens its files, it
 * may to files only. Root maps all its ids to themselves; others map root there to themselves here
 * and, where newuidmap lets them, one more id. Where user name spaces are refused, root makes the
 * others without; where all are, the program runs as it is, and says so.
 */
#include "jail/jail.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/confine.h"
#include "base/helper.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum {
    CGROUPS_MAX = 8,
    WRITABLE_MAX = 32,
    TIDY_S = 5, /* for what the program leaves behind, before it is killed */
    SPACES = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS,
    FAILED = 125, /* status: the program could not be run */
};

/* Whom the program shall become. */
struct ids {
    bool given;
    unsigned uid, gid;
};

/* A control group's directory, and its file that takes our number. */
struct group {
    int dir, file; /* dir -1: of version 1 */
};

struct jail {
    const char *cgroups[CGROUPS_MAX];
    struct group groups[CGROUPS_MAX];
    unsigned cgroup_count;
    const char *writable[WRITABLE_MAX];
    unsigned writable_count;
    struct ids ids; /* of the host */
    int hold;       /* -1: none */
    char **command;
};

static void say(const char *what)
{
    fprintf(stderr, "bedplate-jail: %s: %s\n", what, strerror(errno));
}

/* Not fork(): its flags. The child goes on in a copy of our memory, as after fork(). */
static pid_t clone_with(unsigned long flags)
{
    return (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, 0);
}

/* ---- control groups ---- */

/* In the host's mount name space: one in which files are open for writing would not become
 * read-only. */
static bool groups_open(struct jail *jail)
{
    char path[4200];
    for (unsigned i = 0; i < jail->cgroup_count; i++) {
        struct group *group = &jail->groups[i];
        group->dir = -1;
        snprintf(path, sizeof path, "%s/tasks", jail->cgroups[i]);
        group->file = open(path, O_WRONLY | O_CLOEXEC);
        if (group->file < 0 && errno == ENOENT) {
            group->dir = open(jail->cgroups[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
            snprintf(path, sizeof path, "%s/cgroup.procs", jail->cgroups[i]);
            group->file = open(path, O_WRONLY | O_CLOEXEC);
        }
        if (group->file < 0) {
            say(path);
            return false;
        }
    }
    return true;
}

/* clone_with(), into the group of version 2; *into: it is there. */
static pid_t clone_into_group(const struct jail *jail, unsigned long flags, bool *into)
{
    struct clone_args args = { .flags = flags | CLONE_INTO_CGROUP, .exit_signal = SIGCHLD };
    for (unsigned i = 0; i < jail->cgroup_count; i++) {
        if (jail->groups[i].dir < 0)
            continue;
        args.cgroup = (uint64_t)jail->groups[i].dir;
        *into = true; /* for the child */
        pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
        if (pid >= 0)
            return pid;
    }
    *into = false;
    return clone_with(flags);
}

/* This process, which has one thread, moves; `into`: it is in the one of version 2. */
static bool groups_join(const struct jail *jail, bool into)
{
    for (unsigned i = 0; i < jail->cgroup_count; i++)
        if (!(into && jail->groups[i].dir >= 0) && write(jail->groups[i].file, "0", 1) != 1) {
            say(jail->cgroups[i]);
            return false;
        }
    return true;
}

/* ---- the program ---- */

static void __attribute__((noreturn))
program_run(const struct jail *jail, unsigned long had, struct ids ids, int broker)
{
    static const struct {
        unsigned long flag;
        const char *name;
    } all[] = { { CLONE_NEWUSER, "user" },    { CLONE_NEWNS, "mount" }, { CLONE_NEWPID, "pid" },
                { CLONE_NEWIPC, "ipc" },      { CLONE_NEWUTS, "uts" },  { CLONE_NEWNET, "net" },
                { CLONE_NEWCGROUP, "cgroup" } };
    char spaces[64] = "", text[160];
    for (unsigned i = 0; i < ARRAY_LEN(all); i++)
        if (had & all[i].flag)
            snprintf(spaces + strlen(spaces), sizeof spaces - strlen(spaces), "%s%s",
                     *spaces ? "," : "", all[i].name);
    snprintf(text, sizeof text, "%d %d %d %s", ids.given ? (int)ids.uid : -1,
             ids.given ? (int)ids.gid : -1, broker, *spaces ? spaces : "-");
    setenv(JAIL_VARIABLE, text, 1);
    execv(jail->command[0], jail->command);
    say(jail->command[0]);
    _exit(FAILED);
}

static int status_of(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- init ---- */

/* Whoever fools a parser of images, while they are opened, shall at least write nothing else. */
static void files_protect(const struct jail *jail)
{
    struct mount_attr readonly = { .attr_set = MOUNT_ATTR_RDONLY },
                      writable = { .attr_clr = MOUNT_ATTR_RDONLY };
    if (!jail->writable_count ||
        mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, &readonly, sizeof readonly) < 0)
        return;
    for (unsigned i = 0; i < jail->writable_count; i++) {
        const char *path = jail->writable[i];
        if (mount(path, path, NULL, MS_BIND, NULL) < 0 ||
            mount_setattr(AT_FDCWD, path, 0, &writable, sizeof writable) < 0)
            say(path);
    }
}

static void too_long(int number) {}

/* Waits for the program, then for all that it left, and answers its status. */
static int bury(pid_t program)
{
    int status = 0, result = FAILED;
    sigaction(SIGALRM, &(struct sigaction){ .sa_handler = too_long }, NULL);
    for (pid_t pid; (pid = waitpid(-1, &status, 0)) > 0;) {
        if (pid != program)
            continue;
        result = status_of(status);
        alarm(TIDY_S);
    }
    return result;
}

/* The program's descriptors are its own: what it closes shall be closed. */
static void close_others(int keep) /* -1: none of them */
{
    if (keep > 3)
        syscall(SYS_close_range, 3, (unsigned)keep - 1, 0);
    syscall(SYS_close_range, keep < 3 ? 3 : (unsigned)keep + 1, ~0u, 0);
}

/* In the new name spaces, whose ids come through `go` when they are made. */
static void __attribute__((noreturn))
init_run(const struct jail *jail, unsigned long spaces, bool in_group, int go)
{
    struct ids ids;
    int pair[2];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    fd_close(jail->hold);
    if (read(go, &ids, sizeof ids) != sizeof ids) /* it gave up, or is dead */
        _exit(FAILED);
    close(go);
    if ((spaces & CLONE_NEWUSER) && (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0))
        _exit(FAILED);
    if (!groups_join(jail, in_group) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        _exit(FAILED);
    if (unshare(CLONE_NEWCGROUP) == 0)
        spaces |= CLONE_NEWCGROUP;
    files_protect(jail);
    /* Its own processes only; refused where the host hides parts of its own. */
    (void)!mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    (void)!sethostname("bedplate", 8);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
        _exit(FAILED);
    unsigned long with_net = CLONE_NEWNET;
    pid_t program = clone_with(with_net);
    if (program < 0)
        program = clone_with(with_net = 0);
    if (program == 0) {
        close(pair[0]);
        program_run(jail, spaces | with_net, ids, pair[1]);
    }
    prctl(PR_SET_NAME, "vm-init");
    if (program < 0)
        _exit(FAILED);
    close_others(pair[0]);
    fcntl(pair[0], F_SETFD, FD_CLOEXEC);
    if (ids.given)
        helper_run_as(ids.uid, ids.gid);
    while (helper_serve(pair[0])) {
    }
    close(pair[0]);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    (void)confine_capabilities();
    _exit(bury(program));
}

/* ---- ids ---- */

/* Root's: all ids that we have, each mapped to itself. */
static bool map_all(pid_t pid, const char *kind)
{
    char path[64];
    AUTO(buf_fini) struct buf ours = { 0 };
    AUTO(buf_fini) struct buf theirs = { 0 };
    snprintf(path, sizeof path, "/proc/self/%s", kind);
    if (file_read(path, 1 << 16, &ours, NULL) < 0)
        return false;
    buf_add(&ours, "", 1);
    unsigned first, count;
    int used;
    for (const char *at = (const char *)ours.data;
         sscanf(at, "%u %*u %u%n", &first, &count, &used) == 2; at += used)
        buf_printf(&theirs, "%u %u %u\n", first, first, count);
    buf_add(&theirs, "", 1);
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, kind);
    return file_write(path, (const char *)theirs.data) == 0;
}

/* newuidmap or newgidmap: root there is us here, 1 is the id that we were given. */
static bool map_by_program(const char *program, pid_t pid, unsigned ours, unsigned given)
{
    char target[16], us[16], other[16];
    int status = -1;
    snprintf(target, sizeof target, "%d", (int)pid);
    snprintf(us, sizeof us, "%u", ours);
    snprintf(other, sizeof other, "%u", given);
    pid_t child = fork();
    if (child == 0) {
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        dup2(null, 2);
        execlp(program, program, target, "0", us, "1", "1", other, "1", (char *)NULL);
        _exit(FAILED);
    }
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

/* *ids: in there. */
static bool map_ids(const struct jail *jail, pid_t pid, struct ids *ids)
{
    char name[16];
    unsigned uid = geteuid(), gid = getegid();
    *ids = jail->ids;
    if (uid == 0 && map_all(pid, "uid_map") && map_all(pid, "gid_map"))
        return true;
    *ids = (struct ids){ true, 1, 1 };
    if (jail->ids.given && map_by_program("newuidmap", pid, uid, jail->ids.uid) &&
        map_by_program("newgidmap", pid, gid, jail->ids.gid))
        return true;
    *ids = (struct ids){ 0 };
    snprintf(name, sizeof name, "%d", (int)pid);
    return confine_map_self(name, 0, uid, 0, gid);
}

/* ---- the host's side ---- */

/* Starts init in these name spaces; false: the host refuses. */
static bool init_start(const struct jail *jail, unsigned long spaces, pid_t *pid)
{
    int go[2];
    bool in_group;
    struct ids ids = jail->ids;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, go) < 0)
        return false;
    *pid = clone_into_group(jail, spaces, &in_group);
    if (*pid == 0) {
        close(go[1]);
        init_run(jail, spaces, in_group, go[0]);
    }
    close(go[0]);
    bool good = *pid > 0 && (!(spaces & CLONE_NEWUSER) || map_ids(jail, *pid, &ids)) &&
                send(go[1], &ids, sizeof ids, MSG_NOSIGNAL) == sizeof ids;
    close(go[1]);
    if (!good && *pid > 0)
        waitpid(*pid, NULL, 0);
    return good;
}

static int jail_run(struct jail *jail)
{
    pid_t pid;
    int status;
    bool root = geteuid() == 0;
    if (!groups_open(jail) || (jail->hold >= 0 && dprintf(jail->hold, "%d\n", (int)getpid()) < 0))
        return FAILED;
    if (!init_start(jail, SPACES | CLONE_NEWUSER, &pid) &&
        !(root && init_start(jail, SPACES, &pid))) {
        if (!groups_join(jail, false))
            return FAILED;
        program_run(jail, 0, root ? jail->ids : (struct ids){ 0 }, -1);
    }
    prctl(PR_SET_NAME, "vm-jail");
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    (void)confine_capabilities();
    close_others(jail->hold);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return status_of(status);
}

/* ---- start ---- */

static bool arguments_take(int argc, char **argv, struct jail *jail)
{
    static const struct option options[] = { { "cgroup", required_argument, NULL, 'c' },
                                             { "ids", required_argument, NULL, 'i' },
                                             { "writable", required_argument, NULL, 'w' },
                                             { "hold", required_argument, NULL, 'h' },
                                             { NULL, 0, NULL, 0 } };
    uint64_t number;
    for (int c; (c = getopt_long(argc, argv, "+", options, NULL)) != -1;)
        switch (c) {
        case 'c':
            if (jail->cgroup_count == CGROUPS_MAX)
                return false;
            jail->cgroups[jail->cgroup_count++] = optarg;
            break;
        case 'w':
            if (jail->writable_count == WRITABLE_MAX)
                return false;
            jail->writable[jail->writable_count++] = optarg;
            break;
        case 'i':
            jail->ids.given = sscanf(optarg, "%u:%u", &jail->ids.uid, &jail->ids.gid) == 2;
            if (!jail->ids.given || !jail->ids.uid || !jail->ids.gid)
                return false;
            break;
        case 'h':
            if (number_parse(optarg, 3, INT_MAX, &number, NULL) < 0)
                return false;
            jail->hold = (int)number;
            break;
        default: return false;
        }
    jail->command = argv + optind;
    return optind < argc;
}

int main(int argc, char **argv)
{
    struct jail jail = { .hold = -1 };
    struct rlimit none = { 0, 0 };
    if (!arguments_take(argc, argv, &jail)) {
        fprintf(stderr, "usage: bedplate-jail [--cgroup DIRECTORY]... [--ids UID:GID] [--writable "
                        "PATH]... [--hold DESCRIPTOR] -- PROGRAM ARGUMENT...\n");
        return 2;
    }
    setrlimit(RLIMIT_CORE, &none); /* a guest's memory */
    return jail_run(&jail);
}
