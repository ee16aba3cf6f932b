/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An NMI comes with IF clear, wakes HLT, and masks further ones until IRET. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_NOTHING)
    BEGIN64
    movq $on_nmi, hook
    cli
    mov $ASK_NMI, %eax
    mov $PORT_ASK, %dx
    out %eax, %dx
1:  cmpl $1, taken + 2 * 4
    jb 1b
1:  cmpl $2, taken + 2 * 4
    jb 1b
    /* the second one came behind the IRET of the first */
    mov nested, %eax
    CHECK(%rax, 0)
    mov $ASK_NMI, %eax
    mov $PORT_ASK, %dx
    out %eax, %dx
    cmpl $3, taken + 2 * 4
    jae 1f
    hlt
1:  mov taken + 2 * 4, %eax
    CHECK(%rax, 3)
    PASS
on_nmi:
    push %rax
    push %rdx
    push %rcx
    incl inside
    cmpl $1, inside
    je 1f
    incl nested
1:  cmpl $1, taken + 2 * 4
    jne 2f
    mov $ASK_NMI, %eax
    mov $PORT_ASK, %dx
    out %eax, %dx
    mov $1000, %ecx
3:  pause
    dec %ecx
    jnz 3b
2:  decl inside
    pop %rcx
    pop %rdx
    pop %rax
    ret
inside: .long 0
nested: .long 0
#include "guest64_code.inc"
