/* SPDX-License-Identifier: GPL-2.0-or-later */
/* User mode: IRET to it, back by INT, faults with error codes, privileged instructions, the stack
 * of the TSS, SYSCALL and SYSRET, flags that a user may not change. */
#include "guest64.inc"
#define USER_PAGE 0x100000
#define USER_STACK 0x101800
#define KERNEL_PAGE 0x103000
GUEST(LONG, 1, NEED_TSS | NEED_SYSCALL)
    BEGIN64
    movq $on_int80, hook
    movw $0xee00, 0x7e000 + 0x80 * 16 + 4
    /* the whole 4 KiB-mapped part to users, but KERNEL_PAGE */
    USERS_MAY
    andq $~4, 0x73000 + (KERNEL_PAGE >> 12) * 8
    mov %cr3, %rax
    mov %rax, %cr3
    /* back by INT: on RSP0, with the user's CS, RSP and flags */
    USER(user_int)
    mov user_result, %eax
    CHECK(%rax, 0x1234)
    mov seen_cs, %rax
    CHECK(%rax, SEL_USER64)
    mov seen_rsp, %rax
    CHECK(%rax, USER_STACK)
    mov seen_stack, %rax
    CHECK(%rax, 0x6f000)
    /* faults tell that they come from user mode */
    USER(user_read_kernel)
    CHECKM(got_vector, 14)
    CHECKM(got_error, 5)
    CHECKM(got_cr2, KERNEL_PAGE)
    USER(user_write_kernel)
    CHECKM(got_error, 7)
    USER(user_missing)
    CHECKM(got_vector, 14)
    CHECKM(got_error, 6)
    /* what only the kernel may */
    USER(user_hlt)
    CHECKM(got_vector, 13)
    CHECKM(got_error, 0)
    USER(user_cr3)
    CHECKM(got_vector, 13)
    USER(user_cli)
    CHECKM(got_vector, 13)
    USER(user_out)
    CHECKM(got_vector, 13)
    USER(user_int81)
    CHECKM(got_vector, 13)
    CHECKM(got_error, 0x81 * 8 + 2)
    USER(user_kernel_cs)
    CHECKM(got_vector, 13)
    CHECKM(got_error, SEL_CODE64)
    USER(user_ud2)
    CHECKM(got_vector, 6)
    CHECKM(got_rip, user_ud2)
    /* POPF keeps IF and IOPL silently */
    USER(user_popf)
    mov user_result, %eax
    CHECK(%rax, 2)
    /* SYSCALL and SYSRET */
    SYSCALL_TO(on_syscall)
    mov $0xc0000084, %ecx
    mov $0x4, %eax
    wrmsr
    USER(user_syscall)
    mov user_result, %eax
    CHECK(%rax, 0x4711)
    mov seen_rcx, %rax
    CHECK(%rax, after_syscall)
    mov kernel_cs, %rax
    CHECK(%rax, SEL_CODE64)
    mov seen_ss, %rax
    CHECK(%rax, SEL_DATA)
    mov seen_r11, %rax
    and $0x4, %eax
    CHECK(%rax, 4)
    mov seen_flags, %rax
    and $0x4, %eax
    CHECK(%rax, 0)
    mov back_cs, %rax
    CHECK(%rax, SEL_USER64)
    mov back_flags, %rax
    and $0x4, %eax
    CHECK(%rax, 4)
    PASS

user_int:
    movl $0x1234, user_result
    int $0x80
user_read_kernel:
    mov KERNEL_PAGE, %eax
user_write_kernel:
    mov %eax, KERNEL_PAGE
user_missing:
    mov %eax, 0x40000000
user_hlt:
    hlt
user_cr3:
    mov %cr3, %rax
user_cli:
    cli
user_out:
    out %al, $0x80
user_int81:
    int $0x81
user_kernel_cs:
    push $SEL_CODE64
    push $user_ud2
    lretq
user_ud2:
    ud2
user_popf:
    push $0x3202
    popf
    pushf
    pop %rax
    mov %eax, user_result
    int $0x80
user_syscall:
    push $0x6
    popf
    syscall
after_syscall:
    mov %cs, %rcx
    mov %rcx, back_cs
    pushf
    pop %rcx
    mov %rcx, back_flags
    mov %eax, user_result
    int $0x80

on_syscall:
    mov %rcx, seen_rcx
    mov %r11, seen_r11
    mov %cs, %rax
    mov %rax, kernel_cs
    mov %ss, %rax
    mov %rax, seen_ss
    mov %rsp, %rbp
    mov $0x6c000, %esp
    pushf
    pop %rax
    mov %rax, seen_flags
    mov %rbp, %rsp
    mov $0x4711, %eax
    sysretq

/* From user mode by INT 0x80: notes the frame, goes on where USER said. The frame lies above the
 * return address, rdi, rax, the vector and the error code. */
on_int80:
    mov 48(%rsp), %rax
    mov %rax, seen_cs
    mov 64(%rsp), %rax
    mov %rax, seen_rsp
    lea 80(%rsp), %rax
    mov %rax, seen_stack
    mov resume_rsp, %rsp
    jmp *resume_rip
.balign 8
seen_cs: .quad 0
seen_ss: .quad 0
seen_rsp: .quad 0
seen_stack: .quad 0
seen_rcx: .quad 0
seen_r11: .quad 0
seen_flags: .quad 0
back_cs: .quad 0
kernel_cs: .quad 0
back_flags: .quad 0
user_result: .quad 0
#include "guest64_code.inc"
