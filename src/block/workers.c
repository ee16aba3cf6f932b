/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A pool of threads for requests (workers.h).
 *
 * A worker lists a request as finished and signals the queue's eventfd in one hold of the pool's
 * lock: who then finds the request under that lock knows that the worker is done with the queue,
 * which may be destroyed next.
 */
#include "block/workers.h"

#include "base/checked.h"

#include <signal.h>
#include <sys/eventfd.h>

struct workers_queue {
    struct block_queue queue;
    struct workers *workers;       /* fixed at create */
    struct workers_list submitted; /* on the loop, until the kick */
    unsigned away;                 /* on the loop: kicked and not reaped yet */
    struct workers_list finished;  /* workers->lock */
};

static void list_init(struct workers_list *list)
{
    *list = (struct workers_list){ NULL, &list->first };
}

static void list_add(struct workers_list *list, struct block_request *req)
{
    req->next = NULL;
    *list->tail = req;
    list->tail = &req->next;
}

static struct block_request *list_pop(struct workers_list *list)
{
    struct block_request *req = list->first;
    if (req) {
        list->first = req->next;
        if (!list->first)
            list->tail = &list->first;
    }
    return req;
}

/* ---- the threads ---- */

static void *workers_run(void *arg)
{
    struct workers *workers = arg;
    pthread_setname_np(pthread_self(), workers->kind->name);
    pthread_mutex_lock(&workers->lock);
    for (;;) {
        struct block_request *req = list_pop(&workers->todo);
        if (!req && workers->stop)
            break;
        if (!req) {
            pthread_cond_wait(&workers->work, &workers->lock);
            continue;
        }
        pthread_mutex_unlock(&workers->lock);
        req->result = workers->kind->execute(workers->node, req);
        pthread_mutex_lock(&workers->lock);
        struct workers_queue *queue = req->worker_queue;
        list_add(&queue->finished, req);
        eventfd_write(queue->queue.event_fd, 1);
    }
    pthread_mutex_unlock(&workers->lock);
    return NULL;
}

static int workers_start(struct workers *workers, struct err *err)
{
    LOCKED(&workers->lock);
    if (workers->count)
        return 0;
    /* Signals are for the threads that want them. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, workers->kind->stack);
    int r = 0;
    while (workers->count < WORKERS_MAX && !r) {
        r = pthread_create(&workers->threads[workers->count], &attr, workers_run, workers);
        workers->count += !r;
    }
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!workers->count) /* fewer do as well */
        return err_errno(err, r, "cannot start a thread for the %s", workers->kind->name);
    return 0;
}

void workers_init(struct workers *workers, const struct workers_kind *kind, struct block_node *node)
{
    workers->kind = kind;
    workers->node = node;
    workers->stop = false;
    workers->count = 0;
    list_init(&workers->todo);
    pthread_mutex_init(&workers->lock, NULL);
    pthread_cond_init(&workers->work, NULL);
}

void workers_fini(struct workers *workers)
{
    pthread_mutex_lock(&workers->lock);
    workers->stop = true;
    pthread_cond_broadcast(&workers->work);
    pthread_mutex_unlock(&workers->lock);
    for (unsigned i = 0; i < workers->count; i++)
        pthread_join(workers->threads[i], NULL);
    pthread_cond_destroy(&workers->work);
    pthread_mutex_destroy(&workers->lock);
}

/* ---- queues ---- */

static struct workers_queue *queue_of(struct block_queue *queue)
{
    return CONTAINER_OF(queue, struct workers_queue, queue);
}

void workers_submit(struct block_queue *queue, struct block_request *req)
{
    req->worker_queue = queue_of(queue);
    list_add(&queue_of(queue)->submitted, req);
}

void workers_kick(struct block_queue *queue)
{
    struct workers_list *submitted = &queue_of(queue)->submitted;
    struct workers *workers = queue_of(queue)->workers;
    unsigned count = 0;
    if (!submitted->first)
        return;
    LOCKED(&workers->lock);
    for (struct block_request *req; (req = list_pop(submitted)); count++)
        list_add(&workers->todo, req);
    queue_of(queue)->away += count;
    if (count > 1)
        pthread_cond_broadcast(&workers->work);
    else
        pthread_cond_signal(&workers->work);
}

void workers_reap(struct block_queue *queue)
{
    struct workers *workers = queue_of(queue)->workers;
    while (queue_of(queue)->away) {
        pthread_mutex_lock(&workers->lock);
        struct block_request *req = list_pop(&queue_of(queue)->finished);
        pthread_mutex_unlock(&workers->lock);
        if (!req)
            return;
        queue_of(queue)->away--;
        block_complete(req, req->result);
    }
}

int workers_queue_create(struct workers *workers, const struct block_queue *init,
                         struct block_queue **out, struct err *err)
{
    struct workers_queue *queue = calloc(1, sizeof *queue);
    if (!queue)
        return err_set(err, ENOMEM, "out of memory");
    block_queue_init(&queue->queue, init);
    queue->workers = workers;
    list_init(&queue->submitted);
    list_init(&queue->finished);
    int r = workers_start(workers, err);
    if (r < 0) {
        free(queue);
        return r;
    }
    *out = &queue->queue;
    return 0;
}

void workers_queue_destroy(struct block_queue *queue) { free(queue_of(queue)); }
