/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Code that has run hot, and then changes: beside its own data, by a patched jump, by a patched
 * operand deep in a loop, under a new mapping, and while a second vCPU runs in it. Then loops that
 * only an interrupt ends.
 */
#include "guest64.inc"
#include "smp.inc"
#define HOT 3000
GUEST(LONG, 2, NEED_NOTHING)
    BEGIN64
    movq $on_interrupt, hook
    /* data in the page of the loop */
    mov $HOT, %ecx
1:  incl beside
    add %ecx, sum
    dec %ecx
    jnz 1b
    mov beside, %eax
    CHECK(%rax, HOT)
    mov sum, %eax
    CHECK(%rax, HOT * (HOT + 1) / 2)
    /* a direct jump, hot, turned to another target and back, many times */
    mov $20, %ebp
2:  mov $HOT, %ecx
    xor %ebx, %ebx
3:  jmp one
jump_end:
one:
    inc %ebx
    jmp 4f
two:
    add $2, %ebx
4:  dec %ecx
    jnz 3b
    mov $__LINE__, %r15d
    test $1, %ebp
    jnz 5f
    cmp $HOT, %ebx
    jne wrong
    movb $two - jump_end, jump_end - 1
    jmp 6f
5:  cmp $2 * HOT, %ebx
    jne wrong
    movb $one - jump_end, jump_end - 1
6:  dec %ebp
    jnz 2b
    /* a loop that changes the operand of one of its own instructions now and then */
    xor %ebx, %ebx
    mov $HOT, %ecx
7:  test $0xff, %cl
    jnz 8f
    addb $1, operand - 1
8:  add $0, %ebx
operand:
    dec %ecx
    jnz 7b
    movb $0, operand - 1
    CHECK(%rbx, 256 * (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9 + 10 + 11))
    /* hot code in a page that is mapped away, and back; the call comes from another page */
    movl $0x000011b8, 0x102000
    movw $0xc300, 0x102004
    movl $0x000022b8, 0x103000
    movw $0xc300, 0x103004
    mov $10, %ebp
9:  mov $HOT, %ecx
    xor %ebx, %ebx
1:  mov $0x102000, %eax
    call *%rax
    add %eax, %ebx
    dec %ecx
    jnz 1b
    mov $__LINE__, %r15d
    cmp $0x11 * HOT, %ebx
    je 2f
    cmp $0x22 * HOT, %ebx
    jne wrong
2:  mov 0x73000 + 0x102 * 8, %rax
    and $~0xff, %eax
    mov $0x102003, %edx
    mov $0x103003, %esi
    cmp $0x102000, %eax
    cmove %rsi, %rdx
    mov %rdx, 0x73000 + 0x102 * 8
    invlpg 0x102000
    cmp %rsi, %rdx
    mov $0x22 * HOT, %eax
    mov $0x11 * HOT, %edx
    cmove %eax, %edx
    mov %edx, next
    dec %ebp
    jz 4f
    mov $HOT, %ecx
    xor %ebx, %ebx
3:  mov $0x102000, %eax
    call *%rax
    add %eax, %ebx
    dec %ecx
    jnz 3b
    mov $__LINE__, %r15d
    cmp next, %ebx
    jne wrong
    jmp 9b
4:  /* a second vCPU spins on a jump that this one turns; it must get out each time */
    AP_START(2)
    mov $1, %ebp
5:  movl $0, out
    movl %ebp, in
    mov $20000, %ecx
6:  pause
    dec %ecx
    jnz 6b
    movb $0, turn + 1               /* jmp . + 2: out of the loop */
7:  pause
    cmpl $0, out
    je 7b
    inc %ebp
    cmp $50, %ebp
    jne 5b
    /* nothing but an interrupt ends these */
    X2WRITE(0x83e, 0xb)
    X2WRITE(0x832, 0x70)
    movq $after_jmp, leave_to
    X2WRITE(0x838, 1000000)
    sti
    jmp .
after_jmp:
    movq $after_rep, leave_to
    X2WRITE(0x838, 1000000)
    mov $0x100000, %esi
    mov $0x100000, %edi
1:  mov $-1, %rcx
    addr32 rep lodsb
    jmp 1b
after_rep:
    cli
    PASS

ap:
1:  pause
    cmpl $0, in
    je 1b
    movl $0, in
    xor %eax, %eax
    cpuid
turn:
    jmp turn
    movb $0xfe, turn + 1
    xor %eax, %eax
    cpuid
    movl $1, out
    jmp 1b

on_interrupt:
    push %rax
    push %rcx
    push %rdx
    X2EOI
    mov leave_to, %rax
    pop %rdx
    pop %rcx
    test %rax, %rax
    jz 1f
    mov %rax, 48(%rsp)
1:  pop %rax
    ret
.balign 8
leave_to: .quad 0
beside: .long 0
sum: .long 0
next: .long 0
in: .long 0
out: .long 0
#include "smp_code.inc"
#include "guest64_code.inc"
