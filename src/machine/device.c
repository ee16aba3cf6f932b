/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The common part of every device, and access to its registers under its lock. */
#include "machine/device.h"

#include "base/checked.h"

#include <assert.h>
#include <string.h>

void device_init(struct device *dev, struct machine *m, const struct device_type *type,
                 const char *id)
{
    assert(strlen(id) < sizeof dev->id);
    *dev = (struct device){ .type = type, .machine = m };
    strcpy(dev->id, id);
    pthread_mutex_init(&dev->lock, NULL);
}

void device_fini(struct device *dev) { pthread_mutex_destroy(&dev->lock); }

static uint64_t size_mask(unsigned size) { return size >= 8 ? ~0ull : (1ull << 8 * size) - 1; }

uint64_t device_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    const struct device_type *type = dev->type;
    if (!type->read)
        return size_mask(size);
    if (type->threads == DEVICE_PARALLEL)
        return type->read(dev, region, offset, size) & size_mask(size);
    LOCKED(&dev->lock);
    return type->read(dev, region, offset, size) & size_mask(size);
}

void device_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                  uint64_t value)
{
    const struct device_type *type = dev->type;
    if (!type->write)
        return;
    value &= size_mask(size);
    if (type->threads == DEVICE_PARALLEL) {
        type->write(dev, region, offset, size, value);
        return;
    }
    LOCKED(&dev->lock);
    type->write(dev, region, offset, size, value);
}
