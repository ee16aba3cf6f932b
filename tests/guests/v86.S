/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Virtual-8086 mode: entry and frame, segments, IOPL-sensitive instructions, ports, interrupts, the
 * virtual interrupt flag and the redirection bitmap, PVI. */
#include "guest32.inc"
#include "legacy32.inc"
#define VM 0x20000
#define IOPL3 0x3000
#define VIF 0x80000
#define VIP 0x100000
#define IF 0x200
#define V_CS 0x0101                 /* low bits set: the entry code takes it for user mode */
#define V_BASE 0x1010
#define V_SS 0x3000
#define IO_BASE 0x88
#define REDIRECTION (TSS_A + 0x68)
#define IO_BITMAP (TSS_A + IO_BASE)
/* Runs 16-bit code at `at`; how it ends is for FAULTS to say. */
#define V86(flags, at)              \
    push $0x2400;  /* GS */         \
    push $0x2300;                   \
    push $0x2200;                   \
    push $0x2100;  /* ES */         \
    push $V_SS;                     \
    push $0x1000;                   \
    push $(VM | 2 | (flags));       \
    push $V_CS;                     \
    push $(at) - V_BASE;            \
    iret
/* Where the fault was, and EFLAGS and ESP there */
#define AT(label) CHECK(got_eip, label - V_BASE)
#define FLAGS_WERE(mask, want)      \
    mov RING0_STACK - 28, %eax;     \
    and $(mask), %eax;              \
    CHECK(%eax, want)

GUEST(PROTECTED, 1, NEED_EXACT)
    BEGIN32
    LEGACY_BEGIN
    movw $IO_BASE, TSS_A + 0x66
    movb $0x10, IO_BITMAP + 0x80 / 8        /* port 0x84 is closed */
    movb $0xff, TSS_A + 0x1ff
    movw $0xee00, 0x7e000 + 3 * 8 + 4       /* INT3 may be used from CPL 3 */
    movw $0xee00, 0x7e000 + 0x21 * 8 + 4
    movl $0x12345678, 0x22010
    movl $0, 0x20000

    /* the frame, and what segments and the stack are */
    FAULTS(3, 0, V86(0x41, v_plain))
    AT(v_plain_end)
    CHECK(RING0_STACK - 4, 0x2400)
    CHECK(RING0_STACK - 8, 0x2300)
    CHECK(RING0_STACK - 12, 0x2200)
    CHECK(RING0_STACK - 16, 0x2000)
    CHECK(RING0_STACK - 20, V_SS)
    CHECK(RING0_STACK - 24, 0x0ffe)
    CHECK(RING0_STACK - 32, V_CS)
    FLAGS_WERE(VM | IOPL3 | IF | 0x41, VM | 0x41)
    CHECK(%ebx, 0x12345678)
    CHECK(0x20004, 0x5678)
    movzwl 0x30ffe, %eax
    CHECK(%eax, 0xabcd)
    /* beyond 64 KiB; a jump, a far call and return */
    FAULTS(13, 0, V86(0, v_limit))
    FAULTS(12, 0, V86(0, v_stack_limit))
    FAULTS(3, 0, V86(0, v_far))
    AT(v_far_end)
    /* privileged instructions, and those that are none here */
    FAULTS(13, 0, V86(IOPL3, v_hlt))
    AT(v_hlt)
    FAULTS(13, 0, V86(IOPL3, v_cr))
    FAULTS(6, 0, V86(IOPL3, v_lldt))
    FAULTS(6, 0, V86(IOPL3, v_arpl))
    /* IOPL 0 */
    FAULTS(13, 0, V86(0, v_cli))
    AT(v_cli)
    FAULTS(13, 0, V86(0, v_sti))
    FAULTS(13, 0, V86(0, v_pushf))
    FAULTS(13, 0, V86(0, v_popf))
    FAULTS(13, 0, V86(0, v_int))
    AT(v_int)
    FAULTS(13, 0, V86(0, v_iret))
    /* IOPL 3 */
    FAULTS(3, 0, V86(IOPL3 | IF, v_flags))
    AT(v_flags_end)
    FLAGS_WERE(VM | IOPL3 | IF, VM | IOPL3)
    movzwl 0x30ffe, %eax
    and $IOPL3 | IF, %eax
    CHECK(%eax, IOPL3 | IF)
    FAULTS(0x21, 0, V86(IOPL3, v_int))
    AT(v_int_end)
    FAULTS(13, 0x22 * 8 + 2, V86(IOPL3, v_int22))
    FAULTS(3, 0, V86(IOPL3, v_iret_frame))
    AT(v_iret_target)
    FLAGS_WERE(VM | IOPL3 | 0x41, VM | IOPL3 | 0x41)
    /* ports by the bitmap, whatever IOPL says */
    FAULTS(13, 0, V86(IOPL3, v_port_closed))
    AT(v_port_closed)
    FAULTS(3, 0, V86(0, v_port_open))
    AT(v_port_open_end)

    /* EIP beyond 64 KiB cannot be entered */
    push $0; push $0; push $0; push $0; push $V_SS; push $0x1000; push $VM | 2; push $V_CS
    push $0x10000
    FAULTS(13, 0, iret)
    add $36, %esp

    /* VME: not on every CPU */
    mov $1, %eax
    cpuid
    test $2, %edx
    jz no_vme
    mov %cr4, %eax
    or $1, %eax
    mov %eax, %cr4
    /* INT: the program's own handler while its bit is clear */
    movw $v_own - V_BASE, 0x21 * 4
    movw $V_CS, 0x21 * 4 + 2
    FAULTS(3, 0, V86(VIF, v_int))
    AT(v_own_end)
    FLAGS_WERE(VIF | IOPL3 | IF, 0)
    movzwl 0x30ffe, %eax                    /* what it sees as its flags: IF, IOPL 3 */
    and $IF | IOPL3, %eax
    CHECK(%eax, IF | IOPL3)
    movzwl 0x30ffa, %eax
    CHECK(%eax, v_int_end - V_BASE)
    FAULTS(3, 0, V86(IOPL3 | IF, v_int))
    AT(v_own_end)
    FLAGS_WERE(IF | IOPL3, IOPL3)
    movb $2, REDIRECTION + 0x20 / 8
    FAULTS(13, 0, V86(VIF, v_int))
    AT(v_int)
    FAULTS(0x21, 0, V86(IOPL3, v_int))
    AT(v_int_end)
    /* CLI, STI, PUSHF, POPF, IRET work on VIF */
    FAULTS(3, 0, V86(VIF, v_cli))
    FLAGS_WERE(VIF | IF, 0)
    FAULTS(3, 0, V86(0, v_sti))
    FLAGS_WERE(VIF | IF, VIF)
    FAULTS(13, 0, V86(VIP, v_sti))
    FAULTS(3, 0, V86(VIF, v_pushf))
    movzwl 0x30ffe, %eax
    and $IF | IOPL3, %eax
    CHECK(%eax, IF | IOPL3)
    FAULTS(13, 0, V86(VIF, v_pushfl))
    FAULTS(3, 0, V86(0, v_popf))
    FLAGS_WERE(VIF | IF | IOPL3, VIF)
    FAULTS(13, 0, V86(VIP, v_popf))
    FAULTS(13, 0, V86(0, v_popf_trap))
    FAULTS(3, 0, V86(VIF, v_iret_frame))
    AT(v_iret_target)
    FLAGS_WERE(VIF | IF | IOPL3 | 0x41, 0x41)
    /* PVI: the same for CLI and STI at CPL 3 */
    mov %cr4, %eax
    xor $3, %eax
    mov %eax, %cr4
    FAULTS(3, 0, push $SEL_USER_DATA; push $0x120000; push $2; push $SEL_USER32; push $p_sti; iret)
    mov RING0_STACK - 12, %eax
    and $VIF | IF, %eax
    CHECK(%eax, VIF)
    FAULTS(13, 0, push $SEL_USER_DATA; push $0x120000; push $VIP | 2; push $SEL_USER32; push $p_sti; iret)
no_vme:
    /* a task of this mode: its state comes from the TSS */
    TSS_DESCRIPTOR(0x68, 0x104000, 0x67, 9)
    movl $v_plain - V_BASE, 0x104020
    movl $VM | 2, 0x104024
    movl $0x1000, 0x104038
    movl $V_CS, 0x10404c
    movl $V_SS, 0x104050
    movl $0x2200, 0x104054
    movl $RING0_STACK, 0x104004
    movl $SEL_DATA, 0x104008
    movl $0, 0x20004
    FAULTS(3, 0, ljmp $0x68, $0)
    AT(v_plain_end)
    CHECK(0x20004, 0x5678)
    PASS

p_sti:
    sti
    int3
.code16
v_plain:
    mov 0x10, %ebx
    mov $0x2000, %ax
    mov %ax, %es
    mov %bx, %es:4
    pushw $0xabcd
    int3
v_plain_end:
v_limit:
    mov $0x10000, %ebx
    mov (%ebx), %al
v_stack_limit:
    mov $0x10000, %ebp
    mov (%ebp), %al
v_far:
    lcallw $V_CS + 1, $v_far_sub - V_BASE - 16
    int3
v_far_end:
v_far_sub:
    lretw
v_hlt:
    hlt
v_cr:
    mov %cr0, %eax
v_lldt:
    lldt %ax
v_arpl:
    arpl %ax, %ax
v_cli:
    cli
    int3
v_sti:
    sti
    int3
v_pushf:
    pushfw
    int3
v_pushfl:
    pushfl
    int3
v_popf:
    pushw $0x202
    popfw
    int3
v_popf_trap:
    pushw $0x102
    popfw
    int3
v_int:
    int $0x21
v_int_end:
    int3
v_int22:
    int $0x22
v_iret:
    iretw
v_flags:
    pushfw
    cli
    int3
v_flags_end:
v_iret_frame:
    pushw $0x43
    pushw $V_CS
    pushw $v_iret_at - V_BASE
    iretw
v_iret_at:
    int3
v_iret_target:
v_port_closed:
    in $0x84, %al
v_port_open:
    in $0x85, %al
    int3
v_port_open_end:
v_own:
    int3
v_own_end:
.code32
.balign 4
LEGACY_DATA
#include "guest32_code.inc"
