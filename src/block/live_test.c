/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disks in use by two queues on two loops while jobs change their chain: what was written is read,
 * requests that wait at the gate all end, and a drain in the middle does too.
 */
#include "block/chain.h"
#include "block/operations.h"
#include "block/throttle.h"

#include "base/checked.h"
#include "block/dir_for_test.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

#include <cmocka.h>

enum { BLOCK = 4096, BLOCKS = 2048, DISK = BLOCK * BLOCKS, DEPTH = 16, QUEUES = 2 };

static const char *test_path(const char *name)
{
    static char path[4][128];
    static unsigned turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

/* ---- load: each queue has half of the disk's blocks ---- */

struct op {
    struct block_request req;
    struct load *load;
    struct iovec iov[2];
    unsigned block;
    uint64_t value;
    uint64_t data[BLOCK / 8];
};

struct load {
    struct loop *loop;
    struct block_queue *queue;
    pthread_t thread;
    unsigned first;
    uint64_t seed, values[BLOCKS];
    bool busy[BLOCKS], stop;
    unsigned done;
    struct op ops[DEPTH];
};

static void op_done(struct block_request *req, int result);

static void op_go(struct op *op)
{
    struct load *load = op->load;
    do {
        load->seed = load->seed * 6364136223846793005u + 1;
        op->block = load->first + (unsigned)(load->seed >> 33) % (BLOCKS / QUEUES);
    } while (load->busy[op->block]);
    load->busy[op->block] = true;
    unsigned what = (unsigned)(load->seed >> 60);
    enum block_op kind = what < 7 ? BLOCK_READ : what < 14 ? BLOCK_WRITE : BLOCK_FLUSH;
    op->value = kind == BLOCK_WRITE ? load->seed : load->values[op->block];
    for (unsigned i = 0; kind == BLOCK_WRITE && i < BLOCK / 8; i++)
        op->data[i] = op->value;
    op->iov[0] = (struct iovec){ op->data, 512 };
    op->iov[1] = (struct iovec){ op->data + 64, BLOCK - 512 };
    op->req = (struct block_request){ .op = kind,
                                      .offset = (uint64_t)op->block * BLOCK,
                                      .len = BLOCK,
                                      .iov = op->iov,
                                      .iov_count = 2,
                                      .done = op_done };
    block_submit(load->queue, &op->req);
}

static void op_done(struct block_request *req, int result)
{
    struct op *op = CONTAINER_OF(req, struct op, req);
    struct load *load = op->load;
    bool wrong = result < 0;
    for (unsigned i = 0; req->op == BLOCK_READ && i < BLOCK / 8; i++)
        wrong |= op->data[i] != op->value;
    if (wrong) {
        fprintf(stderr, "block %u: result %d, %llx instead of %llx\n", op->block, result,
                (unsigned long long)op->data[0], (unsigned long long)op->value);
        abort();
    }
    if (req->op == BLOCK_WRITE)
        load->values[op->block] = op->value;
    load->busy[op->block] = false;
    load->done++;
    if (!load->stop)
        op_go(op);
}

static void one_done(struct block_request *req, int result) { assert_int_equal(result, 0); }

static void *load_thread(void *arg)
{
    struct load *load = arg;
    loop_run(load->loop);
    return NULL;
}

static void load_begin(void *arg)
{
    struct load *load = arg;
    for (unsigned i = 0; i < DEPTH; i++) {
        load->ops[i].load = load;
        op_go(&load->ops[i]);
    }
    block_kick(load->queue);
}

static void load_end(void *arg)
{
    struct load *load = arg;
    load->stop = true;
    assert_int_equal(block_drain(load->queue, 20000), 0);
    block_queue_destroy(load->queue);
    loop_stop(load->loop, 0);
}

/* As a VM that pauses in the middle of a job: everything in flight ends. */
static void load_pause(void *arg)
{
    struct load *load = arg;
    load->stop = true;
    assert_int_equal(block_drain(load->queue, 20000), 0);
    load->stop = false;
    load_begin(load);
}

/* ---- jobs ---- */

struct step {
    int (*run)(struct job *job, struct chain *chain, struct err *err);
    struct chain *chain;
    atomic_bool ended;
    struct err err;
    int result;
};

static int file_new(const char *name, uint64_t size)
{
    int fd = open(test_path(name), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    return fd;
}

static struct store *store_of(int fd)
{
    struct store *store;
    assert_int_equal(store_open_fd(fd, true, &store, NULL), 0);
    return store;
}

static int do_snapshot(struct job *job, struct chain *chain, struct err *err)
{
    static unsigned count;
    char name[16];
    snprintf(name, sizeof name, "snap%u", count++);
    struct snapshot_options o = { .path = test_path(name) };
    return chain_snapshot(chain, &o, store_of(file_new(name, 0)), err);
}

static int do_stream(struct job *job, struct chain *chain, struct err *err)
{
    return chain_stream(job, chain, NULL, err);
}

static int do_commit(struct job *job, struct chain *chain, struct err *err)
{
    struct commit_options o = { .take_base_store = store_of(
                                    open(image_path(chain->top->backing), O_RDWR | O_CLOEXEC)) };
    return chain_commit(job, chain, &o, err);
}

static int do_mirror(struct job *job, struct chain *chain, struct err *err)
{
    struct mirror_options o = { 0 };
    int r = chain_open_store(test_path("copy"), "raw", false, store_of(file_new("copy", DISK)),
                             &o.take_target, err);
    return r < 0 ? r : chain_mirror(job, chain, &o, err);
}

static int do_backup(struct job *job, struct chain *chain, struct err *err)
{
    struct backup_options o = { 0 };
    int r = chain_open_store(test_path("saved"), "raw", false, store_of(file_new("saved", DISK)),
                             &o.take_target, err);
    return r < 0 ? r : chain_backup(job, chain, &o, err);
}

static int do_resize(struct job *job, struct chain *chain, struct err *err)
{
    int r = chain_resize(chain, DISK * 2, PREALLOC_OFF, false, err);
    return r < 0 ? r : chain_resize(chain, DISK, PREALLOC_OFF, true, err);
}

static int step_run(struct job *job, void *arg, struct err *err)
{
    struct step *step = arg;
    return step->run(job, step->chain, err);
}

static void step_changed(struct job *job, void *arg)
{
    struct step *step = arg;
    struct job_status status;
    job_get(job, &status);
    if (status.state == JOB_READY)
        job_complete(job, NULL);
    if (status.state == JOB_FAILED)
        step->err = status.err;
    step->result = status.state == JOB_DONE ? 0 : -1;
    if (status.state == JOB_DONE || status.state == JOB_FAILED)
        atomic_store(&step->ended, true);
}

static void run_steps(const char *format, bool throttled)
{
    struct err err = { 0 };
    struct image_create create = { .path = test_path("disk"), .format = format, .size = DISK };
    assert_int_equal(image_create(&create, &err), 0);
    struct block_options options = {
        .path = create.path, .format = format, .live = true, .copy_on_read = throttled
    };
    struct throttle_limits limits = { .of[THROTTLE_IOPS] = { .rate = throttled ? 20000 : 0 } };
    AUTO(throttle_group_unref) struct throttle_group *group = NULL;
    AUTO(block_close) struct block_node *node = NULL;
    if (throttle_group_create(NULL, &limits, &group, &err) < 0 ||
        block_open(&options, &node, &err) < 0 || throttle_open(node, group, &node, &err) < 0)
        fail_msg("%s", err.text);
    struct load *loads = calloc(QUEUES, sizeof *loads);
    for (unsigned i = 0; i < QUEUES; i++) {
        struct load *load = &loads[i];
        load->first = i * (BLOCKS / QUEUES);
        load->seed = 77 + i;
        assert_int_equal(loop_create(&load->loop, &err), 0);
        assert_int_equal(block_queue_create(node, load->loop, &load->queue, &err), 0);
        /* Not posted: a call that comes before the thread would overtake it. */
        loop_call(load->loop, load_begin, load);
        assert_int_equal(pthread_create(&load->thread, NULL, load_thread, load), 0);
    }
    int (*const steps[])(struct job *, struct chain *, struct err *) = {
        do_backup, do_snapshot, do_snapshot, do_stream, do_snapshot,
        do_commit, do_resize,   do_mirror,   do_backup, do_snapshot,
    };
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++) {
        struct step step = { .run = steps[i], .chain = block_chain(node) };
        struct job_work work = {
            .kind = "step", .run = step_run, .changed = step_changed, .arg = &step
        };
        AUTO(job_destroy) struct job *job = NULL;
        assert_non_null(step.chain);
        assert_int_equal(job_create(&work, &job, &err), 0);
        assert_int_equal(job_start(job, &err), 0);
        while (!atomic_load(&step.ended)) {
            usleep(3000);
            loop_call(loads[0].loop, load_pause, &loads[0]);
        }
        job_join(job);
        if (step.result < 0)
            fail_msg("step %u: %s", i, step.err.text);
    }
    for (unsigned i = 0; i < QUEUES; i++) {
        loop_call(loads[i].loop, load_end, &loads[i]);
        pthread_join(loads[i].thread, NULL);
        assert_true(loads[i].done > 50);
        loop_destroy(loads[i].loop);
    }
    free(loads);
}

/* What was read through the disk is in the overlay afterwards, and nothing else. */
static void test_copy_on_read(void **state)
{
    struct err err = { 0 };
    struct loop *loop;
    struct block_queue *queue;
    struct block_node *node;
    struct image *image;
    static uint8_t data[65536 * 4];
    struct image_create base = { .path = test_path("base"), .format = "raw", .size = DISK };
    struct image_create top = { .path = test_path("over"),
                                .format = "qcow2",
                                .size = DISK,
                                .backing = "base",
                                .backing_format = "raw" };
    assert_int_equal(image_create(&base, &err), 0);
    assert_int_equal(image_create(&top, &err), 0);
    struct image_options plain = { .path = base.path, .format = "raw" };
    assert_int_equal(image_open(&plain, &image, &err), 0);
    memset(data, 0x5a, sizeof data);
    assert_int_equal(image_write(image, data, sizeof data, 0), 0);
    assert_int_equal(image_close(image), 0);

    struct block_options options = { .path = top.path, .format = "qcow2", .copy_on_read = true };
    assert_int_equal(block_open(&options, &node, &err), 0);
    assert_int_equal(loop_create(&loop, &err), 0);
    assert_int_equal(block_queue_create(node, loop, &queue, &err), 0);
    struct op op = { .load = NULL };
    struct iovec iov = { data, 512 };
    op.req = (struct block_request){ .op = BLOCK_READ,
                                     .offset = 65536 + 512,
                                     .len = 512,
                                     .iov = &iov,
                                     .iov_count = 1,
                                     .done = one_done };
    memset(data, 0, sizeof data);
    block_submit(queue, &op.req);
    assert_int_equal(block_drain(queue, 10000), 0);
    assert_int_equal(data[511], 0x5a);
    block_queue_destroy(queue);
    block_close(node);
    loop_destroy(loop);

    struct image_options over = { .path = top.path, .format = "qcow2", .no_backing = true };
    assert_int_equal(image_open(&over, &image, &err), 0);
    for (unsigned i = 0; i < 4; i++) {
        struct image_extent extent;
        assert_int_equal(image_status(image, i * 65536, 65536, &extent), 0);
        assert_int_equal(!!(extent.flags & IMAGE_ALLOCATED), i == 1);
    }
    assert_int_equal(image_read(image, data, 65536, 65536), 0);
    assert_int_equal(data[0], 0x5a);
    assert_int_equal(data[65535], 0x5a);
    assert_int_equal(image_close(image), 0);
}

static void test_qcow2(void **state) { run_steps("qcow2", false); }
static void test_raw(void **state) { run_steps("raw", false); }
static void test_throttled(void **state) { run_steps("qcow2", true); }

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_qcow2), cmocka_unit_test(test_raw),
                                        cmocka_unit_test(test_throttled),
                                        cmocka_unit_test(test_copy_on_read) };
    return cmocka_run_group_tests(tests, dir_setup, dir_teardown);
}
