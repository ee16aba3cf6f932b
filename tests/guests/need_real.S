/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Interrupts in real mode. */
#include "guest.inc"
.code16
GUEST(REAL, 1, NEED_NOTHING)
    movw $isr, 0x80 * 4
    movw $0, 0x80 * 4 + 2
    int $0x80
    EXIT(__LINE__)
isr:
    PASS
