/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bench: requests through a queue, as a VM's disk makes them, a given number at a time. */
#include "img/img.h"

#include "base/checked.h"
#include "base/json.h"
#include "base/loop.h"
#include "block/block.h"

#include <inttypes.h>
#include <string.h>

enum { DEPTH_MAX = 1024 };

struct bench;
struct bench_request {
    struct block_request req;
    struct iovec iov;
    struct bench *bench;
};

struct bench {
    struct block_queue *queue;
    uint64_t count, depth, size, step, offset, end; /* end: of where requests may begin */
    uint64_t submitted, done, seed;
    bool write, random;
    int error;
};

static void bench_next(struct bench_request *r);

static void bench_done(struct block_request *req, int result)
{
    struct bench_request *r = CONTAINER_OF(req, struct bench_request, req);
    struct bench *b = r->bench;
    b->done++;
    if (result < 0 && !b->error)
        b->error = result;
    if (b->submitted < b->count && !b->error)
        bench_next(r);
}

static void bench_next(struct bench_request *r)
{
    struct bench *b = r->bench;
    uint64_t at = b->offset;
    if (b->random) {
        b->seed ^= b->seed << 13;
        b->seed ^= b->seed >> 7;
        b->seed ^= b->seed << 17;
        at = b->seed % (b->end / b->size + 1) * b->size;
    } else {
        b->offset = b->offset + b->step > b->end ? 0 : b->offset + b->step;
    }
    b->submitted++;
    r->req = (struct block_request){ .op = b->write ? BLOCK_WRITE : BLOCK_READ,
                                     .offset = at,
                                     .len = b->size,
                                     .iov = &r->iov,
                                     .iov_count = 1,
                                     .done = bench_done };
    block_submit(b->queue, &r->req);
}

static int bench_parse(struct call *call, struct bench *b)
{
    b->count = 75000;
    b->depth = 64;
    b->seed = 88172645463325252ull;
    b->write = call_flag(call, "write");
    b->random = call_flag(call, "random");
    int r = call_number(call, "count", 1, UINT32_MAX, &b->count);
    if (r == 0)
        r = call_number(call, "depth", 1, DEPTH_MAX, &b->depth);
    if (r == 0)
        r = call_size(call, "buffer-size", 4096, &b->size);
    if (r == 0)
        r = call_size(call, "step-size", b->size, &b->step);
    if (r == 0)
        r = call_size(call, "offset", 0, &b->offset);
    return r;
}

static int bench_run(struct call *call, struct bench *b, struct block_node *node)
{
    const struct block_limits *limits = block_limits(node);
    if (!b->size || b->size > limits->max_transfer || b->size > block_size(node) ||
        b->offset > block_size(node) - b->size)
        return err_set(&call->err, EINVAL, "the buffer's size or the offset does not fit the disk");
    b->end = block_size(node) - b->size;
    AUTO(free) struct bench_request *requests = calloc(b->depth, sizeof *requests);
    AUTO(free) uint8_t *memory = NULL;
    if (!requests || posix_memalign((void **)&memory, 4096, b->depth * round_up(b->size, 4096)))
        return err_set(&call->err, ENOMEM, "out of memory");
    memset(memory, 0x5a, b->depth * round_up(b->size, 4096));
    for (unsigned i = 0; i < b->depth && b->submitted < b->count; i++) {
        requests[i].iov = (struct iovec){ memory + i * round_up(b->size, 4096), b->size };
        requests[i].bench = b;
        bench_next(&requests[i]);
    }
    block_drain(b->queue, UINT64_MAX);
    if (b->error)
        return err_errno(&call->err, -b->error, "%s: a request failed", call->args[0]);
    return 0;
}

static void bench_print(struct call *call, const struct bench *b, const char *backend, double s)
{
    if (call_json(call)) {
        AUTO(json_decref)
        json_t *json = json_pack("{s:I, s:f, s:f, s:s}", "requests", (json_int_t)b->done, "seconds",
                                 s, "per-second", (double)b->done / s, "backend", backend);
        json_dumpf(json, stdout, JSON_INDENT(4));
        putchar('\n');
    } else if (!call_quiet(call)) {
        printf("%" PRIu64 " %s of %" PRIu64 " bytes, %" PRIu64 " at once, through %s\n", b->done,
               b->write ? "writes" : "reads", b->size, b->depth, backend);
        printf("Run completed in %.3f seconds: %.0f/s, %.1f MiB/s\n", s, (double)b->done / s,
               (double)b->done * (double)b->size / s / 1048576);
    }
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
    AUTO(loop_destroy) struct loop *loop = NULL;
    AUTO(block_close) struct block_node *node = NULL;
    r = call_secret(call, &options.secret);
    if (r < 0)
        return r;
    r = block_open(&options, &node, &call->err);
    if (r == 0)
        r = loop_create(&loop, &call->err);
    if (r == 0)
        r = block_queue_create(node, loop, &b.queue, &call->err);
    if (r < 0)
        return r;
    uint64_t start = monotonic_ns();
    r = bench_run(call, &b, node);
    if (r == 0)
        bench_print(call, &b, block_backend(node), (double)(monotonic_ns() - start) / 1e9);
    block_queue_destroy(b.queue);
    return r;
}
