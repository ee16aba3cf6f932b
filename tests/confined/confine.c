/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs a command as a container would:  confine [--filter] [--bare-dev] [--user UID] COMMAND...
 *
 *   --filter    under a seccomp filter and with the capabilities of a container runtime's default
 *               profile: no io_uring, namespaces, userfaultfd, Landlock, bpf, keys, mounts, ...
 *   --bare-dev  with a /dev of its own that has what a container gets, so without /dev/kvm
 *   --user UID  as that user and group and no other group, with an empty environment
 *
 * Status 77 with a line "skip: ..." when this host refuses to let us do so, 99 when the filter does
 * not filter. Otherwise the command's.
 */
#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <seccomp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SKIP = 77, NO_FILTER = 99 };
#define ARRAY_LEN(a) (sizeof(a) / sizeof *(a))

static void __attribute__((format(printf, 1, 2), noreturn)) skip(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    printf("skip: ");
    vprintf(fmt, args);
    printf(": %s\n", strerror(errno));
    va_end(args);
    fflush(stdout);
    _exit(SKIP);
}

/* ---- /dev ---- */

static void file_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        skip("%s", path);
    close(fd);
}

/* As root a mount namespace is enough; another user gets it together with a user namespace. */
static void mounts_unshare(void)
{
    char map[64];
    unsigned uid = getuid(), gid = getgid();
    if (uid == 0) {
        if (unshare(CLONE_NEWNS) < 0)
            skip("a mount namespace is refused");
    } else {
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
            skip("a user namespace is refused");
        snprintf(map, sizeof map, "%u %u 1", uid, uid);
        file_write("/proc/self/uid_map", map);
        file_write("/proc/self/setgroups", "deny");
        snprintf(map, sizeof map, "%u %u 1", gid, gid);
        file_write("/proc/self/gid_map", map);
    }
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        skip("mounts cannot be made private");
}

static void dev_make(void)
{
    static const char *const nodes[] = { "null", "zero", "full", "random", "urandom", "tty" };
    char base[] = "/tmp/confine-XXXXXX", from[64], to[64];
    mounts_unshare();
    if (!mkdtemp(base) || mount("dev", base, "tmpfs", 0, "mode=755") < 0)
        skip("a tmpfs cannot be mounted");
    for (size_t i = 0; i < ARRAY_LEN(nodes); i++) {
        snprintf(from, sizeof from, "/dev/%s", nodes[i]);
        snprintf(to, sizeof to, "%s/%s", base, nodes[i]);
        int fd = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0 || mount(from, to, NULL, MS_BIND, NULL) < 0)
            skip("%s cannot be bound", from);
        close(fd);
    }
    snprintf(to, sizeof to, "%s/shm", base);
    if (mkdir(to, 0777) < 0 || chmod(to, 01777) < 0 || mount(base, "/dev", NULL, MS_MOVE, NULL) < 0)
        skip("/dev cannot be replaced");
    rmdir(base);
    if (access("/dev/kvm", F_OK) == 0)
        skip("/dev/kvm is still there");
}

/* ---- the filter ---- */

/* clang-format off */
static const int refused[] = {
    SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register),
    SCMP_SYS(userfaultfd), SCMP_SYS(unshare), SCMP_SYS(setns), SCMP_SYS(mount), SCMP_SYS(umount2),
    SCMP_SYS(move_mount), SCMP_SYS(open_tree), SCMP_SYS(fsopen), SCMP_SYS(fsconfig), SCMP_SYS(fsmount),
    SCMP_SYS(fspick), SCMP_SYS(mount_setattr), SCMP_SYS(pivot_root), SCMP_SYS(bpf), SCMP_SYS(perf_event_open),
    SCMP_SYS(ptrace), SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev), SCMP_SYS(kcmp),
    SCMP_SYS(keyctl), SCMP_SYS(add_key), SCMP_SYS(request_key), SCMP_SYS(mbind), SCMP_SYS(set_mempolicy),
    SCMP_SYS(get_mempolicy), SCMP_SYS(move_pages), SCMP_SYS(migrate_pages), SCMP_SYS(open_by_handle_at),
    SCMP_SYS(landlock_create_ruleset), SCMP_SYS(landlock_add_rule), SCMP_SYS(landlock_restrict_self),
    SCMP_SYS(iopl), SCMP_SYS(ioperm), SCMP_SYS(init_module), SCMP_SYS(finit_module), SCMP_SYS(delete_module),
    SCMP_SYS(kexec_load), SCMP_SYS(reboot), SCMP_SYS(swapon), SCMP_SYS(swapoff), SCMP_SYS(syslog),
    SCMP_SYS(acct), SCMP_SYS(quotactl), SCMP_SYS(settimeofday), SCMP_SYS(clock_settime), SCMP_SYS(stime),
    SCMP_SYS(lookup_dcookie), SCMP_SYS(vhangup), SCMP_SYS(fanotify_init),
};

/* What a container runtime leaves to root. */
static const unsigned kept[] = {
    CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FSETID, CAP_FOWNER, CAP_MKNOD, CAP_NET_RAW, CAP_SETGID, CAP_SETUID,
    CAP_SETFCAP, CAP_SETPCAP, CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT, CAP_KILL, CAP_AUDIT_WRITE,
};
/* clang-format on */

static void capabilities_reduce(void)
{
    capng_clear(CAPNG_SELECT_BOTH);
    if (getuid() == 0)
        for (size_t i = 0; i < ARRAY_LEN(kept); i++)
            capng_update(CAPNG_ADD,
                         (capng_type_t)(CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET),
                         kept[i]);
    if (capng_apply(getuid() == 0 ? CAPNG_SELECT_BOTH : CAPNG_SELECT_CAPS) < 0)
        skip("capabilities cannot be given up");
}

static int filter_fill(scmp_filter_ctx ctx)
{
    static const uint64_t namespaces[] = { CLONE_NEWNS,    CLONE_NEWUTS, CLONE_NEWIPC,
                                           CLONE_NEWUSER,  CLONE_NEWPID, CLONE_NEWNET,
                                           CLONE_NEWCGROUP };
    int r = 0;
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(refused); i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), refused[i], 0);
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(namespaces); i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                             SCMP_A0_64(SCMP_CMP_MASKED_EQ, namespaces[i], namespaces[i]));
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(socket), 1,
                             SCMP_A0_64(SCMP_CMP_EQ, AF_VSOCK));
    return r;
}

static void filter_install(void)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
    if (!ctx || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        skip("no new privileges");
    int r = filter_fill(ctx);
    if (r == 0)
        r = seccomp_load(ctx);
    seccomp_release(ctx);
    if (r < 0) {
        errno = -r;
        skip("seccomp is refused");
    }
    if (syscall(SYS_io_uring_setup, 0, NULL) != -1 || errno != EPERM ||
        unshare(CLONE_NEWUSER) != -1 || errno != EPERM) {
        fprintf(stderr, "confine: the filter lets things through\n");
        _exit(NO_FILTER);
    }
}

/* ---- the user ---- */

static void user_become(const char *text)
{
    char *end;
    unsigned long id = strtoul(text, &end, 10);
    if (*end || id > 65535) {
        fprintf(stderr, "confine: '%s' is no user id\n", text);
        _exit(2);
    }
    clearenv();
    if (getuid() == id)
        return;
    if (setgroups(0, NULL) < 0 || setgid((gid_t)id) < 0 || setuid((uid_t)id) < 0)
        skip("we cannot become user %lu", id);
}

int main(int argc, char **argv)
{
    bool filter = false, bare_dev = false;
    const char *user = NULL;
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        if (strcmp(argv[i], "--filter") == 0)
            filter = true;
        else if (strcmp(argv[i], "--bare-dev") == 0)
            bare_dev = true;
        else if (strcmp(argv[i], "--user") == 0 && i + 1 < argc)
            user = argv[++i];
        else
            break;
    }
    if (i >= argc || argv[i][0] == '-') {
        fprintf(stderr, "usage: confine [--filter] [--bare-dev] [--user UID] COMMAND...\n");
        return 2;
    }
    if (bare_dev)
        dev_make();
    if (user)
        user_become(user);
    if (filter) {
        capabilities_reduce();
        filter_install();
    }
    execvp(argv[i], argv + i);
    fprintf(stderr, "confine: %s: %s\n", argv[i], strerror(errno));
    return 127;
}
