/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A page fault whose handler cannot be entered is a double fault, on a stack of its own. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_TSS)
    BEGIN64
    /* #DF by IST 1; #PF on a stack that is not there */
    movb $1, 0x7e000 + 8 * 16 + 4
    mov %rsp, %rbx
    mov $0x50000000, %rsp
    movq $77f, resume_rip
    mov %rbx, resume_rsp
    mov 0x60000000, %eax
77: movq $0, resume_rip
    CHECKM(got_vector, 8)
    CHECKM(got_error, 0)
    /* on IST 1: five words, error code, vector, rax, rdi below 0x6e000 */
    CHECKM(got_stack, 0x6e000 - 9 * 8)
    CHECKM(got_rsp, 0x50000000)
    PASS
#include "guest64_code.inc"
