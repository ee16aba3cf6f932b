/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The log: one line per event, to stderr and, once set, to a file descriptor. Any thread.
 *
 * Error: somebody must act. Warning: degraded. Info: a milestone. Debug: off unless the module is
 * switched on. The object's id comes first, then the sentence, then key=value. What a guest can
 * provoke goes through log_guest(), which is limited to 10 lines a second for each call site and
 * counts what it held back.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

struct log_rate {
    _Atomic uint64_t window; /* (second << 16 | lines in it) */
    _Atomic uint32_t held;   /* lines held back since the last one printed */
};

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_write_limited(struct log_rate *rate, enum log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The lowest level written to stderr (default LOG_WARNING) and to the file (default LOG_INFO). */
void log_set_level(enum log_level to_stderr, enum log_level to_file);
/* Borrows fd until log_set_file(-1). Lines there begin with an ISO 8601 time. */
void log_set_file(int fd);

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
#define log_guest(...)                                       \
    do {                                                     \
        static struct log_rate rate_;                        \
        log_write_limited(&rate_, LOG_WARNING, __VA_ARGS__); \
    } while (0)

#endif
