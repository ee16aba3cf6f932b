/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The code behind smp.h. */
.code16
trampoline:
    cli
    cs lgdtl trampoline_gdt - trampoline
    mov $0x20, %eax
    mov %eax, %cr4
    mov $0x70000, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    xor %edx, %edx
    mov $0x100, %eax
    wrmsr
    mov $0x80000031, %eax
    mov %eax, %cr0
    ljmpl $SEL_CODE64, $ap_entry
trampoline_gdt:
    .word 0x57
    .long 0x7f000
trampoline_end:
.code64
ap_entry:
    mov $SEL_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    lidt ap_idt
    X2APIC_ON
    mov $0x802, %ecx
    rdmsr
    mov %eax, %ebx
    mov %eax, %ecx
    shl $12, %ecx
    mov $0x6d000, %esp
    sub %rcx, %rsp
    lock incl ap_count
    jmp ap
.balign 8
ap_idt:
    .word 0xfff
    .quad 0x7e000
ap_count: .long 0
