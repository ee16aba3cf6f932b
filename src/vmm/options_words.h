/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What parsers of options and of their parts share. */
#ifndef VMM_OPTIONS_WORDS_H
#define VMM_OPTIONS_WORDS_H

#include "base/err.h"

#include <stddef.h>

/* Replaces *field by a copy. */
int text_set(char **field, const char *value, struct err *err);
/* `example`: "format=raw". */
int value_needed(const char *key, const char *value, const char *example, struct err *err);
int flag_value(const char *key, const char *value, struct err *err);
/* The index of `word` among those that `get` answers, or the error. */
int choice_set(const char *what, const char *word, const char *(*get)(size_t i), struct err *err);
int unknown_word(struct err *err, const char *what, const char *dashes, const char *word,
                 const char *(*get)(size_t i));

#endif
