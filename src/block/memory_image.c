/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/memory_image.h"

#include "base/cleanup.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static int mdisk_do(struct mdisk *mdisk, struct block_request *req)
{
    uint8_t *at = mdisk->data + req->offset;
    if (req->op == BLOCK_WRITE_ZEROES || req->op == BLOCK_DISCARD)
        memset(at, 0, req->len);
    for (unsigned i = 0; i < req->iov_count; i++) {
        if (req->op == BLOCK_WRITE)
            memcpy(at, req->iov[i].iov_base, req->iov[i].iov_len);
        else
            memcpy(req->iov[i].iov_base, at, req->iov[i].iov_len);
        at += req->iov[i].iov_len;
    }
    return 0;
}

static void mdisk_submit(struct block_queue *queue, struct block_request *req)
{
    struct mdisk *mdisk = (struct mdisk *)queue->node;
    mdisk->submitted++;
    mdisk->flags = req->flags;
    if (mdisk->mode == MDISK_HANGS) {
        req->next = mdisk->held;
        mdisk->held = req;
    } else if (mdisk->mode == MDISK_BROKEN) {
        block_complete_later(req, -EIO);
    } else if (mdisk->mode == MDISK_FULL && req->op == BLOCK_WRITE) {
        block_complete_later(req, -ENOSPC);
    } else {
        block_complete_later(req, mdisk_do(mdisk, req));
    }
}

static int mdisk_queue_create(struct block_node *node, const struct block_queue *init,
                              struct block_queue **out, struct err *err)
{
    struct block_queue *queue = calloc(1, sizeof *queue);
    assert(queue);
    block_queue_init(queue, init);
    *out = queue;
    return 0;
}
static void mdisk_queue_destroy(struct block_queue *queue) { free(queue); }
static void mdisk_nothing(struct block_queue *queue) {}
static void mdisk_close(struct block_node *node)
{
    free(((struct mdisk *)node)->data);
    free(node);
}

static const struct block_driver mdisk_driver = {
    .name = "mdisk",
    .close = mdisk_close,
    .queue_create = mdisk_queue_create,
    .queue_destroy = mdisk_queue_destroy,
    .submit = mdisk_submit,
    .kick = mdisk_nothing,
    .reap = mdisk_nothing,
};

struct mdisk *mdisk_open(uint64_t size)
{
    struct mdisk *mdisk = calloc(1, sizeof *mdisk);
    assert(mdisk);
    int r = block_node_init(&mdisk->node, &mdisk_driver, "mdisk", NULL);
    mdisk->data = calloc(1, size);
    assert(r == 0 && mdisk->data);
    mdisk->node.size = size;
    mdisk->node.limits = (struct block_limits){ .request_align = 512,
                                                .max_transfer = 1 << 20,
                                                .max_segments = 1024,
                                                .max_discard = 1 << 20,
                                                .discard_align = 4096,
                                                .max_write_zeroes = 1 << 20 };
    return mdisk;
}

void mdisk_release(void *arg)
{
    struct mdisk *mdisk = arg;
    struct block_request *req = TAKE(mdisk->held);
    mdisk->mode = MDISK_WORKS;
    while (req) {
        struct block_request *next = req->next;
        block_complete(req, mdisk_do(mdisk, req));
        req = next;
    }
}
