/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What user.c and the helper process agree on. For this room only. */
#ifndef NET_USER_H
#define NET_USER_H

#define USER_HELPER "bedplate-net"
#define USER_HELLO "ok: " /* the helper's first line, then what confines it; or an error */

enum { USER_HELPER_FD = 3 }; /* the helper's end of the socket pair */

#endif
