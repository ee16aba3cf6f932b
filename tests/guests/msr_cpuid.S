/* SPDX-License-Identifier: GPL-2.0-or-later */
/* CPUID's leaves hang together, MSRs keep what they should and fault on what they cannot hold. */
#include "guest64.inc"
#define KEEPS(msr, low, high)     \
    mov $(msr), %ecx;             \
    mov $(low), %eax;             \
    mov $(high), %edx;            \
    HOLDS(wrmsr);                 \
    rdmsr;                        \
    shl $32, %rdx;                \
    or %rdx, %rax;                \
    CHECK(%rax, (low) + ((high) << 32))
#define REFUSES(msr, low, high)   \
    mov $(msr), %ecx;             \
    mov $(low), %eax;             \
    mov $(high), %edx;            \
    FAULTS(13, 0, wrmsr)
GUEST(LONG, 1, NEED_EXACT)
    BEGIN64
    /* leaf 1's OSXSAVE follows CR4 where there is XSAVE */
    mov $1, %eax
    cpuid
    bt $26, %ecx
    jnc 1f
    and $0x8000000, %ecx
    CHECK(%rcx, 0)
    mov %cr4, %rax
    bts $18, %rax
    mov %rax, %cr4
    mov $1, %eax
    cpuid
    and $0x8000000, %ecx
    CHECK(%rcx, 0x8000000)
    mov %cr4, %rax
    btr $18, %rax
    mov %rax, %cr4
1:  /* the hypervisor's leaves */
    mov $0x40000000, %eax
    cpuid
    CHECK(%rbx, 0x4b4d564b)
    /* a leaf above the last one answers like an empty one, or like the last one on some makers'
     * CPUs; registers' upper halves are cleared */
    mov $-1, %rax
    mov $-1, %rbx
    mov $0, %eax
    cpuid
    shr $32, %rbx
    CHECK(%rbx, 0)
    KEEPS(0x174, 0x1234, 0)
    KEEPS(0x175, 0x80000000, 0xffffffff)
    KEEPS(0x176, 0x1000, 0x7fff)
    KEEPS(0xc0000081, 0x11223344, 0x00330008)
    KEEPS(0xc0000102, 0x12345678, 0xffff8000)
    KEEPS(0xc0000084, 0x47700, 0)
    KEEPS(0x277, 0x00070406, 0x00070406)
    REFUSES(0x277, 2, 0)
    REFUSES(0xc0000082, 0, 0x800000)
    REFUSES(0xc0000102, 0, 0x8000)
    REFUSES(0xc0000080, 0x80000100, 0)
    REFUSES(0x40001234, 0, 0)
    mov $0x40001234, %ecx
    FAULTS(13, 0, rdmsr)
    /* FS and GS bases, SWAPGS */
    KEEPS(0xc0000100, 0x100000, 0)
    movl $0x1357, 0x100010
    mov %fs:0x10, %eax
    CHECK(%rax, 0x1357)
    KEEPS(0xc0000101, 0x200000, 0)
    KEEPS(0xc0000102, 0x300000, 0)
    swapgs
    mov $0xc0000101, %ecx
    rdmsr
    CHECK(%rax, 0x300000)
    mov $0xc0000102, %ecx
    rdmsr
    CHECK(%rax, 0x200000)
    /* EFER.LME may not change while paging is on */
    mov $0xc0000080, %ecx
    rdmsr
    and $~0x100, %eax
    FAULTS(13, 0, wrmsr)
    /* the TSC goes on */
    rdtsc
    mov %rax, %rbx
    shl $32, %rdx
    or %rdx, %rbx
    rdtsc
    shl $32, %rdx
    or %rdx, %rax
    mov $__LINE__, %r15d
    cmp %rbx, %rax
    jbe wrong
    /* APIC: x2APIC cannot go back to xAPIC without being disabled */
    mov $0x1b, %ecx
    rdmsr
    or $0xc00, %eax
    HOLDS(wrmsr)
    and $~0x400, %eax
    FAULTS(13, 0, wrmsr)
    mov $0x80e, %ecx
    FAULTS(13, 0, rdmsr)
    /* CR4's bits that this CPU has not, CR8 above 15 */
    mov $16, %eax
    FAULTS(13, 0, mov %rax, %cr8)
    mov %cr3, %rax
    PASS
#include "guest64_code.inc"
