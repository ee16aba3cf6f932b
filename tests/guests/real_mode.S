/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Real mode: segments, interrupts by the vector table, far calls, strings that wrap, stack, flags. */
#include "guest.inc"
#define CHECK16(value, want) movw $__LINE__, line; cmpw $(want), value; jne wrong
.code16
GUEST(REAL, 1, NEED_REAL)
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0xfff0, %sp
    /* base = selector * 16 */
    mov $0x2345, %ax
    mov %ax, %es
    movw $0xbeef, %es:0x10
    mov $0x2340, %ax
    mov %ax, %es
    mov %es:0x60, %bx
    CHECK16(%bx, 0xbeef)
    /* INT n and IRET: flags, CS and IP on the stack; IF is cleared inside */
    movw $isr, 0x80 * 4
    movw $0, 0x80 * 4 + 2
    sti
    stc
    mov $1, %ax
    int $0x80
78: pushf
    pop %cx
    and $0x201, %cx
    CHECK16(%cx, 0x201)
    CHECK16(%ax, 2)
    CHECK16(seen_flags, 0)
    CHECK16(seen_ip, 78b)
    cli
    /* a divide error is a fault: IP is at the instruction */
    movw $isr_de, 0
    movw $0, 2
    xor %cl, %cl
    mov $0x1234, %ax
77: div %cl
after_de:
    CHECK16(seen_ip, 77b)
    CHECK16(%ax, 0x1234)
    /* far call through another selector of the same place */
    lcall $0x0080, $far - 0x800
    CHECK16(%ax, 0x0080)
    CHECK16(%sp, 0xfff0)
    /* 16-bit addresses wrap at 64 KiB: SI goes from 0xffff to 0 */
    mov $0x3000, %ax
    mov %ax, %ds
    movb $0x5a, 0xffff
    movb $0xa5, 0
    mov $0xffff, %si
    cld
    lodsb
    mov %al, %bl
    lodsb
    mov %al, %bh
    xor %ax, %ax
    mov %ax, %ds
    CHECK16(%bx, 0xa55a)
    CHECK16(%si, 1)
    /* rep movsw backwards, overlapping */
    mov %ax, %es
    mov $0x9000, %di
    mov $8, %cx
1:  mov %cx, %ax
    stosw
    loop 1b
    std
    mov $0x900e, %si
    mov $0x9010, %di
    mov $8, %cx
    rep movsw
    cld
    mov 0x9002, %ax
    CHECK16(%ax, 8)
    mov 0x9010, %ax
    CHECK16(%ax, 1)
    CHECK16(%si, 0x8ffe)
    CHECK16(%cx, 0)
    /* 32-bit operands and addresses by prefix */
    mov $0x12345678, %eax
    mov $0x9020, %ebx
    movl %eax, (%ebx)
    mov 0x9022, %ax
    CHECK16(%ax, 0x1234)
    /* decimal arithmetic */
    mov $0x0f, %al
    add $0x01, %al
    daa
    xor %ah, %ah
    CHECK16(%ax, 0x16)
    mov $123, %al
    xor %ah, %ah
    aam
    CHECK16(%ax, 0x0c03)
    aad
    CHECK16(%ax, 123)
    /* enter, leave, pusha */
    mov $0x1111, %bp
    enter $8, $0
    CHECK16(%sp, 0xfff0 - 10)
    leave
    CHECK16(%bp, 0x1111)
    mov $0x77, %cx
    pusha
    xor %cx, %cx
    popa
    CHECK16(%cx, 0x77)
    /* PUSH SP pushes the old value */
    push %sp
    pop %ax
    CHECK16(%ax, 0xfff0)
    PASS
wrong:
    movzwl line, %eax
    mov $PORT_EXIT, %dx
    out %eax, %dx
    hlt
isr:
    inc %ax
    mov %sp, %bp
    mov (%bp), %cx
    mov %cx, seen_ip
    pushf
    pop %cx
    and $0x200, %cx
    mov %cx, seen_flags
    iret
isr_de:
    mov %sp, %bp
    mov (%bp), %cx
    mov %cx, seen_ip
    movw $after_de, (%bp)
    iret
far:
    mov %cs, %ax
    lret
.balign 2
line: .word 0
seen_ip: .word 0
seen_flags: .word 0
