/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Hardware task switches: JMP, CALL and IRET, gates in GDT and IDT, 16- and 32-bit task states, busy
 * bits and links, CR3, the trap bit, and faults before and after the switch. */
#include "guest32.inc"
#include "legacy32.inc"
#define TSS_B 0x102000
#define SEL_B 0x68
#define TSS_C 0x103000
#define SEL_C 0x70
#define SEL_GATE 0x78
#define SEL_SMALL 0x80
#define TSS_N 0x104000
#define SEL_N 0x88
#define SEL_BASE1 0x90
#define SEL_ABSENT 0x98
#define TASK(tss, eip, esp, eflags)   \
    movl $(eip), (tss) + 0x20;        \
    movl $(eflags), (tss) + 0x24;     \
    movl $0xb1, (tss) + 0x28;         \
    movl $0xb2, (tss) + 0x2c;         \
    movl $0xb3, (tss) + 0x30;         \
    movl $0xb4, (tss) + 0x34;         \
    movl $(esp), (tss) + 0x38;        \
    movl $0xb5, (tss) + 0x3c;         \
    movl $0xb6, (tss) + 0x40;         \
    movl $0xb7, (tss) + 0x44;         \
    movl $SEL_DATA, (tss) + 0x48;     \
    movl $SEL_CODE32, (tss) + 0x4c;   \
    movl $SEL_DATA, (tss) + 0x50;     \
    movl $SEL_DATA, (tss) + 0x54;     \
    movl $SEL_BASE1, (tss) + 0x58;    \
    movl $0, (tss) + 0x5c;            \
    movl $0, (tss) + 0x60;            \
    movl $0x680000, (tss) + 0x64
#define AT_CPL_3(tss)                 \
    movl $0x118000, (tss) + 4;        \
    movl $SEL_DATA, (tss) + 8;        \
    movl $SEL_USER_DATA, (tss) + 0x48; \
    movl $SEL_USER32, (tss) + 0x4c;   \
    movl $SEL_USER_DATA, (tss) + 0x50; \
    movl $SEL_USER_DATA, (tss) + 0x54; \
    movl $0, (tss) + 0x58
#define TYPE_IS(sel, type)            \
    movzbl GDT + (sel) + 5, %eax;     \
    CHECK(%eax, 0x80 | (type))
/* After a fault in another task: A is the current one again. */
#define BACK_TO_A(sel)                \
    movb $0x89, GDT + SEL_A + 5;      \
    movb $0x89, GDT + (sel) + 5;      \
    mov $SEL_A, %eax;                 \
    ltr %ax;                          \
    pushf;                            \
    andl $~0x4000, (%esp);            \
    popf

GUEST(PROTECTED, 1, NEED_EXACT)
    BEGIN32
    LEGACY_BEGIN
    TSS_DESCRIPTOR(SEL_B, TSS_B, 0x67, 9)
    TSS_DESCRIPTOR(SEL_C, TSS_C, 0x67, 9)
    TSS_DESCRIPTOR(SEL_SMALL, TSS_C, 0x66, 9)
    TSS_DESCRIPTOR(SEL_N, TSS_N, 0x2b, 1)
    TSS_DESCRIPTOR(SEL_ABSENT, TSS_C, 0x67, 9)
    movb $0x09, GDT + SEL_ABSENT + 5
    DESCRIPTOR(SEL_BASE1, 0x0000ffff, 0x00cf9320)   /* base 0x200000 */
    movl $0x1234, 0x200000
    GATE(GDT + SEL_GATE, SEL_B, 0, 0, 0x85)
    TASK(TSS_B, task_b, 0x110000, 2)

    /* JMP there and back: each goes on where it left */
    mov $0xa1, %ebx
    mov $0xa2, %esi
    ljmp $SEL_B, $0x777
    CHECK(%ebx, 0xa1)
    CHECK(%esi, 0xa2)
    CHECK(TSS_B + 0x28, 0xc1)
    CHECK(TSS_B, 0)
    TYPE_IS(SEL_B, 9)
    TYPE_IS(SEL_A, 0xb)
    /* CALL and IRET: the link, NT, both busy */
    clts
    lcall $SEL_B, $0
    CHECK(TSS_B, SEL_A)
    TYPE_IS(SEL_B, 9)
    TYPE_IS(SEL_A, 0xb)
    pushf
    pop %eax
    and $0x4000, %eax
    CHECK(%eax, 0)
    mov TSS_B + 0x24, %eax
    and $0x4000, %eax
    CHECK(%eax, 0)
    mov %cr0, %eax
    and $8, %eax
    CHECK(%eax, 8)
    clts
    /* a gate in the GDT, one in the IDT */
    lcall $SEL_GATE, $0
    CHECK(count, 3)
    GATE(0x7e000 + 0x90 * 8, SEL_B, 0, 0, 0x85)
    int $0x90
    CHECK(count, 4)
    /* wrong ones */
    FAULTS(13, SEL_A, ljmp $SEL_A, $0)
    FAULTS(13, SEL_A, lcall $SEL_A, $0)
    FAULTS(11, SEL_ABSENT, ljmp $SEL_ABSENT, $0)
    FAULTS(10, SEL_SMALL, ljmp $SEL_SMALL, $0)
    TYPE_IS(SEL_A, 0xb)
    GATE(GDT + SEL_GATE, SEL_B | 4, 0, 0, 0x85)
    FAULTS(13, SEL_B | 4, ljmp $SEL_GATE, $0)
    GATE(GDT + SEL_GATE, SEL_B, 0, 0, 0x05)
    FAULTS(11, SEL_GATE, ljmp $SEL_GATE, $0)
    FAULTS(13, SEL_GATE | 0, ljmp $SEL_GATE | 3, $0)
    movw $SEL_C, TSS_A
    FAULTS(10, SEL_C, call iret_nested)     /* the linked task is not busy */
    pushf
    andl $~0x4000, (%esp)
    popf

    /* an exception with an error code through a task gate; the saved EIP is the faulting one */
    GATE(0x7e000 + 13 * 8, SEL_C, 0, 0, 0x85)
    TASK(TSS_C, task_gp, 0x110000, 2)
    mov $0x1000, %eax
faulting:
    mov %eax, %es
after_fault:
    CHECK(gp_error, 0x1000)
    CHECK(gp_eip, faulting)
    call idt_init

    /* what is wrong inside the new task is its own fault: TR names it, EIP is where it begins. It is of
     * CPL 3, so that there is a stack for the handler. */
    TASK(TSS_C, task_bad, 0x110000, 2)
    AT_CPL_3(TSS_C)
    movl $SEL_CODE32, TSS_C + 0x50
    FAULTS(10, SEL_CODE32, ljmp $SEL_C, $0)
    CHECK(got_eip, task_bad)
    str %eax
    movzwl %ax, %eax
    CHECK(%eax, SEL_C)
    BACK_TO_A(SEL_C)
    TASK(TSS_C, task_bad, 0x110000, 2)
    AT_CPL_3(TSS_C)
    movl $0x50, TSS_C + 0x60                /* no LDT: comes first */
    FAULTS(10, 0x50, ljmp $SEL_C, $0)
    BACK_TO_A(SEL_C)
    TASK(TSS_C, task_bad, 0x110000, 2)
    AT_CPL_3(TSS_C)
    movl $0x1000, TSS_C + 0x54
    FAULTS(10, 0x1000, ljmp $SEL_C, $0)
    BACK_TO_A(SEL_C)
    TASK(TSS_C, task_bad, 0x110000, 2)
    AT_CPL_3(TSS_C)
    movl $SEL_DATA | 3, TSS_C + 0x4c        /* not code */
    FAULTS(10, SEL_DATA, ljmp $SEL_C, $0)
    BACK_TO_A(SEL_C)

    /* the trap bit: #DB before the first instruction */
    TASK(TSS_C, task_bad, 0x110000, 2)
    movw $1, TSS_C + 0x64
    xor %eax, %eax
    mov %eax, %dr6
    FAULTS(1, 0, ljmp $SEL_C, $0)
    CHECK(got_eip, task_bad)
    mov %dr6, %eax
    and $0xe000, %eax
    CHECK(%eax, 0x8000)
    BACK_TO_A(SEL_C)

    /* local breakpoints do not survive a switch, global ones do */
    mov $0x700, %eax
    mov %eax, %dr7
    ljmp $SEL_B, $0
    mov %dr7, %eax
    and $0x355, %eax
    CHECK(%eax, 0x200)
    mov $0x400, %eax
    mov %eax, %dr7

    /* a task state of 16 bits: IP, FLAGS, words */
    movw $task_n, TSS_N + 0x0e
    movw $2, TSS_N + 0x10
    movw $0x91, TSS_N + 0x12
    movw $0xb000, TSS_N + 0x1a
    movw $SEL_DATA, TSS_N + 0x22
    movw $SEL_CODE32, TSS_N + 0x24
    movw $SEL_DATA16, TSS_N + 0x26
    movw $SEL_DATA, TSS_N + 0x28
    movl $0xb00000, saved_bp
    mov $0x12345678, %ebp
    ljmp $SEL_N, $0
    CHECK(%ebp, 0x12345678)
    CHECK(narrow_ax, 0x91)
    movzwl TSS_N + 0x12, %eax
    CHECK(%eax, 0x5678)
    movzwl TSS_N + 0x0e, %eax
    CHECK(%eax, after_n)

    /* CR3 comes from the task: the same address is another page there */
    mov %cr4, %eax
    or $0x10, %eax
    mov %eax, %cr4
    mov $0x130000, %edi
    mov $0x2000 / 4, %ecx
    xor %eax, %eax
    rep stosl
    movl $0x83, 0x130000
    movl $0x400083, 0x130004
    movl $0x83, 0x131000
    movl $0x800083, 0x131004
    movl $0x44, 0x400000
    movl $0x88, 0x800000
    TASK(TSS_B, task_b, 0x110000, 2)
    movl $0x131000, TSS_B + 0x1c
    movl $0x130000, TSS_A + 0x1c
    mov $0x130000, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    CHECK(0x400000, 0x44)
    movl $1, look
    lcall $SEL_B, $0
    CHECK(seen, 0x88)
    CHECK(0x400000, 0x44)
    mov %cr3, %eax
    CHECK(%eax, 0x130000)
    PASS

task_b:
    cmpl $0, look
    jne look_there
    CHECK(%eax, 0xb1)
    CHECK(%ecx, 0xb2)
    CHECK(%edx, 0xb3)
    CHECK(%ebx, 0xb4)
    CHECK(%esp, 0x110000)
    CHECK(%ebp, 0xb5)
    CHECK(%esi, 0xb6)
    CHECK(%edi, 0xb7)
    mov %fs:0, %eax
    CHECK(%eax, 0x1234)
    CHECK(TSS_A + 0x34, 0xa1)
    CHECK(TSS_A + 0x40, 0xa2)
    TYPE_IS(SEL_A, 9)
    TYPE_IS(SEL_B, 0xb)
    pushf
    pop %eax
    and $0x7200, %eax
    CHECK(%eax, 0)
    mov %cr0, %eax
    and $8, %eax
    CHECK(%eax, 8)
    str %eax
    movzwl %ax, %eax
    CHECK(%eax, SEL_B)
    mov $0xc1, %eax
    ljmp $SEL_A, $0
    /* called now */
    TYPE_IS(SEL_A, 0xb)
    TYPE_IS(SEL_B, 0xb)
    pushf
    pop %eax
    and $0x4000, %eax
    CHECK(%eax, 0x4000)
1:  incl count
    iret
    cmpl $4, count
    jne 1b
    /* jumped to again, in the end of the list above */
2:  ljmp $SEL_A, $0
    jmp 2b
look_there:
    mov 0x400000, %eax
    mov %eax, seen
    iret
task_gp:
    pop gp_error
    mov TSS_A + 0x20, %eax
    mov %eax, gp_eip
    movl $after_fault, TSS_A + 0x20
    iret
task_bad:
    hlt
task_n:
    movzwl %ax, %eax
    mov %eax, narrow_ax
    mov TSS_A + 0x3c, %ebp
    mov %bp, %ax
    ljmp $SEL_A, $0
after_n:
    hlt
iret_nested:
    pushf
    orl $0x4000, (%esp)
    popf
    iret
.balign 4
count: .long 1
look: .long 0
seen: .long 0
gp_error: .long 0
gp_eip: .long 0
narrow_ax: .long 0
saved_bp: .long 0
LEGACY_DATA
#include "guest32_code.inc"
