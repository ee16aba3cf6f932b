/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Breakpoints and single steps of the guest's own. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_NOTHING)
    BEGIN64
    mov $bp, %eax
    mov %rax, %dr0
    mov $0x402, %eax
    mov %rax, %dr7
    FAULTS(1, 0, bp: nop)
    mov $0x400, %eax
    mov %rax, %dr7
    FAULTS(1, 0, push $0x102; popf; nop; nop)
    mov $0x100000, %eax
    mov %rax, %dr1
    mov $0xd00408, %eax
    mov %rax, %dr7
    mov $0x100000, %ebx
    FAULTS(1, 0, movb $1, 3(%rbx); nop)
    mov $0x2400, %eax
    mov %rax, %dr7
    FAULTS(1, 0, mov %dr0, %rax)
    PASS
#include "guest64_code.inc"
