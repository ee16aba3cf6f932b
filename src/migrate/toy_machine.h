/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For tests of this room: a machine with two vCPUs that only hold their state, and two devices. */
#ifndef MIGRATE_TOY_MACHINE_H
#define MIGRATE_TOY_MACHINE_H

#include "engine/x86.h"
#include "machine/fake_engine.h"
#include "migrate/snapshot.h"

#include <assert.h>
#include <string.h>

enum { TOY_MEMORY = 3 << 20, TOY_CPUS = 2 };

struct toy_regs {
    uint32_t number; /* at most 1000 */
    uint8_t *data;
    size_t data_len;
};
struct toy_device {
    struct device dev;
    struct toy_regs regs;
    unsigned loads;
};

static int toy_check(const void *state, struct err *err)
{
    const struct toy_regs *regs = state;
    return regs->number > 1000 ? err_set(err, EINVAL, "number is larger than 1000") : 0;
}
static const struct state_field toy_fields[] = {
    STATE_U32(struct toy_regs, number),
    STATE_VARBYTES(struct toy_regs, data, data_len, 64),
    STATE_END,
};
static const struct state_desc toy_state = { .name = "toy",
                                             .version = 1,
                                             .base = offsetof(struct toy_device, regs),
                                             .size = sizeof(struct toy_regs),
                                             .fields = toy_fields,
                                             .check = toy_check };

static int toy_loaded(struct device *dev, struct err *err)
{
    struct toy_device *toy = (struct toy_device *)dev;
    assert(toy->regs.number <= 1000 && toy->regs.data_len <= 64);
    toy->loads++;
    return 0;
}
static void toy_destroy(struct device *dev)
{
    free(((struct toy_device *)dev)->regs.data);
    device_fini(dev);
    free(dev);
}
static const struct device_type toy_type = {
    .name = "toy", .destroy = toy_destroy, .loaded = toy_loaded, .state = &toy_state
};
static const struct device_type stateless_type = { .name = "stateless", .destroy = toy_destroy };

static struct arch_state toy_cpus[TOY_CPUS];

static int toy_get_state(struct vcpu *v, struct arch_state *out, struct err *err)
{
    *out = toy_cpus[v->index];
    return 0;
}
static int toy_set_state(struct vcpu *v, const struct arch_state *state, struct err *err)
{
    toy_cpus[v->index] = *state;
    return 0;
}

static struct toy_device *toy_add(struct machine *m, const struct device_type *type, const char *id)
{
    struct toy_device *toy = calloc(1, sizeof *toy);
    assert(toy);
    device_init(&toy->dev, m, type, id);
    machine_add_device(m, &toy->dev);
    return toy;
}

static struct machine *toy_machine_create(void)
{
    static struct engine_type type;
    struct machine *m = fake_machine_create(TOY_MEMORY, TOY_CPUS, NULL, NULL);
    type = *m->engine->type;
    type.get_state = toy_get_state;
    type.set_state = toy_set_state;
    m->engine->type = &type;
    toy_add(m, &toy_type, "toy0");
    toy_add(m, &stateless_type, "plain0");
    toy_add(m, &toy_type, "toy1");
    return m;
}

static inline struct snapshot_config toy_config(void)
{
    return (struct snapshot_config){
        .engine = "fake",
        .cpu = "x86-64-v2",
        .profile = "pc-1",
        .cpus = TOY_CPUS,
        .memory = TOY_MEMORY,
        .tsc_khz = 1000000,
        .console = true,
        .disk_count = 1,
        .net_count = 1,
        .disks = { { .format = "raw", .size = 1 << 20, .bus = "sata", .queues = 2 } },
        .nets = { { .model = "virtio", .mac = { 0x52, 0x54, 0, 1, 2, 3 } } }
    };
}

#endif
