/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ids that a user may give to processes in user name spaces: subuid(5), subgid(5). Any thread that
 * may call getpwuid(). */
#ifndef BASE_SUB_RANGE_H
#define BASE_SUB_RANGE_H

#include <stdbool.h>

/* The first range of whoever runs us in such a file; false: there is none. */
bool sub_range(const char *path, unsigned *first, unsigned *count);

#endif
