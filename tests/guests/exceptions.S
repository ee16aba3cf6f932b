/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Exceptions of long mode with their error codes, at CPL 0. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_CONTROL | NEED_EXACT)
    BEGIN64
    xor %edx, %edx
    mov $1, %eax
    xor %ecx, %ecx
    FAULTS(0, 0, div %ecx)
    mov $0x80000000, %eax
    mov $-1, %edx
    mov $-1, %ecx
    FAULTS(0, 0, idiv %ecx)
    FAULTS(6, 0, ud2)
    mov $0x800000000000, %rbx
    FAULTS(13, 0, mov (%rbx), %eax)
    FAULTS(13, 0, mov %eax, (%rbx))
    mov $0x800000000000, %rbp
    FAULTS(12, 0, mov (%rbp), %eax)
    /* only the end is none: before the page fault of what comes first */
    dec %rbx
    dec %rbp
    FAULTS(14, 0, mov (%rbx), %al)
    FAULTS(13, 0, mov (%rbx), %ax)
    FAULTS(13, 0, mov %rax, (%rbx))
    FAULTS(13, 0, lock; xadd %eax, (%rbx))
    FAULTS(13, 0, btsl $1, (%rbx))
    FAULTS(12, 0, mov (%rbp), %rax)
    mov $0x50, %eax
    FAULTS(13, 0x58, mov $0x58, %eax; mov %eax, %ds)
    xor %eax, %eax
    HOLDS(mov %eax, %ds)
    mov $0x123, %ecx
    FAULTS(13, 0, rdmsr)
    mov %cr0, %rax
    mov %rax, %rbx
    and $~1, %rax
    FAULTS(13, 0, mov %rax, %cr0)
    mov $0x100000000, %rax
    or %rbx, %rax
    FAULTS(13, 0, mov %rax, %cr0)
    mov %cr4, %rax
    mov %rax, %rbx
    and $~0x20, %rax
    FAULTS(13, 0, mov %rax, %cr4)
    mov $0x40000000, %eax
    or %rbx, %rax
    FAULTS(13, 0, mov %rax, %cr4)
    /* not present: error 0 for reads, 2 for writes, and CR2 */
    mov $0x40000000, %rbx
    FAULTS(14, 0, mov 8(%rbx), %eax)
    CHECKM(got_cr2, 0x40000008)
    FAULTS(14, 2, mov %eax, 16(%rbx))
    CHECKM(got_cr2, 0x40000010)
    /* fetching there: error 0 without NX, RIP is the target */
    FAULTS(14, 0, jmp *%rbx)
    CHECKM(got_rip, 0x40000000)
    /* a fault is restartable: nothing has changed */
    mov $7, %ecx
    mov $5, %eax
    FAULTS(14, 2, xchg %eax, (%rbx))
    CHECK(%rax, 5)
    FAULTS(14, 2, lock; xadd %ecx, (%rbx))
    CHECK(%rcx, 7)
    PASS
#include "guest64_code.inc"
