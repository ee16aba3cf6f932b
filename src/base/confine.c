/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The layers of confine.h, in the order in which one does not undo another. */
#include "base/confine.h"

#include "base/checked.h"
#include "base/helper.h"
#include "base/text.h"

#include <assert.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum { NOBODY = 65534, FILES_MAX = 16, FILE_MAX = 1 << 20 };

/* ---- a root of its own ---- */

/* The directories above `name`, below the working directory. */
static void root_make_parents(const char *name)
{
    char path[256];
    for (const char *slash = name; (slash = strchr(slash, '/')); slash++) {
        snprintf(path, sizeof path, "%.*s", (int)(slash - name), name);
        mkdir(path, 0755);
    }
}

static bool root_bind(const struct confine_file *file)
{
    return mkdir(file->name, 0755) == 0 &&
           mount(file->path, file->name, NULL, MS_BIND, NULL) == 0 &&
           mount(NULL, file->name, NULL,
                 MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0;
}

/* Readable by whoever we become; nobody else sees this root. */
static bool root_write(const struct confine_file *file, const struct buf *content)
{
    int fd = open(file->name, O_CREAT | O_WRONLY | O_CLOEXEC, 0444);
    bool good =
        fd >= 0 && fchmod(fd, 0444) == 0 && write_full(fd, content->data, content->len) == 0;
    fd_close(fd);
    return good;
}

/* Into a new, empty directory that is going to be the root. Whether the host lets us. */
static bool root_begin(const char *name)
{
    /* Directories are bound from where they are now, before anything covers them. */
    return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount(name, "/proc", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
                 "mode=755,size=4m,nr_inodes=64") == 0 &&
           chdir("/proc") == 0;
}

/* The working directory becomes the root, and nothing else is left. */
static bool root_enter(void)
{
    /* A root that is no mount (an initramfs, a chroot) cannot be pivoted. */
    if (!syscall(SYS_pivot_root, ".", "."))
        umount2(".", MNT_DETACH);
    else if (chroot(".") < 0)
        return false;
    mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
          NULL);
    return chdir("/") == 0;
}

bool confine_empty_root(const char *name) { return root_begin(name) && root_enter(); }

static bool confine_root(const struct confine_plan *plan, const struct buf *contents)
{
    if (!root_begin(plan->name))
        return false;
    for (unsigned i = 0; i < plan->file_count; i++) {
        const struct confine_file *file = &plan->files[i];
        root_make_parents(file->name);
        if (file->directory ? !root_bind(file) : !root_write(file, &contents[i]))
            return false;
    }
    return root_enter();
}

bool confine_map_self(const char *pid, uid_t uid, uid_t host_uid, gid_t gid, gid_t host_gid)
{
    char path[64], map[64];
    snprintf(path, sizeof path, "/proc/%s/setgroups", pid);
    (void)file_write(path, "deny");
    snprintf(path, sizeof path, "/proc/%s/uid_map", pid);
    snprintf(map, sizeof map, "%u %u 1", uid, host_uid);
    if (file_write(path, map) < 0)
        return false;
    snprintf(path, sizeof path, "/proc/%s/gid_map", pid);
    snprintf(map, sizeof map, "%u %u 1", gid, host_gid);
    return file_write(path, map) == 0;
}

/* Name spaces: as root directly, otherwise behind a user name space that maps us to ourselves. */
static bool confine_namespaces(void)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();
    if (!uid && !unshare(CLONE_NEWNS | CLONE_NEWIPC))
        return true;
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC) < 0)
        return false;
    confine_map_self("self", uid, uid, gid, gid);
    return true;
}

/* ---- Landlock ---- */

static bool landlock_allow(int rules, const char *path)
{
    struct landlock_path_beneath_attr file = {
        .allowed_access = LANDLOCK_ACCESS_FS_READ_FILE,
        .parent_fd = open(path, O_PATH | O_CLOEXEC),
    };
    bool good = file.parent_fd < 0 ||
                !syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &file, 0);
    fd_close(file.parent_fd);
    return good;
}

/* No file but those, to read. */
static bool confine_landlock(const struct confine_plan *plan, bool own_root)
{
    struct landlock_ruleset_attr all = { .handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_SYM * 2 - 1 };
    int rules = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof all, 0);
    if (rules < 0)
        return false;
    bool good = true;
    for (unsigned i = 0; good && i < plan->file_count; i++) {
        const char *path = own_root ? plan->files[i].name : plan->files[i].path;
        if (path && (!plan->files[i].directory || plan->files[i].read))
            good = landlock_allow(rules, path);
    }
    good = good && !syscall(SYS_landlock_restrict_self, rules, 0);
    close(rules);
    return good;
}

/* ---- the rest ---- */

bool confine_ids(uid_t uid, gid_t gid)
{
    (void)!setgroups(0, NULL); /* not in a user name space of somebody without privileges */
    return setresgid(gid, gid, gid) == 0 && setresuid(uid, uid, uid) == 0;
}

bool confine_capabilities(void)
{
    struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct none[2] = { 0 };
    return syscall(SYS_capset, &head, none) == 0;
}

/* Those of the VM, where whoever starts us says so. */
static void confine_helper_ids(void)
{
    unsigned uid = NOBODY, gid = NOBODY;
    const char *ids = getenv(HELPER_IDS);
    if (ids && sscanf(ids, "%u:%u", &uid, &gid) != 2)
        uid = gid = NOBODY;
    /* Refused in a user name space without that id: then seccomp has to do. */
    (void)confine_ids(uid, gid);
}

static void confine_limits(const struct confine_plan *plan)
{
    struct rlimit files = { plan->open_files, plan->open_files }, none = { 0, 0 };
    setrlimit(RLIMIT_NOFILE, &files);
    setrlimit(RLIMIT_CORE, &none);
    if (!plan->threads)
        setrlimit(RLIMIT_NPROC, &none);
}

/* clang-format off */
static const int every_program[] = {
    SCMP_SYS(read), SCMP_SYS(readv), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(close),
    SCMP_SYS(recvfrom), SCMP_SYS(recvmsg), SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(shutdown),
    SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(restart_syscall), SCMP_SYS(fcntl), SCMP_SYS(fstat),
    SCMP_SYS(newfstatat), SCMP_SYS(stat), SCMP_SYS(lseek), SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap),
    SCMP_SYS(madvise), SCMP_SYS(futex), SCMP_SYS(getrandom), SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigprocmask), SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(exit),
    SCMP_SYS(exit_group), SCMP_SYS(sigaltstack), /* sanitizers */
};
static const struct confine_call every_program_conditional[] = {
    { SCMP_SYS(openat), SCMP_A2_64(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY) },
    { SCMP_SYS(mmap), SCMP_A2_64(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) },
    { SCMP_SYS(mprotect), SCMP_A2_64(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) },
};
/* clang-format on */

int confine_allow(scmp_filter_ctx filter, const int *calls, unsigned count)
{
    int r = 0;
    for (unsigned i = 0; r == 0 && i < count; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
    return r;
}

int confine_allow_some(scmp_filter_ctx filter, const struct confine_call *calls, unsigned count)
{
    int r = 0;
    for (unsigned i = 0; r == 0 && i < count; i++)
        r = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, calls[i].call, 1, &calls[i].arg);
    return r;
}

static bool confine_seccomp(const struct confine_plan *plan)
{
    /* Anything else does not exist: libraries fall back, and an attacker gets no further. */
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    if (!filter)
        return false;
    int r = confine_allow(filter, every_program, ARRAY_LEN(every_program));
    if (r == 0)
        r = confine_allow(filter, plan->calls, plan->call_count);
    if (r == 0)
        r = confine_allow_some(filter, every_program_conditional,
                               ARRAY_LEN(every_program_conditional));
    if (r == 0)
        r = confine_allow_some(filter, plan->conditional, plan->conditional_count);
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r == 0;
}

int confine(const struct confine_plan *plan, bool *own_root, char *summary, size_t len,
            struct err *err)
{
    struct buf contents[FILES_MAX] = { 0 };
    assert(plan->file_count <= FILES_MAX);
    for (unsigned i = 0; i < plan->file_count; i++) {
        const struct confine_file *file = &plan->files[i];
        if (file->text)
            buf_add(&contents[i], file->text, strlen(file->text));
        else if (!file->directory)
            (void)file_read(file->path, FILE_MAX, &contents[i], NULL);
    }
    bool root = confine_namespaces() && confine_root(plan, contents);
    for (unsigned i = 0; i < plan->file_count; i++) {
        if (contents[i].data)
            explicit_bzero(contents[i].data, contents[i].len);
        buf_fini(&contents[i]);
    }
    confine_limits(plan);
    if (!plan->keep_ids && (root || !plan->files_are_ours) && !geteuid())
        confine_helper_ids();
    (void)confine_capabilities();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return err_errno(err, errno, "cannot renounce new privileges");
    bool landlock = confine_landlock(plan, root);
    /* Last, because changing ids cancels it; and a parent that died before has left a new one. */
    if (plan->parent)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_DUMPABLE, 0);
    if (plan->parent && getppid() != plan->parent)
        return err_set(err, ESRCH, "the process that started it is gone");
    if (!confine_seccomp(plan))
        return err_set(err, EPERM, "cannot load a seccomp filter");
    *own_root = root;
    snprintf(summary, len, "seccomp%s%s", root ? ", own root" : "", landlock ? ", Landlock" : "");
    return 0;
}
