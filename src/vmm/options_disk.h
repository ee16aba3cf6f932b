/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The parts of --disk. */
#ifndef VMM_OPTIONS_DISK_H
#define VMM_OPTIONS_DISK_H

#include "vmm/options.h"

/* One part of --disk behind the path. */
int options_disk_part(struct disk_options *disk, const char *key, const char *value,
                      struct err *err);
/* What no single part can see. */
int options_disk_check(const struct disk_options *disk, struct err *err);
void options_disk_fini(struct disk_options *disk);

#endif
