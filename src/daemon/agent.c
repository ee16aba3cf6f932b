/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 *  1. A new connection synchronises: byte 0xff makes the agent's parser begin anew, and everything
 *     up to the 0xff before the answer with our number is somebody else's and skipped.
 *  2. After a question without an answer the connection is closed: a late answer must not be taken
 *     for that of the next question.
 *  3. Call-backs run from the loop, never from within agent_ask, and may ask again.
 */
#include "daemon/agent.h"

#include "base/text.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { SYNC_MS = 5000, DELIMITER = 0xff };

struct question {
    struct question *next;
    char *line; /* owned */
    unsigned timeout_ms;
    agent_done done;
    void *arg;
};

struct agent {
    struct loop *loop;
    char path[108]; /* sun_path's size */
    int fd;         /* -1: not connected */
    struct loop_watch *watch;
    struct loop_timer *timer;
    enum { AGENT_IDLE, AGENT_SYNCING, AGENT_ASKED } state;
    bool delimited; /* syncing: the delimiter came */
    uint32_t sync_id;
    struct buf in, out;
    struct question *questions, **questions_end; /* the first is being asked */
};

static void agent_disconnect(struct agent *a)
{
    if (a->watch)
        loop_watch_destroy(TAKE(a->watch));
    fd_close(a->fd);
    a->fd = -1;
    a->in.len = a->out.len = 0;
    a->state = AGENT_IDLE;
}

static void question_end(struct agent *a, const json_t *result, const struct err *err)
{
    struct question *q = a->questions;
    if (!q)
        return;
    a->questions = q->next;
    if (!a->questions)
        a->questions_end = &a->questions;
    if (q->done)
        q->done(q->arg, result, err);
    free(q->line);
    free(q);
}

/* To be called last: the call-back may do anything. */
static void agent_fail(struct agent *a, const struct err *err)
{
    agent_disconnect(a);                      /* 2 */
    loop_timer_arm(a->timer, monotonic_ns()); /* the next one */
    question_end(a, NULL, err);
}

/* ---- sending ---- */

static void agent_flush(struct agent *a)
{
    while (a->out.len) {
        ssize_t n = send(a->fd, a->out.data, a->out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break; /* the end shows when reading */
        memmove(a->out.data, a->out.data + n, a->out.len - (size_t)n);
        a->out.len -= (size_t)n;
    }
    loop_watch_events(a->watch, LOOP_READ | (a->out.len ? LOOP_WRITE : 0));
}

static void question_send(struct agent *a)
{
    struct question *q = a->questions;
    a->state = AGENT_ASKED;
    buf_printf(&a->out, "%s\n", q->line);
    loop_timer_arm(a->timer, monotonic_ns() + q->timeout_ms * 1000000ull);
    agent_flush(a);
}

/* ---- receiving ---- */

static void sync_received(struct agent *a, const char *text, size_t len)
{
    json_t *line = NULL;
    a->delimited = false; /* an answer to another number is followed by ours */
    if (json_parse(text, len, &line, NULL) == 0 &&
        json_is_integer(json_object_get(line, "return")) &&
        json_integer_value(json_object_get(line, "return")) == a->sync_id)
        question_send(a);
    json_decref(line);
}

static void answer_received(struct agent *a, const char *text, size_t len)
{
    AUTO(json_decref) json_t *line = NULL;
    struct err err;
    int r = json_parse(text, len, &line, NULL);
    const json_t *result = json_object_get(line, "return"), *error = json_object_get(line, "error");
    if (r < 0 || (!result && !json_is_object(error))) {
        err_set(&err, EPROTO, "the guest agent's answer makes no sense");
        agent_fail(a, &err);
        return;
    }
    const char *why = json_string_value(json_object_get(error, "desc"));
    err_set(&err, EREMOTEIO, "the guest agent says: %.200s", why ? why : "error");
    a->state = AGENT_IDLE;
    loop_timer_arm(a->timer, monotonic_ns()); /* the next one */
    question_end(a, result, result ? NULL : &err);
}

/* While synchronising nothing counts before a delimiter (1). */
static void delimiter_skip(struct agent *a)
{
    uint8_t *last = a->in.len ? memrchr(a->in.data, DELIMITER, a->in.len) : NULL;
    if (last) {
        size_t skip = (size_t)(last + 1 - a->in.data);
        memmove(a->in.data, last + 1, a->in.len - skip);
        a->in.len -= skip;
        a->delimited = true;
    } else if (!a->delimited) {
        a->in.len = 0;
    }
}

void agent_received(struct agent *a, const uint8_t *data, size_t len)
{
    uint8_t *end;
    buf_add(&a->in, data, len);
    for (;;) {
        if (a->state == AGENT_SYNCING)
            delimiter_skip(a);
        if (!a->in.len || !(end = memchr(a->in.data, '\n', a->in.len)))
            break;
        size_t line_len = (size_t)(end - a->in.data);
        AUTO(free) char *line = strndup((char *)a->in.data, line_len);
        if (!line)
            abort();
        memmove(a->in.data, end + 1, a->in.len - line_len - 1);
        a->in.len -= line_len + 1;
        if (a->state == AGENT_SYNCING)
            sync_received(a, line, strlen(line));
        else if (a->state == AGENT_ASKED)
            answer_received(a, line, strlen(line));
    }
    if (a->in.len > AGENT_LINE_MAX) {
        struct err err;
        err_set(&err, EPROTO, "the guest agent's answer is longer than %d bytes", AGENT_LINE_MAX);
        agent_fail(a, &err);
    }
}

static void agent_ready(void *arg, unsigned events)
{
    struct agent *a = arg;
    uint8_t chunk[16384];
    struct err err;
    if (events & LOOP_WRITE)
        agent_flush(a);
    if (!(events & (LOOP_READ | LOOP_HANGUP)))
        return;
    ssize_t n = recv(a->fd, chunk, sizeof chunk, MSG_DONTWAIT);
    if (n > 0) {
        agent_received(a, chunk, (size_t)n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        err_set(&err, ECONNRESET, "the VM closed the guest agent's port");
        agent_fail(a, &err);
    }
}

/* ---- asking ---- */

static int agent_connect(struct agent *a, struct err *err)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    strcpy(addr.sun_path, a->path);
    a->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (a->fd < 0 || connect(a->fd, (struct sockaddr *)&addr, sizeof addr) < 0)
        return err_errno(err, errno, "cannot connect to %s", a->path);
    int r = loop_watch_create(a->loop, a->fd, LOOP_READ, agent_ready, a, &a->watch, err);
    if (r < 0)
        return r;
    a->state = AGENT_SYNCING;
    a->delimited = false;
    a->sync_id++;
    buf_printf(&a->out, "%c{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%u}}\n",
               DELIMITER, a->sync_id);
    loop_timer_arm(a->timer, monotonic_ns() + SYNC_MS * 1000000ull);
    agent_flush(a);
    return 0;
}

/* Time is over, or time for the next question. */
static void agent_timer(void *arg)
{
    struct agent *a = arg;
    struct err err;
    if (!a->questions)
        return;
    if (a->state == AGENT_IDLE) {
        if (a->fd >= 0)
            question_send(a);
        else if (agent_connect(a, &err) < 0)
            agent_fail(a, &err);
        return;
    }
    err_set(&err, ETIMEDOUT,
            a->state == AGENT_SYNCING
                ? "the guest agent does not answer; does qemu-guest-agent run in the guest?"
                : "the guest agent did not answer in time");
    agent_fail(a, &err);
}

void agent_ask(struct agent *agent, const char *command, json_t *take_args, unsigned timeout_ms,
               agent_done done, void *arg)
{
    AUTO(json_decref)
    json_t *json = json_pack("{s:s, s:o*}", "execute", command, "arguments", take_args);
    struct question *q = calloc(1, sizeof *q);
    if (!q)
        abort();
    *q = (struct question){
        .line = json_print(json), .timeout_ms = timeout_ms, .done = done, .arg = arg
    };
    *agent->questions_end = q;
    agent->questions_end = &q->next;
    if (agent->state == AGENT_IDLE)
        loop_timer_arm(agent->timer, monotonic_ns()); /* 3 */
}

int agent_create(struct loop *loop, const char *path, struct agent **out, struct err *err)
{
    AUTO(agent_destroy) struct agent *a = calloc(1, sizeof *a);
    if (!a)
        return err_set(err, ENOMEM, "out of memory");
    a->loop = loop;
    a->fd = -1;
    a->questions_end = &a->questions;
    if (strlen(path) >= sizeof a->path)
        return err_set(err, ENAMETOOLONG, "%s is longer than a socket's path may be", path);
    strcpy(a->path, path);
    int r = loop_timer_create(loop, agent_timer, a, &a->timer, err);
    if (r < 0)
        return r;
    *out = TAKE(a);
    return 0;
}

void agent_destroy(struct agent *agent)
{
    struct err err;
    if (!agent)
        return;
    agent_disconnect(agent);
    err_set(&err, ECONNRESET, "the VM does not run any more");
    while (agent->questions)
        question_end(agent, NULL, &err);
    if (agent->timer)
        loop_timer_destroy(agent->timer);
    buf_fini(&agent->in);
    buf_fini(&agent->out);
    free(agent);
}
