/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The far ends of network cards that are plugged into a running VM, whose process can open none by
 * then: a tap, or a bedplate-net of its own (docs/architecture.md), which lives as long as the VM
 * keeps its descriptor.
 */
#include "base/helper.h"
#include "base/log.h"
#include "daemon/vms.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
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

static int user_open(struct loop *loop, const json_t *forwards, int *out, struct err *err)
{
    const char *argv[2 * FORWARDS_MAX + 1];
    char hello[256];
    unsigned n = 0;
    pid_t pid;
    AUTO(fd_close) int fd = -1;
    for (size_t i = 0; i < json_array_size(forwards) && i < FORWARDS_MAX; i++) {
        argv[n++] = "--hostfwd";
        argv[n++] = json_string_value(json_array_get(forwards, i));
    }
    argv[n] = NULL;
    int r = helper_start(NET_HELPER, "net", argv, false, &fd, &pid, err);
    if (r < 0)
        return r;
    child_reap(loop, pid);
    r = helper_wait(NET_HELPER, fd, HELPER_MS, hello, sizeof hello, err);
    if (r < 0)
        return r;
    *out = TAKE_FD(fd);
    return 0;
}

int net_backend_open(struct daemon *daemon, const json_t *net, int *fd, struct err *err)
{
    const char *backend = json_string_value(json_object_get(net, "backend"));
    return strncmp(backend, "tap:", 4) == 0
               ? tap_open(backend + 4, fd, err)
               : user_open(daemon->loop, json_object_get(net, "hostfwd"), fd, err);
}
