/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One vCPU changes code that another runs all the time. By the rules of cross-modifying code the
 * other serializes (CPUID) before it runs the new version; and one aligned byte may change at any
 * time, after which only old or new may be seen, and the new one in the end. */
#include "guest64.inc"
#include "smp.inc"
GUEST(LONG, 2, NEED_NOTHING)
    BEGIN64
    movl $0x000000b8, 0x100000      /* mov $n, %eax; ret */
    movw $0xc300, 0x100004
    AP_START(2)
    mov $1, %ebp
1:  mov %ebp, 0x100001
    mov %ebp, version
2:  pause
    mov seen, %eax
    cmp %ebp, %eax
    jne 2b
    cmpl $0, bad
    mov $__LINE__, %r15d
    jne wrong
    inc %ebp
    cmp $300, %ebp
    jne 1b
    /* without a handshake: the store is seen in the end */
    movl $1, racing
    mov $100, %ebp
1:  mov %bpl, 0x100001
2:  pause
    movzbl seen, %eax
    cmp %bpl, %al
    jne 2b
    dec %ebp
    jnz 1b
    PASS
ap:
1:  mov version, %esi
    xor %eax, %eax
    cpuid
    mov $0x100000, %edi
    call *%rdi
    cmpl $0, racing
    jne 2f
    cmp %esi, %eax
    jb 3f
2:  mov %eax, seen
    jmp 1b
3:  movl $1, bad
    jmp 2b
.balign 64
version: .long 0
seen: .long 0
bad: .long 0
racing: .long 0
#include "smp_code.inc"
#include "guest64_code.inc"
