/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Test only: an image in memory, which answers at once, and can be full, broken or hang.
 *
 * Nothing of it runs on another thread than its queue's loop, so a fuzzer's input does the same
 * each time.
 */
#ifndef BLOCK_MEMORY_IMAGE_H
#define BLOCK_MEMORY_IMAGE_H

#include "block/driver.h"

enum mdisk_mode { MDISK_WORKS, MDISK_FULL, MDISK_BROKEN, MDISK_HANGS };

struct mdisk {
    struct block_node node;
    _Atomic int mode;
    _Atomic unsigned submitted, flags; /* flags: of the last request */
    struct block_request *held;        /* the queue's loop */
    uint8_t *data;                     /* owned */
};

struct mdisk *mdisk_open(uint64_t size); /* zeroes; the node is closed by block_close */
void mdisk_release(void *arg);           /* on the queue's loop: lets go what hung */

#endif
