/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bench: requests through queues, as a VM's disk makes them, a given number at a time in each; each
 * queue has a thread. */
#include "img/img.h"

#include "base/checked.h"
#include "base/json.h"
#include "base/loop.h"
#include "block/block.h"

#include <inttypes.h>
#include <pthread.h>
#include <string.h>

enum { DEPTH_MAX = 1024, QUEUES_MAX = 64 };

struct bench {                                      /* fixed while it runs */
    uint64_t count, depth, queues, size, step, end; /* end: of where requests may begin */
    uint64_t offset;
    bool write, random;
};

struct bench_queue { /* one thread's */
    const struct bench *bench;
    struct loop *loop;
    struct block_queue *queue;
    pthread_t thread;
    bool running;
    struct bench_request *requests;
    uint8_t *memory;
    uint64_t count, submitted, done, seed, offset;
    int error;
};

struct bench_request {
    struct block_request req;
    struct iovec iov;
    struct bench_queue *queue;
};

static void bench_next(struct bench_request *r);

static void bench_done(struct block_request *req, int result)
{
    struct bench_request *r = CONTAINER_OF(req, struct bench_request, req);
    struct bench_queue *q = r->queue;
    q->done++;
    if (result < 0 && !q->error)
        q->error = result;
    if (q->submitted < q->count && !q->error)
        bench_next(r);
}

static void bench_next(struct bench_request *r)
{
    struct bench_queue *q = r->queue;
    const struct bench *b = q->bench;
    uint64_t at = q->offset;
    if (b->random) {
        q->seed ^= q->seed << 13;
        q->seed ^= q->seed >> 7;
        q->seed ^= q->seed << 17;
        at = q->seed % (b->end / b->size + 1) * b->size;
    } else {
        q->offset = q->offset + b->step > b->end ? 0 : q->offset + b->step;
    }
    q->submitted++;
    r->req = (struct block_request){ .op = b->write ? BLOCK_WRITE : BLOCK_READ,
                                     .offset = at,
                                     .len = b->size,
                                     .iov = &r->iov,
                                     .iov_count = 1,
                                     .done = bench_done };
    block_submit(q->queue, &r->req);
}

static void *bench_thread(void *arg)
{
    struct bench_queue *q = arg;
    for (unsigned i = 0; i < q->bench->depth && q->submitted < q->count; i++)
        bench_next(&q->requests[i]);
    block_drain(q->queue, UINT64_MAX);
    return NULL;
}

static int bench_parse(struct call *call, struct bench *b)
{
    b->count = 75000;
    b->depth = 64;
    b->queues = 1;
    b->write = call_flag(call, "write");
    b->random = call_flag(call, "random");
    int r = call_number(call, "count", 1, UINT32_MAX, &b->count);
    if (r == 0)
        r = call_number(call, "depth", 1, DEPTH_MAX, &b->depth);
    if (r == 0)
        r = call_number(call, "queues", 1, QUEUES_MAX, &b->queues);
    if (r == 0)
        r = call_size(call, "buffer-size", 4096, &b->size);
    if (r == 0)
        r = call_size(call, "step-size", b->size, &b->step);
    if (r == 0)
        r = call_size(call, "offset", 0, &b->offset);
    return r;
}

/* Everything that a queue needs, so that only requests are measured. */
static int bench_open(struct bench_queue *q, const struct bench *b, unsigned index,
                      struct block_node *node, struct err *err)
{
    uint64_t room = round_up(b->size, 4096);
    q->bench = b;
    q->seed = 88172645463325252ull + index;
    q->count = b->count / b->queues + (index < b->count % b->queues);
    q->offset = b->offset;
    q->requests = calloc(b->depth, sizeof *q->requests);
    if (!q->requests || posix_memalign((void **)&q->memory, 4096, b->depth * room))
        return err_set(err, ENOMEM, "out of memory");
    memset(q->memory, 0x5a, b->depth * room);
    for (unsigned i = 0; i < b->depth; i++) {
        q->requests[i].iov = (struct iovec){ q->memory + i * room, b->size };
        q->requests[i].queue = q;
    }
    int r = loop_create(&q->loop, err);
    return r < 0 ? r : block_queue_create(node, q->loop, &q->queue, err);
}

static void bench_close(struct bench_queue *queues, const struct bench *b)
{
    for (unsigned i = 0; i < b->queues; i++) {
        block_queue_destroy(queues[i].queue);
        loop_destroy(queues[i].loop);
        free(queues[i].requests);
        free(queues[i].memory);
    }
    free(queues);
}

static int bench_run(struct call *call, const struct bench *b, struct bench_queue *queues)
{
    int r = 0;
    for (unsigned i = 1; i < b->queues && r == 0; i++) {
        r = pthread_create(&queues[i].thread, NULL, bench_thread, &queues[i]);
        queues[i].running = !r;
    }
    if (!r)
        bench_thread(&queues[0]);
    for (unsigned i = 1; i < b->queues; i++)
        if (queues[i].running)
            pthread_join(queues[i].thread, NULL);
    if (r)
        return err_errno(&call->err, r, "cannot create a thread");
    for (unsigned i = 0; i < b->queues; i++)
        if (queues[i].error)
            return err_errno(&call->err, -queues[i].error, "%s: a request failed", call->args[0]);
    return 0;
}

static void bench_print(struct call *call, const struct bench *b, const char *backend, double s)
{
    if (call_json(call)) {
        AUTO(json_decref)
        json_t *json = json_pack("{s:I, s:I, s:f, s:f, s:s}", "requests", (json_int_t)b->count,
                                 "queues", (json_int_t)b->queues, "seconds", s, "per-second",
                                 (double)b->count / s, "backend", backend);
        json_dumpf(json, stdout, JSON_INDENT(4));
        putchar('\n');
    } else if (!call_quiet(call)) {
        printf("%" PRIu64 " %s of %" PRIu64 " bytes, %" PRIu64 " at once in each of %" PRIu64
               " queues, through %s\n",
               b->count, b->write ? "writes" : "reads", b->size, b->depth, b->queues, backend);
        printf("Run completed in %.3f seconds: %.0f/s, %.1f MiB/s\n", s, (double)b->count / s,
               (double)b->count * (double)b->size / s / 1048576);
    }
}

static int bench_measure(struct call *call, struct bench *b, struct block_node *node)
{
    const struct block_limits *limits = block_limits(node);
    if (!b->size || b->size > limits->max_transfer || b->size > block_size(node) ||
        b->offset > block_size(node) - b->size)
        return err_set(&call->err, EINVAL, "the buffer's size or the offset does not fit the disk");
    b->end = block_size(node) - b->size;
    struct bench_queue *queues = calloc(b->queues, sizeof *queues);
    if (!queues)
        return err_set(&call->err, ENOMEM, "out of memory");
    int r = 0;
    for (unsigned i = 0; i < b->queues && r == 0; i++)
        r = bench_open(&queues[i], b, i, node, &call->err);
    uint64_t start = monotonic_ns();
    if (r == 0)
        r = bench_run(call, b, queues);
    if (r == 0)
        bench_print(call, b, block_backend(node), (double)(monotonic_ns() - start) / 1e9);
    bench_close(queues, b);
    return r;
}

int img_bench(struct call *call)
{
    struct bench b = { 0 };
    const char *cache = call_flag(call, "cache");
    int r = bench_parse(call, &b);
    if (r < 0)
        return r;
    struct block_options options = {
        .path = call->args[0],
        .format = call_flag(call, "format"),
        .readonly = !b.write,
        .no_lock = call_flag(call, "force-share") != NULL,
        .no_uring = call_flag(call, "no-uring") != NULL,
        .cache = cache && !strcmp(cache, "none") ? BLOCK_CACHE_DIRECT : BLOCK_CACHE_WRITEBACK,
    };
    AUTO(block_close) struct block_node *node = NULL;
    r = call_secret(call, &options.secret);
    if (r == 0)
        r = block_open(&options, &node, &call->err);
    return r < 0 ? r : bench_measure(call, &b, node);
}
