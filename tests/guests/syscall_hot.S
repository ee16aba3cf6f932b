/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SYSCALL and SYSRET, hot: all the flags that they carry, with changing masks; what they refuse; and
 * an interrupt that waits for the flags of SYSRET. */
#include "guest64.inc"
#define USER_STACK 0x101800
#define ROUNDS 3000
#define TIMES 40
#define USER_FLAGS 0x240cd5             /* AC, ID, DF and the status flags: what POPF sets in user mode */
#define RETURN_FLAGS (USER_FLAGS | 0x3000)
#define WAITING 0x41
#define SFMASK(value)                   \
    mov $0xc0000084, %ecx;              \
    mov value, %eax;                    \
    xor %edx, %edx;                     \
    wrmsr
GUEST(LONG, 1, NEED_TSS | NEED_SYSCALL)
    BEGIN64
    movq $on_interrupt, hook
    movw $0xee00, 0x7e000 + 0x80 * 16 + 4
    USERS_MAY
    SYSCALL_TO(entered)
    movabs $0x9e3779b97f4a7c15, %rbx
    mov $2, %esi
    movl $ROUNDS, rounds
    USER(user_round)
    mov rounds, %eax
    CHECK(%rax, 0)
    /* an address that is none faults in the kernel */
    mov $TIMES, %ebp
1:  FAULTS(13, 0, mov $2, %r11d; movabs $0x800000000000, %rcx; sysretq)
    mov got_cs, %rax
    CHECK(%rax, SEL_CODE64)
    dec %ebp
    jnz 1b
    /* a single step, in user mode */
    mov $TIMES, %ebp
2:  FAULTS(1, 0, mov $0x102, %r11d; mov $user_steps, %ecx; sysretq)
    mov got_cs, %rax
    CHECK(%rax, SEL_USER64)
    dec %ebp
    jnz 2b
    /* an interrupt that waited comes before the first instruction */
    X2APIC_ON
    mov $TIMES, %ebp
3:  X2WRITE(0x83f, WAITING)
    movl $0, came
    movq $4f, resume_rip
    mov %rsp, resume_rsp
    mov $0x202, %r11d
    mov $user_waits, %ecx
    sysretq
4:  movq $0, resume_rip
    mov came, %eax
    CHECK(%rax, user_waits)
    dec %ebp
    jnz 3b
    /* from the kernel into the kernel, to code that users have run, too */
    SYSCALL_TO(entered_again)
    mov $TIMES, %ebp
5:  USER(entered_again)
    CHECKM(got_vector, 13)
    dec %ebp
    jnz 5b
    mov $TIMES, %ebp
6:  syscall
    mov %cr3, %rax
    mov %cs, %eax
    CHECK(%rax, SEL_CODE64)
    dec %ebp
    jnz 6b
    /* without EFER.SCE they are no instructions */
    mov $0xc0000080, %ecx
    rdmsr
    and $~1, %eax
    wrmsr
    mov $TIMES, %ebp
5:  FAULTS(6, 0, syscall)
    FAULTS(6, 0, mov $2, %r11d; mov $user_steps, %ecx; sysretq)
    dec %ebp
    jnz 5b
    PASS

/* esi: the flags that SYSRET brought; the user keeps their IOPL. ebp: those for SYSCALL */
user_round:
    XORSHIFT(%rbx, %rax)
    mov %ebx, %ebp
    and $USER_FLAGS, %ebp
    or $2, %ebp
    mov %esi, %eax
    and $0x3000, %eax
    or %eax, %ebp
    push %rbp
    popf
    syscall
user_back:
    pushf
    pop %rax
    mov $__LINE__, %r15d
    cmp %rsi, %rax
    jne wrong
    mov %cs, %eax
    cmp $SEL_USER64, %eax
    jne wrong
    mov %ss, %eax
    cmp $SEL_USER_DATA, %eax
    jne wrong
    decl rounds
    jnz user_round
    int $0x80
user_steps:
    nop
    nop
    int $0x80
user_waits:
    int $0x80

entered:
    pushf
    pop %rax
    mov $__LINE__, %r15d
    cmp %rbp, %r11
    jne wrong
    cmp $user_back, %rcx
    jne wrong
    mov mask, %edx
    not %edx
    and %r11d, %edx
    or $2, %edx
    mov $__LINE__, %r15d
    cmp %rdx, %rax
    jne wrong
    mov %cs, %eax
    cmp $SEL_CODE64, %eax
    jne wrong
    mov %ss, %eax
    cmp $SEL_DATA, %eax
    jne wrong
    XORSHIFT(%rbx, %rdx)
    mov %ebx, %esi
    and $RETURN_FLAGS, %esi
    or $2, %esi
    test $0x3f0000, %ebx
    jnz 1f
    mov %ebx, %eax
    shr $8, %eax
    and $0x247fd5, %eax
    mov %eax, mask
    SFMASK(mask)
1:  mov %rsi, %r11
    mov $user_back, %ecx
    sysretq

entered_again:
    mov %cr3, %rax
    jmp *%rcx

/* INT 0x80 goes on where it was said; the other notes where it came. Above the return address: rdi,
 * rax, vector, error code, and the frame. */
on_interrupt:
    cmp $0x80, %edi
    jne 1f
    mov resume_rsp, %rsp
    jmp *resume_rip
1:  mov $__LINE__, %r15d
    cmp $WAITING, %edi
    jne wrong
    mov 40(%rsp), %rax
    mov %eax, came
    push %rcx
    push %rdx
    X2EOI
    pop %rdx
    pop %rcx
    ret
.balign 8
rounds: .long 0
mask: .long 0
came: .long 0
#include "guest64_code.inc"
