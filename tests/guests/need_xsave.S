/* SPDX-License-Identifier: GPL-2.0-or-later */
/* x87, SSE and their state at CPL 0. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_NOTHING)
    BEGIN64
    mov %cr0, %rax
    and $~0xc, %eax
    mov %rax, %cr0
    mov %cr4, %rax
    or $0x600, %eax
    mov %rax, %cr4
    mov $0x100000, %edi
    fninit
    fldpi
    pxor %xmm0, %xmm0
    fxsave64 (%rdi)
    fxrstor64 (%rdi)
    PASS
#include "guest64_code.inc"
