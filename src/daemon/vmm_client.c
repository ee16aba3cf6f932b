/* SPDX-License-Identifier: GPL-2.0-or-later */
/* JSON lines to and from a VMM. */
#include "daemon/vmm_client.h"

#include "base/text.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 4 << 20 };

struct question {
    struct question *next;
    uint64_t id;
    vmm_client_done done;
    void *arg;
};

struct vmm_client {
    struct loop *loop;
    int fd;
    struct loop_watch *watch;
    const struct vmm_client_calls *calls;
    void *arg;
    struct buf in;
    bool greeted, ready, silent;
    pid_t pid;
    uint64_t next_id;
    struct question *questions;
    struct buf out; /* not sent yet */
};

static void send_rest(struct vmm_client *c)
{
    while (c->out.len) {
        ssize_t n = send(c->fd, c->out.data, c->out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break; /* the end shows when reading */
        memmove(c->out.data, c->out.data + n, c->out.len - (size_t)n);
        c->out.len -= (size_t)n;
    }
    loop_watch_events(c->watch, LOOP_READ | (c->out.len ? LOOP_WRITE : 0));
}

/* A descriptor goes with the first byte of its line, which must then be the next one sent: lines
 * are small and the socket's buffer is nearly always empty. */
static void send_line(struct vmm_client *c, json_t *take_json, int fd)
{
    AUTO(json_decref) json_t *json = take_json;
    AUTO(free) char *text = json_print(json);
    struct buf line = { 0 };
    buf_printf(&line, "%s\n", text);
    if (fd >= 0 && !c->out.len) {
        union {
            struct cmsghdr head;
            char room[CMSG_SPACE(sizeof fd)];
        } control = { 0 };
        struct iovec iov = { line.data, line.len };
        struct msghdr msg = { .msg_iov = &iov,
                              .msg_iovlen = 1,
                              .msg_control = &control,
                              .msg_controllen = sizeof control };
        control.head.cmsg_len = CMSG_LEN(sizeof fd);
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
        ssize_t n = sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        buf_add(&c->out, line.data + (n > 0 ? n : 0), line.len - (size_t)(n > 0 ? n : 0));
    } else {
        buf_add(&c->out, line.data, line.len);
    }
    buf_fini(&line);
    send_rest(c);
}

static void answer_arrived(struct vmm_client *c, const json_t *line)
{
    uint64_t id = (uint64_t)json_integer_value(json_object_get(line, "id"));
    struct question **p = &c->questions;
    while (*p && (*p)->id != id)
        p = &(*p)->next;
    struct question *q = *p;
    if (!q)
        return;
    *p = q->next;
    const json_t *ok = json_object_get(line, "ok"), *error = json_object_get(line, "error");
    const char *text = json_string_value(json_object_get(error, "text"));
    struct err err;
    if (!ok)
        err_set(&err, EIO, "%s", text ? text : "the VM's process gave no reason");
    if (q->done)
        q->done(q->arg, ok, ok ? NULL : &err);
    free(q);
}

/* Who listens, by the kernel's word: its own would be a number of its own name space, or a lie. */
static pid_t peer_pid(int fd)
{
    struct ucred peer = { 0 };
    socklen_t len = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ? 0 : peer.pid;
}

/* False: the other end breaks the protocol. */
static bool line_arrived(struct vmm_client *c, const json_t *line)
{
    const json_t *greeting = json_object_get(line, "bedplate-vmm");
    if (!c->greeted) {
        c->greeted = true;
        c->pid = peer_pid(c->fd);
        if (json_integer_value(json_object_get(greeting, "protocol")) != 1 || c->pid <= 1)
            return false;
        send_line(c, json_pack("{s:{s:i}}", "hello", "protocol", 1), -1);
        return true;
    }
    if (!c->ready) {
        if (!json_object_get(line, "hello"))
            return false;
        c->ready = true;
        vmm_client_ask(c, "events", NULL, -1, NULL, NULL);
        if (!c->silent)
            c->calls->ready(c->arg, c->pid);
        return true;
    }
    const char *what = json_string_value(json_object_get(line, "what"));
    if (json_object_get(line, "event") && what && c->silent)
        return true;
    if (json_object_get(line, "event") && what)
        c->calls->event(c->arg, what, line);
    else
        answer_arrived(c, line);
    return true;
}

static bool lines_read(struct vmm_client *c)
{
    uint8_t *end;
    while (c->in.len && (end = memchr(c->in.data, '\n', c->in.len))) {
        size_t len = (size_t)(end - c->in.data);
        json_t *line = NULL;
        int r = json_parse((const char *)c->in.data, len, &line, NULL);
        memmove(c->in.data, end + 1, c->in.len - len - 1);
        c->in.len -= len + 1;
        bool good = r == 0 && json_is_object(line) && line_arrived(c, line);
        json_decref(line);
        if (!good)
            return false;
    }
    return c->in.len < LINE_MAX_BYTES;
}

static void client_ready(void *arg, unsigned events)
{
    struct vmm_client *c = arg;
    char chunk[16384];
    if (events & LOOP_WRITE)
        send_rest(c);
    if (!(events & (LOOP_READ | LOOP_HANGUP)))
        return;
    ssize_t n = recv(c->fd, chunk, sizeof chunk, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0) {
        buf_add(&c->in, chunk, (size_t)n);
        if (lines_read(c))
            return;
    }
    loop_watch_events(c->watch, 0);
    if (!c->silent)
        c->calls->lost(c->arg);
}

void vmm_client_ask(struct vmm_client *client, const char *what, json_t *take_members, int fd,
                    vmm_client_done done, void *arg)
{
    json_t *line = take_members ? take_members : json_object();
    struct question *q = calloc(1, sizeof *q);
    if (!q)
        abort();
    *q = (struct question){ client->questions, ++client->next_id, done, arg };
    client->questions = q;
    json_object_set_new(line, "id", json_integer((json_int_t)q->id));
    json_object_set_new(line, "do", json_string(what));
    send_line(client, line, fd);
}

int vmm_client_create(struct loop *loop, const char *path, const struct vmm_client_calls *calls,
                      void *arg, struct vmm_client **out, struct err *err)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof addr.sun_path)
        return err_set(err, ENAMETOOLONG, "%s is longer than a socket's path may be", path);
    strcpy(addr.sun_path, path);
    AUTO(vmm_client_destroy) struct vmm_client *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(err, ENOMEM, "out of memory");
    c->loop = loop;
    c->calls = calls;
    c->arg = arg;
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&addr, sizeof addr) < 0)
        return err_errno(err, errno, "cannot connect to %s", path);
    int r = loop_watch_create(loop, c->fd, LOOP_READ, client_ready, c, &c->watch, err);
    if (r < 0)
        return r;
    *out = TAKE(c);
    return 0;
}

void vmm_client_silence(struct vmm_client *client) { client->silent = true; }

void vmm_client_destroy(struct vmm_client *client)
{
    struct err err;
    if (!client)
        return;
    err_set(&err, ECONNRESET, "the VM's process has ended");
    while (client->questions) {
        struct question *q = client->questions;
        client->questions = q->next;
        if (q->done)
            q->done(q->arg, NULL, &err);
        free(q);
    }
    if (client->watch)
        loop_watch_destroy(client->watch);
    if (client->fd >= 0)
        close(client->fd);
    buf_fini(&client->in);
    buf_fini(&client->out);
    free(client);
}
