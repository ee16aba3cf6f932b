/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The lifecycle with an engine that is none: who runs when, in which order things stop, what is
 * posted. */
#include "machine/fake_engine.h"

#include "base/checked.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* ---- devices that write a diary ---- */

static char diary[256];

static void note(struct device *dev, char what)
{
    size_t len = strlen(diary);
    snprintf(diary + len, sizeof diary - len, "%c%s ", what, dev->id);
}

static void noting_destroy(struct device *dev)
{
    note(dev, 'd');
    device_fini(dev);
    free(dev);
}
static void noting_reset(struct device *dev) { note(dev, 'x'); }
static void noting_resume(struct device *dev)
{
    /* The clock is up already, the vCPUs are not. */
    assert_true(guest_to_host_ns(dev->machine, 0) != UINT64_MAX);
    for (unsigned i = 0; i < dev->machine->cpus; i++)
        assert_false(fake_engine(dev->machine)->inside[i]);
    note(dev, 'r');
}
static void noting_pause(struct device *dev)
{
    assert_true(guest_to_host_ns(dev->machine, 0) != UINT64_MAX);
    for (unsigned i = 0; i < dev->machine->cpus; i++)
        assert_false(fake_engine(dev->machine)->inside[i]);
    note(dev, 'p');
}
static const struct device_type noting_type = {
    .name = "noting",
    .destroy = noting_destroy,
    .reset = noting_reset,
    .pause = noting_pause,
    .resume = noting_resume,
};

static void noting_add(struct machine *m, const char *id)
{
    struct device *dev = calloc(1, sizeof *dev);
    device_init(dev, m, &noting_type, id);
    machine_add_device(m, dev);
}

static void wait_inside(struct machine *m, unsigned index)
{
    struct fake_engine *fake = fake_engine(m);
    LOCKED(&fake->lock);
    while (!fake->inside[index])
        pthread_cond_wait(&fake->changed, &fake->lock);
}

static bool is_inside(struct machine *m, unsigned index)
{
    LOCKED(&fake_engine(m)->lock);
    return fake_engine(m)->inside[index];
}

static void prepare(void *arg) { (*(unsigned *)arg)++; }

static void test_lifecycle(void **state)
{
    diary[0] = 0;
    struct machine *m = fake_machine_create(16 * PAGE_SIZE, 3, NULL, NULL);
    unsigned prepared = 0;
    machine_set_reset_hook(m, prepare, &prepared);
    noting_add(m, "a");
    noting_add(m, "b");
    assert_ptr_equal(machine_find_device(m, "b"), m->devices->next);
    assert_null(machine_find_device(m, "c"));
    assert_int_equal(m->state, MACHINE_CREATED);
    machine_resume(m);
    machine_pause(m);
    assert_int_equal(m->state, MACHINE_CREATED);
    assert_int_equal(m->tsc_khz, 1000000);

    machine_start(m);
    assert_int_equal(m->state, MACHINE_RUNNING);
    for (unsigned i = 0; i < 3; i++)
        wait_inside(m, i);
    machine_pause(m);
    assert_int_equal(m->state, MACHINE_PAUSED);
    assert_string_equal(machine_state_name(m->state), "paused");
    for (unsigned i = 0; i < 3; i++)
        assert_false(is_inside(m, i));
    assert_int_equal(guest_to_host_ns(m, 0), UINT64_MAX);
    machine_pause(m);
    assert_string_equal(diary, "rb ra pa pb ");

    machine_reset_now(m);
    assert_int_equal(m->state, MACHINE_PAUSED);
    assert_int_equal(fake_engine(m)->resets, 3);
    machine_resume(m);
    wait_inside(m, 1);
    diary[0] = 0;
    machine_reset_now(m);
    assert_string_equal(diary, "pa pb xa xb rb ra ");
    assert_int_equal(prepared, 2);
    assert_int_equal(m->state, MACHINE_RUNNING);

    diary[0] = 0;
    fake_machine_destroy(m);
    assert_string_equal(diary, "pa pb db da ");
}

static void test_create_fails(void **state)
{
    struct loop *loop;
    struct machine *m = NULL;
    struct err err = { 0 };
    assert_int_equal(loop_create(&loop, &err), 0);
    struct machine_config config = { .engine = &fake_engine_type,
                                     .engine_config = { .options = "fail" },
                                     .cpus = 2,
                                     .memory = PAGE_SIZE,
                                     .loop = loop };
    assert_int_equal(machine_create(&config, &m, &err), -ENODEV);
    assert_string_equal(err.text, "told to fail");
    config.engine_config.options = NULL;
    config.memory = 100;
    assert_int_equal(machine_create(&config, &m, &err), -EINVAL);
    config.memory = PAGE_SIZE;
    config.cpus = 256;
    assert_int_equal(machine_create(&config, &m, &err), -EINVAL);
    config.cpus = 0;
    assert_int_equal(machine_create(&config, &m, &err), -EINVAL);
    config.cpus = 1;
    config.engine = NULL;
    assert_int_equal(machine_create(&config, &m, &err), -EINVAL);
    assert_null(m);
    loop_destroy(loop);
}

static void test_rams(void **state)
{
    struct machine *m = fake_machine_create(PAGE_SIZE, 0, NULL, NULL);
    assert_ptr_equal(m->rams[0], m->main_ram);
    struct ram *ram;
    for (unsigned i = 1; i < ARRAY_LEN(m->rams); i++) {
        assert_int_equal(ram_create("more", PAGE_SIZE * i, &ram, NULL), 0);
        assert_int_equal(machine_add_ram(m, ram, NULL), 0);
        assert_int_equal(ram->index, i);
    }
    assert_int_equal(ram_create("more", PAGE_SIZE, &ram, NULL), 0);
    assert_int_equal(machine_add_ram(m, ram, NULL), -ENOSPC);
    assert_int_equal(ram_create("odd", PAGE_SIZE + 1, &ram, NULL), -EINVAL);
    assert_int_equal(ram_create("none", 0, &ram, NULL), -EINVAL);
    fake_machine_destroy(m);
}

/* ---- events ---- */

struct seen {
    unsigned count;
    enum machine_event event;
    unsigned vcpu;
    char detail[64];
    struct loop *loop; /* stopped at an event, if set */
};

static void seen_event(void *arg, enum machine_event event, unsigned vcpu, const char *detail)
{
    struct seen *seen = arg;
    seen->count++;
    seen->event = event;
    seen->vcpu = vcpu;
    snprintf(seen->detail, sizeof seen->detail, "%s", detail);
    if (seen->loop)
        loop_stop(seen->loop, 0);
}

static void test_events(void **state)
{
    struct seen seen = { 0 };
    struct machine *m = fake_machine_create(PAGE_SIZE, 1, seen_event, &seen);
    char detail[] = "port 0xcf9";
    machine_post_event(m, MACHINE_RESET, detail);
    memset(detail, 'x', sizeof detail - 1);
    machine_post_event(m, MACHINE_RESET, detail); /* the guest has not been reset since */
    assert_int_equal(seen.count, 0);
    fake_machine_settle(m);
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.event, MACHINE_RESET);
    assert_string_equal(seen.detail, "port 0xcf9");

    machine_post_event(m, MACHINE_POWEROFF, NULL);
    struct loop *loop = m->loop;
    machine_destroy(m);
    loop_stop(loop, 0);
    loop_run(loop);
    assert_int_equal(seen.count, 1); /* nobody is left to hear it */
    loop_destroy(loop);
}

static bool guest_leaves(void *arg, unsigned index, enum vcpu_exit *exit)
{
    if (index != 1)
        return false;
    *exit = *(enum vcpu_exit *)arg;
    return true;
}

static void leave_once(enum vcpu_exit exit, enum machine_event event, const char *detail)
{
    struct seen seen = { 0 };
    struct machine *m = fake_machine_create(PAGE_SIZE, 2, seen_event, &seen);
    seen.loop = m->loop;
    fake_engine(m)->guest = guest_leaves;
    fake_engine(m)->arg = &exit;
    machine_start(m);
    wait_inside(m, 0);
    loop_run(m->loop);
    assert_int_equal(seen.event, event);
    assert_int_equal(seen.vcpu, 1);
    assert_string_equal(seen.detail, detail);
    usleep(2000);
    assert_int_equal(seen.count, 1); /* it stays out */
    machine_pause(m);
    machine_resume(m);
    loop_run(m->loop); /* tries again, leaves again */
    assert_int_equal(seen.count, 2);
    machine_stop(m);
    assert_int_equal(m->state, MACHINE_STOPPED);
    fake_machine_destroy(m);
}

static void test_exits(void **state)
{
    leave_once(VCPU_SHUTDOWN, MACHINE_TRIPLE_FAULT, "triple fault");
    leave_once(VCPU_DEBUG, MACHINE_DEBUG, "");
    leave_once(VCPU_ERROR, MACHINE_ENGINE_FAILED, "the fake broke");
}

static bool guest_asks_and_leaves(void *arg, unsigned index, enum vcpu_exit *exit)
{
    machine_post_event(arg, MACHINE_RESET, "port 0x64");
    *exit = VCPU_SHUTDOWN;
    return true;
}

/* A triple fault of a guest that has asked for a reset is not told: the reset is under way. */
static void test_reset_by_all_means(void **state)
{
    struct seen seen = { 0 };
    struct machine *m = fake_machine_create(PAGE_SIZE, 1, seen_event, &seen);
    fake_engine(m)->guest = guest_asks_and_leaves;
    fake_engine(m)->arg = m;
    machine_start(m);
    for (unsigned i = 0; i < 60000 && !seen.count; i++) {
        usleep(1000);
        fake_machine_settle(m);
    }
    usleep(2000);
    fake_machine_settle(m);
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.event, MACHINE_RESET);
    machine_stop(m);
    fake_machine_destroy(m);
}

static void test_hold(void **state)
{
    struct machine *m = fake_machine_create(PAGE_SIZE, 2, NULL, NULL);
    machine_hold_vcpu(m, 0, true);
    machine_start(m);
    wait_inside(m, 1);
    usleep(2000);
    assert_false(is_inside(m, 0));
    machine_pause(m);
    machine_hold_vcpu(m, 0, false);
    machine_resume(m);
    wait_inside(m, 0);
    fake_machine_destroy(m);
}

/* ---- much of everything at once, for the thread sanitizer ---- */

static bool guest_works(void *arg, unsigned index, enum vcpu_exit *exit)
{
    struct machine *m = arg;
    for (unsigned i = 0; i < 50; i++) {
        bus_write(m, SPACE_MEMORY, (index * 64 + i) * 8, 8, i);
        (void)bus_read(m, SPACE_MEMORY, 0x8000 + i, 4);
        (void)guest_now_ns(m);
        msi_send(m, 0xfee00000, i);
    }
    return false;
}

static void test_storm(void **state)
{
    struct seen seen = { 0 };
    struct machine *m = fake_machine_create(64 * PAGE_SIZE, 4, seen_event, &seen);
    struct mapping *mapping;
    noting_add(m, "bar");
    assert_int_equal(map_ram(m, SPACE_MEMORY, 0, 0x8000, REGION_RAM, m->main_ram, 0, 0, NULL, NULL),
                     0);
    assert_int_equal(map_device(m, SPACE_MEMORY, 0x8000, 0x100, m->devices, 0, 0, &mapping, NULL),
                     0);
    fake_engine(m)->guest = guest_works;
    fake_engine(m)->arg = m;
    machine_start(m);
    assert_int_equal(dirty_log_start(m, NULL), 0);
    uint64_t bitmap[1];
    for (unsigned i = 0; i < 60; i++) {
        diary[0] = 0;
        machine_pause(m);
        assert_int_equal(map_move(m, mapping, i % 2 ? 0x8000 : 0x8100, NULL), 0);
        machine_resume(m);
        assert_int_equal(map_move(m, mapping, 0x9000, NULL), 0);
        dirty_log_fetch_clear(m, m->main_ram, bitmap);
        machine_post_event(m, MACHINE_RESET, NULL);
        fake_machine_settle(m);
    }
    assert_int_equal(seen.count, 60);
    fake_machine_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lifecycle), cmocka_unit_test(test_create_fails),
        cmocka_unit_test(test_rams),      cmocka_unit_test(test_events),
        cmocka_unit_test(test_exits),     cmocka_unit_test(test_reset_by_all_means),
        cmocka_unit_test(test_hold),      cmocka_unit_test(test_storm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
