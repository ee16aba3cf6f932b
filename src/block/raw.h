/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside the raw kind: what a request does to the file, and the two ways to do it.
 *
 * raw.c turns each request into a sequence of system calls (struct raw_io), one after the other:
 * raw_next says what to do, raw_result looks at the answer. raw_uring.c and raw_threads.c only
 * carry these out, so both behave the same.
 */
#ifndef BLOCK_RAW_H
#define BLOCK_RAW_H

#include "block/workers.h"

enum raw_call { RAW_READ, RAW_WRITE, RAW_SYNC, RAW_FALLOCATE };

struct raw_io {
    enum raw_call call;
    int mode;  /* FALLOCATE */
    int flags; /* WRITE: RWF_ */
    uint64_t offset, len;
    const struct iovec *iov;
    unsigned count;
};

struct raw {
    struct block_node node;
    int fd;
    uint64_t file_size; /* real end when opened; the node's size is rounded up */
    bool block_device;
    bool direct;
    bool locked; /* block_open took the image lock on fd */
    bool uring;
    /* Learned while running, from any thread. */
    atomic_bool no_punch, no_zero_range;
    bool unsafe; /* flushing does nothing; fixed once open */
    atomic_bool sync_failed;
    struct workers workers; /* idle with io_uring */
};

static inline struct raw *raw_of(struct block_node *node) { return (struct raw *)node; }

/* On the loop, before the first call: gives O_DIRECT the alignment that it wants. */
int raw_prepare(struct raw *raw, struct block_request *req);
void raw_next(struct raw *raw, struct block_request *req, struct raw_io *io);
/* What the call returned, a count or -errno. True: the request ended with *result. */
bool raw_result(struct raw *raw, struct block_request *req, int answer, int *result);
/* STATUS, by lseek. */
int raw_status(struct raw *raw, struct block_request *req);

extern const struct block_driver raw_uring_driver, raw_threads_driver;
extern const struct workers_kind raw_workers;
/* May this process use io_uring with all that we need? */
bool raw_uring_works(void);
void raw_close(struct block_node *node);

#endif
