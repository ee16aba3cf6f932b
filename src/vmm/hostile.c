/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Each deed is done for good where it is not refused: a call that fails for its arguments would
 * prove nothing. */
#include "vmm/hostile.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "machine/machine.h"
#include "vmm/sandbox.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

static const char *told(const char *name)
{
    const char *text = getenv(name);
    return text ? text : "";
}

bool hostile_without(const char *layer) { return strstr(told("HOSTILE_WITHOUT"), layer) != NULL; }

/* ---- files ---- */

static int closed(int fd)
{
    int code = errno;
    fd_close(fd);
    errno = code;
    return fd < 0 ? -1 : 0;
}

static int do_open(void) { return closed(open(told("HOSTILE_FILE"), O_RDONLY | O_CLOEXEC)); }

static int do_openat2(void)
{
    uint64_t how[3] = { O_RDONLY | O_CLOEXEC };
    return closed((int)syscall(SYS_openat2, AT_FDCWD, told("HOSTILE_FILE"), how, sizeof how));
}

static int do_overwrite(void)
{
    return closed(open(told("HOSTILE_FILE"), O_WRONLY | O_APPEND | O_CLOEXEC));
}

static int do_create(void)
{
    char path[256];
    snprintf(path, sizeof path, "%s/made-%d", told("HOSTILE_DIRECTORY"), (int)gettid());
    return closed(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

/* Somebody's files: one for each thread. */
static int do_unlink(void)
{
    static unsigned next;
    char path[256];
    snprintf(path, sizeof path, "%s/kept-%u", told("HOSTILE_DIRECTORY"), next++);
    return unlink(path);
}

/* ---- sockets ---- */

static int do_socket(void) { return closed(socket(AF_INET, SOCK_STREAM, 0)); }
static int do_unix_socket(void) { return closed(socket(AF_UNIX, SOCK_STREAM, 0)); }

static int connect_to(int family, const struct sockaddr *addr, socklen_t len)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, addr, len) == 0)
        return closed(fd);
    closed(fd);
    return -1;
}

static int do_connect_unix(void)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s", told("HOSTILE_SOCKET"));
    return connect_to(AF_UNIX, (struct sockaddr *)&addr, sizeof addr);
}

static int do_connect_tcp(void)
{
    struct sockaddr_in addr = { .sin_family = AF_INET,
                                .sin_port = htons((uint16_t)atoi(told("HOSTILE_PORT"))),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    return connect_to(AF_INET, (struct sockaddr *)&addr, sizeof addr);
}

/* Without a socket of its own: the call itself, on one that it has. */
static int do_connect_call(void)
{
    struct sockaddr addr = { .sa_family = AF_UNSPEC };
    int fd = atoi(told("HOSTILE_DATAGRAMS"));
    return connect(fd, &addr, sizeof addr);
}

/* ---- processes ---- */

/* A child that ends at once, with 0 if `run` does not return. */
static int child_of(long pid, void (*run)(void))
{
    int status = 0;
    if (pid < 0)
        return -1;
    if (pid == 0) {
        if (run)
            run();
        _exit(run != NULL);
    }
    waitpid((pid_t)pid, &status, __WALL);
    errno = EACCES;
    return status == 0 ? 0 : -1;
}

static void run_program(void) { execl("/bin/true", "true", (char *)NULL); }

/* Where no child can be had, it would be this process that is another program then. */
static int do_exec(void)
{
    long pid = syscall(SYS_fork);
    if (pid >= 0)
        return child_of(pid, run_program);
    run_program();
    return -1;
}

static int do_fork(void) { return child_of(syscall(SYS_fork), NULL); }
static int do_clone_process(void)
{
    return child_of(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0), NULL);
}
static int do_user_space(void)
{
    return child_of(syscall(SYS_clone, SIGCHLD | CLONE_NEWUSER, 0, 0, 0, 0), NULL);
}

static pid_t victim(void) { return atoi(told("HOSTILE_PROCESS")); }

static int do_ptrace(void)
{
    pid_t pid = victim();
    if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0)
        return -1;
    ptrace(PTRACE_INTERRUPT, pid, NULL, NULL);
    waitpid(pid, NULL, __WALL);
    return (int)ptrace(PTRACE_DETACH, pid, NULL, NULL);
}

static int do_signal(void) { return kill(victim(), 0); }

static int do_see(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", (int)victim());
    return closed(open(path, O_RDONLY | O_CLOEXEC));
}

/* ---- memory and the rest ---- */

static int do_map_exec(void)
{
    void *map = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return map == MAP_FAILED ? -1 : munmap(map, 4096);
}

static int do_protect_exec(void)
{
    void *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return 0; /* plain memory must be had */
    int r = mprotect(map, 4096, PROT_READ | PROT_EXEC);
    int code = errno;
    munmap(map, 4096);
    errno = code;
    return r;
}

static int do_uring(void)
{
    struct io_uring_params params = { 0 };
    return closed((int)syscall(SYS_io_uring_setup, 8, &params));
}

/* Most hosts refuse this one to all. */
static int do_tiocsti(void) { return ioctl(0, TIOCSTI, ""); }

static int do_duplicate(void) { return closed(fcntl(0, F_DUPFD_CLOEXEC, 0)); }

static int do_receive(void)
{
    char byte;
    int r = (int)recv(atoi(told("HOSTILE_DATAGRAMS")), &byte, 1, MSG_DONTWAIT);
    return r < 0 && errno == EAGAIN ? 0 : r;
}

static const struct {
    const char *name;
    int (*run)(void);
} deeds[] = {
    { "open", do_open },
    { "openat2", do_openat2 },
    { "overwrite", do_overwrite },
    { "create", do_create },
    { "unlink", do_unlink },
    { "socket", do_socket },
    { "unix socket", do_unix_socket },
    { "connect to a unix socket", do_connect_unix },
    { "connect by TCP", do_connect_tcp },
    { "connect", do_connect_call },
    { "execve", do_exec },
    { "fork", do_fork },
    { "clone without CLONE_THREAD", do_clone_process },
    { "user name space", do_user_space },
    { "ptrace", do_ptrace },
    { "kill", do_signal },
    { "see another process", do_see },
    { "mmap with PROT_EXEC", do_map_exec },
    { "mprotect with PROT_EXEC", do_protect_exec },
    { "io_uring_setup", do_uring },
    { "TIOCSTI", do_tiocsti },
    /* What the others need. */
    { "duplicate", do_duplicate },
    { "receive", do_receive },
};

static void do_all(const char *thread)
{
    for (size_t i = 0; i < ARRAY_LEN(deeds); i++) {
        errno = 0;
        int r = deeds[i].run();
        printf("%s: %s: %s\n", thread, deeds[i].name, r < 0 ? strerrorname_np(errno) : "done");
    }
    fflush(stdout);
}

static void on_io(void *arg) { do_all("io"); }

static void *on_new_thread(void *arg)
{
    do_all("new thread");
    sandbox_lock_vcpu(); /* as the machine's do */
    do_all("vcpu");
    return NULL;
}

void hostile_run(struct machine *machine)
{
    pthread_t thread;
    do_all("main");
    machine_io_each(machine, on_io, NULL);
    if (pthread_create(&thread, NULL, on_new_thread, NULL) == 0)
        pthread_join(thread, NULL);
    else
        printf("new thread: cannot be had\n");
    fflush(stdout);
}
