/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SYSENTER and SYSEXIT in 32-bit mode: selectors from one MSR, flat segments, IF cleared. */
#include "guest32.inc"
GUEST(PROTECTED, 1, NEED_SYSCALL)
    BEGIN32
    mov $1, %eax
    cpuid
    bt $11, %edx
    jc 1f
    EXIT(SKIP)
1:  /* CS, SS, user CS, user SS are four in a row: make a GDT for that */
    cld
    mov $0x7f000, %esi
    mov $0x100000, %edi
    mov $0x60 / 4, %ecx
    rep movsl
    movl $0x0000ffff, 0x100000 + 12 * 8
    movl $0x00cf9b00, 0x100000 + 12 * 8 + 4
    movl $0x0000ffff, 0x100000 + 13 * 8
    movl $0x00cf9300, 0x100000 + 13 * 8 + 4
    movl $0x0000ffff, 0x100000 + 14 * 8
    movl $0x00cffb00, 0x100000 + 14 * 8 + 4
    movl $0x0000ffff, 0x100000 + 15 * 8
    movl $0x00cff300, 0x100000 + 15 * 8 + 4
    lgdt pointer
    mov $0x174, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    FAULTS(13, 0, sysenter)
    mov $0x60, %eax
    wrmsr
    mov $0x175, %ecx
    mov $0x6a000, %eax
    wrmsr
    mov $0x176, %ecx
    mov $kernel, %eax
    wrmsr
    sti
    mov $user, %edx
    mov $0x6b000, %ecx
    sysexit
user:
    mov %cs, %ax
    movzwl %ax, %ebx
    mov %ss, %ax
    movzwl %ax, %esi
    mov %esp, %edi
    sysenter
kernel:
    pushf
    pop %ebp
    CHECK(%ebx, 0x73)
    CHECK(%esi, 0x7b)
    CHECK(%edi, 0x6b000)
    CHECK(%esp, 0x6a000)
    and $0x200, %ebp
    CHECK(%ebp, 0)
    mov %cs, %ax
    movzwl %ax, %eax
    CHECK(%eax, 0x60)
    mov %ss, %ax
    movzwl %ax, %eax
    CHECK(%eax, 0x68)
    PASS
.balign 8
pointer:
    .word 16 * 8 - 1
    .long 0x100000
#include "guest32_code.inc"
