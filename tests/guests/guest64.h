/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For 64-bit guests: an IDT that records exceptions, and checks.
 *
 * FAULTS(vector, error, instructions) runs the instructions, of which one must fault so; HOLDS(...)
 * must run them without. Other exceptions and interrupts count in `taken`, or go to `hook` (called
 * with the vector in edi). r12-r15 belong to the checks.
 */
#include "guest.h"

.code64

#define CHECK(reg, want)          \
    mov reg, %r13;                \
    movabs $(want), %r14;         \
    mov $__LINE__, %r15d;         \
    cmp %r14, %r13;               \
    jne wrong

#define CHECKM(address, want)     \
    mov address, %r13;            \
    movabs $(want), %r14;         \
    mov $__LINE__, %r15d;         \
    cmp %r14, %r13;               \
    jne wrong

#define NONE 0x100

#define FAULTS(vector, error, ...)   \
    movq $77f, resume_rip;           \
    mov %rsp, resume_rsp;            \
    movq $NONE, got_vector;          \
    movq $0, got_error;              \
    __VA_ARGS__;                     \
    77:                              \
    movq $0, resume_rip;             \
    CHECKM(got_vector, vector);      \
    CHECKM(got_error, error)

#define HOLDS(...) FAULTS(NONE, 0, __VA_ARGS__)

/* At the start. The guest's last line is #include "guest64_code.h". */
#define BEGIN64 call idt_init

/* x2APIC: enable it with spurious vector 0xff, and write one of its registers. */
#define X2APIC_ON                             \
    mov $0x1b, %ecx;                          \
    rdmsr;                                    \
    or $0xc00, %eax;                          \
    wrmsr;                                    \
    X2WRITE(0x80f, 0x1ff)

#define X2WRITE(reg, value)                   \
    mov $(reg), %ecx;                         \
    mov $(value), %eax;                       \
    xor %edx, %edx;                           \
    wrmsr

#define X2EOI X2WRITE(0x80b, 0)
