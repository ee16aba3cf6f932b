/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The local APIC in x2APIC mode: self-IPI, priorities, MSI, HLT, its timer in three modes, ExtINT. */
#include "guest64.inc"
#define TSC_DEADLINE 0x6e0
/* Lets interrupts in until this vector came. */
#define LET_IN(vector)             \
    7: sti;                        \
    nop;                           \
    nop;                           \
    cli;                           \
    cmpl $0, taken + (vector) * 4; \
    je 7b
GUEST(LONG, 1, NEED_NOTHING)
    BEGIN64
    X2APIC_ON
    movq $count, hook
    /* a self-IPI waits for IF, and interrupts after STI's shadow */
    cli
    X2WRITE(0x83f, 0x60)
    mov $0x823, %ecx
    rdmsr
    CHECK(%rax, 1)
    mov taken + 0x60 * 4, %eax
    CHECK(%rax, 0)
    LET_IN(0x60)
    mov taken + 0x60 * 4, %eax
    CHECK(%rax, 1)
    /* the higher of two comes first; TPR holds back what is not above it */
    X2WRITE(0x808, 0x70)
    X2WRITE(0x83f, 0x65)
    X2WRITE(0x83f, 0x95)
    LET_IN(0x95)
    mov last, %eax
    CHECK(%rax, 0x95)
    mov taken + 0x65 * 4, %eax
    CHECK(%rax, 0)
    X2WRITE(0x808, 0)
    LET_IN(0x65)
    mov taken + 0x65 * 4, %eax
    CHECK(%rax, 1)
    /* CR8 is TPR's upper half */
    mov $9, %eax
    mov %rax, %cr8
    mov $0x808, %ecx
    rdmsr
    CHECK(%rax, 0x90)
    xor %eax, %eax
    mov %rax, %cr8
    /* a message wakes HLT */
    mov $ASK_MSI, %eax
    mov $PORT_ASK, %dx
    out %eax, %dx
1:  sti
    hlt
    cli
    cmpl $0, taken + 0x61 * 4
    je 1b
    /* one-shot timer: one interrupt, then its count stays 0 */
    X2WRITE(0x83e, 0xb)
    X2WRITE(0x832, 0x70)
    X2WRITE(0x838, 50000000)        /* longer than a busy host leaves us alone */
    mov $0x839, %ecx
    rdmsr
    mov $__LINE__, %r15d
    test %eax, %eax
    jz wrong
1:  sti
    hlt
    cli
    cmpl $0, taken + 0x70 * 4
    je 1b
    mov $0x839, %ecx
    rdmsr
    CHECK(%rax, 0)
    mov taken + 0x70 * 4, %eax
    CHECK(%rax, 1)
    /* periodic */
    X2WRITE(0x832, 0x20071)
    X2WRITE(0x838, 1000000)
1:  sti
    hlt
    cli
    cmpl $5, taken + 0x71 * 4
    jb 1b
    X2WRITE(0x838, 0)
    /* deadline: not before its time */
    X2WRITE(0x832, 0x40072)
    rdtsc
    shl $32, %rdx
    or %rdx, %rax
    add $5000000, %rax
    mov %rax, %rbx
    mov %rax, %rdx
    shr $32, %rdx
    mov $TSC_DEADLINE, %ecx
    wrmsr
    rdmsr
    shl $32, %rdx
    or %rdx, %rax
    mov $__LINE__, %r15d
    cmp %rbx, %rax
    jne wrong
1:  sti
    hlt
    cli
    cmpl $0, taken + 0x72 * 4
    je 1b
    rdtsc
    shl $32, %rdx
    or %rdx, %rax
    mov $__LINE__, %r15d
    cmp %rbx, %rax
    jb wrong
    mov $TSC_DEADLINE, %ecx
    rdmsr
    CHECK(%rax, 0)
    /* a deadline that is past fires at once */
    mov $1, %eax
    xor %edx, %edx
    wrmsr
1:  sti
    hlt
    cli
    cmpl $2, taken + 0x72 * 4
    jne 1b
    /* ExtINT by LINT0; no EOI */
    X2WRITE(0x835, 0x700)
    mov $ASK_EXTINT, %eax
    mov $PORT_ASK, %dx
    out %eax, %dx
1:  sti
    hlt
    cli
    cmpl $1, taken + 0x62 * 4
    jne 1b
    PASS
count:
    mov %edi, last
    push %rcx
    push %rdx
    push %rax
    cmp $0x62, %edi
    je 1f
    X2EOI
1:  pop %rax
    pop %rdx
    pop %rcx
    ret
last: .long 0
#include "guest64_code.inc"
