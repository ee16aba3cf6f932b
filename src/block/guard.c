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

static const struct block_driver guard_driver = {
    .name = "guard",
    .about = "raw by guessing, with the magic guard",
    .filter = true,
    .close = filter_close,
    .queue_create = filter_queue_create,
    .queue_destroy = filter_queue_destroy,
    .submit = guard_submit,
    .kick = filter_kick,
    .reap = filter_reap,
};

int guard_open(struct block_node *take_child, struct block_node **out, struct err *err)
{
    int r = filter_create(&guard_driver, sizeof(struct block_node), take_child, out, err);
    if (r < 0)
        return r;
    /* Whole sectors, so that a magic cannot be assembled from pieces. */
    if ((*out)->limits.request_align < PROBE_SECTOR)
        (*out)->limits.request_align = PROBE_SECTOR;
    return 0;
}
