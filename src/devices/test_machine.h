/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For unit tests of chips: a machine whose engine runs nothing and notes what interrupts it is
 * sent.
 *
 * Its clock stands still until the test moves it (test_time) or starts it (clock_start, when timers
 * should fire).
 */
#ifndef DEVICES_TEST_MACHINE_H
#define DEVICES_TEST_MACHINE_H

#include "machine/machine.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct test_machine {
    struct loop *loop;
    struct machine *m;
    pthread_mutex_t lock; /* of the rest */
    unsigned msi_count;
    uint64_t msi_address;
    uint32_t msi_data;
    bool extint;
    unsigned event_count;
    enum machine_event event;
};

static struct test_machine test_machine;

static const struct engine_type test_engine_type;

static int test_engine_create(struct machine *m, const struct engine_config *config,
                              struct engine **out, struct err *err)
{
    struct engine *e = calloc(1, sizeof *e);
    e->type = &test_engine_type;
    e->machine = m;
    *out = e;
    return 0;
}

static void test_engine_destroy(struct engine *e) { free(e); }

static void test_engine_msi(struct engine *e, uint64_t address, uint32_t data)
{
    LOCKED(&test_machine.lock);
    test_machine.msi_count++;
    test_machine.msi_address = address;
    test_machine.msi_data = data;
}

static void test_engine_extint(struct engine *e, bool level)
{
    LOCKED(&test_machine.lock);
    test_machine.extint = level;
}

static int test_vcpu_create(struct engine *e, unsigned index, uint32_t apic_id, struct vcpu **out,
                            struct err *err)
{
    struct vcpu *v = calloc(1, sizeof *v);
    v->engine = e;
    v->index = index;
    v->apic_id = apic_id;
    *out = v;
    return 0;
}

static void test_vcpu_destroy(struct vcpu *v) { free(v); }
static void test_vcpu_reset(struct vcpu *v) {}

static const struct engine_type test_engine_type = {
    .name = "test",
    .about = "runs nothing",
    .create = test_engine_create,
    .destroy = test_engine_destroy,
    .vcpu_create = test_vcpu_create,
    .vcpu_destroy = test_vcpu_destroy,
    .vcpu_reset = test_vcpu_reset,
    .msi = test_engine_msi,
    .extint = test_engine_extint,
};

static void test_on_event(void *arg, enum machine_event event, unsigned vcpu, const char *detail)
{
    LOCKED(&test_machine.lock);
    test_machine.event_count++;
    test_machine.event = event;
}

static inline struct machine *test_machine_create(uint64_t memory)
{
    struct err err = { 0 };
    memset(&test_machine, 0, sizeof test_machine);
    pthread_mutex_init(&test_machine.lock, NULL);
    if (loop_create(&test_machine.loop, &err) < 0)
        fail_msg("%s", err.text);
    struct machine_config config = {
        .engine = &test_engine_type,
        .cpus = 1,
        .memory = memory,
        .loop = test_machine.loop,
        .on_event = test_on_event,
    };
    if (machine_create(&config, &test_machine.m, &err) < 0)
        fail_msg("%s", err.text);
    clock_set(test_machine.m, 1000000000, 1700000000ull * 1000000000);
    return test_machine.m;
}

static inline void test_machine_destroy(void)
{
    machine_destroy(test_machine.m);
    loop_destroy(test_machine.loop);
    test_machine.m = NULL;
}

/* Moves the standing clock. */
static inline void test_time(uint64_t guest_ns)
{
    clock_set(test_machine.m, guest_ns, guest_epoch_ns(test_machine.m));
}

/* Runs the main loop until what was posted is done; returns how many events came. */
static inline void test_loop_stop(void *arg) { loop_stop(arg, 0); }
static inline unsigned test_events(void)
{
    loop_post(test_machine.loop, test_loop_stop, test_machine.loop);
    loop_run(test_machine.loop);
    return test_machine.event_count;
}

static inline uint64_t in(unsigned port, unsigned size)
{
    return bus_read(test_machine.m, SPACE_IO, port, size);
}
static inline void out(unsigned port, unsigned size, uint64_t value)
{
    bus_write(test_machine.m, SPACE_IO, port, size, value);
}
static inline uint8_t inb(unsigned port) { return (uint8_t)in(port, 1); }
static inline void outb(unsigned port, unsigned value) { out(port, 1, value); }
static inline uint64_t mmio_read(uint64_t gpa, unsigned size)
{
    return bus_read(test_machine.m, SPACE_MEMORY, gpa, size);
}
static inline void mmio_write(uint64_t gpa, unsigned size, uint64_t value)
{
    bus_write(test_machine.m, SPACE_MEMORY, gpa, size, value);
}

/* Encodes and decodes the device's state, checks that nothing is lost, and installs it again. */
static inline void test_round_trip(struct device *dev)
{
    const struct state_desc *desc = dev->type->state;
    struct err err = { 0 };
    struct buf first = { 0 };
    void *scratch = calloc(1, desc->size);
    uint8_t *live = (uint8_t *)dev + desc->base;

    state_encode(desc, live, &first);
    if (state_decode(desc, first.data, first.len, scratch, &err) < 0)
        fail_msg("%s: %s", dev->id, err.text);
    assert_memory_equal(scratch, live, desc->size);
    memcpy(live, scratch, desc->size);
    if (dev->type->loaded && dev->type->loaded(dev, &err) < 0)
        fail_msg("%s: %s", dev->id, err.text);
    free(scratch);
    buf_fini(&first);
}

#endif
