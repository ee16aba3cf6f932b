/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Code that writes code: the next instruction, its own page, another page, a page through an alias,
 * an instruction across two pages, or from a page into itself, and a string store into a loop. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_NOTHING)
    BEGIN64
    /* the very next instruction: mov $1 becomes mov $2 */
    mov $2, %ecx
    mov %ecx, patch + 1
patch:
    mov $1, %eax
    CHECK(%rax, 2)
    /* a loop that patches itself each time round */
    xor %ebx, %ebx
    mov $100, %ecx
1:  mov %cl, here + 2
here:
    add $0, %ebx
    dec %ecx
    jnz 1b
    CHECK(%rbx, 5050)
    /* code in another page, called, changed, called */
    mov $0x100000, %rbx
    movl $0x000001b8, (%rbx)        /* mov $1, %eax; ret */
    movw $0xc300, 4(%rbx)
    call *%rbx
    CHECK(%rax, 1)
    mov $1000, %ebp
1:  mov %ebp, 1(%rbx)
    call *%rbx
    mov $__LINE__, %r15d
    cmp %ebp, %eax
    jne wrong
    dec %ebp
    jnz 1b
    /* by a byte store, and by an alias: 0x101000 maps to the same page */
    movq $0x100003, 0x73000 + 0x101 * 8
    invlpg 0x101000
    movb $77, 0x101001
    call *%rbx
    CHECK(%rax, 77)
    movq $0x101003, 0x73000 + 0x101 * 8
    invlpg 0x101000
    /* an instruction across two pages, whose second half changes */
    movb $0xb8, 0x100ffe
    movl $0x0000c301, 0x101003 - 3
    movl $0x01, 0x100fff
    movb $0xc3, 0x101003
    mov $0x100ffe, %rbx
    call *%rbx
    CHECK(%rax, 1)
    movb $0x55, 0x101002
    call *%rbx
    CHECK(%rax, 0x55000001)
    /* across the end of a page into its own beginning, as 0x105000 maps to it, too, with stores
     * beside it */
    movq $0x104003, 0x73000 + 0x105 * 8
    invlpg 0x105000
    movb $0x48, 0x104fff            /* movabs $1, %rax; ret */
    movl $0x000001b8, 0x104000
    movl $0, 0x104004
    movw $0xc300, 0x104008
    mov $0x104fff, %rbx
    mov $40, %ecx
1:  call *%rbx
    incl 0x104800
    dec %ecx
    jnz 1b
    CHECK(%rax, 1)
    movb $0x55, 0x104002
    call *%rbx
    CHECK(%rax, 0x5501)
    movq $0x105003, 0x73000 + 0x105 * 8
    invlpg 0x105000
    /* a mapping that changes under the code */
    movl $0x000011b8, 0x102000
    movw $0xc300, 0x102004
    movl $0x000022b8, 0x103000
    movw $0xc300, 0x103004
    mov $0x102000, %rbx
    call *%rbx
    CHECK(%rax, 0x11)
    movq $0x103003, 0x73000 + 0x102 * 8
    invlpg (%rbx)
    call *%rbx
    CHECK(%rax, 0x22)
    movq $0x102003, 0x73000 + 0x102 * 8
    invlpg (%rbx)
    call *%rbx
    CHECK(%rax, 0x11)
    /* REP MOVS over code that has run, and over itself's successor */
    mov $new_code, %esi
    mov $old_code, %edi
    mov $(new_end - new_code), %ecx
    call old_code
    CHECK(%rax, 3)
    rep movsb
    call old_code
    CHECK(%rax, 4)
    PASS
old_code:
    mov $3, %eax
    ret
new_code:
    mov $4, %eax
    ret
new_end:
#include "guest64_code.inc"
