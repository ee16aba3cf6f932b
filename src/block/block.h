/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disks: a tree of nodes, each a format or a filter over its children, that take asynchronous
 * requests. This room knows no VM: the VMM, the image tool and fuzzers use the same nodes.
 *
 * A node is opened once (block_open, before the process locks itself down) and then reached through
 * queues. A queue belongs to one loop: only that loop's thread submits to it, and completions run
 * there. Several queues of one node work side by side. Rings and threads are made in
 * block_queue_create, so make all queues before the lock-down, too.
 *
 * Nodes never open files: they ask the opener given at creation.
 *
 *     struct block_node *node;    block_open(&(struct block_options){ .path = p }, &node, err);
 *     struct block_queue *queue;  block_queue_create(node, loop, &queue, err);
 *     req->op = BLOCK_READ; ...   block_submit(queue, req); ... block_kick(queue);
 */
#ifndef BLOCK_BLOCK_H
#define BLOCK_BLOCK_H

#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct block_node;
struct block_queue;
struct image_secret;

/* ---- requests ---- */

enum block_op {
    BLOCK_READ,
    BLOCK_WRITE,
    BLOCK_FLUSH,        /* what completed before it was submitted is durable when it completes */
    BLOCK_DISCARD,      /* the content becomes unspecified; a hint */
    BLOCK_WRITE_ZEROES, /* the content becomes zeros */
    BLOCK_STATUS,       /* is [offset, offset + len) allocated? fills `status` and `status_len` */
};

enum block_flag {
    BLOCK_FUA = 1,   /* WRITE, WRITE_ZEROES: durable when it completes */
    BLOCK_UNMAP = 2, /* WRITE_ZEROES: give the space back where that keeps it zero */
};

enum block_status {
    BLOCK_DATA = 1, /* stored in this node; otherwise it reads from below or as zeros */
    BLOCK_ZERO = 2, /* known to read as zeros */
};

/* A range in use by a request that goes around a format straight to its file. Private. */
struct block_hold {
    uint64_t start, end;
    bool exclusive;
    struct block_hold *next, **prev;
};

/*
 * The submitter fills the first part and keeps the request, its iovec array and the memory alive
 * until `done`. The memory may belong to a guest that changes it meanwhile.
 */
struct block_request {
    enum block_op op;
    unsigned flags;          /* enum block_flag */
    uint64_t offset, len;    /* bytes; multiples of limits.request_align; FLUSH: ignored */
    const struct iovec *iov; /* READ, WRITE: adds up to len; may be cut in any way */
    unsigned iov_count;      /* at most limits.max_segments */
    /* Once, on the queue's loop, never inside block_submit: 0 or -errno. -EROFS: a write to a
     * read-only node. -EINVAL: out of range, unaligned, over a limit. -ENOSPC: the host's disk or
     * quota is full (EDQUOT counts); the request may be submitted again later. -EPERM: the magic
     * guard (probe.h). -EOPNOTSUPP: DISCARD where it can never work. */
    void (*done)(struct block_request *req, int result);

    /* Answers of STATUS: flags that hold for the first status_len (> 0) bytes. */
    unsigned status;
    uint64_t status_len;

    /* Private to this room. */
    struct block_queue *queue;
    struct block_request *next;
    void (*finished)(struct block_request *req, int result); /* before the rest of completion */
    struct block_queue *format_queue; /* of the format node that it went through */
    struct block_hold hold;
    uint64_t at;      /* `offset` in the file that a raw node has */
    struct iovec one; /* a single buffer in place of iov: the bounce buffer */
    struct iovec *rest;
    void *worker_queue;
    bool direct;
    void *bounce;
    uint64_t moved;
    int result;
    unsigned step;
};

/* ---- nodes ---- */

enum block_cache {
    BLOCK_CACHE_WRITEBACK, /* the host's page cache; FLUSH makes it durable */
    BLOCK_CACHE_DIRECT,    /* O_DIRECT; FLUSH makes it durable */
    BLOCK_CACHE_UNSAFE,    /* the host's page cache; FLUSH and FUA do nothing */
};

/* What a node asks of its submitters. Fixed once open. */
struct block_limits {
    uint32_t request_align;    /* power of two: offset and len are multiples */
    uint32_t max_transfer;     /* bytes of one READ or WRITE */
    uint32_t max_segments;     /* entries of an iovec */
    uint64_t max_discard;      /* bytes of one DISCARD; 0: it is not taken */
    uint32_t discard_align;    /* parts smaller than this are not given back */
    uint64_t max_write_zeroes; /* bytes of one WRITE_ZEROES; always taken */
};

/* Gives descriptors to nodes. Inside a VM an implementation answers from descriptors handed over.
 */
struct block_opener {
    /* Answers a descriptor that the caller owns (O_CLOEXEC) in *fd. flags: O_RDONLY or O_RDWR,
     * perhaps with O_DIRECT. */
    int (*open)(const struct block_opener *opener, const char *path, int flags, int *fd,
                struct err *err);
};
/* Opens by path; refuses directories, sockets, pipes and character devices in one sentence. */
extern const struct block_opener block_opener_files;

struct block_options {
    const char *path;
    const char *format; /* NULL: by the magic (probe.h) */
    bool readonly;
    enum block_cache cache;
    bool no_lock;      /* take no image lock (lock.h) */
    bool no_uring;     /* use the thread pool although io_uring works */
    bool copy_on_read; /* what is read from lower layers is copied into the top */
    bool live;         /* jobs may change the chain while the disk is in use (chain.h) */
    const struct block_opener *opener; /* NULL: block_opener_files; outlives the node */
    const struct image_secret *secret; /* the passphrase of encrypted images (image.h) */
};

int block_open(const struct block_options *options, struct block_node **out, struct err *err);
/* No queue may be left. Does not flush. Releases the lock. */
void block_close(struct block_node *node);
DEFINE_AUTO(struct block_node *, block_close)

uint64_t block_size(const struct block_node *node); /* bytes; a multiple of 512 and request_align */
bool block_readonly(const struct block_node *node);
const struct block_limits *block_limits(const struct block_node *node);
const char *block_path(const struct block_node *node);    /* valid until it is closed */
const char *block_format(const struct block_node *node);  /* "raw" */
const char *block_backend(const struct block_node *node); /* "io_uring" or "threads" */

/* ---- queues ---- */

int block_queue_create(struct block_node *node, struct loop *loop, struct block_queue **out,
                       struct err *err);
/* Waits for what is in flight (its memory is the submitter's) and completes it. On the queue's
 * loop, or while nobody runs that. */
void block_queue_destroy(struct block_queue *queue);
DEFINE_AUTO(struct block_queue *, block_queue_destroy)

/* Takes a request; it may wait until the next block_kick. Never fails: errors go to `done`. */
void block_submit(struct block_queue *queue, struct block_request *req);
/* Hands everything submitted so far to the host in one go. Call it after each batch. */
void block_kick(struct block_queue *queue);
unsigned block_in_flight(const struct block_queue *queue);
/* Completes requests (calling their `done`) until none is in flight: 0, or -ETIMEDOUT at the
 * deadline, with the rest still in flight. What `done` submits counts. On the queue's loop. */
int block_drain(struct block_queue *queue, uint64_t timeout_ms);

#endif
