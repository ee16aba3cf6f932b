/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The filter answers EPERM to what it does not know: libraries ask for things in passing (locale
 * files, CPU counts), and a guest must not be able to end the process by provoking one of them.
 */
#include "vmm/sandbox.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/confine.h"
#include "base/log.h"
#include "vmm/hostile.h"

#include <asm/prctl.h>
#include <cap-ng.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* ---- capabilities ---- */

void sandbox_begin(struct sandbox *out)
{
    jail_begin(&out->jail);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (capng_get_caps_process() < 0 || capng_have_capabilities(CAPNG_SELECT_CAPS) == CAPNG_NONE)
        return;
    /* Opening somebody else's image, making a tap interface, and naming the process that holds an
     * image: the descriptors of a root with more capabilities are shown to nobody with fewer. The
     * rest is for jail_lock() and for the keeper and helpers in a jail, whose root goes. */
    static const unsigned keep[] = { CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_ADMIN,
                                     CAP_SYS_PTRACE,   CAP_SYS_ADMIN,       CAP_SYS_CHROOT,
                                     CAP_SETUID,       CAP_SETGID };
    enum { WITHOUT_JAIL = 4 };
    bool had[ARRAY_LEN(keep)];
    for (size_t i = 0; i < ARRAY_LEN(keep); i++)
        had[i] =
            capng_have_capability(CAPNG_PERMITTED, keep[i]) && (out->jail.in || i < WITHOUT_JAIL);
    capng_clear(CAPNG_SELECT_BOTH);
    for (size_t i = 0; i < ARRAY_LEN(keep); i++)
        if (had[i])
            capng_update(CAPNG_ADD, (capng_type_t)(CAPNG_EFFECTIVE | CAPNG_PERMITTED), keep[i]);
    if (capng_apply(CAPNG_SELECT_CAPS) < 0)
        log_info("sandbox: capabilities cannot be given up");
}

static bool capabilities_drop(void)
{
    capng_clear(CAPNG_SELECT_BOTH);
    capng_apply(CAPNG_SELECT_CAPS);
    return capng_get_caps_process() == 0 &&
           capng_have_capabilities(CAPNG_SELECT_CAPS) == CAPNG_NONE;
}

/* ---- Landlock ---- */

/* A ruleset that handles everything the kernel knows and allows nothing: what is open stays usable.
 */
static bool landlock_lock(void)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1)
        return false;
    /* linux/landlock.h: 13 rights in version 1, then REFER (2), TRUNCATE (3), IOCTL_DEV (5) is left
     * alone: it would concern terminals and KVM opened later only. Version 4 adds TCP. */
    struct {
        uint64_t fs, net;
    } attr = { .fs = (1u << 13) - 1 };
    if (abi >= 2)
        attr.fs |= 1u << 13;
    if (abi >= 3)
        attr.fs |= 1u << 14;
    if (abi >= 4)
        attr.net = 3;
    AUTO(fd_close)
    int fd = (int)syscall(SYS_landlock_create_ruleset, &attr, abi >= 4 ? 16 : 8, 0);
    return fd >= 0 && syscall(SYS_landlock_restrict_self, fd, 0) == 0;
}

void sandbox_lock_thread(struct sandbox *out)
{
    out->no_new_privs = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
    out->landlock = !hostile_without("landlock") && landlock_lock();
    out->capabilities = !hostile_without("capabilities") && capabilities_drop();
}

/* ---- seccomp ---- */

/* clang-format off */
/* For every thread. */
static const int allowed[] = {
    /* data on open descriptors */
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64), SCMP_SYS(pwrite64),
    SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(preadv2), SCMP_SYS(pwritev2), SCMP_SYS(lseek), SCMP_SYS(fstat),
    SCMP_SYS(fsync), SCMP_SYS(fdatasync), SCMP_SYS(close),
    /* waiting, time, threads */
    SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_ctl), SCMP_SYS(poll), SCMP_SYS(ppoll),
    SCMP_SYS(futex), SCMP_SYS(timerfd_settime), SCMP_SYS(timerfd_create), SCMP_SYS(eventfd2),
    SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep), SCMP_SYS(gettimeofday), SCMP_SYS(time),
    SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity), SCMP_SYS(getcpu), SCMP_SYS(membarrier),
    SCMP_SYS(gettid), SCMP_SYS(getpid), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(getrandom),
    SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack),
    SCMP_SYS(rt_sigtimedwait), SCMP_SYS(restart_syscall), SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(wait4),
    /* memory */
    SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise),
};

/* For those that run no guest. */
static const int allowed_others[] = {
    SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(fstatfs), SCMP_SYS(io_uring_enter),
    /* sockets that are there, or that connect to us */
    SCMP_SYS(accept4), SCMP_SYS(recvmsg), SCMP_SYS(recvfrom), SCMP_SYS(sendmsg), SCMP_SYS(sendto),
    SCMP_SYS(recvmmsg), SCMP_SYS(sendmmsg), SCMP_SYS(shutdown), SCMP_SYS(getsockopt),
};

/* Calls with an argument that is looked at: (arg & mask) == value. Several rows of one call: any of them. */
static const struct confine_call conditional[] = {
    { SCMP_SYS(mmap), SCMP_A2_64(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) },
    { SCMP_SYS(mprotect), SCMP_A2_64(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) },
    { SCMP_SYS(clone), SCMP_A0_64(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD) },
    { SCMP_SYS(newfstatat), SCMP_A3_64(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH) },
    { SCMP_SYS(prctl), SCMP_A0_64(SCMP_CMP_EQ, PR_SET_NAME) },
    { SCMP_SYS(arch_prctl), SCMP_A0_64(SCMP_CMP_EQ, ARCH_SET_GS) }, /* soft, without FSGSBASE */
    { SCMP_SYS(fcntl), SCMP_A1_64(SCMP_CMP_EQ, F_GETFL) },
    { SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_EQ, 0x400454d0) },       /* TUNSETOFFLOAD */
};
static const struct confine_call conditional_others[] = {
    { SCMP_SYS(seccomp), SCMP_A0_64(SCMP_CMP_EQ, SECCOMP_SET_MODE_FILTER) }, /* sandbox_lock_vcpu */
    { SCMP_SYS(fcntl), SCMP_A1_64(SCMP_CMP_EQ, F_SETFL) },
    { SCMP_SYS(fcntl), SCMP_A1_64(SCMP_CMP_EQ, F_SETFD) }, /* of a descriptor that device-add brings */
    { SCMP_SYS(fcntl), SCMP_A1_64(SCMP_CMP_EQ, F_DUPFD_CLOEXEC) }, /* images that come as descriptors */
    { SCMP_SYS(fcntl), SCMP_A1_64(SCMP_CMP_EQ, F_OFD_SETLK) },
    { SCMP_SYS(fcntl), SCMP_A1_64(SCMP_CMP_EQ, F_OFD_GETLK) },
    { SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_EQ, TCGETS) },
    { SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_EQ, TCSETS) },
    { SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_EQ, TIOCGWINSZ) },
    { SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_EQ, 0x1268) },           /* BLKSSZGET */
    { SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_EQ, 0x80081272) },       /* BLKGETSIZE64 */
    { SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_EQ, 0x1277) },           /* BLKDISCARD */
    { SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_EQ, 0x127f) },           /* BLKZEROOUT */
};
/* clang-format on */

enum { KVM_IOCTL_TYPE = 0xae }; /* linux/kvm.h: KVMIO, bits 8 to 15 of each of its requests */

static int filter_fill(scmp_filter_ctx ctx, const char *engine, bool others)
{
    int r = confine_allow(ctx, allowed, ARRAY_LEN(allowed));
    if (r == 0)
        r = confine_allow_some(ctx, conditional, ARRAY_LEN(conditional));
    if (r == 0 && others)
        r = confine_allow(ctx, allowed_others, ARRAY_LEN(allowed_others));
    if (r == 0 && others)
        r = confine_allow_some(ctx, conditional_others, ARRAY_LEN(conditional_others));
    /* Its flags lie in memory, where a filter cannot look; the C library takes clone then. */
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    /* Signals to our own threads. */
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                             SCMP_A0_64(SCMP_CMP_EQ, (uint64_t)getpid()));
    if (r == 0 && strcmp(engine, "kvm") == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                             SCMP_A1_64(SCMP_CMP_MASKED_EQ, 0xff00, KVM_IOCTL_TYPE << 8));
    return r;
}

/* vCPU threads come later, when libseccomp could not do what it wants to: they load this. */
static struct sock_fprog vcpu_filter; /* fixed at the lock; .len 0: there is none */

static int vcpu_filter_keep(scmp_filter_ctx ctx)
{
    enum { FILTER_MAX = BPF_MAXINSNS * sizeof(struct sock_filter) };
    AUTO(fd_close) int fd = memfd_create("vcpu-filter", MFD_CLOEXEC);
    struct sock_filter *program = malloc(FILTER_MAX);
    int r = fd < 0 || !program ? -ENOMEM : seccomp_export_bpf(ctx, fd);
    ssize_t n = r == 0 ? pread(fd, program, FILTER_MAX, 0) : 0;
    if (n <= 0) {
        free(program);
        return r < 0 ? r : -EIO;
    }
    vcpu_filter.filter = program; /* for the life of the process */
    vcpu_filter.len = (unsigned short)((size_t)n / sizeof *program);
    return 0;
}

static int filter_make(const char *engine, bool others)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (!ctx)
        return -ENOMEM;
    int r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, others);
    if (r == 0)
        r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE,
                             2); /* a binary tree: the filter runs on every call */
    if (r == 0)
        r = filter_fill(ctx, engine, others);
    if (r == 0)
        r = others ? seccomp_load(ctx) : vcpu_filter_keep(ctx);
    seccomp_release(ctx);
    return r;
}

int sandbox_filter(const char *engine, struct sandbox *out, struct err *err)
{
    if (hostile_without("seccomp"))
        return 0;
    int r = filter_make(engine, false);
    if (r == 0)
        r = filter_make(engine, true);
    out->seccomp = r == 0;
    return r < 0 ? err_errno(err, -r, "seccomp") : 0;
}

void sandbox_lock_vcpu(void)
{
    if (vcpu_filter.len && syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &vcpu_filter) < 0)
        log_warning("sandbox: a vCPU's thread has the filter of the others");
}

void sandbox_print(const struct sandbox *s, char out[SANDBOX_TEXT])
{
    const struct {
        bool on;
        const char *name;
    } layers[] = { { s->seccomp, "seccomp" },
                   { s->landlock, "Landlock" },
                   { s->capabilities, "no capabilities" },
                   { s->no_new_privs, "no new privileges" },
                   { s->jail.own_ids, "a user of its own" },
                   { s->jail.empty_root, "an empty root" } };
    enum { WITHOUT_JAIL = 4 };
    size_t count = s->jail.in ? ARRAY_LEN(layers) : WITHOUT_JAIL, at = 0;
    for (size_t i = 0; i < count; i++)
        at += (size_t)snprintf(out + at, SANDBOX_TEXT - at, "%s%s%s", i ? ", " : "",
                               layers[i].on ? "" : "without: ", layers[i].name);
    if (s->jail.in)
        snprintf(out + at, SANDBOX_TEXT - at, ", %s%s",
                 *s->jail.spaces ? "name spaces: " : "without: name spaces", s->jail.spaces);
}
