/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SYSCALL leaves user mode. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_NOTHING)
    BEGIN64
    orq $4, 0x70000
    orq $4, 0x71000
    orq $4, 0x72000
    mov $0x73000, %edi
    mov $512, %ecx
1:  orq $4, (%rdi)
    add $8, %edi
    loop 1b
    mov %cr3, %rax
    mov %rax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $1, %eax
    wrmsr
    mov $0xc0000081, %ecx
    xor %eax, %eax
    mov $0x00330008, %edx
    wrmsr
    mov $0xc0000082, %ecx
    mov $entered, %eax
    xor %edx, %edx
    wrmsr
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
