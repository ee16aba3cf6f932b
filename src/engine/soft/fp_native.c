/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See fp_native.h. A file of its own, because <signal.h> and the engine both have a raise().
 */
#include "engine/soft/fp_native.h"

#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <ucontext.h>

_Static_assert(offsetof(struct native, fx) == 160, "native_run knows the offsets");
_Static_assert(offsetof(struct native, avx) == 672, "native_run knows the offsets");
_Static_assert(offsetof(struct native, ymm) == 704, "native_run knows the offsets");

#define IF_AVX(what)              \
    "cmpq $0, 672(%r15)\nje 1f\n" \
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n" what "\n.endr\n1:\n"

extern const char native_resume[];
__asm__(
    ".text\n.globl native_run\nnative_run:\n"
    "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rdi, %r15\nmov %rsp, 144(%r15)\n" IF_AVX(
        "vmovups 704 + 32 * \\n(%r15), %ymm\\n") "fxrstor64 160(%r15)\npushq 128(%r15)\npopfq\n"
                                                 "mov 0(%r15), %rax\nmov 8(%r15), %rcx\nmov "
                                                 "16(%r15), %rdx\nmov 24(%r15), %rbx\nmov "
                                                 "40(%r15), %rbp\n"
                                                 "mov 48(%r15), %rsi\nmov 56(%r15), %rdi\nmov "
                                                 "64(%r15), %r8\nmov 72(%r15), %r9\nmov "
                                                 "80(%r15), %r10\n"
                                                 "mov 88(%r15), %r11\nmov 96(%r15), %r12\nmov "
                                                 "104(%r15), %r13\nmov 112(%r15), %r14\n"
                                                 "call *136(%r15)\n"
                                                 "mov %rax, 0(%r15)\nmov %rcx, 8(%r15)\nmov %rdx, "
                                                 "16(%r15)\nmov %rbx, 24(%r15)\nmov %rbp, "
                                                 "40(%r15)\n"
                                                 "mov %rsi, 48(%r15)\nmov %rdi, 56(%r15)\nmov %r8, "
                                                 "64(%r15)\nmov %r9, 72(%r15)\nmov %r10, "
                                                 "80(%r15)\n"
                                                 "mov %r11, 88(%r15)\nmov %r12, 96(%r15)\nmov "
                                                 "%r13, 104(%r15)\nmov %r14, 112(%r15)\n"
                                                 "pushfq\npopq 128(%r15)\nfxsave64 "
                                                 "160(%r15)\n" IF_AVX("vmovups %ymm\\n, 704 + 32 * "
                                                                      "\\n(%r15)") ".globl "
                                                                                   "native_"
                                                                                   "resume\nnative_"
                                                                                   "resume:\n"
                                                                                   "mov 144(%r15), "
                                                                                   "%rsp\ncmpq $0, "
                                                                                   "672(%r15)\nje "
                                                                                   "1f\nvzeroupper"
                                                                                   "\n1: "
                                                                                   "fninit\npushq "
                                                                                   "$0x1f80\nldmxcs"
                                                                                   "r (%rsp)\npop "
                                                                                   "%rax\ncld\n"
                                                                                   "pop %r15\npop "
                                                                                   "%r14\npop "
                                                                                   "%r13\npop "
                                                                                   "%r12\npop "
                                                                                   "%rbp\npop "
                                                                                   "%rbx\nret\n");

enum { FRAME_XSTATE_BV = 512, FRAME_YMM_HIGH = 576 }; /* in a signal's frame, as XSAVE has them */

static void on_signal(int sig, siginfo_t *info, void *context)
{
    static const int reg[15] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, -1,
                                 REG_RBP, REG_RSI, REG_RDI, REG_R8,  REG_R9,
                                 REG_R10, REG_R11, REG_R12, REG_R13, REG_R14 };
    mcontext_t *m = &((ucontext_t *)context)->uc_mcontext;
    struct native *n = (struct native *)m->gregs[REG_R15];
    for (unsigned r = 0; r < 15; r++)
        if (reg[r] >= 0)
            n->gpr[r] = (uint64_t)m->gregs[reg[r]];
    n->flags = (uint64_t)m->gregs[REG_EFL];
    const uint8_t *frame = (const uint8_t *)m->fpregs;
    uint64_t components = 0;
    memcpy(&n->fx, frame, sizeof n->fx);
    if (n->avx)
        memcpy(&components, frame + FRAME_XSTATE_BV, sizeof components);
    for (unsigned r = 0; r < 16; r++) {
        memcpy(n->ymm[r], n->fx.xmm[r], 16);
        memset(n->ymm[r] + 16, 0, 16);
        if (components & 4)
            memcpy(n->ymm[r] + 16, frame + FRAME_YMM_HIGH + r * 16, 16);
    }
    n->trapped = sig == SIGFPE ? TRAPPED_FLOATING : TRAPPED_MEMORY;
    m->gregs[REG_RIP] = (greg_t)native_resume;
}

void native_init(void)
{
    struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
    sigaction(SIGFPE, &sa, NULL);
    sigaction(SIGSEGV, &sa, NULL);
}
