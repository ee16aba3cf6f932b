/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For tests and fuzzers of disk controllers: images in memory. */
#ifndef DEVICES_DISK_DISK_MODEL_H
#define DEVICES_DISK_DISK_MODEL_H

#include "block/block.h"
#include "block/memory_image.h"
#include "devices/device_fuzz.h"

/* The first blocks begin with their places. The caller closes it, after the machine. */
static inline struct block_node *model_image_sized(uint32_t size)
{
    struct mdisk *mdisk = mdisk_open(size);
    for (uint32_t at = 0; at < size && at < 64 << 10; at += 4096)
        memcpy(mdisk->data + at, &at, sizeof at);
    return &mdisk->node;
}

/* 1 MiB */
static inline struct block_node *model_image(bool readonly)
{
    struct block_node *node = model_image_sized(1 << 20);
    node->readonly = readonly;
    return node;
}

#endif
