/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Data beside code, and data that becomes code: in each of many pages, one vCPU stores data all over
 * a page with code in it, then makes a function of some of it, changes that where it is, and makes
 * another behind it, while the other vCPU stores to the page, too, and calls what it is told. Each
 * call finds the newest version, and no store is lost.
 */
#include "guest64.inc"
#include "smp.inc"
#define PAGES 0x100000
#define PAGES_END 0x104000
#define STEP 0x80
#define LAST 0xe00
#define CALLS 80
GUEST(LONG, 2, NEED_NOTHING)
    BEGIN64
    AP_START(2)
    mov $PAGES, %ebx
1:  movb $0xc3, (%rbx)              /* ret */
    mov $400, %ecx                  /* often enough that it is kept, and that the page goes by what
                                       of it is code */
2:  call *%rbx
    pause
    mov %ecx, 0xf00(%rbx)
    dec %ecx
    jnz 2b
    mov $STEP, %ebp
3:  lea (%rbx, %rbp), %edi
    movl $0x55555555, (%rdi)
    movl $0x66666666, 4(%rdi)
    movb $0xb8, (%rdi)              /* mov $address, %eax; ret */
    mov %edi, 1(%rdi)
    movb $0xc3, 5(%rdi)
    mov %edi, %esi
    call turn
    not %esi
    mov %esi, 1(%rdi)
    call turn
    incl 0xf04(%rbx)
    add $STEP, %ebp
    cmp $LAST, %ebp
    jne 3b
    mov 0xf04(%rbx), %eax
    CHECK(%rax, LAST / STEP - 1)
    mov 0xf08(%rbx), %eax
    CHECK(%rax, 2 * (LAST / STEP - 1))
    add $0x1000, %ebx
    cmp $PAGES_END, %ebx
    jne 1b
    PASS

/* Both call the function at rdi, which is to answer esi: often, so that it is kept. */
turn:
    mov $CALLS, %ecx
7:  pause
    call *%rdi
    mov $__LINE__, %r15d
    cmp %esi, %eax
    jne wrong
    dec %ecx
    jnz 7b
    mov %esi, expected
    mov %edi, target
    incl turns
4:  pause
    mov done, %eax
    cmp %eax, turns
    jne 4b
    mov $__LINE__, %r15d
    cmpl $0, bad
    jne wrong
    ret

ap:
5:  pause
    mov turns, %ebp
    cmp %ebp, done
    je 5b
    xor %eax, %eax
    cpuid
    mov target, %edi
    mov $CALLS, %ecx
8:  pause
    call *%rdi
    cmp expected, %eax
    je 6f
    movl $1, bad
6:  dec %ecx
    jnz 8b
    and $-0x1000, %edi
    incl 0xf08(%rdi)
    mov %ebp, done
    jmp 5b
.balign 64
turns: .long 0
done: .long 0
target: .long 0
expected: .long 0
bad: .long 0
#include "smp_code.inc"
#include "guest64_code.inc"
