/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of the VM to an NBD server and answers back (nbd_relay.h).
 *
 * A lost connection is made again, at growing intervals. Meanwhile requests wait, for at most
 * `reconnect` seconds since the loss; then they fail with EIO until a connection is there. Nothing
 * is lost by that, even when the server came back from a power cut and had forgotten what no flush
 * had covered:
 *
 *  1. A write that was acknowledged is kept, with its data, in `log` until a flush that began after
 *     the acknowledgement has succeeded. The log is bounded: past LOG_FLUSH bytes the relay
 *     flushes by itself, past LOG_STALL it takes no more requests until that is done.
 *  2. After a loss all connections are closed. The log is written again, one after the other in the
 *     order of acknowledgement, before any other request goes out; then what was unanswered.
 *  3. Writes that were never acknowledged may overlap each other in any order: no driver has more
 *     than one such write under way.
 *
 * What this cannot see: a server that goes on with requests of a connection that is gone, after it
 * has served the new one.
 */
#include "block/nbd_relay.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/loop.h"

#include <endian.h>
#include <libnbd.h>
#include <poll.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
    CONNECTIONS_MAX = 16,
    CONNECT_MS = 15000,
    BACK_OFF_MIN_MS = 100,
    BACK_OFF_MAX_MS = 10000,
    REQUEST_MAX = 32 << 20,
    TRANSFER_DEFAULT = 2 << 20,
    LOG_FLUSH = 16 << 20,
    LOG_STALL = 64 << 20,
    LOG_ENTRY = 512, /* what an entry costs besides its data */
    OPS_MAX = 512,
    HELD_MAX = 64 << 20, /* bytes of data in ops and replies */
    ZERO_CHUNK = 1 << 20,
    REPLY_IOV = 32,
};
#define CONTEXT "base:allocation"

struct conn {
    struct nbd_handle *h; /* NULL: none */
    bool up, leaving;
    unsigned in_flight;
    uint64_t started_ns;
};

struct op {
    TAILQ_ENTRY(op) link; /* queue, active, finished or log */
    struct nbd_relay *relay;
    uint16_t command, flags;
    uint64_t cookie, offset;
    uint32_t len;
    uint8_t *data;
    struct conn *conn; /* while active */
    uint64_t sent_ns;
    bool internal; /* nobody waits for an answer */
    bool done, flushing;
    bool again; /* a connection was lost under it */
    uint64_t arrived_ns;
    int error;
    uint32_t zeroed; /* WRITE_ZEROES done by writes so far */
    uint32_t status, status_len;
    uint64_t log_mark; /* FLUSH: log entries below it are covered; in the log: its number */
};
TAILQ_HEAD(op_list, op);

struct reply {
    STAILQ_ENTRY(reply) link;
    uint8_t head[64];
    uint32_t head_len, data_len, sent;
    uint8_t *data;
};

struct nbd_relay {
    struct nbd_relay_config config;
    struct conn conns[CONNECTIONS_MAX];
    unsigned conn_count; /* that the server allows and the user wants */
    struct nbd_export export;
    bool can_flush, can_fua, can_zero, can_status;

    struct op_list queue, active, finished, log;
    unsigned ops;  /* in queue, active and finished */
    uint64_t held; /* their bytes, and those of replies */
    uint64_t log_bytes, log_next;
    bool log_flushing;      /* an internal flush is queued or active */
    bool replaying;         /* 2: nothing else is sent */
    struct op *replay_next; /* in the log; NULL: the end */
    bool replay_busy, replay_done;
    int replay_error;
    uint64_t replay_sent_ns;
    bool sync_failed; /* a logged write could not be done again: flushes fail from now on */

    bool lost; /* no connection since lost_ns */
    uint64_t lost_ns, retry_ns;
    unsigned back_off_ms;
    bool was_up;

    STAILQ_HEAD(, reply) replies;
    struct nbd_wire_request in;
    size_t in_have;   /* of the header */
    struct op *in_op; /* whose data arrives */
    uint32_t in_data;
};

static uint8_t zeros[ZERO_CHUNK];

/* ---- ops and replies ---- */

static void op_free(struct op *op)
{
    free(op->data);
    free(op);
}

static struct reply *reply_add(struct nbd_relay *relay, const void *head, size_t len)
{
    struct reply *reply = calloc(1, sizeof *reply);
    if (!reply)
        abort();
    memcpy(reply->head, head, len);
    reply->head_len = (uint32_t)len;
    STAILQ_INSERT_TAIL(&relay->replies, reply, link);
    return reply;
}

static void reply_simple(struct nbd_relay *relay, const struct op *op, uint32_t error)
{
    const struct nbd_wire_simple simple = { .magic = htobe32(NBD_SIMPLE_MAGIC),
                                            .error = htobe32(error),
                                            .cookie = htobe64(op->cookie) };
    reply_add(relay, &simple, sizeof simple);
}

static struct nbd_wire_chunk reply_chunk(const struct op *op, uint16_t type, uint32_t len)
{
    return (struct nbd_wire_chunk){ .magic = htobe32(NBD_CHUNK_MAGIC),
                                    .flags = htobe16(NBD_CHUNK_DONE),
                                    .type = htobe16(type),
                                    .cookie = htobe64(op->cookie),
                                    .len = htobe32(len) };
}

static void reply_read(struct nbd_relay *relay, struct op *op)
{
    struct {
        struct nbd_wire_chunk chunk;
        uint64_t offset;
    } __attribute__((packed)) head = {
        .chunk = reply_chunk(op, NBD_CHUNK_OFFSET_DATA, op->len + (uint32_t)sizeof(uint64_t)),
        .offset = htobe64(op->offset),
    };
    struct reply *reply = reply_add(relay, &head, sizeof head);
    reply->data = TAKE(op->data);
    reply->data_len = op->len;
    relay->held += op->len;
}

static void reply_status(struct nbd_relay *relay, const struct op *op)
{
    struct {
        struct nbd_wire_chunk chunk;
        uint32_t context, len, status;
    } __attribute__((packed)) head = {
        .chunk = reply_chunk(op, NBD_CHUNK_BLOCK_STATUS, 3 * sizeof(uint32_t)),
        .context = htobe32(1),
        .len = htobe32(op->status_len),
        .status = htobe32(op->status),
    };
    reply_add(relay, &head, sizeof head);
}

static void log_drop(struct nbd_relay *relay, uint64_t mark)
{
    struct op *op;
    while ((op = TAILQ_FIRST(&relay->log)) && op->log_mark < mark) {
        TAILQ_REMOVE(&relay->log, op, link);
        relay->log_bytes -= LOG_ENTRY + (op->data ? op->len : 0);
        op_free(op);
    }
}

/* Answers and disposes of an op that is on no list. */
static void op_end(struct nbd_relay *relay, struct op *op, int error)
{
    relay->ops--;
    relay->held -= op->data ? op->len : 0;
    if (op->command == NBD_CMD_FLUSH && !error)
        log_drop(relay, op->log_mark);
    if (op->internal)
        relay->log_flushing = false;
    else if (error)
        reply_simple(relay, op, nbd_error_of(-error));
    else if (op->command == NBD_CMD_READ)
        reply_read(relay, op);
    else if (op->command == NBD_CMD_BLOCK_STATUS)
        reply_status(relay, op);
    else
        reply_simple(relay, op, 0);

    bool writes = op->command == NBD_CMD_WRITE || op->command == NBD_CMD_WRITE_ZEROES;
    if (!writes || error || !relay->can_flush || op->flags & NBD_CMD_FLAG_FUA) {
        op_free(op);
        return;
    }
    op->log_mark = relay->log_next++; /* 1 */
    relay->log_bytes += LOG_ENTRY + (op->data ? op->len : 0);
    TAILQ_INSERT_TAIL(&relay->log, op, link);
}

/* ---- libnbd ---- */

/* Inside libnbd: only notes it. */
static int op_answered(void *user, int *error)
{
    struct op *op = user;
    op->error = *error;
    op->done = true;
    TAILQ_REMOVE(&op->relay->active, op, link);
    TAILQ_INSERT_TAIL(&op->relay->finished, op, link);
    return 1;
}

static int op_extent(void *user, const char *context, uint64_t offset, uint32_t *entries,
                     size_t count, int *error)
{
    struct op *op = user;
    if (!strcmp(context, CONTEXT) && count >= 2 && entries[0]) {
        op->status_len = entries[0] < op->len ? entries[0] : op->len;
        op->status = entries[1];
    }
    return 0;
}

/* Hands the op, which is on no list, to a connection. */
static void op_issue(struct nbd_relay *relay, struct op *op, struct conn *conn)
{
    const nbd_completion_callback done = { .callback = op_answered, .user_data = op };
    const nbd_extent_callback extent = { .callback = op_extent, .user_data = op };
    uint32_t fua = relay->can_fua ? op->flags & NBD_CMD_FLAG_FUA : 0;
    int64_t r = -1;
    op->conn = conn;
    op->done = false;
    op->sent_ns = monotonic_ns();
    conn->in_flight++;
    TAILQ_INSERT_TAIL(&relay->active, op, link);
    switch (op->flushing ? NBD_CMD_FLUSH : op->command) {
    case NBD_CMD_READ: r = nbd_aio_pread(conn->h, op->data, op->len, op->offset, done, 0); break;
    case NBD_CMD_WRITE:
        r = nbd_aio_pwrite(conn->h, op->data, op->len, op->offset, done, fua);
        break;
    case NBD_CMD_FLUSH:
        if (!op->flushing)
            op->log_mark = relay->log_next;
        r = nbd_aio_flush(conn->h, done, 0);
        break;
    case NBD_CMD_TRIM: r = nbd_aio_trim(conn->h, op->len, op->offset, done, fua); break;
    case NBD_CMD_BLOCK_STATUS:
        op->status_len = 0;
        r = nbd_aio_block_status(conn->h, op->len, op->offset, extent, done,
                                 LIBNBD_CMD_FLAG_REQ_ONE);
        break;
    case NBD_CMD_WRITE_ZEROES:
        if (relay->can_zero) {
            r = nbd_aio_zero(conn->h, op->len, op->offset, done,
                             fua | (op->flags & NBD_CMD_FLAG_NO_HOLE));
        } else {
            uint32_t left = op->len - op->zeroed;
            r = nbd_aio_pwrite(conn->h, zeros, left < ZERO_CHUNK ? left : ZERO_CHUNK,
                               op->offset + op->zeroed, done, fua);
        }
        break;
    }
    if (r < 0 && !op->done) {
        int code = nbd_get_errno();
        op_answered(op, code ? &code : &(int){ EINVAL });
    }
}

/* The server's answer. Is there more to do for this request? */
static bool op_goes_on(struct nbd_relay *relay, struct op *op)
{
    if (op->error)
        return false;
    if (op->command == NBD_CMD_WRITE_ZEROES && !relay->can_zero && !op->flushing) {
        uint32_t left = op->len - op->zeroed;
        op->zeroed += left < ZERO_CHUNK ? left : ZERO_CHUNK;
        if (op->zeroed < op->len)
            return true;
    }
    if (op->flags & NBD_CMD_FLAG_FUA && !relay->can_fua && relay->can_flush && !op->flushing) {
        op->flushing = true;
        return true;
    }
    if (op->command == NBD_CMD_BLOCK_STATUS && !op->status_len)
        op->error = EIO;
    return false;
}

/* ---- connections ---- */

static void conn_close(struct conn *conn)
{
    nbd_close(conn->h);
    *conn = (struct conn){ 0 };
}

static int conn_set_up(const struct nbd_relay *relay, struct nbd_handle *h)
{
    const struct nbd_uri *uri = relay->config.uri;
    int r = nbd_set_export_name(h, uri->export);
    if (r == 0)
        r = nbd_add_meta_context(h, CONTEXT);
    if (r == 0 && uri->tls) {
        r = nbd_set_tls(h, LIBNBD_TLS_REQUIRE);
        if (r == 0 && uri->certificates)
            r = nbd_set_tls_certificates(h, uri->certificates);
        if (r == 0 && uri->psk)
            r = nbd_set_tls_psk_file(h, uri->psk);
        if (r == 0 && uri->user)
            r = nbd_set_tls_username(h, uri->user);
    }
    if (r == 0)
        r = uri->socket ? nbd_aio_connect_unix(h, uri->socket)
                        : nbd_aio_connect_tcp(h, uri->host, uri->port);
    return r;
}

static int conn_start(const struct nbd_relay *relay, struct conn *conn)
{
    conn->h = nbd_create();
    if (!conn->h)
        return -1;
    conn->started_ns = monotonic_ns();
    return conn_set_up(relay, conn->h);
}

/* Did libnbd give up on it? */
static bool conn_is_dead(const struct conn *conn)
{
    return nbd_aio_is_dead(conn->h) > 0 || nbd_aio_is_closed(conn->h) > 0;
}

static void conn_poll_prepare(const struct conn *conn, struct pollfd *out)
{
    unsigned direction = nbd_aio_get_direction(conn->h);
    *out = (struct pollfd){ .fd = nbd_aio_get_fd(conn->h) };
    if (direction & LIBNBD_AIO_DIRECTION_READ)
        out->events |= POLLIN;
    if (direction & LIBNBD_AIO_DIRECTION_WRITE)
        out->events |= POLLOUT;
}

static void conn_notify(struct conn *conn, short revents)
{
    unsigned direction = nbd_aio_get_direction(conn->h);
    if (revents & (POLLIN | POLLHUP | POLLERR) && direction & LIBNBD_AIO_DIRECTION_READ)
        (void)nbd_aio_notify_read(conn->h);
    else if (revents & (POLLOUT | POLLHUP | POLLERR) && direction & LIBNBD_AIO_DIRECTION_WRITE)
        (void)nbd_aio_notify_write(conn->h);
}

static bool conn_is_ready(const struct conn *conn)
{
    return nbd_aio_is_ready(conn->h) > 0 || nbd_aio_is_processing(conn->h) > 0;
}

/* libnbd says where it was ("nbd_connect_tcp: ..."), which means nothing to a user. */
static const char *conn_error(void)
{
    const char *text = nbd_get_error(), *colon = text ? strstr(text, ": ") : NULL;
    return colon ? colon + 2 : text ? text : "the connection ended";
}

/* 2: all of them, since the log is ordered across connections. */
static void relay_lose(struct nbd_relay *relay, const char *why)
{
    uint64_t now = monotonic_ns();
    struct op *op;
    if (relay->was_up)
        log_warning("%s: the connection is lost (%s); trying again", relay->config.uri->text, why);
    if (!relay->lost) {
        relay->lost = true;
        relay->lost_ns = now;
        relay->back_off_ms = BACK_OFF_MIN_MS;
    } else if (!relay->was_up) {
        relay->back_off_ms *= 2;
        if (relay->back_off_ms > BACK_OFF_MAX_MS)
            relay->back_off_ms = BACK_OFF_MAX_MS;
    }
    relay->was_up = false;
    relay->retry_ns = now + relay->back_off_ms * 1000000ull;
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        conn_close(&relay->conns[i]);
    relay->replaying = true;
    relay->replay_next = TAILQ_FIRST(&relay->log);
    relay->replay_busy = false;
    /* To the front, in the order in which they came. */
    TAILQ_CONCAT(&relay->finished, &relay->active, link);
    TAILQ_FOREACH(op, &relay->finished, link)
    {
        op->flushing = false;
        op->again = true;
        op->zeroed = 0;
    }
    TAILQ_CONCAT(&relay->finished, &relay->queue, link);
    TAILQ_CONCAT(&relay->queue, &relay->finished, link);
}

/* ---- writing the log again ---- */

static int replay_answered(void *user, int *error)
{
    struct nbd_relay *relay = user;
    relay->replay_error = *error;
    relay->replay_done = true;
    return 1;
}

static void replay_issue(struct nbd_relay *relay, struct op *op)
{
    const nbd_completion_callback done = { .callback = replay_answered, .user_data = relay };
    struct nbd_handle *h = relay->conns[0].h;
    relay->replay_busy = true;
    relay->replay_done = false;
    relay->replay_sent_ns = monotonic_ns();
    int64_t r;
    if (op->command == NBD_CMD_WRITE) {
        r = nbd_aio_pwrite(h, op->data, op->len, op->offset, done, 0);
    } else if (relay->can_zero) {
        r = nbd_aio_zero(h, op->len, op->offset, done, op->flags & NBD_CMD_FLAG_NO_HOLE);
    } else {
        uint32_t left = op->len - op->zeroed;
        r = nbd_aio_pwrite(h, zeros, left < ZERO_CHUNK ? left : ZERO_CHUNK, op->offset + op->zeroed,
                           done, 0);
    }
    if (r < 0 && !relay->replay_done) {
        relay->replay_error = EIO;
        relay->replay_done = true;
    }
}

/* One more step, as far as the server's answers allow. */
static void replay_step(struct nbd_relay *relay)
{
    struct conn *first = &relay->conns[0];
    while (relay->replaying && !relay->lost) {
        struct op *op = relay->replay_next;
        if (!op) {
            relay->replaying = false;
            return;
        }
        if (!relay->replay_busy) {
            op->zeroed = 0;
            replay_issue(relay, op);
        }
        if (!relay->replay_done)
            return;
        relay->replay_busy = false;
        if (relay->replay_error == ESHUTDOWN || (relay->replay_error && conn_is_dead(first))) {
            first->leaving = true;
            relay->replay_done = false;
            return;
        }
        if (relay->replay_error && !relay->sync_failed) {
            log_error("%s: what was written before the connection was lost cannot be written "
                      "again (%s); flushes fail from now on",
                      relay->config.uri->text, strerror(relay->replay_error));
            relay->sync_failed = true;
        }
        uint32_t left = op->len - op->zeroed;
        bool more = !relay->replay_error && op->command == NBD_CMD_WRITE_ZEROES &&
                    !relay->can_zero && left > ZERO_CHUNK;
        if (more) {
            op->zeroed += ZERO_CHUNK;
            replay_issue(relay, op);
        } else {
            relay->replay_next = TAILQ_NEXT(op, link);
        }
    }
}

/* ---- what moves on ---- */

static struct conn *conn_choose(struct nbd_relay *relay)
{
    struct conn *best = NULL;
    for (unsigned i = 0; i < relay->conn_count; i++) {
        struct conn *conn = &relay->conns[i];
        if (conn->up && (!best || conn->in_flight < best->in_flight))
            best = conn;
    }
    return best;
}

/* What needs no server. */
static bool op_is_answered_here(const struct nbd_relay *relay, struct op *op)
{
    if (op->command == NBD_CMD_FLUSH) {
        op->error = relay->sync_failed ? EIO : 0;
        op->log_mark = 0;
        return relay->sync_failed || !relay->can_flush;
    }
    if (op->command == NBD_CMD_BLOCK_STATUS && !relay->can_status) {
        op->status = 0;
        op->status_len = op->len;
        return true;
    }
    return false;
}

static void dispatch(struct nbd_relay *relay)
{
    struct op *op;
    while (!relay->lost && !relay->replaying && (op = TAILQ_FIRST(&relay->queue))) {
        struct conn *conn = conn_choose(relay);
        if (!conn)
            return;
        TAILQ_REMOVE(&relay->queue, op, link);
        op->error = 0;
        if (op_is_answered_here(relay, op))
            op_end(relay, op, op->error);
        else
            op_issue(relay, op, conn);
    }
}

/* What the server answered. What a dead connection leaves stays, for relay_lose. */
static void finish(struct nbd_relay *relay)
{
    struct op *op;
    struct op_list kept = TAILQ_HEAD_INITIALIZER(kept);
    while ((op = TAILQ_FIRST(&relay->finished))) {
        struct conn *conn = op->conn;
        bool dead = conn_is_dead(conn), more;
        TAILQ_REMOVE(&relay->finished, op, link);
        /* The server says that it is about to end. */
        conn->leaving |= op->error == ESHUTDOWN;
        if (op->error && (dead || conn->leaving)) {
            TAILQ_INSERT_TAIL(&kept, op, link);
            continue;
        }
        conn->in_flight--;
        more = op_goes_on(relay, op);
        if (more && dead)
            TAILQ_INSERT_TAIL(&kept, op, link);
        else if (more)
            op_issue(relay, op, conn);
        else
            op_end(relay, op, op->error);
    }
    TAILQ_CONCAT(&relay->finished, &kept, link);
}

static void log_bound(struct nbd_relay *relay)
{
    if (relay->log_bytes < LOG_FLUSH || relay->log_flushing || relay->sync_failed)
        return;
    struct op *op = calloc(1, sizeof *op);
    if (!op)
        abort();
    op->relay = relay;
    op->command = NBD_CMD_FLUSH;
    op->internal = true;
    relay->log_flushing = true;
    relay->ops++;
    TAILQ_INSERT_TAIL(&relay->queue, op, link);
}

/* The wait for a server that is lost, or that never answers, has an end. */
static void give_up(struct nbd_relay *relay)
{
    const struct nbd_uri *uri = relay->config.uri;
    uint64_t now = monotonic_ns(), second = 1000000000;
    bool all = relay->lost && now >= relay->lost_ns + uri->reconnect_s * second;
    struct op *op, *next;
    for (op = TAILQ_FIRST(&relay->queue); op; op = next) {
        next = TAILQ_NEXT(op, link);
        if (!all &&
            (!op->again || now < op->arrived_ns + (uri->timeout_s + uri->reconnect_s) * second))
            continue;
        TAILQ_REMOVE(&relay->queue, op, link);
        op_end(relay, op, EIO);
    }
}

/* ---- keeping connections ---- */

/* A server that came back has to offer what the disk was opened with. */
static bool export_is_the_same(const struct nbd_relay *relay, struct nbd_handle *h)
{
    return nbd_get_size(h) >= (int64_t)relay->export.size &&
           (relay->config.readonly || nbd_is_read_only(h) == 0) &&
           (nbd_can_flush(h) > 0) == relay->can_flush && (nbd_can_fua(h) > 0) == relay->can_fua &&
           (nbd_can_zero(h) > 0) == relay->can_zero &&
           (nbd_can_trim(h) > 0) == !!(relay->export.flags & NBD_FLAG_SEND_TRIM);
}

static void conn_came_up(struct nbd_relay *relay, struct conn *conn)
{
    if (!export_is_the_same(relay, conn->h)) {
        relay_lose(relay, "the server came back with another export");
        return;
    }
    conn->up = true;
    if (conn != &relay->conns[0])
        return;
    if (relay->lost)
        log_warning("%s: the connection is back", relay->config.uri->text);
    relay->lost = false;
    relay->was_up = true;
}

static void conn_failed(struct nbd_relay *relay, struct conn *conn, const char *why)
{
    unsigned i = (unsigned)(conn - relay->conns);
    if (i == 0 || conn->up) {
        relay_lose(relay, why);
        return;
    }
    /* A further one that the server does not take: do with those that are there. */
    log_warning("%s: the server takes only %u connections", relay->config.uri->text, i);
    relay->conn_count = i;
    for (; i < CONNECTIONS_MAX; i++)
        if (relay->conns[i].h && !relay->conns[i].up)
            conn_close(&relay->conns[i]);
}

static void connections_start(struct nbd_relay *relay, uint64_t now)
{
    struct conn *first = &relay->conns[0];
    if (!first->h && now >= relay->retry_ns && conn_start(relay, first) < 0)
        conn_failed(relay, first, conn_error());
    for (unsigned i = 1; first->up && !relay->replaying && i < relay->conn_count; i++)
        if (!relay->conns[i].h && conn_start(relay, &relay->conns[i]) < 0)
            conn_failed(relay, &relay->conns[i], conn_error());
}

static void connections_time_out(struct nbd_relay *relay)
{
    uint64_t now = monotonic_ns();
    uint64_t limit = relay->config.uri->timeout_s * 1000000000ull;
    for (unsigned i = 0; i < relay->conn_count; i++) {
        struct conn *conn = &relay->conns[i];
        if (conn->h && !conn->up && now - conn->started_ns > CONNECT_MS * 1000000ull)
            conn_failed(relay, conn, "it does not come about");
    }
    const struct op *oldest = TAILQ_FIRST(&relay->active);
    if ((oldest && now - oldest->sent_ns > limit) ||
        (relay->replay_busy && now - relay->replay_sent_ns > limit))
        relay_lose(relay, "the server does not answer");
}

/* After anything that may have made libnbd work. */
static void connections_look(struct nbd_relay *relay)
{
    finish(relay);
    for (unsigned i = 0; i < relay->conn_count; i++) {
        struct conn *conn = &relay->conns[i];
        if (!conn->h)
            continue;
        if (conn_is_dead(conn))
            conn_failed(relay, conn, conn_error());
        else if (conn->leaving)
            conn_failed(relay, conn, "the server shuts down");
        else if (!conn->up && conn_is_ready(conn))
            conn_came_up(relay, conn);
    }
}

/* ---- the socket pair ---- */

static void request_take(struct nbd_relay *relay)
{
    struct op *op = calloc(1, sizeof *op);
    if (!op)
        abort();
    op->relay = relay;
    op->arrived_ns = monotonic_ns();
    op->command = be16toh(relay->in.type);
    op->flags = be16toh(relay->in.flags);
    op->cookie = be64toh(relay->in.cookie);
    op->offset = be64toh(relay->in.offset);
    op->len = be32toh(relay->in.len);
    bool data = op->command == NBD_CMD_READ || op->command == NBD_CMD_WRITE;
    if (be32toh(relay->in.magic) != NBD_REQUEST_MAGIC || op->command == NBD_CMD_DISC ||
        op->command > NBD_CMD_BLOCK_STATUS || op->command == NBD_CMD_CACHE ||
        (data && (!op->len || op->len > REQUEST_MAX)))
        _exit(1);
    if (data && !(op->data = malloc(op->len)))
        abort();
    relay->held += data ? op->len : 0;
    relay->ops++;
    relay->in_have = 0;
    relay->in_data = 0;
    if (op->command == NBD_CMD_WRITE)
        relay->in_op = op;
    else
        TAILQ_INSERT_TAIL(&relay->queue, op, link);
}

static bool input_is_wanted(const struct nbd_relay *relay)
{
    return relay->ops < OPS_MAX && relay->held < HELD_MAX &&
           (relay->log_bytes < LOG_STALL || relay->in_op);
}

static void input_read(struct nbd_relay *relay)
{
    while (input_is_wanted(relay)) {
        struct op *op = relay->in_op;
        void *to = op ? op->data + relay->in_data : (uint8_t *)&relay->in + relay->in_have;
        size_t room = op ? op->len - relay->in_data : sizeof relay->in - relay->in_have;
        ssize_t n = recv(relay->config.fd, to, room, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0)
            _exit(0); /* the VM is gone */
        if (op) {
            relay->in_data += (uint32_t)n;
            if (relay->in_data == op->len) {
                TAILQ_INSERT_TAIL(&relay->queue, op, link);
                relay->in_op = NULL;
            }
        } else {
            relay->in_have += (size_t)n;
            if (relay->in_have == sizeof relay->in)
                request_take(relay);
        }
    }
}

static unsigned replies_iov(struct nbd_relay *relay, struct iovec *iov)
{
    unsigned n = 0;
    struct reply *reply;
    STAILQ_FOREACH(reply, &relay->replies, link)
    {
        if (n + 2 > REPLY_IOV)
            break;
        uint32_t sent = reply->sent;
        if (sent < reply->head_len)
            iov[n++] = (struct iovec){ reply->head + sent, reply->head_len - sent };
        uint32_t at = sent > reply->head_len ? sent - reply->head_len : 0;
        if (at < reply->data_len)
            iov[n++] = (struct iovec){ reply->data + at, reply->data_len - at };
    }
    return n;
}

static void replies_write(struct nbd_relay *relay)
{
    struct reply *reply;
    while (!STAILQ_EMPTY(&relay->replies)) {
        struct iovec iov[REPLY_IOV];
        struct msghdr msg = { .msg_iov = iov, .msg_iovlen = replies_iov(relay, iov) };
        ssize_t n = sendmsg(relay->config.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0)
            _exit(0);
        while ((reply = STAILQ_FIRST(&relay->replies)) && n > 0) {
            uint32_t left = reply->head_len + reply->data_len - reply->sent;
            if ((uint32_t)n < left) {
                reply->sent += (uint32_t)n;
                break;
            }
            n -= left;
            STAILQ_REMOVE_HEAD(&relay->replies, link);
            relay->held -= reply->data_len;
            free(reply->data);
            free(reply);
        }
    }
}

/* ---- the loop ---- */

static int relay_timeout_ms(const struct nbd_relay *relay, uint64_t now)
{
    if (!relay->lost)
        return TAILQ_EMPTY(&relay->active) && !relay->replay_busy ? -1 : 1000;
    uint64_t left = relay->retry_ns > now ? (relay->retry_ns - now) / 1000000 + 1 : 1;
    return left < 500 ? (int)left : 500;
}

static void relay_round(struct nbd_relay *relay)
{
    struct pollfd polls[1 + CONNECTIONS_MAX];
    struct conn *conns[1 + CONNECTIONS_MAX];
    nfds_t n = 1;
    uint64_t now = monotonic_ns();
    connections_start(relay, now);
    replay_step(relay);
    log_bound(relay);
    dispatch(relay);
    connections_look(relay);
    replies_write(relay);

    polls[0] = (struct pollfd){ .fd = relay->config.fd };
    polls[0].events = (short)((input_is_wanted(relay) ? POLLIN : 0) |
                              (STAILQ_EMPTY(&relay->replies) ? 0 : POLLOUT));
    for (unsigned i = 0; i < relay->conn_count; i++)
        if (relay->conns[i].h) {
            conns[n] = &relay->conns[i];
            conn_poll_prepare(conns[n], &polls[n]);
            n++;
        }
    if (poll(polls, n, relay_timeout_ms(relay, now)) > 0) {
        for (nfds_t i = 1; i < n; i++)
            if (polls[i].revents)
                conn_notify(conns[i], polls[i].revents);
        if (polls[0].revents & (POLLIN | POLLHUP | POLLERR))
            input_read(relay);
        if (polls[0].revents & POLLHUP && !(polls[0].revents & POLLIN))
            _exit(0);
    }
    connections_look(relay);
    connections_time_out(relay);
    give_up(relay);
}

void nbd_relay_run(struct nbd_relay *relay)
{
    for (;;)
        relay_round(relay);
}

/* ---- the first connection ---- */

static int first_connect(struct nbd_relay *relay, struct err *err)
{
    struct conn *conn = &relay->conns[0];
    bool started = conn_start(relay, conn) == 0;
    while (started && !conn_is_ready(conn) && !conn_is_dead(conn)) {
        uint64_t age_ms = (monotonic_ns() - conn->started_ns) / 1000000;
        struct pollfd poll_fd;
        conn_poll_prepare(conn, &poll_fd);
        if (age_ms > CONNECT_MS)
            return err_set(err, ETIMEDOUT, "the NBD server does not answer");
        if (poll(&poll_fd, 1, (int)(CONNECT_MS - age_ms) + 1) > 0)
            conn_notify(conn, poll_fd.revents);
    }
    if (started && conn_is_ready(conn))
        return 0;
    int code = nbd_get_errno();
    return err_set(err, code ? code : EIO, "no connection to the NBD server: %.300s", conn_error());
}

static unsigned export_flags(const struct nbd_relay *relay, struct nbd_handle *h)
{
    return NBD_FLAG_HAS_FLAGS | (nbd_is_read_only(h) > 0 ? NBD_FLAG_READ_ONLY : 0) |
           (relay->can_flush ? NBD_FLAG_SEND_FLUSH : 0) |
           (nbd_can_trim(h) > 0 ? NBD_FLAG_SEND_TRIM : 0) |
           (nbd_can_multi_conn(h) > 0 ? NBD_FLAG_CAN_MULTI_CONN : 0) | NBD_FLAG_SEND_FUA |
           NBD_FLAG_SEND_WRITE_ZEROES;
}

static int export_look(struct nbd_relay *relay, struct err *err)
{
    struct nbd_handle *h = relay->conns[0].h;
    struct nbd_export *export = &relay->export;
    int64_t size = nbd_get_size(h), min = nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM),
            max = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);
    if (size < 0)
        return err_set(err, EIO, "the NBD server gives no size");
    if (!relay->config.readonly && nbd_is_read_only(h) > 0)
        return err_set(err, EROFS, "the export may only be read; add readonly");
    relay->can_flush = nbd_can_flush(h) > 0;
    relay->can_fua = nbd_can_fua(h) > 0;
    relay->can_zero = nbd_can_zero(h) > 0;
    relay->can_status = nbd_can_meta_context(h, CONTEXT) > 0;
    export->size = (uint64_t)size;
    export->flags = export_flags(relay, h);
    export->align = min > 0 ? (uint32_t)min : 1;
    export->max_transfer =
        max > 0 && max < TRANSFER_DEFAULT ? (uint32_t)max : (uint32_t)TRANSFER_DEFAULT;
    relay->conn_count =
        export->flags & NBD_FLAG_CAN_MULTI_CONN ? relay->config.uri->connections : 1;
    export->connections = relay->conn_count;
    if (!is_power_of_two(export->align) || export->align > 65536 ||
        export->max_transfer < export->align)
        return err_set(err, EPROTO, "the NBD server asks for blocks of %u bytes", export->align);
    return 0;
}

int nbd_relay_create(const struct nbd_relay_config *config, struct nbd_relay **out,
                     struct nbd_export *export, struct err *err)
{
    struct nbd_relay *relay = calloc(1, sizeof *relay);
    if (!relay)
        return err_set(err, ENOMEM, "out of memory");
    relay->config = *config;
    TAILQ_INIT(&relay->queue);
    TAILQ_INIT(&relay->active);
    TAILQ_INIT(&relay->finished);
    TAILQ_INIT(&relay->log);
    STAILQ_INIT(&relay->replies);
    int r = first_connect(relay, err);
    if (r == 0)
        r = export_look(relay, err);
    if (r < 0) {
        conn_close(&relay->conns[0]);
        free(relay);
        return r;
    }
    relay->conns[0].up = true;
    relay->was_up = true;
    *export = relay->export;
    *out = relay;
    return 0;
}
