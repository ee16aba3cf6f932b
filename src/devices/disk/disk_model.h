/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For tests and fuzzers of disk controllers: images in memory. */
#ifndef DEVICES_DISK_DISK_MODEL_H
#define DEVICES_DISK_DISK_MODEL_H

#include "block/block.h"
#include "devices/device_fuzz.h"

#include <sys/mman.h>

static inline int model_opener_open(const struct block_opener *opener, const char *path, int flags,
                                    int *fd, struct err *err)
{
    uint32_t size = (uint32_t)strtoul(path, NULL, 10);
    *fd = memfd_create(path, MFD_CLOEXEC);
    if (*fd < 0 || ftruncate(*fd, size) < 0)
        return err_set(err, errno, "no memory for an image");
    for (uint32_t at = 0; at < size; at += 4096) { /* each block begins with its place */
        if (pwrite(*fd, &at, sizeof at, at) != sizeof at)
            return err_set(err, errno, "no memory for an image");
    }
    return 0;
}

static inline struct block_node *model_open(const char *size, bool readonly)
{
    static const struct block_opener opener = { .open = model_opener_open };
    struct block_options options = { .path = size,
                                     .format = "raw",
                                     .readonly = readonly,
                                     .no_lock = true,
                                     .no_uring = true,
                                     .opener = &opener };
    struct block_node *node;
    struct err err = { 0 };
    if (block_open(&options, &node, &err) < 0)
        fail_msg("%s", err.text);
    return node;
}

/* 1 MiB. The caller closes it, after the machine. */
static inline struct block_node *model_image(bool readonly)
{
    return model_open("1048576", readonly);
}

static inline struct block_node *model_image_sized(unsigned size)
{
    char text[16];
    snprintf(text, sizeof text, "%u", size);
    return model_open(text, false);
}

#endif
