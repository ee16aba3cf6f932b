/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Between a virtio-serial port and bedplate-display.
 *
 * What the guest sends waits in `out` until the helper takes it; the guest waits while that is more
 * than half full. A single request of the guest that is longer than what is left loses its end: no
 * driver makes one. What the helper sends waits, a frame at a time, in `in` until the port takes
 * it.
 */
#include "display/agent_link.h"

#include "base/loop.h"
#include "display/agent_wire.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { OUT_MAX = 128 << 10, FRAME_HEAD = sizeof(struct agent_frame) };

struct agent_link {
    struct loop *loop;
    size_t (*input)(void *arg, const uint8_t *data, size_t len); /* fixed before the guest runs */
    void (*output_go)(void *arg);
    void *arg;

    pthread_mutex_t lock;
    uint32_t session; /* lock; counts openings */
    bool open;        /* lock */
    bool announced;   /* lock: the session has begun for the helper, or soon will */
    bool refused;     /* lock: the guest waits for room */
    bool lost;        /* lock: the helper is gone; what the guest sends vanishes */
    size_t out_len;   /* lock */
    uint8_t out[OUT_MAX];
    atomic_bool posted; /* link_go is on its way */

    /* Loop */
    int fd; /* owned; -1: the helper is gone */
    struct loop_watch *watch;
    uint8_t in[FRAME_HEAD + AGENT_FRAME_MAX];
    size_t in_len, in_taken; /* taken: of the frame's bytes, by the port */
};

static void link_lost(struct agent_link *link)
{
    bool go;
    loop_watch_destroy(TAKE(link->watch));
    close(link->fd);
    link->fd = -1;
    {
        LOCKED(&link->lock);
        link->lost = true;
        link->out_len = 0;
        go = link->refused;
        link->refused = false;
    }
    if (go)
        link->output_go(link->arg);
}

/* ---- to the guest; loop ---- */

static bool of_this_session(struct agent_link *link, uint32_t session)
{
    LOCKED(&link->lock);
    return link->open && session == link->session;
}

/* Gives the port the rest of a whole frame; false: it has no room. */
static bool frame_give(struct agent_link *link)
{
    struct agent_frame frame;
    memcpy(&frame, link->in, sizeof frame);
    if (of_this_session(link, frame.session))
        link->in_taken += link->input(link->arg, link->in + FRAME_HEAD + link->in_taken,
                                      frame.len - link->in_taken);
    else
        link->in_taken = frame.len;
    if (link->in_taken < frame.len)
        return false;
    link->in_len = link->in_taken = 0;
    return true;
}

static bool frame_whole(const struct agent_link *link)
{
    struct agent_frame frame;
    if (link->in_len < FRAME_HEAD)
        return false;
    memcpy(&frame, link->in, sizeof frame);
    return link->in_len == FRAME_HEAD + frame.len;
}

/* 1: more may come; 0: nothing now; -1: the helper is gone, or talks nonsense. */
static int frame_read(struct agent_link *link)
{
    struct agent_frame frame = { 0 };
    if (link->in_len >= FRAME_HEAD)
        memcpy(&frame, link->in, sizeof frame);
    ssize_t n = recv(link->fd, link->in + link->in_len, FRAME_HEAD + frame.len - link->in_len,
                     MSG_DONTWAIT);
    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    link->in_len += (size_t)n;
    if (link->in_len == FRAME_HEAD)
        memcpy(&frame, link->in, sizeof frame);
    return frame.len > AGENT_FRAME_MAX ? -1 : 1;
}

/* False: the port has no room. */
static bool input_run(struct agent_link *link)
{
    enum { BUDGET = 64 }; /* frames, before others run */
    for (unsigned i = 0; i < BUDGET; i++) {
        int r = frame_whole(link) ? 1 : frame_read(link);
        if (r < 0)
            link_lost(link);
        if (r <= 0)
            return true;
        if (frame_whole(link) && !frame_give(link))
            return false;
    }
    return true;
}

/* ---- from the guest ---- */

/* Lock held; the caller has looked for room. */
static void out_add(struct agent_link *link, const uint8_t *data, size_t len)
{
    struct agent_frame frame = { link->session, (uint32_t)len };
    memcpy(link->out + link->out_len, &frame, FRAME_HEAD);
    if (len)
        memcpy(link->out + link->out_len + FRAME_HEAD, data, len);
    link->out_len += FRAME_HEAD + len;
}

/* Loop. Answers whether something waits for the helper; *go: the guest waits and need not. */
static bool output_run(struct agent_link *link, bool *go)
{
    LOCKED(&link->lock);
    if (!link->announced && link->out_len + FRAME_HEAD <= OUT_MAX) {
        link->announced = true;
        out_add(link, NULL, 0);
    }
    ssize_t n = send(link->fd, link->out, link->out_len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) {
        link->out_len -= (size_t)n;
        memmove(link->out, link->out + n, link->out_len);
    }
    *go = link->refused && link->out_len <= OUT_MAX / 2;
    link->refused &= !*go;
    return link->out_len;
}

/* ---- both; loop ---- */

static void link_run(struct agent_link *link)
{
    bool go = false;
    if (link->fd < 0)
        return;
    bool room = input_run(link);
    if (link->fd < 0)
        return;
    bool waits = output_run(link, &go);
    loop_watch_events(link->watch, (room ? LOOP_READ : 0) | (waits ? LOOP_WRITE : 0));
    if (go)
        link->output_go(link->arg);
}

static void link_ready(void *arg, unsigned events)
{
    struct agent_link *link = arg;
    if (events & LOOP_HANGUP)
        link_lost(link);
    else
        link_run(link);
}

static void link_go(void *arg)
{
    struct agent_link *link = arg;
    atomic_store(&link->posted, false);
    link_run(link);
}

static void link_post(struct agent_link *link)
{
    if (!atomic_exchange(&link->posted, true))
        loop_post(link->loop, link_go, link);
}

/* ---- for the port ---- */

void agent_link_opened(struct agent_link *link, bool open)
{
    {
        LOCKED(&link->lock);
        link->open = open;
        link->announced = !open;
        link->session += open;
    }
    link_post(link);
}

bool agent_link_output_room(struct agent_link *link)
{
    LOCKED(&link->lock);
    link->refused = link->out_len > OUT_MAX / 2;
    return !link->refused;
}

void agent_link_output(struct agent_link *link, const uint8_t *data, size_t len)
{
    {
        LOCKED(&link->lock);
        for (size_t at = 0, n; at < len && !link->lost; at += n) {
            n = len - at < AGENT_FRAME_MAX ? len - at : AGENT_FRAME_MAX;
            if (link->out_len + FRAME_HEAD + n > OUT_MAX)
                break;
            out_add(link, data + at, n);
        }
    }
    link_post(link);
}

void agent_link_input_room(struct agent_link *link) { link_post(link); }

/* ---- life ---- */

void agent_link_set_port(struct agent_link *link,
                         size_t (*input)(void *arg, const uint8_t *data, size_t len),
                         void (*output_go)(void *arg), void *arg)
{
    link->input = input;
    link->output_go = output_go;
    link->arg = arg;
}

int agent_link_create(struct loop *loop, int *helper_fd, struct agent_link **out, struct err *err)
{
    int pair[2];
    struct agent_link *link = calloc(1, sizeof *link);
    if (!link)
        return err_set(err, ENOMEM, "out of memory");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        int code = errno;
        free(link);
        return err_errno(err, code, "cannot make a socket pair");
    }
    pthread_mutex_init(&link->lock, NULL);
    link->announced = true;
    link->loop = loop;
    link->fd = pair[0];
    int r = loop_watch_create(loop, link->fd, LOOP_READ, link_ready, link, &link->watch, err);
    if (r < 0) {
        close(pair[0]);
        close(pair[1]);
        free(link);
        return r;
    }
    *helper_fd = pair[1];
    *out = link;
    return 0;
}

void agent_link_destroy(struct agent_link *link)
{
    if (!link)
        return;
    if (link->watch)
        loop_watch_destroy(link->watch);
    fd_close(link->fd);
    pthread_mutex_destroy(&link->lock);
    free(link);
}
