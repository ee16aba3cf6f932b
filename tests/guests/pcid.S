/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Process-context identifiers: translations survive a CR3 write that says so, and INVPCID. */
#include "guest64.inc"
#define VA 0x100000
#define PTE 0x73000 + (VA >> 12) * 8
GUEST(LONG, 1, NEED_EXACT)
    BEGIN64
    mov $1, %eax
    cpuid
    bt $17, %ecx
    jc 1f
    EXIT(SKIP)
1:  /* CR3's low bits must be clear when PCIDE is set */
    mov $0x70003, %eax
    mov %rax, %cr3
    mov %cr4, %rax
    bts $17, %rax
    mov %rax, %rbx
    FAULTS(13, 0, mov %rax, %cr4)
    mov $0x70000, %eax
    mov %rax, %cr3
    mov %rbx, %rax
    HOLDS(mov %rax, %cr4)
    /* PCID 1 has its own tables, where VA shows another page */
    movq $0x1111, 0x101000
    movq $0x2222, 0x102000
    mov $0x70000, %esi
    mov $0x110000, %edi
    mov $0x4000 / 8, %ecx
    cld
    rep movsq
    movq $0x111003, 0x110000
    movq $0x112003, 0x111000
    movq $0x113003, 0x112000
    movq $0x101003, PTE
    movq $0x102003, 0x113000 + (VA >> 12) * 8
    mov $0x70000, %eax
    mov %rax, %cr3
    mov VA, %rax
    CHECK(%rax, 0x1111)
    mov $0x110001, %eax
    mov %rax, %cr3
    mov VA, %rax
    CHECK(%rax, 0x2222)
    mov $0x70000, %rax
    bts $63, %rax
    mov %rax, %cr3
    mov VA, %rax
    CHECK(%rax, 0x1111)
    mov $0x110001, %rax
    bts $63, %rax
    mov %rax, %cr3
    mov VA, %rax
    CHECK(%rax, 0x2222)
    /* the table of PCID 0 changes, INVPCID of that address in that context */
    mov $7, %eax
    xor %ecx, %ecx
    cpuid
    bt $10, %ebx
    jnc 1f
    movq $0x102003, PTE
    movq $0, descriptor
    movq $VA, descriptor + 8
    xor %eax, %eax
    HOLDS(invpcid descriptor, %rax)
    mov $0x70000, %rax
    bts $63, %rax
    mov %rax, %cr3
    mov VA, %rax
    CHECK(%rax, 0x2222)
    /* all contexts */
    movq $0x101003, PTE
    mov $2, %eax
    HOLDS(invpcid descriptor, %rax)
    mov VA, %rax
    CHECK(%rax, 0x1111)
    mov $4, %eax
    FAULTS(13, 0, invpcid descriptor, %rax)
    movq $0x1000, descriptor
    xor %eax, %eax
    FAULTS(13, 0, invpcid descriptor, %rax)
1:  /* a plain CR3 write drops the context's translations */
    mov $0x70000, %eax
    mov %rax, %cr3
    movq $0x102003, PTE
    mov %rax, %cr3
    mov VA, %rax
    CHECK(%rax, 0x2222)
    PASS
.balign 16
descriptor: .quad 0, 0
#include "guest64_code.inc"
