/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Two vCPUs that write all over memory above 1 MiB for ever: words, bytes across pages, strings. */
#include "guest64.inc"
#include "smp.inc"
GUEST(LONG, 2, NEED_NOTHING)
    BEGIN64
    AP_START(2)
    xor %ebx, %ebx
ap:
    mov $88172645463325252, %rax
    inc %ebx
    imul %rbx, %rax
    cld
1:  XORSHIFT(%rax, %rdx)
    mov %eax, %edx
    and $0x7fffff, %edx
    add %rax, 0x200000(%rdx)
    lock incl 0x100000(, %rbx, 4)
    test $0x7f, %ah
    jnz 1b
    lea 0x300000(%rdx), %edi
    mov $0x300, %ecx
    rep stosq
    jmp 1b
#include "smp_code.inc"
#include "guest64_code.inc"
