/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Call gates: of 32 and 16 bits, to the same level and an inner one, with parameters, and what is wrong
 * with them. */
#include "guest32.inc"
#include "legacy32.inc"
#define SAME GDT + 0x68
#define INNER GDT + 0x70
#define NARROW GDT + 0x78
#define ABSENT GDT + 0x80
#define CLOSED GDT + 0x88
#define TO_DATA GDT + 0x90
#define TO_NULL GDT + 0x98
#define FAR_AWAY GDT + 0xa0
#define USER_STACK 0x120000

/* Runs `at` at CPL 3; a fault there comes back behind FAULTS. */
#define USER(at)                 \
    mov $SEL_USER_DATA, %eax;    \
    mov %eax, %ds;               \
    push $SEL_USER_DATA;         \
    push $USER_STACK;            \
    push $2;                     \
    push $SEL_USER32;            \
    push $at;                    \
    iret

GUEST(PROTECTED, 1, NEED_EXACT)
    BEGIN32
    LEGACY_BEGIN
    GATE(SAME, SEL_CODE32, same, 0, 0x8c)
    GATE(INNER, SEL_CODE32, inner, 2, 0xec)
    GATE(NARROW, SEL_CODE32, narrow, 3, 0xe4)
    movw $0xffff, NARROW + 6    /* ignored */
    GATE(ABSENT, SEL_CODE32, same, 0, 0x6c)
    GATE(CLOSED, SEL_CODE32, same, 0, 0xac)
    GATE(TO_DATA, SEL_DATA, same, 0, 0xec)
    GATE(TO_NULL, 0, same, 0, 0xec)
    GATE(FAR_AWAY, 0xa8, 0x1000, 0, 0xec)
    DESCRIPTOR(0xa8, 0x00000fff, 0x00409b00) /* code, limit 0xfff */
    movw $0xee00, 0x7e000 + 3 * 8 + 4       /* INT3 from user mode */
    movw $0xee00, 0x7e000 + 0x80 * 8 + 4

    /* the same level: the offset in the instruction does not count */
    mov %esp, %ebx
    lcall $0x68, $0x12345678
    CHECK(%eax, 0x68)
    sub %esp, %ebx
    CHECK(%ebx, 0)
    ljmp $0x68, $0
after_jump:
    /* 16 bits: IP and CS are words on the stack */
    mov %esp, %ebx
    lcall $0x78, $0
    CHECK(%ecx, 4)
    /* wrong gates */
    FAULTS(11, 0x80, lcall $0x80, $0)
    FAULTS(13, SEL_DATA, lcall $0x90, $0)
    FAULTS(13, 0, lcall $0x98, $0)
    FAULTS(13, 0, lcall $0xa0, $0)
    FAULTS(13, 0, ljmp $0xa0, $0)
    FAULTS(13, 0x88, lcall $0x8b, $0)       /* RPL 3 through a gate of DPL 1 */

    /* from CPL 3 to 0: SS, ESP, two parameters, CS, EIP */
    FAULTS(3, 0, USER(user_inner))
    CHECK(RING0_STACK - 4, SEL_USER_DATA)
    CHECK(%esi, 0x1111)
    CHECK(%edi, 0x2222)
    CHECK(%ebp, SEL_USER32)
    CHECK(inner_esp, RING0_STACK - 24)
    CHECK(user_esp, USER_STACK)
    /* the same with words, and three of them */
    FAULTS(3, 0, USER(user_narrow))
    CHECK(narrow_esp, RING0_STACK - 14)
    CHECK(%esi, 0x33)
    /* a gate to an inner level cannot be jumped through, one of a lower DPL not be used */
    FAULTS(13, SEL_CODE32, USER(user_jump))
    FAULTS(13, 0x88, USER(user_closed))
    /* stacks that are wrong: null, of another level, too small, TSS without the field */
    movl $0, TSS_A + 8
    FAULTS(10, 0, call bad_inner)
    movl $SEL_USER_DATA, TSS_A + 8
    FAULTS(10, SEL_USER_DATA & ~3, call bad_inner)
    PASS

same:
    mov $0x68, %eax
    cmpl $SEL_CODE32, 4(%esp)   /* called? */
    jne after_jump
    lret
narrow:
    mov %esp, narrow_esp
    mov %cs, %eax
    mov %ebx, %ecx
    sub %esp, %ecx
    movzwl 4(%esp), %esi        /* the last parameter, if there are any */
    mov 2(%esp), %ax
    test $3, %al
    jnz 1f
    lretw
1:  lretw $6
inner:
    mov %esp, inner_esp
    mov 4(%esp), %ebp
    mov 8(%esp), %esi
    mov 12(%esp), %edi
    lret $8
user_inner:
    push $0x2222
    push $0x1111
    lcall $0x73, $0
    mov %esp, user_esp
    int3
user_narrow:
    pushw $0x11
    pushw $0x22
    pushw $0x33
    lcall $0x7b, $0
    int3
user_jump:
    ljmp $0x73, $0
user_closed:
    lcall $0x8b, $0
/* With a bad stack for CPL 0 no handler at CPL 0 could run, so #TS goes to a task of its own. */
bad_inner:
    movl $0, 0x7e000 + 10 * 8           /* #TS goes through a task gate */
    movw $0xb0, 0x7e000 + 10 * 8 + 2
    movw $0x8500, 0x7e000 + 10 * 8 + 4
    TSS_DESCRIPTOR(0xb0, 0x102000, 0x67, 9)
    movl $ts_task, 0x102020
    movl $2, 0x102024
    movl $0x118000, 0x102038
    movl $SEL_DATA, 0x102048
    movl $SEL_CODE32, 0x10204c
    movl $SEL_DATA, 0x102050
    movl $SEL_DATA, 0x102054
    USER(user_inner)
/* the error code is on this stack; back to the kernel part as the entry code would have done */
ts_task:
    mov (%esp), %eax
    mov %eax, got_error
    movl $10, got_vector
    movb $0x89, GDT + SEL_A + 5
    mov $SEL_A, %eax
    ltr %ax
    pushf
    andl $~0x4000, (%esp)
    popf
    mov resume_esp, %esp
    jmp *resume_eip
.balign 4
inner_esp: .long 0
narrow_esp: .long 0
user_esp: .long 0
LEGACY_DATA
#include "guest32_code.inc"
