/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Throttled disks (throttle.h).
 *
 * The first request of a lane (the reads or the writes of a queue) is charged when it gets there
 * and learns when it may go; those behind it wait without a place in the buckets. So queues of a
 * group take turns, whoever's turn is later has been charged for already, and nothing polls.
 */
#include "block/throttle.h"

#include "base/checked.h"
#include "block/driver.h"

#include <string.h>
#include <sys/eventfd.h>

const char *const throttle_names[THROTTLE_KINDS] = {
    [THROTTLE_BPS] = "bps",   [THROTTLE_BPS_READ] = "bps-rd",   [THROTTLE_BPS_WRITE] = "bps-wr",
    [THROTTLE_IOPS] = "iops", [THROTTLE_IOPS_READ] = "iops-rd", [THROTTLE_IOPS_WRITE] = "iops-wr",
};

/* ---- groups ---- */

struct bucket {
    double level, size, rate; /* rate 0: not there */
};

struct throttle_queue;

struct throttle_group {
    char *name;
    atomic_uint refs;
    atomic_bool limited; /* a hint: false means that no limit is set */
    pthread_mutex_t lock;
    struct throttle_limits limits;            /* lock */
    struct bucket buckets[THROTTLE_KINDS][2]; /* lock; the rate's and the burst's */
    uint64_t leaked_ns;                       /* lock; until when the buckets have leaked */
    unsigned generation;                      /* lock; counts throttle_group_set */
    struct throttle_queue *queues;            /* lock */
};

int throttle_check(const struct throttle_limits *limits, struct err *err)
{
    for (unsigned i = 0; i < THROTTLE_KINDS; i++) {
        const struct throttle_limit *l = &limits->of[i];
        if (l->rate > THROTTLE_MAX_RATE || l->burst > THROTTLE_MAX_RATE)
            return err_set(err, EINVAL, "%s: at most 2^50 a second", throttle_names[i]);
        if (l->burst && l->burst < l->rate)
            return err_set(err, EINVAL, "%s: a burst is above the rate that it exceeds",
                           throttle_names[i]);
        if (!l->rate && (l->burst || l->burst_s))
            return err_set(err, EINVAL, "%s: a burst needs a rate, too", throttle_names[i]);
        if (l->burst_s && !l->burst)
            return err_set(err, EINVAL, "%s: the length of a burst needs a burst",
                           throttle_names[i]);
        if (l->burst_s > THROTTLE_MAX_BURST_S)
            return err_set(err, EINVAL, "%s: a burst lasts at most %d seconds", throttle_names[i],
                           THROTTLE_MAX_BURST_S);
    }
    for (unsigned i = 0; i < THROTTLE_KINDS; i += THROTTLE_IOPS)
        if (limits->of[i].rate && (limits->of[i + 1].rate || limits->of[i + 2].rate))
            return err_set(err, EINVAL, "%s excludes %s and %s", throttle_names[i],
                           throttle_names[i + 1], throttle_names[i + 2]);
    return 0;
}

/* Empty buckets of the sizes that the limits ask for. Lock. */
static void group_fill(struct throttle_group *group, const struct throttle_limits *limits)
{
    bool limited = false;
    group->limits = *limits;
    for (unsigned i = 0; i < THROTTLE_KINDS; i++) {
        const struct throttle_limit *l = &limits->of[i];
        double rate = (double)l->rate, burst = (double)l->burst;
        double burst_s = l->burst_s ? (double)l->burst_s : 1;
        group->buckets[i][0] = (struct bucket){ 0, burst > 0 ? burst * burst_s : rate / 10, rate };
        group->buckets[i][1] = (struct bucket){ 0, burst / 10, burst };
        limited |= l->rate > 0;
    }
    group->leaked_ns = monotonic_ns();
    group->generation++;
    atomic_store(&group->limited, limited);
}

int throttle_group_create(const char *name, const struct throttle_limits *limits,
                          struct throttle_group **out, struct err *err)
{
    int r = throttle_check(limits, err);
    if (r < 0)
        return r;
    struct throttle_group *group = calloc(1, sizeof *group);
    if (!group)
        return err_set(err, ENOMEM, "out of memory");
    if (name && !(group->name = strdup(name))) {
        free(group);
        return err_set(err, ENOMEM, "out of memory");
    }
    pthread_mutex_init(&group->lock, NULL);
    atomic_store(&group->refs, 1);
    group_fill(group, limits);
    *out = group;
    return 0;
}

struct throttle_group *throttle_group_ref(struct throttle_group *group)
{
    atomic_fetch_add(&group->refs, 1);
    return group;
}

void throttle_group_unref(struct throttle_group *group)
{
    if (!group || atomic_fetch_sub(&group->refs, 1) > 1)
        return;
    pthread_mutex_destroy(&group->lock);
    free(group->name);
    free(group);
}

const char *throttle_group_name(const struct throttle_group *group) { return group->name; }

void throttle_group_get(struct throttle_group *group, struct throttle_limits *out)
{
    LOCKED(&group->lock);
    *out = group->limits;
}

/* What the request costs in a bucket of this kind. */
static double kind_cost(enum throttle_kind kind, const struct block_request *req)
{
    bool read = req->op == BLOCK_READ;
    unsigned direction = kind % THROTTLE_IOPS; /* 0: both */
    if (direction && (direction == 1) != read)
        return 0;
    if (kind >= THROTTLE_IOPS)
        return 1;
    return req->op == BLOCK_DISCARD ? 0 : (double)req->len;
}

/* Charges the request; answers when it may go. Lock. */
static uint64_t group_reserve(struct throttle_group *group, const struct block_request *req,
                              uint64_t now)
{
    double passed = (double)(now - group->leaked_ns) / 1e9, wait = 0;
    group->leaked_ns = now;
    for (unsigned i = 0; i < THROTTLE_KINDS; i++) {
        double cost = kind_cost((enum throttle_kind)i, req);
        for (unsigned k = 0; k < 2; k++) {
            struct bucket *b = &group->buckets[i][k];
            if (b->rate <= 0)
                continue;
            b->level = b->level > passed * b->rate ? b->level - passed * b->rate : 0;
            if (cost > 0 && b->level > b->size && (b->level - b->size) / b->rate > wait)
                wait = (b->level - b->size) / b->rate;
            b->level += cost;
        }
    }
    return now + (uint64_t)(wait * 1e9);
}

/* ---- queues ---- */

struct lane {
    struct block_request *first, **tail;
    uint64_t due_ns; /* of the first; 0: it is not charged yet */
    unsigned generation;
};

struct throttle_queue {
    struct block_queue queue;
    struct throttle_group *group;
    struct throttle_queue *next, **prev; /* group->lock */
    struct loop_timer *timer;
    struct lane lanes[2];
};

struct throttle {
    struct block_node node;
    struct throttle_group *group;
};

static struct throttle_queue *queue_of(struct block_queue *queue)
{
    return CONTAINER_OF(queue, struct throttle_queue, queue);
}

static struct throttle_group *group_of(const struct block_node *node)
{
    return CONTAINER_OF(node, const struct throttle, node)->group;
}

/* May the first of the lane go now? Otherwise *due is when. */
static bool lane_may_go(struct throttle_queue *tq, struct lane *lane, uint64_t now, uint64_t *due)
{
    struct throttle_group *group = tq->group;
    if (tq->queue.outer->draining)
        return true;
    LOCKED(&group->lock);
    if (!lane->due_ns || lane->generation != group->generation) {
        lane->due_ns = group_reserve(group, lane->first, now);
        lane->generation = group->generation;
    }
    if (lane->due_ns <= now)
        return true;
    if (lane->due_ns < *due)
        *due = lane->due_ns;
    return false;
}

static void throttle_dispatch(struct throttle_queue *tq)
{
    uint64_t now = monotonic_ns(), due = UINT64_MAX;
    for (unsigned i = 0; i < ARRAY_LEN(tq->lanes); i++) {
        struct lane *lane = &tq->lanes[i];
        while (lane->first && lane_may_go(tq, lane, now, &due)) {
            struct block_request *req = lane->first;
            lane->first = req->next;
            lane->due_ns = 0;
            if (!lane->first)
                lane->tail = &lane->first;
            block_pass(&tq->queue, req);
        }
    }
    if (due == UINT64_MAX)
        loop_timer_disarm(tq->timer);
    else
        loop_timer_arm(tq->timer, due);
}

static void throttle_submit(struct block_queue *queue, struct block_request *req)
{
    struct throttle_queue *tq = queue_of(queue);
    struct lane *lane = &tq->lanes[req->op != BLOCK_READ];
    bool free = req->op == BLOCK_FLUSH || req->op == BLOCK_STATUS;
    if (free || (!lane->first && !atomic_load(&tq->group->limited))) {
        block_pass(queue, req);
        return;
    }
    req->next = NULL;
    *lane->tail = req;
    lane->tail = &req->next;
    if (lane->first == req)
        throttle_dispatch(tq);
}

static void throttle_go_on(struct throttle_queue *tq)
{
    if (tq->lanes[0].first || tq->lanes[1].first)
        throttle_dispatch(tq);
    block_kick(tq->queue.child);
}

static void throttle_timer(void *arg) { throttle_go_on(arg); }
static void throttle_kick(struct block_queue *queue) { throttle_go_on(queue_of(queue)); }

static void throttle_reap(struct block_queue *queue)
{
    filter_reap(queue);
    throttle_go_on(queue_of(queue));
}

void throttle_group_set(struct throttle_group *group, const struct throttle_limits *limits)
{
    LOCKED(&group->lock);
    group_fill(group, limits);
    for (struct throttle_queue *tq = group->queues; tq; tq = tq->next)
        eventfd_write(tq->queue.event_fd, 1);
}

static void throttle_queue_destroy(struct block_queue *queue)
{
    struct throttle_queue *tq = queue_of(queue);
    if (tq->prev) {
        LOCKED(&tq->group->lock);
        *tq->prev = tq->next;
        if (tq->next)
            tq->next->prev = tq->prev;
    }
    loop_timer_destroy(tq->timer);
    free(tq);
}

static int throttle_queue_create(struct block_node *node, const struct block_queue *init,
                                 struct block_queue **out, struct err *err)
{
    struct block_queue *queue;
    int r = filter_queue_open(init, sizeof(struct throttle_queue), &queue, err);
    if (r < 0)
        return r;
    struct throttle_queue *tq = queue_of(queue);
    tq->group = group_of(node);
    for (unsigned i = 0; i < ARRAY_LEN(tq->lanes); i++)
        tq->lanes[i].tail = &tq->lanes[i].first;
    r = loop_timer_create(init->loop, throttle_timer, tq, &tq->timer, err);
    if (r < 0) {
        block_queue_close_child(queue);
        throttle_queue_destroy(queue);
        return r;
    }
    LOCKED(&tq->group->lock);
    tq->next = tq->group->queues;
    tq->prev = &tq->group->queues;
    if (tq->next)
        tq->next->prev = &tq->next;
    tq->group->queues = tq;
    *out = &tq->queue;
    return 0;
}

/* ---- the node ---- */

static void throttle_close(struct block_node *node)
{
    struct throttle *throttle = CONTAINER_OF(node, struct throttle, node);
    throttle_group_unref(throttle->group);
    free(throttle);
}

static const struct block_driver throttle_driver = {
    .name = "throttle",
    .about = "limits on operations and bytes a second",
    .filter = true,
    .close = throttle_close,
    .queue_create = throttle_queue_create,
    .queue_destroy = throttle_queue_destroy,
    .submit = throttle_submit,
    .kick = throttle_kick,
    .reap = throttle_reap,
};

int throttle_open(struct block_node *take_child, struct throttle_group *group,
                  struct block_node **out, struct err *err)
{
    int r = filter_create(&throttle_driver, sizeof(struct throttle), take_child, out, err);
    if (r == 0)
        CONTAINER_OF(*out, struct throttle, node)->group = throttle_group_ref(group);
    return r;
}
