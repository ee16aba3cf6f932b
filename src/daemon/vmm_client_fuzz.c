/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a VM's process says on its control socket, when a guest has taken it over, and what the
 * daemon makes of it.
 *
 * An input's first line are letters for requests to the API; the other lines are what the process
 * says, one after each request. Then it ends: by that every request must have been answered.
 */
#include "daemon/router_rig.h"

#include <assert.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { REQUESTS = 16, WAIT_US = 500, WAITS = 20000 };

static int listener = -1;
static pid_t process;

/* The process of the VM is the peer of a socket that is ours: it is not to be killed. */
int kill(pid_t pid, int number) { return 0; }

/* The first time; a VM that is started again has none. */
static pid_t process_begin(const struct daemon *daemon)
{
    static char *const argv[] = { (char *)"sleep", (char *)"1000", NULL };
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct object *vm = objects_find(daemon->objects, "vms", "thing", NULL);
    if (listener >= 0 || !vm)
        return -1;
    int n = snprintf(addr.sun_path, sizeof addr.sun_path, "%s/vms/%s/control.sock", daemon->run_dir,
                     vm->id);
    assert(n < (int)sizeof addr.sun_path);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int r = bind(listener, (struct sockaddr *)&addr, sizeof addr);
    assert(r == 0);
    r = listen(listener, 4);
    assert(r == 0);
    r = posix_spawn(&process, "/bin/sleep", NULL, NULL, argv, NULL);
    assert(r == 0);
    return process;
}

static void process_end(int fd)
{
    close(fd);
    syscall(SYS_kill, process, SIGKILL);
}

static void send_to(struct daemon *daemon, const char *method, const char *path, const char *body,
                    struct rig_reply *reply)
{
    const struct rig_ask ask = {
        .method = method, .path = path, .body = body, .len = strlen(body)
    };
    rig_send(daemon, &ask, reply);
}

static void request(struct daemon *daemon, char letter, struct rig_reply *reply)
{
    static const struct {
        char letter;
        const char *method, *path, *body;
    } requests[] = {
        { 'b', "POST", "/v1/vms/thing/balloon", "{\"target\": \"16M\"}" },
        { 's', "POST", "/v1/vms/thing/screenshot", "{\"format\": \"text\"}" },
        { 'l', "POST", "/v1/vms/thing/log", "" },
        { 'k', "POST", "/v1/vms/thing/send-keys", "{\"keys\": [\"a\"]}" },
        { 'S', "POST", "/v1/vms/thing/save", "" },
        { 'p', "POST", "/v1/vms/thing/pause", "" },
        { 'u', "POST", "/v1/vms/thing/resume", "" },
        { 'r', "POST", "/v1/vms/thing/reset", "" },
        { 'R', "POST", "/v1/vms/thing/restart", "" },
        { 't', "POST", "/v1/vms/thing/stop", "{\"timeout\": 5}" },
        { 'K', "POST", "/v1/vms/thing/kill", "" },
        { 'x', "POST", "/v1/vms/thing/exec", "{\"command\": [\"/bin/true\"]}" },
        { 'm', "PATCH", "/v1/vms/thing", "{\"memory\": \"16M\"}" },
        { 'd', "PATCH", "/v1/vms/thing",
          "{\"disks\": [{\"path\": \"/d.img\", \"format\": \"raw\"}]}" },
        { 'c', "PATCH", "/v1/vms/thing", "{\"disks\": []}" },
        { 'D', "DELETE", "/v1/vms/thing", "" },
        { 'M', "GET", "/metrics", "" },
    };
    for (unsigned i = 0; i < sizeof requests / sizeof *requests; i++)
        if (requests[i].letter == letter) {
            send_to(daemon, requests[i].method, requests[i].path, requests[i].body, reply);
            return;
        }
    send_to(daemon, "GET", "/v1/vms/thing", "", reply);
}

/* The daemon connects after a moment. */
static int started(struct daemon *daemon)
{
    struct rig_reply made = { 0 }, start = { 0 };
    int fd = -1;
    send_to(daemon, "POST", "/v1/vms", "{\"name\": \"thing\", \"memory\": \"32M\"}", &made);
    rig_settle(daemon);
    send_to(daemon, "POST", "/v1/vms/thing/start", "", &start);
    for (unsigned i = 0; i < WAITS && fd < 0; i++) {
        rig_turn(daemon);
        usleep(WAIT_US);
        fd = listener >= 0 ? accept(listener, NULL, NULL) : -1;
    }
    assert(made.status == 202 && start.status == 202 && fd >= 0);
    buf_fini(&made.body);
    buf_fini(&start.body);
    return fd;
}

/* Of a process that is as it should be so far. */
static void greet(struct daemon *daemon, int fd)
{
    static const char said[] = "{\"bedplate-vmm\": {\"protocol\": 1}}\n{\"hello\": {}}\n";
    ssize_t n = send(fd, said, strlen(said), MSG_NOSIGNAL);
    assert(n == (ssize_t)strlen(said));
    rig_settle(daemon);
}

static void say(struct daemon *daemon, int fd, const uint8_t *data, size_t len)
{
    for (size_t at = 0; at < len;) { /* it may have been closed, and it may be long */
        ssize_t n = send(fd, data + at, len - at, MSG_NOSIGNAL | MSG_DONTWAIT);
        rig_turn(daemon);
        rig_turn(daemon);
        if (n <= 0)
            return;
        at += (size_t)n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct daemon daemon;
    struct rig_reply replies[REQUESTS] = { 0 };
    char dir[64];
    const uint8_t *line = memchr(data, '\n', len), *end = data + len;
    size_t letters = line ? (size_t)(line - data) : len;
    letters = letters < REQUESTS ? letters : REQUESTS;
    snprintf(dir, sizeof dir, "/tmp/vmm-fuzz-%d", (int)getpid());
    rig_begin(&daemon, dir);
    rig_world.process = process_begin;
    int fd = started(&daemon);
    if (letters && data[0] != '-')
        greet(&daemon, fd);
    line = line ? line + 1 : end;
    for (size_t i = 0; i < letters || line < end; i++) {
        if (i < letters)
            request(&daemon, (char)data[i], &replies[i]);
        const uint8_t *stop = line < end ? memchr(line, '\n', (size_t)(end - line)) : NULL;
        size_t n = stop ? (size_t)(stop - line) + 1 : (size_t)(end - line);
        say(&daemon, fd, line, n);
        line += n;
    }
    process_end(fd);
    for (unsigned waits = 0; waitpid(process, NULL, WNOHANG) == 0 && waits < WAITS; waits++)
        usleep(WAIT_US);
    rig_settle(&daemon);
    for (size_t i = 0; i < letters; i++) {
        assert(replies[i].status && replies[i].status != 500);
        buf_fini(&replies[i].body);
    }
    rig_end(&daemon);
    close(listener);
    listener = -1;
    rmdir(dir);
    return 0;
}
