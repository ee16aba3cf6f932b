/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest with several vCPUs on the soft engine, in conditions that its protocols have
 * to stand:
 *
 *   litmus_run flush OPTIONS FILE   a code cache that is flushed all the time (code=SIZE)
 *   litmus_run grow OPTIONS FILE    a code cache that may grow (code=SIZE-MOST), and is not flushed
 *                                   all the time then
 *   litmus_run storm OPTIONS FILE   dirty log rounds, rendezvous, pauses and state read and
 *                                   written back, one after the other, while it runs
 *   litmus_run loop OPTIONS FILE    nothing else: the guest changes what another vCPU runs
 *   litmus_run deaf OPTIONS FILE    the same, but nobody is asked to leave a loop that has changed:
 *                                   the guest must hang, and go on when they are asked after all
 *   litmus_run patch OPTIONS FILE   nothing else: the guest changes code all the time; counts
 *                                   the work that makes
 *
 * The guest checks its sums; the verifier reads each cache before it is forgotten.
 */
#include "base/checked.h"
#include "engine/soft/engine.h"
#include "engine/soft/run.h"
#include "guests/guests_machine.h"
#include "verify.h"

#include <stdio.h>
#include <string.h>

enum {
    FLUSHES_MIN = 100,
    FLUSHES_GROWN_MAX = 20,
    ROUNDS_MIN = 50,
    LIMIT_SECONDS = 120,
    HANG_SECONDS = 3,
    GUEST_ROUNDS = 0x100100,
    LOOPS_MIN = 120,
    PATCHES = 60000, /* of smp_patch.S */
    TRANSLATED_MAX = 2000,
    HALTS_MAX = 8,
};

/* ---- The requests that "deaf" keeps back ---- */

static _Atomic bool deaf;
void __real_vcpu_request(struct soft_vcpu *v, uint32_t requests);
void __wrap_vcpu_request(struct soft_vcpu *v, uint32_t requests);
void __wrap_vcpu_request(struct soft_vcpu *v, uint32_t requests)
{
    if (atomic_load(&deaf))
        requests &= ~(uint32_t)REQ_SAFE_POINT;
    __real_vcpu_request(v, requests);
}

/* The guest comes no further until this asks for what was kept back. */
static bool hear_again(struct guests_machine *gm)
{
    const _Atomic uint32_t *at = (_Atomic uint32_t *)(void *)(gm->m->main_ram->hva + GUEST_ROUNDS);
    uint32_t before = ~0u, now = 0;
    bool answered = false;
    for (unsigned n = 0; !answered && n < HANG_SECONDS && now != before; n++) {
        before = now;
        answered = guests_machine_wait(gm, monotonic_ns() + HANG_SECONDS * 1000000000ull);
        now = atomic_load(at);
    }
    atomic_store(&deaf, false);
    for (unsigned i = 0; i < gm->m->cpus; i++)
        vcpu_request(soft_vcpu_of(gm->m->vcpus[i]), REQ_SAFE_POINT);
    bool hung = !answered && now == before;
    printf("%s in round %u, ", hung ? "hangs" : "does not hang", now);
    return hung;
}

/* ---- The runs ---- */

static uint64_t flushes, limit, halts, decoded;
static void counter_add(void *arg, const char *name, uint64_t value)
{
    (void)arg;
    if (!strcmp(name, "soft_code_flushes_total") || !strcmp(name, "soft_code_cold_drops_total"))
        flushes += value;
    if (!strcmp(name, "soft_code_limit"))
        limit = value;
    if (!strcmp(name, "soft_halts_total"))
        halts = value;
    if (!strcmp(name, "soft_blocks_decoded_total"))
        decoded = value;
}

static void nothing(void *arg) { ++*(unsigned *)arg; }

static int state_renew(struct machine *m)
{
    struct err err = { 0 };
    for (unsigned i = 0; i < m->cpus; i++) {
        static struct arch_state s;
        if (m->engine->type->get_state(m->vcpus[i], &s, &err) < 0 ||
            m->engine->type->set_state(m->vcpus[i], &s, &err) < 0) {
            printf("vcpu %u: %s\n", i, err.text);
            return -1;
        }
    }
    return 0;
}

/* One of the things that happen to a running guest; false when it failed. */
static bool trouble(struct guests_machine *gm, unsigned round)
{
    static uint64_t bitmap[GUEST_MEMORY / PAGE_SIZE / 64];
    unsigned ran = 0;
    switch (round % 4) {
    case 0: dirty_log_fetch_clear(gm->m, gm->m->main_ram, bitmap); return true;
    case 1: gm->m->engine->type->rendezvous(gm->m->engine, nothing, &ran); return ran == 1;
    case 2: gm->m->engine->type->map_changed(gm->m->engine); return true;
    default:
        machine_pause(gm->m);
        if (state_renew(gm->m) < 0)
            return false;
        machine_resume(gm->m);
        return true;
    }
}

static bool run(struct guests_machine *gm, const char *how)
{
    struct err err = { 0 };
    uint64_t deadline = monotonic_ns() + LIMIT_SECONDS * 1000000000ull;
    unsigned rounds = 0;
    bool fine = true, answered = false, storm = !strcmp(how, "storm");
    atomic_store(&deaf, !strcmp(how, "deaf"));
    gm->m->engine->type->counters(gm->m->engine, counter_add, NULL);
    const uint64_t before = limit;
    machine_start(gm->m);
    if (atomic_load(&deaf))
        fine = hear_again(gm);
    if (!storm) {
        answered = guests_machine_wait(gm, deadline);
    } else if (dirty_log_start(gm->m, &err) < 0) {
        printf("%s\n", err.text);
        fine = false;
    }
    for (; storm && fine && !answered && monotonic_ns() < deadline; rounds++) {
        answered = guests_machine_wait(gm, monotonic_ns() + rounds % 5 * 200000);
        fine = answered || trouble(gm, rounds);
    }
    machine_pause(gm->m);
    gm->m->engine->type->counters(gm->m->engine, counter_add, NULL);
    uint64_t translated = soft_engine_of(soft_vcpu_of(gm->m->vcpus[0]))->code.jit.blocks;
    printf(
        "%u rounds, %llu flushes, limit %lluK, %llu halts, %llu blocks decoded, %llu translated: ",
        rounds, (unsigned long long)flushes, (unsigned long long)limit >> 10,
        (unsigned long long)halts, (unsigned long long)decoded, (unsigned long long)translated);
    answer_print(&gm->answer, answered);
    return fine && answered && gm->answer.given && !gm->answer.code &&
           (!storm || rounds >= ROUNDS_MIN) && (strcmp(how, "flush") || flushes >= FLUSHES_MIN) &&
           (strcmp(how, "grow") || (limit > before && flushes <= FLUSHES_GROWN_MAX)) &&
           (strcmp(how, "loop") || translated >= LOOPS_MIN) &&
           (strcmp(how, "patch") ||
            (decoded >= PATCHES && translated <= TRANSLATED_MAX && halts <= HALTS_MAX));
}

int main(int argc, char **argv)
{
    static struct guest g;
    static struct guests_machine gm;
    if (argc != 4 || !guest_load(argv[3], &g)) {
        fprintf(stderr, "usage: litmus_run flush|grow|storm|loop|deaf|patch OPTIONS FILE\n");
        return 2;
    }
    if (strcmp(argv[1], "grow")) /* reading the cache takes longer than filling it */
        jit_inspect = verify_or_die;
    guests_machine_open(&gm, &g, &engine_soft, argv[2], cpu_model_find("x86-64-v2"));
    bool right = run(&gm, argv[1]);
    guests_machine_close(&gm);
    verify_print_total();
    printf("%s\n", right ? "passed" : "FAILED");
    return right ? 0 : 1;
}
