/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SYSCALL leaves user mode. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_NOTHING)
    BEGIN64
    USERS_MAY
    SYSCALL_TO(entered)
    mov $user, %ecx
    mov $2, %r11d
    sysretq
user:
    syscall
entered:
    mov %cs, %eax
    CHECK(%rax, SEL_CODE64)
    PASS
#include "guest64_code.inc"
