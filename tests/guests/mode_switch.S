/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From real mode to protected mode, to long mode, to compatibility mode, and all the way back. */
#include "guest.inc"
#define ANSWER(label) movl $__LINE__, %eax; jmp label
.code16
GUEST(REAL, 1, NEED_NOTHING)
    cli
    lgdtl gdt_pointer
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $SEL_CODE32, $in32
.code32
in32:
    mov $SEL_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0x6d000, %esp
    /* 4 GiB limit: a byte above 1 MiB */
    movl $0x51525354, 0x200000
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov $0x70000, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    /* compatibility mode now: LMA is set */
    rdmsr
    test $0x400, %eax
    jnz 1f
    ANSWER(wrong32)
1:  ljmp $SEL_CODE64, $in64
.code64
in64:
    mov $0x1122334455667788, %rax
    mov %rax, %r9
    shr $32, %rax
    cmp $0x11223344, %rax
    je 1f
    ANSWER(wrong)
1:  cmpl $0x51525354, 0x200000
    je 1f
    ANSWER(wrong)
1:  /* to compatibility mode: r8-r15 sleep, 32-bit operations wrap */
    ljmp *to_compat
.code32
back:
    mov $0xffffffff, %eax
    inc %eax
    jz 1f
    ANSWER(wrong32)
1:  ljmp $SEL_CODE64, $again64
.code64
again64:
    mov $0x1122334455667788, %rax
    cmp %rax, %r9
    je 1f
    ANSWER(wrong)
1:  ljmp *to_leave
.code32
leave:
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov $0xc0000080, %ecx
    rdmsr
    test $0x400, %eax
    jz 1f
    ANSWER(wrong32)
1:  and $~0x100, %eax
    wrmsr
    mov $SEL_DATA16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    ljmp $SEL_CODE16, $in16
.code16
in16:
    mov %cr0, %eax
    and $~1, %eax
    mov %eax, %cr0
    ljmp $0, $real
real:
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0xfff0, %sp
    mov $0x1000, %ax
    mov %ax, %es
    movw $0x4711, %es:0
    mov 0x0, %bx
    cmpw $0x4711, %es:0
    je 1f
    movl $__LINE__, %eax
    mov $PORT_EXIT, %dx
    out %eax, %dx
1:  PASS
.code32
wrong32:
wrong:
    mov $PORT_EXIT, %edx
    out %eax, %dx
    hlt
.balign 8
gdt_pointer:
    .word 0x57
    .long 0x7f000
.balign 8
to_compat:
    .long back
    .word SEL_CODE32
.balign 8
to_leave:
    .long leave
    .word SEL_CODE32
