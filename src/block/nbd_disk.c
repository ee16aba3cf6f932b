/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * NBD exports as a store (blocking calls) and as a node (queues). Both turn a request into one or
 * more of the client's and wait for `done` on its thread.
 */
#include "block/nbd_client.h"

#include "base/checked.h"
#include "block/driver.h"

#include <limits.h>
#include <string.h>
#include <sys/eventfd.h>

enum { RANGE_MAX = 1 << 30 };

static bool export_has(const struct nbd_client *client, unsigned flag)
{
    return nbd_client_export(client)->flags & flag;
}

/* ---- the store ---- */

struct nbd_store {
    struct store store;
    struct nbd_client *client; /* owned */
    pthread_mutex_t lock;      /* read-modify-write of blocks larger than a byte */
};

static struct nbd_store *nbd_of(struct store *store)
{
    return CONTAINER_OF(store, struct nbd_store, store);
}
static struct nbd_client *client_of(struct store *store) { return nbd_of(store)->client; }

struct nbd_call {
    struct nbd_request req;
    pthread_mutex_t lock;
    pthread_cond_t end;
    int result;
    bool done;
};

static void call_done(struct nbd_request *req, int result)
{
    struct nbd_call *call = CONTAINER_OF(req, struct nbd_call, req);
    LOCKED(&call->lock);
    call->result = result;
    call->done = true;
    pthread_cond_signal(&call->end);
}

/* Waits for one request; *status: of BLOCK_STATUS, may be NULL. */
static int store_call(struct nbd_client *client, const struct nbd_request *req,
                      struct nbd_request *answer)
{
    struct nbd_call call = { .req = *req };
    call.req.done = call_done;
    pthread_mutex_init(&call.lock, NULL);
    pthread_cond_init(&call.end, NULL);
    nbd_submit(client, &call.req);
    pthread_mutex_lock(&call.lock);
    while (!call.done)
        pthread_cond_wait(&call.end, &call.lock);
    pthread_mutex_unlock(&call.lock);
    pthread_cond_destroy(&call.end);
    pthread_mutex_destroy(&call.lock);
    if (answer)
        *answer = call.req;
    return call.result;
}

/* In pieces of at most `max`, each a multiple of the export's alignment. */
static int store_pieces(struct nbd_client *client, const struct nbd_request *req, uint64_t len,
                        void *data, uint32_t max)
{
    int r = 0;
    for (uint64_t at = 0; r == 0 && at < len;) {
        struct nbd_request piece = *req;
        piece.offset = req->offset + at;
        piece.len = (uint32_t)(len - at < max ? len - at : max);
        struct iovec iov = { (char *)data + at, piece.len };
        if (data) {
            piece.iov = &iov;
            piece.iov_count = 1;
        }
        r = store_call(client, &piece, NULL);
        at += piece.len;
    }
    return r;
}

/* A server with blocks larger than a byte gets whole ones: the edges are read first. */
static int nbd_store_read(struct store *store, void *data, size_t len, uint64_t offset)
{
    struct nbd_client *client = client_of(store);
    const struct nbd_export *export = nbd_client_export(client);
    size_t have = offset >= export->size ? 0 : len;
    if (have > export->size - offset)
        have = export->size - offset;
    memset((char *)data + have, 0, len - have);
    uint64_t start = round_down(offset, export->align),
             end = round_up(offset + have, export->align);
    struct nbd_request req = { .command = NBD_CMD_READ, .offset = start };
    if (start == offset && end == offset + have)
        return store_pieces(client, &req, have, data, export->max_transfer);
    AUTO(free) char *whole = malloc(end - start);
    if (!whole)
        return -ENOMEM;
    int r = store_pieces(client, &req, end - start, whole, export->max_transfer);
    if (r == 0)
        memcpy(data, whole + (offset - start), have);
    return r;
}

static int nbd_store_write(struct store *store, const void *data, size_t len, uint64_t offset)
{
    struct nbd_client *client = client_of(store);
    const struct nbd_export *export = nbd_client_export(client);
    if (!range_fits(offset, len, export->size))
        return -ENOSPC;
    uint64_t start = round_down(offset, export->align), end = round_up(offset + len, export->align);
    struct nbd_request req = { .command = NBD_CMD_WRITE, .offset = start };
    if (start == offset && end == offset + len)
        return store_pieces(client, &req, len, (void *)(uintptr_t)data, export->max_transfer);
    AUTO(free) char *whole = malloc(end - start);
    if (!whole)
        return -ENOMEM;
    LOCKED(&nbd_of(store)->lock);
    int r = nbd_store_read(store, whole, end - start, start);
    memcpy(whole + (offset - start), data, len);
    return r < 0 ? r : store_pieces(client, &req, end - start, whole, export->max_transfer);
}

static int nbd_store_flush(struct store *store)
{
    const struct nbd_request req = { .command = NBD_CMD_FLUSH };
    return store_call(client_of(store), &req, NULL);
}

static int nbd_store_zero(struct store *store, uint64_t offset, uint64_t len, bool keep)
{
    struct nbd_client *client = client_of(store);
    const struct nbd_export *export = nbd_client_export(client);
    if (!range_fits(offset, len, export->size))
        return -ENOSPC;
    if ((offset | len) & (export->align - 1))
        return -EOPNOTSUPP;
    struct nbd_request req = { .command = NBD_CMD_WRITE_ZEROES,
                               .flags = keep ? NBD_CMD_FLAG_NO_HOLE : 0,
                               .offset = offset };
    return store_pieces(client, &req, len, NULL, RANGE_MAX);
}

static int nbd_store_punch(struct store *store, uint64_t offset, uint64_t len)
{
    struct nbd_client *client = client_of(store);
    if (!export_has(client, NBD_FLAG_SEND_TRIM) ||
        ((offset | len) & (nbd_client_export(client)->align - 1)))
        return 0;
    struct nbd_request req = { .command = NBD_CMD_TRIM, .offset = offset };
    return store_pieces(client, &req, len, NULL, RANGE_MAX);
}

static int nbd_store_size(struct store *store, uint64_t *out)
{
    *out = nbd_client_export(client_of(store))->size;
    return 0;
}

/* An export has the size that its server gives it. */
static int nbd_store_truncate(struct store *store, uint64_t size)
{
    return size <= nbd_client_export(client_of(store))->size ? 0 : -ENOSPC;
}

static int nbd_store_status(struct store *store, uint64_t offset, uint64_t *len, bool *zero)
{
    struct nbd_client *client = client_of(store);
    const struct nbd_export *export = nbd_client_export(client);
    uint64_t start = round_down(offset, export->align), end = offset + *len;
    end = end < export->size ? round_up(end, export->align) : export->size;
    if (start >= end)
        return -EINVAL;
    struct nbd_request req = { .command = NBD_CMD_BLOCK_STATUS,
                               .flags = NBD_CMD_FLAG_REQ_ONE,
                               .offset = start,
                               .len =
                                   (uint32_t)(end - start < RANGE_MAX ? end - start : RANGE_MAX) };
    int r = store_call(client, &req, &req);
    if (r < 0)
        return r;
    *zero = req.status & NBD_STATE_ZERO;
    uint64_t until = start + req.status_len;
    if (until <= offset) { /* a server may answer with less than one of its blocks */
        *zero = false;
        return 0;
    }
    if (until - offset < *len)
        *len = until - offset;
    return 0;
}

static void nbd_store_close(struct store *store)
{
    nbd_client_close(client_of(store));
    pthread_mutex_destroy(&nbd_of(store)->lock);
    free(nbd_of(store));
}

static const struct store_ops nbd_store_ops = {
    .read = nbd_store_read,
    .write = nbd_store_write,
    .flush = nbd_store_flush,
    .zero = nbd_store_zero,
    .punch = nbd_store_punch,
    .truncate = nbd_store_truncate,
    .size = nbd_store_size,
    .status = nbd_store_status,
    .close = nbd_store_close,
};

int nbd_store_open(struct nbd_client *take_client, struct store **out, struct err *err)
{
    struct nbd_store *new = calloc(1, sizeof *new);
    if (!new) {
        nbd_client_close(take_client);
        return err_set(err, ENOMEM, "out of memory");
    }
    new->store.ops = &nbd_store_ops;
    new->store.fd = -1;
    pthread_mutex_init(&new->lock, NULL);
    new->client = take_client;
    *out = &new->store;
    return 0;
}

/* ---- the node ---- */

struct nbd_node {
    struct block_node node;
    struct nbd_client *client; /* owned */
    bool unsafe;               /* flushing does nothing; fixed once open */
};

struct nbd_queue {
    struct block_queue queue;
    struct nbd_piece *spare; /* on the loop */
    pthread_mutex_t lock;
    struct nbd_piece *finished, **finished_tail; /* lock */
};

struct nbd_piece { /* the part of a block request that the client sees: all of it */
    struct nbd_request req;
    struct block_request *block;
    struct nbd_queue *queue;
    struct nbd_piece *next;
    int result;
};

static struct nbd_queue *queue_of(struct block_queue *queue)
{
    return CONTAINER_OF(queue, struct nbd_queue, queue);
}

static struct nbd_client *node_client(const struct block_node *node)
{
    return CONTAINER_OF(node, const struct nbd_node, node)->client;
}

/* On the client's thread. */
static void piece_done(struct nbd_request *req, int result)
{
    struct nbd_piece *piece = CONTAINER_OF(req, struct nbd_piece, req);
    struct nbd_queue *queue = piece->queue;
    piece->result = result;
    piece->next = NULL;
    LOCKED(&queue->lock);
    bool first = !queue->finished;
    *queue->finished_tail = piece;
    queue->finished_tail = &piece->next;
    if (first)
        eventfd_write(queue->queue.event_fd, 1);
}

static void request_fill(struct nbd_request *req, const struct block_request *block)
{
    static const enum nbd_command commands[] = {
        [BLOCK_READ] = NBD_CMD_READ,           [BLOCK_WRITE] = NBD_CMD_WRITE,
        [BLOCK_FLUSH] = NBD_CMD_FLUSH,         [BLOCK_DISCARD] = NBD_CMD_TRIM,
        [BLOCK_STATUS] = NBD_CMD_BLOCK_STATUS, [BLOCK_WRITE_ZEROES] = NBD_CMD_WRITE_ZEROES,
    };
    *req = (struct nbd_request){ .command = commands[block->op], .done = piece_done };
    if (block->op == BLOCK_FLUSH)
        return;
    req->offset = block->offset;
    req->len = (uint32_t)(block->len < RANGE_MAX ? block->len : RANGE_MAX);
    req->iov = block_iov(block, &req->iov_count);
    if ((block->op == BLOCK_WRITE || block->op == BLOCK_WRITE_ZEROES) && block->flags & BLOCK_FUA)
        req->flags |= NBD_CMD_FLAG_FUA;
    if (block->op == BLOCK_WRITE_ZEROES && !(block->flags & BLOCK_UNMAP))
        req->flags |= NBD_CMD_FLAG_NO_HOLE;
    if (block->op == BLOCK_STATUS)
        req->flags |= NBD_CMD_FLAG_REQ_ONE;
}

static void nbd_node_submit(struct block_queue *base, struct block_request *block)
{
    struct nbd_queue *queue = queue_of(base);
    bool unsafe = CONTAINER_OF(base->node, struct nbd_node, node)->unsafe;
    if (unsafe && block->op == BLOCK_FLUSH) {
        block_complete_later(block, 0);
        return;
    }
    struct nbd_piece *piece = queue->spare;
    if (piece)
        queue->spare = piece->next;
    else if (!(piece = malloc(sizeof *piece))) {
        block_complete_later(block, -ENOMEM);
        return;
    }
    piece->block = block;
    piece->queue = queue;
    request_fill(&piece->req, block);
    if (unsafe)
        piece->req.flags &= ~(unsigned)NBD_CMD_FLAG_FUA;
    nbd_submit(node_client(base->node), &piece->req);
}

static void nbd_node_kick(struct block_queue *queue) {}

static void piece_status(struct nbd_piece *piece)
{
    struct block_request *block = piece->block;
    uint32_t align = piece->queue->queue.node->limits.request_align;
    bool zero = piece->req.status & NBD_STATE_ZERO;
    uint64_t len = piece->req.status_len;
    len = zero ? round_down(len, align) : round_up(len, align);
    block->status = zero && len ? BLOCK_ZERO : BLOCK_DATA;
    block->status_len = len ? len : align;
    if (block->status_len > block->len)
        block->status_len = block->len;
}

static void nbd_node_reap(struct block_queue *base)
{
    struct nbd_queue *queue = queue_of(base);
    pthread_mutex_lock(&queue->lock);
    struct nbd_piece *list = TAKE(queue->finished);
    queue->finished_tail = &queue->finished;
    pthread_mutex_unlock(&queue->lock);
    while (list) {
        struct nbd_piece *piece = list;
        struct block_request *block = piece->block;
        int result = piece->result;
        list = piece->next;
        if (block->op == BLOCK_STATUS && result == 0)
            piece_status(piece);
        piece->next = queue->spare;
        queue->spare = piece;
        block_complete(block, result);
    }
}

static int nbd_node_queue_create(struct block_node *node, const struct block_queue *init,
                                 struct block_queue **out, struct err *err)
{
    struct nbd_queue *queue = calloc(1, sizeof *queue);
    if (!queue)
        return err_set(err, ENOMEM, "out of memory");
    block_queue_init(&queue->queue, init);
    pthread_mutex_init(&queue->lock, NULL);
    queue->finished_tail = &queue->finished;
    *out = &queue->queue;
    return 0;
}

static void nbd_node_queue_destroy(struct block_queue *base)
{
    struct nbd_queue *queue = queue_of(base);
    {
        /* The client's thread may just be leaving piece_done. */
        LOCKED(&queue->lock);
    }
    for (struct nbd_piece *piece; (piece = queue->spare);) {
        queue->spare = piece->next;
        free(piece);
    }
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

static void nbd_node_close(struct block_node *node)
{
    struct nbd_node *nbd = CONTAINER_OF(node, struct nbd_node, node);
    nbd_client_close(nbd->client);
    free(nbd);
}

static const char *nbd_node_backend(const struct block_node *node) { return "bedplate-nbd"; }
static const char *nbd_node_format(const struct block_node *node) { return "raw"; }

static const struct block_driver nbd_driver = {
    .name = "nbd",
    .about = "an export of an NBD server, by way of a helper process",
    .close = nbd_node_close,
    .queue_create = nbd_node_queue_create,
    .queue_destroy = nbd_node_queue_destroy,
    .submit = nbd_node_submit,
    .kick = nbd_node_kick,
    .reap = nbd_node_reap,
    .backend = nbd_node_backend,
    .format = nbd_node_format,
};

int nbd_node_open(const struct block_options *options, struct nbd_client *take_client,
                  struct block_node **out, struct err *err)
{
    const struct nbd_export *export = nbd_client_export(take_client);
    struct nbd_node *nbd = calloc(1, sizeof *nbd);
    if (!nbd) {
        nbd_client_close(take_client);
        return err_set(err, ENOMEM, "out of memory");
    }
    nbd->client = take_client;
    nbd->unsafe = options->cache == BLOCK_CACHE_UNSAFE;
    AUTO(block_close) struct block_node *node = &nbd->node;
    int r = block_node_init(node, &nbd_driver, options->path, err);
    if (r < 0)
        return r;
    node->readonly = options->readonly;
    node->size = round_down(export->size, export->align < 512 ? 512 : export->align);
    if (!node->size)
        return err_set(err, EINVAL, "the export is empty");
    uint64_t range = round_down(RANGE_MAX, export->align);
    node->limits = (struct block_limits){
        .request_align = export->align,
        .max_transfer = export->max_transfer,
        .max_segments = IOV_MAX,
        .max_discard = export_has(take_client, NBD_FLAG_SEND_TRIM) ? range : 0,
        .discard_align = export->align < 4096 ? 4096 : export->align,
        .max_write_zeroes = range,
    };
    *out = TAKE(node);
    return 0;
}
