/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What went wrong, in one sentence.
 *
 * A `struct err` is a fixed buffer of the outermost caller: nobody owns it and it works out of
 * memory. The function that fails says what failed and the way out; each caller above adds which
 * thing by err_prefix(). Every function here accepts a NULL err. Any thread; one err belongs to one
 * thread at a time.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <errno.h>
#include <stdarg.h>

struct err {
    int code; /* positive errno value; 0 while nothing failed */
    char text[480];
};

/* Sets the sentence (no final full stop, no newline) and returns -code. */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the sentence and returns -err->code (-EIO for a NULL err). */
int err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* err_set with ": strerror(code)" appended. `code` is a positive errno value. */
int err_errno(struct err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
