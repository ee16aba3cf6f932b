/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The parts of --disk, and the helpers of options.c that parsers of parts share. */
#ifndef VMM_OPTIONS_DISK_H
#define VMM_OPTIONS_DISK_H

#include "vmm/options.h"

/* One part of --disk behind the path. */
int options_disk_part(struct disk_options *disk, const char *key, const char *value,
                      struct err *err);
/* What no single part can see. */
int options_disk_check(const struct disk_options *disk, struct err *err);
void options_disk_fini(struct disk_options *disk);

/* ---- in options.c ---- */

int text_set(char **field, const char *value, struct err *err);
/* `example`: "format=raw". */
int value_needed(const char *key, const char *value, const char *example, struct err *err);
int flag_value(const char *key, const char *value, struct err *err);
/* The index of `word` among those that `get` answers, or the error. */
int choice_set(const char *what, const char *word, const char *(*get)(size_t i), struct err *err);
int unknown_word(struct err *err, const char *what, const char *dashes, const char *word,
                 const char *(*get)(size_t i));

#endif
