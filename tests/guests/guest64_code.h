/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The code and data behind guest64.h. */
wrong:
    mov %r13d, %eax
    mov $PORT_NOTE, %dx
    out %eax, %dx
    mov %r14d, %eax
    out %eax, %dx
    mov %r15d, %eax
    mov $PORT_EXIT, %dx
    out %eax, %dx
1:  hlt
    jmp 1b
idt_init:
    mov $0x7e000, %edi
    mov $stubs, %eax
    xor %ecx, %ecx
1:  mov %ax, (%rdi)
    movw $SEL_CODE64, 2(%rdi)
    movw $0x8e00, 4(%rdi)
    movw $0, 6(%rdi)
    movq $0, 8(%rdi)
    add $16, %edi
    add $16, %eax
    inc %ecx
    cmp $256, %ecx
    jne 1b
    ret
    .balign 16
stubs:
    .set n, 0
    .rept 256
    .balign 16
    .if !((n == 8) || ((n >= 10) && (n <= 14)) || (n == 17) || (n == 21))
    push $0
    .endif
    push $n
    jmp taken_common
    .set n, n + 1
    .endr
    .balign 16
taken_common:
    push %rax
    push %rdi
    mov 16(%rsp), %rdi
    incl taken(, %rdi, 4)
    cmpq $32, %rdi
    jae 2f
    cmpq $0, resume_rip
    je 2f
    mov %rdi, got_vector
    mov 24(%rsp), %rax
    mov %rax, got_error
    mov 32(%rsp), %rax
    mov %rax, got_rip
    mov 48(%rsp), %rax
    mov %rax, got_rflags
    mov 40(%rsp), %rax
    mov %rax, got_cs
    mov 56(%rsp), %rax
    mov %rax, got_rsp
    mov %rsp, got_stack
    mov %cr2, %rax
    mov %rax, got_cr2
    mov resume_rip, %rax
    mov %rax, 32(%rsp)
    movq $SEL_CODE64, 40(%rsp)
    mov resume_rsp, %rax
    mov %rax, 56(%rsp)
    movq $SEL_DATA, 64(%rsp)
    andq $~0x10100, 48(%rsp)
    jmp 3f
2:  mov hook, %rax
    test %rax, %rax
    jz 4f
    call *%rax
3:  pop %rdi
    pop %rax
    add $16, %rsp
    iretq
4:  cmp $32, %rdi
    jae 3b
    mov 32(%rsp), %rax
    mov $PORT_NOTE, %dx
    out %eax, %dx
    mov %edi, %eax
    or $0x80000000, %eax
    mov $PORT_EXIT, %dx
    out %eax, %dx
    hlt
    .balign 8
resume_rip: .quad 0
resume_rsp: .quad 0
got_vector: .quad 0
got_error: .quad 0
got_rip: .quad 0
got_rflags: .quad 0
got_cs: .quad 0
got_rsp: .quad 0
got_stack: .quad 0
got_cr2: .quad 0
hook: .quad 0
taken: .fill 256, 4, 0
