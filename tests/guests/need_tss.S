/* SPDX-License-Identifier: GPL-2.0-or-later */
/* User mode and back by an interrupt onto the stack that the TSS names. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_NOTHING)
    BEGIN64
    movq $back, hook
    movw $0xee00, 0x7e000 + 0x80 * 16 + 4
    USERS_MAY
    push $SEL_USER_DATA
    push $0x6d000
    push $2
    push $SEL_USER64
    push $user
    iretq
back:
    mov 48(%rsp), %rax
    CHECK(%rax, SEL_USER64)
    lea 80(%rsp), %rax
    CHECK(%rax, 0x6f000)
    PASS
user:
    int $0x80
#include "guest64_code.inc"
