/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Debug registers: execution breakpoints are faults, data breakpoints traps; single step; RF; GD. */
#include "guest64.inc"
#define DATA 0x100000
GUEST(LONG, 1, NEED_DEBUG)
    BEGIN64
    xor %eax, %eax
    mov %rax, %dr6
    mov $bp, %eax
    mov %rax, %dr0
    mov $0x402, %eax
    mov %rax, %dr7
    FAULTS(1, 0, xor %ebx, %ebx; bp: inc %ebx)
    CHECKM(got_rip, bp)
    CHECK(%rbx, 0)
    mov %dr6, %rax
    and $0xe00f, %eax
    CHECK(%rax, 1)
    /* a write of any byte of the four */
    mov $DATA, %eax
    mov %rax, %dr1
    mov $0xd00408, %eax
    mov %rax, %dr7
    xor %eax, %eax
    mov %rax, %dr6
    mov $DATA, %ebx
    HOLDS(mov (%rbx), %eax)
    HOLDS(movb $1, 4(%rbx))
    FAULTS(1, 0, movb $1, 3(%rbx); 78: nop)
    CHECKM(got_rip, 78b)
    mov %dr6, %rax
    and $0xe00f, %eax
    CHECK(%rax, 2)
    /* reads or writes */
    mov $0xf00408, %eax
    mov %rax, %dr7
    xor %eax, %eax
    mov %rax, %dr6
    FAULTS(1, 0, mov 2(%rbx), %al; 78: nop)
    CHECKM(got_rip, 78b)
    xor %eax, %eax
    mov %rax, %dr7
    mov $0x400, %eax
    mov %rax, %dr7
    /* single step: one instruction after POPF */
    xor %eax, %eax
    mov %rax, %dr6
    FAULTS(1, 0, push $0x102; popf; nop; 78: nop)
    CHECKM(got_rip, 78b)
    mov %dr6, %rax
    and $0xe00f, %eax
    CHECK(%rax, 0x4000)
    /* RF in the image of IRET lets one instruction pass its breakpoint */
    mov $bp2, %eax
    mov %rax, %dr0
    mov $0x402, %eax
    mov %rax, %dr7
    xor %ebx, %ebx
    mov %rsp, %rcx
    push $SEL_DATA
    push %rcx
    push $0x10002
    push $SEL_CODE64
    push $bp2
    HOLDS(iretq; bp2: inc %ebx)
    CHECK(%rbx, 1)
    /* general detect */
    mov $0x2400, %eax
    mov %rax, %dr7
    xor %eax, %eax
    FAULTS(1, 0, mov %dr0, %rax)
    CHECK(%rax, 0)
    mov %dr6, %rax
    and $0x2000, %eax
    CHECK(%rax, 0x2000)
    mov $0x400, %eax
    mov %rax, %dr7
    /* upper halves must be zero */
    bts $32, %rax
    FAULTS(13, 0, mov %rax, %dr7)
    PASS
#include "guest64_code.inc"
