/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Segments in protected mode: limits both ways, types, not present, privilege, loads that fail with
 * which error, BOUND, INTO, far calls, a task state's stack. */
#include "guest32.inc"
#define GDT 0x100000
#define DESCRIPTOR(n, low, high) movl $(low), GDT + (n) * 8; movl $(high), GDT + (n) * 8 + 4
GUEST(PROTECTED, 1, NEED_EXACT)
    BEGIN32
    cld
    mov $0x7f000, %esi
    mov $GDT, %edi
    mov $0x60 / 4, %ecx
    rep movsl
    DESCRIPTOR(12, 0x00000fff, 0x00409320)  /* 0x60: base 0x200000, limit 0xfff, data */
    DESCRIPTOR(13, 0x00000fff, 0x00409720)  /* 0x68: expand down above 0xfff */
    DESCRIPTOR(14, 0x00000fff, 0x00409120)  /* 0x70: read-only */
    DESCRIPTOR(15, 0x00000fff, 0x00401320)  /* 0x78: not present */
    DESCRIPTOR(16, 0x0000ffff, 0x00cf9900)  /* 0x80: code, execute only, 4 GiB */
    DESCRIPTOR(17, 0x0000ffff, 0x00cf9f00)  /* 0x88: conforming code */
    DESCRIPTOR(18, 0x00000001, 0x00c09320)  /* 0x90: 8 KiB by pages */
    DESCRIPTOR(19, 0x00000fff, 0x00008200)  /* 0x98: an LDT, empty */
    lgdt pointer
    mov $0x60, %eax
    mov %eax, %es
    HOLDS(movb $1, %es:0xfff)
    FAULTS(13, 0, movb $1, %es:0x1000)
    FAULTS(13, 0, movw $1, %es:0xfff)
    FAULTS(13, 0, movl $1, %es:0xffd)
    HOLDS(movl $1, %es:0xffc)
    CHECK(0x200ffc, 1)
    mov $0x68, %eax
    mov %eax, %es
    HOLDS(movb $1, %es:0x1000)
    FAULTS(13, 0, movb $1, %es:0xfff)
    mov $0x70, %eax
    mov %eax, %es
    HOLDS(mov %es:0, %eax)
    FAULTS(13, 0, mov %eax, %es:0)
    mov $0x90, %eax
    mov %eax, %es
    HOLDS(movb $1, %es:0x1fff)
    FAULTS(13, 0, movb $1, %es:0x2000)
    /* a null selector loads, and faults when used */
    xor %eax, %eax
    HOLDS(mov %eax, %es)
    FAULTS(13, 0, mov %es:0, %eax)
    /* loads that fail leave the old one */
    mov $0x60, %eax
    mov %eax, %es
    mov $0x78, %eax
    FAULTS(11, 0x78, mov %eax, %es)
    mov $0x80, %eax
    FAULTS(13, 0x80, mov %eax, %es)
    mov $0xa8, %eax
    FAULTS(13, 0xa8, mov %eax, %es)
    mov $0x98, %eax
    FAULTS(13, 0x98, mov %eax, %es)
    mov %es, %ax
    movzwl %ax, %eax
    CHECK(%eax, 0x60)
    /* SS wants writable data of its own level */
    xor %eax, %eax
    FAULTS(13, 0, mov %eax, %ss)
    mov $0x70, %eax
    FAULTS(13, 0x70, mov %eax, %ss)
    mov $0x78, %eax
    FAULTS(12, 0x78, mov %eax, %ss)
    mov $SEL_USER_DATA, %eax
    FAULTS(13, 0x38, mov %eax, %ss)
    /* the accessed bit is set by a load */
    DESCRIPTOR(12, 0x00000fff, 0x00409220)
    mov $0x60, %eax
    mov %eax, %es
    CHECK(GDT + 12 * 8 + 4, 0x00409320)
    /* execute-only code cannot be read; far calls through it work */
    lcall $0x80, $returns
    CHECK(%eax, 0x80)
    lcall $0x88, $returns
    CHECK(%eax, 0x88)
    FAULTS(13, 0x60, ljmp $0x60, $returns)
    FAULTS(13, 0, ljmp $0, $returns)
    /* beyond the GDT; an LDT that is not there, then one */
    mov $0x1000, %eax
    FAULTS(13, 0x1000, mov %eax, %es)
    mov $4, %eax
    FAULTS(13, 4, mov %eax, %es)
    mov $0x98, %eax
    HOLDS(lldt %ax)
    FAULTS(13, 0x60, lldt selector)
    /* LAR, LSL, VERR, VERW */
    mov $0x60, %ecx
    lar %ecx, %eax
    CHECK(%eax, 0x00409300)
    lsl %ecx, %eax
    CHECK(%eax, 0xfff)
    mov $0x90, %ecx
    lsl %ecx, %eax
    CHECK(%eax, 0x1fff)
    mov $0x70, %ecx
    verw %cx
    movl $__LINE__, line
    jz wrong
    verr %cx
    movl $__LINE__, line
    jnz wrong
    /* BOUND and INTO */
    mov $5, %eax
    HOLDS(bound %eax, bounds)
    mov $11, %eax
    FAULTS(5, 0, bound %eax, bounds)
    mov $0x7fffffff, %eax
    FAULTS(4, 0, add $1, %eax; into)
    HOLDS(xor %eax, %eax; into)
    /* base and 32-bit wrap-around of the sum */
    mov $0x12345678, %eax
    mov $0x300000, %ebx
    mov %eax, (%ebx)
    mov $0x80000000, %ebx
    mov 0x80300000(%ebx), %ecx
    CHECK(%ecx, 0x12345678)
    PASS
returns:
    mov %cs, %ax
    movzwl %ax, %eax
    lret
.balign 8
pointer:
    .word 20 * 8 - 1
    .long GDT
bounds: .long 1, 10
selector: .word 0x60
#include "guest32_code.inc"
