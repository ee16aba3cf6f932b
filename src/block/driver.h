/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a disk format or filter plugs in. For this room only.
 *
 * A node of a kind embeds struct block_node, its queue embeds struct block_queue. A filter opens
 * queues on its child with block_queue_open_child() and forwards a request by calling block_pass():
 * the request stays on the outermost queue's books, and whoever finishes it calls block_complete.
 */
#ifndef BLOCK_DRIVER_H
#define BLOCK_DRIVER_H

#include "block/block.h"

#include <stdatomic.h>

struct chain;
struct store;

struct block_driver {
    const char *name, *about;
    bool filter; /* path, format and back end are its child's */
    void (*close)(struct block_node *node);
    /* Makes the kind's queue and what it needs of rings and threads; block.c fills struct
     * block_queue beforehand in *init. */
    int (*queue_create)(struct block_node *node, const struct block_queue *init,
                        struct block_queue **out, struct err *err);
    void (*queue_destroy)(struct block_queue *queue); /* nothing is in flight */
    /* A checked request. Never completes inside: block_complete_later exists for that. */
    void (*submit)(struct block_queue *queue, struct block_request *req);
    void (*kick)(struct block_queue *queue);
    /* The event descriptor was signalled: complete what is finished. */
    void (*reap)(struct block_queue *queue);
    const char *(*backend)(const struct block_node *node);
    const char *(*format)(const struct block_node *node); /* NULL: name */
};

struct block_node { /* but for the atomic fields, and `child` under chain.h's rules, fixed once open
                     */
    const struct block_driver *driver;
    struct block_node *child;  /* owned; NULL at the bottom */
    struct block_node *parent; /* the filter above */
    char *_Atomic path;
    _Atomic uint64_t size;
    bool readonly;
    struct block_limits limits;
    atomic_uint queues;
};

struct block_queue { /* fields on the loop */
    struct block_node *node;
    struct block_queue *outer; /* the queue that users see; itself for that one */
    struct block_queue *child; /* of a filter, owned */
    struct loop *loop;
    int event_fd; /* the outermost queue's: signalled from any thread when there is work to reap */
    struct loop_watch *watch;                  /* outermost only */
    struct block_request *ready, **ready_tail; /* outermost only: completed inside submit */
    unsigned in_flight;                        /* outermost only */
    bool draining;                             /* outermost only: nothing may be held back */
};

/* Fills the common part; takes path by copy. The driver sets size, readonly and limits. */
int block_node_init(struct block_node *node, const struct block_driver *driver, const char *path,
                    struct err *err);
/* The node and the filters above it have that size from now on. While nothing is in flight. */
void block_node_resize(struct block_node *node, uint64_t size);
/* For drivers' queue_create: copies *init. */
void block_queue_init(struct block_queue *queue, const struct block_queue *init);
int block_queue_open_child(struct block_queue *queue, struct err *err);
/* Nothing is in flight in it. */
void block_queue_close_child(struct block_queue *queue);

/* Ends a request: on the loop, not inside submit. */
void block_complete(struct block_request *req, int result);
/* Ends a request from inside submit. */
void block_complete_later(struct block_request *req, int result);
/* Hands a request on to the child of a filter. */
void block_pass(struct block_queue *queue, struct block_request *req);

/* For filters (filter.c), whose node embeds struct block_node first and whose queue, if it is their
 * own, struct block_queue first: zeroed memory of `size` bytes, over a child that becomes its own
 * (on failure it is closed); what it asks is what the child asks. */
int filter_create(const struct block_driver *driver, size_t size, struct block_node *take_child,
                  struct block_node **out, struct err *err);
int filter_queue_open(const struct block_queue *init, size_t size, struct block_queue **out,
                      struct err *err);
/* What a filter that keeps nothing of its own puts into its table. */
void filter_close(struct block_node *node);
int filter_queue_create(struct block_node *node, const struct block_queue *init,
                        struct block_queue **out, struct err *err);
void filter_queue_destroy(struct block_queue *queue);
void filter_kick(struct block_queue *queue);
void filter_reap(struct block_queue *queue);

/* The memory of a request, whatever stands in for it. */
static inline const struct iovec *block_iov(const struct block_request *req, unsigned *count)
{
    if (req->bounce) {
        *count = 1;
        return &req->one;
    }
    *count = req->iov_count;
    return req->iov;
}
/* Gives the request one aligned buffer of its own, freed on completion; a WRITE's data is copied in
 * now, a READ's is copied out on completion. */
int block_bounce(struct block_request *req);

/* The kinds. */
int raw_open(const struct block_options *options, int take_fd, struct block_node **out,
             struct err *err);
/* An image in another format than raw (image.h). Takes the store. */
int format_node_open(const struct block_options *options, const char *format,
                     struct store *take_store, struct block_node **out, struct err *err);
/* NULL: not one of those. */
struct chain *format_node_chain(struct block_node *node);
/* Refuses writes that would turn a raw image of unknown content into another format (probe.h).
 * Takes the child, on failure too. */
int guard_open(struct block_node *take_child, struct block_node **out, struct err *err);

#endif
