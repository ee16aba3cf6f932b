/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where an interrupt may come in: not in the shadow of STI, but right behind it. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_EXACT)
    BEGIN64
    movq $count, hook
    X2APIC_ON
    X2WRITE(0x83f, 0x60)
    sti
    cli
    mov taken + 0x60 * 4, %eax
    CHECK(%rax, 0)
    sti
    nop
    cli
    mov taken + 0x60 * 4, %eax
    CHECK(%rax, 1)
    X2WRITE(0x83f, 0x60)
    /* POPF has none */
    push $0x202
    popf
    cli
    mov taken + 0x60 * 4, %eax
    CHECK(%rax, 2)
    /* HLT in the shadow wakes at once */
    X2WRITE(0x83f, 0x60)
    sti
    hlt
    cli
    mov taken + 0x60 * 4, %eax
    CHECK(%rax, 3)
    PASS
count:
    push %rax
    push %rcx
    push %rdx
    X2EOI
    pop %rdx
    pop %rcx
    pop %rax
    ret
#include "guest64_code.inc"
