/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For 32-bit guests (PROTECTED): the same as guest64.h with 8-byte gates. FAULTS and HOLDS keep all
 * registers; CHECK takes a register or memory operand. The guest's last line is
 * #include "guest32_code.h".
 */
#include "guest.h"

.code32

#define CHECK(operand, want)      \
    movl $__LINE__, line;         \
    cmpl $(want), operand;        \
    jne wrong

#define NONE 0x100

#define FAULTS(vector, error, ...)   \
    movl $77f, resume_eip;           \
    mov %esp, resume_esp;            \
    movl $NONE, got_vector;          \
    movl $0, got_error;              \
    __VA_ARGS__;                     \
    77:                              \
    movl $0, resume_eip;             \
    CHECK(got_vector, vector);       \
    CHECK(got_error, error)

#define HOLDS(...) FAULTS(NONE, 0, __VA_ARGS__)

#define BEGIN32 call idt_init
