/* SPDX-License-Identifier: GPL-2.0-or-later */
/* x87 and SSE state: FXSAVE and FXRSTOR, XSAVE by component, exceptions that they raise. */
#include "guest64.inc"
#define AREA 0x100000
GUEST(LONG, 1, NEED_XSAVE)
    BEGIN64
    FPU_ON
    fninit
    fld1
    fldpi
    fldz
    mov $0x1122334455667788, %rax
    movq %rax, %xmm0
    movq %rax, %xmm15
    movl $0x1fa0, AREA + 0x400
    ldmxcsr AREA + 0x400
    mov $AREA, %edi
    fxsave64 (%rdi)
    mov AREA, %eax
    CHECK(%rax, 0x2800037f)         /* FCW, FSW with TOP 5 */
    movzbl AREA + 4, %eax
    CHECK(%rax, 0xe0)
    mov AREA + 24, %eax
    CHECK(%rax, 0x1fa0)
    mov AREA + 32 + 16 + 4, %eax
    CHECK(%rax, 0xc90fdaa2)         /* pi in ST(1) */
    mov AREA + 160 + 15 * 16, %rax
    CHECK(%rax, 0x1122334455667788)
    fninit
    pxor %xmm0, %xmm0
    pxor %xmm15, %xmm15
    fxrstor64 (%rdi)
    fnstsw %ax
    and $0x3800, %eax
    CHECK(%rax, 0x2800)
    movq %xmm15, %rax
    CHECK(%rax, 0x1122334455667788)
    /* MXCSR's reserved bits, misaligned areas */
    movl $0x10000, AREA + 24
    FAULTS(13, 0, fxrstor64 (%rdi))
    FAULTS(13, 0, fxsave64 8(%rdi))
    movl $0x10000, AREA + 0x400
    FAULTS(13, 0, ldmxcsr AREA + 0x400)
    /* CR0.TS */
    mov %cr0, %rax
    or $8, %eax
    mov %rax, %cr0
    FAULTS(7, 0, fld1)
    FAULTS(7, 0, pxor %xmm0, %xmm0)
    clts
    HOLDS(pxor %xmm0, %xmm0)
    /* an unmasked x87 exception comes with the next x87 instruction that waits */
    fninit
    movw $0x33f, AREA + 0x400
    fldcw AREA + 0x400
    movw $0x37b, AREA + 0x400
    fldcw AREA + 0x400
    fld1
    fldz
    HOLDS(fdivrp)
    FAULTS(16, 0, fwait)
    fnclex
    fninit
    /* an unmasked SSE exception comes at once */
    movl $0x1d80, AREA + 0x400
    ldmxcsr AREA + 0x400
    mov $0x3f800000, %eax
    movd %eax, %xmm1
    pxor %xmm2, %xmm2
    FAULTS(19, 0, divss %xmm2, %xmm1)
    movl $0x1f80, AREA + 0x400
    ldmxcsr AREA + 0x400
    /* XSAVE */
    mov $1, %eax
    cpuid
    bt $26, %ecx
    jnc 1f
    FAULTS(6, 0, xgetbv)
    mov %cr4, %rax
    bts $18, %rax
    mov %rax, %cr4
    xor %ecx, %ecx
    mov $3, %eax
    xor %edx, %edx
    HOLDS(xsetbv)
    xgetbv
    CHECK(%rax, 3)
    mov $2, %eax
    FAULTS(13, 0, xsetbv)
    mov $0xd, %eax
    xor %ecx, %ecx
    cpuid
    CHECK(%rbx, 576)
    /* only SSE: the x87 part of the area stays, XSTATE_BV tells */
    mov $AREA, %edi
    mov $0x5a5a5a5a, %eax
    mov $0x100, %ecx
    rep stosl
    movq $0, AREA + 512
    mov $AREA, %edi
    mov $0x99, %eax
    movd %eax, %xmm3
    mov $2, %eax
    xor %edx, %edx
    xsave64 (%rdi)
    mov AREA, %eax
    CHECK(%rax, 0x5a5a5a5a)
    mov AREA + 160 + 48, %eax
    CHECK(%rax, 0x99)
    mov AREA + 512, %rax
    CHECK(%rax, 2)
    /* XRSTOR of a component that is absent sets it to its start */
    movq $0, AREA + 512
    movq $0, AREA + 520
    mov $AREA + 528, %edi
    mov $6, %ecx
    xor %eax, %eax
    rep stosq
    mov $AREA, %edi
    movl $0x1f80, AREA + 24
    mov $2, %eax
    xor %edx, %edx
    xrstor64 (%rdi)
    movd %xmm3, %eax
    CHECK(%rax, 0)
    movq $8, AREA + 512
    mov $-1, %eax
    FAULTS(13, 0, xrstor64 (%rdi))
1:  PASS
#include "guest64_code.inc"
