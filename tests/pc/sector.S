/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A boot sector that looks at address line 20 and at the loudspeaker as programs of real mode do, and
 * writes a letter on COM1 for each thing that is right, then a full stop:
 *
 *   A  the BIOS has opened the gate      B  port 0x92 closes it      C  the 8042 opens it
 *   D  the 8042 closes it                E  INT 15h, AX=2401h opens it, as AX=2402h says
 *   S  channel 2 of the timer swings     T  it stands still without its gate
 */
    .code16
    .globl start
start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7c00, %sp
    movw $0xffff, %ax
    movw %ax, %es

    call apart
    movb $'A', %al
    call say

    inb $0x92, %al
    andb $0xfc, %al
    outb %al, $0x92
    call same
    movb $'B', %al
    call say

    movb $0xdf, %bl
    call controller
    call apart
    movb $'C', %al
    call say

    movb $0xdd, %bl
    call controller
    call same
    movb $'D', %al
    call say

    movw $0x2401, %ax
    int $0x15
    cli
    call apart
    movw $0x2402, %ax
    int $0x15
    cli
    cmpb $1, %al
    jne wrong
    movb $'E', %al
    call say

    inb $0x61, %al
    orb $3, %al
    outb %al, $0x61
    movb $0xb6, %al             /* channel 2, both bytes, square wave */
    outb %al, $0x43
    movb $0xa9, %al             /* 1193: 1 kHz */
    outb %al, $0x42
    movb $0x04, %al
    outb %al, $0x42
    call swings
    jz wrong
    movb $'S', %al
    call say

    inb $0x61, %al
    andb $0xfc, %al
    outb %al, $0x61
    call swings
    jnz wrong
    movb $'T', %al
    call say

    movb $'.', %al
    call say
stop:
    hlt
    jmp stop

wrong:
    movb $'!', %al
    call say
    jmp stop

/* The word at 0x500 and the one at 0x100500 are the same, or are not. */
same:
    call compare
    jne wrong
    ret
apart:
    call compare
    je wrong
    ret
compare:
    movw $0x1234, 0x500
    movw $0x4321, %es:0x510
    cmpw $0x4321, 0x500
    ret

controller:                     /* command %bl */
    inb $0x64, %al
    testb $2, %al
    jnz controller
    movb %bl, %al
    outb %al, $0x64
    ret

/* Has the output of channel 2 been low and high? For some milliseconds; ZF: no. */
swings:
    movw $0x4000, %cx
    xorb %bl, %bl
1:  inb $0x61, %al
    andb $0x20, %al
    jz 2f
    orb $1, %bl
    jmp 3f
2:  orb $2, %bl
3:  loop 1b
    cmpb $3, %bl
    jne 4f
    orb %bl, %bl
    ret
4:  xorb %bl, %bl
    ret

say:
    pushw %ax
    movw $0x3fd, %dx
1:  inb %dx, %al
    testb $0x20, %al
    jz 1b
    popw %ax
    movw $0x3f8, %dx
    outb %al, %dx
    ret

    .org 510
    .word 0xaa55
