/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A filter for what the disk's user wants done with zeros and with space that is given back: writes
 * of zeros become WRITE_ZEROES, or no space is ever given back.
 *
 * The memory is a guest's: what was zero when looked at is written as zeros, whatever the guest
 * does to it meanwhile.
 */
#include "block/zeroes.h"

#include "base/checked.h"
#include "block/driver.h"

#include <string.h>

struct zeroes {
    struct block_node node;
    struct zeroes_options options;
};

static bool part_is_zero(const struct iovec *iov)
{
    const char *p = iov->iov_base;
    return !iov->iov_len || (!p[0] && !memcmp(p, p + 1, iov->iov_len - 1));
}

static bool request_is_zero(const struct block_request *req)
{
    for (unsigned i = 0; i < req->iov_count; i++)
        if (!part_is_zero(&req->iov[i]))
            return false;
    return true;
}

static void zeroes_submit(struct block_queue *queue, struct block_request *req)
{
    const struct zeroes_options *o = &CONTAINER_OF(queue->node, struct zeroes, node)->options;
    if (o->detect != ZEROES_WRITE && req->op == BLOCK_WRITE && request_is_zero(req)) {
        req->op = BLOCK_WRITE_ZEROES;
        req->flags |= o->detect == ZEROES_UNMAP ? BLOCK_UNMAP : 0;
    }
    if (o->keep_space)
        req->flags &= ~(unsigned)BLOCK_UNMAP;
    block_pass(queue, req);
}

static void zeroes_kick(struct block_queue *queue) { block_kick(queue->child); }
static void zeroes_reap(struct block_queue *queue)
{
    queue->child->node->driver->reap(queue->child);
}

static int zeroes_queue_create(struct block_node *node, const struct block_queue *init,
                               struct block_queue **out, struct err *err)
{
    struct block_queue *queue = calloc(1, sizeof *queue);
    if (!queue)
        return err_set(err, ENOMEM, "out of memory");
    block_queue_init(queue, init);
    int r = block_queue_open_child(queue, err);
    if (r < 0) {
        free(queue);
        return r;
    }
    *out = queue;
    return 0;
}

static void zeroes_queue_destroy(struct block_queue *queue) { free(queue); }
static void zeroes_close(struct block_node *node) { free(CONTAINER_OF(node, struct zeroes, node)); }

static const struct block_driver zeroes_driver = {
    .name = "zeroes",
    .about = "finds zeros in writes, or keeps all space",
    .filter = true,
    .close = zeroes_close,
    .queue_create = zeroes_queue_create,
    .queue_destroy = zeroes_queue_destroy,
    .submit = zeroes_submit,
    .kick = zeroes_kick,
    .reap = zeroes_reap,
};

int zeroes_open(struct block_node *take_child, const struct zeroes_options *options,
                struct block_node **out, struct err *err)
{
    AUTO(block_close) struct block_node *child = take_child;
    if (options->detect == ZEROES_WRITE && !options->keep_space) {
        *out = TAKE(child); /* nothing to do */
        return 0;
    }
    struct zeroes *zeroes = calloc(1, sizeof *zeroes);
    if (!zeroes)
        return err_set(err, ENOMEM, "out of memory");
    int r = block_node_init_filter(&zeroes->node, &zeroes_driver, child, err);
    if (r < 0) {
        free(zeroes);
        return r;
    }
    child = NULL;
    zeroes->options = *options;
    if (options->keep_space)
        zeroes->node.limits.max_discard = 0;
    *out = &zeroes->node;
    return 0;
}
