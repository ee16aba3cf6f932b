/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The same instructions at CPL 3, 1 and 2, with SMAP and EFLAGS.AC set and clear: CPL 1 and 2 are
 * the supervisor's, so what CPL 3 may reach they may only with AC, and the other way round.
 */
#include "guest64.inc"
#define VA 0x150000
#define PTE 0x73000 + (VA >> 12) * 8
#define CODE 0x160000
#define CODE_PTE 0x73000 + (CODE >> 12) * 8
#define TURNS 200
#define AC 0x40000
#define RING1 0x61              /* of each ring the data segment comes before the code segment */
#define RING2 0x72
#define AT(label) CODE + label - routines

/* Runs `label` in that ring; it ends with this exception, after so many turns */
#define RUNS(ring, flags, label, vector, turns)  \
    mov $(ring), %r8d;                           \
    mov $(flags) | 2, %r9d;                      \
    mov $AT(label), %ebx;                        \
    call run;                                    \
    CHECKM(got_vector, vector);                  \
    CHECK(%rcx, TURNS - (turns))
#define DENIED(ring, flags, label, turns, error) \
    RUNS(ring, flags, label, 14, turns);         \
    CHECKM(got_rip, AT(label));                  \
    CHECKM(got_error, error);                    \
    CHECKM(got_cr2, VA)
#define WHOLE(ring, flags, label) RUNS(ring, flags, label, 6, TURNS)
/* `write`: the error code's bit */
#define RINGS(ring, label, write)                \
    movq $VA + 7, PTE;                           \
    invlpg VA;                                   \
    WHOLE(SEL_USER64, 0, label);                 \
    DENIED(ring, 0, label, 0, 1 + (write));      \
    WHOLE(SEL_USER64, AC, label);                \
    WHOLE(ring, AC, label);                      \
    DENIED(ring, 0, label, 0, 1 + (write));      \
    movq $VA + 3, PTE;                           \
    invlpg VA;                                   \
    WHOLE(ring, 0, label);                       \
    WHOLE(ring, AC, label);                      \
    DENIED(SEL_USER64, 0, label, 0, 5 + (write))

GUEST(LONG, 1, NEED_TSS | NEED_EXACT)
    BEGIN64
    mov $7, %eax
    xor %ecx, %ecx
    cpuid
    bt $20, %ebx
    jc 1f
    EXIT(SKIP)
1:  cld
    mov $routines, %esi
    mov $CODE, %edi
    mov $routines_end - routines, %ecx
    rep movsb
    /* Segments of DPL 1 and 2 like those of DPL 3 */
    mov $0x7f058, %edi
    mov $46, %ecx
2:  mov 0x7f000 + (SEL_USER_DATA & ~7), %rax
    btr %rcx, %rax
    mov %rax, (%rdi)
    mov 0x7f000 + (SEL_USER64 & ~7), %rax
    btr %rcx, %rax
    mov %rax, 8(%rdi)
    add $0x10, %edi
    dec %ecx
    cmp $44, %ecx
    jne 2b
    lgdt gdt
    /* Only two pages are the user's */
    orq $4, 0x70000
    orq $4, 0x71000
    orq $4, 0x72000
    movq $CODE + 7, CODE_PTE
    mov %cr4, %rax
    bts $21, %rax
    mov %rax, %cr4
    mov %cr3, %rax
    mov %rax, %cr3
    RINGS(RING1, load, 0)
    RINGS(RING1, store, 2)
    RINGS(RING1, window, 2)
    RINGS(RING2, load, 0)
    RINGS(RING2, window, 2)
    /* POPF changes AC on the way */
    movq $VA + 7, PTE
    invlpg VA
    WHOLE(SEL_USER64, AC, flip)
    DENIED(RING1, AC, flip, 1, 1)
    DENIED(RING2, AC, flip, 1, 1)
    PASS

/* At rbx in the ring of CS r8 with the flags r9, rcx turns of it, until it faults */
run:
    movq $1f, resume_rip
    mov %rsp, resume_rsp
    mov $VA, %esi
    xor %edi, %edi
    mov $TURNS, %ecx
    lea -8(%r8), %eax
    push %rax
    push $0x6c000               /* far below this one */
    push %r9
    push %r8
    push %rbx
    iretq
1:  movq $0, resume_rip
    ret

routines:
load:
    mov (%rsi, %rdi), %eax
    dec %ecx
    jnz load
    ud2
store:
    mov %ecx, (%rsi, %rdi)
    dec %ecx
    jnz store
    ud2
window:
    incl (%rsi)
    mov %ecx, 8(%rsi)
    mov 16(%rsi), %eax
    dec %ecx
    jnz window
    ud2
/* AC is set and clear in turn for the supervisor, and always set for CPL 3 without a stack */
flip:
    mov (%rsi, %rdi), %eax
    cmp $SEL_USER64, %r8d
    je 1f
    btc $18, %r9
    push %r9
    popfq
1:  dec %ecx
    jnz flip
    ud2
routines_end:
.balign 8
gdt:
    .word 0x77
    .quad 0x7f000
#include "guest64_code.inc"
