/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two vCPUs that write at CPL 3 for ever, by the same few instructions, for a long time to a page
 * before they go to another one: what an engine remembers of where a store went last must go when
 * the page is to be noticed again. With and without an index register.
 */
#include "guest64.inc"
#include "smp.inc"
#define PAGES 0x100000
#define PAGES_BITS 19           /* for each vCPU */
#define STORES 2000000          /* to each page: milliseconds, in which a round of the log ends */
GUEST(LONG, 2, NEED_TSS)
    BEGIN64
    USERS_MAY
    AP_START(2)
    xor %ebx, %ebx
ap:
    push $SEL_USER_DATA
    push $0
    push $2
    push $SEL_USER64
    push $user
    iretq

user:
    mov %ebx, %ebp
    shl $PAGES_BITS, %ebp
    add $PAGES, %ebp
    mov $88172645463325252, %rax
    mov $16, %edi
1:  XORSHIFT(%rax, %rdx)
    mov %eax, %esi
    and $(1 << PAGES_BITS) - 0x1000, %esi
    add %ebp, %esi
    mov $STORES, %ecx
2:  incq (%rsi)
    mov %rcx, 8(%rsi)
    add %rcx, (%rsi, %rdi)
    dec %ecx
    jnz 2b
    jmp 1b
#include "smp_code.inc"
#include "guest64_code.inc"
