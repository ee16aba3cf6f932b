/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client's side of the socket pair (nbd_client.h): one thread sends, one receives.
 *
 * Invariants:
 *  1. A request is in `waiting`, or in a slot of `slots` from just before its header is sent until
 *     just before `done`.
 *  2. The peer's numbers choose no memory: a cookie is looked up among the slots in use, data goes
 *     only to the buffers of a READ, in ascending order without gaps, and at most `len` bytes.
 *  3. A request is not finished while the sender reads its memory, whatever the peer answers.
 *  4. After the first breach of the protocol, or the end of the helper, the client is `broken`: all
 *     requests fail with -EIO, those to come, too.
 */
#include "block/nbd_client.h"

#include "base/checked.h"
#include "base/helper.h"
#include "base/log.h"
#include "base/text.h"

#include <assert.h>
#include <endian.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

enum {
    SLOTS = 256,
    CHUNK_MAX = 64 << 10, /* of a chunk that is no data: errors, extents */
    IOV_BATCH = 64,
    SEND_AT_ONCE = 128 << 10,
    NBD_START_MS = 60000,
};
#define NBD_HELPER "bedplate-nbd"

struct nbd_client {
    int fd;                   /* fixed once created */
    pid_t pid;                /* fixed once created; 0: none */
    char *name;               /* fixed once created */
    struct nbd_export export; /* fixed once created */
    pthread_t sender, receiver;
    bool has_threads;
    pthread_mutex_t lock;
    pthread_cond_t work;                 /* for the sender */
    struct nbd_request *waiting, **tail; /* lock */
    struct nbd_request *slots[SLOTS];    /* lock */
    uint32_t generation[SLOTS];          /* lock; upper half of the cookie */
    unsigned used;                       /* lock: slots in use */
    const struct nbd_request *sending;   /* lock: its memory is being read */
    struct nbd_request *begun; /* lock: the same, sent in part by its submitter; or NULL */
    uint64_t begun_cookie;
    pthread_cond_t sent; /* it is not any more */
    bool broken, stop;   /* lock */
};

/* ---- slots ---- */

static void request_fail_all(struct nbd_client *client)
{
    struct nbd_request *list = NULL, *req;
    {
        LOCKED(&client->lock);
        client->broken = true;
        pthread_cond_broadcast(&client->work);
        while (client->sending) /* 3 */
            pthread_cond_wait(&client->sent, &client->lock);
        for (unsigned i = 0; i < SLOTS; i++)
            if ((req = TAKE(client->slots[i]))) {
                req->next = list;
                list = req;
            }
        client->used = 0;
        *client->tail = list;
        list = TAKE(client->waiting);
        client->tail = &client->waiting;
    }
    while ((req = list)) {
        list = req->next;
        req->done(req, -EIO);
    }
}

/* The request of a cookie, or NULL. */
static struct nbd_request *slot_find(struct nbd_client *client, uint64_t cookie)
{
    uint32_t slot = (uint32_t)cookie;
    LOCKED(&client->lock);
    return slot < SLOTS && client->generation[slot] == cookie >> 32 ? client->slots[slot] : NULL;
}

static void slot_finish(struct nbd_client *client, uint64_t cookie, int result)
{
    struct nbd_request *req;
    {
        LOCKED(&client->lock);
        req = TAKE(client->slots[(uint32_t)cookie]);
        while (client->sending == req) /* 3 */
            pthread_cond_wait(&client->sent, &client->lock);
        client->used--;
        pthread_cond_signal(&client->work);
    }
    req->done(req, result);
}

/* ---- sending ---- */

/* The whole message of a request: at most `room` pieces from the byte `skip` on. */
static unsigned request_iov(const struct nbd_request *req, struct nbd_wire_request *wire,
                            uint64_t skip, struct iovec *iov, unsigned room)
{
    unsigned count = req->command == NBD_CMD_WRITE ? req->iov_count : 0, n = 0;
    if (skip < sizeof *wire)
        iov[n++] = (struct iovec){ (char *)wire + skip, sizeof *wire - skip };
    skip = skip < sizeof *wire ? 0 : skip - sizeof *wire;
    for (unsigned i = 0; i < count && n < room; i++) {
        const struct iovec *from = &req->iov[i];
        if (skip < from->iov_len)
            iov[n++] = (struct iovec){ (char *)from->iov_base + skip, from->iov_len - skip };
        skip = skip < from->iov_len ? 0 : skip - from->iov_len;
    }
    return n;
}

/* Sends on from req->sent: 0, or -errno; -EAGAIN with MSG_DONTWAIT in `flags`. */
static int request_send(struct nbd_client *client, struct nbd_request *req, uint64_t cookie,
                        int flags)
{
    struct nbd_wire_request wire = {
        .magic = htobe32(NBD_REQUEST_MAGIC),
        .flags = htobe16((uint16_t)req->flags),
        .type = htobe16((uint16_t)req->command),
        .cookie = htobe64(cookie),
        .offset = htobe64(req->offset),
        .len = htobe32(req->len),
    };
    uint64_t total = sizeof wire + (req->command == NBD_CMD_WRITE ? req->len : 0);
    while (req->sent < total) {
        struct iovec iov[IOV_BATCH];
        struct msghdr msg = { .msg_iov = iov,
                              .msg_iovlen = request_iov(req, &wire, req->sent, iov, IOV_BATCH) };
        ssize_t n = sendmsg(client->fd, &msg, MSG_NOSIGNAL | flags);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        req->sent += (uint64_t)n;
    }
    return 0;
}

/* Into a free slot, of which there is one (1). lock. */
static uint64_t slot_take(struct nbd_client *client, struct nbd_request *req)
{
    unsigned slot = 0;
    while (client->slots[slot])
        slot++;
    client->slots[slot] = req;
    client->used++;
    return (uint64_t)++client->generation[slot] << 32 | slot;
}

/* The next request for the sender, in its slot. NULL: the end. */
static struct nbd_request *request_next(struct nbd_client *client, uint64_t *cookie)
{
    LOCKED(&client->lock);
    while (!client->stop && !client->broken && !client->begun &&
           (!client->waiting || client->used == SLOTS))
        pthread_cond_wait(&client->work, &client->lock);
    struct nbd_request *req = TAKE(client->begun);
    if (client->stop || client->broken) {
        client->sending = NULL;
        pthread_cond_broadcast(&client->sent);
        return NULL;
    }
    if (req) {
        *cookie = client->begun_cookie;
        return req;
    }
    req = client->waiting;
    client->waiting = req->next;
    if (!client->waiting)
        client->tail = &client->waiting;
    client->sending = req;
    *cookie = slot_take(client, req);
    return req;
}

static void *sender_run(void *arg)
{
    struct nbd_client *client = arg;
    struct nbd_request *req;
    uint64_t cookie;
    pthread_setname_np(pthread_self(), "nbd-out");
    int r = 0;
    while (r == 0 && (req = request_next(client, &cookie))) {
        r = request_send(client, req, cookie, 0);
        if (r < 0)
            shutdown(client->fd, SHUT_RDWR); /* the receiver sees the end */
        LOCKED(&client->lock);
        client->broken |= r < 0;
        client->sending = NULL;
        pthread_cond_broadcast(&client->sent);
    }
    return NULL;
}

/* ---- receiving ---- */

static int recv_iov(int fd, struct iovec *iov, unsigned count)
{
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = count };
    while (msg.msg_iovlen) {
        ssize_t n = recvmsg(fd, &msg, MSG_WAITALL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENODATA;
        for (; msg.msg_iovlen && (size_t)n >= msg.msg_iov->iov_len; msg.msg_iov++, msg.msg_iovlen--)
            n -= (ssize_t)msg.msg_iov->iov_len;
        if (msg.msg_iovlen) {
            msg.msg_iov->iov_base = (char *)msg.msg_iov->iov_base + n;
            msg.msg_iov->iov_len -= (size_t)n;
        }
    }
    return 0;
}

/* The next `len` bytes of the stream are the request's from req->got on. */
static int receive_data(struct nbd_client *client, struct nbd_request *req, uint32_t len)
{
    uint64_t skip = req->got, left = len;
    struct iovec iov[IOV_BATCH];
    unsigned n = 0;
    for (unsigned i = 0; left && i < req->iov_count; i++) {
        const struct iovec *from = &req->iov[i];
        if (skip >= from->iov_len) {
            skip -= from->iov_len;
            continue;
        }
        size_t part = from->iov_len - skip < left ? from->iov_len - skip : left;
        iov[n++] = (struct iovec){ (char *)from->iov_base + skip, part };
        skip = 0;
        left -= part;
        if (n == IOV_BATCH || !left) {
            int r = recv_iov(client->fd, iov, n);
            if (r < 0)
                return r;
            n = 0;
        }
    }
    req->got += len;
    return left ? -EPROTO : 0;
}

static void receive_hole(struct nbd_request *req, uint32_t len)
{
    uint64_t skip = req->got, left = len;
    for (unsigned i = 0; left && i < req->iov_count; i++) {
        const struct iovec *iov = &req->iov[i];
        if (skip >= iov->iov_len) {
            skip -= iov->iov_len;
            continue;
        }
        size_t part = iov->iov_len - skip < left ? iov->iov_len - skip : left;
        memset((char *)iov->iov_base + skip, 0, part);
        skip = 0;
        left -= part;
    }
    req->got += len;
}

static bool chunk_goes_on(const struct nbd_request *req, uint64_t offset, uint64_t len)
{
    return req->command == NBD_CMD_READ && len && offset == req->offset + req->got &&
           len <= req->len - req->got;
}

static int receive_offset_data(struct nbd_client *client, struct nbd_request *req, uint32_t len)
{
    uint64_t offset;
    if (len <= sizeof offset)
        return -EPROTO;
    int r = read_full(client->fd, &offset, sizeof offset);
    if (r < 0)
        return r;
    if (!chunk_goes_on(req, be64toh(offset), len - sizeof offset))
        return -EPROTO;
    return receive_data(client, req, len - (uint32_t)sizeof offset);
}

static int receive_offset_hole(struct nbd_client *client, struct nbd_request *req, uint32_t len)
{
    struct {
        uint64_t offset;
        uint32_t len;
    } __attribute__((packed)) hole;
    if (len != sizeof hole)
        return -EPROTO;
    int r = read_full(client->fd, &hole, sizeof hole);
    if (r < 0)
        return r;
    if (!chunk_goes_on(req, be64toh(hole.offset), be32toh(hole.len)))
        return -EPROTO;
    receive_hole(req, be32toh(hole.len));
    return 0;
}

/* Of several extents the first one is enough. */
static int receive_status(struct nbd_client *client, struct nbd_request *req, uint32_t len)
{
    uint32_t words[3], rest[1024];
    if (req->command != NBD_CMD_BLOCK_STATUS || req->status_len || len < sizeof words ||
        len > CHUNK_MAX || (len - 4) % 8)
        return -EPROTO;
    int r = read_full(client->fd, words, sizeof words);
    for (uint32_t left = len - (uint32_t)sizeof words; r == 0 && left;) {
        uint32_t part = left < sizeof rest ? left : (uint32_t)sizeof rest;
        r = read_full(client->fd, rest, part);
        left -= part;
    }
    if (r < 0)
        return r;
    uint32_t extent = be32toh(words[1]);
    if (!extent)
        return -EPROTO;
    req->status_len = extent < req->len ? extent : req->len;
    req->status = be32toh(words[2]);
    return 0;
}

static int error_from(uint32_t wire) { return wire && wire < 4096 ? -(int)wire : -EIO; }

static int receive_error(struct nbd_client *client, struct nbd_request *req, uint32_t len)
{
    char rest[CHUNK_MAX];
    uint32_t code;
    if (len < 6 || len > CHUNK_MAX)
        return -EPROTO;
    int r = read_full(client->fd, rest, len);
    memcpy(&code, rest, sizeof code);
    req->result = error_from(be32toh(code));
    return r;
}

/* A whole answer has all of the data. */
static int request_result(const struct nbd_request *req)
{
    if (req->result)
        return req->result;
    if (req->command == NBD_CMD_READ && req->got != req->len)
        return -EPROTO;
    return req->command == NBD_CMD_BLOCK_STATUS && !req->status_len ? -EPROTO : 0;
}

static int receive_chunk(struct nbd_client *client)
{
    struct nbd_wire_chunk chunk = { 0 };
    int r = read_full(client->fd, (char *)&chunk + sizeof chunk.magic,
                      sizeof chunk - sizeof chunk.magic);
    if (r < 0)
        return r;
    uint64_t cookie = be64toh(chunk.cookie);
    struct nbd_request *req = slot_find(client, cookie);
    if (!req)
        return -EPROTO;
    uint32_t len = be32toh(chunk.len);
    switch (be16toh(chunk.type)) {
    case NBD_CHUNK_NONE: r = len ? -EPROTO : 0; break;
    case NBD_CHUNK_OFFSET_DATA: r = receive_offset_data(client, req, len); break;
    case NBD_CHUNK_OFFSET_HOLE: r = receive_offset_hole(client, req, len); break;
    case NBD_CHUNK_BLOCK_STATUS: r = receive_status(client, req, len); break;
    case NBD_CHUNK_ERROR:
    case NBD_CHUNK_ERROR_OFFSET: r = receive_error(client, req, len); break;
    default: r = -EPROTO;
    }
    if (r < 0 || !(be16toh(chunk.flags) & NBD_CHUNK_DONE))
        return r;
    r = request_result(req);
    if (r == -EPROTO)
        return r;
    slot_finish(client, cookie, r);
    return 0;
}

static int receive_simple(struct nbd_client *client)
{
    struct nbd_wire_simple simple = { 0 };
    int r = read_full(client->fd, (char *)&simple + sizeof simple.magic,
                      sizeof simple - sizeof simple.magic);
    if (r < 0)
        return r;
    uint64_t cookie = be64toh(simple.cookie);
    struct nbd_request *req = slot_find(client, cookie);
    uint32_t error = be32toh(simple.error);
    /* With structured replies data comes in chunks only. */
    if (!req || (!error && (req->command == NBD_CMD_READ || req->command == NBD_CMD_BLOCK_STATUS)))
        return -EPROTO;
    slot_finish(client, cookie, error ? error_from(error) : 0);
    return 0;
}

static void *receiver_run(void *arg)
{
    struct nbd_client *client = arg;
    pthread_setname_np(pthread_self(), "nbd-in");
    int r;
    do {
        uint32_t magic;
        r = read_full(client->fd, &magic, sizeof magic);
        if (r < 0)
            break;
        switch (be32toh(magic)) {
        case (uint32_t)NBD_SIMPLE_MAGIC: r = receive_simple(client); break;
        case (uint32_t)NBD_CHUNK_MAGIC: r = receive_chunk(client); break;
        default: r = -EPROTO;
        }
    } while (r == 0);
    bool stop;
    {
        LOCKED(&client->lock);
        stop = client->stop;
    }
    if (!stop)
        log_error("%s: %s; the disk fails from now on", client->name,
                  r == -EPROTO ? "the helper " NBD_HELPER " answers nonsense"
                               : "the helper " NBD_HELPER " is gone");
    shutdown(client->fd, SHUT_RDWR); /* the sender must not wait for room */
    request_fail_all(client);
    return NULL;
}

/* Sends it from here when nothing is before it, which saves waking the sender. lock. */
static bool submit_at_once(struct nbd_client *client, struct nbd_request *req)
{
    if (client->waiting || client->sending || client->used == SLOTS ||
        (req->command == NBD_CMD_WRITE && req->len > SEND_AT_ONCE))
        return false;
    uint64_t cookie = slot_take(client, req);
    int r = request_send(client, req, cookie, MSG_DONTWAIT);
    if (r < 0) { /* the sender goes on, or finds the same error */
        client->sending = client->begun = req;
        client->begun_cookie = cookie;
        pthread_cond_signal(&client->work);
    }
    return true;
}

void nbd_submit(struct nbd_client *client, struct nbd_request *req)
{
    req->next = NULL;
    req->sent = 0;
    req->got = 0;
    req->result = 0;
    req->status_len = 0;
    pthread_mutex_lock(&client->lock);
    bool broken = client->broken;
    if (!broken && !submit_at_once(client, req)) {
        *client->tail = req;
        client->tail = &req->next;
        pthread_cond_signal(&client->work);
    }
    pthread_mutex_unlock(&client->lock);
    if (broken)
        req->done(req, -EIO);
}

/* ---- opening ---- */

bool nbd_is_uri(const char *path)
{
    static const char *const schemes[] = { "nbd://", "nbds://", "nbd+unix://", "nbds+unix://" };
    for (unsigned i = 0; i < ARRAY_LEN(schemes); i++)
        if (!strncmp(path, schemes[i], strlen(schemes[i])))
            return true;
    return false;
}

const struct nbd_export *nbd_client_export(const struct nbd_client *client)
{
    return &client->export;
}

void nbd_client_close(struct nbd_client *client)
{
    if (!client)
        return;
    {
        LOCKED(&client->lock);
        client->stop = true;
        pthread_cond_broadcast(&client->work);
    }
    if (client->fd >= 0)
        shutdown(client->fd, SHUT_RDWR);
    if (client->has_threads) {
        pthread_join(client->sender, NULL);
        pthread_join(client->receiver, NULL);
    }
    fd_close(client->fd);
    helper_end(&client->pid);
    pthread_cond_destroy(&client->work);
    pthread_cond_destroy(&client->sent);
    pthread_mutex_destroy(&client->lock);
    free(client->name);
    free(client);
}

static int client_start(struct nbd_client *client, struct err *err)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int r = pthread_create(&client->receiver, NULL, receiver_run, client);
    if (r == 0) {
        r = pthread_create(&client->sender, NULL, sender_run, client);
        if (r != 0) {
            client->stop = true;
            shutdown(client->fd, SHUT_RDWR);
            pthread_join(client->receiver, NULL);
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    client->has_threads = r == 0;
    return r ? err_errno(err, r, "cannot start a thread for the connection") : 0;
}

int nbd_client_create(int take_fd, const struct nbd_export *export, const char *name,
                      struct nbd_client **out, struct err *err)
{
    struct nbd_client *new = calloc(1, sizeof *new);
    if (!new) {
        fd_close(take_fd);
        return err_set(err, ENOMEM, "out of memory");
    }
    new->fd = take_fd;
    new->tail = &new->waiting;
    new->export = *export;
    pthread_mutex_init(&new->lock, NULL);
    pthread_cond_init(&new->work, NULL);
    pthread_cond_init(&new->sent, NULL);
    AUTO(nbd_client_close) struct nbd_client *client = new;
    client->name = strdup(name);
    if (!client->name)
        return err_set(err, ENOMEM, "out of memory");
    int r = client_start(client, err);
    if (r < 0)
        return r;
    *out = TAKE(client);
    return 0;
}

/* The helper has checked it against the server; we check what we rely on. */
static int export_parse(const char *hello, struct nbd_export *out, struct err *err)
{
    int end = 0;
    *out = (struct nbd_export){ 0 };
    if (sscanf(hello, "size=%lu flags=%x align=%u max=%u connections=%u %n", &out->size,
               &out->flags, &out->align, &out->max_transfer, &out->connections, &end) != 5 ||
        !end || out->size > INT64_MAX || !is_power_of_two(out->align) || out->align > 65536 ||
        out->max_transfer < out->align || out->max_transfer > (32 << 20))
        return err_set(err, EPROTO, "the helper " NBD_HELPER " answers nonsense");
    log_info("NBD: the helper is confined by %s; connections=%u", hello + end, out->connections);
    return 0;
}

int nbd_client_open(const char *uri, bool readonly, struct nbd_client **out, struct err *err)
{
    const char *argv[] = { "--uri", uri, readonly ? "--read-only" : NULL, NULL };
    char hello[256];
    struct nbd_export export;
    AUTO(fd_close) int fd = -1;
    pid_t pid = 0;
    int r = helper_start(NBD_HELPER, "block", argv, true, &fd, &pid, err);
    if (r == 0)
        r = helper_wait(NBD_HELPER, fd, NBD_START_MS, hello, sizeof hello, err);
    if (r == 0)
        r = export_parse(hello, &export, err);
    if (r == 0)
        r = nbd_client_create(TAKE_FD(fd), &export, uri, out, err);
    if (r < 0) {
        fd_close(TAKE_FD(fd));
        helper_end(&pid);
        return r;
    }
    (*out)->pid = pid;
    return 0;
}
