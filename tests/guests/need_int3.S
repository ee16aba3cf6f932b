/* SPDX-License-Identifier: GPL-2.0-or-later */
/* INT3, INT n and ICEBP are traps: RIP is behind them. */
#include "guest64.inc"
GUEST(LONG, 1, NEED_NOTHING)
    BEGIN64
    FAULTS(3, 0, int3; 78:)
    CHECKM(got_rip, 78b)
    FAULTS(4, 0, int $4; 78:)
    CHECKM(got_rip, 78b)
    PASS
#include "guest64_code.inc"
