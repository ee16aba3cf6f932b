/* SPDX-License-Identifier: GPL-2.0-or-later */
/* CMPXCHG8B and CMPXCHG16B: both outcomes, alignment, and no write where there may be none. */
#include "guest64.inc"
#define AT 0x100000
GUEST(LONG, 1, NEED_CMPXCHG16B)
    BEGIN64
    mov $AT, %edi
    movq $0x1111, (%rdi)
    movq $0x2222, 8(%rdi)
    mov $0x1111, %eax
    mov $0x2222, %edx
    mov $0x3333, %ebx
    mov $0x4444, %ecx
    lock cmpxchg16b (%rdi)
    mov $__LINE__, %r15d
    jne wrong
    mov (%rdi), %rax
    CHECK(%rax, 0x3333)
    mov 8(%rdi), %rax
    CHECK(%rax, 0x4444)
    mov $0x3333, %eax
    xor %edx, %edx
    lock cmpxchg16b (%rdi)
    mov $__LINE__, %r15d
    je wrong
    CHECK(%rax, 0x3333)
    CHECK(%rdx, 0x4444)
    FAULTS(13, 0, lock; cmpxchg16b 8(%rdi))
    mov $0x40000000, %edi
    FAULTS(14, 2, lock; cmpxchg16b (%rdi))
    PASS
#include "guest64_code.inc"
