/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The engine of unit tests: a kick flag per vCPU, counters for everything else. */
#include "machine/fake_engine.h"

#include "base/checked.h"

#include <assert.h>
#include <string.h>

struct fake_vcpu {
    struct vcpu vcpu;
    bool kicked; /* engine lock */
};

static struct fake_engine *of(struct engine *e) { return (struct fake_engine *)e; }

static int fake_probe(bool *slow, struct err *err)
{
    *slow = false;
    return 0;
}

static int fake_create(struct machine *m, const struct engine_config *config, struct engine **out,
                       struct err *err)
{
    if (config->options && !strcmp(config->options, "fail"))
        return err_set(err, ENODEV, "told to fail");
    struct fake_engine *fake = calloc(1, sizeof *fake);
    assert(fake);
    fake->engine = (struct engine){ .type = &fake_engine_type, .machine = m };
    pthread_mutex_init(&fake->lock, NULL);
    pthread_cond_init(&fake->changed, NULL);
    m->tsc_khz = 1000000;
    *out = &fake->engine;
    return 0;
}

static void fake_destroy(struct engine *e)
{
    pthread_cond_destroy(&of(e)->changed);
    pthread_mutex_destroy(&of(e)->lock);
    free(e);
}

static int fake_vcpu_create(struct engine *e, unsigned index, uint32_t apic_id, struct vcpu **out,
                            struct err *err)
{
    struct fake_vcpu *v = calloc(1, sizeof *v);
    assert(v);
    v->vcpu = (struct vcpu){ .engine = e, .index = index, .apic_id = apic_id };
    *out = &v->vcpu;
    return 0;
}

static void fake_vcpu_destroy(struct vcpu *v) { free(v); }
static void fake_vcpu_reset(struct vcpu *v) { of(v->engine)->resets++; }

static enum vcpu_exit fake_run(struct vcpu *v, struct err *err)
{
    struct fake_engine *fake = of(v->engine);
    struct fake_vcpu *self = (struct fake_vcpu *)v;
    enum vcpu_exit exit = VCPU_STOPPED;
    pthread_mutex_lock(&fake->lock);
    fake->entries++;
    fake->inside[v->index] = true;
    pthread_cond_broadcast(&fake->changed);
    while (!self->kicked) {
        if (!fake->guest) {
            pthread_cond_wait(&fake->changed, &fake->lock);
            continue;
        }
        pthread_mutex_unlock(&fake->lock);
        bool left = fake->guest(fake->arg, v->index, &exit);
        pthread_mutex_lock(&fake->lock);
        if (left)
            break;
    }
    if (exit == VCPU_STOPPED)
        self->kicked = false;
    if (exit == VCPU_ERROR)
        err_set(err, EIO, "the fake broke");
    fake->inside[v->index] = false;
    pthread_mutex_unlock(&fake->lock);
    return exit;
}

static void fake_kick(struct vcpu *v)
{
    LOCKED(&of(v->engine)->lock);
    ((struct fake_vcpu *)v)->kicked = true;
    pthread_cond_broadcast(&of(v->engine)->changed);
}

static void fake_rendezvous(struct engine *e, void (*fn)(void *arg), void *arg) { fn(arg); }

static int fake_get_state(struct vcpu *v, struct arch_state *out, struct err *err)
{
    return err_set(err, ENOTSUP, "the fake engine has no state");
}

static int fake_set_state(struct vcpu *v, const struct arch_state *state, struct err *err)
{
    return err_set(err, ENOTSUP, "the fake engine has no state");
}

static void fake_map_changed(struct engine *e)
{
    LOCKED(&of(e)->lock);
    of(e)->map_changes++;
}

static void fake_invalidate(struct engine *e, struct ram *ram, uint64_t offset, uint64_t len)
{
    struct fake_engine *fake = of(e);
    LOCKED(&fake->lock);
    fake->invalidations++;
    fake->invalid_ram = ram;
    fake->invalid_offset = offset;
    fake->invalid_len = len;
}

static int fake_dirty_log(struct engine *e, bool on, struct err *err)
{
    LOCKED(&of(e)->lock);
    of(e)->logging = on;
    return 0;
}

static void fake_dirty_sync(struct engine *e, struct ram *ram, uint64_t *bitmap)
{
    struct fake_engine *fake = of(e);
    LOCKED(&fake->lock);
    fake->syncs++;
    if (fake->sync_ram == ram)
        bitmap[fake->sync_page / 64] |= 1ull << fake->sync_page % 64;
}

static void fake_msi(struct engine *e, uint64_t address, uint32_t data)
{
    struct fake_engine *fake = of(e);
    LOCKED(&fake->lock);
    fake->msis++;
    fake->msi_address = address;
    fake->msi_data = data;
}

static void fake_extint(struct engine *e, bool level)
{
    LOCKED(&of(e)->lock);
    of(e)->extint = level;
}

static void fake_nmi(struct vcpu *v)
{
    LOCKED(&of(v->engine)->lock);
    of(v->engine)->nmis++;
}

static int fake_doorbell(struct engine *e, enum space space, uint64_t addr, unsigned size,
                         int eventfd, bool add)
{
    struct fake_engine *fake = of(e);
    LOCKED(&fake->lock);
    if (fake->doorbell_result == 0)
        fake->doorbells += add ? 1u : -1u;
    return fake->doorbell_result;
}

static void fake_clock_changed(struct engine *e, bool running)
{
    LOCKED(&of(e)->lock);
    of(e)->clock_changes++;
    of(e)->clock_running = running;
}

static int fake_debug(struct vcpu *v, const struct debug_point *points, unsigned count, bool step,
                      struct err *err)
{
    return err_set(err, ENOTSUP, "the fake engine has no debugger");
}

static int fake_translate(struct vcpu *v, uint64_t gva, uint64_t *gpa) { return -EFAULT; }

const struct engine_type fake_engine_type = {
    .name = "fake",
    .about = "for unit tests",
    .probe = fake_probe,
    .create = fake_create,
    .destroy = fake_destroy,
    .vcpu_create = fake_vcpu_create,
    .vcpu_destroy = fake_vcpu_destroy,
    .vcpu_reset = fake_vcpu_reset,
    .run = fake_run,
    .kick = fake_kick,
    .rendezvous = fake_rendezvous,
    .get_state = fake_get_state,
    .set_state = fake_set_state,
    .map_changed = fake_map_changed,
    .invalidate = fake_invalidate,
    .dirty_log = fake_dirty_log,
    .dirty_sync = fake_dirty_sync,
    .msi = fake_msi,
    .extint = fake_extint,
    .nmi = fake_nmi,
    .doorbell = fake_doorbell,
    .clock_changed = fake_clock_changed,
    .debug = fake_debug,
    .translate = fake_translate,
};

struct machine *fake_machine_create(uint64_t memory, unsigned cpus,
                                    void (*on_event)(void *arg, enum machine_event event,
                                                     unsigned vcpu, const char *detail),
                                    void *arg)
{
    struct err err = { 0 };
    struct loop *loop;
    struct machine *m;
    int r = loop_create(&loop, &err);
    assert(r == 0);
    struct machine_config config = {
        .engine = cpus ? &fake_engine_type : NULL,
        .engine_config = { .max_vcpus = cpus },
        .cpus = cpus,
        .memory = memory,
        .loop = loop,
        .on_event = on_event,
        .arg = arg,
    };
    r = machine_create(&config, &m, &err);
    if (r < 0)
        fprintf(stderr, "%s\n", err.text);
    assert(r == 0);
    return m;
}

void fake_machine_destroy(struct machine *m)
{
    struct loop *loop = m->loop;
    machine_destroy(m);
    loop_destroy(loop);
}

void fake_machine_settle(struct machine *m)
{
    loop_stop(m->loop, 0);
    loop_run(m->loop);
}
