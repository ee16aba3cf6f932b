/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The bare machine of the test guests (guest.inc describes it from the inside). Main thread only.
 */
#ifndef GUESTS_MACHINE_H
#define GUESTS_MACHINE_H

#include "engine/x86.h"
#include "machine/machine.h"

enum { GUEST_MEMORY = 16 << 20, GUEST_LOAD = 0x1000, GUEST_SKIP = 0xffff };

struct guest {
    char name[64];
    uint8_t mode, cpus;
    uint16_t needs;
    uint8_t image[0xd000];
    size_t len;
};

struct answer {
    bool given;    /* the guest wrote its answer */
    uint32_t code; /* that; or what a triple fault counts as */
    bool triple_fault;
    uint32_t notes[16];
    unsigned note_count;
    char error[480]; /* the engine's */
};

struct guests_machine {
    struct loop *loop;
    struct machine *m;
    struct device *device;
    struct mapping *ram, *port;
    struct irq_chip pic; /* whose only interrupt is ASK_EXTINT; it hears of EOIs, too */
    _Atomic bool pic_pending;
    _Atomic unsigned eois;
    struct answer answer;
};

/* false and a line on stderr when the file is no guest. */
bool guest_load(const char *path, struct guest *out);

/* A machine of this engine with the guest loaded, its vCPU at the start. Exits when it cannot. */
void guests_machine_open(struct guests_machine *gm, const struct guest *g,
                         const struct engine_type *engine, const char *options,
                         const struct cpu_model *model);
void guests_machine_close(struct guests_machine *gm);
/* Runs the machine's loop until an answer or the deadline (CLOCK_MONOTONIC); false: the latter. */
bool guests_machine_wait(struct guests_machine *gm, uint64_t deadline_ns);

/* All of it; false: no answer within so many seconds of CPU time, or five times as many on the
 * clock. */
bool guest_run(const struct guest *g, const struct engine_type *engine, const char *options,
               unsigned seconds, struct answer *out);
void answer_print(const struct answer *a, bool ended);

#endif
