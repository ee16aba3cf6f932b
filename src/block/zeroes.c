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

static const struct block_driver zeroes_driver = {
    .name = "zeroes",
    .about = "finds zeros in writes, or keeps all space",
    .filter = true,
    .close = filter_close,
    .queue_create = filter_queue_create,
    .queue_destroy = filter_queue_destroy,
    .submit = zeroes_submit,
    .kick = filter_kick,
    .reap = filter_reap,
};

int zeroes_open(struct block_node *take_child, const struct zeroes_options *options,
                struct block_node **out, struct err *err)
{
    if (options->detect == ZEROES_WRITE && !options->keep_space) {
        *out = take_child; /* nothing to do */
        return 0;
    }
    int r = filter_create(&zeroes_driver, sizeof(struct zeroes), take_child, out, err);
    if (r < 0)
        return r;
    CONTAINER_OF(*out, struct zeroes, node)->options = *options;
    if (options->keep_space)
        (*out)->limits.max_discard = 0;
    return 0;
}
