/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The debug console: each byte written to port 0x402 (SeaBIOS, OVMF) or 0xe9 (Bochs' port, small
 * kernels) is a byte of output. Reading gives 0xe9, by which software finds it.
 */
#include "devices/debugcon.h"

#include "base/checked.h"
#include "machine/machine.h"

#include <stdlib.h>

enum { PORTS = 2, PRIORITY = 10, PRESENT = 0xe9 };

struct debugcon {
    struct device dev;
    void (*output)(void *arg, const uint8_t *data, size_t len);
    void *arg;
    struct mapping *maps[PORTS];
};

static uint64_t debugcon_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    return PRESENT;
}

static void debugcon_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                           uint64_t value)
{
    struct debugcon *con = CONTAINER_OF(dev, struct debugcon, dev);
    con->output(con->arg, &(uint8_t){ (uint8_t)value }, 1);
}

static void debugcon_destroy(struct device *dev)
{
    struct debugcon *con = CONTAINER_OF(dev, struct debugcon, dev);
    for (unsigned i = 0; i < PORTS; i++)
        map_remove(dev->machine, con->maps[i]);
    device_fini(dev);
    free(con);
}

static const struct device_type debugcon_type = {
    .name = "debugcon",
    .about = "debug console",
    .threads = DEVICE_LOCKED,
    .destroy = debugcon_destroy,
    .read = debugcon_read,
    .write = debugcon_write,
};

int debugcon_create(struct machine *m, void (*output)(void *arg, const uint8_t *data, size_t len),
                    void *arg, struct err *err)
{
    static const uint16_t ports[PORTS] = { 0x402, 0xe9 };
    struct debugcon *con = calloc(1, sizeof *con);
    if (!con)
        return err_set(err, ENOMEM, "out of memory");
    device_init(&con->dev, m, &debugcon_type, "debugcon");
    con->output = output;
    con->arg = arg;
    AUTO(device_destroy) struct device *dev = &con->dev;
    for (unsigned i = 0; i < PORTS; i++) {
        int r = map_device(m, SPACE_IO, ports[i], 1, dev, i, PRIORITY, &con->maps[i], err);
        if (r < 0)
            return err_prefix(err, "debug console");
    }
    machine_add_device(m, TAKE(dev));
    return 0;
}
