/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Four vCPUs on the same words: LOCK ADD, XADD, CMPXCHG, BTS, XCHG as a spin lock. */
#include "guest64.inc"
#include "smp.inc"
#define ROUNDS 20000
#define CPUS 4
GUEST(LONG, CPUS, NEED_NOTHING)
    BEGIN64
    AP_START(CPUS)
    movl $1, go
    call work
1:  pause
    cmpl $CPUS, done
    jne 1b
    mov by_add, %rax
    CHECK(%rax, CPUS * ROUNDS)
    mov by_xadd, %rax
    CHECK(%rax, 3 * CPUS * ROUNDS)
    mov by_cmpxchg, %rax
    CHECK(%rax, CPUS * ROUNDS)
    mov under_lock, %rax
    CHECK(%rax, CPUS * ROUNDS)
    mov bits, %rax
    CHECK(%rax, (1 << CPUS) - 1)
    PASS
ap:
1:  pause
    cmpl $0, go
    je 1b
    call work
    hlt
work:
    mov $ROUNDS, %ecx
1:  lock addq $1, by_add
    mov $3, %eax
    lock xadd %rax, by_xadd
2:  mov by_cmpxchg, %rax
    lea 1(%rax), %rdx
    lock cmpxchg %rdx, by_cmpxchg
    jne 2b
3:  mov $1, %eax
    xchg %eax, spin
    test %eax, %eax
    jz 4f
    pause
    jmp 3b
4:  incq under_lock
    movl $0, spin
    dec %ecx
    jnz 1b
    push %rbx
    mov $0x802, %ecx
    rdmsr
    lock bts %eax, bits
    pop %rbx
    lock incl done
    ret
.balign 64
by_add: .quad 0
by_xadd: .quad 0
by_cmpxchg: .quad 0
under_lock: .quad 0
bits: .quad 0
spin: .long 0
go: .long 0
done: .long 0
#include "smp_code.inc"
#include "guest64_code.inc"
