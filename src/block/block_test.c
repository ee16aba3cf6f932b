/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Disks: random requests against a model in memory, on both back ends; sizes, limits, drain, the
 * magic guard, probing, full disks, bad paths. */
#include "block/block.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/text.h"
#include "block/driver.h"
#include "block/image.h"
#include "block/probe.h"
#include "block/qcow2.h"
#include "block/raw.h"
#include "block/zeroes.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

static char test_dir[64];
static struct loop *test_loop;
static bool use_threads; /* which back end the tests run on */
static bool use_live;    /* as disks whose chain can change */

static const char *test_path(const char *name)
{
    static char path[4][128];
    static unsigned turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", test_dir, name);
    return path[turn];
}

static const char *make_file(const char *name, uint64_t size)
{
    const char *path = test_path(name);
    int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
    return path;
}

struct disk {
    struct block_node *node;
    struct block_queue *queue;
};

static struct disk disk_open_with(struct block_options options)
{
    struct disk disk;
    struct err err = { 0 };
    options.no_uring = use_threads;
    options.live = use_live;
    if (block_open(&options, &disk.node, &err) < 0)
        fail_msg("%s", err.text);
    if (block_queue_create(disk.node, test_loop, &disk.queue, &err) < 0)
        fail_msg("%s", err.text);
    return disk;
}

static struct disk disk_open(const char *path)
{
    return disk_open_with((struct block_options){ .path = path, .format = "raw" });
}

static void disk_close(struct disk *disk)
{
    block_queue_destroy(disk->queue);
    block_close(disk->node);
}

struct op {
    struct block_request req;
    int answer; /* 1 while running */
};

static void op_done(struct block_request *req, int result)
{
    struct op *op = CONTAINER_OF(req, struct op, req);
    assert_int_equal(op->answer, 1);
    op->answer = result;
}

static void op_submit(struct disk *disk, struct op *op)
{
    op->answer = 1;
    op->req.done = op_done;
    block_submit(disk->queue, &op->req);
    assert_int_equal(op->answer, 1); /* never inside block_submit */
}

static int run(struct disk *disk, enum block_op what, uint64_t offset, void *data, uint64_t len,
               unsigned flags)
{
    struct iovec iov = { data, len };
    struct op op = {
        .req = { .op = what,
                 .flags = flags,
                 .offset = offset,
                 .len = len,
                 .iov = &iov,
                 .iov_count = 1 },
    };
    op_submit(disk, &op);
    block_kick(disk->queue);
    assert_int_equal(block_drain(disk->queue, 10000), 0);
    return op.answer;
}

/* ---- the model ---- */

enum { MODEL_SIZE = 1 << 20, MODEL_DEPTH = 32, MODEL_ROUNDS = 300 };

struct model_op {
    struct op op;
    struct iovec iov[8];
    uint8_t *data;
};

static uint64_t seed;
static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* A request over a random range that overlaps no other in this batch. */
static bool model_prepare(struct model_op *m, struct model_op *others, unsigned count,
                          uint32_t align)
{
    struct block_request *req = &m->op.req;
    *req = (struct block_request){ 0 };
    static const enum block_op ops[] = { BLOCK_READ,    BLOCK_READ,         BLOCK_WRITE,
                                         BLOCK_WRITE,   BLOCK_WRITE,        BLOCK_FLUSH,
                                         BLOCK_DISCARD, BLOCK_WRITE_ZEROES, BLOCK_STATUS };
    req->op = ops[next_random() % ARRAY_LEN(ops)];
    req->flags = next_random() & (BLOCK_FUA | BLOCK_UNMAP);
    req->len = (1 + next_random() % (65536 / align)) * align;
    req->offset = next_random() % (MODEL_SIZE / align) * align;
    if (!range_fits(req->offset, req->len, MODEL_SIZE))
        return false;
    for (unsigned i = 0; i < count; i++)
        if (ranges_overlap(req->offset, req->len, others[i].op.req.offset, others[i].op.req.len))
            return false;

    m->data = malloc(req->len + 8);
    uint8_t *at = m->data + next_random() % 8; /* memory in any alignment */
    uint64_t left = req->len;
    unsigned n = 0;
    while (left) {
        uint64_t part = n == ARRAY_LEN(m->iov) - 1 ? left : 1 + next_random() % left;
        m->iov[n++] = (struct iovec){ at, part };
        for (uint64_t i = 0; i < part; i++)
            at[i] = (uint8_t)next_random();
        at += part;
        left -= part;
    }
    req->iov = m->iov;
    req->iov_count = n;
    return true;
}

static void model_apply(struct model_op *m, uint8_t *model, struct disk *disk)
{
    struct block_request *req = &m->op.req;
    uint8_t *at = model + req->offset;
    assert_int_equal(m->op.answer, 0);
    switch (req->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        for (unsigned i = 0; i < req->iov_count; i++) {
            if (req->op == BLOCK_WRITE)
                memcpy(at, req->iov[i].iov_base, req->iov[i].iov_len);
            else
                assert_memory_equal(at, req->iov[i].iov_base, req->iov[i].iov_len);
            at += req->iov[i].iov_len;
        }
        break;
    case BLOCK_WRITE_ZEROES: memset(at, 0, req->len); break;
    case BLOCK_DISCARD: /* unspecified: learn what it is now */
        assert_int_equal(run(disk, BLOCK_READ, req->offset, at, req->len, 0), 0);
        break;
    case BLOCK_STATUS:
        assert_in_range(req->status_len, 1, req->len);
        for (uint64_t i = 0; req->status == BLOCK_ZERO && i < req->status_len; i++)
            assert_int_equal(at[i], 0);
        break;
    default: break;
    }
    free(m->data);
}

static void model_run_for(struct disk *disk, const char *path, unsigned rounds)
{
    uint8_t *model = calloc(1, MODEL_SIZE), *whole = malloc(MODEL_SIZE);
    uint32_t align = block_limits(disk->node)->request_align;
    seed = monotonic_ns() | 1;
    print_message("model: seed %llu, %s, align %u\n", (unsigned long long)seed,
                  block_backend(disk->node), align);
    for (unsigned round = 0; round < rounds; round++) {
        struct model_op ops[MODEL_DEPTH];
        unsigned count = 0;
        for (unsigned tries = 0; tries < MODEL_DEPTH; tries++) {
            if (!model_prepare(&ops[count], ops, count, align))
                continue;
            op_submit(disk, &ops[count++].op);
            if (next_random() % 4 == 0)
                block_kick(disk->queue);
        }
        assert_int_equal(block_drain(disk->queue, 10000), 0);
        for (unsigned i = 0; i < count; i++)
            model_apply(&ops[i], model, disk);
    }
    assert_int_equal(run(disk, BLOCK_READ, 0, whole, MODEL_SIZE, 0), 0);
    assert_memory_equal(whole, model, MODEL_SIZE);
    if (path) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_int_equal(pread_full(fd, whole, MODEL_SIZE, 0), 0);
        assert_memory_equal(whole, model, MODEL_SIZE);
        close(fd);
    }
    free(model);
    free(whole);
}

static void model_run(struct disk *disk, const char *path)
{
    model_run_for(disk, path, MODEL_ROUNDS);
}

static void test_model(void **state)
{
    const char *path = make_file("model", MODEL_SIZE);
    struct disk disk = disk_open(path);
    assert_string_equal(block_format(disk.node), "raw");
    model_run(&disk, path);
    disk_close(&disk);
}

static void test_model_direct(void **state)
{
    const char *path = make_file("direct", MODEL_SIZE);
    int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0)
        skip();
    close(fd);
    struct disk disk = disk_open_with(
        (struct block_options){ .path = path, .format = "raw", .cache = BLOCK_CACHE_DIRECT });
    model_run(&disk, path);
    disk_close(&disk);
}

/* The guard filter is in the path of every request. */
static void test_model_guarded(void **state)
{
    const char *path = make_file("guarded", MODEL_SIZE);
    struct disk disk = disk_open_with((struct block_options){ .path = path });
    model_run(&disk, path);
    disk_close(&disk);
}

/* Formats: requests that go straight to the file mix with those that the workers carry out. */
static void model_format(const char *format, const char *options, enum block_cache cache,
                         const char *backing)
{
    static const struct image_secret secret = { "passphrase", 10 };
    const char *path = test_path("format.image");
    struct err err = { 0 };
    struct image *image = NULL;
    struct image_options again = { .path = path, .format = format, .secret = &secret };
    struct image_create create = { .path = path,
                                   .format = format,
                                   .size = MODEL_SIZE,
                                   .options = options,
                                   .secret = &secret,
                                   .backing = backing,
                                   .backing_format = backing ? "raw" : NULL };
    if (image_create(&create, &err) < 0 || image_open(&again, &image, &err) < 0)
        fail_msg("%s", err.text);
    if (image->noisy)
        assert_int_equal(image_zero(image, 0, MODEL_SIZE, 0), 0);
    assert_int_equal(image_close(image), 0);

    struct disk disk = disk_open_with((struct block_options){
        .path = path, .format = format, .cache = cache, .secret = &secret });
    assert_string_equal(block_format(disk.node), format);
    model_run_for(&disk, NULL, MODEL_ROUNDS / 10);
    assert_int_equal(run(&disk, BLOCK_FLUSH, 0, NULL, 0, 0), 0);
    disk_close(&disk);

    assert_int_equal(image_open(&again, &image, &err), 0);
    struct image_check check = { 0 };
    assert_true(!image->format->check || image_check(image, &check, &err) == 0);
    assert_int_equal(check.count.corruptions + check.count.leaks, 0);
    assert_int_equal(image_close(image), 0);
}

static void test_model_formats(void **state)
{
    model_format("vhd", "subformat=dynamic", BLOCK_CACHE_WRITEBACK, NULL);
    model_format("vhd", "subformat=fixed", BLOCK_CACHE_WRITEBACK, NULL);
    model_format("vhdx", "block_size=1M", BLOCK_CACHE_WRITEBACK, NULL);
    model_format("vmdk", "zeroed_grain=on", BLOCK_CACHE_WRITEBACK, NULL);
    model_format("vmdk", "subformat=monolithicFlat", BLOCK_CACHE_WRITEBACK, NULL);
    model_format("vmdk", "subformat=twoGbMaxExtentSparse", BLOCK_CACHE_WRITEBACK, NULL);
    model_format("luks", "iter-time=1", BLOCK_CACHE_WRITEBACK, NULL);
    model_format("luks", "version=2,kdf=pbkdf2,iter-time=1,sector-size=4096", BLOCK_CACHE_WRITEBACK,
                 NULL);
}

static void test_model_qcow2(void **state)
{
    make_file("zeros.raw", MODEL_SIZE);
    model_format("qcow2", "cluster_size=4K", BLOCK_CACHE_WRITEBACK, NULL);
    model_format("qcow2", "cluster_size=64K", BLOCK_CACHE_WRITEBACK, "zeros.raw");
    model_format("qcow2", "cluster_size=16K,extended_l2=on", BLOCK_CACHE_WRITEBACK, "zeros.raw");
    model_format("qcow2", "cluster_size=512", BLOCK_CACHE_WRITEBACK, NULL);
    model_format("qcow2", "encrypt.format=luks,encrypt.iter-time=1", BLOCK_CACHE_WRITEBACK,
                 "zeros.raw");
    model_format("qcow2", "data_file=format.raw,data_file_raw=on", BLOCK_CACHE_WRITEBACK, NULL);
    int fd = open(make_file("direct", 4096), O_RDWR | O_DIRECT | O_CLOEXEC);
    fd_close(fd);
    if (fd >= 0)
        model_format("qcow2", "cluster_size=8K", BLOCK_CACHE_DIRECT, "zeros.raw");
}

/* Many more requests than the ring has entries. */
static void test_deep(void **state)
{
    enum { DEEP = 2000 };
    struct disk disk = disk_open(make_file("deep", DEEP * 512));
    struct op *ops = calloc(DEEP, sizeof *ops);
    struct iovec *iov = calloc(DEEP, sizeof *iov);
    uint8_t(*data)[512] = malloc(DEEP * 512);
    for (unsigned i = 0; i < DEEP; i++) {
        memset(data[i], (int)i, 512);
        iov[i] = (struct iovec){ data[i], 512 };
        ops[i].req = (struct block_request){
            .op = BLOCK_WRITE, .offset = i * 512, .len = 512, .iov = &iov[i], .iov_count = 1
        };
        op_submit(&disk, &ops[i]);
    }
    assert_int_equal(block_in_flight(disk.queue), DEEP);
    block_kick(disk.queue);
    assert_int_equal(block_drain(disk.queue, 20000), 0);
    for (unsigned i = 0; i < DEEP; i++) {
        uint8_t sector[512];
        assert_int_equal(ops[i].answer, 0);
        assert_int_equal(run(&disk, BLOCK_READ, i * 512, sector, 512, 0), 0);
        assert_memory_equal(sector, data[i], 512);
    }
    disk_close(&disk);
    free(ops);
    free(iov);
    free(data);
}

/* Completions arrive by the loop, without draining. */
static void stop_done(struct block_request *req, int result) { loop_stop(test_loop, 7 + result); }

static void test_loop_completion(void **state)
{
    struct disk disk = disk_open(make_file("loop", 4096));
    uint8_t data[512];
    struct iovec iov = { data, sizeof data };
    struct block_request req = {
        .op = BLOCK_READ, .len = 512, .iov = &iov, .iov_count = 1, .done = stop_done
    };
    block_submit(disk.queue, &req);
    block_kick(disk.queue);
    assert_int_equal(loop_run(test_loop), 7);
    disk_close(&disk);
}

static void test_two_queues(void **state)
{
    struct disk disk = disk_open(make_file("two", 8192));
    struct disk other = { .node = disk.node };
    struct err err;
    assert_int_equal(block_queue_create(disk.node, test_loop, &other.queue, &err), 0);
    uint8_t data[512], back[512];
    memset(data, 0x5a, sizeof data);
    assert_int_equal(run(&disk, BLOCK_WRITE, 512, data, 512, 0), 0);
    assert_int_equal(run(&other, BLOCK_READ, 512, back, 512, 0), 0);
    assert_memory_equal(data, back, 512);
    block_queue_destroy(other.queue);
    disk_close(&disk);
}

static void test_odd_size(void **state)
{
    const char *path = make_file("odd", 1000);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    uint8_t data[512], sector[512];
    memset(data, 0xab, sizeof data);
    assert_int_equal(pwrite_full(fd, data, 488, 512), 0);
    close(fd);

    struct disk disk = disk_open(path);
    assert_int_equal(block_size(disk.node), 1024);
    memset(sector, 1, sizeof sector);
    assert_int_equal(run(&disk, BLOCK_READ, 512, sector, 512, 0), 0);
    assert_memory_equal(sector, data, 488);
    for (unsigned i = 488; i < 512; i++)
        assert_int_equal(sector[i], 0);
    assert_int_equal(run(&disk, BLOCK_WRITE, 512, data, 512, 0), 0);
    assert_int_equal(run(&disk, BLOCK_READ, 512, sector, 512, 0), 0);
    assert_memory_equal(sector, data, 512);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 1024);
    disk_close(&disk);
}

static void test_shrunk(void **state)
{
    const char *path = make_file("shrunk", 8192);
    struct disk disk = disk_open(path);
    assert_int_equal(truncate(path, 4096), 0);
    uint8_t data[1024];
    assert_int_equal(run(&disk, BLOCK_READ, 4096, data, 512, 0), -EIO);
    assert_int_equal(run(&disk, BLOCK_READ, 3584, data, 1024, 0), -EIO);
    assert_int_equal(run(&disk, BLOCK_READ, 0, data, 1024, 0), 0);
    disk_close(&disk);
}

static void test_refused(void **state)
{
    const char *path = make_file("refused", 8192);
    struct disk disk = disk_open(path);
    uint8_t data[1024] = { 0 };
    assert_int_equal(run(&disk, BLOCK_READ, 8192, data, 512, 0), -EINVAL);
    assert_int_equal(run(&disk, BLOCK_WRITE, UINT64_MAX - 511, data, 512, 0), -EINVAL);
    assert_int_equal(run(&disk, BLOCK_WRITE, UINT64_MAX - 511, data, 1024, 0), -EINVAL);
    assert_int_equal(run(&disk, BLOCK_DISCARD, 0, NULL, UINT64_MAX, 0), -EINVAL);
    assert_int_equal(run(&disk, (enum block_op)99, 0, data, 512, 0), -EINVAL);
    assert_int_equal(run(&disk, BLOCK_READ, 0, data, 0, 0), 0);

    /* An iovec that says something else than len. */
    struct iovec iov[2] = { { data, SIZE_MAX }, { data, 513 } };
    struct op op = { .req = { .op = BLOCK_READ, .len = 512, .iov = iov, .iov_count = 2 } };
    op_submit(&disk, &op);
    assert_int_equal(block_drain(disk.queue, 1000), 0);
    assert_int_equal(op.answer, -EINVAL);
    disk_close(&disk);

    struct disk ro =
        disk_open_with((struct block_options){ .path = path, .format = "raw", .readonly = true });
    assert_true(block_readonly(ro.node));
    assert_int_equal(run(&ro, BLOCK_WRITE, 0, data, 512, 0), -EROFS);
    assert_int_equal(run(&ro, BLOCK_WRITE_ZEROES, 0, NULL, 512, 0), -EROFS);
    assert_int_equal(run(&ro, BLOCK_DISCARD, 0, NULL, 512, 0), -EROFS);
    assert_int_equal(run(&ro, BLOCK_READ, 0, data, 512, 0), 0);
    assert_int_equal(run(&ro, BLOCK_FLUSH, 0, NULL, 0, 0), 0);
    disk_close(&ro);
}

static uint64_t allocated(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void test_space(void **state)
{
    enum { SIZE = 1 << 20 };
    const char *path = make_file("space", SIZE);
    struct disk disk = disk_open(path);
    uint8_t *data = malloc(SIZE);
    memset(data, 7, SIZE);
    assert_int_equal(run(&disk, BLOCK_WRITE, 0, data, SIZE, BLOCK_FUA), 0);
    assert_true(allocated(path) >= SIZE);

    assert_int_equal(run(&disk, BLOCK_DISCARD, 0, NULL, SIZE / 2, 0), 0);
    assert_true(allocated(path) <= SIZE / 2 + 65536);
    assert_int_equal(run(&disk, BLOCK_WRITE_ZEROES, SIZE / 2, NULL, SIZE / 2, BLOCK_UNMAP), 0);
    assert_true(allocated(path) <= 65536);
    assert_int_equal(run(&disk, BLOCK_WRITE_ZEROES, 0, NULL, SIZE, BLOCK_FUA), 0);
    assert_true(allocated(path) >= SIZE); /* kept for the guest */
    assert_int_equal(run(&disk, BLOCK_READ, 0, data, SIZE, 0), 0);
    for (unsigned i = 0; i < SIZE; i++)
        assert_int_equal(data[i], 0);
    free(data);
    disk_close(&disk);
}

/* Bytes of the file that are stored. */
static uint64_t stored(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* Writes a MiB of noise, then zeros over its first half: what is stored afterwards. */
static uint64_t zeroes_stored(const struct zeroes_options *zeroes, bool discard)
{
    const char *path = make_file("zeroes", 1 << 20);
    AUTO(free) uint8_t *data = malloc(1 << 20);
    struct err err;
    struct disk disk = { 0 };
    assert_non_null(data);
    memset(data, 7, 1 << 20);
    if (block_open(
            &(struct block_options){ .path = path, .format = "raw", .no_uring = use_threads },
            &disk.node, &err) < 0 ||
        zeroes_open(disk.node, zeroes, &disk.node, &err) < 0 ||
        block_queue_create(disk.node, test_loop, &disk.queue, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(run(&disk, BLOCK_WRITE, 0, data, 1 << 20, 0), 0);
    memset(data, 0, 1 << 19);
    assert_int_equal(run(&disk, BLOCK_WRITE, 0, data, 1 << 19, 0), 0);
    if (discard)
        assert_int_equal(run(&disk, BLOCK_DISCARD, 1 << 19, NULL, 1 << 18, 0),
                         zeroes->keep_space ? -EOPNOTSUPP : 0);
    memset(data, 1, 1 << 19);
    assert_int_equal(run(&disk, BLOCK_READ, 0, data, 1 << 19, 0), 0);
    for (unsigned i = 0; i < 1 << 19; i++)
        assert_int_equal(data[i], 0);
    assert_int_equal(run(&disk, BLOCK_WRITE_ZEROES, 3 << 18, NULL, 1 << 18, BLOCK_UNMAP), 0);
    disk_close(&disk);
    return stored(path);
}

static void test_zeroes(void **state)
{
    if (zeroes_stored(&(struct zeroes_options){ 0 }, true) == 1 << 20)
        skip(); /* no holes on this file system */
    assert_int_equal(zeroes_stored(&(struct zeroes_options){ 0 }, true), 1 << 19);
    assert_int_equal(zeroes_stored(&(struct zeroes_options){ 0 }, false), 3 << 18);
    assert_int_equal(zeroes_stored(&(struct zeroes_options){ .detect = ZEROES_UNMAP }, true), 0);
    assert_int_equal(zeroes_stored(&(struct zeroes_options){ .keep_space = true }, true), 1 << 20);
    assert_int_equal(
        zeroes_stored(&(struct zeroes_options){ .detect = ZEROES_ZERO, .keep_space = true }, true),
        1 << 20);
}

static void test_guard(void **state)
{
    const char *path = make_file("guard", 8192);
    uint8_t data[1024] = "QFI\xfb", zeros[1024] = { 0 };
    struct disk disk = disk_open_with((struct block_options){ .path = path });
    assert_int_equal(block_limits(disk.node)->request_align, 512);
    assert_int_equal(run(&disk, BLOCK_WRITE, 0, data, 512, 0), -EPERM);
    assert_int_equal(run(&disk, BLOCK_WRITE, 0, data, 1024, 0), -EPERM);
    assert_int_equal(run(&disk, BLOCK_WRITE, 512, data, 512, 0), 0);
    memcpy(data, "conectix", 8);
    assert_int_equal(run(&disk, BLOCK_WRITE, 0, data, 512, 0), -EPERM);
    assert_int_equal(run(&disk, BLOCK_WRITE, 8192 - 512, data, 512, 0), -EPERM);
    memcpy(zeros + 512, "conectix", 8);
    assert_int_equal(run(&disk, BLOCK_WRITE, 8192 - 1024, zeros, 1024, 0), -EPERM);
    memcpy(data, "\xeb\x63\x90 boot", 8);
    assert_int_equal(run(&disk, BLOCK_WRITE, 0, data, 512, 0), 0);
    disk_close(&disk);

    disk = disk_open(path);
    memcpy(data, "QFI\xfb", 4);
    assert_int_equal(run(&disk, BLOCK_WRITE, 0, data, 512, 0), 0);
    disk_close(&disk);
}

/* ---- not on a particular back end ---- */

/* A kind that answers nothing until it is told to. */
static struct block_request *hung;

static int hung_queue_create(struct block_node *node, const struct block_queue *init,
                             struct block_queue **out, struct err *err)
{
    *out = calloc(1, sizeof **out);
    block_queue_init(*out, init);
    return 0;
}
static void hung_queue_destroy(struct block_queue *queue) { free(queue); }
static void hung_submit(struct block_queue *queue, struct block_request *req) { hung = req; }
static void hung_kick(struct block_queue *queue) {}
static void hung_close(struct block_node *node) {}
static const struct block_driver hung_driver = {
    .name = "hung",
    .close = hung_close,
    .queue_create = hung_queue_create,
    .queue_destroy = hung_queue_destroy,
    .submit = hung_submit,
    .kick = hung_kick,
    .reap = hung_kick,
};

static void test_drain_deadline(void **state)
{
    struct err err;
    struct block_node node = { 0 };
    struct disk disk = { .node = &node };
    assert_int_equal(block_node_init(&node, &hung_driver, "hung", &err), 0);
    assert_int_equal(block_queue_create(&node, test_loop, &disk.queue, &err), 0);
    struct op op = { .req = { .op = BLOCK_FLUSH } };
    op_submit(&disk, &op);
    uint64_t start = monotonic_ns();
    assert_int_equal(block_drain(disk.queue, 50), -ETIMEDOUT);
    assert_in_range(monotonic_ns() - start, 50000000, 60000000000);
    assert_int_equal(block_in_flight(disk.queue), 1);
    block_complete(hung, 0);
    assert_int_equal(block_drain(disk.queue, 0), 0);
    assert_int_equal(op.answer, 0);
    disk_close(&disk);
}

/* A flush that failed once: the kernel has dropped the pages, so no later one may succeed. */
static void test_flush_failed(void **state)
{
    use_threads = true;
    struct disk disk = disk_open(make_file("flush", 4096));
    struct block_request req = { .op = BLOCK_FLUSH };
    int result = 0;
    assert_int_equal(run(&disk, BLOCK_FLUSH, 0, NULL, 0, 0), 0);
    assert_true(raw_result(raw_of(disk.node), &req, -EIO, &result));
    assert_int_equal(result, -EIO);
    assert_int_equal(run(&disk, BLOCK_FLUSH, 0, NULL, 0, 0), -EIO);
    disk_close(&disk);
}

static void open_fails(struct block_options options, int code, const char *text)
{
    struct block_node *node;
    struct err err = { 0 };
    assert_int_equal(block_open(&options, &node, &err), -code);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static void test_bad_paths(void **state)
{
    open_fails((struct block_options){ .path = test_path("nothing") }, ENOENT, "truncate -s");
    open_fails((struct block_options){ .path = test_dir }, EISDIR, "is a directory");
    open_fails((struct block_options){ .path = "/dev/null" }, EINVAL, "character device");
    assert_int_equal(mkfifo(test_path("pipe"), 0600), 0);
    open_fails((struct block_options){ .path = test_path("pipe") }, EINVAL, "a pipe");
    open_fails((struct block_options){ .path = make_file("empty", 0) }, EINVAL, "is empty");
    open_fails((struct block_options){ .path = make_file("file", 512), .format = "foo" }, ENOTSUP,
               "format foo is not supported");
    open_fails((struct block_options){ .path = "/proc/self/status/x" }, ENOTDIR, "cannot open");
}

static void test_permission(void **state)
{
    const char *path = make_file("readable", 512);
    chmod(path, 0444);
    chmod(test_dir, 0755);
    pid_t pid = fork();
    if (!pid) { /* root may do anything, so become somebody else */
        if (!getuid() && setresuid(65534, 65534, 65534))
            _exit(2);
        struct block_node *node;
        struct err err;
        int r = block_open(&(struct block_options){ .path = path }, &node, &err);
        bool right = r == -EACCES && strstr(err.text, "readonly");
        r = block_open(&(struct block_options){ .path = path, .readonly = true }, &node, &err);
        _exit(right && !r ? 0 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
}

static void test_probe(void **state)
{
    static const struct {
        const char *format;
        unsigned at;
        const char *bytes;
    } cases[] = {
        { "qcow2", 0, "QFI\xfb" },
        { "vmdk", 0, "KDMV" },
        { "vmdk", 0, "# Disk DescriptorFile\nversion=1\n" },
        { "vmdk", 0, "# a comment\n\n  \r\nversion=1\n" },
        { "vhdx", 0, "vhdxfile" },
        { "vhd", 0, "conectix" },
        { "vdi", 64, "\x7f\x10\xda\xbe" },
        { "luks", 0, "LUKS\xba\xbe" },
        { "parallels", 0, "WithoutFreeSpace" },
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        uint8_t sector[PROBE_SECTOR] = { 0 };
        memcpy(sector + cases[i].at, cases[i].bytes, strlen(cases[i].bytes));
        assert_string_equal(probe_first_sector(sector), cases[i].format);
        int fd = open(make_file("probe", 8192), O_RDWR | O_CLOEXEC);
        assert_int_equal(pwrite_full(fd, sector, sizeof sector, 0), 0);
        close(fd);
        if (!image_format_find(cases[i].format))
            open_fails((struct block_options){ .path = test_path("probe") }, ENOTSUP,
                       "qemu-img convert -O raw");
    }
    uint8_t sector[PROBE_SECTOR] = "# only a comment";
    assert_null(probe_first_sector(sector));
    memset(sector, '#', sizeof sector);
    assert_null(probe_first_sector(sector));
    memset(sector, '\n', sizeof sector);
    assert_null(probe_first_sector(sector));
    memcpy(sector + sizeof sector - 7, "version", 7);
    assert_null(probe_first_sector(sector));

    int fd = open(make_file("footer", 8192), O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite_full(fd, "conectix", 8, 8192 - 512), 0);
    close(fd);
    open_fails((struct block_options){ .path = test_path("footer") }, EINVAL, "VHD");
}

/* A disk that fills up on the host: ENOSPC, what is there stays, and later writes go on. */
static void full_disk(bool threads)
{
    use_threads = threads;
    const char *path = make_file("small/disk", 4 << 20);
    struct disk disk = disk_open(path);
    enum { CHUNK = 65536 };
    uint8_t *data = malloc(CHUNK), *back = malloc(CHUNK);
    memset(data, 0x77, CHUNK);
    unsigned good = 0;
    int r = 0;
    while (good < 64 && (r = run(&disk, BLOCK_WRITE, good * CHUNK, data, CHUNK, 0)) == 0)
        good++;
    assert_int_equal(r, -ENOSPC);
    assert_in_range(good, 1, 60);
    assert_int_equal(run(&disk, BLOCK_WRITE_ZEROES, 3 << 20, NULL, 1 << 20, 0), -ENOSPC);
    assert_int_equal(run(&disk, BLOCK_FLUSH, 0, NULL, 0, 0), 0);
    for (unsigned i = 0; i < good; i++) {
        assert_int_equal(run(&disk, BLOCK_READ, i * CHUNK, back, CHUNK, 0), 0);
        assert_memory_equal(data, back, CHUNK);
    }
    assert_int_equal(run(&disk, BLOCK_DISCARD, 0, NULL, CHUNK, 0), 0);
    assert_int_equal(run(&disk, BLOCK_WRITE, good * CHUNK, data, CHUNK, 0), 0);
    free(data);
    free(back);
    disk_close(&disk);
}

static void test_full_disk(void **state)
{
    mkdir(test_path("small"), 0700);
    pid_t pid = fork();
    if (!pid) { /* a mount name space of our own */
        if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
            mount("tmpfs", test_path("small"), "tmpfs", 0, "size=1M"))
            _exit(77);
        full_disk(true);
        full_disk(false);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("skipped: may not mount a tmpfs here\n");
        skip();
    }
    assert_int_equal(status, 0);
}

/* Tables of more than what may be cached: each sector written is in a page of its own. */
static void test_metadata_bound(void **state)
{
    enum { STEP = 512 * 4096, PAGES = QCOW2_CACHE_PAGES + 600 };
    struct err err = { 0 };
    struct image *image;
    struct store *store;
    struct image_create create = { .path = "memory",
                                   .format = "qcow2",
                                   .size = (uint64_t)STEP * PAGES,
                                   .options = "cluster_size=4K" };
    struct image_options options = { .path = "memory", .format = "qcow2" };
    assert_int_equal(store_open_memory(NULL, 0, 1 << 30, &store, &err), 0);
    assert_int_equal(image_create_store(&create, store, &err), 0);
    assert_int_equal(image_open_store(&options, store, &image, &err), 0);
    uint64_t sector[64];
    unsigned most = 0;
    for (unsigned pass = 0; pass < 2; pass++)
        for (unsigned i = 0; i < PAGES; i++) {
            unsigned n = pass ? (i * 2654435761u) % PAGES : i;
            memset(sector, 0, sizeof sector);
            if (pass) {
                assert_int_equal(image_read(image, sector, 512, (uint64_t)n * STEP), 0);
                assert_int_equal(sector[63], n + 1);
            } else {
                sector[63] = n + 1;
                assert_int_equal(image_write(image, sector, 512, (uint64_t)n * STEP), 0);
            }
            unsigned now = qcow2_of(image)->page_count;
            most = now > most ? now : most;
        }
    assert_in_range(most, QCOW2_CACHE_PAGES - 1, QCOW2_CACHE_PAGES);
    assert_int_equal(image_close(image), 0);
}

static int on_uring(void **state)
{
    use_threads = false;
    return 0;
}
static int on_threads(void **state)
{
    use_threads = true;
    return 0;
}

static int on_live(void **state)
{
    use_threads = false;
    use_live = true;
    return 0;
}
static int no_live(void **state)
{
    use_live = false;
    return 0;
}

static int setup(void **state)
{
    struct err err;
    log_set_level(LOG_ERROR, LOG_ERROR);
    snprintf(test_dir, sizeof test_dir, "%s/block-test-XXXXXX",
             getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    return mkdtemp(test_dir) ? loop_create(&test_loop, &err) : -1;
}

static int teardown(void **state)
{
    char command[128];
    loop_destroy(test_loop);
    snprintf(command, sizeof command, "rm -rf '%s'", test_dir);
    return system(command);
}

#define EACH(test)                                                  \
    { #test " (io_uring if allowed)", test, on_uring, NULL, NULL }, \
        { #test " (threads)", test, on_threads, NULL, NULL },       \
    {                                                               \
#test " (live)", test, on_live, no_live, NULL               \
    }

/* block_test [PATTERN]: of the tests to run. */
int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        EACH(test_model),
        EACH(test_model_direct),
        EACH(test_model_guarded),
        EACH(test_model_qcow2),
        EACH(test_model_formats),
        EACH(test_deep),
        EACH(test_loop_completion),
        EACH(test_two_queues),
        EACH(test_odd_size),
        EACH(test_shrunk),
        EACH(test_refused),
        EACH(test_space),
        EACH(test_zeroes),
        EACH(test_guard),
        cmocka_unit_test(test_drain_deadline),
        cmocka_unit_test(test_flush_failed),
        cmocka_unit_test(test_bad_paths),
        cmocka_unit_test(test_permission),
        cmocka_unit_test(test_probe),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_metadata_bound),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
