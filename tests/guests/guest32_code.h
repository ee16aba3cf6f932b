/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The code and data behind guest32.h. */
wrong:
    mov got_vector, %eax
    mov $PORT_NOTE, %edx
    out %eax, %dx
    mov got_error, %eax
    out %eax, %dx
    mov got_eip, %eax
    out %eax, %dx
    mov line, %eax
    mov $PORT_EXIT, %edx
    out %eax, %dx
1:  hlt
    jmp 1b
idt_init:
    mov $0x7e000, %edi
    mov $stubs, %eax
    mov $256, %ecx
1:  mov %ax, (%edi)
    movw $SEL_CODE32, 2(%edi)
    movw $0x8e00, 4(%edi)
    movw $0, 6(%edi)
    add $8, %edi
    add $16, %eax
    dec %ecx
    jnz 1b
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
/* vector, error, EIP, CS, EFLAGS and, from user mode, ESP, SS */
taken_common:
    push %eax
    push %ds
    mov $SEL_DATA, %eax
    mov %eax, %ds
    mov 8(%esp), %eax
    mov %eax, got_vector
    mov 12(%esp), %eax
    mov %eax, got_error
    mov 16(%esp), %eax
    mov %eax, got_eip
    mov 20(%esp), %eax
    mov %eax, got_cs
    mov %cr2, %eax
    mov %eax, got_cr2
    cmpl $0, resume_eip
    je unexpected
    testl $3, got_cs
    jz 1f
    /* from user mode there is no way back by IRET to CPL 0: switch by hand */
    pop %eax
    pop %eax
    mov $SEL_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov resume_esp, %esp
    jmp *resume_eip
1:  mov resume_eip, %eax
    mov %eax, 16(%esp)
    movl $SEL_CODE32, 20(%esp)
    pop %ds
    pop %eax
    add $8, %esp
    push resume_esp
    pop saved_esp
    /* IRET to the same level keeps ESP: take the frame, then the old stack */
    popl saved_eip
    add $4, %esp
    andl $~0x10100, (%esp)
    popfl
    mov saved_esp, %esp
    jmp *saved_eip
unexpected:
    mov 16(%esp), %eax
    mov $PORT_NOTE, %edx
    out %eax, %dx
    mov got_vector, %eax
    or $0x80000000, %eax
    mov $PORT_EXIT, %edx
    out %eax, %dx
    hlt
.balign 4
line: .long 0
resume_eip: .long 0
resume_esp: .long 0
saved_eip: .long 0
saved_esp: .long 0
got_vector: .long 0
got_error: .long 0
got_eip: .long 0
got_cs: .long 0
got_cr2: .long 0
