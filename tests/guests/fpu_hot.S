/* SPDX-License-Identifier: GPL-2.0-or-later */
/* x87, MMX and SSE registers that stay where they are over many blocks, with everything in between that
 * looks at them or changes the rules: faults, state saved and replaced, unmasked exceptions, CR0.TS. */
#include "guest64.inc"
#define AREA 0x100000
#define UNMAPPED 0x104000
#define ROUNDS 400
GUEST(LONG, 1, NEED_XSAVE)
    BEGIN64
    FPU_ON
    movq $0, 0x73000 + 0x104 * 8
    invlpg UNMAPPED

    /* sums in ST(0), ST(1), XMM3 and MXCSR's flags over calls, faults and handlers */
    fninit
    fldz
    fldz
    pxor %xmm3, %xmm3
    movl $0x1f80, AREA + 0x400
    ldmxcsr AREA + 0x400
    mov $ROUNDS, %ebx
1:  mov %ebx, AREA + 0x408
    call add_x87
    call add_sse
    test $31, %ebx
    jnz 2f
    FAULTS(14, 0, faddl UNMAPPED)
    FAULTS(14, 2, fstpl UNMAPPED)
    FAULTS(14, 0, addsd UNMAPPED, %xmm3)
    FAULTS(6, 0, ud2)
2:  test $63, %ebx
    jnz 3f
    fxsave64 AREA
    fninit
    fldpi
    fldpi
    pxor %xmm3, %xmm3
    fxrstor64 AREA
3:  dec %ebx
    jnz 1b
    fistpll AREA + 0x410
    fistpll AREA + 0x418
    CHECKM(AREA + 0x410, ROUNDS * (ROUNDS + 1) / 2)
    CHECKM(AREA + 0x418, ROUNDS)
    cvtsd2si %xmm3, %rax
    CHECK(%rax, ROUNDS * (ROUNDS + 1) / 2)
    stmxcsr AREA + 0x400
    mov AREA + 0x400, %eax
    CHECK(%rax, 0x1f80)
    fnstsw %ax
    and $0x3800, %eax
    CHECK(%rax, 0)
    /* the stack overflows and underflows: masked answers, C1, and no lost flags */
    mov $9, %ebx
4:  fld1
    dec %ebx
    jnz 4b
    fnstsw %ax
    and $0x0241, %eax
    CHECK(%rax, 0x0241)

    /* FLDCW in a hot loop changes rounding; then it unmasks: #MF at the next waiting instruction */
    fninit
    mov $ROUNDS, %ebx
    movw $0x0f7f, AREA + 0x420              /* towards zero */
    movw $0x0b7f, AREA + 0x422              /* up */
5:  fldl three_halves
    fldcw AREA + 0x420
    frndint
    fistpl AREA + 0x424
    fldl three_halves
    fldcw AREA + 0x422
    frndint
    fistpl AREA + 0x428
    dec %ebx
    jnz 5b
    mov AREA + 0x424, %rax
    CHECK(%rax, 0x200000001)
    movw $0x037b, AREA + 0x420
    mov $2, %ebx
6:  FAULTS(16, 0, fninit; fld1; fldz; fdivrp; fldcw AREA + 0x420; fwait)
    fnclex
    FAULTS(16, 0, fninit; fldcw AREA + 0x420; fld1; fldz; fdivrp; fld1)
    fnclex
    HOLDS(fninit; fld1; fldz; fdivrp; fwait)
    dec %ebx
    jnz 6b

    /* MMX registers are the mantissas of the stack */
    fninit
    mov $ROUNDS, %ebx
    pxor %mm5, %mm5
    movq one, %mm6
7:  paddq %mm6, %mm5
    dec %ebx
    jnz 7b
    movq %mm5, AREA + 0x430
    CHECKM(AREA + 0x430, ROUNDS)
    fnstsw %ax
    and $0x3800, %eax
    CHECK(%rax, 0)
    emms
    fxsave64 AREA
    movzbl AREA + 4, %eax
    CHECK(%rax, 0)
    mov AREA + 32 + 5 * 16, %rax
    CHECK(%rax, ROUNDS)
    movzwl AREA + 32 + 5 * 16 + 8, %eax
    CHECK(%rax, 0xffff)

    /* unmasked SSE exceptions after hot code, and #NM by CR0.TS for both units */
    mov $ROUNDS, %ebx
8:  divsd %xmm4, %xmm3
    dec %ebx
    jnz 8b
    movl $0x1d80, AREA + 0x400
    FAULTS(19, 0, ldmxcsr AREA + 0x400; pxor %xmm4, %xmm4; movsd three_halves, %xmm3; divsd %xmm4, %xmm3)
    movl $0x1f80, AREA + 0x400
    ldmxcsr AREA + 0x400
    fninit
    fld1
    mov %cr0, %rax
    or $8, %eax
    mov %rax, %cr0
    FAULTS(7, 0, fadd %st(0))
    FAULTS(7, 0, addsd %xmm3, %xmm3)
    FAULTS(7, 0, movq %mm0, %mm1)
    clts
    fadd %st(0)
    fistpl AREA + 0x424
    mov AREA + 0x424, %eax
    CHECK(%rax, 2)
    PASS

    .balign 4096
add_x87:
    fildl AREA + 0x408
    faddp %st(0), %st(1)
    fxch
    fld1
    faddp
    fxch
    ret
add_sse:
    cvtsi2sdl AREA + 0x408, %xmm0
    addsd %xmm0, %xmm3
    ret
.balign 8
three_halves: .double 1.5
one: .quad 1
#include "guest64_code.inc"
