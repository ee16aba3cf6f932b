/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest (PVH, 32-bit, no paging) that shows a page of text-like cells on a screen of 1024 x 768 pixels. It
 * obeys letters from its serial port:
 *
 *   s  scroll the whole screen by a line of cells, 50 times a second     d  turn the colours of 8 pixels round
 *   i  stop                                                              p  power off
 *
 * It says "ready" when the page is drawn, and answers each letter with a full stop.
 */
    .set COM1, 0x3f8
    .set PM_CONTROL, 0x604
    .set PCI_ADDRESS, 0xcf8
    .set PCI_DATA, 0xcfc
    .set VGA_ID, 0x11111234
    .set FRAME_BUFFER, 0xd0000000
    .set DISPI, 0x1ce
    .set WIDTH, 1024
    .set HEIGHT, 768
    .set LINE_BYTES, WIDTH * 4
    .set CELL_LINES, 16
    .set PAGE, 0x1000000            /* twice the screen: its top half once more below */
    .set PERIOD, 1193182 / 50

    .section .note.pvh, "a", @note
    .long 4, 4, 18                  /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start

    .text
    .code32
    .globl start
start:
    movl $stack_end, %esp
    call adapter_find
    call mode_set
    call page_fill
    xorl %eax, %eax
    call show
    call timer_start
    movl $ready, %esi
    call print

/* Sleeps until the next tick; then scrolls, and obeys. */
loop:
    sti
    hlt
    cli
    cmpb $0, scrolling
    je 1f
    movl line, %eax
    addl $CELL_LINES, %eax
    cmpl $HEIGHT, %eax
    jb 2f
    xorl %eax, %eax
2:  movl %eax, line
    call show
1:  movw $(COM1 + 5), %dx
    inb %dx, %al
    testb $1, %al
    jz loop
    movw $COM1, %dx
    inb %dx, %al
    cmpb $'s', %al
    sete scrolling
    cmpb $'d', %al
    jne 1f
    call dot
    movb $'d', %al
1:  cmpb $'p', %al
    jne 1f
    movw $PM_CONTROL, %dx
    movw $(5 << 10 | 1 << 13), %ax
    outw %ax, %dx
1:  movl $done, %esi
    call print
    jmp loop

/* The adapter's memory at FRAME_BUFFER. */
adapter_find:
    movl $0x80000000, %ebx
1:  movl %ebx, %eax
    movw $PCI_ADDRESS, %dx
    outl %eax, %dx
    movw $PCI_DATA, %dx
    inl %dx, %eax
    cmpl $VGA_ID, %eax
    je 2f
    addl $0x800, %ebx
    jmp 1b
2:  leal 0x10(%ebx), %eax           /* BAR 0 */
    movl $FRAME_BUFFER, %ecx
    call config_write
    leal 4(%ebx), %eax              /* command: memory */
    movl $2, %ecx
config_write:
    movw $PCI_ADDRESS, %dx
    outl %eax, %dx
    movw $PCI_DATA, %dx
    movl %ecx, %eax
    outl %eax, %dx
    ret

mode_set:
    movl $modes, %esi
    movl $(modes_end - modes) / 4, %ecx
1:  lodsw
    movw $DISPI, %dx
    outw %ax, %dx
    lodsw
    incl %edx
    outw %ax, %dx
    loop 1b
    ret

/* Cells of 8 x 16 pixels as of a text: one of 64 characters, of which 24 are blanks, in one of a few colours on black. */
page_fill:
    movl $PAGE, %edi
    xorl %ebx, %ebx                 /* y */
1:  xorl %ecx, %ecx                 /* x */
2:  movl %ebx, %eax
    shrl $4, %eax
    imull $0x9e3779b1, %eax
    movl %ecx, %edx
    shrl $3, %edx
    imull $0xc2b2ae35, %edx
    xorl %edx, %eax
    imull $0x85ebca6b, %eax
    movl %eax, %esi
    shrl $30, %esi                  /* the colour */
    shrl $24, %eax
    andl $63, %eax                  /* the character */
    subl $24, %eax
    jb 3f
    imull $0x27d4eb2f, %eax         /* its shape: 32 bits, each two lines high */
    movl %ebx, %edx
    shll $2, %edx
    andl $24, %edx
    xorl %ecx, %edx
    andl $31, %edx
    btl %edx, %eax
    movl colours(, %esi, 4), %edx
    jc 4f
3:  xorl %edx, %edx
4:  movl %edx, HEIGHT * LINE_BYTES(%edi)
    movl %edx, (%edi)
    addl $4, %edi
    incl %ecx
    cmpl $WIDTH, %ecx
    jb 2b
    incl %ebx
    cmpl $HEIGHT, %ebx
    jb 1b
    ret

/* The page from line EAX on becomes the screen. */
show:
    imull $LINE_BYTES, %eax
    leal PAGE(%eax), %esi
    movl $FRAME_BUFFER, %edi
    movl $WIDTH * HEIGHT, %ecx
    rep movsl
    ret

dot:
    movl $8, %ecx
    movl $FRAME_BUFFER + (320 * WIDTH + 512) * 4, %edi
1:  notl (%edi)
    addl $4, %edi
    loop 1b
    ret

timer_start:
    movl $tick, %eax
    movw %ax, gate
    shrl $16, %eax
    movw %ax, gate + 6
    lgdt gdt_pointer
    ljmp $8, $1f
1:  movl $16, %eax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    lidt idt_pointer
    movl $pic, %esi
    movl $(pic_end - pic) / 2, %ecx
    xorl %edx, %edx
1:  lodsb
    movb %al, %dl
    lodsb
    outb %al, %dx
    loop 1b
    ret
tick:
    pushl %eax
    movb $0x20, %al
    outb %al, $0x20
    popl %eax
    iretl

print:
    lodsb
    testb %al, %al
    jz 1f
    movw $COM1, %dx
    outb %al, %dx
    jmp print
1:  ret

    .section .rodata
ready: .asciz "ready\n"
done: .asciz "."
    .balign 4
colours: .long 0xaaaaaa, 0xffffff, 0x55ff55, 0x5555ff
/* Bochs display registers: off, width, height, 32 bits, on with the linear frame buffer. */
modes: .word 4, 0, 1, WIDTH, 2, HEIGHT, 3, 32, 4, 0x41
modes_end:
/* Ports below 256 and what goes there: the PIC at vector 32 with only the timer, then channel 0 as a rate generator. */
pic:
    .byte 0x20, 0x11, 0x21, 0x20, 0x21, 4, 0x21, 1, 0x21, 0xfe, 0xa1, 0xff
    .byte 0x43, 0x34, 0x40, PERIOD & 255, 0x40, PERIOD >> 8
pic_end:
    .balign 8
gdt: .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer: .word 23
    .long gdt
idt_pointer: .word 33 * 8 - 1
    .long idt

    .data
    .balign 8
idt: .zero 32 * 8
gate: .word 0, 8, 0x8e00, 0

    .bss
scrolling: .zero 4
line: .zero 4
    .zero 4096
stack_end:
    .section .note.GNU-stack, "", @progbits
