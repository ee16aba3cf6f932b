/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A user's loads and stores, always by the same instructions, to a page that the kernel exchanges
 * between them: what an engine remembers of where they went last must go with the mapping. By
 * INVLPG, by CR3 with and without PCID, also among more address spaces than an engine keeps; the
 * page becomes read only, the kernel's, and misaligned accesses faults. The same with the page's
 * table, of which an engine may remember that it leads there.
 */
#include "guest64.inc"
#define VA 0x150000
#define PTE 0x73000 + (VA >> 12) * 8
#define OTHER_PTE 0x113000 + (VA >> 12) * 8
/* Two megabytes further, where nothing else is: its table is one of the two that VA has */
#define FAR_VA (VA + 0x200000)
#define FAR_PDE 0x72008
#define OTHER_FAR_PDE 0x112008
#define TABLE_A 0x73000
#define TABLE_B 0x113000
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
    mov $VA, %r10d
    mov $PTE, %r12d
    mov $PAGE_A ^ PAGE_B, %r9d
    call exchanges
    /* The tables, of pages that stay what they were */
    movq $TABLE_A + 7, FAR_PDE
    movq $TABLE_B + 7, OTHER_FAR_PDE
    mov $FAR_VA, %r10d
    mov $FAR_PDE, %r12d
    mov $TABLE_A ^ TABLE_B, %r9d
    mov %cr3, %rax
    mov %rax, %cr3
    call exchanges
    /* CR3, and with PCID, which keeps what each address space had */
    SYSCALL_TO(on_switch)
    mov $0x70000, %ebp
    mov $0x110000, %edi
    call switches
    PCID_ON 9f
    mov $0x70000, %rbp
    mov $0x110001, %rdi
    bts $63, %rbp
    bts $63, %rdi
    call switches
    /* An engine may give a new address space the place of the present one */
    mov $0x70000, %ebp
    mov %rbp, %cr3
    SYSCALL_TO(on_reuse)
    mov $VA, %r10d
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
    mov $FAR_VA, %r10d
    mov $FAR_PDE, %r12d
    call rights
    mov $VA, %r10d
    mov $PTE, %r12d
    call rights
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

/* r10: an address of PAGE_A. The entry at r12 changes by r9, and PAGE_B is there, again and again. */
exchanges:
    SYSCALL_TO(on_exchange)
    call both
    /* CR3 written again, CR4.PGE */
    SYSCALL_TO(on_reload)
    call both
    SYSCALL_TO(on_flush)
both:
    mov $ROUNDS * 2, %r8d
    call user
    COUNTED(ROUNDS)
    ret

/* Each turn in the other of two address spaces, where each address that the above had is PAGE_B's. */
switches:
    mov %rbp, %cr3
    mov $VA, %r10d
    call both
    mov $FAR_VA, %r10d
    jmp both

/* The entry at r12, of r10's page or table, loses a right before the last turn. */
rights:
    /* Read only: the load goes on, the store faults */
    mov $ROUNDS, %r8d
    mov $only_read, %r9d
    call user
    CHECKM(got_vector, 14)
    CHECKM(got_error, 7)
    CHECKM(got_rip, user_store)
    CHECKM(PAGE_A + 8, ROUNDS - 1)
    CHECK(%rbx, ROUNDS)
    movq $0, PAGE_A + 8
    orq $2, (%r12)
    invlpg (%r10)
    /* The kernel's */
    mov $ROUNDS, %r8d
    mov $only_kernel, %r9d
    call user
    CHECKM(got_vector, 14)
    CHECKM(got_error, 5)
    CHECKM(got_rip, user_loop)
    CHECK(%rbx, ROUNDS - 1)
    movq $0, PAGE_A + 8
    orq $4, (%r12)
    invlpg (%r10)
    ret

/* Runs user_loop at CPL 3 until it faults, r8d turns at most, on r10's page; the SYSCALL before the
 * last goes on at r9. */
user:
    mov %r10, %rsi
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
    xor %r9, (%r12)
    mov %cr3, %rax
    mov %rax, %cr3
    sysretq
on_flush:
    xor %r9, (%r12)
    mov %cr4, %rax
    btc $7, %rax
    mov %rax, %cr4
    sysretq
on_exchange:
    xor %r9, (%r12)
    invlpg (%r10)
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
1:  lea (%rax, %rdx), %r13
    mov %r13, %cr3
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
    andq $~2, (%r12)
    invlpg (%r10)
    sysretq
only_kernel:
    andq $~4, (%r12)
    invlpg (%r10)
    sysretq
aligned:
    or $0x40000, %r11d
    sysretq
#include "guest64_code.inc"
