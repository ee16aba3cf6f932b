/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Paging of 32 bits. */
#include "guest32.inc"
GUEST(PROTECTED, 1, NEED_NOTHING)
    BEGIN32
    mov %cr4, %eax
    or $0x10, %eax
    mov %eax, %cr4
    movl $0x83, 0x100000
    mov $0x100000, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    FAULTS(14, 0, mov 0x400000, %eax)
    PASS
#include "guest32_code.inc"
