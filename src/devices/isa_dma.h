/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The two 8237 DMA controllers of a PC/AT, for devices on the ISA bus.
 */
#ifndef DEVICES_ISA_DMA_H
#define DEVICES_ISA_DMA_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct device;
struct machine;

/* Adds it to the machine, which owns it. Main loop, before the machine runs. */
int isa_dma_create(struct machine *m, struct device **out, struct err *err);
/* Called when a channel may have become ready, with the controller's lock held; any thread. */
void isa_dma_set_ready(struct device *dev, void (*ready)(void *arg), void *arg);

/* io_loop. May the channel (0 to 3) move data in this direction now? */
bool isa_dma_ready(struct device *dev, unsigned channel, bool to_memory);
/* Moves up to `len` bytes; how many, or -EFAULT. *terminal: the count ran out with them. */
int isa_dma_move(struct device *dev, unsigned channel, uint8_t *data, unsigned len, bool to_memory,
                 bool *terminal);

#endif
