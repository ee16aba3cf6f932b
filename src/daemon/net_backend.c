/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The far ends of network cards that a VM's process cannot open: taps, because it has no power over
 * the host's network, and all of those that are plugged in while it runs. "user" is a bedplate-net
 * of its own (docs/architecture.md), which lives as long as the VM keeps its descriptor.
 */
#include "base/helper.h"
#include "base/log.h"
#include "daemon/child.h"
#include "daemon/vms.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NET_HELPER "bedplate-net"
enum { HELPER_MS = 2000, FORWARDS_MAX = 16 };

static int tap_open(const char *name, int *out, struct err *err)
{
    struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
    AUTO(fd_close) int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_errno(err, errno, "/dev/net/tun");
    snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "%s", name);
    if (ioctl(fd, TUNSETIFF, &ifr) < 0)
        return err_errno(err, errno, "cannot attach to the tap interface %s", name);
    *out = TAKE_FD(fd);
    return 0;
}

struct child {
    pid_t pid;
    int pid_fd;
    struct loop_watch *watch;
};

static void child_ended(void *arg, unsigned events)
{
    struct child *child = arg;
    waitpid(child->pid, NULL, WNOHANG);
    loop_watch_destroy(child->watch);
    close(child->pid_fd);
    free(child);
}

/* Nothing else waits for its end. */
static void child_reap(struct loop *loop, pid_t pid)
{
    struct child *child = calloc(1, sizeof *child);
    if (!child)
        abort();
    child->pid = pid;
    child->pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (child->pid_fd < 0 || loop_watch_create(loop, child->pid_fd, LOOP_READ, child_ended, child,
                                               &child->watch, NULL) < 0)
        log_warning("the end of " NET_HELPER " %d will not be noticed", (int)pid);
}

/* ---- bedplate-net ---- */

struct net_opening {
    int fd;
    struct loop_watch *watch;
    struct loop_timer *timer;
    net_opened opened;
    void *arg;
};

void net_opening_cancel(struct net_opening *opening)
{
    if (!opening)
        return;
    if (opening->watch)
        loop_watch_destroy(opening->watch);
    if (opening->timer)
        loop_timer_destroy(opening->timer);
    fd_close(opening->fd);
    free(opening);
}
DEFINE_AUTO(struct net_opening *, net_opening_cancel)

/* Its one line is there, or its end. */
static void helper_said(void *arg, unsigned events)
{
    struct net_opening *opening = arg;
    char hello[256];
    struct err err;
    ssize_t n = recv(opening->fd, hello, sizeof hello, MSG_PEEK | MSG_DONTWAIT);
    if (n > 0 && !memchr(hello, '\n', (size_t)n) && n < (ssize_t)sizeof hello)
        return;
    int r = helper_wait(NET_HELPER, opening->fd, HELPER_MS, hello, sizeof hello, &err);
    int fd = r < 0 ? -1 : TAKE_FD(opening->fd);
    net_opened opened = opening->opened;
    arg = opening->arg;
    net_opening_cancel(opening);
    opened(arg, fd, r < 0 ? &err : NULL);
}

static void helper_late(void *arg)
{
    struct net_opening *opening = arg;
    struct err err;
    net_opened opened = opening->opened;
    arg = opening->arg;
    net_opening_cancel(opening);
    err_set(&err, ETIMEDOUT, NET_HELPER " does not answer");
    opened(arg, -1, &err);
}

static int user_open(const struct vm *vm, const json_t *forwards, net_opened opened, void *arg,
                     struct net_opening **out, struct err *err)
{
    const struct vm_ids *ids = &vm->daemon->ids;
    const char *argv[2 * FORWARDS_MAX + 1];
    unsigned n = 0;
    pid_t pid;
    AUTO(net_opening_cancel) struct net_opening *opening = calloc(1, sizeof *opening);
    if (!opening)
        abort();
    *opening = (struct net_opening){ .fd = -1, .opened = opened, .arg = arg };
    for (size_t i = 0; i < json_array_size(forwards) && i < FORWARDS_MAX; i++) {
        argv[n++] = "--hostfwd";
        argv[n++] = json_string_value(json_array_get(forwards, i));
    }
    argv[n] = NULL;
    if (vm->own_id >= 0 && geteuid() == 0)
        helper_run_as(ids->uid + (unsigned)vm->own_id, ids->gid + (unsigned)vm->own_id);
    int r = helper_start(NET_HELPER, "net", argv, false, &opening->fd, &pid, err);
    if (r < 0)
        return r;
    cgroup_add(vm->id, vm->pid, pid);
    child_reap(vm->daemon->loop, pid);
    r = loop_watch_create(vm->daemon->loop, opening->fd, LOOP_READ, helper_said, opening,
                          &opening->watch, err);
    if (r == 0)
        r = loop_timer_create(vm->daemon->loop, helper_late, opening, &opening->timer, err);
    if (r < 0)
        return r;
    loop_timer_arm(opening->timer, monotonic_ns() + HELPER_MS * 1000000ull);
    *out = TAKE(opening);
    return 0;
}

/* ---- for the other files ---- */

static const char *tap_name(const json_t *net) /* NULL: it is none */
{
    const char *backend = json_string_value(json_object_get(net, "backend"));
    return strncmp(backend, "tap:", 4) == 0 ? backend + 4 : NULL;
}

int net_backend_open(const struct vm *vm, const json_t *net, net_opened opened, void *arg, int *fd,
                     struct net_opening **opening, struct err *err)
{
    const char *tap = tap_name(net);
    *fd = -1;
    *opening = NULL;
    return tap ? tap_open(tap, fd, err)
               : user_open(vm, json_object_get(net, "hostfwd"), opened, arg, opening, err);
}

int net_taps_open(json_t *config, int *fds, unsigned room, unsigned *count, struct err *err)
{
    json_t *nets = json_object_get(config, "net");
    for (size_t i = 0; i < json_array_size(nets) && *count < room; i++) {
        json_t *net = json_array_get(nets, i);
        const char *tap = tap_name(net);
        int r = tap ? tap_open(tap, &fds[*count], err) : 0;
        if (r < 0)
            return r;
        if (tap)
            json_object_set_new(net, "backend",
                                json_sprintf("fd:%u", CHILD_FD + (unsigned)(*count)++));
    }
    return 0;
}
