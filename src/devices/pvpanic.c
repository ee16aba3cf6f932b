/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pvpanic port, after QEMU's specification (docs/specs/pvpanic): reading gives the events it
 * knows, writing bit 0 tells a panic. That a crash kernel was loaded (bit 1) is not the machine's
 * business and not offered.
 */
#include "devices/pvpanic.h"

#include "base/checked.h"
#include "machine/machine.h"

#include <stdlib.h>

enum { PANICKED = 1, PRIORITY = 10 };

struct pvpanic {
    struct device dev;
    struct mapping *map;
};

static uint64_t pvpanic_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    return PANICKED;
}

static void pvpanic_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                          uint64_t value)
{
    if (value & PANICKED)
        machine_post_event(dev->machine, MACHINE_PANICKED, "pvpanic");
}

static void pvpanic_destroy(struct device *dev)
{
    struct pvpanic *panic = CONTAINER_OF(dev, struct pvpanic, dev);
    map_remove(dev->machine, panic->map);
    device_fini(dev);
    free(panic);
}

static const struct device_type pvpanic_type = {
    .name = "pvpanic",
    .about = "tells that the guest's kernel crashed",
    .threads = DEVICE_LOCKED,
    .destroy = pvpanic_destroy,
    .read = pvpanic_read,
    .write = pvpanic_write,
};

int pvpanic_create(struct machine *m, struct err *err)
{
    struct pvpanic *panic = calloc(1, sizeof *panic);
    if (!panic)
        return err_set(err, ENOMEM, "out of memory");
    device_init(&panic->dev, m, &pvpanic_type, "pvpanic");
    AUTO(device_destroy) struct device *dev = &panic->dev;
    int r = map_device(m, SPACE_IO, PVPANIC_PORT, 1, dev, 0, PRIORITY, &panic->map, err);
    if (r < 0)
        return err_prefix(err, "pvpanic");
    machine_add_device(m, TAKE(dev));
    return 0;
}
