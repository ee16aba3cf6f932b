/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What filters share: a node over a child, and queues that pass on. */
#include "block/driver.h"

int filter_create(const struct block_driver *driver, size_t size, struct block_node *take_child,
                  struct block_node **out, struct err *err)
{
    AUTO(block_close) struct block_node *child = take_child;
    AUTO(free) struct block_node *node = calloc(1, size);
    if (!node)
        return err_set(err, ENOMEM, "out of memory");
    int r = block_node_init(node, driver, child->path, err);
    if (r < 0)
        return r;
    node->size = child->size;
    node->readonly = child->readonly;
    node->limits = child->limits;
    child->parent = node;
    node->child = TAKE(child);
    *out = TAKE(node);
    return 0;
}

void filter_close(struct block_node *node) { free(node); }

int filter_queue_open(const struct block_queue *init, size_t size, struct block_queue **out,
                      struct err *err)
{
    AUTO(free) struct block_queue *queue = calloc(1, size);
    if (!queue)
        return err_set(err, ENOMEM, "out of memory");
    block_queue_init(queue, init);
    int r = block_queue_open_child(queue, err);
    if (r == 0)
        *out = TAKE(queue);
    return r;
}

int filter_queue_create(struct block_node *node, const struct block_queue *init,
                        struct block_queue **out, struct err *err)
{
    return filter_queue_open(init, sizeof **out, out, err);
}

void filter_queue_destroy(struct block_queue *queue) { free(queue); }
void filter_kick(struct block_queue *queue) { block_kick(queue->child); }
void filter_reap(struct block_queue *queue) { queue->child->node->driver->reap(queue->child); }
