/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs the small guests of this folder on a bare machine:
 *
 *   guests_run --engine soft|kvm[,OPTIONS] FILE...
 *
 * RAM at 0, the answer device on a port (guest.inc), the tables that guest.inc names, nothing else.
 * On an engine that emulates kernel code slowly and with gaps (KVM without hardware
 * virtualization), a guest is skipped by name when the guest need_... of one of its needs fails
 * there; everywhere else those are tests like all others.
 */
#include "engine/kvm/engine.h"
#include "engine/soft/engine.h"
#include "guest.inc"
#include "guests_machine.h"

#include <stdio.h>
#include <string.h>

/* Even the poorest KVM runs SLOW_MIN guests; with fewer something else is wrong. */
enum { FILES_MAX = 128, SKIPPED = 77, SLOW_MIN = 8 };

/* In the order of guest.inc's bits. */
static const char *const need_names[] = { "sse",      "int3",         "legacy_paging", "cmpxchg16b",
                                          "syscall",  "xsave",        "tss",           "debug",
                                          "shutdown", "double_fault", "control",       "exact",
                                          "real" };
enum { NEEDS = sizeof need_names / sizeof *need_names };

struct suite {
    const struct engine_type *engine;
    const char *options; /* the engine's; NULL: none */
    bool slow;
    struct guest guests[FILES_MAX];
    unsigned count;
    int need_state[NEEDS]; /* 0 unknown, 1 there, -1 missing */
    unsigned passed, failed, skipped;
};

static struct guest *suite_find(struct suite *s, const char *name)
{
    for (unsigned i = 0; i < s->count; i++)
        if (!strcmp(s->guests[i].name, name))
            return &s->guests[i];
    return NULL;
}

static bool need_met(struct suite *s, unsigned need)
{
    if (s->need_state[need])
        return s->need_state[need] > 0;
    char name[64];
    snprintf(name, sizeof name, "need_%s", need_names[need]);
    struct guest *g = suite_find(s, name);
    struct answer a = { 0 };
    bool met = g && guest_run(g, s->engine, s->options, 2, &a) && a.code == 0;
    s->need_state[need] = met ? 1 : -1;
    return met;
}

/* What keeps this guest from running here? NULL: nothing. */
static const char *guest_lacks(struct suite *s, const struct guest *g)
{
    for (unsigned i = 0; s->slow && i < NEEDS; i++)
        if (g->needs >> i & 1 && !need_met(s, i))
            return need_names[i];
    return NULL;
}

static void suite_run(struct suite *s, struct guest *g)
{
    struct answer a = { 0 };
    const char *lacks = guest_lacks(s, g);
    if (lacks) {
        printf("skipped  %s: this KVM emulates without %s\n", g->name, lacks);
        s->skipped++;
        return;
    }
    bool ended = guest_run(g, s->engine, s->options, 30, &a);
    if (g->needs & EXPECT_SHUTDOWN && a.triple_fault)
        a.code = 0;
    if (ended && a.code == GUEST_SKIP && s->engine == &engine_kvm) {
        printf("skipped  %s: not a feature of this CPU\n", g->name);
        s->skipped++;
    } else if (ended && a.code == 0) {
        printf("passed   %s\n", g->name);
        s->passed++;
    } else {
        printf("FAILED   %s: ", g->name);
        answer_print(&a, ended);
        s->failed++;
    }
    fflush(stdout);
}

static int usage(void)
{
    fprintf(stderr, "usage: guests_run --engine soft|kvm[,OPTIONS] FILE...\n");
    return 2;
}

int main(int argc, char **argv)
{
    static struct suite s;
    struct err err = { 0 };
    if (argc < 4 || strcmp(argv[1], "--engine") || argc - 3 > FILES_MAX)
        return usage();
    const char *comma = strchr(argv[2], ',');
    s.engine = strncmp(argv[2], "kvm", 3) ? &engine_soft : &engine_kvm;
    s.options = comma ? comma + 1 : NULL;
    if (s.engine->probe(&s.slow, &err) < 0) {
        printf("skip: %s\n", err.text);
        return SKIPPED;
    }
    for (int i = 3; i < argc; i++)
        if (!guest_load(argv[i], &s.guests[s.count++]))
            return 2;
    for (unsigned i = 0; i < s.count; i++)
        if (!s.slow || strncmp(s.guests[i].name, "need_", 5))
            suite_run(&s, &s.guests[i]);
    printf("%u passed, %u failed, %u skipped\n", s.passed, s.failed, s.skipped);
    return s.failed || s.passed < (s.slow ? SLOW_MIN : 1) ? 1 : 0;
}
