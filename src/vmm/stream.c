/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads: `ring` and `out` belong to the lock, the writer thread sleeps on `wake`. The loop owns
 * the rest.
 *
 *  1. The writer holds no lock while it writes, so a peer that stands still stops nobody but the
 * writer.
 *  2. A client's descriptor is closed by the loop, after the writer was made to let go of it.
 *  3. A watch reports a hang-up even while it asks for nothing, so input that has to wait has no
 * watch at all.
 *  4. A stream with a filter is always read: the keys that end a VM must work when its guest takes
 * no input.
 */
#include "vmm/stream.h"

#include "base/checked.h"
#include "base/log.h"

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

enum { RING_SIZE = 1 << 20, INPUT_SIZE = 4096, WRITE_SIZE = 16384, DRAIN_MS = 1000 };

struct stream {
    char name[64];     /* fixed at create */
    struct loop *loop; /* fixed at create */
    bool owns_out;     /* fixed at create: a file or clients */

    /* loop */
    int in, listener;
    struct loop_watch *in_watch, *listen_watch;
    bool in_is_file; /* epoll cannot watch it, but it never blocks for long */
    bool in_ended;
    uint8_t input[INPUT_SIZE]; /* read, but not taken by the port yet */
    size_t input_len;
    size_t (*take_input)(void *arg, const uint8_t *data, size_t len);
    void *take_arg;
    size_t (*filter)(void *arg, uint8_t *data, size_t len);
    void *filter_arg;
    _Atomic bool room_posted;

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake, drained;
    int out;            /* lock; -1: nobody there */
    bool out_broken;    /* lock: writing failed, everything is thrown away */
    bool writing;       /* lock */
    bool ending;        /* lock */
    uint64_t head, len; /* lock; of the ring: oldest byte and how many */
    uint64_t lost;      /* lock */
    uint8_t ring[RING_SIZE];
};

/* ---- output ---- */

void stream_write(struct stream *stream, const void *data, size_t len)
{
    LOCKED(&stream->lock);
    if (stream->out_broken)
        return;
    const uint8_t *bytes = data;
    if (len > RING_SIZE) {
        bytes += len - RING_SIZE;
        len = RING_SIZE;
    }
    if (stream->len + len > RING_SIZE) {
        uint64_t over = stream->len + len - RING_SIZE;
        stream->head += over;
        stream->len -= over;
        stream->lost += over;
        if (stream->out >= 0)
            log_guest("%s: the output is not read; the oldest of it is lost", stream->name);
    }
    for (size_t i = 0; i < len;) {
        size_t at = (stream->head + stream->len) % RING_SIZE;
        size_t n = len - i < RING_SIZE - at ? len - i : RING_SIZE - at;
        memcpy(stream->ring + at, bytes + i, n);
        stream->len += n;
        i += n;
    }
    pthread_cond_signal(&stream->wake);
}

uint64_t stream_lost(struct stream *stream)
{
    LOCKED(&stream->lock);
    return stream->lost;
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

static void writer_failed(struct stream *stream, int code)
{
    if (stream->listener >=
        0) { /* the loop sees the hang-up; what was not written waits for the next client */
        if (stream->out >= 0)
            shutdown(stream->out, SHUT_RDWR);
        stream->out = -1;
        return;
    }
    if (code != EPIPE && code != EIO)
        log_warning("%s: cannot write the output: %s", stream->name, strerror(code));
    stream->out_broken = true;
    stream->len = 0;
}

static void *writer_run(void *arg)
{
    struct stream *stream = arg;
    uint8_t chunk[WRITE_SIZE];
    pthread_mutex_lock(&stream->lock);
    for (;;) {
        bool idle = stream->len == 0 || stream->out < 0;
        if (idle)
            pthread_cond_broadcast(&stream->drained);
        if (idle && stream->ending)
            break;
        if (idle) {
            pthread_cond_wait(&stream->wake, &stream->lock);
            continue;
        }
        size_t at = stream->head % RING_SIZE;
        size_t n = stream->len < RING_SIZE - at ? stream->len : RING_SIZE - at;
        n = n < WRITE_SIZE ? n : WRITE_SIZE;
        memcpy(chunk, stream->ring + at, n);
        stream->head += n;
        stream->len -= n;
        int fd = stream->out;
        stream->writing = true;
        pthread_mutex_unlock(&stream->lock);
        int r = bytes_out(fd, chunk, n); /* 1 */
        pthread_mutex_lock(&stream->lock);
        stream->writing = false;
        pthread_cond_broadcast(&stream->drained);
        if (r < 0)
            writer_failed(stream, -r);
    }
    pthread_mutex_unlock(&stream->lock);
    return NULL;
}

/* ---- input ---- */

static void client_gone(struct stream *stream)
{
    loop_watch_destroy(TAKE(stream->in_watch));
    shutdown(stream->in, SHUT_RDWR);
    LOCKED(&stream->lock);
    stream->out = -1;
    while (stream->writing) /* not for long: its write fails now */
        pthread_cond_wait(&stream->drained, &stream->lock);
    close(TAKE_FD(stream->in));
    stream->input_len = 0;
    loop_watch_events(stream->listen_watch, LOOP_READ);
}

static void input_end(struct stream *stream)
{
    if (stream->listener >= 0) {
        client_gone(stream);
        return;
    }
    /* The end of standard input does not end the VM. */
    loop_watch_destroy(TAKE(stream->in_watch));
    stream->in_ended = true;
}

/* Offers what was read; true when all of it was taken. */
static bool input_offer(struct stream *stream)
{
    if (stream->input_len && stream->take_input) {
        size_t n = stream->take_input(stream->take_arg, stream->input, stream->input_len);
        stream->input_len -= n;
        memmove(stream->input, stream->input + n, stream->input_len);
    }
    return stream->input_len == 0;
}

/* Appends what there is to read. What does not fit is lost, which only a filter's stream comes to
 * (4). */
static bool input_read(struct stream *stream)
{
    uint8_t data[INPUT_SIZE];
    ssize_t n = read(stream->in, data, sizeof data);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return false;
    if (n <= 0) {
        input_end(stream);
        return false;
    }
    size_t len = stream->filter ? stream->filter(stream->filter_arg, data, (size_t)n) : (size_t)n;
    size_t room = INPUT_SIZE - stream->input_len;
    len = len < room ? len : room;
    memcpy(stream->input + stream->input_len, data, len);
    stream->input_len += len;
    return true;
}

static void input_ready(void *arg, unsigned events)
{
    struct stream *stream = arg;
    if (input_read(stream) && !input_offer(stream) && !stream->filter)
        loop_watch_destroy(TAKE(stream->in_watch)); /* 3 */
}

/* -EPERM: a file, which is always ready. */
static int input_watch(struct stream *stream, struct err *err)
{
    if (stream->in_watch)
        return 0;
    return loop_watch_create(stream->loop, stream->in, LOOP_READ, input_ready, stream,
                             &stream->in_watch, err);
}

static void input_pump_file(struct stream *stream)
{
    while (!stream->in_ended && input_offer(stream) && input_read(stream)) {
    }
}

static void room_run(void *arg)
{
    struct stream *stream = arg;
    atomic_store(&stream->room_posted, false);
    if (stream->in < 0 || stream->in_ended)
        return;
    if (stream->in_is_file)
        input_pump_file(stream);
    else if (input_offer(stream) && input_watch(stream, NULL) < 0)
        input_end(stream);
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

/* ---- clients ---- */

static void client_arrived(void *arg, unsigned events)
{
    struct stream *stream = arg;
    int fd = accept4(stream->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    pthread_mutex_lock(&stream->lock);
    bool busy = stream->in >= 0 || stream->out >= 0;
    pthread_mutex_unlock(&stream->lock);
    if (busy) {
        log_info("%s: a second client was refused", stream->name);
        close(fd);
        return;
    }
    stream->in = fd;
    if (input_watch(stream, NULL) < 0) {
        close(TAKE_FD(stream->in));
        return;
    }
    LOCKED(&stream->lock);
    stream->out = fd;
    pthread_cond_signal(&stream->wake);
}

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

/* ---- create and destroy ---- */

static int stream_new(struct loop *loop, const char *name, struct stream **result, struct err *err)
{
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return err_set(err, ENOMEM, "out of memory");
    snprintf(stream->name, sizeof stream->name, "%s", name);
    stream->loop = loop;
    stream->in = stream->out = stream->listener = -1;
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->wake, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&stream->drained, &attr);
    pthread_condattr_destroy(&attr);

    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int code = pthread_create(&stream->thread, NULL, writer_run, stream);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (code) {
        free(stream);
        return err_errno(err, code, "%s: cannot create a thread", name);
    }
    pthread_setname_np(stream->thread, "writer");
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
    stream->in = in;
    r = in < 0 ? 0 : input_watch(stream, err);
    if (r == -EPERM)
        stream->in_is_file = true;
    else if (r == -EBADF) /* started with standard input closed */
        stream->in = -1;
    else if (r < 0)
        return err_prefix(err, "%s", name);
    pthread_mutex_lock(&stream->lock);
    stream->out = out;
    pthread_mutex_unlock(&stream->lock);
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

int stream_create_unix(struct loop *loop, const char *name, const char *path,
                       struct stream **result, struct err *err)
{
    AUTO(fd_close) int fd = stream_listen(path, err);
    if (fd < 0)
        return err_prefix(err, "%s", name);
    AUTO(stream_destroy) struct stream *stream = NULL;
    int r = stream_new(loop, name, &stream, err);
    if (r == 0)
        r = loop_watch_create(loop, fd, LOOP_READ, client_arrived, stream, &stream->listen_watch,
                              err);
    if (r < 0)
        return r;
    stream->listener = TAKE_FD(fd);
    stream->owns_out = true;
    *result = TAKE(stream);
    return 0;
}

/* Waits for the writer to have nothing left, but not for a reader that never comes. */
static bool writer_drain(struct stream *stream)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += DRAIN_MS / 1000;
    LOCKED(&stream->lock);
    stream->ending = true;
    pthread_cond_signal(&stream->wake);
    while ((stream->len && stream->out >= 0) || stream->writing)
        if (pthread_cond_timedwait(&stream->drained, &stream->lock, &until) == ETIMEDOUT)
            return false;
    return true;
}

void stream_destroy(struct stream *stream)
{
    if (!stream)
        return;
    loop_watch_destroy(stream->in_watch);
    loop_watch_destroy(stream->listen_watch);
    if (!writer_drain(stream)) {
        /* The thread stands in a write that may never end, and it needs the stream. The process
         * ends soon anyhow. */
        pthread_detach(stream->thread);
        return;
    }
    pthread_join(stream->thread, NULL);
    if (stream->listener >= 0) {
        fd_close(stream->listener);
        fd_close(stream->in); /* out is the same, or gone */
    } else if (stream->owns_out) {
        fd_close(stream->out);
    }
    pthread_cond_destroy(&stream->wake);
    pthread_cond_destroy(&stream->drained);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}
