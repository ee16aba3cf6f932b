/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The EOI of a level-triggered vector is reported, once each; that of others is not. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_NOTHING)
    BEGIN64
    movq $count, hook
    X2APIC_ON
    mov $5, %ebx
1:  mov taken + 0x63 * 4, %esi
    mov $ASK_LEVEL, %eax
    mov $PORT_ASK, %dx
    out %eax, %dx
2:  sti
    nop
    nop
    cli
    cmp %esi, taken + 0x63 * 4
    je 2b
    dec %ebx
    jnz 1b
    X2WRITE(0x83f, 0x64)
3:  sti
    nop
    nop
    cli
    cmpl $0, taken + 0x64 * 4
    je 3b
    mov $PORT_ASK, %dx
    in %dx, %eax
    CHECK(%rax, 5)
    mov taken + 0x63 * 4, %eax
    CHECK(%rax, 5)
    PASS
count:
    push %rax
    push %rcx
    push %rdx
    mov $0x81b, %ecx /* TMR of vectors 0x60 to 0x7f: set for the level-triggered one alone */
    rdmsr
    mov $__LINE__, %r15d
    and $8, %eax
    cmp $0x63, %edi
    jne 1f
    test %eax, %eax
    jz wrong
1:  X2EOI
    pop %rdx
    pop %rcx
    pop %rax
    ret
#include "guest64_code.inc"
