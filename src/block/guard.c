/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The magic guard: a filter over an image that was opened as raw by guessing (see probe.h).
 *
 * Writes to the first and the last sector are copied before they are judged, because the memory is
 * the guest's, and the copy is what gets written. Everything else passes untouched.
 */
#include "block/driver.h"

#include "base/checked.h"
#include "base/log.h"
#include "block/probe.h"

struct guard {
    struct block_node node;
};

static void guard_submit(struct block_queue *queue, struct block_request *req)
{
    uint64_t size = queue->node->size;
    bool first = ranges_overlap(req->offset, req->len, 0, PROBE_SECTOR);
    bool last = ranges_overlap(req->offset, req->len, size - PROBE_SECTOR, PROBE_SECTOR);

    if (req->op == BLOCK_WRITE && (first || last)) {
        int r = block_bounce(req);
        if (r < 0) {
            block_complete_later(req, r);
            return;
        }
        const uint8_t *data = req->bounce;
        const char *format = first ? probe_first_sector(data) : NULL;
        if (!format && last)
            format = probe_last_sector(data + req->len - PROBE_SECTOR);
        if (format) {
            log_guest(
                "%s: the guest's write of a %s header was refused, since the image was opened "
                "as raw by guessing; start with format=raw to allow it",
                queue->node->path, format);
            block_complete_later(req, -EPERM);
            return;
        }
    }
    block_pass(queue, req);
}

static void guard_kick(struct block_queue *queue) { block_kick(queue->child); }
static void guard_reap(struct block_queue *queue)
{
    queue->child->node->driver->reap(queue->child);
}

static int guard_queue_create(struct block_node *node, const struct block_queue *init,
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

static void guard_queue_destroy(struct block_queue *queue) { free(queue); }
static void guard_close(struct block_node *node) { free(CONTAINER_OF(node, struct guard, node)); }
static const struct block_driver guard_driver = {
    .name = "guard",
    .about = "raw by guessing, with the magic guard",
    .filter = true,
    .close = guard_close,
    .queue_create = guard_queue_create,
    .queue_destroy = guard_queue_destroy,
    .submit = guard_submit,
    .kick = guard_kick,
    .reap = guard_reap,
};

int guard_open(struct block_node *take_child, struct block_node **out, struct err *err)
{
    AUTO(block_close) struct block_node *child = take_child;
    struct guard *guard = calloc(1, sizeof *guard);
    if (!guard)
        return err_set(err, ENOMEM, "out of memory");
    int r = block_node_init_filter(&guard->node, &guard_driver, child, err);
    if (r < 0) {
        free(guard);
        return r;
    }
    child = NULL;
    /* Whole sectors, so that a magic cannot be assembled from pieces. */
    if (guard->node.limits.request_align < PROBE_SECTOR)
        guard->node.limits.request_align = PROBE_SECTOR;
    *out = &guard->node;
    return 0;
}
