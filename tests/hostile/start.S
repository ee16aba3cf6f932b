/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where the hostile guest begins: PVH entry of the first CPU, and the way of the second one into 32-bit code. */
    .set AP_PAGE, 0x6000

    .section .note.pvh, "a", @note
    .long 4, 4, 18                  /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start

    .text
    .code32
    .globl start, ap_code, ap_code_end
start:
    cli
    movl $stack_end, %esp
    pushl %ebx                      /* hvm_start_info */
    call hostile_main
1:  hlt
    jmp 1b

/* Copied to AP_PAGE; SIPI starts it there in real mode. */
    .code16
ap_code:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl AP_PAGE + gdt_pointer - ap_code
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $8, $ap_protected
    .balign 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word 23
    .long AP_PAGE + gdt - ap_code
ap_code_end:

    .code32
ap_protected:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $ap_stack_end, %esp
    call hostile_second
1:  hlt
    jmp 1b

    .bss
    .balign 16
    .space 16384
stack_end:
    .space 16384
ap_stack_end:
    .section .note.GNU-stack, "", @progbits
