/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Calls by address to a page that is exchanged between them: what an engine remembers of where an
 * address leads must go with the mapping. In the kernel with global pages, by INVLPG and by CR4.PGE;
 * in user mode by CR3, and by CR3 with PCID, which keeps what each address space had. An instruction
 * that begins in a global page and ends in another one is not global.
 */
#include "guest64.inc"
#define VA 0x150000
#define PTE 0x73000 + (VA >> 12) * 8
#define OTHER_PTE 0x113000 + (VA >> 12) * 8
#define PAGE_A 0x180000
#define PAGE_B 0x181000
#define PAGE_C 0x182000
#define GLOBAL 0x107
#define USER_STACK 0x101800
#define ROUNDS 500
GUEST(LONG, 1, NEED_TSS | NEED_SYSCALL)
    BEGIN64
    cld
    mov $adds_1, %esi
    mov $PAGE_A, %edi
    mov $4, %ecx
    rep movsb
    mov $adds_256, %esi
    mov $PAGE_B, %edi
    mov $7, %ecx
    rep movsb
    USERS_MAY
    mov %cr4, %rbp
    bts $7, %rbp
    mov %rbp, %cr4
    /* INVLPG */
    mov $VA, %esi
    xor %ebx, %ebx
    mov $ROUNDS, %ecx
1:  movq $PAGE_A + GLOBAL, PTE
    invlpg (%rsi)
    call *%rsi
    call *%rsi
    movq $PAGE_B + GLOBAL, PTE
    invlpg (%rsi)
    call *%rsi
    call *%rsi
    dec %ecx
    jnz 1b
    CHECK(%rbx, ROUNDS * 0x202)
    /* CR4.PGE */
    xor %ebx, %ebx
    mov $ROUNDS, %ecx
    mov %rbp, %rdi
    btr $7, %rdi
1:  movq $PAGE_A + GLOBAL, PTE
    mov %rdi, %cr4
    mov %rbp, %cr4
    call nothing
    call *%rsi
    call *%rsi
    movq $PAGE_B + GLOBAL, PTE
    mov %rdi, %cr4
    mov %rbp, %cr4
    call nothing
    call *%rsi
    call *%rsi
    dec %ecx
    jnz 1b
    CHECK(%rbx, ROUNDS * 0x202)
    /* A second address space, where PAGE_B is */
    mov %rdi, %cr4
    movq $PAGE_A + 7, PTE
    SECOND_SPACE
    movq $PAGE_B + 7, OTHER_PTE
    /* A global page before it ends with a REX prefix */
    movb $0x48, PAGE_C + 0xfff
    movq $PAGE_C + GLOBAL, PTE - 8
    movq $PAGE_C + GLOBAL, OTHER_PTE - 8
    mov %rbp, %cr4
    mov $0x70000, %r8d
    mov $0x110000, %r9d
    mov $VA - 1, %esi
    xor %ebx, %ebx
    mov $ROUNDS, %ecx
1:  mov %r8, %cr3
    call *%rsi
    mov %r9, %cr3
    call *%rsi
    dec %ecx
    jnz 1b
    CHECK(%rbx, ROUNDS * 0x101)
    mov %r8, %cr3
    btr $7, %rbp
    mov %rbp, %cr4
    movw $0xee00, 0x7e000 + 0x80 * 16 + 4
    SYSCALL_TO(on_syscall)
    mov $0x70000, %ebp
    mov $0x110000, %edi
    mov %rbp, %cr3
    call user
    CHECK(%rbx, ROUNDS * 0x202)
    PCID_ON 9f
    mov $0x70000, %rbp
    mov $0x110001, %rdi
    bts $63, %rbp
    bts $63, %rdi
    call user
    CHECK(%rbx, ROUNDS * 0x202)
9:  PASS

/* Calls VA in each address space by turns, rbp and rdi, at CPL 3; counts in ebx. */
user:
    movq $1f, resume_rip
    mov %rsp, resume_rsp
    xor %ebx, %ebx
    mov $ROUNDS * 2, %r8d
    mov $VA, %esi
    push $SEL_USER_DATA
    push $USER_STACK
    push $2
    push $SEL_USER64
    push $user_loop
    iretq
1:  movq $0, resume_rip
    ret
user_loop:
    call *%rsi
    call *%rsi
    syscall
    dec %r8d
    jnz user_loop
    ud2
on_syscall:
    xchg %rdi, %rbp
    mov %rbp, %cr3
    sysretq

nothing: /* by it the code that follows is on the translator's ways again */
    ret
adds_1:
    add $1, %ebx
    ret
adds_256:
    add $0x100, %ebx
    ret
#include "guest64_code.inc"
