/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A pool of threads that carry out a node's requests with blocking calls. For drivers of this room.
 *
 * The node embeds struct workers, from workers_init to workers_fini; the first queue starts the
 * threads and all queues share them. Requests start in the order in which they were kicked and end
 * in any. Each stays its submitter's; a worker has it to itself while `execute` runs, then leaves
 * it on its queue's list of finished ones and signals the queue's eventfd, upon which the loop
 * reaps.
 *
 * Any thread may create a queue. What takes one has the form and the rules of the driver's function
 * of that name (driver.h): on the queue's loop, or while nobody runs that.
 */
#ifndef BLOCK_WORKERS_H
#define BLOCK_WORKERS_H

#include "block/driver.h"

#include <pthread.h>

enum { WORKERS_MAX = 8 };

struct workers_kind {
    const char *name; /* of the threads, and in errors: "disk" */
    size_t stack;     /* bytes, for each thread */
    /* On a worker, without locks, several at once: 0 or -errno for `done`. */
    int (*execute)(struct block_node *node, struct block_request *req);
};

struct workers_list {
    struct block_request *first, **tail;
};

struct workers {
    const struct workers_kind *kind; /* fixed once initialised */
    struct block_node *node;         /* fixed once initialised; its owner */
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct workers_list todo;       /* lock */
    bool stop;                      /* lock */
    unsigned count;                 /* lock; fixed once above 0 */
    pthread_t threads[WORKERS_MAX]; /* like count */
};

void workers_init(struct workers *workers, const struct workers_kind *kind,
                  struct block_node *node);
/* Waits for the threads to end. No queue may be left. */
void workers_fini(struct workers *workers);

/* Copies *init, and starts the threads if there are none yet. */
int workers_queue_create(struct workers *workers, const struct block_queue *init,
                         struct block_queue **out, struct err *err);
void workers_queue_destroy(struct block_queue *queue); /* nothing is in flight */

/* Keeps the request until the next workers_kick. */
void workers_submit(struct block_queue *queue, struct block_request *req);
void workers_kick(struct block_queue *queue);
void workers_reap(struct block_queue *queue);

#endif
