/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Four-level paging: error codes, WP, NX, global pages, accessed and dirty bits, reserved bits,
 * 2 MiB and 1 GiB pages, SMEP and SMAP. */
#include "guest64.inc"
#define PT 0x73000
#define PAGE 0x100000               /* in the 4 KiB-mapped part */
#define PTE PT + (PAGE >> 12) * 8
GUEST(LONG, 1, NEED_CONTROL | NEED_EXACT)
    BEGIN64
    mov $PAGE, %rbx
    /* accessed, then dirty */
    mov PTE, %rax
    CHECK(%rax, PAGE + 3)
    mov (%rbx), %eax
    mov PTE, %rax
    CHECK(%rax, PAGE + 0x23)
    movl $1, (%rbx)
    mov PTE, %rax
    CHECK(%rax, PAGE + 0x63)
    /* the upper levels are accessed, too, and never dirty */
    mov 0x70000, %rax
    and $0x60, %eax
    CHECK(%rax, 0x20)
    /* read-only without WP: CPL 0 may write */
    movq $PAGE + 1, PTE
    invlpg (%rbx)
    HOLDS(movl $2, (%rbx))
    mov %cr0, %rax
    or $0x10000, %rax
    mov %rax, %cr0
    invlpg (%rbx)
    FAULTS(14, 3, movl $3, (%rbx))
    CHECKM(got_cr2, PAGE)
    HOLDS(mov (%rbx), %eax)
    CHECK(%rax, 2)
    /* a TLB entry may outlive its page table entry only until INVLPG */
    movq $0, PTE
    invlpg (%rbx)
    FAULTS(14, 0, mov (%rbx), %eax)
    movq $PAGE + 3, PTE
    HOLDS(mov (%rbx), %eax)
    /* global pages stay over a write to CR3 and go with CR4.PGE */
    mov %cr4, %rax
    or $0x80, %rax
    mov %rax, %cr4
    movq $PAGE + 0x103, PTE
    invlpg (%rbx)
    mov (%rbx), %eax
    movq $0, PTE
    mov %cr4, %rax
    and $~0x80, %rax
    mov %rax, %cr4
    FAULTS(14, 0, mov (%rbx), %eax)
    movq $PAGE + 3, PTE
    /* NX: reserved while EFER.NXE is clear, else fetches fault with bit 4 */
    mov $PAGE + 3, %rcx
    bts $63, %rcx
    mov %rcx, PTE
    invlpg (%rbx)
    FAULTS(14, 9, mov (%rbx), %eax)
    mov $0xc0000080, %ecx
    rdmsr
    or $0x800, %eax
    wrmsr
    invlpg (%rbx)
    HOLDS(mov (%rbx), %eax)
    movb $0xc3, (%rbx)
    FAULTS(14, 0x11, jmp *%rbx)
    CHECKM(got_cr2, PAGE)
    movq $PAGE + 3, PTE
    invlpg (%rbx)
    HOLDS(call *%rbx)
    /* reserved physical bits */
    mov $PAGE + 3, %rcx
    bts $51, %rcx
    mov %rcx, PTE
    invlpg (%rbx)
    FAULTS(14, 9, mov (%rbx), %eax)
    movq $PAGE + 3, PTE
    invlpg (%rbx)
    /* an access across two pages faults for the second one, with its address */
    movq $0, PTE + 8
    invlpg 0x1000(%rbx)
    FAULTS(14, 2, movq $5, 0xffc(%rbx))
    CHECKM(got_cr2, PAGE + 0x1000)
    movl 0xffc(%rbx), %eax
    CHECK(%rax, 0)
    movq $PAGE + 0x1003, PTE + 8
    /* SMEP and SMAP, where the CPU has them */
    mov $7, %eax
    xor %ecx, %ecx
    cpuid
    mov %ebx, %esi
    mov $PAGE, %rbx
    movq $PAGE + 7, PTE
    orq $4, 0x70000
    orq $4, 0x71000
    orq $4, 0x72000
    mov %cr3, %rax
    mov %rax, %cr3
    movb $0xc3, (%rbx)
    bt $7, %esi
    jnc 1f
    HOLDS(call *%rbx)
    mov %cr4, %rax
    bts $20, %rax
    mov %rax, %cr4
    FAULTS(14, 0x11, jmp *%rbx)
1:  bt $20, %esi
    jnc 1f
    mov %cr4, %rax
    bts $21, %rax
    mov %rax, %cr4
    FAULTS(14, 1, mov (%rbx), %eax)
    FAULTS(14, 3, mov %eax, (%rbx))
    stac
    HOLDS(mov (%rbx), %eax)
    clac
    FAULTS(14, 1, mov (%rbx), %eax)
1:  /* 1 GiB pages */
    mov $0x80000001, %eax
    cpuid
    bt $26, %edx
    jnc 1f
    movq $0x83, 0x71000 + 8
    mov $0x40000000, %rbx
    movl $0xabcd, 0x300000
    movl 0x300000(%rbx), %eax
    CHECK(%rax, 0xabcd)
    movl $0x1234, 0x200000(%rbx)
    movl 0x200000, %eax
    CHECK(%rax, 0x1234)
    mov 0x71000 + 8, %rax
    CHECK(%rax, 0xe3)
1:  PASS
#include "guest64_code.inc"
