/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machine as a target of gdb, and the socket on which one debugger at a time connects.
 *
 * A debugger that connects stops the machine, one that leaves lets it go on. While it is connected
 * and stands, others (the control socket) may resume the machine all the same: then it is stopped
 * again at the debugger's next packet.
 */
#include "base/checked.h"
#include "base/log.h"
#include "vmm/gdb.h"
#include "vmm/vmm.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

struct debugger {
    struct vmm *vmm;
    int listener, client; /* owned; -1: none */
    struct loop_watch *listen_watch, *watch;
    struct gdb gdb;
    struct debug_point points[GDB_MAX_POINTS];
    unsigned point_count;
    bool was_running; /* before the debugger came */
};

static struct machine *debugger_machine(void *arg)
{
    return ((struct debugger *)arg)->vmm->machine;
}

/* ---- the target ---- */

static unsigned target_cpus(void *arg) { return debugger_machine(arg)->cpus; }

static int target_get(void *arg, unsigned cpu, struct arch_state *out)
{
    struct machine *m = debugger_machine(arg);
    memset(out, 0, sizeof *out);
    return m->engine->type->get_state(m->vcpus[cpu], out, NULL);
}

static int target_set(void *arg, unsigned cpu, const struct arch_state *state)
{
    struct machine *m = debugger_machine(arg);
    return m->engine->type->set_state(m->vcpus[cpu], state, NULL);
}

/* Copies page by page, since only a page's addresses lie side by side. */
static int target_copy(struct machine *m, unsigned cpu, uint64_t gva, uint8_t *data, size_t len,
                       bool write)
{
    while (len) {
        uint64_t gpa;
        size_t n = PAGE_SIZE - gva % PAGE_SIZE;
        n = n < len ? n : len;
        int r = m->engine->type->translate(m->vcpus[cpu], gva, &gpa);
        if (r == 0)
            r = write ? mem_load(m, gpa, data, n) : mem_read(m, gpa, data, n);
        if (r < 0)
            return r;
        gva += n;
        data += n;
        len -= n;
    }
    return 0;
}

static int target_read(void *arg, unsigned cpu, uint64_t gva, void *out, size_t len)
{
    return target_copy(debugger_machine(arg), cpu, gva, out, len, false);
}

static int target_write(void *arg, unsigned cpu, uint64_t gva, const void *data, size_t len)
{
    return target_copy(debugger_machine(arg), cpu, gva, (uint8_t *)data, len, true);
}

static int points_install(struct debugger *d, const enum gdb_action *actions)
{
    struct machine *m = d->vmm->machine;
    int r = 0;
    for (unsigned i = 0; i < m->cpus && r == 0; i++)
        r = m->engine->type->debug(m->vcpus[i], d->points, d->point_count,
                                   actions && actions[i] == GDB_STEP, NULL);
    return r;
}

static int target_points(void *arg, const struct debug_point *points, unsigned count)
{
    struct debugger *d = arg;
    struct debug_point old[GDB_MAX_POINTS];
    unsigned old_count = d->point_count;
    memcpy(old, d->points, sizeof old);
    memcpy(d->points, points, count * sizeof *points);
    d->point_count = count;
    int r = points_install(d, NULL);
    if (r < 0) {
        memcpy(d->points, old, sizeof old);
        d->point_count = old_count;
        points_install(d, NULL);
    }
    return r;
}

static void machine_release(struct machine *m)
{
    for (unsigned i = 0; i < m->cpus; i++)
        machine_hold_vcpu(m, i, false);
}

static void target_go(void *arg, const enum gdb_action *actions)
{
    struct debugger *d = arg;
    struct machine *m = d->vmm->machine;
    points_install(d, actions);
    for (unsigned i = 0; i < m->cpus; i++)
        machine_hold_vcpu(m, i, actions[i] == GDB_HOLD);
    vmm_resume(d->vmm, NULL);
}

static void target_stop(void *arg)
{
    struct debugger *d = arg;
    vmm_pause(d->vmm, "debugger");
    machine_release(d->vmm->machine);
    points_install(d, NULL);
}

static void target_detach(void *arg)
{
    struct debugger *d = arg;
    if (d->vmm->machine->state == MACHINE_STOPPED)
        return;
    vmm_pause(d->vmm, "debugger");
    machine_release(d->vmm->machine);
    d->point_count = 0;
    points_install(d, NULL);
    if (d->was_running)
        vmm_resume(d->vmm, NULL);
}

static void target_kill(void *arg)
{
    vmm_end(((struct debugger *)arg)->vmm, EXIT_QUIT, "the debugger killed it");
}

static const struct gdb_target machine_target = {
    .cpus = target_cpus,
    .get_state = target_get,
    .set_state = target_set,
    .read = target_read,
    .write = target_write,
    .set_points = target_points,
    .go = target_go,
    .stop = target_stop,
    .detach = target_detach,
    .kill = target_kill,
};

/* ---- the connection ---- */

static void client_close(struct debugger *d)
{
    loop_watch_destroy(TAKE(d->watch));
    close(TAKE_FD(d->client));
    gdb_fini(&d->gdb);
    target_detach(d);
    log_info("gdb: the debugger left");
}

/* Answers are small and gdb waits for them, so a peer that does not take them within a second is
 * gone. */
static bool client_send(struct debugger *d)
{
    struct buf *out = &d->gdb.out;
    size_t done = 0;
    while (done < out->len) {
        ssize_t n = send(d->client, out->data + done, out->len - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        struct pollfd wait = { .fd = d->client, .events = POLLOUT };
        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || (errno != EAGAIN && errno != EINTR) || poll(&wait, 1, 1000) <= 0)
            return false;
    }
    out->len = 0;
    return true;
}

static void client_ready(void *arg, unsigned events)
{
    struct debugger *d = arg;
    uint8_t data[4096];
    ssize_t n = recv(d->client, data, sizeof data, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0 && !d->gdb.running && d->vmm->machine->state == MACHINE_RUNNING)
        target_stop(d);
    bool stays = n > 0 && gdb_feed(&d->gdb, data, (size_t)n);
    if (!client_send(d) || !stays)
        client_close(d);
}

static void client_arrived(void *arg, unsigned events)
{
    struct debugger *d = arg;
    int fd = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (d->client >= 0 ||
        loop_watch_create(d->vmm->loop, fd, LOOP_READ, client_ready, d, &d->watch, NULL) < 0) {
        log_info("gdb: a second debugger was refused");
        close(fd);
        return;
    }
    d->client = fd;
    /* A VM that waits for its debugger goes on when that leaves, too. */
    d->was_running = d->vmm->machine->state != MACHINE_PAUSED;
    target_stop(d);
    gdb_init(&d->gdb, &machine_target, d);
    log_info("gdb: a debugger connected");
}

bool debugger_event(struct debugger *d, unsigned vcpu)
{
    if (!d || d->client < 0 || !d->gdb.running)
        return false;
    struct debug_hit hit = d->vmm->machine->vcpus[vcpu]->debug_hit;
    target_stop(d);
    gdb_stopped(&d->gdb, vcpu, &hit);
    if (!client_send(d))
        client_close(d);
    return true;
}

void debugger_ended(struct debugger *d, int status)
{
    if (!d || d->client < 0)
        return;
    gdb_ended(&d->gdb, status);
    client_send(d);
}

static int debugger_listen_tcp(uint16_t port, struct err *err)
{
    AUTO(fd_close) int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in addr = { .sin_family = AF_INET,
                                .sin_port = htons(port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int one = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0 ||
        bind(fd, (struct sockaddr *)&addr, sizeof addr) < 0 || listen(fd, 1) < 0)
        return err_errno(err, errno, "cannot listen on port %u of 127.0.0.1", port);
    return TAKE_FD(fd);
}

int debugger_create(struct vmm *vmm, struct debugger **out, struct err *err)
{
    const struct gdb_options *options = &vmm->options.gdb;
    AUTO(fd_close)
    int fd = options->unix_path ? stream_listen(options->unix_path, err)
                                : debugger_listen_tcp(options->tcp_port, err);
    if (fd < 0)
        return err_prefix(err, "--gdb");
    struct debugger *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(err, ENOMEM, "out of memory");
    *d = (struct debugger){ .vmm = vmm, .listener = -1, .client = -1 };
    int r = loop_watch_create(vmm->loop, fd, LOOP_READ, client_arrived, d, &d->listen_watch, err);
    if (r < 0) {
        free(d);
        return r;
    }
    d->listener = TAKE_FD(fd);
    *out = d;
    return 0;
}

void debugger_destroy(struct debugger *d)
{
    if (!d)
        return;
    loop_watch_destroy(d->watch);
    loop_watch_destroy(d->listen_watch);
    if (d->client >= 0)
        gdb_fini(&d->gdb);
    fd_close(d->client);
    fd_close(d->listener);
    free(d);
}
