/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs cases on the host's CPU.
 *
 * A child process owns the test's address space. One signal handler does everything: it stores the
 * state that a signal interrupted as the outcome of the running case, and writes the state of the
 * next case into its own frame, so that returning from the handler enters it, code segment, flags
 * and floating point included. Cases come and outcomes go in batches through shared memory.
 *
 * A timer's tick ends what does not end by itself. Returning from a signal restores neither NT nor
 * ID, so a case that a tick interrupted begins again.
 */
#include "case.h"

#include <asm/ldt.h>
#include <assert.h>
#include <cpuid.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { HANG_US = 60000, STACK_BYTES = 1 << 18 };
unsigned native_tick_us = 20000;

struct native {
    _Atomic uint32_t asked, answered; /* batches; futexes */
    uint32_t count;
    pid_t child;
    struct cpu_case cases[BATCH];
    struct outcome outcomes[BATCH];
};

/* The signal frame holds an XSAVE area: its header's first byte, components */
enum { XSTATE_BV = 512, XSTATE_X87 = 1, XSTATE_SSE = 2, XSTATE_YMM = 4 };

static struct native *shared;
static unsigned ymm_offset; /* in the XSAVE area, 0: the host has no AVX */
static uint8_t *code_alias; /* writable view of the code pages */
static int running = -1;    /* index of the case, or -1 */
static unsigned ticks;
static unsigned code_dirty_offset, code_dirty_len;

/* FS base of the child's own code; 0 while it runs with it. */
extern uint64_t native_fs, native_handler_entry;
uint64_t native_fs;
void native_signal(int sig, siginfo_t *info, void *context);
void native_entry(int sig, siginfo_t *info, void *context);

/* The interrupted code leaves AC, DF, NT, ID, FS and GS as it likes: C needs its own, and returning
 * from a signal restores neither NT nor ID. */
__asm__(".text\n"
        ".globl native_entry\n"
        "native_entry:\n"
        "    pushfq\n"
        "    andl $~0x244400, (%rsp)\n"
        "    popfq\n"
        "    xorl %eax, %eax\n"
        "    movl %eax, %fs\n"
        "    movl %eax, %gs\n"
        "    movq native_fs(%rip), %rax\n"
        "    wrfsbase %rax\n"
        "    subq $8, %rsp\n"
        "    call native_signal\n"
        "    addq $8, %rsp\n"
        "    movl $0x20000800, %eax\n"
        "    wrfsbase %rax\n"
        "    movl $0x20001000, %eax\n"
        "    wrgsbase %rax\n"
        "    ret\n");
_Static_assert(FS_BASE == 0x20000800 && GS_BASE == 0x20001000, "as in native_entry");

static long futex(_Atomic uint32_t *word, int op, uint32_t value)
{
    return syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

static void wait_for(_Atomic uint32_t *word, uint32_t value)
{
    uint32_t now;
    while ((now = atomic_load(word)) != value)
        futex(word, FUTEX_WAIT, now);
}

static void memory_fill(const uint8_t *memory)
{
    memcpy((void *)(uintptr_t)DATA_VA, memory, DATA_SIZE);
    memcpy((void *)(uintptr_t)STACK_VA, memory + DATA_SIZE + READONLY_SIZE, STACK_SIZE);
}

static void memory_fetch(uint8_t *memory)
{
    memcpy(memory, (void *)(uintptr_t)DATA_VA, DATA_SIZE + READONLY_SIZE);
    memcpy(memory + DATA_SIZE + READONLY_SIZE, (void *)(uintptr_t)STACK_VA, STACK_SIZE);
}

static const int greg_of[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                 REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                 REG_R12, REG_R13, REG_R14, REG_R15 };

static void outcome_take(struct outcome *o, const ucontext_t *uc, bool hang)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    o->hang = hang;
    o->vector = g[REG_TRAPNO];
    o->error = g[REG_ERR];
    o->cr2 = g[REG_CR2];
    for (unsigned n = 0; n < 16; n++)
        o->out.gpr[n] = g[greg_of[n]];
    o->out.rip = g[REG_RIP];
    o->out.rflags = g[REG_EFL];
    o->out.cs = g[REG_CSGSFS] & 0xffff;
    o->out.ss = (uint64_t)g[REG_CSGSFS] >> 48;
    __asm__ volatile("mov %%ds, %0" : "=r"(o->out.ds));
    __asm__ volatile("mov %%es, %0" : "=r"(o->out.es));
    const uint8_t *fx = (const uint8_t *)uc->uc_mcontext.fpregs;
    memcpy(o->out.fx, fx, sizeof o->out.fx);
    memset(o->out.ymm_high, 0, sizeof o->out.ymm_high);
    if (ymm_offset && fx[XSTATE_BV] & XSTATE_YMM)
        memcpy(o->out.ymm_high, fx + ymm_offset, sizeof o->out.ymm_high);
    memory_fetch(o->memory);
}

static void case_enter(const struct cpu_case *c, ucontext_t *uc)
{
    greg_t *g = uc->uc_mcontext.gregs;
    memory_fill(c->memory);
    memset(code_alias + code_dirty_offset, 0xcc, code_dirty_len);
    memcpy(code_alias + c->offset, c->code, c->len);
    code_dirty_offset = c->offset;
    code_dirty_len = c->len;
    for (unsigned n = 0; n < 16; n++)
        g[greg_of[n]] = c->in.gpr[n];
    g[REG_RIP] = c->in.rip;
    g[REG_EFL] = c->in.rflags;
    g[REG_CSGSFS] = c->in.cs | (uint64_t)c->in.ss << 48;
    uint8_t *fx = (uint8_t *)uc->uc_mcontext.fpregs;
    memcpy(fx, c->in.fx, 416);
    fx[XSTATE_BV] |= XSTATE_X87 | XSTATE_SSE; /* not in their initial state */
    if (ymm_offset) {
        fx[XSTATE_BV] |= XSTATE_YMM;
        memcpy(fx + ymm_offset, c->in.ymm_high, sizeof c->in.ymm_high);
    }
    __asm__ volatile("mov %0, %%ds" : : "r"(c->in.ds));
    __asm__ volatile("mov %0, %%es" : : "r"(c->in.es));
}

/* In the handler, which has them blocked: they come while a case runs, and at no other time. */
static void ticks_start(void)
{
    struct itimerval timer = { { 0, native_tick_us }, { 0, native_tick_us } };
    setitimer(ITIMER_REAL, &timer, NULL);
}

__attribute__((no_stack_protector)) void native_signal(int sig, siginfo_t *info, void *context)
{
    if (sig == SIGALRM && ++ticks * native_tick_us < HANG_US) {
        case_enter(&shared->cases[running], context);
        return;
    }
    if (sig == SIGUSR1)
        ticks_start();
    else
        outcome_take(&shared->outcomes[running], context, sig == SIGALRM || sig == SIGSYS);
    ticks = 0;
    running++;
    if ((uint32_t)running == shared->count || sig == SIGUSR1) {
        running = -1;
        uint32_t done = atomic_load(&shared->answered) + (sig != SIGUSR1);
        atomic_store(&shared->answered, done);
        futex(&shared->answered, FUTEX_WAKE, 1);
        wait_for(&shared->asked, done + 1);
        running = 0;
    }
    case_enter(&shared->cases[running], context);
}

static void map_at(uintptr_t va, size_t size, int prot, int fd)
{
    int flags = MAP_FIXED_NOREPLACE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
    if (mmap((void *)va, size, prot, flags, fd, 0) != (void *)va) {
        perror("mmap");
        exit(1);
    }
}

static void ldt_set(unsigned selector, unsigned base, unsigned limit, bool code)
{
    struct user_desc d = { .entry_number = selector >> 3,
                           .base_addr = base,
                           .limit = limit,
                           .contents = code ? MODIFY_LDT_CONTENTS_CODE : MODIFY_LDT_CONTENTS_DATA,
                           .useable = 1 };
    if (syscall(SYS_modify_ldt, 1, &d, sizeof d) != 0) {
        perror("modify_ldt");
        exit(1);
    }
}

static void address_space_set(void)
{
    int fd = memfd_create("code", 0);
    if (fd < 0 || ftruncate(fd, CODE_SIZE) < 0)
        exit(1);
    code_alias = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    memset(code_alias, 0xcc, CODE_SIZE);
    map_at(CODE_VA, CODE_SIZE, PROT_READ | PROT_EXEC, fd);
    map_at(DATA_VA, DATA_SIZE + READONLY_SIZE, PROT_READ | PROT_WRITE, -1);
    memcpy((void *)(uintptr_t)(DATA_VA + DATA_SIZE), shared->cases[0].memory + DATA_SIZE,
           READONLY_SIZE);
    mprotect((void *)(uintptr_t)(DATA_VA + DATA_SIZE), READONLY_SIZE, PROT_READ);
    map_at(STACK_VA, STACK_SIZE, PROT_READ | PROT_WRITE, -1);
    ldt_set(SEL_CODE16, CODE_VA, CODE_SIZE - 1, true);
    ldt_set(SEL_DATA16, DATA_VA, 0xffff, false);
    ldt_set(SEL_EXTRA16, EXTRA16_BASE, EXTRA16_LIMIT, false);
    ldt_set(SEL_STACK16, STACK_VA, 0xffff, false);
}

/* A jump into the middle of an instruction may find a system call there: it becomes SIGSYS below 4
 * GiB. */
static void system_calls_trap(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof code / sizeof *code, code };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        perror("seccomp");
        exit(1);
    }
}

/* The child's main; never returns. */
static void child_main(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* The read-only page comes with the first batch. */
    wait_for(&shared->asked, 1);
    address_space_set();
    stack_t stack = { .ss_sp = malloc(STACK_BYTES), .ss_size = STACK_BYTES };
    sigaltstack(&stack, NULL);
    __asm__ volatile("rdfsbase %0" : "=r"(native_fs));
    struct sigaction action = { .sa_sigaction = native_entry, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    sigfillset(&action.sa_mask);
    if (__builtin_cpu_supports("avx")) {
        unsigned size, c, d;
        __cpuid_count(0xd, 2, size, ymm_offset, c, d);
    }
    static const int signals[] = { SIGSEGV, SIGBUS,  SIGILL, SIGFPE,
                                   SIGTRAP, SIGALRM, SIGSYS, SIGUSR1 };
    for (unsigned n = 0; n < sizeof signals / sizeof *signals; n++)
        sigaction(signals[n], &action, NULL);
    system_calls_trap();
    raise(SIGUSR1);
    abort();
}

struct native *native_start(void)
{
    if (!(getauxval(AT_HWCAP2) & 2)) {
        printf("skip: the host has no FSGSBASE\n");
        return NULL;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return NULL;
    pid_t child = fork();
    if (child == 0)
        child_main();
    shared->child = child;
    return shared;
}

void native_stop(struct native *n)
{
    kill(n->child, SIGKILL);
    waitpid(n->child, NULL, 0);
    munmap(n, sizeof *n);
}

struct cpu_case *native_case(struct native *n, unsigned index) { return &n->cases[index]; }
const struct outcome *native_outcome(struct native *n, unsigned index)
{
    return &n->outcomes[index];
}

void native_cases_run(struct native *n, unsigned count)
{
    n->count = count;
    uint32_t batch = atomic_fetch_add(&n->asked, 1) + 1;
    futex(&n->asked, FUTEX_WAKE, 1);
    while (atomic_load(&n->answered) != batch) {
        struct timespec second = { 1, 0 };
        uint32_t now = batch - 1;
        syscall(SYS_futex, &n->answered, FUTEX_WAIT, now, &second, NULL, 0);
        int status;
        if (waitpid(n->child, &status, WNOHANG) == n->child) {
            fprintf(stderr, "the native process died, status %#x\n", status);
            exit(1);
        }
    }
}
