/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An NBD server: handshake and requests of one connection, and the workers that all share
 * (nbd_server.h; NetworkBlockDevice/nbd, doc/proto.md).
 *
 * Invariants:
 *  1. The connection's thread alone reads. Replies are written under `writing`, whole.
 *  2. What a client sends chooses no more memory than REQUEST_MAX bytes for one request and
 *     HELD_MAX for all of a connection, and at most OPTION_MAX for an option.
 *  3. A request is counted in `in_flight` until its reply is out; the thread leaves after the last.
 *  4. After a failed write the connection is `broken`: nothing more is written or carried out.
 */
#include "block/nbd_server.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/text.h"
#include "block/image.h"
#include "block/nbd_wire.h"

#include <assert.h>
#include <endian.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

enum {
    REQUEST_MAX = 32 << 20,
    HELD_MAX = 64 << 20,
    IN_FLIGHT_MAX = 256,
    OPTION_MAX = 16 << 10,
    OPTIONS_MAX = 1000, /* before a client gets to the point */
    HANDSHAKE_S = 20,
    IN_SIZE = 64 << 10,
    EXTENTS_MAX = 512,
    SPLIT_MIN = 64 << 10, /* shorter reads are sent whole, holes or not */
    BLOCK_PREFERRED = 4096,
    WORKERS_LIMIT = 64,
    CONTEXT_BASE = 1, /* id of base:allocation; bitmaps follow */
};
#define CONTEXT_NAME "base:allocation"
#define BITMAP_PREFIX "qemu:dirty-bitmap:"

struct job {
    struct job *next;
    struct conn *conn;
    uint16_t command, flags;
    uint64_t cookie, offset;
    uint32_t len;
    uint8_t *data; /* of a WRITE */
};

struct nbd_server {
    struct nbd_server_options options; /* fixed at create */
    uint64_t size;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct job *first, **tail; /* lock */
    bool stop;                 /* lock */
    pthread_t threads[WORKERS_LIMIT];
    unsigned thread_count;
};

struct plain_io {
    struct nbd_io io;
    int fd;
};

struct conn {
    struct nbd_server *server;
    int fd;
    struct plain_io plain;
    struct nbd_io *io;
    bool tls, no_zeroes, structured;
    bool contexts[1 + NBD_DIRTY_MAX]; /* asked for: base, then the bitmaps */
    uint8_t in[IN_SIZE];              /* read ahead: [in_at, in_end) */
    size_t in_at, in_end;

    pthread_mutex_t writing; /* 1 */
    pthread_mutex_t lock;
    pthread_cond_t less;
    unsigned in_flight; /* lock */
    uint64_t held;      /* lock: bytes of requests in flight */
    atomic_bool broken;
};

/* ---- bytes ---- */

static ssize_t plain_read(struct nbd_io *io, void *data, size_t len)
{
    int fd = CONTAINER_OF(io, struct plain_io, io)->fd;
    ssize_t n;
    while ((n = recv(fd, data, len, 0)) < 0 && errno == EINTR)
        ;
    return n < 0 ? -errno : n;
}

static int plain_write(struct nbd_io *io, struct iovec *iov, unsigned count)
{
    int fd = CONTAINER_OF(io, struct plain_io, io)->fd;
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = count };
    while (msg.msg_iovlen) {
        ssize_t n = sendmsg(fd, &msg, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        for (; msg.msg_iovlen && (size_t)n >= msg.msg_iov->iov_len; msg.msg_iov++, msg.msg_iovlen--)
            n -= (ssize_t)msg.msg_iov->iov_len;
        if (msg.msg_iovlen) {
            msg.msg_iov->iov_base = (char *)msg.msg_iov->iov_base + n;
            msg.msg_iov->iov_len -= (size_t)n;
        }
    }
    return 0;
}

static void plain_close(struct nbd_io *io) {}

static size_t conn_ahead(const struct conn *conn) { return conn->in_end - conn->in_at; }

static int conn_read(struct conn *conn, void *data, size_t len)
{
    uint8_t *to = data;
    while (len) {
        size_t part = conn_ahead(conn) < len ? conn_ahead(conn) : len;
        if (part) {
            memcpy(to, conn->in + conn->in_at, part);
            conn->in_at += part;
            to += part;
            len -= part;
            continue;
        }
        /* Long data goes straight to where it belongs. */
        bool direct = len >= sizeof conn->in;
        ssize_t n =
            conn->io->read(conn->io, direct ? to : conn->in, direct ? len : sizeof conn->in);
        if (n <= 0)
            return n < 0 ? (int)n : -ENODATA;
        if (direct) {
            to += n;
            len -= (size_t)n;
        } else {
            conn->in_at = 0;
            conn->in_end = (size_t)n;
        }
    }
    return 0;
}

static int conn_write(struct conn *conn, struct iovec *iov, unsigned count)
{
    LOCKED(&conn->writing);
    if (conn->broken)
        return -EPIPE;
    int r = conn->io->write(conn->io, iov, count);
    if (r < 0) {
        atomic_store(&conn->broken, true); /* 4 */
        shutdown(conn->fd, SHUT_RDWR);
    }
    return r;
}

/* ---- replies to requests ---- */

static void reply_error(const struct job *job, int negative)
{
    static const char text[] = "the request failed";
    struct {
        struct nbd_wire_chunk chunk;
        uint32_t error;
        uint16_t len;
    } __attribute__((packed)) structured = {
        .chunk = { .magic = htobe32(NBD_CHUNK_MAGIC),
                   .flags = htobe16(NBD_CHUNK_DONE),
                   .type = htobe16(NBD_CHUNK_ERROR),
                   .cookie = htobe64(job->cookie),
                   .len = htobe32(6 + sizeof text - 1) },
        .error = htobe32(nbd_error_of(negative)),
        .len = htobe16(sizeof text - 1),
    };
    struct nbd_wire_simple simple = { .magic = htobe32(NBD_SIMPLE_MAGIC),
                                      .error = htobe32(nbd_error_of(negative)),
                                      .cookie = htobe64(job->cookie) };
    bool chunk = job->conn->structured &&
                 (job->command == NBD_CMD_READ || job->command == NBD_CMD_BLOCK_STATUS);
    struct iovec iov[] = { { chunk ? (void *)&structured : (void *)&simple,
                             chunk ? sizeof structured : sizeof simple },
                           { (void *)(uintptr_t)text, sizeof text - 1 } };
    conn_write(job->conn, iov, chunk ? 2 : 1);
}

static void reply_done(const struct job *job, int result)
{
    if (result < 0) {
        reply_error(job, result);
        return;
    }
    struct nbd_wire_simple simple = { .magic = htobe32(NBD_SIMPLE_MAGIC),
                                      .cookie = htobe64(job->cookie) };
    struct iovec iov = { &simple, sizeof simple };
    conn_write(job->conn, &iov, 1);
}

static int reply_data(const struct job *job, void *data, uint64_t offset, uint32_t len, bool last)
{
    struct {
        struct nbd_wire_chunk chunk;
        uint64_t offset;
    } __attribute__((packed)) head = {
        .chunk = { .magic = htobe32(NBD_CHUNK_MAGIC),
                   .flags = htobe16(last ? NBD_CHUNK_DONE : 0),
                   .type = htobe16(NBD_CHUNK_OFFSET_DATA),
                   .cookie = htobe64(job->cookie),
                   .len = htobe32(len + 8) },
        .offset = htobe64(offset),
    };
    struct iovec iov[] = { { &head, sizeof head }, { data, len } };
    return conn_write(job->conn, iov, 2);
}

static int reply_hole(const struct job *job, uint64_t offset, uint32_t len, bool last)
{
    struct {
        struct nbd_wire_chunk chunk;
        uint64_t offset;
        uint32_t len;
    } __attribute__((packed)) head = {
        .chunk = { .magic = htobe32(NBD_CHUNK_MAGIC),
                   .flags = htobe16(last ? NBD_CHUNK_DONE : 0),
                   .type = htobe16(NBD_CHUNK_OFFSET_HOLE),
                   .cookie = htobe64(job->cookie),
                   .len = htobe32(12) },
        .offset = htobe64(offset),
        .len = htobe32(len),
    };
    struct iovec iov = { &head, sizeof head };
    return conn_write(job->conn, &iov, 1);
}

/* ---- requests ---- */

static struct image *job_image(const struct job *job) { return job->conn->server->options.image; }

static void read_simple(const struct job *job, uint8_t *data)
{
    int r = image_read(job_image(job), data, job->len, job->offset);
    if (r < 0) {
        reply_error(job, r);
        return;
    }
    struct nbd_wire_simple simple = { .magic = htobe32(NBD_SIMPLE_MAGIC),
                                      .cookie = htobe64(job->cookie) };
    struct iovec iov[] = { { &simple, sizeof simple }, { data, job->len } };
    conn_write(job->conn, iov, 2);
}

/* Holes as holes, where the client takes pieces and it is worth a look. */
static void read_structured(const struct job *job, uint8_t *data)
{
    struct image *image = job_image(job);
    bool whole = job->flags & NBD_CMD_FLAG_DF || job->len < SPLIT_MIN;
    for (uint32_t at = 0; at < job->len;) {
        struct image_extent extent = { .len = job->len - at };
        unsigned depth;
        uint64_t offset = job->offset + at;
        int r = whole ? 0 : image_map(image, offset, job->len - at, &extent, &depth);
        bool zero = r == 0 && extent.flags & IMAGE_ZERO;
        if (r == 0 && !zero)
            r = image_read(image, data, extent.len, offset);
        if (r < 0) {
            reply_error(job, r);
            return;
        }
        uint32_t len = (uint32_t)extent.len;
        at += len;
        r = zero ? reply_hole(job, offset, len, at == job->len)
                 : reply_data(job, data, offset, len, at == job->len);
        if (r < 0)
            return;
    }
}

static void job_read(const struct job *job)
{
    AUTO(free) uint8_t *data = malloc(job->len);
    if (!data)
        reply_error(job, -ENOMEM);
    else if (job->conn->structured)
        read_structured(job, data);
    else
        read_simple(job, data);
}

/* One extent: its state, and its length of at most `len`. */
static int status_base(const struct job *job, uint64_t offset, uint64_t len, uint32_t *state,
                       uint64_t *out)
{
    struct image_extent extent;
    unsigned depth;
    int r = image_map(job_image(job), offset, len, &extent, &depth);
    if (r < 0)
        return r;
    *out = extent.len;
    *state = extent.flags & IMAGE_ZERO ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0;
    return 0;
}

static void status_dirty(const struct nbd_dirty *bitmap, uint64_t offset, uint64_t len,
                         uint32_t *state, uint64_t *out)
{
    uint64_t bit = offset >> bitmap->granularity_bits, last = bit;
    bool dirty = bit < bitmap->count && bitmap->bits[bit / 8] >> (bit & 7) & 1;
    while (((last + 1) << bitmap->granularity_bits) < offset + len) {
        bool next =
            last + 1 < bitmap->count && bitmap->bits[(last + 1) / 8] >> ((last + 1) & 7) & 1;
        if (next != dirty)
            break;
        last++;
    }
    uint64_t end = (last + 1) << bitmap->granularity_bits;
    *out = end < offset + len ? end - offset : len;
    *state = dirty;
}

static int status_of(const struct job *job, unsigned context, bool last)
{
    struct {
        struct nbd_wire_chunk chunk;
        uint32_t context;
        uint32_t extents[EXTENTS_MAX][2];
    } __attribute__((packed)) head;
    const struct nbd_server_options *options = &job->conn->server->options;
    unsigned n = 0, max = job->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : EXTENTS_MAX;
    uint32_t state_before = 0;
    for (uint64_t at = 0; at < job->len;) {
        uint64_t len = job->len - at;
        uint32_t state = 0;
        int r = 0;
        if (context == 0)
            r = status_base(job, job->offset + at, len, &state, &len);
        else
            status_dirty(&options->bitmaps[context - 1], job->offset + at, len, &state, &len);
        if (r < 0)
            return r;
        bool same = n && state == state_before;
        if (!same && n == max)
            break;
        if (!same) {
            head.extents[n][0] = 0;
            head.extents[n++][1] = htobe32(state);
            state_before = state;
        }
        head.extents[n - 1][0] = htobe32(be32toh(head.extents[n - 1][0]) + (uint32_t)len);
        at += len;
    }
    uint32_t len = 4 + n * 8;
    head.chunk = (struct nbd_wire_chunk){ .magic = htobe32(NBD_CHUNK_MAGIC),
                                          .flags = htobe16(last ? NBD_CHUNK_DONE : 0),
                                          .type = htobe16(NBD_CHUNK_BLOCK_STATUS),
                                          .cookie = htobe64(job->cookie),
                                          .len = htobe32(len) };
    head.context = htobe32(CONTEXT_BASE + context);
    struct iovec iov = { &head, sizeof head.chunk + len };
    conn_write(job->conn, &iov, 1);
    return 0;
}

static void job_status(const struct job *job)
{
    const bool *contexts = job->conn->contexts;
    unsigned count = 1 + job->conn->server->options.bitmap_count, last = count;
    for (unsigned i = 0; i < count; i++)
        last = contexts[i] ? i : last;
    if (last == count || !job->conn->structured || !job->len) {
        reply_error(job, -EINVAL);
        return;
    }
    for (unsigned i = 0; i <= last; i++) {
        int r = contexts[i] ? status_of(job, i, i == last) : 0;
        if (r < 0) {
            reply_error(job, r);
            return;
        }
    }
}

static int job_change(const struct job *job)
{
    struct image *image = job_image(job);
    int r = -EINVAL;
    switch (job->command) {
    case NBD_CMD_WRITE: r = image_write(image, job->data, job->len, job->offset); break;
    case NBD_CMD_TRIM: r = image_discard(image, job->offset, job->len); break;
    case NBD_CMD_WRITE_ZEROES:
        r = image_zero(image, job->offset, job->len,
                       job->flags & NBD_CMD_FLAG_NO_HOLE ? 0 : IMAGE_UNMAP);
        break;
    case NBD_CMD_FLUSH: return image_flush(image);
    }
    return r == 0 && job->flags & NBD_CMD_FLAG_FUA ? image_flush(image) : r;
}

static int job_check(const struct job *job)
{
    static const uint16_t flags[] = {
        [NBD_CMD_READ] = NBD_CMD_FLAG_DF,
        [NBD_CMD_WRITE] = NBD_CMD_FLAG_FUA,
        [NBD_CMD_FLUSH] = 0,
        [NBD_CMD_TRIM] = NBD_CMD_FLAG_FUA,
        [NBD_CMD_WRITE_ZEROES] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE,
        [NBD_CMD_BLOCK_STATUS] = NBD_CMD_FLAG_REQ_ONE,
    };
    const struct nbd_server *server = job->conn->server;
    bool writes = job->command == NBD_CMD_WRITE || job->command == NBD_CMD_TRIM ||
                  job->command == NBD_CMD_WRITE_ZEROES;
    if (job->command >= ARRAY_LEN(flags) || job->command == NBD_CMD_CACHE ||
        /* Clients put FUA on anything; it means nothing without a change. */
        job->flags & ~(flags[job->command] | NBD_CMD_FLAG_FUA))
        return -EINVAL;
    if (writes && server->options.readonly)
        return -EPERM;
    if (job->command == NBD_CMD_FLUSH)
        return 0;
    if (!range_fits(job->offset, job->len, server->size))
        return writes ? -ENOSPC : -EINVAL;
    return job->command == NBD_CMD_READ && job->len > REQUEST_MAX ? -EINVAL : 0;
}

static void job_run(const struct job *job)
{
    int r = job->conn->broken ? -EPIPE : job_check(job);
    if (r < 0)
        reply_error(job, r);
    else if (job->command == NBD_CMD_READ && job->len)
        job_read(job);
    else if (job->command == NBD_CMD_BLOCK_STATUS)
        job_status(job);
    else if (job->command == NBD_CMD_READ && job->conn->structured)
        reply_error(job, -EINVAL); /* nothing asked for, and no reply has that form */
    else
        reply_done(job, job->command == NBD_CMD_READ ? 0 : job_change(job));
}

/* What a request holds in memory while it is under way (2). */
static uint64_t job_bytes(const struct job *job)
{
    bool data = job->command == NBD_CMD_READ || job->command == NBD_CMD_WRITE;
    return data && job->len <= REQUEST_MAX ? job->len : 0; /* longer ones are refused */
}

static void job_end(struct job *job)
{
    struct conn *conn = job->conn;
    uint64_t bytes = job_bytes(job);
    free(job->data);
    free(job);
    LOCKED(&conn->lock);
    conn->held -= bytes;
    conn->in_flight--;
    pthread_cond_signal(&conn->less); /* under the lock: the connection may be gone right after */
}

/* ---- workers ---- */

static void *worker_run(void *arg)
{
    struct nbd_server *server = arg;
    pthread_setname_np(pthread_self(), "nbd-worker");
    for (;;) {
        pthread_mutex_lock(&server->lock);
        while (!server->first && !server->stop)
            pthread_cond_wait(&server->work, &server->lock);
        struct job *job = server->first;
        if (job) {
            server->first = job->next;
            if (!server->first)
                server->tail = &server->first;
        }
        pthread_mutex_unlock(&server->lock);
        if (!job)
            return NULL;
        job_run(job);
        job_end(job);
    }
}

static void job_hand_over(struct nbd_server *server, struct job *job)
{
    LOCKED(&server->lock);
    job->next = NULL;
    *server->tail = job;
    server->tail = &job->next;
    pthread_cond_signal(&server->work);
}

/* ---- transmission ---- */

/* Waits until one more request fits. False: the connection is broken. */
static bool job_admit(struct conn *conn, uint64_t bytes)
{
    LOCKED(&conn->lock);
    while (conn->in_flight && !conn->broken &&
           (conn->in_flight >= IN_FLIGHT_MAX || conn->held + bytes > HELD_MAX))
        pthread_cond_wait(&conn->less, &conn->lock);
    if (conn->broken)
        return false;
    conn->in_flight++;
    conn->held += bytes;
    return true;
}

static int job_take(struct conn *conn, struct job **out)
{
    struct nbd_wire_request wire;
    int r = conn_read(conn, &wire, sizeof wire);
    if (r < 0)
        return r;
    struct job new = {
        .conn = conn,
        .command = be16toh(wire.type),
        .flags = be16toh(wire.flags),
        .cookie = be64toh(wire.cookie),
        .offset = be64toh(wire.offset),
        .len = be32toh(wire.len),
    };
    if (be32toh(wire.magic) != NBD_REQUEST_MAGIC ||
        (new.command == NBD_CMD_WRITE &&new.len > REQUEST_MAX))
        return -EPROTO;
    if (new.command == NBD_CMD_DISC)
        return -ENODATA;
    if (new.command == NBD_CMD_READ &&new.len > REQUEST_MAX)
        new.len = REQUEST_MAX + 1; /* refused, and must not be counted */
    struct job *job = malloc(sizeof *job);
    if (!job)
        return -ENOMEM;
    *job = new;
    if (!job_admit(conn, job_bytes(job))) {
        free(job);
        return -EPIPE;
    }
    if (job->command == NBD_CMD_WRITE && job->len) {
        job->data = malloc(job->len);
        r = job->data ? conn_read(conn, job->data, job->len) : -ENOMEM;
    }
    if (r < 0)
        job_end(job);
    else
        *out = job;
    return r;
}

/* A single request is carried out here, which saves waking a worker; more go side by side. */
static void transmission(struct conn *conn)
{
    struct nbd_server *server = conn->server;
    struct job *job;
    int r;
    while ((r = job_take(conn, &job)) == 0) {
        pthread_mutex_lock(&conn->lock);
        bool alone = conn->in_flight == 1;
        pthread_mutex_unlock(&conn->lock);
        if (!server->thread_count || (alone && !conn_ahead(conn))) {
            job_run(job);
            job_end(job);
        } else {
            job_hand_over(server, job);
        }
    }
    if (r == -EPROTO)
        log_guest("NBD: a client breaks the protocol; hung up");
    LOCKED(&conn->lock);
    while (conn->in_flight) /* 3 */
        pthread_cond_wait(&conn->less, &conn->lock);
}

/* ---- the handshake ---- */

static int option_reply(struct conn *conn, uint32_t option, uint32_t type, const void *data,
                        size_t len)
{
    struct nbd_wire_option_reply head = { .magic = htobe64(NBD_OPTS_REPLY_MAGIC),
                                          .option = htobe32(option),
                                          .type = htobe32(type),
                                          .len = htobe32((uint32_t)len) };
    struct iovec iov[] = { { &head, sizeof head }, { (void *)(uintptr_t)data, len } };
    return conn_write(conn, iov, len ? 2 : 1);
}

static uint16_t export_flags(const struct conn *conn)
{
    unsigned flags =
        NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_CAN_MULTI_CONN;
    if (conn->structured)
        flags |= NBD_FLAG_SEND_DF;
    if (conn->server->options.readonly)
        flags |= NBD_FLAG_READ_ONLY;
    else
        flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES;
    return (uint16_t)flags;
}

static bool export_is(const struct conn *conn, const uint8_t *name, size_t len)
{
    const char *ours = conn->server->options.name;
    return strlen(ours) == len && !memcmp(ours, name, len);
}

static int option_export_name(struct conn *conn, const uint8_t *data, uint32_t len)
{
    struct {
        uint64_t size;
        uint16_t flags;
        uint8_t zeroes[124];
    } __attribute__((packed))
    reply = { .size = htobe64(conn->server->size), .flags = htobe16(export_flags(conn)) };
    if (!export_is(conn, data, len))
        return -ENODATA; /* this old option has no way to say so */
    struct iovec iov = { &reply, conn->no_zeroes ? 10 : sizeof reply };
    return conn_write(conn, &iov, 1);
}

static int option_list(struct conn *conn, uint32_t len)
{
    AUTO(buf_fini) struct buf reply = { 0 };
    const char *name = conn->server->options.name;
    if (len)
        return option_reply(conn, NBD_OPT_LIST, NBD_REP_ERR_INVALID, NULL, 0);
    uint32_t name_len = htobe32((uint32_t)strlen(name));
    buf_add(&reply, &name_len, sizeof name_len);
    buf_add(&reply, name, strlen(name));
    int r = option_reply(conn, NBD_OPT_LIST, NBD_REP_SERVER, reply.data, reply.len);
    return r < 0 ? r : option_reply(conn, NBD_OPT_LIST, NBD_REP_ACK, NULL, 0);
}

static int info_text(struct conn *conn, uint32_t option, enum nbd_info type, const char *text)
{
    AUTO(buf_fini) struct buf reply = { 0 };
    uint16_t head = htobe16((uint16_t)type);
    buf_add(&reply, &head, sizeof head);
    buf_add(&reply, text, strlen(text));
    return option_reply(conn, option, NBD_REP_INFO, reply.data, reply.len);
}

static int info_send(struct conn *conn, uint32_t option, uint16_t type)
{
    const struct nbd_server_options *options = &conn->server->options;
    struct {
        uint16_t type;
        uint32_t min, preferred, max;
    } __attribute__((packed)) sizes = { htobe16(NBD_INFO_BLOCK_SIZE), htobe32(1),
                                        htobe32(BLOCK_PREFERRED), htobe32(REQUEST_MAX) };
    switch (type) {
    case NBD_INFO_NAME: return info_text(conn, option, NBD_INFO_NAME, options->name);
    case NBD_INFO_DESCRIPTION:
        return options->description
                   ? info_text(conn, option, NBD_INFO_DESCRIPTION, options->description)
                   : 0;
    case NBD_INFO_BLOCK_SIZE: return option_reply(conn, option, NBD_REP_INFO, &sizes, sizeof sizes);
    default: return 0; /* NBD_INFO_EXPORT is sent in any case, others need no answer */
    }
}

static uint32_t get_be32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return be32toh(v);
}
static uint16_t get_be16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return be16toh(v);
}

/* GO and INFO: name, then a list of what is wanted. Answers 1 when a GO went through. */
static int option_go(struct conn *conn, uint32_t option, const uint8_t *data, uint32_t len)
{
    struct {
        uint16_t type;
        uint64_t size;
        uint16_t flags;
    } __attribute__((packed)) export = { htobe16(NBD_INFO_EXPORT), htobe64(conn->server->size),
                                         htobe16(export_flags(conn)) };
    uint32_t name_len = len >= 6 ? get_be32(data) : 0;
    if (len < 6 || name_len > len - 6 || get_be16(data + 4 + name_len) * 2ull != len - 6 - name_len)
        return option_reply(conn, option, NBD_REP_ERR_INVALID, NULL, 0);
    if (!export_is(conn, data + 4, name_len))
        return option_reply(conn, option, NBD_REP_ERR_UNKNOWN, NULL, 0);
    int r = option_reply(conn, option, NBD_REP_INFO, &export, sizeof export);
    for (uint32_t at = 6 + name_len; r == 0 && at < len; at += 2)
        r = info_send(conn, option, get_be16(data + at));
    if (r == 0)
        r = option_reply(conn, option, NBD_REP_ACK, NULL, 0);
    return r < 0 ? r : option == NBD_OPT_GO;
}

static int context_reply(struct conn *conn, uint32_t option, unsigned context)
{
    AUTO(buf_fini) struct buf reply = { 0 };
    uint32_t id = htobe32(option == NBD_OPT_SET_META_CONTEXT ? CONTEXT_BASE + context : 0);
    buf_add(&reply, &id, sizeof id);
    if (context)
        buf_printf(&reply, BITMAP_PREFIX "%s", conn->server->options.bitmaps[context - 1].name);
    else
        buf_printf(&reply, CONTEXT_NAME);
    return option_reply(conn, option, NBD_REP_META_CONTEXT, reply.data, reply.len);
}

/* Does a query mean the context? "base:" and "qemu:dirty-bitmap:" mean all of them in a LIST. */
static bool context_matches(const struct conn *conn, unsigned context, const uint8_t *query,
                            uint32_t len, bool list)
{
    char name[1200], namespace[32];
    if (context) {
        snprintf(name, sizeof name, BITMAP_PREFIX "%s",
                 conn->server->options.bitmaps[context - 1].name);
        snprintf(namespace, sizeof namespace, "qemu:");
    } else {
        snprintf(name, sizeof name, CONTEXT_NAME);
        snprintf(namespace, sizeof namespace, "base:");
    }
    if (len == strlen(name) && !memcmp(query, name, len))
        return true;
    bool all = (len == strlen(namespace) && !memcmp(query, namespace, len)) ||
               (context && len == strlen(BITMAP_PREFIX) && !memcmp(query, BITMAP_PREFIX, len));
    return list && all;
}

static int option_context(struct conn *conn, uint32_t option, const uint8_t *data, uint32_t len)
{
    bool set = option == NBD_OPT_SET_META_CONTEXT, wanted[1 + NBD_DIRTY_MAX] = { false };
    unsigned count = 1 + conn->server->options.bitmap_count;
    uint32_t name_len = len >= 8 ? get_be32(data) : 0, at = 8 + name_len;
    if (len < 8 || name_len > len - 8 || (set && !conn->structured))
        return option_reply(conn, option, NBD_REP_ERR_INVALID, NULL, 0);
    if (set)
        memset(conn->contexts, 0, sizeof conn->contexts);
    if (!export_is(conn, data + 4, name_len))
        return option_reply(conn, option, NBD_REP_ERR_UNKNOWN, NULL, 0);
    uint32_t queries = get_be32(data + 4 + name_len);
    for (unsigned c = 0; !queries && !set && c < count; c++)
        wanted[c] = true;
    for (uint32_t i = 0; i < queries; i++) {
        uint32_t query_len = len - at >= 4 ? get_be32(data + at) : UINT32_MAX;
        if (len - at < 4 || query_len > len - at - 4)
            return option_reply(conn, option, NBD_REP_ERR_INVALID, NULL, 0);
        for (unsigned c = 0; c < count; c++)
            wanted[c] |= context_matches(conn, c, data + at + 4, query_len, !set);
        at += 4 + query_len;
    }
    if (at != len)
        return option_reply(conn, option, NBD_REP_ERR_INVALID, NULL, 0);
    int r = 0;
    for (unsigned c = 0; r == 0 && c < count; c++)
        if (wanted[c])
            r = context_reply(conn, option, c);
    if (set)
        memcpy(conn->contexts, wanted, sizeof conn->contexts);
    return r < 0 ? r : option_reply(conn, option, NBD_REP_ACK, NULL, 0);
}

static int option_starttls(struct conn *conn, uint32_t len)
{
    const struct nbd_server_options *options = &conn->server->options;
    struct nbd_io *io;
    if (len || conn->tls)
        return option_reply(conn, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID, NULL, 0);
    if (!options->start_tls)
        return option_reply(conn, NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY, NULL, 0);
    /* What came before the answer was not meant for the session, whoever sent it. */
    if (conn_ahead(conn))
        return -EPROTO;
    int r = option_reply(conn, NBD_OPT_STARTTLS, NBD_REP_ACK, NULL, 0);
    if (r == 0)
        r = options->start_tls(options->arg, conn->fd, &io);
    if (r < 0)
        return r;
    conn->io = io;
    conn->tls = true;
    conn->structured = false;
    memset(conn->contexts, 0, sizeof conn->contexts);
    return 0;
}

/* 1: on to the transmission; 0: one more option. */
static int option_answer(struct conn *conn, uint32_t option, const uint8_t *data, uint32_t len)
{
    int r;
    if (conn->server->options.start_tls && !conn->tls && option != NBD_OPT_STARTTLS &&
        option != NBD_OPT_ABORT)
        return option == NBD_OPT_EXPORT_NAME
                   ? -EPERM
                   : option_reply(conn, option, NBD_REP_ERR_TLS_REQD, NULL, 0);
    switch (option) {
    case NBD_OPT_EXPORT_NAME: r = option_export_name(conn, data, len); return r < 0 ? r : 1;
    case NBD_OPT_ABORT: option_reply(conn, option, NBD_REP_ACK, NULL, 0); return -ENODATA;
    case NBD_OPT_LIST: return option_list(conn, len);
    case NBD_OPT_STARTTLS: return option_starttls(conn, len);
    case NBD_OPT_INFO:
    case NBD_OPT_GO: return option_go(conn, option, data, len);
    case NBD_OPT_STRUCTURED_REPLY:
        if (len)
            return option_reply(conn, option, NBD_REP_ERR_INVALID, NULL, 0);
        conn->structured = true;
        return option_reply(conn, option, NBD_REP_ACK, NULL, 0);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT: return option_context(conn, option, data, len);
    default: return option_reply(conn, option, NBD_REP_ERR_UNSUP, NULL, 0);
    }
}

static int handshake(struct conn *conn)
{
    struct {
        uint64_t magic, options;
        uint16_t flags;
    } __attribute__((packed)) greeting = { htobe64(NBD_MAGIC), htobe64(NBD_OPTS_MAGIC),
                                           htobe16(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES) };
    struct iovec iov = { &greeting, sizeof greeting };
    uint32_t flags = 0;
    int r = conn_write(conn, &iov, 1);
    if (r == 0)
        r = conn_read(conn, &flags, sizeof flags);
    flags = be32toh(flags);
    if (r < 0 || flags & ~(uint32_t)(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES))
        return r < 0 ? r : -EPROTO;
    conn->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    AUTO(free) uint8_t *data = malloc(OPTION_MAX);
    if (!data)
        return -ENOMEM;
    for (unsigned i = 0; r == 0 && i < OPTIONS_MAX; i++) {
        struct nbd_wire_option head;
        r = conn_read(conn, &head, sizeof head);
        uint32_t len = be32toh(head.len);
        if (r == 0 && (be64toh(head.magic) != NBD_OPTS_MAGIC || len > OPTION_MAX))
            return -EPROTO;
        if (r == 0)
            r = conn_read(conn, data, len);
        if (r == 0)
            r = option_answer(conn, be32toh(head.option), data, len);
    }
    return r;
}

/* ---- connections and the server ---- */

static void receive_timeout(int fd, int seconds)
{
    const struct timeval limit = { .tv_sec = seconds };
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

void nbd_serve(struct nbd_server *server, int fd)
{
    struct conn *conn = calloc(1, sizeof *conn);
    if (!conn)
        return;
    conn->server = server;
    conn->fd = fd;
    conn->plain = (struct plain_io){ { plain_read, plain_write, plain_close }, fd };
    conn->io = &conn->plain.io;
    pthread_mutex_init(&conn->writing, NULL);
    pthread_mutex_init(&conn->lock, NULL);
    pthread_cond_init(&conn->less, NULL);
    receive_timeout(fd, HANDSHAKE_S);
    int r = handshake(conn);
    if (r == -EPROTO)
        log_guest("NBD: a client breaks the protocol; hung up");
    receive_timeout(fd, 0);
    if (r > 0)
        transmission(conn);
    conn->io->close(conn->io);
    shutdown(fd, SHUT_RDWR);
    pthread_cond_destroy(&conn->less);
    pthread_mutex_destroy(&conn->lock);
    pthread_mutex_destroy(&conn->writing);
    free(conn);
}

void nbd_server_destroy(struct nbd_server *server)
{
    if (!server)
        return;
    {
        LOCKED(&server->lock);
        server->stop = true;
        pthread_cond_broadcast(&server->work);
    }
    for (unsigned i = 0; i < server->thread_count; i++)
        pthread_join(server->threads[i], NULL);
    pthread_cond_destroy(&server->work);
    pthread_mutex_destroy(&server->lock);
    free(server);
}

int nbd_server_create(const struct nbd_server_options *options, struct nbd_server **out,
                      struct err *err)
{
    assert(options->bitmap_count <= NBD_DIRTY_MAX && options->workers <= WORKERS_LIMIT);
    struct nbd_server *new = calloc(1, sizeof *new);
    if (!new)
        return err_set(err, ENOMEM, "out of memory");
    new->options = *options;
    new->options.name = options->name ? options->name : "";
    new->size = image_size(options->image);
    new->tail = &new->first;
    pthread_mutex_init(&new->lock, NULL);
    pthread_cond_init(&new->work, NULL);
    AUTO(nbd_server_destroy) struct nbd_server *server = new;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int r = 0;
    while (r == 0 && server->thread_count < options->workers) {
        r = pthread_create(&server->threads[server->thread_count], NULL, worker_run, server);
        server->thread_count += r == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r && !server->thread_count)
        return err_errno(err, r, "cannot start a thread");
    *out = TAKE(server);
    return 0;
}
