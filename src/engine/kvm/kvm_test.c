/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The KVM engine on a bare machine: state round trips, the run loop's exits, kicks, rendezvous,
 * slots that change, time that stands still. What guests see is tested in tests/guests.
 */
#include "base/cleanup.h"
#include "engine/kvm/engine.h"
#include "engine/x86.h"
#include "machine/machine.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { MEMORY = 4 << 20, PORT = 0x510, MMIO = 0x10000000 };

/* ---- a bare machine: RAM at 0, a device on a port and on a page, the engine driven by hand ----
 */

struct probe {
    struct device dev;
    _Atomic uint64_t writes, last_offset, last_value;
    uint64_t answer;
    void (*on_write)(struct probe *p);
};

struct fixture {
    struct machine *m;
    struct loop *loop;
    struct probe *probe;
    struct mapping *port, *mmio, *ram;
    const struct engine_type *type;
};

static uint64_t probe_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    return ((struct probe *)dev)->answer;
}

static void probe_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                        uint64_t value)
{
    struct probe *p = (struct probe *)dev;
    p->last_offset = offset;
    p->last_value = value;
    p->writes++;
    if (p->on_write)
        p->on_write(p);
}

static void probe_destroy(struct device *dev)
{
    device_fini(dev);
    free(dev);
}

static const struct device_type probe_type = {
    .name = "probe",
    .threads = DEVICE_PARALLEL,
    .destroy = probe_destroy,
    .read = probe_read,
    .write = probe_write,
};

static void fixture_make(struct fixture *f, unsigned cpus, const char *options, const char *model)
{
    struct err err = { 0 };
    *f = (struct fixture){ .type = &engine_kvm };
    assert_int_equal(loop_create(&f->loop, &err), 0);
    struct machine_config config = {
        .engine = &engine_kvm,
        .engine_config = { .max_vcpus = cpus, .model = cpu_model_find(model), .options = options },
        .cpus = cpus,
        .memory = MEMORY,
        .loop = f->loop,
    };
    if (machine_create(&config, &f->m, &err) < 0)
        fail_msg("%s", err.text);
    f->probe = calloc(1, sizeof *f->probe);
    device_init(&f->probe->dev, f->m, &probe_type, "probe");
    machine_add_device(f->m, &f->probe->dev);
    assert_int_equal(
        map_ram(f->m, SPACE_MEMORY, 0, MEMORY, REGION_RAM, f->m->main_ram, 0, 0, &f->ram, &err), 0);
    assert_int_equal(map_device(f->m, SPACE_IO, PORT, 8, &f->probe->dev, 0, 0, &f->port, &err), 0);
    assert_int_equal(
        map_device(f->m, SPACE_MEMORY, MMIO, 0x1000, &f->probe->dev, 1, 0, &f->mmio, &err), 0);
}

static void fixture_free(struct fixture *f)
{
    machine_destroy(f->m);
    loop_destroy(f->loop);
}

/* Flat 32-bit code at 0x1000. */
static void guest_code(struct fixture *f, unsigned cpu, const void *code, size_t len)
{
    struct arch_state s;
    struct err err = { 0 };
    uint64_t at = 0x1000 + 0x1000 * cpu;
    assert_int_equal(mem_load(f->m, at, code, len), 0);
    arch_state_reset(&s, f->m->vcpus[cpu]->apic_id);
    s.activity = X86_RUNNING;
    s.cr0 |= 1;
    s.rip = at;
    s.gpr[R_SP] = 0x8000;
    for (unsigned i = 0; i <= S_GS; i++)
        s.seg[i] = (struct x86_segment){ .limit = ~0u, .selector = 16, .attr = 0xc93 };
    s.seg[S_CS].selector = 8;
    s.seg[S_CS].attr = 0xc9b;
    if (f->type->set_state(f->m->vcpus[cpu], &s, &err) < 0)
        fail_msg("%s", err.text);
}

static enum vcpu_exit guest_run(struct fixture *f, unsigned cpu)
{
    struct err err = { 0 };
    enum vcpu_exit exit = f->type->run(f->m->vcpus[cpu], &err);
    if (exit == VCPU_ERROR)
        fail_msg("%s", err.text);
    return exit;
}

static struct arch_state guest_state(struct fixture *f, unsigned cpu)
{
    struct arch_state s;
    struct err err = { 0 };
    if (f->type->get_state(f->m->vcpus[cpu], &s, &err) < 0)
        fail_msg("%s", err.text);
    return s;
}

static void kick_first(struct probe *p)
{
    struct machine *m = p->dev.machine;
    m->engine->type->kick(m->vcpus[0]);
}

/* ---- random valid states ---- */

static uint64_t seed = 1;
static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}
static uint64_t rnd_canonical(void) { return (uint64_t)((int64_t)(rnd() << 16) >> 16); }
static void rnd_fill(void *out, size_t len)
{
    for (size_t i = 0; i < len; i++)
        ((uint8_t *)out)[i] = (uint8_t)rnd();
}

enum mode { MODE_REAL, MODE_PROTECTED, MODE_PAE, MODE_LONG, MODE_COUNT };

static void state_mode(struct arch_state *s, enum mode mode)
{
    static const uint8_t vectors[] = { 0, 1, 4, 5, 6 };
    s->cr0 = 0x10 | (rnd() & 0x6000002e);
    if (s->cr0 & 1 << 29)
        s->cr0 |= 1 << 30;
    if (mode != MODE_REAL)
        s->cr0 |= 1;
    s->cr4 = rnd() & 0x6dc; /* no paging features */
    s->cr3 = rnd() & 0xffffff000;
    s->efer = rnd() & 1 ? 1 : 0;
    for (unsigned i = 0; i <= S_GS; i++) {
        s->seg[i] = (struct x86_segment){ .base = (uint32_t)rnd() & ~0xfu,
                                          .limit = 0xffff,
                                          .selector = (uint16_t)rnd(),
                                          .attr = SEG_P | SEG_S | 3 };
        if (mode != MODE_REAL) {
            s->seg[i].limit = ~0u;
            s->seg[i].selector = 16;
            s->seg[i].attr |= SEG_G | SEG_DB;
        } else {
            s->seg[i].base = (uint32_t)s->seg[i].selector << 4;
        }
    }
    s->seg[S_CS].attr = (uint16_t)((s->seg[S_CS].attr & ~0xf) | (mode == MODE_REAL ? 3 : 0xb));
    s->rip = (uint32_t)rnd() & 0xffff;
    if (mode == MODE_PAE) {
        s->cr0 |= 1u << 31;
        s->cr4 |= 1 << 5;
        for (unsigned i = 0; i < 4; i++)
            s->pdptr[i] = (rnd() & 0xfffffff000) | 1;
    }
    if (mode == MODE_LONG) {
        s->cr0 |= 1u << 31;
        s->cr4 |= 1 << 5;
        s->efer |= 0x500 | (rnd() & 0x800);
        s->seg[S_CS].attr = SEG_P | SEG_S | SEG_L | SEG_G | 0xb;
        s->rip = rnd_canonical();
        s->seg[S_FS].base = rnd_canonical();
        s->seg[S_GS].base = rnd_canonical();
        s->pat = 0;
        for (unsigned i = 0; i < 8; i++)
            s->pat |= (uint64_t)vectors[rnd() % 5] << 8 * i;
    }
    s->seg[S_TR].attr = SEG_P | 0xb;
}

static void state_lapic(struct x86_lapic *l)
{
    l->tpr = rnd() & 0xff;
    l->ldr = (uint32_t)rnd() & 0xff000000;
    l->dfr = rnd() & 1 ? ~0u : 0x0fffffff;
    l->svr = 0x100 | (rnd() & 0xff);
    rnd_fill(l->isr, sizeof l->isr);
    rnd_fill(l->tmr, sizeof l->tmr);
    rnd_fill(l->irr, sizeof l->irr);
    l->isr[0] &= ~0xffffu;
    l->tmr[0] &= ~0xffffu;
    l->irr[0] &= ~0xffffu;
    l->icr = (rnd() & 0xff000000cdfffull) & 0xff000000000ccfffull;
    l->lvt_lint0 = 0x10000 | (rnd() & 0xff);
    l->lvt_lint1 = 0x400;
    l->lvt_error = 0x10000 | (rnd() & 0xff);
    l->timer_divide = rnd() & 0xb;
    switch (rnd() % 4) {
    case 0: /* one-shot, counting */
        l->lvt_timer = 0xe0;
        l->timer_initial = 0x40000000;
        l->timer_deadline_ns = 0x10000000;
        break;
    case 1: /* periodic */
        l->lvt_timer = 0x200e0;
        l->timer_initial = 0x40000000;
        l->timer_deadline_ns = 0x10000000;
        break;
    case 2: /* deadline */
        l->lvt_timer = 0x400e0;
        l->tsc_deadline = 0x100000000000;
        break;
    default: l->lvt_timer = 0x10000;
    }
}

static void state_events(struct arch_state *s)
{
    s->nmi_masked = rnd() & 1;
    s->nmi_pending = rnd() & 1;
    switch (rnd() % 6) {
    case 0: s->activity = X86_HALTED; break;
    case 1: s->activity = X86_WAIT_SIPI; break;
    default: s->activity = X86_RUNNING;
    }
    if (s->activity != X86_RUNNING)
        return;
    s->injected_valid = 1;
    switch (rnd() % 6) {
    case 0: s->injected_type = 0, s->injected_vector = 0x61; break;
    case 1: s->injected_type = 2, s->injected_vector = 2; break;
    case 2: s->injected_type = 3, s->injected_vector = 6; break;
    case 3:
        s->injected_type = 3, s->injected_vector = 14;
        s->injected_has_error = 1, s->injected_error = 3;
        break;
    default: s->injected_valid = 0;
    }
}

static void state_random(struct arch_state *s, enum mode mode)
{
    arch_state_reset(s, 0);
    rnd_fill(s->gpr, sizeof s->gpr);
    s->rflags = 2 | (rnd() & 0x240cd5);
    state_mode(s, mode);
    s->gdtr = (struct x86_table){ (uint32_t)rnd(), (uint16_t)rnd() };
    s->idtr = (struct x86_table){ (uint32_t)rnd(), (uint16_t)rnd() };
    s->cr2 = rnd();
    for (unsigned i = 0; i < 4; i++)
        s->dr[i] = rnd_canonical();
    s->dr6 = 0xffff0ff0 | (rnd() & 0xf);
    s->dr7 = 0x400;
    s->xcr0 = rnd() & 1 ? 3 : 1;
    s->fpu.fcw = 0x340 | (rnd() & 0xc3f);
    s->fpu.fsw = (uint16_t)(rnd() & 0x7f00);
    s->fpu.ftw = (uint8_t)rnd();
    s->fpu.fop = rnd() & 0x7ff;
    s->fpu.fip = rnd();
    s->fpu.fdp = rnd();
    for (unsigned i = 0; i < 8; i++)
        rnd_fill(s->fpu.st[i], 10);
    s->fpu.mxcsr = 0x1f80 | (rnd() & 0x607f);
    rnd_fill(s->fpu.xmm, sizeof s->fpu.xmm);
    s->star = rnd();
    s->lstar = rnd_canonical();
    s->cstar = rnd_canonical();
    s->sfmask = rnd() & 0xffffffff;
    s->kernel_gs_base = rnd_canonical();
    s->tsc_aux = rnd() & 0xffffffff;
    s->sysenter_cs = rnd() & 0xffff;
    s->sysenter_esp = rnd() & 0xffffffff; /* all that AMD's have */
    s->sysenter_eip = rnd() & 0xffffffff;
    s->mtrr_def_type = 0xc06;
    for (unsigned i = 0; i < 11; i++)
        s->mtrr_fixed[i] = 0x0606060600010405;
    for (unsigned i = 0; i < 8; i++) {
        s->mtrr_base[i] = (rnd() & 0xfffffff000) | 6;
        s->mtrr_mask[i] = (rnd() & 0xfffffff000) | 0x800;
    }
    s->tsc_offset = (int64_t)(rnd() & 0xffffffffff);
    state_lapic(&s->lapic);
    s->cr8 = s->lapic.tpr >> 4;
    state_events(s);
}

/* By the table, so that a difference has a name. */
static void states_compare(const struct arch_state *want, const struct arch_state *have,
                           const char *about)
{
    for (const struct state_field *f = arch_state_desc.fields; f->name; f++) {
        const char *x = (const char *)want + f->offset, *y = (const char *)have + f->offset;
        size_t len = f->size * f->count;
        for (size_t i = 0; i < len; i++)
            if (x[i] != y[i]) {
                for (size_t k = 0; k + 8 <= len; k += 8)
                    if (memcmp(x + k, y + k, 8))
                        print_message("  +%zu: %016llx became %016llx\n", k,
                                      *(const unsigned long long *)(const void *)(x + k),
                                      *(const unsigned long long *)(const void *)(y + k));
                fail_msg("%s: %s differs at byte %zu: %#x became %#x", about, f->name, i,
                         (uint8_t)x[i], (uint8_t)y[i]);
            }
    }
}

/* PVM, a KVM on CPUs without virtualization, knows long mode and no paging at all, and no TSC
 * offsets. */
static bool emulated;

static void state_round_trips(void **data)
{
    struct fixture f;
    struct err err = { 0 };
    fixture_make(&f, 1, NULL, "host");
    for (unsigned i = 0; i < 400; i++) {
        struct arch_state want;
        enum mode mode = (enum mode)(i % MODE_COUNT);
        state_random(&want, emulated && mode == MODE_PAE ? MODE_LONG : mode);
        assert_int_equal(arch_state_desc.check(&want, &err), 0);
        if (f.type->set_state(f.m->vcpus[0], &want, &err) < 0)
            fail_msg("state %u: %s", i, err.text);
        struct arch_state have = guest_state(&f, 0);
        /* Derived, not chosen. */
        want.lapic.timer_deadline_ns = have.lapic.timer_deadline_ns;
        char about[32];
        snprintf(about, sizeof about, "state %u", i);
        states_compare(&want, &have, about);
    }
    fixture_free(&f);
}

/* ---- exits, kicks, rendezvous ---- */

/* mov eax, 0x11223344; mov dx, PORT; out dx, eax; in eax, dx; mov [MMIO], eax; 1: jmp 1b */
static const uint8_t io_code[] = { 0xb8, 0x44, 0x33, 0x22, 0x11, 0x66, 0xba, 0x10, 0x05,
                                   0xef, 0xed, 0xa3, 0,    0,    0,    0x10, 0xeb, 0xfe };

static void io_stops_whole(struct probe *p)
{
    if (p->writes == 2)
        kick_first(p);
}

static void io_is_served_and_finished(void **data)
{
    struct fixture f;
    fixture_make(&f, 1, NULL, "host");
    guest_code(&f, 0, io_code, sizeof io_code);
    f.probe->answer = 0x55667788;
    f.probe->on_write = io_stops_whole;
    assert_int_equal(guest_run(&f, 0), VCPU_STOPPED);
    assert_int_equal(f.probe->writes, 2);
    assert_int_equal(f.probe->last_value, 0x55667788);
    struct arch_state s = guest_state(&f, 0);
    assert_int_equal(s.rip, 0x1000 + sizeof io_code - 2); /* behind the store, not at it */

    /* Stopped in the middle of a read, the register already holds the answer. */
    guest_code(&f, 0, io_code, sizeof io_code);
    f.probe->writes = 1;
    assert_int_equal(guest_run(&f, 0), VCPU_STOPPED);
    s = guest_state(&f, 0);
    assert_int_equal(s.rip, 0x100a);
    fixture_free(&f);
}

/* mov eax, [MMIO + 0xffe] (across the end of the page); mov [0x2000], eax; hlt */
static const uint8_t split_code[] = { 0xa1, 0xfe, 0x0f, 0, 0x10, 0xa3, 0, 0x20, 0, 0, 0xf4 };

static void odd_mmio_is_split(void **data)
{
    struct fixture f;
    fixture_make(&f, 1, NULL, "host");
    guest_code(&f, 0, split_code, sizeof split_code);
    f.probe->answer = 0x1122;
    f.type->kick(f.m->vcpus[0]);
    assert_int_equal(guest_run(&f, 0), VCPU_STOPPED); /* a kick before entry is kept */
    struct arch_state s = guest_state(&f, 0);
    assert_int_equal(s.rip, 0x1000);
    fixture_free(&f);
}

struct runner {
    struct fixture *f;
    unsigned cpu;
    enum vcpu_exit exit;
    pthread_t thread;
};

static void *runner_main(void *arg)
{
    struct runner *r = arg;
    r->exit = guest_run(r->f, r->cpu);
    return NULL;
}

static void runner_start(struct runner *r, struct fixture *f, unsigned cpu)
{
    *r = (struct runner){ .f = f, .cpu = cpu };
    assert_int_equal(pthread_create(&r->thread, NULL, runner_main, r), 0);
}

static void runner_stop(struct runner *r)
{
    r->f->type->kick(r->f->m->vcpus[r->cpu]);
    pthread_join(r->thread, NULL);
}

static void sleep_ms(unsigned ms)
{
    nanosleep(&(struct timespec){ .tv_nsec = (long)ms * 1000000 }, NULL);
}

static void kick_reaches_a_halted_guest(void **data)
{
    struct fixture f;
    struct runner r;
    fixture_make(&f, 1, NULL, "host");
    guest_code(&f, 0, "\xfa\xf4\xeb\xfe", 4); /* cli; hlt */
    unsigned halted = 0;
    for (unsigned i = 0; i < 1000 && halted < 20; i++) {
        runner_start(&r, &f, 0);
        if (i % 2)
            sleep_ms(1 + i / 20); /* longer and longer: some hosts need milliseconds to get there */
        runner_stop(&r);
        assert_int_equal(r.exit, VCPU_STOPPED);
        halted += guest_state(&f, 0).activity == X86_HALTED; /* not yet, on a busy host */
    }
    assert_int_equal(halted, 20);
    assert_int_equal(guest_state(&f, 0).rip, 0x1002);
    fixture_free(&f);
}

/* 1: lock inc dword [0x9000]; jmp 1b */
static const uint8_t count_code[] = { 0xf0, 0xff, 0x05, 0, 0x90, 0, 0, 0xeb, 0xf7 };

static uint32_t guest_counter(struct fixture *f)
{
    uint32_t n = 0;
    mem_read(f->m, 0x9000, &n, sizeof n);
    return n;
}

/* Moves it within ten seconds? (A busy host may not run us for a while.) */
static bool guest_moves(struct fixture *f)
{
    uint32_t before = guest_counter(f);
    for (unsigned i = 0; i < 10000 && guest_counter(f) == before; i++)
        sleep_ms(1);
    return guest_counter(f) != before;
}

struct still {
    struct fixture *f;
    unsigned calls;
    bool moved;
};

static void look_twice(void *arg)
{
    struct still *s = arg;
    uint32_t before = guest_counter(s->f);
    sleep_ms(2);
    s->moved = s->moved || guest_counter(s->f) != before;
    s->calls++;
}

static void rendezvous_stops_all(void **data)
{
    struct fixture f;
    struct runner r[2];
    fixture_make(&f, 2, NULL, "host");
    for (unsigned i = 0; i < 2; i++) {
        guest_code(&f, i, count_code, sizeof count_code);
        runner_start(&r[i], &f, i);
    }
    assert_true(guest_moves(&f));
    struct still s = { .f = &f };
    for (unsigned i = 0; i < 10; i++) {
        f.type->rendezvous(f.m->engine, look_twice, &s);
        assert_true(guest_moves(&f)); /* and lets them go again */
    }
    for (unsigned i = 0; i < 2; i++)
        runner_stop(&r[i]);
    assert_int_equal(s.calls, 10);
    assert_false(s.moved);
    fixture_free(&f);
}

static void triple_fault_shuts_down(void **data)
{
    struct fixture f;
    struct err err = { 0 };
    fixture_make(&f, 1, NULL, "host");
    guest_code(&f, 0, "\x0f\x0b", 2); /* ud2 */
    struct arch_state s = guest_state(&f, 0);
    s.idtr.limit = 0;
    assert_int_equal(f.type->set_state(f.m->vcpus[0], &s, &err), 0);
    assert_int_equal(guest_run(&f, 0), VCPU_SHUTDOWN);
    f.type->vcpu_reset(f.m->vcpus[0]);
    s = guest_state(&f, 0);
    assert_int_equal(s.rip, 0xfff0);
    assert_int_equal(s.seg[S_CS].base, 0xffff0000);
    fixture_free(&f);
}

/* ---- memory ---- */

/* mov dword [0xc0000], 0x77; mov eax, [0xc0000]; mov dx, PORT; out dx, eax; jmp $ */
static const uint8_t shadow_code[] = { 0xc7, 0x05, 0,    0,    0x0c, 0,    0x77, 0,
                                       0,    0,    0xa1, 0,    0,    0x0c, 0,    0x66,
                                       0xba, 0x10, 0x05, 0xef, 0xeb, 0xfe };

static void memory_kinds(void **data)
{
    struct fixture f;
    struct err err = { 0 };
    struct mapping *shadow;
    uint32_t value = 0x1234;
    fixture_make(&f, 1, NULL, "host");
    f.probe->on_write = kick_first;

    /* ROM: writes vanish */
    assert_int_equal(map_ram(f.m, SPACE_MEMORY, 0xc0000, 0x4000, REGION_ROM, f.m->main_ram,
                             0x100000, 1, &shadow, &err),
                     0);
    mem_load(f.m, 0x100000, &value, sizeof value);
    guest_code(&f, 0, shadow_code, sizeof shadow_code);
    assert_int_equal(guest_run(&f, 0), VCPU_STOPPED);
    assert_int_equal(f.probe->last_value, 0x1234);

    /* RAM again: they stay */
    map_remove(f.m, shadow);
    guest_code(&f, 0, shadow_code, sizeof shadow_code);
    assert_int_equal(guest_run(&f, 0), VCPU_STOPPED);
    assert_int_equal(f.probe->last_value, 0x77);

    /* ROM whose writes reach the device */
    assert_int_equal(map_rom_trap(f.m, SPACE_MEMORY, 0xc0000, 0x4000, f.m->main_ram, 0x100000,
                                  &f.probe->dev, 7, 1, &shadow, &err),
                     0);
    guest_code(&f, 0, shadow_code, sizeof shadow_code);
    f.probe->writes = 0;
    assert_int_equal(guest_run(&f, 0), VCPU_STOPPED);
    assert_int_equal(f.probe->writes, 1);
    assert_int_equal(f.probe->last_value, 0x77);
    assert_int_equal(guest_state(&f, 0).rip, 0x100a);
    map_remove(f.m, shadow);
    fixture_free(&f);
}

/* Main memory's slot is never taken from under a running guest when shadow memory moves. */
static void slots_change_while_running(void **data)
{
    struct fixture f;
    struct runner r;
    struct err err = { 0 };
    fixture_make(&f, 1, NULL, "host");
    guest_code(&f, 0, count_code, sizeof count_code);
    runner_start(&r, &f, 0);
    for (unsigned i = 0; i < 50; i++) {
        struct mapping *shadow;
        assert_int_equal(map_ram(f.m, SPACE_MEMORY, 0xc4000, 0x8000, REGION_ROM, f.m->main_ram,
                                 0x100000, 1, &shadow, &err),
                         0);
        map_remove(f.m, shadow);
    }
    assert_true(guest_moves(&f));
    runner_stop(&r);
    assert_int_equal(r.exit, VCPU_STOPPED);
    fixture_free(&f);
}

/* mov edi, 0x100000; mov ecx, 16; 1: mov [edi], ecx; add edi, 0x2000; dec ecx; jnz 1b;
 * mov dx, PORT; out dx, eax; jmp $ */
static const uint8_t write_code[] = { 0xbf, 0,    0,    0x10, 0,    0xb9, 16,   0,   0,    0,
                                      0x89, 0x0f, 0x81, 0xc7, 0,    0x20, 0,    0,   0x49, 0x75,
                                      0xf5, 0x66, 0xba, 0x10, 0x05, 0xef, 0xeb, 0xfe };

static void dirty_log_tells_pages(const char *options)
{
    struct fixture f;
    struct err err = { 0 };
    uint64_t bitmap[MEMORY / PAGE_SIZE / 64];
    fixture_make(&f, 1, options, "host");
    f.probe->on_write = kick_first;
    guest_code(&f, 0, write_code, sizeof write_code);
    assert_int_equal(dirty_log_start(f.m, &err), 0);
    assert_int_equal(guest_run(&f, 0), VCPU_STOPPED);
    /* KVM may take a page that is only read for written, when it maps it the first time. */
    assert_in_range(dirty_log_fetch_clear(f.m, f.m->main_ram, bitmap), 16, 18);
    for (unsigned i = 0; i < 16; i++) {
        unsigned page = 0x100 + 2 * i;
        assert_true(bitmap[page / 64] >> page % 64 & 1);
    }
    assert_int_equal(dirty_log_fetch_clear(f.m, f.m->main_ram, bitmap), 0);
    guest_code(&f, 0, write_code,
               sizeof write_code); /* and again after a clear; the code's own page */
    assert_int_equal(guest_run(&f, 0), VCPU_STOPPED);
    assert_in_range(dirty_log_fetch_clear(f.m, f.m->main_ram, bitmap), 17, 18);
    dirty_log_stop(f.m);
    fixture_free(&f);
}
static void dirty_log_by_ring(void **data) { dirty_log_tells_pages("dirty-log=ring"); }
static void dirty_log_by_bitmap(void **data) { dirty_log_tells_pages(NULL); }

/* ---- time ---- */

static void time_stands_still(void **data)
{
    struct fixture f;
    struct err err = { 0 };
    fixture_make(&f, 1, NULL, "host");
    struct arch_state s;
    arch_state_reset(&s, 0);
    s.lapic.svr = 0x1ff;
    s.lapic.lvt_timer = 0xe0;
    s.lapic.timer_divide = 0xb; /* by 1 */
    s.lapic.timer_initial = 0x40000000;
    s.lapic.timer_deadline_ns = 0x3fff0000;
    s.tsc_offset = 12345;
    assert_int_equal(f.type->set_state(f.m->vcpus[0], &s, &err), 0);
    for (unsigned i = 0; i < 20; i++) {
        clock_start(f.m);
        clock_stop(f.m);
        sleep_ms(2);
    }
    struct arch_state now = guest_state(&f, 0);
    assert_int_equal(now.lapic.timer_initial, s.lapic.timer_initial);
    /* 20 starts cost some microseconds each, 40 ms of standing cost nothing. */
    int64_t slip = (int64_t)(now.lapic.timer_deadline_ns - s.lapic.timer_deadline_ns);
    assert_true(slip > -10000000 && slip < 10000000);
    int64_t tsc_slip_ns = (now.tsc_offset - s.tsc_offset) * 1000000 / (int64_t)f.m->tsc_khz;
    assert_true(emulated || (tsc_slip_ns > -10000000 && tsc_slip_ns < 10000000));
    fixture_free(&f);
}

/* ---- the debugger ---- */

/* A run that ends by itself, or after ten seconds. */
static enum vcpu_exit guest_run_limited(struct fixture *f)
{
    struct runner r;
    struct timespec limit;
    runner_start(&r, f, 0);
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 10;
    if (pthread_timedjoin_np(r.thread, NULL, &limit))
        runner_stop(&r);
    return r.exit;
}

static void steps_one_instruction(void **data)
{
    struct fixture f;
    struct err err = { 0 };
    fixture_make(&f, 1, NULL, "host");
    guest_code(&f, 0, io_code, sizeof io_code);
    /* Not over the OUT: KVM's emulator loses a step that leaves it. */
    static const uint16_t boundaries[] = { 0x1005, 0x1009 };
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(f.type->debug(f.m->vcpus[0], NULL, 0, true, &err), 0);
        assert_int_equal(guest_run_limited(&f), VCPU_DEBUG);
        assert_true(f.m->vcpus[0]->debug_hit.step);
        assert_int_equal(guest_state(&f, 0).rip, boundaries[i]);
    }
    fixture_free(&f);
}

static void breakpoints_stop(void **data)
{
    struct fixture f;
    struct err err = { 0 };
    if (getenv("BEDPLATE_TEST_NO_BREAKPOINTS")) {
        print_message("skipped: this CPU's breakpoints do not work in guests\n");
        return;
    }
    fixture_make(&f, 1, NULL, "host");
    guest_code(&f, 0, io_code, sizeof io_code);
    struct debug_point point = { .gva = 0x100a, .kind = DEBUG_EXEC, .len = 1 };
    assert_int_equal(f.type->debug(f.m->vcpus[0], &point, 1, false, &err), 0);
    assert_int_equal(guest_run_limited(&f), VCPU_DEBUG);
    assert_int_equal(f.m->vcpus[0]->debug_hit.point, 0);
    assert_int_equal(guest_state(&f, 0).rip, 0x100a);

    /* Set again where the guest stands, it does not hit again; KVM's emulator ignores RF. */
    if (emulated) {
        fixture_free(&f);
        return;
    }
    f.probe->on_write = kick_first;
    assert_int_equal(f.type->debug(f.m->vcpus[0], &point, 1, false, &err), 0);
    assert_int_equal(guest_run_limited(&f), VCPU_STOPPED);
    assert_int_equal(guest_state(&f, 0).rip, 0x1010);
    fixture_free(&f);
}

static void translation_walks_the_tables(void **data)
{
    struct fixture f;
    struct err err = { 0 };
    fixture_make(&f, 1, NULL, "host");
    const uint64_t pml4 = 0x101003, pdpt = 0x102003, pd[2] = { 0x103003, 0x200083 }, pt = 0x345003;
    mem_load(f.m, 0x100000, &pml4, 8);
    mem_load(f.m, 0x101000, &pdpt, 8);
    mem_load(f.m, 0x102000, pd, 16);
    mem_load(f.m, 0x103000, &pt, 8);
    struct arch_state s;
    arch_state_reset(&s, 0);
    s.cr0 = 0x80000011;
    s.cr3 = 0x100000;
    s.cr4 = 0x20;
    s.efer = 0x500;
    s.seg[S_CS].attr = SEG_P | SEG_S | SEG_L | 0xb;
    assert_int_equal(f.type->set_state(f.m->vcpus[0], &s, &err), 0);
    uint64_t gpa = 0;
    assert_int_equal(f.type->translate(f.m->vcpus[0], 0x123, &gpa), 0);
    assert_int_equal(gpa, 0x345123);
    assert_int_equal(f.type->translate(f.m->vcpus[0], 0x212345, &gpa), 0);
    assert_int_equal(gpa, 0x212345);
    assert_int_equal(f.type->translate(f.m->vcpus[0], 0x1000, &gpa), -EFAULT);
    assert_int_equal(f.type->translate(f.m->vcpus[0], 0x1000000000000, &gpa), -EFAULT);
    fixture_free(&f);
}

static int has_kvm(void)
{
    struct err err = { 0 };
    if (engine_kvm.probe(&emulated, &err) < 0) {
        printf("skipped: %s\n", err.text);
        return 0;
    }
    if (emulated)
        printf("this KVM emulates: without PAE and TSC offsets\n");
    return 1;
}

int main(void)
{
    if (!has_kvm())
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(state_round_trips),    cmocka_unit_test(io_is_served_and_finished),
        cmocka_unit_test(odd_mmio_is_split),    cmocka_unit_test(kick_reaches_a_halted_guest),
        cmocka_unit_test(rendezvous_stops_all), cmocka_unit_test(triple_fault_shuts_down),
        cmocka_unit_test(memory_kinds),         cmocka_unit_test(slots_change_while_running),
        cmocka_unit_test(dirty_log_by_ring),    cmocka_unit_test(dirty_log_by_bitmap),
        cmocka_unit_test(time_stands_still),    cmocka_unit_test(steps_one_instruction),
        cmocka_unit_test(breakpoints_stop),     cmocka_unit_test(translation_walks_the_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
