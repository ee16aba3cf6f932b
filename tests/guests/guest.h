/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every test guest begins with. guests_run.c loads the flat binary at 0x1000 and starts vCPU 0
 * at `start` in the mode that the header names; the others wait for SIPI.
 *
 *   0x1000   code and data, below 0xe000; real mode: all segments 0
 *   0x6e000  IST1, 0x6f000 RSP0 of the TSS, 0x6d000 first stack
 *   0x70000  PML4, 0x71000 PDPT, 0x72000 PD (2 MiB pages), 0x73000 PT of the first 2 MiB: identity
 *   0x7e000  IDT (empty), 0x7f000 GDT, 0x7f800 TSS
 *   0x100000 free up to the end of memory at 16 MiB
 *
 * Answers go to port 0x510: 0 passed, SKIP: this CPU has not what is tested, else the line of the
 * source where an answer was wrong; values written to 0x514 before are printed with it.
 */
#define PORT_EXIT 0x510
#define PORT_NOTE 0x514
#define PORT_ASK 0x518 /* ASK_... */
#define SKIP 0xffff

#define ASK_MSI 1    /* vector 0x61 to APIC 0 */
#define ASK_NMI 2    /* to vCPU 0 */
#define ASK_EXTINT 3 /* the PIC's INTR with vector 0x62 */
#define ASK_LEVEL 4  /* vector 0x63 to APIC 0, level-triggered; reading PORT_ASK counts its EOIs */

#define REAL 16
#define PROTECTED 32 /* flat, no paging */
#define LONG 64      /* identity paging */

/* What an emulating KVM may lack; each has a guest need_... that finds out. */
#define NEED_NOTHING 0
#define NEED_SSE 1
#define NEED_INT3 2
#define NEED_LEGACY_PAGING 4
#define NEED_CMPXCHG16B 8
#define NEED_SYSCALL 16
#define NEED_XSAVE 32
#define NEED_TSS 64 /* hardware task state: IST, RSP0, user mode and back */
#define NEED_DEBUG 128
#define NEED_SHUTDOWN 256
#define NEED_DOUBLE_FAULT 512
#define NEED_CONTROL 1024
#define NEED_EXACT 2048
#define NEED_REAL 4096
#define EXPECT_SHUTDOWN 0x8000 /* a triple fault is the right answer */

#define SEL_CODE64 0x08
#define SEL_DATA 0x10
#define SEL_CODE32 0x18
#define SEL_CODE16 0x20
#define SEL_DATA16 0x28
#define SEL_USER32 0x33
#define SEL_USER_DATA 0x3b
#define SEL_USER64 0x43
#define SEL_TSS 0x48

/* GUEST mode, cpus, needs */
#define GUEST(mode, cpus, needs) \
    .section .text;              \
    .ascii "BPGUEST1";           \
    .byte mode, cpus;            \
    .word needs;                 \
    .org 0x40;                   \
    .globl start;                \
    start:

#define EXIT(code)        \
    mov $(code), %eax;    \
    mov $PORT_EXIT, %dx;  \
    out %eax, %dx;        \
    hlt;                  \
    jmp . - 1

#define PASS EXIT(0)

#define NOTE(value)       \
    mov value, %eax;      \
    mov $PORT_NOTE, %dx;  \
    out %eax, %dx
