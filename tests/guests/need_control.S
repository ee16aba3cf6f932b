/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes to control registers are checked, and WP is obeyed at CPL 0. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_NOTHING)
    BEGIN64
    mov %cr0, %rax
    and $~1, %rax
    FAULTS(13, 0, mov %rax, %cr0)
    mov %cr0, %rax
    or $0x10000, %rax
    mov %rax, %cr0
    movq $0x100001, 0x73800
    mov $0x100000, %rbx
    invlpg (%rbx)
    FAULTS(14, 3, movl $3, (%rbx))
    PASS
#include "guest64_code.inc"
