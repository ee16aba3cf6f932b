/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A user's loads and stores, always by the same instructions, to a page that the kernel exchanges
 * between them: what an engine remembers of where they went last must go with the mapping. By
 * INVLPG, by CR3 with and without PCID, also among more address spaces than an engine keeps; the
 * page becomes read only, the kernel's, and misaligned accesses faults.
 */
#include "guest64.inc"
#define VA 0x150000
#define PTE 0x73000 + (VA >> 12) * 8
#define OTHER_PTE 0x113000 + (VA >> 12) * 8
#define PAGE_A 0x180000
#define PAGE_B 0x181000
#define USER_STACK 0x101800
#define ROUNDS 500
#define SPACES 20
#define COUNTED(rounds)               \
    CHECK(%rbx, (rounds) * 0x101);    \
    CHECKM(PAGE_A + 8, (rounds));     \
    CHECKM(PAGE_B + 8, (rounds));     \
    movq $0, PAGE_A + 8;              \
    movq $0, PAGE_B + 8
GUEST(LONG, 1, NEED_TSS | NEED_SYSCALL)
    BEGIN64
    cld
    xor %eax, %eax
    mov $PAGE_A, %edi
    mov $0x2000 / 8, %ecx
    rep stosq
    movq $1, PAGE_A
    movq $0x100, PAGE_B
    USERS_MAY
    /* A second address space, where PAGE_B is */
    movq $PAGE_A + 7, PTE
    SECOND_SPACE
    movq $PAGE_B + 7, OTHER_PTE
    movw $0xee00, 0x7e000 + 0x80 * 16 + 4
    mov %cr3, %rax
    mov %rax, %cr3
    /* INVLPG */
    SYSCALL_TO(on_exchange)
    mov $ROUNDS * 2, %r8d
    call user
    COUNTED(ROUNDS)
    /* CR3 written again, CR4.PGE */
    SYSCALL_TO(on_reload)
    mov $ROUNDS * 2, %r8d
    call user
    COUNTED(ROUNDS)
    SYSCALL_TO(on_flush)
    mov $ROUNDS * 2, %r8d
    call user
    COUNTED(ROUNDS)
    /* CR3 */
    SYSCALL_TO(on_switch)
    mov $0x70000, %ebp
    mov $0x110000, %edi
    mov %rbp, %cr3
    mov $ROUNDS * 2, %r8d
    call user
    COUNTED(ROUNDS)
    /* The same with PCID, which keeps what each address space had */
    PCID_ON 9f
    mov $0x70000, %rbp
    mov $0x110001, %rdi
    bts $63, %rbp
    bts $63, %rdi
    mov $ROUNDS * 2, %r8d
    call user
    COUNTED(ROUNDS)
    /* An engine may give a new address space the place of the present one */
    mov $0x70000, %ebp
    mov %rbp, %cr3
    SYSCALL_TO(on_reuse)
    mov $1, %r9d
    mov $2, %edi
    mov $SPACES * 3, %r8d
    call user
    CHECK(%rbx, SPACES * 0x102)
    CHECKM(PAGE_A + 8, SPACES * 2)
    CHECKM(PAGE_B + 8, SPACES)
    movq $0, PAGE_A + 8
9:  mov %rbp, %cr3
    SYSCALL_TO(on_nothing)
    /* Read only: the load goes on, the store faults */
    mov $ROUNDS, %r8d
    mov $only_read, %r9d
    call user
    CHECKM(got_vector, 14)
    CHECKM(got_error, 7)
    CHECKM(got_rip, user_store)
    CHECKM(PAGE_A + 8, ROUNDS - 1)
    CHECK(%rbx, ROUNDS)
    movq $PAGE_A + 7, PTE
    invlpg VA
    /* The kernel's */
    mov $ROUNDS, %r8d
    mov $only_kernel, %r9d
    call user
    CHECKM(got_vector, 14)
    CHECKM(got_error, 5)
    CHECKM(got_rip, user_loop)
    CHECK(%rbx, ROUNDS - 1)
    movq $PAGE_A + 7, PTE
    invlpg VA
    /* It becomes code, and the store changes that */
    mov $VA, %esi
    mov $user_patch, %ebx
    mov $ROUNDS, %r8d
    call run
    CHECKM(got_vector, 6)
    CHECK(%r8, 0)
    /* Alignment is checked */
    mov %cr0, %rax
    bts $18, %rax
    mov %rax, %cr0
    mov $ROUNDS, %r8d
    mov $aligned, %r9d
    mov $VA + 3, %esi
    call user_at
    CHECKM(got_vector, 17)
    CHECKM(got_rip, user_loop)
    PASS

/* Runs user_loop at CPL 3 until it faults, r8d turns at most; the SYSCALL before the last goes on at r9. */
user:
    mov $VA, %esi
user_at:
    mov $user_loop, %ebx
run:
    movq $1f, resume_rip
    mov %rsp, resume_rsp
    push $SEL_USER_DATA
    push $USER_STACK
    push $2
    push $SEL_USER64
    push %rbx
    xor %ebx, %ebx
    iretq
1:  movq $0, resume_rip
    ret
user_loop:
    add (%rsi), %rbx
user_store:
    incq 8(%rsi)
    syscall
    dec %r8d
    jnz user_loop
    ud2

/* MOV EAX, r8d; RET, made on turn after turn, run on the later ones */
user_patch:
    movb $0xc3, 5(%rsi)
    movb $0xb8, (%rsi)
1:  mov %r8d, 1(%rsi)
    cmp $ROUNDS / 2, %r8d
    ja 2f
    call *%rsi
    cmp %r8d, %eax
    jne 3f
2:  dec %r8d
    jnz 1b
3:  ud2

on_reload:
    xorl $PAGE_A ^ PAGE_B, PTE
    mov %cr3, %rax
    mov %rax, %cr3
    sysretq
on_flush:
    xorl $PAGE_A ^ PAGE_B, PTE
    mov %cr4, %rax
    btc $7, %rax
    mov %rax, %cr4
    sysretq
on_exchange:
    xorl $PAGE_A ^ PAGE_B, PTE
    invlpg VA
    sysretq
on_switch:
    xchg %rdi, %rbp
    mov %rbp, %cr3
    sysretq
/* In turn: r9d more address spaces are seen and the first one again; one with PAGE_B; all are
   forgotten, and the next time there is one more. */
on_reuse:
    dec %edi
    jz 2f
    js 3f
    mov $0x70000, %eax
    bts $63, %rax
    mov %r9d, %edx
1:  lea (%rax, %rdx), %r10
    mov %r10, %cr3
    dec %edx
    jnz 1b
    mov %rax, %cr3
    sysretq
2:  mov $0x110200, %eax
    mov %rax, %cr3
    sysretq
3:  mov $0x70000, %eax
    mov %rax, %cr3
    mov %cr4, %rax
    btc $7, %rax
    mov %rax, %cr4
    inc %r9d
    mov $2, %edi
    sysretq
on_nothing:
    cmp $2, %r8d
    jne 1f
    jmp *%r9
1:  sysretq
only_read:
    movq $PAGE_A + 5, PTE
    invlpg VA
    sysretq
only_kernel:
    movq $PAGE_A + 3, PTE
    invlpg VA
    sysretq
aligned:
    or $0x40000, %r11d
    sysretq
#include "guest64_code.inc"
