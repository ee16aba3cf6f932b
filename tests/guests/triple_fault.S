/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Without an IDT an exception ends in shutdown. */
#include "guest.inc"
.code64
GUEST(LONG, 1, EXPECT_SHUTDOWN)
    lidt empty
    ud2
    EXIT(__LINE__)
.balign 8
empty: .fill 10, 1, 0
