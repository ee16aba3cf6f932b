/* SPDX-License-Identifier: GPL-2.0-or-later */
/* REP instructions: page faults in the middle leave registers at the faulting element; overlaps,
 * both directions, widths, and counts of zero. */
#include "guest64.inc"
#define HOLE 0x40000000             /* beyond what is mapped; the last mapped byte is below */
GUEST(LONG, 1, NEED_EXACT)
    BEGIN64
    cld
    /* STOSQ runs into the hole after four elements */
    mov $HOLE - 32, %edi
    mov $0x71000 + 8, %eax          /* 1 GiB and on: nothing */
    movq $0, (%rax)
    /* memory ends at 16 MiB, so map the page below the hole onto 0x200000 */
    movq $0x200083, 0x72000 + 511 * 8
    mov %cr3, %rax
    mov %rax, %cr3
    mov $100, %ecx
    mov $0x5555, %eax
    FAULTS(14, 2, rep stosq)
    CHECK(%rcx, 96)
    CHECK(%rdi, HOLE)
    CHECKM(got_cr2, HOLE)
    mov 0x3fffe0, %rax
    CHECK(%rax, 0x5555)
    /* MOVSB from before the hole over it: the source faults */
    mov $HOLE - 3, %esi
    mov $0x300000, %edi
    mov $10, %ecx
    FAULTS(14, 0, rep movsb)
    CHECK(%rcx, 7)
    CHECK(%rsi, HOLE)
    CHECK(%rdi, 0x300003)
    /* backwards down into unmapped memory: the page at 0x104000 */
    movq $0, 0x73000 + 0x104 * 8
    invlpg 0x104000
    std
    mov $0x105008, %edi
    mov $5, %ecx
    FAULTS(14, 2, rep stosl)
    CHECK(%rcx, 2)
    CHECK(%rdi, 0x104ffc)
    cld
    movq $0x104003, 0x73000 + 0x104 * 8
    /* an element that crosses into the hole is not written at all */
    movl $0x01020304, 0x3ffffc
    mov $HOLE - 4, %edi
    mov $1, %ecx
    mov $-1, %rax
    FAULTS(14, 2, rep stosq)
    CHECK(%rcx, 1)
    mov 0x3ffffc, %eax
    CHECK(%rax, 0x01020304)
    /* SCAS and CMPS stop where they should, with flags */
    movq $0x4443424144434241, %rax
    mov %rax, 0x100000
    mov $0x100000, %edi
    mov $0x43, %al
    mov $8, %ecx
    repne scasb
    pushf
    pop %rbx
    and $0x40, %ebx
    CHECK(%rbx, 0x40)
    CHECK(%rcx, 5)
    CHECK(%rdi, 0x100003)
    mov $0x100000, %esi
    mov $0x100004, %edi
    movb $0x7f, 0x100006
    mov $8, %ecx
    repe cmpsb
    pushf
    pop %rbx
    and $0x41, %ebx
    CHECK(%rbx, 1)
    CHECK(%rcx, 5)
    /* no iteration: nothing happens, not even a fault, flags stay */
    xor %ecx, %ecx
    mov $HOLE, %edi
    stc
    HOLDS(rep stosb)
    CHECK(%rdi, HOLE)
    /* overlap by one byte copies a pattern */
    movb $0x77, 0x101000
    mov $0x101000, %esi
    mov $0x101001, %edi
    mov $15, %ecx
    rep movsb
    mov 0x101008, %rax
    CHECK(%rax, 0x7777777777777777)
    /* across pages and large */
    mov $0x200000, %edi
    mov $0x20000, %ecx
    mov $0x0123456789abcdef, %rax
    rep stosq
    mov $0x200000, %esi
    mov $0x300123, %edi
    mov $0x80000, %ecx
    rep movsb
    mov 0x300123 + 0x7fff8, %rax
    CHECK(%rax, 0x0123456789abcdef)
    /* comparisons over many pages, both ways, that end at a difference, a match, a hole, the count */
    mov $0x200000, %esi
    mov $0x280003, %edi
    mov %rdi, %rbx
    mov $0x40000, %ecx
    rep movsb
    movb $0x5a, 0x280003 + 0x23456
    mov $0x200000, %esi
    mov %rbx, %rdi
    mov $0x40000, %ecx
    repe cmpsb
    CHECK(%rcx, 0x40000 - 0x23457)
    CHECK(%rdi, 0x280003 + 0x23457)
    std
    mov $0x200000 + 0x3ffff, %esi
    mov $0x280003 + 0x3ffff, %edi
    mov $0x40000, %ecx
    repe cmpsb
    CHECK(%rcx, 0x23456)
    CHECK(%rsi, 0x200000 + 0x23455)
    cld
    mov $0x200000, %esi
    mov $0x200000, %edi
    mov $0x8000, %ecx
    repe cmpsq
    CHECK(%rcx, 0)
    CHECK(%rsi, 0x240000)
    mov $0x280003, %edi
    mov $0x5a, %al
    mov $0x40000, %ecx
    repne scasb
    CHECK(%rdi, 0x280003 + 0x23457)
    mov $0x203ffc, %edi
    mov $0x1000, %ecx
    std
    movl $0x7531, 0x201008
    mov $0x7531, %eax
    repne scasl
    CHECK(%rdi, 0x201004)
    CHECK(%rcx, 0x402)
    cld
    mov $HOLE - 0x800, %edi
    mov $0x1234, %eax
    mov $0x1000, %ecx
    FAULTS(14, 0, repne scasw)
    CHECK(%rcx, 0x1000 - 0x400)
    CHECK(%rdi, HOLE)
    mov $0x200000, %esi
    mov $0x1000, %ecx
    movw $0x4321, 0x201ffe
    rep lodsw
    CHECK(%rsi, 0x202000)
    CHECK(%rax, 0x4321)
    /* 32-bit addresses wrap, and ECX alone counts */
    mov $0x500000002, %rcx
    mov $0x700100000, %rdi
    mov $0xaa, %al
    addr32 rep stosb
    CHECK(%rcx, 0)
    CHECK(%rdi, 0x100002)
    PASS
#include "guest64_code.inc"
