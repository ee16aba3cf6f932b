/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Invariants:
 *
 *  1. Only a request whose id is a string is remembered; its id is never accepted twice while it
 * is, so a client that lost its connection cannot run a command twice by sending it again.
 *  2. A request outlives its client: then its reply goes only to the table of outcomes.
 *  3. A client is freed only by clients_reap(), after the call-back that found it wrong: `dead`
 * marks it.
 *  4. Of the outcomes only finished ones are forgotten; with all of them running, new requests are
 * refused.
 */
#include "vmm/control.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/text.h"

#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

struct control_client {
    struct control_client *next;
    struct control *control;
    int fd;
    struct loop_watch *watch;
    bool greeted, follows, dead;
    struct buf in, out;
    size_t out_done;
    int fds[CONTROL_MAX_FDS];
    unsigned fd_count;
};

struct control_request {
    struct control *control;
    struct control_client *client; /* NULL: it went away (2) */
    struct control_request *next;  /* of the unfinished */
    json_t *id;
};

struct outcome {
    char *id, *reply; /* reply NULL: still running */
};

struct event {
    uint64_t number;
    char *line;
};

struct control {
    struct loop *loop;
    const struct control_command *commands;
    void *arg;
    int listener;
    struct loop_watch *listen_watch;
    struct control_client *clients;
    unsigned client_count;
    struct control_request *requests;
    struct outcome
        outcomes[CONTROL_OUTCOMES]; /* a ring: the next one replaces the oldest finished */
    unsigned outcome_next;

    struct event events[CONTROL_EVENTS]; /* of number n at n % CONTROL_EVENTS */
    uint64_t event_last;
};

/* ---- sending ---- */

static void client_kill(struct control_client *client, const char *why)
{
    if (!client->dead && why)
        log_info("control: a client was dropped: %s", why);
    client->dead = true;
    shutdown(client->fd,
             SHUT_RDWR); /* so that client_ready comes and reaps it; what was sent still arrives */
}

static void client_write(struct control_client *client)
{
    while (!client->dead && client->out_done < client->out.len) {
        ssize_t n = send(client->fd, client->out.data + client->out_done,
                         client->out.len - client->out_done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n <= 0)
            client_kill(client, NULL);
        else
            client->out_done += (size_t)n;
    }
    if (client->out_done == client->out.len)
        client->out.len = client->out_done = 0;
    if (client->watch && !client->dead)
        loop_watch_events(client->watch, LOOP_READ | (client->out.len ? (unsigned)LOOP_WRITE : 0));
}

static void client_line(struct control_client *client, const char *line)
{
    if (client->dead)
        return;
    size_t waiting = client->out.len - client->out_done;
    if (waiting + strlen(line) + 1 > CONTROL_MAX_QUEUE) {
        client_kill(client, "it does not read its answers");
        return;
    }
    if (client->out_done > CONTROL_MAX_LINE) {
        memmove(client->out.data, client->out.data + client->out_done, waiting);
        client->out.len = waiting;
        client->out_done = 0;
    }
    buf_add(&client->out, line, strlen(line));
    buf_add(&client->out, "\n", 1);
    client_write(client);
}

static void client_send(struct control_client *client, json_t *take_message)
{
    AUTO(free) char *line = json_print(take_message);
    json_decref(take_message);
    client_line(client, line);
}

static void client_free(struct control_client *client)
{
    for (struct control_request *r = client->control->requests; r; r = r->next)
        if (r->client == client)
            r->client = NULL;
    loop_watch_destroy(client->watch);
    for (unsigned i = 0; i < client->fd_count; i++)
        close(client->fds[i]);
    fd_close(client->fd);
    buf_fini(&client->in);
    buf_fini(&client->out);
    free(client);
}

static void clients_reap(struct control *control)
{
    for (struct control_client **at = &control->clients; *at;) {
        struct control_client *client = *at;
        if (!client->dead) {
            at = &client->next;
            continue;
        }
        *at = client->next;
        control->client_count--;
        client_free(client);
    }
}

static json_t *error_json(const struct err *err)
{
    const char *code = strerrorname_np(err->code);
    return json_pack("{s:s, s:s%}", "code", code ? code : "EIO", "text", err->text,
                     strlen(err->text));
}

static json_t *reply_json(json_t *id, json_t *take_result, const struct err *err)
{
    json_t *reply = json_object();
    json_object_set(reply, "id", id);
    json_t *error = err ? error_json(err) : NULL;
    if (err && !error) /* a sentence that is not UTF-8: a path or an id in it */
        error = json_pack("{s:s, s:s}", "code", "EINVAL", "text",
                          "failed; the message is not valid UTF-8");
    json_object_set_new(reply, err ? "error" : "ok",
                        err           ? error
                        : take_result ? take_result
                                      : json_object());
    if (err)
        json_decref(take_result);
    return reply;
}

/* ---- outcomes ---- */

static struct outcome *outcome_find(struct control *control, const char *id)
{
    for (unsigned i = 0; i < CONTROL_OUTCOMES; i++)
        if (control->outcomes[i].id && strcmp(control->outcomes[i].id, id) == 0)
            return &control->outcomes[i];
    return NULL;
}

static int outcome_begin(struct control *control, const json_t *id, struct err *err)
{
    if (!json_is_string(id))
        return 0;
    const char *text = json_string_value(id);
    if (!*text || json_string_length(id) > 128 || strlen(text) != json_string_length(id))
        return err_set(err, EINVAL, "an id has 1 to 128 bytes");
    if (outcome_find(control, text)) /* 1 */
        return err_set(err, EEXIST, "the id was used before; ask for its outcome");
    for (unsigned i = 0; i < CONTROL_OUTCOMES; i++) {
        struct outcome *o = &control->outcomes[(control->outcome_next + i) % CONTROL_OUTCOMES];
        if (o->id && !o->reply)
            continue; /* 4 */
        free(o->id);
        free(o->reply);
        *o = (struct outcome){ .id = strdup(text) };
        control->outcome_next = (control->outcome_next + i + 1) % CONTROL_OUTCOMES;
        return o->id ? 0 : err_set(err, ENOMEM, "out of memory");
    }
    return err_set(err, EBUSY, "too many requests are unfinished");
}

static void outcome_end(struct control *control, const json_t *id, const char *line)
{
    struct outcome *o = json_is_string(id) ? outcome_find(control, json_string_value(id)) : NULL;
    if (!o)
        return;
    o->reply = strlen(line) <= CONTROL_MAX_OUTCOME ? strdup(line) : NULL;
    if (!o->reply) {
        json_t *note = json_object();
        json_object_set_new(note, "dropped", json_true());
        json_t *reply = reply_json((json_t *)id, note, NULL);
        o->reply = json_print(reply);
        json_decref(reply);
    }
}

static json_t *outcome_json(struct control *control, const json_t *args, struct err *err)
{
    const char *of = NULL;
    int r = json_get_string(args, "of", &of, err);
    if (r == 0)
        err_set(err, EINVAL, "'of' is missing: the id that was asked with");
    if (r <= 0)
        return NULL;
    struct outcome *o = outcome_find(control, of);
    if (!o)
        return json_pack("{s:s}", "state", "unknown");
    if (!o->reply)
        return json_pack("{s:s}", "state", "running");
    json_t *reply = json_loads(o->reply, 0, NULL);
    return json_pack("{s:s, s:o}", "state", "done", "reply", reply);
}

/* ---- events ---- */

struct event_post {
    struct control *control;
    json_t *event;
};

static void event_run(void *arg)
{
    struct event_post *post = arg;
    struct control *control = post->control;
    uint64_t number = ++control->event_last;
    json_object_set_new(post->event, "event", json_integer((json_int_t)number));
    struct event *slot = &control->events[number % CONTROL_EVENTS];
    free(slot->line);
    *slot = (struct event){ .number = number, .line = json_print(post->event) };
    for (struct control_client *c = control->clients; c; c = c->next)
        if (c->follows)
            client_line(c, slot->line);
    json_decref(post->event);
    free(post);
}

void control_event(struct control *control, const char *what, json_t *take_members)
{
    struct event_post *post = malloc(sizeof *post);
    if (!post)
        abort();
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *post = (struct event_post){ .control = control, .event = json_object() };
    json_object_set_new(post->event, "event",
                        json_integer(0)); /* comes first; the number is given on the loop */
    json_object_set_new(post->event, "time",
                        json_real((double)now.tv_sec + (double)(now.tv_nsec / 1000000) / 1e3));
    json_object_set_new(post->event, "what", json_string(what));
    if (take_members)
        json_object_update(post->event, take_members);
    json_decref(take_members);
    if (loop_is_current(control->loop))
        event_run(post);
    else
        loop_post(control->loop, event_run, post);
}

/* Answers first, so that the client knows what follows. */
static int events_follow(struct control_client *client, json_t *id, const json_t *args,
                         struct err *err)
{
    struct control *control = client->control;
    uint64_t after = control->event_last;
    int r = json_get_u64(args, "after", 0, INT64_MAX, &after, err);
    if (r < 0)
        return r;
    uint64_t oldest =
        control->event_last < CONTROL_EVENTS ? 1 : control->event_last - CONTROL_EVENTS + 1;
    uint64_t from = after + 1 < oldest ? oldest : after + 1;
    client_send(
        client,
        reply_json(id,
                   json_pack("{s:I, s:I, s:b}", "last", (json_int_t)control->event_last, "oldest",
                             (json_int_t)oldest, "lost", r > 0 && after + 1 < oldest),
                   NULL));
    for (uint64_t n = from; n <= control->event_last; n++)
        client_line(client, control->events[n % CONTROL_EVENTS].line);
    client->follows = true;
    return 0;
}

/* ---- requests ---- */

static void request_free(struct control_request *request)
{
    struct control_request **at = &request->control->requests;
    while (*at != request)
        at = &(*at)->next;
    *at = request->next;
    json_decref(request->id);
    free(request);
}

void control_finish(struct control_request *request, json_t *take_result, const struct err *err)
{
    json_t *reply = reply_json(request->id, take_result, err);
    AUTO(free) char *line = json_print(reply);
    json_decref(reply);
    outcome_end(request->control, request->id, line);
    if (request->client)
        client_line(request->client, line);
    request_free(request);
}

int control_take_fd(struct control_request *request)
{
    struct control_client *client = request->client;
    if (!client || !client->fd_count)
        return -1;
    int fd = client->fds[0];
    memmove(client->fds, client->fds + 1, --client->fd_count * sizeof *client->fds);
    return fd;
}

static int members_check(const json_t *message, const char *const *members, struct err *err)
{
    const char *all[16] = { "id", "do" };
    unsigned count = 2;
    for (; members && *members; members++)
        all[count++] = *members;
    assert(count < ARRAY_LEN(all));
    return json_only(message, all, err);
}

static const struct control_command *command_find(const struct control *control, const char *name)
{
    for (const struct control_command *c = control->commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

static int command_run(struct control_client *client, const struct control_command *command,
                       json_t *id, const json_t *message, struct err *err)
{
    struct control *control = client->control;
    int r = members_check(message, command->members, err);
    if (r == 0)
        r = outcome_begin(control, id, err);
    if (r < 0)
        return r;
    struct control_request *request = malloc(sizeof *request);
    if (!request)
        abort();
    *request = (struct control_request){
        .control = control, .client = client, .next = control->requests, .id = json_incref(id)
    };
    control->requests = request;

    json_t *result = NULL;
    struct err why = { 0 };
    r = command->run(control->arg, request, message, &result, &why);
    if (r != CONTROL_LATER)
        control_finish(request, result, r < 0 ? &why : NULL);
    return 0;
}

static json_t *commands_json(const struct control *control)
{
    json_t *list = json_object();
    for (const struct control_command *c = control->commands; c->name; c++)
        json_object_set_new(list, c->name, json_string(c->about));
    json_object_set_new(list, "events", json_string("follow events, from a number on"));
    json_object_set_new(list, "outcome", json_string("what became of an earlier request"));
    json_object_set_new(list, "commands", json_string("this list"));
    return list;
}

static int request_run(struct control_client *client, json_t *id, const json_t *message,
                       struct err *err)
{
    static const char *const after[] = { "after", NULL }, *const of[] = { "of", NULL };
    const char *name = NULL;
    int r = json_get_string(message, "do", &name, err);
    if (r <= 0)
        return r < 0 ? r
                     : err_set(err, EINVAL,
                               "'do' is missing; the command 'commands' lists what there is");
    if (!json_is_string(id) && !json_is_integer(id))
        return err_set(err, EINVAL, "'id' must be a string or a whole number");

    /* What concerns the protocol itself is not remembered. */
    if (strcmp(name, "events") == 0) {
        r = members_check(message, after, err);
        return r < 0 ? r : events_follow(client, id, message, err);
    }
    json_t *result = NULL;
    if (strcmp(name, "outcome") == 0) {
        r = members_check(message, of, err);
        result = r < 0 ? NULL : outcome_json(client->control, message, err);
    } else if (strcmp(name, "commands") == 0) {
        result = members_check(message, NULL, err) < 0 ? NULL : commands_json(client->control);
    } else {
        const struct control_command *command = command_find(client->control, name);
        if (!command)
            return err_set(err, ENOSYS,
                           "unknown command '%.40s'; the command 'commands' lists what there is",
                           name);
        return command_run(client, command, id, message, err);
    }
    if (!result)
        return -EINVAL;
    client_send(client, reply_json(id, result, NULL));
    return 0;
}

static int hello_run(struct control_client *client, const json_t *message, struct err *err)
{
    uint64_t protocol = 0;
    const json_t *hello = json_object_get(message, "hello");
    if (!hello)
        return err_set(err, EPROTO, "say {\"hello\": {\"protocol\": %d}} first", CONTROL_PROTOCOL);
    int r = json_get_u64(hello, "protocol", 0, INT32_MAX, &protocol, err);
    if (r < 0)
        return r;
    if (protocol != CONTROL_PROTOCOL)
        return err_set(err, EPROTONOSUPPORT, "protocol %u is not spoken here, only %d",
                       (unsigned)protocol, CONTROL_PROTOCOL);
    client->greeted = true;
    client_send(client, json_pack("{s:{s:i}}", "hello", "protocol", CONTROL_PROTOCOL));
    return 0;
}

static void line_run(struct control_client *client, const char *line, size_t len)
{
    AUTO(json_decref) json_t *message = NULL;
    struct err err = { 0 };
    json_t *id = NULL;
    int r = json_parse(line, len, &message, &err);
    if (r == 0 && !json_is_object(message))
        r = err_set(&err, EINVAL, "a message is a JSON object");
    if (r == 0) {
        id = json_object_get(message, "id");
        r = client->greeted ? request_run(client, id, message, &err)
                            : hello_run(client, message, &err);
    }
    if (r == 0)
        return;
    AUTO(json_decref) json_t *null = json_null();
    client_send(client, reply_json(id ? id : null, NULL, &err));
    if (!client->greeted)
        client_kill(client, err.text);
}

/* ---- receiving ---- */

static void fds_receive(struct control_client *client, struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (client->fd_count < CONTROL_MAX_FDS) {
                client->fds[client->fd_count++] = fd;
            } else {
                close(fd);
                client_kill(client, "it sent too many descriptors");
            }
        }
    }
}

static ssize_t client_receive(struct control_client *client, void *data, size_t len)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * CONTROL_MAX_FDS)];
        struct cmsghdr align;
    } control;
    struct iovec iov = { .iov_base = data, .iov_len = len };
    struct msghdr msg = { .msg_iov = &iov,
                          .msg_iovlen = 1,
                          .msg_control = control.bytes,
                          .msg_controllen = sizeof control.bytes };
    ssize_t n = recvmsg(client->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n >= 0)
        fds_receive(client, &msg);
    return n;
}

static void client_lines(struct control_client *client)
{
    size_t start = 0;
    while (!client->dead) {
        const uint8_t *from = client->in.data + start;
        const uint8_t *end =
            client->in.len > start ? memchr(from, '\n', client->in.len - start) : NULL;
        if (!end)
            break;
        size_t len = (size_t)(end - from);
        if (len)
            line_run(client, (const char *)from, len);
        start += len + 1;
    }
    if (start) {
        memmove(client->in.data, client->in.data + start, client->in.len - start);
        client->in.len -= start;
    }
    if (client->in.len > CONTROL_MAX_LINE)
        client_kill(client, "its line is too long");
}

static void client_ready(void *arg, unsigned events)
{
    struct control_client *client = arg;
    struct control *control = client->control;
    if (events & LOOP_WRITE)
        client_write(client);
    if (events & (LOOP_READ | LOOP_HANGUP)) {
        uint8_t data[8192];
        ssize_t n = client_receive(client, data, sizeof data);
        if (n > 0) {
            buf_add(&client->in, data, (size_t)n);
            client_lines(client);
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            client_kill(client, NULL);
        }
    }
    clients_reap(control);
}

int control_add_client(struct control *control, int take_fd, struct err *err)
{
    struct control_client *client =
        control->client_count < CONTROL_MAX_CLIENTS ? calloc(1, sizeof *client) : NULL;
    if (!client) {
        close(take_fd);
        return err_set(err, EBUSY, "there are %d clients already", CONTROL_MAX_CLIENTS);
    }
    client->control = control;
    client->fd = take_fd;
    int r = loop_watch_create(control->loop, take_fd, LOOP_READ, client_ready, client,
                              &client->watch, err);
    if (r < 0) {
        client_free(client);
        return r;
    }
    client->next = control->clients;
    control->clients = client;
    control->client_count++;
    client_send(client,
                json_pack("{s:{s:i, s:s, s:i}}", "bedplate-vmm", "protocol", CONTROL_PROTOCOL,
                          "version", BEDPLATE_VERSION, "pid", (int)getpid()));
    return 0;
}

static void client_arrived(void *arg, unsigned events)
{
    struct control *control = arg;
    clients_reap(control);
    int fd = accept4(control->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct err err = { 0 };
    if (fd >= 0 && control_add_client(control, fd, &err) < 0)
        log_info("control: a client was refused: %s", err.text);
}

/* ---- create and destroy ---- */

int control_create(struct loop *loop, const struct control_command *commands, void *arg,
                   struct control **out, struct err *err)
{
    struct control *control = calloc(1, sizeof *control);
    if (!control)
        return err_set(err, ENOMEM, "out of memory");
    control->loop = loop;
    control->commands = commands;
    control->arg = arg;
    control->listener = -1;
    *out = control;
    return 0;
}

int control_listen(struct control *control, int take_fd, struct err *err)
{
    assert(control->listener < 0);
    int r = loop_watch_create(control->loop, take_fd, LOOP_READ, client_arrived, control,
                              &control->listen_watch, err);
    if (r < 0)
        close(take_fd);
    else
        control->listener = take_fd;
    return r;
}

static bool clients_waiting(const struct control *control, struct pollfd polls[CONTROL_MAX_CLIENTS],
                            nfds_t *count)
{
    *count = 0;
    for (const struct control_client *c = control->clients; c; c = c->next)
        if (!c->dead && c->out.len)
            polls[(*count)++] = (struct pollfd){ .fd = c->fd, .events = POLLOUT };
    return *count;
}

void control_flush(struct control *control, unsigned timeout_ms)
{
    struct pollfd polls[CONTROL_MAX_CLIENTS];
    nfds_t count;
    uint64_t deadline = monotonic_ns() + timeout_ms * 1000000ull;
    while (clients_waiting(control, polls, &count)) {
        uint64_t now = monotonic_ns();
        if (now >= deadline || poll(polls, count, (int)((deadline - now) / 1000000 + 1)) <= 0)
            return;
        for (struct control_client *c = control->clients; c; c = c->next)
            client_write(c);
    }
}

void control_destroy(struct control *control)
{
    if (!control)
        return;
    for (struct control_client *c = control->clients; c; c = c->next)
        c->dead = true;
    clients_reap(control);
    while (control->requests)
        request_free(control->requests);
    loop_watch_destroy(control->listen_watch);
    fd_close(control->listener);
    for (unsigned i = 0; i < CONTROL_OUTCOMES; i++) {
        free(control->outcomes[i].id);
        free(control->outcomes[i].reply);
    }
    for (unsigned i = 0; i < CONTROL_EVENTS; i++)
        free(control->events[i].line);
    free(control);
}
