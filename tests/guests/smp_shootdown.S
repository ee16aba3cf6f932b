/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A page moves under another vCPU: after the shootdown IPI it must read the new one, each time. */
#include "guest64.inc"
#include "smp.inc"
#define VA 0x100000
#define PTE 0x73000 + (VA >> 12) * 8
GUEST(LONG, 2, NEED_NOTHING)
    BEGIN64
    movq $on_ipi, hook
    movq $1, 0x101000
    movq $2, 0x102000
    movq $0x101003, PTE
    invlpg VA
    AP_START(2)
    mov $500, %ebp
1:  mov $0x101003, %eax
    mov $1, %ebx
    test $1, %ebp
    jz 2f
    mov $0x102003, %eax
    mov $2, %ebx
2:  mov %rax, PTE
    invlpg VA
    movl $0, acked
    mov $0x830, %ecx
    mov $1, %edx
    mov $0x4080, %eax
    wrmsr
3:  pause
    cmpl $0, acked
    je 3b
    mov %ebx, expected
    movl $1, ask
4:  pause
    cmpl $0, ask
    jne 4b
    mov answer, %eax
    mov $__LINE__, %r15d
    cmp %ebx, %eax
    jne wrong
    dec %ebp
    jnz 1b
    PASS
ap:
    sti
1:  mov VA, %rax
    cmpl $0, ask
    je 1b
    mov VA, %rax
    mov %eax, answer
    movl $0, ask
    jmp 1b
on_ipi:
    push %rcx
    push %rdx
    push %rax
    invlpg VA
    movl $1, acked
    X2EOI
    pop %rax
    pop %rdx
    pop %rcx
    ret
.balign 64
acked: .long 0
ask: .long 0
answer: .long 0
expected: .long 0
#include "smp_code.inc"
#include "guest64_code.inc"
