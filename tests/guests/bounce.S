/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Work that is moved between engines while it runs (moves_run.c): a hash over memory whose value is
 * known, periodic interrupts meanwhile, then two vCPUs that hand a number to and fro with HLT and
 * IPIs, then one-shot timers out of HLT.
 */
#include "guest64.inc"
#include "smp.inc"
#define HASH_ROUNDS 40000000
#define HASH_RESULT 0x26504027780911e2
#define HASH_MEMORY 0x8e277396eb37feb7
GUEST(LONG, 2, NEED_NOTHING)
    BEGIN64
    movq $on_interrupt, hook
    AP_START(2)
    /* a tick each millisecond */
    X2WRITE(0x83e, 0xb)
    X2WRITE(0x832, 0x20070)
    X2WRITE(0x838, 1000000)
    sti
    mov $88172645463325252, %rax
    mov $HASH_ROUNDS, %ecx
    mov $0x100000, %edi
1:  XORSHIFT(%rax, %rdx)
    mov %eax, %edx
    and $0xffff8, %edx
    xor %rax, (%rdi, %rdx)
    dec %ecx
    jnz 1b
    CHECK(%rax, HASH_RESULT)
    /* what is in memory folds to a known value, too */
    xor %eax, %eax
    mov $0x20000, %ecx
    mov $0x100000, %esi
2:  rol %rax
    xor (%rsi), %rax
    add $8, %esi
    loop 2b
    CHECK(%rax, HASH_MEMORY)
    mov $__LINE__, %r15d
    cmpl $3, taken + 0x70 * 4
    jb wrong
    X2WRITE(0x838, 0)
    /* ping-pong: 200 times there and back */
    mov $200, %ebp
3:  mov $0x830, %ecx
    mov $1, %edx
    mov $0x4080, %eax
    wrmsr
4:  cli
    cmpl $0, pong
    jne 5f
    sti
    hlt
    jmp 4b
5:  movl $0, pong
    sti
    dec %ebp
    jnz 3b
    mov pings, %eax
    CHECK(%rax, 200)
    /* one-shot timers: 2 ms each; never one too few, at most a few more than asked for */
    X2WRITE(0x832, 0x71)
    mov $20, %ebp
6:  mov taken + 0x71 * 4, %ebx
    X2WRITE(0x838, 2000000)
7:  cli
    cmp %ebx, taken + 0x71 * 4
    jne 8f
    sti
    hlt
    jmp 7b
8:  sti
    dec %ebp
    jnz 6b
    PASS
ap: sti
    hlt
    jmp ap
on_interrupt:
    push %rax
    push %rcx
    push %rdx
    X2EOI
    cmp $0x80, %edi
    jne 1f
    incl pings
    mov $0x830, %ecx
    xor %edx, %edx
    mov $0x4081, %eax
    wrmsr
1:  cmp $0x81, %edi
    jne 2f
    movl $1, pong
2:  pop %rdx
    pop %rcx
    pop %rax
    ret
.balign 64
pong: .long 0
pings: .long 0
#include "smp_code.inc"
#include "guest64_code.inc"
