/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The bare machine of the test guests. */
#include "guests_machine.h"

#include "base/checked.h"
#include "guest.inc"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    PML4 = 0x70000,
    PDPT = 0x71000,
    PD = 0x72000,
    PT = 0x73000,
    IDT = 0x7e000,
    GDT = 0x7f000,
    TSS = 0x7f800,
    HEADER = 0x40,
    LEVEL = 1 << 15, /* in a message's data */
    ASSERT = 1 << 14,
};

/* ---- loading ---- */

bool guest_load(const char *path, struct guest *out)
{
    AUTO(file_close) FILE *f = fopen(path, "rb");
    size_t len = f ? fread(out->image, 1, sizeof out->image, f) : 0;
    if (len <= HEADER || len == sizeof out->image || memcmp(out->image, "BPGUEST1", 8)) {
        fprintf(stderr, "guests: %s is no guest\n", path);
        return false;
    }
    const char *base = strrchr(path, '/');
    snprintf(out->name, sizeof out->name, "%s", base ? base + 1 : path);
    char *dot = strchr(out->name, '.');
    if (dot)
        *dot = 0;
    out->mode = out->image[8];
    out->cpus = out->image[9];
    memcpy(&out->needs, out->image + 10, sizeof out->needs);
    out->len = len;
    return true;
}

/* ---- the answer device ---- */

struct answer_device {
    struct device dev;
    struct guests_machine *gm;
};

static void ask(struct guests_machine *gm, uint32_t what)
{
    struct machine *m = gm->m;
    switch (what) {
    case ASK_MSI: msi_send(m, 0xfee00000, 0x61); break;
    case ASK_NMI: m->engine->type->nmi(m->vcpus[0]); break;
    case ASK_EXTINT:
        gm->pic_pending = true;
        extint_set(m, true);
        break;
    case ASK_LEVEL:
        irq_eoi_watch(m, 5, 0xfee00000, 0x63, true, false);
        msi_send(m, 0xfee00000, LEVEL | ASSERT | 0x63);
        break;
    }
}

static void answer_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                         uint64_t value)
{
    struct guests_machine *gm = ((struct answer_device *)dev)->gm;
    switch (offset) {
    case PORT_EXIT - PORT_EXIT:
        if (!gm->answer.given)
            gm->answer.code = (uint32_t)value;
        gm->answer.given = true;
        loop_stop(gm->loop, 1);
        break;
    case PORT_NOTE - PORT_EXIT:
        if (gm->answer.note_count < ARRAY_LEN(gm->answer.notes))
            gm->answer.notes[gm->answer.note_count++] = (uint32_t)value;
        break;
    case PORT_ASK - PORT_EXIT: ask(gm, (uint32_t)value); break;
    }
}

static uint64_t answer_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    return offset == PORT_ASK - PORT_EXIT ? ((struct answer_device *)dev)->gm->eois : 0;
}

static void answer_destroy(struct device *dev)
{
    device_fini(dev);
    free(dev);
}

static const struct device_type answer_type = {
    .name = "answer",
    .threads = DEVICE_LOCKED,
    .destroy = answer_destroy,
    .read = answer_read,
    .write = answer_write,
};

static void pic_set(struct irq_chip *chip, unsigned gsi, bool level) {}

static void pic_eoi(struct irq_chip *chip, uint8_t vector)
{
    struct guests_machine *gm = CONTAINER_OF(chip, struct guests_machine, pic);
    gm->eois += vector == 0x63;
}

static int pic_ack(struct irq_chip *chip)
{
    struct guests_machine *gm = CONTAINER_OF(chip, struct guests_machine, pic);
    if (!atomic_exchange(&gm->pic_pending, false))
        return -1;
    extint_set(gm->m, false);
    return 0x62;
}

static void event_arrived(void *arg, enum machine_event event, unsigned vcpu, const char *detail)
{
    struct guests_machine *gm = arg;
    if (event == MACHINE_TRIPLE_FAULT)
        gm->answer.triple_fault = true;
    else
        snprintf(gm->answer.error, sizeof gm->answer.error, "%s", detail ? detail : "an event");
    gm->answer.code = event == MACHINE_TRIPLE_FAULT ? 0x7fffffff : 0x7ffffffe;
    loop_stop(gm->loop, 1);
}

/* ---- tables and registers ---- */

static uint64_t descriptor(uint32_t base, uint32_t limit, uint16_t attr)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
           (uint64_t)((attr & 0xff) | (attr & 0xf00) << 4 | (limit >> 16 & 0xf) << 8) << 40 |
           (uint64_t)(base >> 24) << 56;
}

static void memory_fill(struct guests_machine *gm, const struct guest *g)
{
    struct machine *m = gm->m;
    uint64_t table[512] = { PDPT | 3 };
    mem_load(m, PML4, table, sizeof table);
    table[0] = PD | 3;
    mem_load(m, PDPT, table, sizeof table);
    for (uint64_t i = 0; i < 512; i++)
        table[i] = i ? i << 21 | 0x83 : PT | 3;
    mem_load(m, PD, table, sizeof table);
    for (uint64_t i = 0; i < 512; i++)
        table[i] = i << 12 | 3;
    mem_load(m, PT, table, sizeof table);

    const uint64_t gdt[] = {
        0,
        descriptor(0, 0xfffff, 0xa9b),
        descriptor(0, 0xfffff, 0xc93),
        descriptor(0, 0xfffff, 0xc9b),
        descriptor(0, 0xffff, 0x09b),
        descriptor(0, 0xffff, 0x093),
        descriptor(0, 0xfffff, 0xcfb),
        descriptor(0, 0xfffff, 0xcf3),
        descriptor(0, 0xfffff, 0xafb),
        descriptor(TSS, 0x67, 0x08b),
        0,
    };
    mem_load(m, GDT, gdt, sizeof gdt);
    const uint64_t rsp0 = 0x6f000, ist1 = 0x6e000;
    mem_load(m, TSS + 4, &rsp0, 8);
    mem_load(m, TSS + 0x24, &ist1, 8);
    mem_load(m, GUEST_LOAD, g->image, g->len);
}

static void segments_fill(struct arch_state *s, uint8_t mode)
{
    uint16_t data = mode == REAL ? SEG_P | SEG_S | 3 : SEG_P | SEG_S | SEG_DB | SEG_G | 3;
    for (unsigned i = 0; i <= S_GS; i++)
        s->seg[i] = (struct x86_segment){ .limit = mode == REAL ? 0xffff : ~0u,
                                          .selector = mode == REAL ? 0 : SEL_DATA,
                                          .attr = data };
    if (mode != REAL) {
        s->seg[S_CS].selector = mode == LONG ? SEL_CODE64 : SEL_CODE32;
        s->seg[S_CS].attr =
            (uint16_t)(SEG_P | SEG_S | SEG_G | (mode == LONG ? SEG_L : SEG_DB) | 0xb);
        s->seg[S_TR] = (struct x86_segment){
            .base = TSS, .limit = 0x67, .selector = SEL_TSS, .attr = SEG_P | 0xb
        };
        s->gdtr = (struct x86_table){ GDT, 0x57 };
        s->idtr = (struct x86_table){ IDT, mode == LONG ? 0xfff : 0x7ff };
    } else {
        s->idtr = (struct x86_table){ 0, 0x3ff };
    }
}

static void registers_fill(struct guests_machine *gm, uint8_t mode)
{
    struct arch_state s;
    struct err err = { 0 };
    arch_state_reset(&s, 0);
    s.rip = GUEST_LOAD + HEADER;
    s.gpr[R_SP] = mode == REAL ? 0xfff0 : 0x6d000;
    s.cr0 = 0x30 | (mode != REAL ? 1 : 0);
    segments_fill(&s, mode);
    if (mode == LONG) {
        s.cr0 |= 1u << 31;
        s.cr4 = 0x20;
        s.cr3 = PML4;
        s.efer = 0x500;
    }
    if (gm->m->engine->type->set_state(gm->m->vcpus[0], &s, &err) < 0) {
        fprintf(stderr, "guests: %s\n", err.text);
        exit(1);
    }
}

/* ---- the machine ---- */

static void fail_if(int r, const struct err *err)
{
    if (r == 0)
        return;
    fprintf(stderr, "guests: %s\n", err->text);
    exit(1);
}

void guests_machine_open(struct guests_machine *gm, const struct guest *g,
                         const struct engine_type *engine, const char *options,
                         const struct cpu_model *model)
{
    struct err err = { 0 };
    *gm = (struct guests_machine){ .pic = { .set = pic_set, .eoi = pic_eoi, .ack = pic_ack } };
    fail_if(loop_create(&gm->loop, &err), &err);
    struct machine_config config = {
        .engine = engine,
        .engine_config = { .max_vcpus = g->cpus, .model = model, .options = options },
        .cpus = g->cpus,
        .memory = GUEST_MEMORY,
        .loop = gm->loop,
        .on_event = event_arrived,
        .arg = gm,
    };
    fail_if(machine_create(&config, &gm->m, &err), &err);
    struct answer_device *device = calloc(1, sizeof *device);
    if (!device)
        abort();
    device_init(&device->dev, gm->m, &answer_type, "answer");
    device->gm = gm;
    gm->device = &device->dev;
    machine_add_device(gm->m, gm->device);
    irq_chip_add(gm->m, &gm->pic);
    fail_if(map_ram(gm->m, SPACE_MEMORY, 0, GUEST_MEMORY, REGION_RAM, gm->m->main_ram, 0, 0,
                    &gm->ram, &err),
            &err);
    fail_if(map_device(gm->m, SPACE_IO, PORT_EXIT, 0x10, gm->device, 0, 0, &gm->port, &err), &err);
    memory_fill(gm, g);
    registers_fill(gm, g->mode);
}

void guests_machine_close(struct guests_machine *gm)
{
    machine_stop(gm->m);
    irq_chip_remove(gm->m, &gm->pic);
    machine_destroy(gm->m);
    loop_destroy(gm->loop);
}

static void deadline_passed(void *arg) { loop_stop(arg, 0); }

bool guests_machine_wait(struct guests_machine *gm, uint64_t deadline_ns)
{
    struct err err = { 0 };
    struct loop_timer *timer;
    fail_if(loop_timer_create(gm->loop, deadline_passed, gm->loop, &timer, &err), &err);
    loop_timer_arm(timer, deadline_ns);
    int status = loop_run(gm->loop);
    loop_timer_destroy(timer);
    return status == 1;
}

/* How long all threads of this process have run. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Time counts while the guest runs, and not while the host is busy with others; a guest that sleeps
 * has some more. */
static bool wait_for_answer(struct guests_machine *gm, uint64_t ns)
{
    enum { ASLEEP = 5, PART_NS = 200000000 };
    const uint64_t cpu = cpu_ns(), begin = monotonic_ns();
    bool ended = false;
    while (!ended && cpu_ns() - cpu < ns && monotonic_ns() - begin < ASLEEP * ns)
        ended = guests_machine_wait(gm, monotonic_ns() + PART_NS);
    return ended;
}

bool guest_run(const struct guest *g, const struct engine_type *engine, const char *options,
               unsigned seconds, struct answer *out)
{
    struct guests_machine gm;
    bool kvm = !strcmp(engine->name, "kvm");
    guests_machine_open(&gm, g, engine, options, cpu_model_find(kvm ? "host" : "x86-64-v2"));
    machine_start(gm.m);
    bool ended = wait_for_answer(&gm, seconds * 1000000000ull);
    machine_pause(gm.m);
    if (!ended) {
        struct arch_state s;
        struct err err = { 0 };
        if (engine->get_state(gm.m->vcpus[0], &s, &err) == 0)
            gm.answer.notes[gm.answer.note_count++ % ARRAY_LEN(gm.answer.notes)] = (uint32_t)s.rip;
    }
    *out = gm.answer;
    guests_machine_close(&gm);
    return ended;
}

void answer_print(const struct answer *a, bool ended)
{
    if (!ended)
        printf("no answer in time");
    else if (a->triple_fault)
        printf("triple fault");
    else if (!a->given)
        printf("%s", a->error);
    else if (a->code & 0x80000000)
        printf("exception %u", a->code & 0xff);
    else if (!a->code)
        printf("the right answer");
    else
        printf("wrong at line %u", a->code);
    for (unsigned i = 0; i < a->note_count && i < ARRAY_LEN(a->notes); i++)
        printf(" %#x", a->notes[i]);
    printf("\n");
}
