/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The CPU against the CPU: random instructions and states, run by the host's CPU and by the soft
 * engine (case.h).
 *
 *   cpu_test [--seconds N] [--seed S] [--bits 16|32|64] [--row NAME] [--group x87] [--failures N]
 *            [--mutate] [--engine OPTIONS] [--tick US]
 *
 * --group x87: three in four instructions are of the x87 unit. --tick: how often the process that
 * runs the cases on the host's CPU is interrupted.
 *
 * Prints how often each row of the instruction table ran; a row that could have run and did not is
 * a failure.
 */
#include "case.h"
#include "engine/soft/insn.h"
#include "verify.h"

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static struct {
    unsigned seconds, bits, failures;
    uint64_t seed;
    const char *row;
    bool mutate;
    const char *engine; /* what follows "soft," */
} options = { .seconds = 40, .failures = 20, .seed = 1 };

static struct native *native;
static struct guest *guest;
static uint64_t features;
static unsigned long cases, hangs, vague, failures;
static unsigned long row_done[2048], row_faulted[2048], faults[256];

/* ---- Comparison ---- */

static const char *const gpr_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

struct difference {
    char text[400];
    unsigned len;
};

static void differ(struct difference *d, const char *what, uint64_t theirs, uint64_t ours)
{
    if (d->len < sizeof d->text)
        d->len += snprintf(d->text + d->len, sizeof d->text - d->len,
                           "  %s: CPU %#lx, engine %#lx\n", what, theirs, ours);
}

static void differ_bytes(struct difference *d, const char *what, const uint8_t *theirs,
                         const uint8_t *ours, unsigned n)
{
    char text[200];
    unsigned len = snprintf(text, sizeof text, "  %s: CPU ", what);
    for (unsigned k = n; k-- > 0;)
        len += snprintf(text + len, sizeof text - len, "%02x", theirs[k]);
    len += snprintf(text + len, sizeof text - len, ", engine ");
    for (unsigned k = n; k-- > 0;)
        len += snprintf(text + len, sizeof text - len, "%02x", ours[k]);
    if (d->len < sizeof d->text)
        d->len += snprintf(d->text + d->len, sizeof d->text - d->len, "%s\n", text);
}

static uint16_t undefined_flags(const struct cpu_case *c)
{
    uint16_t undefined = 0;
    for (unsigned n = 0; n < c->count; n++)
        undefined |= insn_rows[c->row[n]].undefined;
    return undefined;
}

static const struct insn_row *faulting_row(const struct cpu_case *c, const struct outcome *a)
{
    for (unsigned n = 0; n < c->count; n++) {
        if (c->in.rip + c->start[n] == a->out.rip)
            return &insn_rows[c->row[n]];
    }
    return NULL;
}

/* Operands of several parts: makers differ in which part is accessed first. */
static bool has_parts(const struct insn_row *row)
{
    static const char *const names[] = {
        "ret far", "iret",      "fldenv", "fnstenv", "frstor", "fnsave",   "fxsave",   "fxsave64",
        "fxrstor", "fxrstor64", "xsave",  "xsave64", "xrstor", "xrstor64", "xsaveopt", "xsaveopt64",
    };
    for (unsigned n = 0; n < sizeof names / sizeof *names; n++) {
        if (!strcmp(row->name, names[n]))
            return true;
    }
    return row->args[0] == A_Mp || row->args[1] == A_Mp;
}

/* Which of two faults of one instruction comes first differs by maker, too: a CALL's push or its
 * target, misalignment or a segment's limit. */
static bool order_is_free(const struct cpu_case *c, const struct insn_row *row,
                          const struct outcome *a, const struct outcome *b)
{
    if (c->mode != MODE_64 && a->vector == 14 && a->cr2 >= 0xfffff000)
        return b->vector == 12 || b->vector == 13; /* an operand that wraps round 4 GiB */
    const uint32_t choices = 1u << 12 | 1u << 13 | 1u << 14 | 1u << 17;
    if ((a->vector == 14 && b->vector == 17) || (a->vector == 17 && b->vector == 14))
        return a->out.rip == b->out.rip;
    return row && a->out.rip == b->out.rip && choices >> a->vector & 1 &&
           choices >> b->vector & 1 &&
           (row->attr & AT_ALIGN || !strcmp(row->name, "call") || has_parts(row));
}

/* By how much ENTER's frames, far pointers, BOUND's limits and MOVSXD's source have to be aligned
 * differs by maker. */
static bool alignment_is_vague(const struct insn_row *row)
{
    return row && (!strcmp(row->name, "enter") || !strcmp(row->name, "bound") ||
                   !strcmp(row->name, "movsxd") || has_parts(row));
}

static void compare_exceptions(struct difference *d, const struct cpu_case *c,
                               const struct outcome *a, const struct outcome *b)
{
    uint32_t error_mask = ~0u;
    if (a->vector == 14 && a->cr2 >> 47)
        error_mask = ~1u; /* Linux does not tell what is present in its half */
    const struct insn_row *row = faulting_row(c, a);
    if (a->vector != b->vector && order_is_free(c, row, a, b))
        return;
    if (a->vector != b->vector)
        differ(d, "exception", a->vector, b->vector);
    else if ((a->error ^ b->error) & error_mask)
        differ(d, "error code", a->error, b->error);
    else if (a->vector == 14 && a->cr2 != b->cr2 && !(row && has_parts(row)))
        differ(d, "cr2", a->cr2, b->cr2);
}

static void compare_fx(struct difference *d, const uint8_t *a, const uint8_t *b)
{
    if (memcmp(a, b, 2) != 0)
        differ_bytes(d, "fcw", a, b, 2);
    if (memcmp(a + 2, b + 2, 2) != 0)
        differ_bytes(d, "fsw", a + 2, b + 2, 2);
    if (a[4] != b[4])
        differ(d, "ftw", a[4], b[4]);
    if (memcmp(a + 24, b + 24, 4) != 0)
        differ_bytes(d, "mxcsr", a + 24, b + 24, 4);
    for (unsigned n = 0; n < 8; n++) {
        if (memcmp(a + 32 + n * 16, b + 32 + n * 16, 10) != 0)
            differ_bytes(d, (char[]){ 's', 't', '0' + n, 0 }, a + 32 + n * 16, b + 32 + n * 16, 10);
    }
    for (unsigned n = 0; n < 16; n++) {
        if (memcmp(a + 160 + n * 16, b + 160 + n * 16, 16) != 0)
            differ_bytes(d, (char[]){ 'x', "0123456789abcdef"[n], 0 }, a + 160 + n * 16,
                         b + 160 + n * 16, 16);
    }
}

/* AMD's CPUs keep the selectors of the last x87 instruction, Intel's and the engine store 0. */
static bool is_x87_selector(const struct cpu_case *c, const uint8_t *a, const uint8_t *b)
{
    uint16_t selector;
    memcpy(&selector, a, 2);
    return !b[0] && !b[1] &&
           (selector == c->in.cs || selector == c->in.ds || selector == c->in.ss ||
            selector == c->in.es);
}

static void compare_ymm(struct difference *d, const struct regs *a, const struct regs *b)
{
    for (unsigned n = 0; features >> FT_AVX & 1 && n < 16; n++) {
        if (memcmp(a->ymm_high[n], b->ymm_high[n], 16) != 0)
            differ_bytes(d, (char[]){ 'y', "0123456789abcdef"[n], 0 }, a->ymm_high[n],
                         b->ymm_high[n], 16);
    }
}

/* Intel's CPUs keep opcode and pointers of x87 instructions with exceptions only; the engine keeps
 * all, as AMD's do. */
static bool environment_is_vague(const struct cpu_case *c)
{
    const struct insn_row *last = &insn_rows[c->row[c->count - 1]];
    return stores_environment(last) && !__builtin_cpu_is("amd");
}

static void compare_memory(struct difference *d, const struct cpu_case *c, const uint8_t *a,
                           const uint8_t *b)
{
    for (unsigned n = 0; n < MEMORY_SIZE; n++) {
        if (a[n] == b[n] || is_x87_selector(c, a + n, b + n))
            continue;
        char what[40];
        bool stack = n >= DATA_SIZE + READONLY_SIZE;
        snprintf(what, sizeof what, "%s+%#x", stack ? "stack" : "data",
                 stack ? n - DATA_SIZE - READONLY_SIZE : n);
        unsigned left = MEMORY_SIZE - n;
        differ_bytes(d, what, a + n, b + n, left < 16 ? left : 16);
        return;
    }
}

static bool compare(const struct cpu_case *c, const struct outcome *a, const struct outcome *b,
                    struct difference *d)
{
    d->len = 0;
    if (b->hang) {
        differ(d, "hang", a->hang, b->hang);
        return false;
    }
    compare_exceptions(d, c, a, b);
    if (a->out.rip != b->out.rip)
        differ(d, "rip", a->out.rip, b->out.rip);
    /* The upper halves are undefined while 64-bit code runs in between. */
    uint64_t gpr_mask = c->mode == MODE_64 ? ~0ull : 0xffffffff;
    for (unsigned n = 0; n < (c->mode == MODE_64 ? 16 : 8); n++) {
        if ((a->out.gpr[n] ^ b->out.gpr[n]) & gpr_mask)
            differ(d, gpr_names[n], a->out.gpr[n], b->out.gpr[n]);
    }
    uint64_t flags = (a->out.rflags ^ b->out.rflags) & ~(uint64_t)undefined_flags(c);
    if (flags)
        differ(d, "rflags", a->out.rflags, b->out.rflags);
    if (a->out.cs != b->out.cs || a->out.ss != b->out.ss)
        differ(d, "cs:ss", a->out.cs << 16 | a->out.ss, b->out.cs << 16 | b->out.ss);
    /* Returning to a handler in user mode makes null selectors plain zeros. */
    uint32_t theirs = (a->out.ds > 3 ? a->out.ds : 0) << 16 | (a->out.es > 3 ? a->out.es : 0);
    uint32_t ours = (b->out.ds > 3 ? b->out.ds : 0) << 16 | (b->out.es > 3 ? b->out.es : 0);
    if (theirs != ours)
        differ(d, "ds:es", theirs, ours);
    compare_fx(d, a->out.fx, b->out.fx);
    compare_ymm(d, &a->out, &b->out);
    if (!environment_is_vague(c) && memcmp(a->memory, b->memory, MEMORY_SIZE) != 0)
        compare_memory(d, c, a->memory, b->memory);
    return d->len == 0;
}

/* ---- Reports ---- */

static void print_case(const struct cpu_case *c)
{
    static const ZydisMachineMode machine[] = { ZYDIS_MACHINE_MODE_LEGACY_16,
                                                ZYDIS_MACHINE_MODE_LEGACY_32,
                                                ZYDIS_MACHINE_MODE_LONG_64 };
    static const ZydisStackWidth stack[] = { ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32,
                                             ZYDIS_STACK_WIDTH_64 };
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecoderInit(&decoder, machine[c->mode], stack[c->mode]);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    for (unsigned n = 0; n < c->count; n++) {
        ZydisDecodedInstruction z;
        ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
        char text[120] = "?";
        if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, c->code + c->start[n], 15, &z, o)))
            ZydisFormatterFormatInstruction(&formatter, &z, o, z.operand_count_visible, text,
                                            sizeof text, c->in.rip + c->start[n], NULL);
        printf("  %#lx:", c->in.rip + c->start[n]);
        for (unsigned k = c->start[n]; k < c->start[n + 1]; k++)
            printf(" %02x", c->code[k]);
        printf("  %s\n", text);
    }
}

static void print_failure(const struct cpu_case *c, const struct outcome *a,
                          const struct outcome *b, const struct difference *d)
{
    uint16_t fcw, fsw;
    uint32_t mxcsr;
    memcpy(&fcw, c->in.fx, 2);
    memcpy(&fsw, c->in.fx + 2, 2);
    memcpy(&mxcsr, c->in.fx + 24, 4);
    printf(
        "case %lu, %d bits; CPU: exception %u, error code %#x, cr2 %#lx; engine: %u, %#x, %#lx\n",
        cases, 16 << c->mode, a->vector, a->error, a->cr2, b->vector, b->error, b->cr2);
    print_case(c);
    for (unsigned n = 0; n < (c->mode == MODE_64 ? 16 : 8); n++)
        printf("%s%s %#lx", n == 0 ? "  " : n == 8 ? ",\n  " : ", ", gpr_names[n], c->in.gpr[n]);
    printf("\n  rflags %#lx fcw %#x fsw %#x ftw %#x mxcsr %#x\n%s", c->in.rflags, fcw, fsw,
           c->in.fx[4], mxcsr, d->text);
    fflush(stdout);
}

/* Which rows ran to their end, and which one faulted. */
static void count_rows(const struct cpu_case *c, const struct outcome *a)
{
    uint64_t at = a->out.rip - c->in.rip;
    faults[a->vector]++;
    for (unsigned n = 0; n < c->count; n++) {
        if (at == c->start[n] && a->vector != 3) {
            row_faulted[c->row[n]]++;
            return;
        }
        row_done[c->row[n]]++;
        if (insn_rows[c->row[n]].attr & AT_END)
            return; /* what comes next is not sure */
    }
}

/* Runs one batch of cases whose first row is `row` or any; false when something differed. */
static bool batch_run(int mode, int row, unsigned count, bool report)
{
    static struct outcome outcome;
    struct difference d;
    bool fine = true;
    for (unsigned n = 0; n < count; n++)
        case_generate(native_case(native, n), mode < 0 ? (int)n % 3 : mode, features, row);
    native_cases_run(native, count);
    for (unsigned n = 0; n < count; n++) {
        const struct cpu_case *c = native_case(native, n);
        const struct outcome *a = native_outcome(native, n);
        cases++;
        if (a->hang) {
            hangs++;
            continue;
        }
        if (a->vector == 17 && alignment_is_vague(faulting_row(c, a))) {
            vague++;
            continue;
        }
        const struct insn_row *row_of_fault = faulting_row(c, a);
        if (row_of_fault &&
            (!strcmp(row_of_fault->name, "popa") || !strcmp(row_of_fault->name, "pusha")))
            continue; /* what is done before the fault differs by maker */
        count_rows(c, a);
        guest_run(guest, c, &outcome);
        if (compare(c, a, &outcome, &d))
            continue;
        if (outcome.vector == 17 && alignment_is_vague(faulting_row(c, &outcome))) {
            vague++;
            continue;
        }
        fine = false;
        if (report && failures++ < options.failures)
            print_failure(c, a, &outcome, &d);
    }
    return fine;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static bool row_wanted(const struct insn_row *row)
{
    return (!options.row || !strcmp(options.row, row->name)) &&
           (!random_attr || row->attr & random_attr);
}

/* Each row first, then sequences, until the time is up. */
static void compare_all(void)
{
    double end = now() + options.seconds;
    unsigned rounds = 0;
    do {
        for (unsigned row = 0; row < insn_row_count && failures < options.failures; row++) {
            for (int mode = MODE_64; mode >= MODE_16; mode--) {
                if ((options.bits && options.bits != 16u << mode) || !row_wanted(&insn_rows[row]) ||
                    row_excluded(&insn_rows[row], mode, features))
                    continue;
                batch_run(mode, row, BATCH, true);
            }
        }
        rounds++;
    } while (now() < end && failures < options.failures);
    printf("%u rounds over %u rows\n", rounds, insn_row_count);
}

static unsigned print_rows(void)
{
    unsigned missing = 0, run = 0, excluded = 0;
    for (unsigned n = 0; n < insn_row_count; n++) {
        const struct insn_row *row = &insn_rows[n];
        const char *why = NULL;
        bool eligible = false;
        for (int mode = MODE_16; mode <= MODE_64; mode++) {
            const char *reason = row_excluded(row, mode, features);
            eligible |= !reason && (!options.bits || options.bits == 16u << mode);
            why = why ? why : reason;
        }
        if (!eligible || !row_wanted(row)) {
            if (row_wanted(row))
                printf("excluded: row %u, %s: %s\n", n, row->name, why);
            excluded++;
            continue;
        }
        if (row_done[n] + row_faulted[n]) {
            run++;
        } else {
            printf("never ran: row %u, %s, map %u opcode %02x ext %d\n", n, row->name, row->map,
                   row->opcode, row->ext);
            missing++;
        }
    }
    for (unsigned n = 0; n < insn_row_count; n++) {
        if (row_done[n] + row_faulted[n])
            printf("row %-12s %u:%02x/%d  %lu done, %lu faulted\n", insn_rows[n].name,
                   insn_rows[n].map, insn_rows[n].opcode, insn_rows[n].ext, row_done[n],
                   row_faulted[n]);
    }
    printf("%u rows ran, %u excluded, %u never ran\n", run, excluded, missing);
    return missing;
}

/* ---- Seeded faults ---- */

enum { MUTATION_BATCHES = 40 };

static bool mutation_noticed(unsigned row, enum mutation mutation)
{
    bool noticed = false;
    mutate_begin(row, mutation);
    for (unsigned n = 0; n < MUTATION_BATCHES && !noticed; n++) {
        int mode = MODE_64 - n % 3;
        if (!row_excluded(&insn_rows[row], mode, features))
            noticed = !batch_run(mode, row, BATCH, false);
    }
    mutate_end();
    return noticed;
}

static unsigned mutate_all(void)
{
    unsigned seeded = 0, unnoticed = 0;
    for (unsigned row = 0; row < insn_row_count; row++) {
        if (!row_wanted(&insn_rows[row]) || (row_excluded(&insn_rows[row], MODE_64, features) &&
                                             row_excluded(&insn_rows[row], MODE_32, features)))
            continue;
        for (enum mutation m = 0; m < MUTATION_COUNT; m++) {
            if (!mutation_shows(&insn_rows[row], m))
                continue;
            seeded++;
            if (mutation_noticed(row, m))
                continue;
            printf("not noticed: %s in row %u, %s, map %u opcode %02x ext %d\n",
                   m == MUTATION_SKIP ? "skip" : "flip", row, insn_rows[row].name,
                   insn_rows[row].map, insn_rows[row].opcode, insn_rows[row].ext);
            unnoticed++;
        }
    }
    printf("%u faults seeded, %u not noticed\n", seeded, unnoticed);
    return unnoticed || !seeded;
}

static bool usage(void)
{
    fprintf(stderr, "usage: cpu_test [--seconds N] [--seed S] [--bits 16|32|64] [--row NAME] "
                    "[--group x87] [--failures N] [--mutate] [--engine OPTIONS] [--tick US]\n");
    return false;
}

static bool options_parse(int argc, char **argv)
{
    for (int n = 1; n < argc; n++) {
        if (!strcmp(argv[n], "--mutate")) {
            options.mutate = true;
            continue;
        }
        if (n + 1 == argc)
            return usage();
        const char *value = argv[++n];
        if (!strcmp(argv[n - 1], "--seconds"))
            options.seconds = atoi(value);
        else if (!strcmp(argv[n - 1], "--seed"))
            options.seed = strtoull(value, NULL, 0);
        else if (!strcmp(argv[n - 1], "--bits"))
            options.bits = atoi(value);
        else if (!strcmp(argv[n - 1], "--row"))
            options.row = value;
        else if (!strcmp(argv[n - 1], "--failures"))
            options.failures = atoi(value);
        else if (!strcmp(argv[n - 1], "--group") && !strcmp(value, "x87"))
            random_attr = AT_X87;
        else if (!strcmp(argv[n - 1], "--engine"))
            options.engine = value;
        else if (!strcmp(argv[n - 1], "--tick"))
            native_tick_us = atoi(value);
        else
            return usage();
    }
    return true;
}

int main(int argc, char **argv)
{
    if (!options_parse(argc, argv))
        return 2;
    random_state = options.seed * 2 + 1;
    native = native_start();
    if (!native)
        return 77;
    for (unsigned n = 0; n < BATCH; n++)
        memset(native_case(native, n)->memory + DATA_SIZE, 0x5a, READONLY_SIZE);
    jit_inspect = verify_or_die;
    guest = guest_create(options.engine);
    features = guest_features(guest);
    printf("seed %lu\n", options.seed);
    unsigned missing;
    if (options.mutate) {
        missing = mutate_all();
    } else {
        compare_all();
        missing = print_rows();
    }
    printf("%lu cases; left out: %lu that did not end, %lu vague alignments; %lu differ\n", cases,
           hangs, vague, failures);
    guest_destroy(guest);
    verify_print_total();
    native_stop(native);
    return failures || missing ? 1 : 0;
}
