/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/streams.h"

#include "base/log.h"
#include "base/text.h"
#include "daemon/ws_frame.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { CHUNK = 16384, HELD_MAX = 256 << 10, EVENTS_HELD_MAX = 1 << 20, PING_MS = 30000 };
#define PROTOCOL "bedplate"

struct stream {
    struct daemon *daemon;
    struct http_stream *http;
    int client, peer; /* peer -1: events */
    struct loop_watch *client_watch, *peer_watch;
    struct loop_timer *timer;
    struct ws_parser parser;
    struct buf to_client, to_peer;
    bool heard;   /* something came since the last ping */
    bool closing; /* a close frame is the last in to_client */
    struct stream *next;
};

static struct stream *streams;

/* ---- end ---- */

static void stream_free(struct stream *s)
{
    struct stream **p = &streams;
    while (*p && *p != s)
        p = &(*p)->next;
    if (*p)
        *p = s->next;
    if (s->client_watch)
        loop_watch_destroy(s->client_watch);
    if (s->peer_watch)
        loop_watch_destroy(s->peer_watch);
    if (s->timer)
        loop_timer_destroy(s->timer);
    if (s->http)
        http_stream_close(s->http);
    fd_close(s->peer);
    buf_fini(&s->to_client);
    buf_fini(&s->to_peer);
    free(s);
}

/* ---- what goes out ---- */

/* Who waits for whom: a side that does not read makes the other wait. */
static void watches_set(struct stream *s)
{
    unsigned client = (s->to_client.len ? LOOP_WRITE : 0) |
                      (s->to_peer.len < HELD_MAX && !s->closing ? LOOP_READ : 0);
    unsigned peer = (s->to_peer.len ? LOOP_WRITE : 0) |
                    (s->to_client.len < HELD_MAX && !s->closing ? LOOP_READ : 0);
    loop_watch_events(s->client_watch, client);
    if (s->peer_watch)
        loop_watch_events(s->peer_watch, peer);
}

static void buf_drop(struct buf *buf, size_t len)
{
    memmove(buf->data, buf->data + len, buf->len - len);
    buf->len -= len;
}

static void message_add(struct stream *s, enum ws_opcode opcode, const void *data, size_t len)
{
    uint8_t header[WS_HEADER_MAX];
    if (s->closing)
        return;
    buf_add(&s->to_client, header, ws_header(header, opcode, len));
    buf_add(&s->to_client, data, len);
}

static void close_add(struct stream *s, unsigned code)
{
    const uint8_t body[2] = { (uint8_t)(code >> 8), (uint8_t)code };
    message_add(s, WS_CLOSE, body, sizeof body);
    s->closing = true;
}

/* Writes what it takes; -1: that side is gone. */
static int flush(int fd, struct buf *buf)
{
    while (buf->len) {
        ssize_t n = send(fd, buf->data, buf->len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return errno == EAGAIN ? 0 : -1;
        if (n > 0)
            buf_drop(buf, (size_t)n);
    }
    return 0;
}

/* ---- what comes in ---- */

static void client_data(void *arg, const uint8_t *data, size_t len)
{
    struct stream *s = arg;
    if (s->peer >= 0) /* events are only told */
        buf_add(&s->to_peer, data, len);
}

static void client_control(void *arg, enum ws_opcode opcode, const uint8_t *data, size_t len)
{
    struct stream *s = arg;
    if (opcode == WS_PING)
        message_add(s, WS_PONG, data, len);
    else if (opcode == WS_CLOSE)
        close_add(s, WS_NORMAL);
}

static const struct ws_calls calls = { client_data, client_control };

static void client_take(struct stream *s, uint8_t *data, size_t len)
{
    s->heard = true;
    if (!s->closing && ws_parse(&s->parser, data, len, &calls, s) < 0)
        close_add(s, WS_PROTOCOL);
}

/* After anything happened; frees it when it is over. */
static void stream_go_on(struct stream *s)
{
    if ((s->peer >= 0 && !s->closing && flush(s->peer, &s->to_peer) < 0))
        close_add(s, WS_GOING);
    if (flush(s->client, &s->to_client) < 0 || (s->closing && !s->to_client.len))
        stream_free(s);
    else
        watches_set(s);
}

static void client_ready(void *arg, unsigned events)
{
    struct stream *s = arg;
    uint8_t data[CHUNK];
    if (events & (LOOP_READ | LOOP_HANGUP)) {
        ssize_t n = recv(s->client, data, sizeof data, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            stream_free(s);
            return;
        }
        if (n > 0)
            client_take(s, data, (size_t)n);
    }
    stream_go_on(s);
}

static void peer_ready(void *arg, unsigned events)
{
    struct stream *s = arg;
    uint8_t data[CHUNK];
    if (events & (LOOP_READ | LOOP_HANGUP)) {
        ssize_t n = recv(s->peer, data, sizeof data, MSG_DONTWAIT);
        if (n > 0) {
            message_add(s, WS_BINARY, data, (size_t)n);
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            loop_watch_destroy(TAKE(s->peer_watch));
            close_add(s, WS_NORMAL);
        }
    }
    stream_go_on(s);
}

/* A client that is gone without a word holds nothing for long. */
static void ping(void *arg)
{
    struct stream *s = arg;
    if (!s->heard) {
        stream_free(s);
        return;
    }
    s->heard = false;
    message_add(s, WS_PING, NULL, 0);
    loop_timer_arm(s->timer, monotonic_ns() + PING_MS * 1000000ull);
    stream_go_on(s);
}

/* ---- events ---- */

static void event_told(void *arg, const json_t *event)
{
    for (struct stream *s = streams, *next; s; s = next) {
        next = s->next;
        if (s->peer >= 0 || !s->client_watch || s->closing)
            continue;
        AUTO(free) char *text = json_dumps(event, JSON_COMPACT);
        if (s->to_client.len > EVENTS_HELD_MAX)
            close_add(s, WS_TOO_SLOW);
        else if (text)
            message_add(s, WS_TEXT, text, strlen(text));
        watches_set(s); /* sent by the loop: whoever tells events may be anywhere */
    }
}

/* ---- beginning ---- */

static void upgraded(void *arg, struct http_stream *http, int fd, const void *early, size_t len)
{
    struct stream *s = arg;
    struct loop *loop = s->daemon->loop;
    if (!http) {
        stream_free(s);
        return;
    }
    s->http = http;
    s->client = fd;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    int r = loop_watch_create(loop, fd, LOOP_READ, client_ready, s, &s->client_watch, NULL);
    if (r == 0)
        r = loop_timer_create(loop, ping, s, &s->timer, NULL);
    if (r == 0 && s->peer >= 0)
        r = loop_watch_create(loop, s->peer, LOOP_READ, peer_ready, s, &s->peer_watch, NULL);
    if (r < 0) {
        stream_free(s);
        return;
    }
    s->heard = true;
    loop_timer_arm(s->timer, monotonic_ns() + PING_MS * 1000000ull);
    AUTO(buf_fini) struct buf copy = { 0 };
    buf_add(&copy, early, len);
    if (len)
        client_take(s, copy.data, len);
    watches_set(s);
}

static bool header_has(const struct http_request *request, const char *name, const char *word)
{
    const char *text = http_header(request, name);
    return text && strcasestr(text, word);
}

bool stream_wanted(const struct http_request *request)
{
    return header_has(request, "Upgrade", "websocket") &&
           header_has(request, "Connection", "upgrade");
}

/* A page of somebody else's must not use the certificate of who looks at it. */
static bool origin_ours(const struct http_request *request)
{
    const char *origin = http_header(request, "Origin"), *host = http_header(request, "Host");
    const char *at = origin ? strstr(origin, "://") : NULL;
    return !origin || (at && host && strcasecmp(at + 3, host) == 0);
}

static void begin(struct daemon *daemon, struct http_request *request, int take_peer)
{
    struct api_error error = { 0 };
    char accept[WS_KEY_TEXT];
    const char *version = http_header(request, "Sec-WebSocket-Version");
    if (!version || strcmp(version, "13") != 0)
        api_fail(&error, 426, "version", "", "WebSockets of version 13 are served");
    else if (!ws_accept(http_header(request, "Sec-WebSocket-Key"), accept))
        api_fail(&error, 400, "invalid", "Sec-WebSocket-Key", "is not 16 bytes in base64");
    else if (!origin_ours(request))
        api_fail(&error, 403, "origin", "", "the page that asks is of another host");
    struct stream *s = error.status ? NULL : calloc(1, sizeof *s);
    if (!s) {
        fd_close(take_peer);
        reply_error(request, &error);
        return;
    }
    *s = (struct stream){ .daemon = daemon, .client = -1, .peer = take_peer, .next = streams };
    streams = s;
    http_reply_header(request, "Upgrade", "websocket");
    http_reply_header(request, "Sec-WebSocket-Accept", accept);
    if (header_has(request, "Sec-WebSocket-Protocol", PROTOCOL))
        http_reply_header(request, "Sec-WebSocket-Protocol", PROTOCOL);
    http_upgrade(request, upgraded, s);
}

void stream_socket(struct daemon *daemon, struct http_request *request, const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct api_error error = { 0 };
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s", path);
    AUTO(fd_close) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (!*path || strlen(path) >= sizeof addr.sun_path ||
        connect(fd, (struct sockaddr *)&addr, sizeof addr) < 0) {
        api_fail(&error, 409, "not-running", "", "the VM does not run, or has none");
        reply_error(request, &error);
        return;
    }
    begin(daemon, request, TAKE_FD(fd));
}

void stream_events(struct daemon *daemon, struct http_request *request)
{
    events_follow(event_told, NULL);
    begin(daemon, request, -1);
}

void streams_close(const struct http *http)
{
    for (struct stream *s = streams, *next; s; s = next) {
        next = s->next;
        if (!http || (s->http && http_of(s->http) == http))
            stream_free(s);
    }
}
