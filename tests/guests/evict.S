/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * More code than a small code cache holds: four vCPUs each write functions of their own, other ones
 * each round, and call them and shared ones in turn. The sums are known (litmus_run.c).
 */
#include "guest64.inc"
#include "smp.inc"
#define FUNCTIONS 2048
#define ROUNDS 40
#define SHARED 0x400000
#define SUM (FUNCTIONS * (FUNCTIONS - 1) / 2)
GUEST(LONG, 4, NEED_NOTHING)
    BEGIN64
    xor %r8d, %r8d
    mov $SHARED, %edi
    mov $3, %r9d
    call functions_write
    AP_START(4)
    xor %ebx, %ebx
ap:
    mov %ebx, %ebp
    shl $18, %ebp
    add $0x200000, %ebp
    mov $1, %r8d
1:  mov %ebp, %edi
    mov $1, %r9d
    call functions_write
    xor %eax, %eax
    xor %ecx, %ecx
2:  mov %ecx, %edx
    shl $4, %edx
    lea (%rbp, %rdx), %rsi
    call *%rsi
    lea SHARED(%rdx), %esi
    call *%rsi
    inc %ecx
    cmp $FUNCTIONS, %ecx
    jne 2b
    mov $FUNCTIONS, %edx
    imul %r8d, %edx
    add $4 * SUM, %edx
    mov %rdx, %r14
    mov %rax, %r13
    mov $__LINE__, %r15d
    cmp %eax, %edx
    jne wrong
    inc %r8d
    cmp $ROUNDS + 1, %r8d
    jne 1b
    lock incl done
    test %ebx, %ebx
    jnz 4f
3:  pause
    cmpl $4, done
    jne 3b
    PASS
4:  hlt
    jmp 4b

/* Function n at edi + 16 n: add $n * r9 + r8, %eax; test %al, %al; jnz to the next; ret */
functions_write:
    xor %ecx, %ecx
1:  mov %ecx, %eax
    imul %r9d, %eax
    add %r8d, %eax
    movb $0x05, (%rdi)
    mov %eax, 1(%rdi)
    movl $0x0075c084, 5(%rdi)
    movb $0xc3, 9(%rdi)
    add $16, %edi
    inc %ecx
    cmp $FUNCTIONS, %ecx
    jne 1b
    ret
.balign 8
done: .long 0
#include "smp_code.inc"
#include "guest64_code.inc"
