/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starting the other vCPUs: AP_START(n) wakes APICs 1 to n - 1, which come to `ap` in long mode with
 * a stack of their own and their number in ebx. The trampoline at 0x8000 starts in real mode.
 */
#define AP_START(n)                                \
    X2APIC_ON;                                     \
    mov $trampoline, %esi;                         \
    mov $0x8000, %edi;                             \
    mov $(trampoline_end - trampoline), %ecx;      \
    cld;                                           \
    rep movsb;                                     \
    mov $1, %ebp;                                  \
    7: mov $0x830, %ecx;                           \
    mov %ebp, %edx;                                \
    mov $0x4500, %eax;                             \
    wrmsr;                                         \
    mov $0x4608, %eax;                             \
    wrmsr;                                         \
    inc %ebp;                                      \
    cmp $(n), %ebp;                                \
    jne 7b;                                        \
    7: pause;                                      \
    cmpl $(n) - 1, ap_count;                       \
    jne 7b
