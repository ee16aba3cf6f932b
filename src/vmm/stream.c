/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads: the ring and positions in it belong to the lock, the writer thread sleeps on `wake`. The
 * loop owns the rest. Positions count all bytes that ever came; the ring holds the last RING_SIZE.
 *
 *  1. The writer holds no lock while it writes, so a descriptor that stands still stops nobody but
 *     the writer. Viewers are written to by the loop, which never waits for one.
 *  2. Whoever reads too slowly misses the oldest output. Nobody waits for him.
 *  3. A watch reports a hang-up even while it asks for nothing. So a peer whose input has to wait,
 *     and that is owed nothing, has no watch at all: it may have said its last word and gone.
 *  4. A stream with a filter is always read: the keys that end a VM must work when its guest takes
 *     no input.
 */
#include "vmm/stream.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/text.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

enum { RING_SIZE = STREAM_HISTORY, INPUT_SIZE = 4096, CHUNK = 16384, DRAIN_MS = 1000 };
enum { CHUNKS_A_TURN = 16 };

/* Who types: standard input, or a viewer, who also looks. Loop, but for `at`. */
struct peer {
    struct stream *stream;
    struct peer *next; /* viewers */
    int fd;            /* -1: none. A viewer's is owned */
    struct loop_watch *watch;
    bool viewer;
    bool is_file;              /* epoll cannot watch it, but it never blocks for long */
    bool in_ended, out_ended;  /* nothing more will come from it; go to it */
    bool behind;               /* a viewer whose socket is full */
    uint8_t input[INPUT_SIZE]; /* read, but not taken by the port yet */
    size_t input_len;
    uint64_t at; /* lock: what a viewer has been sent */
};

struct stream {
    char name[64];     /* fixed at create */
    struct loop *loop; /* fixed at create */
    bool owns_out;     /* fixed at create: a file */
    bool has_writer;   /* fixed at create */
    size_t tail;       /* fixed at create */

    /* loop */
    int listener;
    struct loop_watch *listen_watch;
    struct peer stdin_peer; /* has no descriptor where there is none */
    struct peer *viewers;
    size_t (*take_input)(void *arg, const uint8_t *data, size_t len);
    void *take_arg;
    size_t (*filter)(void *arg, uint8_t *data, size_t len);
    void *filter_arg;
    _Atomic bool room_posted, feed_posted;
    _Atomic unsigned viewer_count; /* changed by the loop */
    void (*output_go)(void *arg);
    void *output_go_arg;

    pthread_t thread; /* the writer, if it has one */
    pthread_mutex_t lock;
    pthread_cond_t wake, drained;
    int out;           /* lock; the writer's; -1: none */
    bool out_broken;   /* lock; writing failed, the rest is only kept */
    bool writing;      /* lock */
    bool ending;       /* lock */
    uint64_t written;  /* lock: position that the writer has come to */
    uint64_t end;      /* lock: position behind the newest byte */
    uint64_t seen;     /* lock: nobody has got anything behind it */
    uint64_t lost;     /* lock */
    uint64_t slowest;  /* lock: where the slowest viewer is; UINT64_MAX: there is none */
    bool output_waits; /* lock: output_go is owed */
    uint8_t ring[RING_SIZE];
};

/* ---- the ring; lock held ---- */

static uint64_t ring_start(const struct stream *stream)
{
    return stream->end > RING_SIZE ? stream->end - RING_SIZE : 0;
}

static void ring_append(struct stream *stream, const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len;) {
        size_t at = stream->end % RING_SIZE;
        size_t n = len - i < RING_SIZE - at ? len - i : RING_SIZE - at;
        memcpy(stream->ring + at, bytes + i, n);
        stream->end += n;
        i += n;
    }
}

/* Copies from *at on, or from the oldest byte behind it, which *at becomes then. */
static size_t ring_copy(const struct stream *stream, uint64_t *at, uint8_t *out, size_t room)
{
    if (*at < ring_start(stream))
        *at = ring_start(stream);
    size_t len = stream->end - *at < room ? (size_t)(stream->end - *at) : room;
    size_t from = *at % RING_SIZE, first = len < RING_SIZE - from ? len : RING_SIZE - from;
    memcpy(out, stream->ring + from, first);
    memcpy(out + first, stream->ring, len - first);
    return len;
}

static void ring_seen(struct stream *stream, uint64_t at)
{
    if (at > stream->seen)
        stream->seen = at;
}

/* ---- output ---- */

static void viewers_feed(void *arg);

void stream_write(struct stream *stream, const void *data, size_t len)
{
    {
        LOCKED(&stream->lock);
        ring_append(stream, data, len);
        if (stream->seen < ring_start(stream)) {
            stream->lost += ring_start(stream) - stream->seen;
            stream->seen = ring_start(stream);
            if (stream->has_writer || stream->viewer_count)
                log_guest("%s: the output is not read; the oldest of it is lost", stream->name);
        }
        pthread_cond_signal(&stream->wake);
    }
    if (stream->viewer_count && !atomic_exchange(&stream->feed_posted, true))
        loop_post(stream->loop, viewers_feed, stream);
}

uint64_t stream_lost(struct stream *stream)
{
    LOCKED(&stream->lock);
    return stream->lost;
}

uint64_t stream_history(struct stream *stream, size_t most, struct buf *out)
{
    LOCKED(&stream->lock);
    uint64_t at = stream->end > most ? stream->end - most : 0;
    if (at < ring_start(stream))
        at = ring_start(stream);
    size_t len = (size_t)(stream->end - at);
    ring_copy(stream, &at, buf_grow(out, len), len);
    return at;
}

/* Some bytes to a descriptor that may be a socket; 0 or -errno. */
static int bytes_out(int fd, const uint8_t *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, data + done, len - done);
        if (n > 0) {
            done += (size_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            struct pollfd wait = { .fd = fd, .events = POLLOUT };
            poll(&wait, 1, -1);
        } else if (n == 0 || errno != EINTR) {
            return n == 0 ? -EIO : -errno;
        }
    }
    return 0;
}

static void *writer_run(void *arg)
{
    struct stream *stream = arg;
    uint8_t chunk[CHUNK];
    pthread_mutex_lock(&stream->lock);
    for (;;) {
        bool idle = stream->written == stream->end || stream->out_broken;
        if (idle)
            pthread_cond_broadcast(&stream->drained);
        if (idle && stream->ending)
            break;
        if (idle) {
            pthread_cond_wait(&stream->wake, &stream->lock);
            continue;
        }
        size_t n = ring_copy(stream, &stream->written, chunk, sizeof chunk);
        stream->written += n;
        ring_seen(stream, stream->written);
        int fd = stream->out;
        stream->writing = true;
        pthread_mutex_unlock(&stream->lock);
        int r = bytes_out(fd, chunk, n); /* 1 */
        pthread_mutex_lock(&stream->lock);
        stream->writing = false;
        if (r < 0) {
            if (r != -EPIPE && r != -EIO)
                log_warning("%s: cannot write the output: %s", stream->name, strerror(-r));
            stream->out_broken = true;
        }
    }
    pthread_mutex_unlock(&stream->lock);
    return NULL;
}

/* ---- input ---- */

static void peer_ready(void *arg, unsigned events);

/* 3: what it is watched for follows from what it waits for. */
static int peer_watch(struct peer *peer)
{
    bool waits = peer->input_len && !peer->stream->filter;
    unsigned events = (peer->in_ended || waits ? 0 : LOOP_READ) | (peer->behind ? LOOP_WRITE : 0);
    if (waits && !events) {
        if (peer->watch)
            loop_watch_destroy(TAKE(peer->watch));
        return 0;
    }
    if (!peer->watch)
        return loop_watch_create(peer->stream->loop, peer->fd, events, peer_ready, peer,
                                 &peer->watch, NULL);
    loop_watch_events(peer->watch, events);
    return 0;
}

static void viewer_gone(struct peer *peer)
{
    struct stream *stream = peer->stream;
    struct peer **at = &stream->viewers;
    while (*at != peer)
        at = &(*at)->next;
    *at = peer->next;
    if (peer->watch)
        loop_watch_destroy(peer->watch);
    close(peer->fd);
    free(peer);
    stream->viewer_count--;
}

/* Offers what was read; true when all of it was taken. */
static bool input_offer(struct peer *peer)
{
    struct stream *stream = peer->stream;
    if (peer->input_len && stream->take_input) {
        size_t n = stream->take_input(stream->take_arg, peer->input, peer->input_len);
        peer->input_len -= n;
        memmove(peer->input, peer->input + n, peer->input_len);
    }
    return peer->input_len == 0;
}

/* Appends what there is to read; false: nothing, or the end. What does not fit is lost, which only
 * a filter's stream comes to (4). */
static bool input_read(struct peer *peer)
{
    struct stream *stream = peer->stream;
    uint8_t data[INPUT_SIZE];
    ssize_t n = read(peer->fd, data, sizeof data);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return false;
    if (n <= 0) {
        peer->in_ended = true; /* that of standard input does not end the VM */
        return false;
    }
    size_t len = stream->filter ? stream->filter(stream->filter_arg, data, (size_t)n) : (size_t)n;
    size_t room = INPUT_SIZE - peer->input_len;
    len = len < room ? len : room;
    memcpy(peer->input + peer->input_len, data, len);
    peer->input_len += len;
    return true;
}

/* For files and viewers, which reading never waits for. */
static void input_pump(struct peer *peer)
{
    while (input_offer(peer) && !peer->in_ended && input_read(peer)) {
    }
}

/* ---- viewers ---- */

/* Sends what the socket takes (1); sets `behind` when it is full. */
static void viewer_feed(struct peer *peer)
{
    struct stream *stream = peer->stream;
    uint8_t chunk[CHUNK];
    peer->behind = false;
    for (unsigned i = 0; i < CHUNKS_A_TURN && !peer->out_ended; i++) {
        size_t len;
        {
            LOCKED(&stream->lock);
            len = ring_copy(stream, &peer->at, chunk, sizeof chunk);
        }
        if (!len)
            return;
        ssize_t n = send(peer->fd, chunk, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            peer->out_ended = true;
        if (n < 0)
            break;
        LOCKED(&stream->lock);
        peer->at += (uint64_t)n;
        ring_seen(stream, peer->at);
    }
    peer->behind = !peer->out_ended; /* also: enough for one turn */
}

/* After each change: watches what there is to wait for; a viewer that is done goes. */
static void peer_settle(struct peer *peer)
{
    if (!peer->viewer && peer->in_ended) {
        if (peer->watch)
            loop_watch_destroy(TAKE(peer->watch));
        return;
    }
    bool done = peer->in_ended && peer->out_ended && !peer->input_len;
    if (peer->viewer && (done || peer_watch(peer) < 0))
        viewer_gone(peer);
    else if (!peer->viewer && peer_watch(peer) < 0)
        peer->in_ended = true;
}

/* ---- output that can wait ---- */

/* Lock held. */
static bool output_has_room(const struct stream *stream)
{
    return stream->slowest >= stream->end || stream->end - stream->slowest < RING_SIZE / 2;
}

/* After viewers have moved on, come or gone. */
static void output_settle(struct stream *stream)
{
    bool go;
    {
        LOCKED(&stream->lock);
        stream->slowest = UINT64_MAX;
        for (const struct peer *peer = stream->viewers; peer; peer = peer->next)
            if (!peer->out_ended && peer->at < stream->slowest)
                stream->slowest = peer->at;
        go = stream->output_waits && output_has_room(stream);
        stream->output_waits &= !go;
    }
    if (go)
        stream->output_go(stream->output_go_arg);
}

bool stream_output_room(struct stream *stream)
{
    LOCKED(&stream->lock);
    bool room = output_has_room(stream);
    stream->output_waits |= !room;
    return room;
}

void stream_set_output_room(struct stream *stream, void (*go)(void *arg), void *arg)
{
    stream->output_go = go;
    stream->output_go_arg = arg;
}

/* ---- viewers come and go ---- */

static void peer_ready(void *arg, unsigned events)
{
    struct peer *peer = arg;
    struct stream *stream = peer->stream;
    if (peer->viewer)
        input_pump(peer); /* what it said before it hung up, too */
    else if ((!peer->input_len || peer->stream->filter) && input_read(peer))
        input_offer(peer);
    if (events & LOOP_HANGUP)
        peer->out_ended = true;
    if (peer->viewer && events & LOOP_WRITE)
        viewer_feed(peer);
    peer_settle(peer);
    output_settle(stream);
}

static void viewers_feed(void *arg)
{
    struct stream *stream = arg;
    atomic_store(&stream->feed_posted, false);
    for (struct peer *peer = stream->viewers, *next; peer; peer = next) {
        next = peer->next;
        if (peer->behind)
            continue; /* its socket will say when it takes more */
        viewer_feed(peer);
        peer_settle(peer);
    }
    output_settle(stream);
}

/* One that has gone but whose last words still wait for the port makes room for a new one. */
static bool viewer_room(struct stream *stream)
{
    for (struct peer *peer = stream->viewers; peer && stream->viewer_count == STREAM_VIEWERS;
         peer = peer->next) {
        struct pollfd look = { .fd = peer->fd };
        if (poll(&look, 1, 0) == 1 && look.revents & POLLHUP) {
            viewer_gone(peer);
            return true;
        }
    }
    return stream->viewer_count < STREAM_VIEWERS;
}

static void viewer_arrived(void *arg, unsigned events)
{
    struct stream *stream = arg;
    AUTO(fd_close) int fd = accept4(stream->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    struct peer *peer = viewer_room(stream) ? calloc(1, sizeof *peer) : NULL;
    if (!peer) {
        log_info("%s: one viewer more than %d was refused", stream->name, STREAM_VIEWERS);
        return;
    }
    *peer = (struct peer){
        .stream = stream, .next = stream->viewers, .fd = TAKE_FD(fd), .viewer = true
    };
    stream->viewers = peer;
    stream->viewer_count++;
    {
        LOCKED(&stream->lock);
        peer->at = stream->end > stream->tail ? stream->end - stream->tail : 0;
    }
    viewer_feed(peer);
    peer_settle(peer);
    output_settle(stream);
}

/* ---- more room ---- */

static void peer_room(struct peer *peer)
{
    if (peer->viewer || peer->is_file)
        input_pump(peer);
    else
        input_offer(peer);
    if (!peer->is_file)
        peer_settle(peer);
}

static void room_run(void *arg)
{
    struct stream *stream = arg;
    atomic_store(&stream->room_posted, false);
    if (stream->stdin_peer.fd >= 0)
        peer_room(&stream->stdin_peer);
    for (struct peer *peer = stream->viewers, *next; peer; peer = next) {
        next = peer->next;
        peer_room(peer);
    }
}

void stream_more_room(struct stream *stream)
{
    if (!atomic_exchange(&stream->room_posted, true))
        loop_post(stream->loop, room_run, stream);
}

void stream_set_input(struct stream *stream,
                      size_t (*input)(void *arg, const uint8_t *data, size_t len), void *arg)
{
    stream->take_input = input;
    stream->take_arg = arg;
    stream_more_room(stream);
}

void stream_set_filter(struct stream *stream,
                       size_t (*filter)(void *arg, uint8_t *data, size_t len), void *arg)
{
    stream->filter = filter;
    stream->filter_arg = arg;
}

/* ---- create and destroy ---- */

int stream_listen(const char *path, struct err *err)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof addr.sun_path)
        return err_set(err, ENAMETOOLONG,
                       "%s: too long for a socket; take a path of at most %zu bytes", path,
                       sizeof addr.sun_path - 1);
    strcpy(addr.sun_path, path);

    AUTO(fd_close) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_errno(err, errno, "%s: cannot create a socket", path);
    struct stat st;
    if (lstat(path, &st) == 0) {
        if (!S_ISSOCK(st.st_mode))
            return err_set(err, EEXIST,
                           "%s: exists and is no socket; remove it or take another path", path);
        AUTO(fd_close) int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (probe >= 0 &&
            (connect(probe, (struct sockaddr *)&addr, sizeof addr) == 0 || errno == EAGAIN))
            return err_set(err, EADDRINUSE, "%s: another process listens there; take another path",
                           path);
        unlink(path);
    }
    mode_t old = umask(0077);
    int r = bind(fd, (struct sockaddr *)&addr, sizeof addr);
    int code = errno;
    umask(old);
    if (r < 0 || listen(fd, 16) < 0)
        return err_errno(err, r < 0 ? code : errno, "%s: cannot listen", path);
    return TAKE_FD(fd);
}

static int writer_start(struct stream *stream, struct err *err)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int code = pthread_create(&stream->thread, NULL, writer_run, stream);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (code)
        return err_errno(err, code, "%s: cannot create a thread", stream->name);
    pthread_setname_np(stream->thread, "writer");
    stream->has_writer = true;
    return 0;
}

static int stream_new(struct loop *loop, const char *name, struct stream **result, struct err *err)
{
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return err_set(err, ENOMEM, "out of memory");
    snprintf(stream->name, sizeof stream->name, "%s", name);
    stream->loop = loop;
    stream->stdin_peer = (struct peer){ .stream = stream, .fd = -1 };
    stream->out = stream->listener = -1;
    stream->slowest = UINT64_MAX;
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->wake, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&stream->drained, &attr);
    pthread_condattr_destroy(&attr);
    *result = stream;
    return 0;
}

int stream_create(struct loop *loop, const char *name, int in, int out, struct stream **result,
                  struct err *err)
{
    AUTO(stream_destroy) struct stream *stream = NULL;
    int r = stream_new(loop, name, &stream, err);
    if (r < 0)
        return r;
    struct peer *peer = &stream->stdin_peer;
    peer->fd = in;
    r = in < 0 ? 0 : loop_watch_create(loop, in, LOOP_READ, peer_ready, peer, &peer->watch, err);
    if (r == -EPERM) /* a file, which is always ready */
        peer->is_file = true;
    else if (r == -EBADF) /* started with standard input closed */
        peer->fd = -1;
    else if (r < 0)
        return err_prefix(err, "%s", name);
    stream->out = out;
    r = writer_start(stream, err);
    if (r < 0)
        return r;
    *result = TAKE(stream);
    return 0;
}

int stream_create_file(struct loop *loop, const char *name, const char *path,
                       struct stream **result, struct err *err)
{
    /* A pipe that nobody reads yet must not keep us from starting. */
    AUTO(fd_close)
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666);
    if (fd < 0)
        return err_errno(err, errno, "%s: cannot open %s", name, path);
    int r = stream_create(loop, name, -1, fd, result, err);
    if (r < 0)
        return r;
    (*result)->owns_out = true;
    TAKE_FD(fd);
    return 0;
}

int stream_create_unix(struct loop *loop, const char *name, const char *path, size_t tail,
                       struct stream **result, struct err *err)
{
    AUTO(stream_destroy) struct stream *stream = NULL;
    int r = stream_new(loop, name, &stream, err);
    if (r < 0)
        return r;
    stream->tail = tail;
    stream->listener = stream_listen(path, err);
    if (stream->listener < 0)
        return err_prefix(err, "%s", name);
    r = loop_watch_create(loop, stream->listener, LOOP_READ, viewer_arrived, stream,
                          &stream->listen_watch, err);
    if (r < 0)
        return r;
    *result = TAKE(stream);
    return 0;
}

/* Waits for the writer to have nothing left, but not for a reader that never comes. */
static bool writer_drain(struct stream *stream, const struct timespec *until)
{
    LOCKED(&stream->lock);
    stream->ending = true;
    pthread_cond_signal(&stream->wake);
    while ((stream->written < stream->end && !stream->out_broken) || stream->writing)
        if (pthread_cond_timedwait(&stream->drained, &stream->lock, until) == ETIMEDOUT)
            return false;
    return true;
}

static int ms_until(const struct timespec *until)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t ms = (until->tv_sec - now.tv_sec) * 1000 + (until->tv_nsec - now.tv_nsec) / 1000000;
    return ms > 0 ? (int)ms : 0;
}

static void viewers_drain(struct stream *stream, const struct timespec *until)
{
    for (struct peer *peer; (peer = stream->viewers);) {
        viewer_feed(peer);
        struct pollfd wait = { .fd = peer->fd, .events = POLLOUT };
        if (!peer->behind || poll(&wait, 1, ms_until(until)) <= 0)
            viewer_gone(peer);
    }
}

void stream_destroy(struct stream *stream)
{
    if (!stream)
        return;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += DRAIN_MS / 1000;
    if (stream->stdin_peer.watch)
        loop_watch_destroy(stream->stdin_peer.watch);
    if (stream->listen_watch)
        loop_watch_destroy(stream->listen_watch);
    viewers_drain(stream, &until);
    if (stream->has_writer && !writer_drain(stream, &until)) {
        /* The thread stands in a write that may never end, and it needs the stream. The process
         * ends soon anyhow. */
        pthread_detach(stream->thread);
        return;
    }
    if (stream->has_writer)
        pthread_join(stream->thread, NULL);
    fd_close(stream->listener);
    if (stream->owns_out)
        fd_close(stream->out);
    pthread_cond_destroy(&stream->wake);
    pthread_cond_destroy(&stream->drained);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}
