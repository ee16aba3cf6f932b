/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A vCPU runs code in fresh pages, and changes a function and calls it, again and again: while
 * another one stores to a page of its own and to data beside the function, and while that one waits
 * in HLT. litmus_run.c looks at how much work that made. */
#include "guest64.inc"
#include "smp.inc"
#define TIMES 20000
#define FRESH 64
#define FUNCTION 0x100000
#define beside 0x100800
#define elsewhere 0x101000
GUEST(LONG, 2, NEED_NOTHING)
    BEGIN64
    movl $0x000000b8, FUNCTION      /* mov $n, %eax; ret */
    movw $0xc300, FUNCTION + 4
    AP_START(2)
    mov $0x200000, %ebx
    call fresh
    call patch
    movl $0, busy
1:  pause
    cmpl $0, halting
    je 1b
    mov $0x280000, %ebx
    call fresh
    call patch
    movl $1, busy
    mov $0x830, %ecx                /* wakes the other one */
    mov $1, %edx
    mov $0x4080, %eax
    wrmsr
2:  pause
    cmpl $0, halting
    jne 2b
    call patch
    movl $0, busy
3:  pause
    cmpl $0, halting
    je 3b
    mov elsewhere, %eax
    sub beside, %eax
    CHECK(%rax, 0)
    PASS

/* In so many pages from rbx on, with time for others to halt */
fresh:
    mov $FRESH, %ecx
6:  movb $0xc3, (%rbx)
    call *%rbx
    mov $1000, %eax
7:  pause
    dec %eax
    jnz 7b
    add $0x1000, %ebx
    dec %ecx
    jnz 6b
    ret

patch:
    mov $TIMES, %ebp
    mov $FUNCTION, %ebx
3:  mov %ebp, FUNCTION + 1
    call *%rbx
    cmp %ebp, %eax
    mov $__LINE__, %r15d
    jne wrong
    dec %ebp
    jnz 3b
    ret

ap:
4:  movl $0, halting
5:  lock incl elsewhere
    lock incl beside
    cmpl $0, busy
    jne 5b
    cli
    movl $1, halting
    sti
    hlt
    jmp 4b
.balign 64
busy: .long 1
halting: .long 0
#include "smp_code.inc"
#include "guest64_code.inc"
