/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machine's lifecycle and its threads.
 *
 *  1. run_lock guards `run` and where each vCPU thread is. A thread enters the engine only after it
 * has put itself to VCPU_IN under the lock while `run` was set.
 *  2. Pausing clears `run`, then kicks. A kick is sticky in the engine, so a thread that is about
 * to enter comes out at once.
 *  3. Only the main loop's thread changes m->state and `run`.
 */
#include "machine/machine.h"

#include "base/checked.h"
#include "base/log.h"
#include "machine/priv.h"

#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

/* ---- threads ---- */

struct thread_plan {
    void *(*fn)(void *arg);
    void *arg;
    char name[16];
};

static void *thread_main(void *arg)
{
    struct thread_plan plan = *(struct thread_plan *)arg;
    free(arg);
    pthread_setname_np(pthread_self(), plan.name);
    return plan.fn(plan.arg);
}

int thread_start(const char *name, void *(*fn)(void *arg), void *arg, pthread_t *out)
{
    struct thread_plan *plan = malloc(sizeof *plan);
    if (!plan)
        return ENOMEM;
    *plan = (struct thread_plan){ .fn = fn, .arg = arg };
    snprintf(plan->name, sizeof plan->name, "%s", name);

    /* A new thread inherits the mask. What a fault raises stays open: blocked, it would kill the
     * process. */
    static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS };
    sigset_t blocked, old;
    sigfillset(&blocked);
    for (size_t i = 0; i < ARRAY_LEN(faults); i++)
        sigdelset(&blocked, faults[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &old);
    int code = pthread_create(out, NULL, thread_main, plan);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (code)
        free(plan);
    return code;
}

/* ---- events ---- */

struct event_post {
    struct event_box *box;
    enum machine_event event;
    unsigned vcpu;
    char detail[480];
};

static void event_box_unref(struct event_box *box)
{
    if (box && atomic_fetch_sub(&box->refs, 1) == 1)
        free(box);
}

static void event_deliver(void *arg)
{
    struct event_post *post = arg;
    struct machine *m = post->box->machine;
    if (m && m->priv->config.on_event)
        m->priv->config.on_event(m->priv->config.arg, post->event, post->vcpu, post->detail);
    event_box_unref(post->box);
    free(post);
}

static void event_post(struct machine *m, enum machine_event event, unsigned vcpu,
                       const char *detail)
{
    struct event_post *post = malloc(sizeof *post);
    if (!post)
        abort();
    *post = (struct event_post){ .box = m->priv->events, .event = event, .vcpu = vcpu };
    snprintf(post->detail, sizeof post->detail, "%s", detail ? detail : "");
    atomic_fetch_add(&post->box->refs, 1);
    loop_post(m->loop, event_deliver, post);
}

/* A guest runs on until the main loop halts it, and may ask again and again: one reset is one
 * reset. */
void machine_post_event(struct machine *m, enum machine_event event, const char *detail)
{
    unsigned bit = 1u << event;
    if ((event == MACHINE_RESET || event == MACHINE_POWEROFF) &&
        (atomic_fetch_or(&m->priv->asked, bit) & bit))
        return;
    event_post(m, event, 0, detail);
}

/* ---- vCPU threads ---- */

/* What became of a vCPU that came back from the engine; false: it stays out until the next resume.
 */
static bool vcpu_exited(struct machine *m, unsigned index, enum vcpu_exit exit,
                        const struct err *err)
{
    switch (exit) {
    case VCPU_STOPPED: return true;
    case VCPU_SHUTDOWN:
        /* A BIOS asks for a reset in one way after the other, and this is its last: the one that
         * has been asked for is under way. */
        if (!(atomic_load(&m->priv->asked) & 1u << MACHINE_RESET))
            event_post(m, MACHINE_TRIPLE_FAULT, index, "triple fault");
        break;
    case VCPU_DEBUG: event_post(m, MACHINE_DEBUG, index, NULL); break;
    case VCPU_ERROR: event_post(m, MACHINE_ENGINE_FAILED, index, err->text); break;
    }
    return false;
}

static void vcpu_set_place(struct vcpu_thread *t, enum vcpu_place place)
{
    t->place = place;
    pthread_cond_broadcast(&t->m->priv->place_changed);
}

static void *vcpu_thread(void *arg)
{
    struct vcpu_thread *t = arg;
    struct machine *m = t->m;
    struct machine_priv *priv = m->priv;
    struct vcpu *vcpu = m->vcpus[t->index];

    if (priv->config.on_vcpu_thread)
        priv->config.on_vcpu_thread();
    pthread_mutex_lock(&priv->run_lock);
    while (!priv->quit) {
        if (!priv->run || t->held || t->place == VCPU_PARKED) {
            if (t->place == VCPU_IN)
                vcpu_set_place(t, VCPU_OUT);
            pthread_cond_wait(&priv->run_changed, &priv->run_lock);
            continue;
        }
        t->place = VCPU_IN; /* 1 */
        pthread_mutex_unlock(&priv->run_lock);

        struct err err = { 0 };
        enum vcpu_exit exit = m->engine->type->run(vcpu, &err);
        bool stays = vcpu_exited(m, t->index, exit, &err);

        pthread_mutex_lock(&priv->run_lock);
        if (!stays)
            vcpu_set_place(t, VCPU_PARKED);
    }
    vcpu_set_place(t, VCPU_OUT);
    pthread_mutex_unlock(&priv->run_lock);
    return NULL;
}

static void vcpus_run(struct machine *m)
{
    struct machine_priv *priv = m->priv;
    LOCKED(&priv->run_lock);
    priv->run = true;
    for (unsigned i = 0; i < m->cpus; i++)
        if (priv->threads[i].place == VCPU_PARKED)
            priv->threads[i].place = VCPU_OUT;
    pthread_cond_broadcast(&priv->run_changed);
}

static void vcpus_halt(struct machine *m)
{
    struct machine_priv *priv = m->priv;
    pthread_mutex_lock(&priv->run_lock);
    priv->run = false;
    pthread_mutex_unlock(&priv->run_lock);
    for (unsigned i = 0; i < m->cpus; i++) /* 2 */
        m->engine->type->kick(m->vcpus[i]);

    LOCKED(&priv->run_lock);
    for (unsigned i = 0; i < m->cpus; i++)
        while (priv->threads[i].place == VCPU_IN)
            pthread_cond_wait(&priv->place_changed, &priv->run_lock);
}

static void vcpus_join(struct machine *m)
{
    struct machine_priv *priv = m->priv;
    pthread_mutex_lock(&priv->run_lock);
    priv->quit = true;
    pthread_cond_broadcast(&priv->run_changed);
    pthread_mutex_unlock(&priv->run_lock);
    for (unsigned i = 0; i < m->cpus; i++)
        if (priv->threads[i].made)
            pthread_join(priv->threads[i].thread, NULL);
}

static int vcpus_spawn(struct machine *m, struct err *err)
{
    for (unsigned i = 0; i < m->cpus; i++) {
        struct vcpu_thread *t = &m->priv->threads[i];
        if (t->made)
            continue;
        *t = (struct vcpu_thread){ .m = m, .index = i, .held = t->held };
        char name[16];
        snprintf(name, sizeof name, "vcpu/%u", i);
        int code = thread_start(name, vcpu_thread, t, &t->thread);
        if (code)
            return err_errno(err, code, "cannot create thread %s", name);
        t->made = true;
    }
    return 0;
}

void machine_hold_vcpu(struct machine *m, unsigned index, bool hold)
{
    assert(index < m->cpus && m->state != MACHINE_RUNNING);
    LOCKED(&m->priv->run_lock);
    m->priv->threads[index].held = hold;
}

/* ---- lifecycle ---- */

enum { DEVICES_MAX = 512 };

/* Fills `list` in the order of adding. */
static unsigned devices_list(struct machine *m, struct device *list[DEVICES_MAX])
{
    unsigned count = 0;
    for (struct device *dev = m->devices; dev; dev = dev->next)
        list[count++] = dev;
    return count;
}

static void devices_pause(struct machine *m)
{
    for (struct device *dev = m->devices; dev; dev = dev->next)
        if (dev->type->pause)
            dev->type->pause(dev);
}

static void devices_resume(struct machine *m)
{
    struct device *list[DEVICES_MAX];
    for (unsigned i = devices_list(m, list); i-- > 0;)
        if (list[i]->type->resume)
            list[i]->type->resume(list[i]);
}

static void machine_go(struct machine *m)
{
    m->priv->asked = 0;
    clock_start(m);
    devices_resume(m);
    m->state = MACHINE_RUNNING;
    vcpus_run(m);
}

void machine_start(struct machine *m)
{
    assert_on_loop(m->loop);
    assert(m->state == MACHINE_CREATED && m->engine);
    struct err err = { 0 };
    if (vcpus_spawn(m, &err) < 0) {
        machine_post_event(m, MACHINE_ENGINE_FAILED, err.text);
        return;
    }
    machine_go(m);
}

void machine_pause(struct machine *m)
{
    assert_on_loop(m->loop);
    if (m->state != MACHINE_RUNNING)
        return;
    vcpus_halt(m);
    devices_pause(m);
    clock_stop(m);
    m->state = MACHINE_PAUSED;
}

void machine_resume(struct machine *m)
{
    assert_on_loop(m->loop);
    if (m->state == MACHINE_PAUSED)
        machine_go(m);
}

void machine_stop(struct machine *m)
{
    assert_on_loop(m->loop);
    machine_pause(m);
    vcpus_join(m);
    m->state = MACHINE_STOPPED;
}

void machine_set_reset_hook(struct machine *m, void (*prepare)(void *arg), void *arg)
{
    m->priv->reset_prepare = prepare;
    m->priv->reset_arg = arg;
}

void machine_reset_now(struct machine *m)
{
    assert_on_loop(m->loop);
    if (m->state == MACHINE_STOPPED)
        return;
    bool running = m->state == MACHINE_RUNNING;
    machine_pause(m);
    for (struct device *dev = m->devices; dev; dev = dev->next)
        if (dev->type->reset)
            dev->type->reset(dev);
    for (unsigned i = 0; i < m->cpus; i++)
        m->engine->type->vcpu_reset(m->vcpus[i]);
    if (m->priv->reset_prepare)
        m->priv->reset_prepare(m->priv->reset_arg);
    if (running)
        machine_resume(m);
}

const char *machine_state_name(enum machine_state state)
{
    switch (state) {
    case MACHINE_CREATED: return "created";
    case MACHINE_RUNNING: return "running";
    case MACHINE_PAUSED: return "paused";
    case MACHINE_STOPPED: return "stopped";
    }
    return "unknown";
}

/* ---- what it is made of ---- */

int machine_add_ram(struct machine *m, struct ram *take_ram, struct err *err)
{
    if (m->ram_count == ARRAY_LEN(m->rams)) {
        ram_destroy(take_ram);
        return err_set(err, ENOSPC, "a machine has at most %zu memories", ARRAY_LEN(m->rams));
    }
    take_ram->index = m->ram_count;
    m->rams[m->ram_count++] = take_ram;
    return 0;
}

void machine_add_device(struct machine *m, struct device *take_dev)
{
    assert_on_loop(m->loop);
    unsigned count = 0;
    struct device **end = &m->devices;
    while (*end) {
        assert(strcmp((*end)->id, take_dev->id) && "device ids are unique");
        end = &(*end)->next;
        count++;
    }
    assert(count < DEVICES_MAX);
    take_dev->next = NULL;
    *end = take_dev;
}

void machine_remove_device(struct machine *m, struct device *dev)
{
    assert_on_loop(m->loop);
    assert(m->state != MACHINE_RUNNING);
    struct device **at = &m->devices;
    while (*at != dev) {
        assert(*at && "the device is not of this machine");
        at = &(*at)->next;
    }
    *at = dev->next;
    dev->next = NULL;
}

struct device *machine_find_device(struct machine *m, const char *id)
{
    for (struct device *dev = m->devices; dev; dev = dev->next)
        if (!strcmp(dev->id, id))
            return dev;
    return NULL;
}

static void *io_thread(void *arg)
{
    loop_run(arg);
    return NULL;
}

static void io_is_up(void *arg) { sem_post(arg); }

static int io_start(struct io_thread *io, const char *name, struct err *err)
{
    char full[16];
    int r = loop_create(&io->loop, err);
    if (r < 0)
        return r;
    snprintf(io->name, sizeof io->name, "%s", name);
    snprintf(full, sizeof full, "io/%s", io->name);
    int code = thread_start(full, io_thread, io->loop, &io->thread);
    if (code) {
        loop_destroy(TAKE(io->loop));
        return err_errno(err, code, "cannot create thread %s", full);
    }
    /* Until its thread runs it, a loop would take anyone for its own thread. */
    sem_t up;
    sem_init(&up, 0, 0);
    loop_post(io->loop, io_is_up, &up);
    while (sem_wait(&up) < 0)
        ;
    sem_destroy(&up);
    return 0;
}

int machine_io_loop(struct machine *m, const char *name, struct loop **out, struct err *err)
{
    struct machine_priv *p = m->priv;
    if (strlen(name) >= sizeof p->io[0].name)
        return err_set(err, EINVAL, "the name of an I/O thread has at most %zu letters",
                       sizeof p->io[0].name - 1);
    unsigned i = 0;
    while (i < p->io_count && strcmp(p->io[i].name, name) != 0)
        i++;
    if (i == IO_THREADS_MAX)
        return err_set(err, EINVAL, "a machine has at most %d I/O threads", IO_THREADS_MAX);
    if (i == p->io_count) {
        int r = io_start(&p->io[i], name, err);
        if (r < 0)
            return r;
        p->io_count++;
    }
    *out = p->io[i].loop;
    return 0;
}

void machine_io_each(struct machine *m, void (*fn)(void *arg), void *arg)
{
    for (unsigned i = 0; i < m->priv->io_count; i++)
        loop_call(m->priv->io[i].loop, fn, arg);
}

static void io_finish(struct machine *m)
{
    for (unsigned i = m->priv->io_count; i-- > 0;) {
        struct io_thread *io = &m->priv->io[i];
        loop_stop(io->loop, 0);
        pthread_join(io->thread, NULL);
        loop_destroy(io->loop);
    }
}

static int engine_start(struct machine *m, const struct machine_config *config, struct err *err)
{
    if (!config->engine)
        return config->cpus ? err_set(err, EINVAL, "vCPUs need an engine") : 0;
    if (config->cpus < 1 || config->cpus > ARRAY_LEN(m->vcpus))
        return err_set(err, EINVAL, "a machine has 1 to %zu vCPUs", ARRAY_LEN(m->vcpus));
    struct engine_config engine_config = config->engine_config;
    engine_config.memory = config->memory;
    int r = config->engine->create(m, &engine_config, &m->engine, err);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < config->cpus; i++) {
        r = config->engine->vcpu_create(m->engine, i, i, &m->vcpus[i], err);
        if (r < 0)
            return err_prefix(err, "vCPU %u", i);
        m->cpus = i + 1;
    }
    return 0;
}

static void engine_finish(struct machine *m)
{
    for (unsigned i = 0; i < m->cpus; i++)
        m->engine->type->vcpu_destroy(m->vcpus[i]);
    struct engine *engine = TAKE(m->engine);
    if (engine)
        engine->type->destroy(engine);
}

static void priv_init(struct machine *m)
{
    struct machine_priv *priv = m->priv;
    pthread_mutex_init(&priv->run_lock, NULL);
    pthread_cond_init(&priv->run_changed, NULL);
    pthread_cond_init(&priv->place_changed, NULL);
    map_init(m);
    doorbells_init(m);
    dma_init(m);
    dirty_init(m);
    irq_init(m);
}

static void priv_fini(struct machine *m)
{
    struct machine_priv *priv = m->priv;
    irq_fini(m);
    dirty_fini(m);
    dma_fini(m);
    doorbells_fini(m);
    map_fini(m);
    pthread_cond_destroy(&priv->place_changed);
    pthread_cond_destroy(&priv->run_changed);
    pthread_mutex_destroy(&priv->run_lock);
}

static struct machine *machine_alloc(const struct machine_config *config)
{
    struct machine *m = calloc(1, sizeof *m);
    struct machine_priv *priv = aligned_alloc(_Alignof(struct machine_priv), sizeof *priv);
    struct event_box *box = calloc(1, sizeof *box);
    if (!m || !priv || !box) {
        free(m);
        free(priv);
        free(box);
        return NULL;
    }
    memset(priv, 0, sizeof *priv);
    *box = (struct event_box){ .refs = 1, .machine = m };
    priv->config = *config;
    priv->events = box;
    m->priv = priv;
    m->loop = config->loop;
    m->tsc_khz = config->engine_config.tsc_khz;
    return m;
}

int machine_create(const struct machine_config *config, struct machine **out, struct err *err)
{
    struct machine *made = machine_alloc(config);
    if (!made)
        return err_set(err, ENOMEM, "out of memory");
    copy_init();
    priv_init(made);
    AUTO(machine_destroy) struct machine *m = made;
    int r = clock_init(m, err);
    if (r == 0)
        r = machine_io_loop(m, "0", &m->io_loop, err);
    struct ram *ram = NULL;
    if (r == 0)
        r = ram_create("main", config->memory, &ram, err);
    if (r == 0)
        r = machine_add_ram(m, ram, err);
    if (r < 0)
        return r;
    m->main_ram = ram;
    r = engine_start(m, config, err);
    if (r < 0)
        return r;
    *out = TAKE(m);
    return 0;
}

void machine_destroy(struct machine *m)
{
    if (!m)
        return;
    if (m->state != MACHINE_STOPPED)
        machine_stop(m);
    struct device *list[DEVICES_MAX];
    for (unsigned i = devices_list(m, list); i-- > 0;)
        device_destroy(list[i]);
    m->devices = NULL;
    io_finish(m);
    engine_finish(m); /* whose timers are the clock's */
    clock_fini(m);
    priv_fini(m);
    for (unsigned i = 0; i < m->ram_count; i++)
        ram_destroy(m->rams[i]);
    m->priv->events->machine = NULL;
    event_box_unref(m->priv->events);
    free(m->priv);
    free(m);
}
