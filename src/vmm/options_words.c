/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Words of options: copies, choices, and what may have been meant by one that is none. */
#include "vmm/options_words.h"

#include "base/text.h"
#include "vmm/options.h"

#include <string.h>

int text_set(char **field, const char *value, struct err *err)
{
    char *copy = strdup(value);
    if (!copy)
        return err_set(err, ENOMEM, "out of memory");
    free(*field);
    *field = copy;
    return 0;
}

int value_needed(const char *key, const char *value, const char *example, struct err *err)
{
    if (value && *value)
        return 0;
    return err_set(err, EINVAL, "'%s' needs a value, as in %s", key, example);
}

int flag_value(const char *key, const char *value, struct err *err)
{
    return value ? err_set(err, EINVAL, "'%s' takes no value", key) : 0;
}

/* Edit distance with neighbours swapped counting one, of words shorter than 32. */
static unsigned word_distance(const char *a, const char *b)
{
    enum { MAX = 32 };
    size_t n = strlen(a), m = strlen(b);
    if (n >= MAX || m >= MAX)
        return MAX;
    unsigned d[MAX][MAX];
    for (size_t i = 0; i <= n; i++)
        d[i][0] = (unsigned)i;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++)
        for (size_t j = 1; j <= m; j++) {
            unsigned best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best)
                best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best)
                best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[n][m];
}

const char *options_guess(const char *word, const char *(*get)(size_t i))
{
    size_t len = strlen(word);
    unsigned limit = len < 4 ? 1 : len < 8 ? 2 : 3;
    const char *guess = NULL;
    for (size_t i = 0; get(i); i++) {
        /* A beginning of at least two letters is a good guess, too. */
        if (len >= 2 && strncmp(get(i), word, len) == 0 && !guess)
            guess = get(i);
        unsigned d = word_distance(word, get(i));
        if (d <= limit) {
            limit = d;
            guess = get(i);
        }
    }
    return guess;
}

int unknown_word(struct err *err, const char *what, const char *dashes, const char *word,
                 const char *(*get)(size_t i))
{
    const char *guess = options_guess(word, get);
    if (guess)
        return err_set(err, EINVAL, "unknown %s '%s%.60s'; did you mean '%s%s'?", what, dashes,
                       word, dashes, guess);
    AUTO(buf_fini) struct buf known = { 0 };
    for (size_t i = 0; get(i); i++)
        buf_printf(&known, "%s%s", i ? ", " : "", get(i));
    return err_set(err, EINVAL, "unknown %s '%.60s'; known are %s", what, word, known.data);
}

/* Index of `word`, or the error. */
int choice_set(const char *what, const char *word, const char *(*get)(size_t i), struct err *err)
{
    for (size_t i = 0; get(i); i++)
        if (strcmp(get(i), word) == 0)
            return (int)i;
    return unknown_word(err, what, "", word, get);
}
