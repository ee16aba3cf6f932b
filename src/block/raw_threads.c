/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Raw images through a pool of threads, one pool for each node, where io_uring is refused.
 *
 * A worker carries a request through all its calls, puts it on its queue's list of finished ones
 * and signals the queue's eventfd under the pool's lock: who then finds the request under that lock
 * knows that the worker is done with the queue.
 */
#include "block/raw.h"

#include "base/checked.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>

enum { POOL_THREADS = 8, POOL_STACK = 256 << 10 };

struct list {
    struct block_request *first, **tail;
};

struct threads_queue {
    struct block_queue queue;
    struct list submitted; /* on the loop, until the kick */
    struct list finished;  /* pool->lock */
};

struct raw_pool {
    struct raw *raw;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct list todo; /* lock */
    bool stop;        /* lock */
    unsigned count;
    pthread_t threads[POOL_THREADS];
};

static void list_init(struct list *list) { *list = (struct list){ NULL, &list->first }; }

static void list_add(struct list *list, struct block_request *req)
{
    req->next = NULL;
    *list->tail = req;
    list->tail = &req->next;
}

static struct block_request *list_pop(struct list *list)
{
    struct block_request *req = list->first;
    if (req) {
        list->first = req->next;
        if (!list->first)
            list->tail = &list->first;
    }
    return req;
}

/* ---- the workers ---- */

static int pool_call(const struct raw *raw, const struct raw_io *io)
{
    ssize_t r = -1;
    switch (io->call) {
    case RAW_READ: r = preadv(raw->fd, io->iov, (int)io->count, (off_t)io->offset); break;
    case RAW_WRITE:
        r = pwritev2(raw->fd, io->iov, (int)io->count, (off_t)io->offset, io->flags);
        break;
    case RAW_SYNC: r = fdatasync(raw->fd); break;
    case RAW_FALLOCATE: r = fallocate(raw->fd, io->mode, (off_t)io->offset, (off_t)io->len); break;
    }
    return r < 0 ? -errno : (int)r;
}

static int pool_execute(struct raw *raw, struct block_request *req)
{
    if (req->op == BLOCK_STATUS)
        return raw_status(raw, req);
    struct raw_io io;
    int answer, result = 0;
    do {
        raw_next(raw, req, &io);
        answer = pool_call(raw, &io);
    } while (!raw_result(raw, req, answer, &result));
    return result;
}

static struct threads_queue *threads_of(struct block_queue *queue)
{
    return CONTAINER_OF(queue, struct threads_queue, queue);
}

static void *pool_worker(void *arg)
{
    struct raw_pool *pool = arg;
    pthread_setname_np(pthread_self(), "disk");
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct block_request *req = list_pop(&pool->todo);
        if (!req && pool->stop)
            break;
        if (!req) {
            pthread_cond_wait(&pool->work, &pool->lock);
            continue;
        }
        pthread_mutex_unlock(&pool->lock);
        req->result = pool_execute(pool->raw, req);
        pthread_mutex_lock(&pool->lock);
        struct threads_queue *queue = req->worker_queue;
        list_add(&queue->finished, req);
        eventfd_write(queue->queue.event_fd, 1);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

void raw_pool_destroy(struct raw_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->count; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

static int pool_create(struct raw *raw, struct raw_pool **out, struct err *err)
{
    struct raw_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return err_set(err, ENOMEM, "out of memory");
    pool->raw = raw;
    list_init(&pool->todo);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);

    /* Signals are for the threads that want them. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, POOL_STACK);
    int r = 0;
    while (pool->count < POOL_THREADS && !r) {
        r = pthread_create(&pool->threads[pool->count], &attr, pool_worker, pool);
        pool->count += !r;
    }
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!pool->count) { /* fewer do as well */
        raw_pool_destroy(pool);
        return err_errno(err, r, "cannot start a thread for the disk");
    }
    *out = pool;
    return 0;
}

/* ---- queues ---- */

static void threads_submit(struct block_queue *queue, struct block_request *req)
{
    struct raw *raw = raw_of(queue->node);
    int r = raw_prepare(raw, req);
    if (r < 0) {
        block_complete_later(req, r);
        return;
    }
    req->worker_queue = threads_of(queue);
    list_add(&threads_of(queue)->submitted, req);
}

static void threads_kick(struct block_queue *queue)
{
    struct threads_queue *threads = threads_of(queue);
    struct raw_pool *pool = raw_of(queue->node)->pool;
    unsigned count = 0;
    if (!threads->submitted.first)
        return;
    LOCKED(&pool->lock);
    for (struct block_request *req; (req = list_pop(&threads->submitted)); count++)
        list_add(&pool->todo, req);
    if (count > 1)
        pthread_cond_broadcast(&pool->work);
    else
        pthread_cond_signal(&pool->work);
}

static void threads_reap(struct block_queue *queue)
{
    struct raw_pool *pool = raw_of(queue->node)->pool;
    for (;;) {
        pthread_mutex_lock(&pool->lock);
        struct block_request *req = list_pop(&threads_of(queue)->finished);
        pthread_mutex_unlock(&pool->lock);
        if (!req)
            return;
        block_complete(req, req->result);
    }
}

static int threads_queue_create(struct block_node *node, const struct block_queue *init,
                                struct block_queue **out, struct err *err)
{
    struct raw *raw = raw_of(node);
    struct threads_queue *threads = calloc(1, sizeof *threads);
    if (!threads)
        return err_set(err, ENOMEM, "out of memory");
    block_queue_init(&threads->queue, init);
    list_init(&threads->submitted);
    list_init(&threads->finished);

    pthread_mutex_lock(&raw->lock);
    int r = raw->pool ? 0 : pool_create(raw, &raw->pool, err);
    pthread_mutex_unlock(&raw->lock);
    if (r < 0) {
        free(threads);
        return r;
    }
    *out = &threads->queue;
    return 0;
}

static void threads_queue_destroy(struct block_queue *queue) { free(threads_of(queue)); }
static const char *threads_backend(const struct block_node *node) { return "threads"; }

const struct block_driver raw_threads_driver = {
    .name = "raw",
    .about = "a file or block device, byte for byte, through a pool of threads",
    .close = raw_close,
    .queue_create = threads_queue_create,
    .queue_destroy = threads_queue_destroy,
    .submit = threads_submit,
    .kick = threads_kick,
    .reap = threads_reap,
    .backend = threads_backend,
};
