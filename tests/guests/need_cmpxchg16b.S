/* SPDX-License-Identifier: GPL-2.0-or-later */
/* CMPXCHG16B at CPL 0. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_NOTHING)
    BEGIN64
    mov $0x100000, %edi
    mov (%rdi), %rax
    mov 8(%rdi), %rdx
    mov $5, %ebx
    mov $6, %ecx
    lock cmpxchg16b (%rdi)
    mov 8(%rdi), %rax
    CHECK(%rax, 6)
    PASS
#include "guest64_code.inc"
