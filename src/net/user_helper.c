/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bedplate-net: user-mode networking by libslirp, in a process that holds nothing worth stealing.
 *
 * libslirp parses whatever the guest sends, so this process is confined before the first frame: no
 * new privileges, a root of its own with nothing but /etc/resolv.conf and the directory that TFTP
 * serves (or Landlock, where name spaces are refused), no capabilities, seccomp. What it needs
 * stays: sockets of the host's network name space. It ends when its VMM closes the socket pair or
 * dies.
 *
 * The resolv.conf is a copy from the start; a host that changes its DNS servers without a local
 * resolver needs a restart of the VM's network.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/confine.h"
#include "base/helper.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/text.h"
#include "net/net.h"
#include "net/reassemble.h"
#include "net/user.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <libslirp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum {
    IN_SIZE = 256 << 10,
    OUT_SIZE = 1 << 20,
    OUT_BUSY = 128 << 10, /* behind so much for the VMM, sockets have to wait */
    MAX_FILES = 4096,
    READ_BUDGET = 16,
};

struct helper {
    Slirp *slirp;
    uint8_t *in; /* from the VMM: length-prefixed frames */
    size_t in_len;
    uint8_t *out; /* to the VMM: [out_start, out_end) */
    size_t out_start, out_end;
    struct pollfd *polls; /* [0] is the VMM */
    unsigned poll_count, poll_room;
    int64_t timer_ms; /* of router advertisements; INT64_MAX: not armed */
    void *timer_arg;
    struct reassembly fragments;
};

struct settings {
    struct net_hostfwd *forwards;
    unsigned forward_count;
    bool restricted;
    const char *hostname, *tftp, *bootfile;
    pid_t parent;
};

/* ---- frames ---- */

static void out_flush(struct helper *helper)
{
    while (helper->out_start < helper->out_end) {
        ssize_t n = send(HELPER_FD, helper->out + helper->out_start,
                         helper->out_end - helper->out_start, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0)
            _exit(0); /* the VMM is gone */
        helper->out_start += (size_t)n;
    }
    helper->out_start = helper->out_end = 0;
}

static ssize_t send_packet(const void *frame, size_t len, void *opaque)
{
    struct helper *helper = opaque;
    uint32_t prefix = htonl((uint32_t)len);
    if (helper->out_start && OUT_SIZE - helper->out_end < len + sizeof prefix) {
        memmove(helper->out, helper->out + helper->out_start, helper->out_end - helper->out_start);
        helper->out_end -= helper->out_start;
        helper->out_start = 0;
    }
    if (len > NET_MAX_FRAME || OUT_SIZE - helper->out_end < len + sizeof prefix)
        return (ssize_t)len; /* dropped; TCP sends it again */
    memcpy(helper->out + helper->out_end, &prefix, sizeof prefix);
    memcpy(helper->out + helper->out_end + sizeof prefix, frame, len);
    helper->out_end += len + sizeof prefix;
    return (ssize_t)len;
}

static void in_frames(struct helper *helper)
{
    size_t at = 0;
    uint32_t prefix;
    while (helper->in_len - at >= sizeof prefix) {
        memcpy(&prefix, helper->in + at, sizeof prefix);
        prefix = ntohl(prefix);
        if (prefix > NET_MAX_FRAME)
            _exit(1);
        if (helper->in_len - at < sizeof prefix + prefix)
            break;
        const uint8_t *frame;
        size_t len;
        if (prefix >= NET_MIN_FRAME &&
            reassemble(&helper->fragments, helper->in + at + sizeof prefix, prefix, &frame, &len))
            slirp_input(helper->slirp, frame, (int)len);
        at += sizeof prefix + prefix;
    }
    memmove(helper->in, helper->in + at, helper->in_len - at);
    helper->in_len -= at;
}

static void in_read(struct helper *helper)
{
    for (unsigned i = 0; i < READ_BUDGET; i++) {
        ssize_t n =
            recv(HELPER_FD, helper->in + helper->in_len, IN_SIZE - helper->in_len, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0)
            _exit(0);
        helper->in_len += (size_t)n;
        in_frames(helper);
    }
}

/* ---- what libslirp asks of us ---- */

static void guest_error(const char *message, void *opaque)
{
    log_guest("user network: the guest sent nonsense: %s", message);
}

static int64_t clock_get_ns(void *opaque) { return (int64_t)monotonic_ns(); }

static void *timer_new_opaque(SlirpTimerId id, void *arg, void *opaque)
{
    struct helper *helper = opaque;
    helper->timer_arg = arg;
    helper->timer_ms = INT64_MAX;
    return &helper->timer_ms;
}
static void timer_free(void *timer, void *opaque) { *(int64_t *)timer = INT64_MAX; }
static void timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    *(int64_t *)timer = expire_ms;
}
static void poll_fd_ignore(int fd, void *opaque) {} /* the set is made anew each round */
static void notify(void *opaque) {}

static const SlirpCb callbacks = {
    .send_packet = send_packet,
    .guest_error = guest_error,
    .clock_get_ns = clock_get_ns,
    .timer_new_opaque = timer_new_opaque,
    .timer_free = timer_free,
    .timer_mod = timer_mod,
    .register_poll_fd = poll_fd_ignore,
    .unregister_poll_fd = poll_fd_ignore,
    .notify = notify,
};

/* clang-format off */
static const struct { int slirp; short poll; } event_bits[] = {
    { SLIRP_POLL_IN, POLLIN }, { SLIRP_POLL_OUT, POLLOUT }, { SLIRP_POLL_PRI, POLLPRI },
    { SLIRP_POLL_ERR, POLLERR }, { SLIRP_POLL_HUP, POLLHUP },
};
/* clang-format on */

static int add_poll(int fd, int events, void *opaque)
{
    struct helper *helper = opaque;
    if (helper->poll_count == helper->poll_room) {
        helper->poll_room = helper->poll_room ? 2 * helper->poll_room : 64;
        helper->polls = realloc(helper->polls, helper->poll_room * sizeof *helper->polls);
        if (!helper->polls)
            abort();
    }
    struct pollfd *p = &helper->polls[helper->poll_count];
    *p = (struct pollfd){ .fd = fd };
    for (unsigned i = 0; i < ARRAY_LEN(event_bits); i++)
        p->events = (short)(p->events | (events & event_bits[i].slirp ? event_bits[i].poll : 0));
    return (int)helper->poll_count++;
}

static int get_revents(int index, void *opaque)
{
    struct helper *helper = opaque;
    int events = 0;
    for (unsigned i = 0; i < ARRAY_LEN(event_bits); i++)
        events |= helper->polls[index].revents & event_bits[i].poll ? event_bits[i].slirp : 0;
    return events;
}

/* ---- the loop ---- */

static void helper_round(struct helper *helper)
{
    bool busy = helper->out_end - helper->out_start > OUT_BUSY;
    uint32_t timeout_ms = 60000;
    helper->poll_count = 0;
    add_poll(HELPER_FD, SLIRP_POLL_IN | (helper->out_end ? SLIRP_POLL_OUT : 0), helper);
    slirp_pollfds_fill(helper->slirp, &timeout_ms, add_poll, helper);

    int64_t now_ms = clock_get_ns(helper) / 1000000;
    if (helper->timer_ms <= now_ms)
        timeout_ms = 0;
    else if (helper->timer_ms - now_ms < timeout_ms)
        timeout_ms = (uint32_t)(helper->timer_ms - now_ms);
    for (unsigned i = 1; busy && i < helper->poll_count; i++) {
        helper->polls[i].fd = -1;
        helper->polls[i].revents = 0;
    }
    int r = poll(helper->polls, helper->poll_count, (int)timeout_ms);
    for (unsigned i = 0; r < 0 && i < helper->poll_count; i++)
        helper->polls[i].revents = 0;

    slirp_pollfds_poll(helper->slirp, r < 0, get_revents, helper);
    if (helper->timer_ms <= clock_get_ns(helper) / 1000000) {
        helper->timer_ms = INT64_MAX;
        slirp_handle_timer(helper->slirp, SLIRP_TIMER_RA, helper->timer_arg);
    }
    if (r > 0 && helper->polls[0].revents & (POLLIN | POLLHUP | POLLERR))
        in_read(helper);
    out_flush(helper);
}

/* ---- confinement ---- */

/* clang-format off */
static const int allowed_calls[] = {
    SCMP_SYS(connect), SCMP_SYS(bind), SCMP_SYS(listen), SCMP_SYS(accept), SCMP_SYS(accept4),
    SCMP_SYS(getsockname), SCMP_SYS(getpeername), SCMP_SYS(setsockopt), SCMP_SYS(getsockopt),
};
static const struct confine_call conditional_calls[] = {
    { SCMP_SYS(socket), SCMP_A0_64(SCMP_CMP_EQ, AF_INET) },
    { SCMP_SYS(socket), SCMP_A0_64(SCMP_CMP_EQ, AF_INET6) },
    { SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_EQ, FIONBIO) },
    { SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_EQ, FIONREAD) },
};
/* clang-format on */

static int helper_confine(const struct settings *settings, char *summary, size_t len,
                          struct err *err)
{
    /* The directory keeps its name, which libslirp has been told. */
    const struct confine_file files[] = {
        { "/etc/resolv.conf", "etc/resolv.conf" },
        { .path = settings->tftp,
          .name = settings->tftp ? settings->tftp + 1 : NULL,
          .directory = true,
          .read = true },
    };
    const struct confine_plan plan = {
        .name = USER_HELPER,
        .parent = settings->parent,
        .files = files,
        .file_count = settings->tftp ? 2 : 1,
        .open_files = MAX_FILES,
        .calls = allowed_calls,
        .call_count = ARRAY_LEN(allowed_calls),
        .conditional = conditional_calls,
        .conditional_count = ARRAY_LEN(conditional_calls),
    };
    bool own_root;
    return confine(&plan, &own_root, summary, len, err);
}

/* ---- start ---- */

static int slirp_start(struct helper *helper, const struct settings *settings, struct err *err)
{
    helper->in = malloc(IN_SIZE);
    helper->out = malloc(OUT_SIZE);
    if (!helper->in || !helper->out)
        return err_set(err, ENOMEM, "out of memory");
    helper->timer_ms = INT64_MAX;
    SlirpConfig config = {
        .version = 4,
        .restricted = settings->restricted,
        .in_enabled = true,
        .in6_enabled = true,
        .vprefix_len = 64,
        .vhostname = settings->hostname,
        .tftp_path = settings->tftp,
        .bootfile = settings->bootfile,
    };
    inet_pton(AF_INET, "10.0.2.0", &config.vnetwork);
    inet_pton(AF_INET, "255.255.255.0", &config.vnetmask);
    inet_pton(AF_INET, "10.0.2.2", &config.vhost);
    inet_pton(AF_INET, "10.0.2.3", &config.vnameserver);
    inet_pton(AF_INET, "10.0.2.15", &config.vdhcp_start);
    inet_pton(AF_INET6, "fec0::", &config.vprefix_addr6);
    inet_pton(AF_INET6, "fec0::2", &config.vhost6);
    inet_pton(AF_INET6, "fec0::3", &config.vnameserver6);
    helper->slirp = slirp_new(&config, &callbacks, helper);
    if (!helper->slirp)
        return err_set(err, EIO, "libslirp does not start");

    for (unsigned i = 0; i < settings->forward_count; i++) {
        struct net_hostfwd *f = &settings->forwards[i];
        if (slirp_add_hostfwd(helper->slirp, f->udp, f->host_addr, f->host_port, f->guest_addr,
                              f->guest_port) < 0) {
            char address[INET_ADDRSTRLEN];
            int code = errno;
            inet_ntop(AF_INET, &f->host_addr, address, sizeof address);
            if (code == EADDRINUSE)
                return err_set(err, code, "cannot forward %s port %s:%u: it is taken; name another",
                               f->udp ? "UDP" : "TCP", address, f->host_port);
            return err_errno(err, code, "cannot forward %s port %s:%u", f->udp ? "UDP" : "TCP",
                             address, f->host_port);
        }
    }
    return 0;
}

static int settings_parse(int argc, char **argv, struct settings *out, struct err *err)
{
    static const struct option options[] = {
        { "parent", required_argument, NULL, 'p' },
        { "hostfwd", required_argument, NULL, 'f' },
        { "hostname", required_argument, NULL, 'n' },
        { "restrict", no_argument, NULL, 'r' },
        { "tftp", required_argument, NULL, 't' },
        { "bootfile", required_argument, NULL, 'b' },
        { NULL, 0, NULL, 0 },
    };
    out->forwards = calloc((size_t)argc, sizeof *out->forwards);
    out->hostname = "bedplate";
    if (!out->forwards)
        return err_set(err, ENOMEM, "out of memory");
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        int r = 0;
        switch (c) {
        case 'p': out->parent = atoi(optarg); break;
        case 'n': out->hostname = optarg; break;
        case 'r': out->restricted = true; break;
        case 't': out->tftp = optarg; break;
        case 'b': out->bootfile = optarg; break;
        case 'f': r = net_hostfwd_parse(optarg, &out->forwards[out->forward_count++], err); break;
        default: r = err_set(err, EINVAL, "unknown option");
        }
        if (r < 0)
            return r;
    }
    return optind < argc ? err_set(err, EINVAL, "unexpected '%s'", argv[optind]) : 0;
}

int main(int argc, char **argv)
{
    static struct helper helper;
    struct settings settings = { 0 };
    struct err err;
    char summary[64], hello[520];
    struct stat st;

    if (fstat(HELPER_FD, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        fprintf(stderr, "bedplate-net is started by bedplate-vmm --net user, not by hand\n");
        return 2;
    }
    syscall(SYS_close_range, HELPER_FD + 1, ~0u, 0);
    signal(SIGPIPE, SIG_IGN);
    int r = settings_parse(argc, argv, &settings, &err);
    if (!r)
        r = slirp_start(&helper, &settings, &err);
    free(settings.forwards);
    if (!r)
        r = helper_confine(&settings, summary, sizeof summary, &err);
    snprintf(hello, sizeof hello, "%s%s\n", r < 0 ? "" : HELPER_HELLO, r < 0 ? err.text : summary);
    if (write_full(HELPER_FD, hello, strlen(hello)) < 0 || r < 0)
        return 1;
    for (;;)
        helper_round(&helper);
}
