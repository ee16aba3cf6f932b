/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One vCPU runs a function in fresh pages; the other changes it between the moment when its bytes
 * are read and the one when everybody knows that the page holds code (race_run.c stops both there).
 * It does so once: who keeps what was read will run it for ever. In one page, and in the second of
 * two.
 */
#include "guest64.inc"
#include "smp.inc"
#define STAND 0x20000000        /* reading it waits until the bytes were read */
#define STANDS 0x20000004       /* does somebody wait there? */
#define OLD 0x0001600d          /* the lower half is how race_run.c knows the function */
#define NEW 0x0002600d
#define PAIRS 32                /* of pages */
#define target 0x100000         /* the function; in no page with code */
GUEST(LONG, 2, NEED_NOTHING)
    BEGIN64
    AP_START(2)
    mov $0x200100, %ebx
    call in_fresh_pages
    mov $0x400ffd, %ebx
    call in_fresh_pages
    PASS

in_fresh_pages:
    mov $PAIRS, %ebp
1:  movb $0xb8, (%rbx)          /* mov $OLD, %eax; ret */
    movl $OLD, 1(%rbx)
    movb $0xc3, 5(%rbx)
    mov %rbx, target
2:  pause
    cmpl $0, STANDS
    je 2b
    call *%rbx                  /* at the same time: either */
    call *%rbx
    CHECK(%rax, NEW)
3:  pause
    cmpq $0, target
    jne 3b
    add $0x2000, %ebx
    dec %ebp
    jnz 1b
    ret

ap:
1:  pause
    mov target, %rsi
    test %rsi, %rsi
    jz 1b
    orw $0, 3(%rsi)             /* the page is known as one to write to */
    jmp 2f
2:  mov STAND, %eax             /* one block: no look at requests before the store */
    movw $NEW >> 16, 3(%rsi)
    jmp 3f
3:  movq $0, target
    jmp 1b
#include "smp_code.inc"
#include "guest64_code.inc"
