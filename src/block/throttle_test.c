/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Throttled disks: rates, bursts, kinds, groups, changed limits, drain. */
#include "block/throttle.h"

#include "base/checked.h"
#include "base/log.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { BLOCK = 4096, DISK = 1 << 20 };

static char path[64];
static struct loop *loop;

struct disk {
    struct block_node *node;
    struct block_queue *queue;
};

static struct disk disk_open(struct throttle_group *group)
{
    struct disk disk;
    struct err err = { 0 };
    struct block_options options = { .path = path, .format = "raw", .no_lock = true };
    if (block_open(&options, &disk.node, &err) < 0 ||
        throttle_open(disk.node, group, &disk.node, &err) < 0 ||
        block_queue_create(disk.node, loop, &disk.queue, &err) < 0)
        fail_msg("%s", err.text);
    return disk;
}

static void disk_close(struct disk *disk)
{
    block_queue_destroy(disk->queue);
    block_close(disk->node);
}

struct load { /* keeps up to `depth` requests going until it is stopped */
    struct disk *disk;
    enum block_op op;
    unsigned depth;
    unsigned done;
    bool stop;
    struct op {
        struct block_request req;
        struct load *load;
        struct iovec iov;
        uint8_t data[BLOCK];
    } * ops;
};

static void op_go(struct op *op);

static void op_done(struct block_request *req, int result)
{
    struct op *op = CONTAINER_OF(req, struct op, req);
    assert_int_equal(result, 0);
    op->load->done++;
    if (!op->load->stop)
        op_go(op);
}

static void op_go(struct op *op)
{
    op->iov = (struct iovec){ op->data, BLOCK };
    op->req = (struct block_request){
        .op = op->load->op, .len = BLOCK, .iov = &op->iov, .iov_count = 1, .done = op_done
    };
    block_submit(op->load->disk->queue, &op->req);
}

static struct load *load_start(struct disk *disk, enum block_op op, unsigned depth)
{
    struct load *load = calloc(1, sizeof *load);
    *load = (struct load){ .disk = disk, .op = op, .depth = depth };
    load->ops = calloc(depth, sizeof *load->ops);
    for (unsigned i = 0; i < depth; i++) {
        load->ops[i].load = load;
        op_go(&load->ops[i]);
    }
    block_kick(disk->queue);
    return load;
}

static unsigned load_end(struct load *load)
{
    load->stop = true;
    unsigned done = load->done;
    assert_int_equal(block_drain(load->disk->queue, 5000), 0);
    assert_int_equal(load->done, done + load->depth);
    free(load->ops);
    free(load);
    return done;
}

static void stop_loop(void *arg) { loop_stop(loop, 0); }

/* How many milliseconds it took indeed: a busy machine lets us wait. */
static unsigned run_for(unsigned ms)
{
    struct loop_timer *timer;
    struct err err = { 0 };
    uint64_t start = monotonic_ns();
    assert_int_equal(loop_timer_create(loop, stop_loop, NULL, &timer, &err), 0);
    loop_timer_arm(timer, start + ms * 1000000ull);
    loop_run(loop);
    loop_timer_destroy(timer);
    return (unsigned)((monotonic_ns() - start) / 1000000) + 1;
}

/* For what nothing holds back. */
static void run_until_done(const struct load *load, unsigned count)
{
    for (unsigned i = 0; i < 1200 && load->done <= count; i++)
        run_for(50);
    assert_true(load->done > count);
}

static struct throttle_group *group_of_limits(const struct throttle_limits *limits)
{
    struct throttle_group *group;
    struct err err = { 0 };
    if (throttle_group_create("g", limits, &group, &err) < 0)
        fail_msg("%s", err.text);
    return group;
}

enum { AT_ONCE = 10 }; /* what may be over the edge */

/* At a rate, of which a tenth of a second's worth passes at once, in a time that was to be `ms` and
 * became `took`: too many is wrong, too few only by a lot. */
static void expect(unsigned done, unsigned rate, unsigned ms, unsigned took)
{
    unsigned least = rate * (ms + 100) / 1000 / 3, most = rate * (took + 100) / 1000 + AT_ONCE;
    if (done > most || done < least)
        fail_msg("%u operations in %u ms, where %u to %u are right", done, took, least, most);
}

static void rate_is(const struct throttle_limits *limits, enum block_op op, unsigned rate)
{
    AUTO(throttle_group_unref) struct throttle_group *group = group_of_limits(limits);
    struct disk disk = disk_open(group);
    struct load *load = load_start(&disk, op, 8);
    unsigned took = run_for(300);
    expect(load_end(load), rate, 300, took);
    disk_close(&disk);
}

static void test_rates(void **state)
{
    struct throttle_limits iops = { .of[THROTTLE_IOPS] = { .rate = 400 } };
    rate_is(&iops, BLOCK_READ, 400);
    rate_is(&iops, BLOCK_WRITE, 400);
    struct throttle_limits bytes = { .of[THROTTLE_BPS_WRITE] = { .rate = 400 * BLOCK } };
    rate_is(&bytes, BLOCK_WRITE, 400);
    AUTO(throttle_group_unref) struct throttle_group *group = group_of_limits(&bytes);
    struct disk disk = disk_open(group);
    struct load *load = load_start(&disk, BLOCK_READ, 8);
    run_until_done(load, 200);
    load_end(load);
    disk_close(&disk);
}

static void test_burst(void **state)
{
    struct throttle_limits limits = { .of[THROTTLE_IOPS] = {
                                          .rate = 100, .burst = 2000, .burst_s = 1 } };
    AUTO(throttle_group_unref) struct throttle_group *group = group_of_limits(&limits);
    struct disk disk = disk_open(group);
    struct load *load = load_start(&disk, BLOCK_WRITE, 8);
    unsigned took = run_for(300); /* the burst's rate */
    expect(load->done, 2000, 300, took);
    took += run_for(1500); /* which is used up within a second */
    assert_true(load->done <= 2000 + 100 * took / 1000 + 2 * AT_ONCE);
    unsigned had = load->done;
    took = run_for(300);
    assert_true(load->done - had <= 100 * took / 1000 + 15);
    load_end(load);
    disk_close(&disk);
}

static void test_group(void **state)
{
    struct throttle_limits limits = { .of[THROTTLE_IOPS] = { .rate = 400 } };
    AUTO(throttle_group_unref) struct throttle_group *group = group_of_limits(&limits);
    struct disk a = disk_open(group), b = disk_open(group);
    struct load *load_a = load_start(&a, BLOCK_WRITE, 8), *load_b = load_start(&b, BLOCK_READ, 1);
    unsigned took = run_for(500);
    unsigned of_a = load_end(load_a), of_b = load_end(load_b);
    expect(of_a + of_b, 400, 500, took);
    assert_true(of_b * 3 > of_a); /* a deep queue gets no more turns */
    disk_close(&a);
    disk_close(&b);
}

static void test_change(void **state)
{
    struct throttle_limits slow = { .of[THROTTLE_IOPS] = { .rate = 1 } }, none = { 0 }, now;
    AUTO(throttle_group_unref) struct throttle_group *group = group_of_limits(&slow);
    struct disk disk = disk_open(group);
    struct load *load = load_start(&disk, BLOCK_WRITE, 8);
    unsigned took = run_for(50);
    assert_true(load->done <= 2 + took / 1000);
    throttle_group_set(group, &none); /* what waits goes at once */
    run_until_done(load, 20);
    throttle_group_set(group, &slow);
    throttle_group_get(group, &now);
    assert_int_equal(now.of[THROTTLE_IOPS].rate, 1);
    load_end(load); /* a drain does not wait eight seconds */
    disk_close(&disk);
}

static void test_check(void **state)
{
    struct err err = { 0 };
    struct throttle_limits bad[] = {
        { .of[THROTTLE_IOPS] = { .burst = 5 } },
        { .of[THROTTLE_IOPS] = { .rate = 10, .burst = 5 } },
        { .of[THROTTLE_IOPS] = { .rate = 10, .burst_s = 5 } },
        { .of[THROTTLE_IOPS] = { .rate = 10, .burst = 20, .burst_s = 5000 } },
        { .of[THROTTLE_IOPS] = { .rate = 10 }, .of[THROTTLE_IOPS_READ] = { .rate = 10 } },
        { .of[THROTTLE_BPS] = { .rate = 10 }, .of[THROTTLE_BPS_WRITE] = { .rate = 10 } },
        { .of[THROTTLE_BPS] = { .rate = 1ull << 60 } },
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(throttle_check(&bad[i], &err), -EINVAL);
    struct throttle_limits good = { .of[THROTTLE_BPS] = { .rate = 10 },
                                    .of[THROTTLE_IOPS_READ] = { 10, 20, 5 } };
    assert_int_equal(throttle_check(&good, &err), 0);
}

int main(void)
{
    struct err err = { 0 };
    log_set_level(LOG_ERROR, LOG_ERROR);
    snprintf(path, sizeof path, "/tmp/bedplate-throttle-%d", (int)getpid());
    int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, DISK) < 0 || loop_create(&loop, &err) < 0)
        return 1;
    close(fd);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check), cmocka_unit_test(test_rates),  cmocka_unit_test(test_burst),
        cmocka_unit_test(test_group), cmocka_unit_test(test_change),
    };
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    loop_destroy(loop);
    unlink(path);
    return r;
}
