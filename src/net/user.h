/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What user.c and the helper process agree on. For this room only. */
#ifndef NET_USER_H
#define NET_USER_H

#define USER_HELPER "bedplate-net"

#endif
