/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Devices under accesses that an input decides: registers, the guest's memory that they read,
 * outside events, save and restore, reset. For libFuzzer (device_fuzz_run) and, with random inputs,
 * for unit tests (device_fuzz_random).
 *
 * An input is a row of operations of a few bytes each; any bytes are one. The machine's memory is
 * FUZZ_MEMORY bytes from address 0, of which the first FUZZ_WINDOW are written by inputs.
 */
#ifndef DEVICES_DEVICE_FUZZ_H
#define DEVICES_DEVICE_FUZZ_H

#include "base/checked.h"
#include "devices/test_machine.h"

#include <stdio.h>
#include <time.h>

enum { FUZZ_MEMORY = 1 << 20, FUZZ_WINDOW = 32 << 10, FUZZ_OPERATIONS = 2000 };

struct fuzz_target {
    enum space space;
    uint64_t start;
    unsigned size;
};

struct fuzz_model {
    void (*create)(struct machine *m);            /* and everything assigned and enabled */
    void (*destroy)(void);                        /* after the machine; may be NULL */
    void (*event)(unsigned what, uint32_t value); /* main loop; may be NULL */
    const struct fuzz_target *targets;
    unsigned target_count;
};

struct fuzz_input {
    const uint8_t *data;
    size_t len, at;
};

static inline uint64_t fuzz_take(struct fuzz_input *in, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)(in->at < in->len ? in->data[in->at++] : 0) << 8 * i;
    return value;
}

static inline void fuzz_nothing(void *arg) {}

/* Everything that was posted to the loops is done, disk requests apart. */
static inline void fuzz_settle(void)
{
    for (unsigned i = 0; i < 3; i++) {
        loop_call(test_machine.m->io_loop, fuzz_nothing, NULL);
        test_events();
    }
}

static bool fuzz_running;

static inline void fuzz_pause(void)
{
    if (!fuzz_running)
        return;
    fuzz_running = false;
    for (struct device *dev = test_machine.m->devices; dev; dev = dev->next)
        if (dev->type->pause)
            dev->type->pause(dev);
    clock_stop(test_machine.m);
}

static inline void fuzz_resume(void)
{
    fuzz_running = true;
    clock_start(test_machine.m);
    for (struct device *dev = test_machine.m->devices; dev; dev = dev->next)
        if (dev->type->resume)
            dev->type->resume(dev);
}

static inline void fuzz_save_and_restore(void)
{
    fuzz_pause();
    test_events();
    for (struct device *dev = test_machine.m->devices; dev; dev = dev->next)
        if (dev->type->state)
            test_round_trip(dev);
    fuzz_resume();
}

static inline void fuzz_reset(void)
{
    fuzz_pause();
    for (struct device *dev = test_machine.m->devices; dev; dev = dev->next)
        if (dev->type->reset)
            dev->type->reset(dev);
    fuzz_resume();
}

/* A value that is likely to mean something: a place in the window, few bits, or anything. */
static inline uint64_t fuzz_value(struct fuzz_input *in)
{
    uint64_t how = fuzz_take(in, 1), raw = fuzz_take(in, 2);
    switch (how & 3) {
    case 0: return raw % FUZZ_WINDOW & ~15ull;
    case 1: return raw & 0xff;
    case 2: return 1ull << (raw & 63);
    default: return raw | fuzz_take(in, 2) << 16 | fuzz_take(in, how & 4 ? 4 : 0) << 32;
    }
}

static inline void fuzz_memory(struct fuzz_input *in)
{
    uint64_t gpa = fuzz_take(in, 2) % FUZZ_WINDOW;
    uint8_t bytes[64];
    unsigned len = 1 + (unsigned)fuzz_take(in, 1) % sizeof bytes;
    for (unsigned i = 0; i < len; i++)
        bytes[i] = (uint8_t)fuzz_take(in, 1);
    mem_write(test_machine.m, gpa, bytes, len);
}

static inline void fuzz_operation(const struct fuzz_model *model, struct fuzz_input *in)
{
    uint64_t op = fuzz_take(in, 1);
    const struct fuzz_target *t = &model->targets[(op >> 4) % model->target_count];
    uint64_t at = fuzz_take(in, 2);
    unsigned size = 1u << (at >> 14 & (t->space == SPACE_IO ? 1 : 3));
    at = t->start + (at & 0x3fff) % t->size;
    switch (op & 15) {
    case 0: fuzz_settle(); break;
    case 1: fuzz_memory(in); break;
    case 2:
        if (model->event)
            model->event((unsigned)at & 0xff, (uint32_t)fuzz_take(in, 4));
        break;
    case 3:
        if ((at & 7) == 0)
            fuzz_save_and_restore();
        else if ((at & 7) == 1)
            fuzz_reset();
        else
            mem_write(test_machine.m, at % FUZZ_WINDOW & ~7ull, &(uint64_t){ fuzz_value(in) }, 8);
        break;
    case 4:
    case 5: bus_read(test_machine.m, t->space, at, size); break;
    case 6:
    case 7: /* as drivers do: a whole register */
        bus_write(test_machine.m, t->space, at & ~3ull, 4, fuzz_value(in));
        break;
    default: bus_write(test_machine.m, t->space, at, size, fuzz_value(in));
    }
}

static inline void fuzz_begin(const struct fuzz_model *model, bool one_thread)
{
    struct mapping *ram;
    struct err err = { 0 };
    struct machine *m = test_machine_create(FUZZ_MEMORY);
    if (one_thread) /* so that an input does the same each time, and fast */
        m->io_loop = test_machine.loop;
    if (map_ram(m, SPACE_MEMORY, 0, FUZZ_MEMORY, REGION_RAM, m->main_ram, 0, 5, &ram, &err) < 0)
        fail_msg("%s", err.text);
    model->create(m);
    fuzz_resume();
}

static inline void device_fuzz_begin(const struct fuzz_model *model) { fuzz_begin(model, false); }

static inline void device_fuzz_end(const struct fuzz_model *model)
{
    fuzz_pause();
    test_events();
    test_machine_destroy();
    if (model->destroy)
        model->destroy();
}

static inline void device_fuzz_run(const struct fuzz_model *model, const uint8_t *data, size_t len)
{
    struct fuzz_input in = { data, len, 0 };
    fuzz_begin(model, true);
    for (unsigned n = 0; in.at < in.len && n < FUZZ_OPERATIONS; n++)
        fuzz_operation(model, &in);
    fuzz_settle();
    device_fuzz_end(model);
}

/* Random inputs; a failure repeats with the seed that is printed. */
static inline void device_fuzz_random(const struct fuzz_model *model, unsigned rounds)
{
    const char *given = getenv("BEDPLATE_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)now.tv_nsec | 1;
    printf("BEDPLATE_SEED=%llu\n", (unsigned long long)seed);
    for (unsigned round = 0; round < rounds; round++) {
        uint8_t data[6000];
        for (unsigned i = 0; i < sizeof data; i++) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            data[i] = (uint8_t)(seed >> 24);
        }
        device_fuzz_run(model, data, sizeof data);
    }
}

/* Random bytes for the state are refused, or the device lives with them; and every byte of the
 * state belongs to a field. */
static inline void device_fuzz_states(const struct fuzz_model *model, unsigned rounds)
{
    uint64_t seed = 88172645463325252ull;
    device_fuzz_begin(model);
    fuzz_pause();
    for (struct device *dev = test_machine.m->devices; dev; dev = dev->next) {
        const struct state_desc *desc = dev->type->state;
        uint8_t *covered = calloc(1, desc->size), *live = (uint8_t *)dev + desc->base;
        void *scratch = calloc(1, desc->size), *kept = malloc(desc->size);
        state_coverage(desc, covered);
        for (size_t i = 0; i < desc->size; i++)
            if (!covered[i])
                fail_msg("%s: no field covers byte %zu of its state", dev->id, i);
        for (unsigned round = 0; round < rounds; round++) {
            struct err err = { 0 };
            struct buf bytes = { 0 };
            memcpy(kept, live, desc->size);
            state_encode(desc, live, &bytes);
            for (unsigned i = 0; i < 1 + round % 4; i++) {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                bytes.data[6 + (seed >> 8) % (bytes.len - 6)] = (uint8_t)(seed >> 48);
            }
            if (state_decode(desc, bytes.data, bytes.len, scratch, &err) == 0) {
                memcpy(live, scratch, desc->size);
                if (dev->type->loaded && dev->type->loaded(dev, &err) < 0)
                    memcpy(live, kept, desc->size);
                fuzz_resume();
                fuzz_settle();
                fuzz_pause();
                test_events();
            }
            if (round % 8 == 7)
                dev->type->reset(dev);
            buf_fini(&bytes);
        }
        free(covered);
        free(scratch);
        free(kept);
    }
    device_fuzz_end(model);
}

#endif
