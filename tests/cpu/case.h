/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The CPU against the CPU: a case is a few instructions and a state; it is run by the host's CPU
 * and by the soft engine, and the two outcomes must be equal.
 *
 * Both give it the same linear addresses: code (not writable), two pages of data, one read-only
 * page, one page of stack, nothing else below 4 GiB. A case ends with its first exception, at the
 * latest with the INT3 behind its last instruction.
 */
#ifndef TESTS_CPU_CASE_H
#define TESTS_CPU_CASE_H

/* Not engine/soft/insn.h: <ucontext.h> has the same names for registers. */
#include "engine/x86.h"

#include <stdatomic.h>

struct insn_row;

enum {
    CODE_VA = 0x10000000,
    CODE_SIZE = 0x2000,
    DATA_VA = 0x20000000,
    DATA_SIZE = 0x2000, /* writable; one read-only page follows */
    READONLY_SIZE = 0x1000,
    STACK_VA = 0x30000000,
    STACK_SIZE = 0x1000,
    MEMORY_SIZE = DATA_SIZE + READONLY_SIZE + STACK_SIZE, /* as case and outcome hold it */
    FS_BASE = DATA_VA + 0x800,
    GS_BASE = DATA_VA + 0x1000,
    INSNS_MAX = 8,
    CODE_MAX = 15 * INSNS_MAX + 1,
};

/* Selectors, on Linux and in the guest */
enum {
    SEL_USER32 = 0x23,
    SEL_DATA = 0x2b,
    SEL_USER64 = 0x33,
    SEL_CODE16 = 0x07,
    SEL_DATA16 = 0x0f,
    SEL_EXTRA16 = 0x17,
    SEL_STACK16 = 0x1f, /* in the LDT */
    EXTRA16_BASE = DATA_VA + 0x800,
    EXTRA16_LIMIT = 0xfff,
};

struct regs {
    uint64_t gpr[16], rip, rflags;
    uint16_t cs, ss, ds, es;
    uint8_t fx[512] __attribute__((aligned(16))); /* as FXSAVE64 has it */
    uint8_t ymm_high[16][16];
};

struct cpu_case {
    int mode;            /* MODE_* */
    unsigned offset;     /* of the first byte in the code pages */
    unsigned len, count; /* bytes, without the INT3; instructions */
    uint8_t code[CODE_MAX];
    uint8_t start[INSNS_MAX + 1];
    uint16_t row[INSNS_MAX];
    uint16_t undefined; /* flags without a defined value at the end */
    struct regs in;
    uint8_t memory[MEMORY_SIZE];
};

struct outcome {
    bool hang; /* did not end, or made a system call: nothing else is valid */
    uint8_t vector;
    uint32_t error;
    uint64_t cr2;
    struct regs out;
    uint8_t memory[MEMORY_SIZE];
};

/* random.c: one stream, from the seed */
extern uint64_t random_state;
extern uint32_t random_attr; /* AT_*: most instructions have one of these, or 0 */
static inline uint64_t random64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1d;
}
static inline unsigned random_below(unsigned n) { return (random64() >> 33) % n; }
static inline bool one_in(unsigned n) { return random_below(n) == 0; }

/* generate.c */
/* Why a row is never generated, or NULL. */
const char *row_excluded(const struct insn_row *row, int mode, uint64_t features);
/* A random case; its first instruction is of `row` if that is not -1. */
void case_generate(struct cpu_case *c, int mode, uint64_t features, int row);

/* FNSTENV, FNSAVE and the like: always the last of a case, for what they store differs by maker. */
bool stores_environment(const struct insn_row *row);

/* native.c: a child process that runs cases on the host's CPU */
enum { BATCH = 32 };
struct native;
extern unsigned native_tick_us;    /* how often a timer looks after it; before native_start */
struct native *native_start(void); /* NULL: the host cannot (says why) */
void native_stop(struct native *n);
struct cpu_case *native_case(struct native *n, unsigned index);
void native_cases_run(struct native *n, unsigned count); /* the first `count` cases */
const struct outcome *native_outcome(struct native *n, unsigned index);

/* guest.c: the same in the soft engine */
struct guest;
struct guest *guest_create(const char *engine_options);
void guest_destroy(struct guest *g);
uint64_t guest_features(const struct guest *g);
void guest_run(struct guest *g, const struct cpu_case *c, struct outcome *out);

/* mutate.c: one row's handlers replaced by wrong ones, until mutate_end */
enum mutation { MUTATION_SKIP, MUTATION_FLIP, MUTATION_COUNT };
void mutate_begin(unsigned row, enum mutation mutation);
void mutate_end(void);
/* Can it be seen at all? Skipping a NOP cannot. */
bool mutation_shows(const struct insn_row *row, enum mutation mutation);

#endif
