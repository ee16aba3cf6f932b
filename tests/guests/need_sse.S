/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SSE at CPL 0. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_NOTHING)
    BEGIN64
    mov %cr4, %rax
    or $0x600, %eax
    mov %rax, %cr4
    mov %cr0, %rax
    and $~0xc, %eax
    mov %rax, %cr0
    mov $0x12345678, %eax
    movd %eax, %xmm0
    paddd %xmm0, %xmm0
    movd %xmm0, %eax
    CHECK(%rax, 0x2468acf0)
    PASS
#include "guest64_code.inc"
