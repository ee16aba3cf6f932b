/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One vCPU runs in a loop that is one block; another one changes an operand in it, the jump that
 * closes it, and a jump inside it, each time when it has run in circles for a while. */
#include "guest64.inc"
#include "smp.inc"
#define TIMES 60
#define TURNS 2000
/* Not beside the code: what is to be noticed are stores to code. */
#define turns 0x100000
#define outs 0x100040
#define others 0x100080
#define seen 0x1000c0
#define rounds 0x100100 /* litmus_run.c looks at it */
/* Until the other vCPU has made some more turns. */
#define WAIT_TURNS          \
    mov turns, %ecx;        \
    add $TURNS, %ecx;       \
    88: pause;              \
    cmp %ecx, turns;        \
    js 88b
GUEST(LONG, 2, NEED_NOTHING)
    BEGIN64
    AP_START(2)
    mov $TIMES, %ebp
    /* the operand: its last value is seen in the end */
1:  WAIT_TURNS
    mov %bpl, operand - 4
2:  pause
    cmpb %bpl, seen
    jne 2b
    /* the jump back becomes one to the way out, which makes it a jump back again */
    WAIT_TURNS
    mov outs, %ebx
    movb $way_out - back_end, back_end - 1
3:  pause
    cmp outs, %ebx
    je 3b
    /* the jump inside leads to another place, and back */
    WAIT_TURNS
    mov others, %ebx
    movb $0, inside_end - 1
4:  pause
    cmp others, %ebx
    je 4b
    movb $counting - inside_end, inside_end - 1
5:  mov others, %ebx
    WAIT_TURNS
    cmp others, %ebx
    jne 5b
    incl rounds
    dec %ebp
    jnz 1b
    PASS

.balign 64
ap:
loop_head:
    mov $0, %eax
operand:
    mov %al, seen
    test %eax, %eax
    jns counting
inside_end:
    incl others
counting:
    incl turns
    jmp loop_head
back_end:
way_out:
    movb $loop_head - back_end, back_end - 1
    xor %eax, %eax
    cpuid
    incl outs
    jmp loop_head
#include "smp_code.inc"
#include "guest64_code.inc"
