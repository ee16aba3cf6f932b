/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The rarer rules: upper halves of control registers, stores across pages as a whole, MSR values. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_NOTHING)
    BEGIN64
    mov %cr0, %rbx
    mov $0x100000000, %rax
    or %rbx, %rax
    FAULTS(13, 0, mov %rax, %cr0)
    mov $0x100000, %ebx
    movq $0, 0x73000 + 0x101 * 8
    invlpg 0x101000
    FAULTS(14, 2, movq $5, 0xffc(%rbx))
    movl 0xffc(%rbx), %eax
    CHECK(%rax, 0)
    mov $0x277, %ecx
    mov $2, %eax
    xor %edx, %edx
    FAULTS(13, 0, wrmsr)
    PASS
#include "guest64_code.inc"
