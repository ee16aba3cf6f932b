/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A hot loop whose page is exchanged under it while it runs: by INVLPG, by CR3, by CR3 with PCID. The
 * page at VA is page_a or page_b, which differ in what they add; each switch must take effect at the
 * next instruction.
 */
#include "guest64.inc"
#define VA 0x400000
#define ROUNDS 3000
#define WRONG 0x1000000
GUEST(LONG, 1, NEED_NOTHING)
    BEGIN64
    cld
    mov $page_a, %esi
    mov $0x200000, %edi
    mov $(page_b - page_a), %ecx
    rep movsb
    mov $page_b, %esi
    mov $0x201000, %edi
    mov $(page_end - page_b), %ecx
    rep movsb
    /* second tables at 0x110000; both with a page table for VA */
    mov $0x70000, %esi
    mov $0x110000, %edi
    mov $0x4000 / 8, %ecx
    rep movsq
    movq $0x111003, 0x110000
    movq $0x112003, 0x111000
    movq $0x114003, 0x72000 + (VA >> 21) * 8
    movq $0x115003, 0x112000 + (VA >> 21) * 8
    movq $0x200003, 0x114000
    movq $0x201003, 0x115000
    mov $0x70000, %eax
    mov %rax, %cr3
    /* INVLPG: hot while it changes nothing, then the loop changes its own entry */
    mov $0x114000, %edx
    mov $0x200003, %r8d
    mov $0x200003, %r9d
    mov $VA, %r10d
    mov $ROUNDS, %ecx
    mov $VA + (by_invlpg - page_a), %eax
    call *%rax
    mov $0x201003, %r8d
    mov $0x200003, %r9d
    mov $VA, %r10d
    mov $ROUNDS, %ecx
    xor %ebx, %ebx
    mov $VA + (by_invlpg - page_a), %eax
    call *%rax
    CHECK(%rbx, ROUNDS * 0x101)
    /* CR3 */
    mov $0x70000, %esi
    mov $0x110000, %edi
    mov $ROUNDS, %ecx
    xor %ebx, %ebx
    mov $VA, %eax
    call *%rax
    CHECK(%rbx, ROUNDS * 0x101)
    /* CR3 with PCID, keeping translations */
    PCID_ON 9f
    mov $0x70000, %esi
    mov $0x110001, %edi
    bts $63, %rsi
    bts $63, %rdi
    mov $ROUNDS, %ecx
    xor %ebx, %ebx
    mov $VA, %eax
    call *%rax
    CHECK(%rbx, ROUNDS * 0x101)
9:  PASS

.macro page right_first, right_second
1:  mov %rdi, %cr3
    .byte 0x81, 0xc3                /* add $imm32, %ebx */
    .long \right_first
    jmp 2f
2:  mov %rsi, %cr3
    .byte 0x81, 0xc3
    .long \right_second
    dec %ecx
    jnz 1b
    ret
.endm
.macro page_invlpg right_first, right_second
1:  mov %r8, (%rdx)
    invlpg (%r10)
    .byte 0x81, 0xc3                /* add $imm32, %ebx */
    .long \right_first
    jmp 2f
2:  mov %r9, (%rdx)
    invlpg (%r10)
    .byte 0x81, 0xc3
    .long \right_second
    dec %ecx
    jnz 1b
    ret
.endm
page_a:
    page WRONG, 0x100
by_invlpg:
    page_invlpg WRONG, 0x100
page_b:
    page 1, WRONG
    page_invlpg 1, WRONG
page_end:
#include "guest64_code.inc"
