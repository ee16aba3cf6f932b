/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Code that writes code: bytes across two pages that are no instruction, which only the second page
 * tells, until it changes. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_EXACT)
    BEGIN64
    movb $0x0f, 0x100fff            /* #UD, then nopl (%rax); ret */
    movl $0x00c3000a, 0x101000
    mov $0x100fff, %rbx
    FAULTS(6, 0, call *%rbx)
    FAULTS(6, 0, call *%rbx)
    movb $0x1f, 0x101000
    HOLDS(call *%rbx)
    PASS
#include "guest64_code.inc"
