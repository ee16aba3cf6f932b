/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Building the one sentence of a struct err; a sentence that does not fit is cut at its end. */
#include "base/err.h"

#include <stdio.h>
#include <string.h>

__attribute__((format(printf, 3, 0))) static void err_format(struct err *err, int code,
                                                             const char *fmt, va_list args)
{
    /* An argument may point into err->text, so the new sentence is built beside it. */
    char text[sizeof err->text];
    vsnprintf(text, sizeof text, fmt, args);
    memcpy(err->text, text, sizeof text);
    err->code = code;
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
    if (err) {
        va_list args;
        va_start(args, fmt);
        err_format(err, code, fmt, args);
        va_end(args);
    }
    return -code;
}

int err_prefix(struct err *err, const char *fmt, ...)
{
    if (!err)
        return -EIO;

    char text[sizeof err->text];
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (len >= 0 && (size_t)len < sizeof text)
        snprintf(text + len, sizeof text - (size_t)len, ": %s", err->text);
    memcpy(err->text, text, sizeof text);
    return -err->code;
}

int err_errno(struct err *err, int code, const char *fmt, ...)
{
    if (!err)
        return -code;

    va_list args;
    va_start(args, fmt);
    err_format(err, code, fmt, args);
    va_end(args);

    size_t len = strlen(err->text);
    char reason[128];
    snprintf(err->text + len, sizeof err->text - len, ": %s",
             strerror_r(code, reason, sizeof reason));
    return -code;
}
