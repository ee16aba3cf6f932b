/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest of a few hundred bytes (PVH, 32-bit, no paging) that obeys letters from its serial port:
 *
 *   p  power off        r  reset         t  triple fault     h  halt for ever, interrupts off
 *   f  fill 8 MiB       v  check them    i  add 1 to a counter in memory and print it
 *   u  print the UUID of SMBIOS structure 1, byte by byte
 *   w  start the watchdog of a PC (TCO), which fires some seconds later
 *
 * It says "ready" when it starts and answers each letter with a line. With a command line that begins with b it powers off when the
 * power button is pressed.
 */
    .set COM1, 0x3f8
    .set PM_STATUS, 0x600
    .set PM_STATUS_BUTTON, 1 << 8
    .set PM_CONTROL, 0x604
    .set CMDLINE, 24                /* in PVH's start info */
    .set TCO_RLD, 0x660
    .set FILL_START, 0x400000
    .set FILL_WORDS, 0x200000
    .set SMBIOS, 0xf0000
    .set SMBIOS_TABLE, 16           /* of the entry point: address of the structures */
    .set SMBIOS_SYSTEM, 1           /* the structure's type */
    .set SYSTEM_UUID, 8             /* where the UUID lies in it */

    .section .note.pvh, "a", @note
    .long 4, 4, 18                  /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start

    .text
    .code32
    .globl start, wait_letter, counted
start:
    movl $stack_end, %esp
    movl $0, counter
    movl CMDLINE(%ebx), %esi        /* 0: there is none, and address 0 holds no b */
    movb (%esi), %al
    movb %al, obeys
    movl $hello, %esi
    call print

wait_letter:
    cmpb $'b', obeys
    jne 1f
    movw $PM_STATUS, %dx
    inw %dx, %ax
    testw $PM_STATUS_BUTTON, %ax
    jnz power_off
1:  movw $(COM1 + 5), %dx
    inb %dx, %al
    testb $1, %al
    jnz take_letter
    pause
    jmp wait_letter
take_letter:
    movw $COM1, %dx
    inb %dx, %al
    cmpb $'p', %al
    je power_off
    cmpb $'r', %al
    je reset
    cmpb $'t', %al
    je triple_fault
    cmpb $'h', %al
    je halt
    cmpb $'f', %al
    je fill
    cmpb $'v', %al
    je verify
    cmpb $'i', %al
    je count
    cmpb $'u', %al
    je uuid
    cmpb $'w', %al
    je watchdog
    jmp wait_letter

power_off:
    movw $PM_CONTROL, %dx
    movw $(5 << 10 | 1 << 13), %ax
    outw %ax, %dx
    jmp wait_letter
reset:
    movb $0xfe, %al
    outb %al, $0x64
    jmp wait_letter
triple_fault:
    lidt no_idt
    int3
halt:
    cli
    hlt
    jmp halt

fill:                               /* each word holds its own address, turned over */
    movl $FILL_START, %edi
    movl $FILL_WORDS, %ecx
1:  movl %edi, %eax
    notl %eax
    stosl
    loop 1b
    movl $filled, %esi
    call print
    jmp wait_letter
verify:
    movl $FILL_START, %esi
    movl $FILL_WORDS, %ecx
1:  movl %esi, %edx
    notl %edx
    lodsl
    cmpl %eax, %edx
    jne 2f
    loop 1b
    movl $good, %esi
    call print
    jmp wait_letter
2:  movl $bad, %esi
    call print
    jmp wait_letter
count:
    incl counter
counted:
    movl counter, %ebx
    movl $8, %ecx
    call print_hex
    movb $'\n', %al
    call print_char
    jmp wait_letter
uuid:
    movl SMBIOS + SMBIOS_TABLE, %edi
1:  cmpb $SMBIOS_SYSTEM, (%edi)
    je 3f
    movzbl 1(%edi), %eax            /* over the formatted part, then to the two zeros behind the strings */
    addl %eax, %edi
2:  incl %edi
    cmpw $0, -1(%edi)
    jne 2b
    incl %edi
    jmp 1b
3:  leal SYSTEM_UUID(%edi), %esi
    movl $16, %ebp
4:  lodsb
    movzbl %al, %ebx
    shll $24, %ebx
    movl $2, %ecx
    call print_hex
    decl %ebp
    jnz 4b
    movb $'\n', %al
    call print_char
    jmp wait_letter

watchdog:
    movw $TCO_RLD, %dx
    outw %ax, %dx
    jmp wait_letter

print_hex:                          /* the upper ecx digits of ebx */
    roll $4, %ebx
    movl %ebx, %eax
    andl $15, %eax
    movb digits(%eax), %al
    call print_char
    loop print_hex
    ret

print:                              /* the text at esi */
    lodsb
    testb %al, %al
    jz 1f
    call print_char
    jmp print
1:  ret

print_char:                         /* al; keeps the rest */
    pushl %edx
    pushl %eax
    movw $(COM1 + 5), %dx
1:  inb %dx, %al
    testb $0x20, %al
    jz 1b
    popl %eax
    movw $COM1, %dx
    outb %al, %dx
    popl %edx
    ret

    .section .rodata
hello:  .asciz "ready\n"
filled: .asciz "filled\n"
good:   .asciz "good\n"
bad:    .asciz "bad\n"
digits: .ascii "0123456789abcdef"
no_idt: .word 0
    .long 0

    .bss
    .globl counter
counter: .space 4
obeys:  .space 1                    /* b: the power button, too */
    .balign 16
    .space 4096
stack_end:

    .section .note.GNU-stack, "", @progbits
