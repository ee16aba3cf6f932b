/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The disk that tells cloud-init in a guest who it is (NoCloud: an ISO 9660 file system with the
 * label "cidata" and the files meta-data and user-data). */
#ifndef DAEMON_SEED_H
#define DAEMON_SEED_H

#include "base/err.h"

#include <jansson.h>

/* vm: the VM's object, with "cloud_init". The file is there whole or not at all. */
int seed_write(const char *path, const json_t *vm, struct err *err);

#endif
