/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One write() per line, so that lines of several threads and processes do not mix. */
#include "base/log.h"

#include "base/text.h"

#include <stdarg.h>
#include <string.h>
#include <time.h>

enum { LINES_PER_SECOND = 10, LINE_MAX_LEN = 1024 };

static _Atomic int log_fd = -1;
static _Atomic int level_stderr = LOG_WARNING;
static _Atomic int level_file = LOG_INFO;

static const char *const level_names[] = { "error", "warning", "info", "debug" };

/* What a guest, an image or a peer named must not steer the terminal or fake a second line. */
static void line_clean(char *line)
{
    for (; *line; line++)
        if ((unsigned char)*line < 0x20 || *line == 0x7f)
            *line = '?';
}

__attribute__((format(printf, 3, 0))) static void log_emit(enum log_level level, const char *suffix,
                                                           const char *fmt, va_list args)
{
    int fd = atomic_load_explicit(&log_fd, memory_order_relaxed);
    bool to_file = fd >= 0 && (int)level <= level_file;
    bool to_stderr = (int)level <= level_stderr;
    if (!to_file && !to_stderr)
        return;

    int saved = errno;
    char text[LINE_MAX_LEN];
    vsnprintf(text, sizeof text, fmt, args);
    line_clean(text);

    char line[LINE_MAX_LEN + 128];
    if (to_stderr) {
        int n = snprintf(line, sizeof line, "%s: %s%s\n", level_names[level], text, suffix);
        (void)write_full(STDERR_FILENO, line, (size_t)n);
    }
    if (to_file) {
        struct timespec now;
        struct tm tm;
        clock_gettime(CLOCK_REALTIME, &now);
        gmtime_r(&now.tv_sec, &tm);
        char when[32];
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
        int n = snprintf(line, sizeof line, "%s.%03ldZ %s %s%s\n", when, now.tv_nsec / 1000000,
                         level_names[level], text, suffix);
        (void)write_full(fd, line, (size_t)n);
    }
    errno = saved;
}

void log_write(enum log_level level, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    log_emit(level, "", fmt, args);
    va_end(args);
}

/* Takes one of this second's lines. */
static bool rate_take(struct log_rate *rate)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    uint64_t second = (uint64_t)now.tv_sec + 1; /* so that a zeroed window is an old one */
    uint64_t old = atomic_load_explicit(&rate->window, memory_order_relaxed);
    uint64_t new;
    do {
        new = old >> 16 == second ? old + 1 : (second << 16 | 1);
        if ((new & 0xffff) > LINES_PER_SECOND)
            return false;
    } while (!atomic_compare_exchange_weak(&rate->window, &old, new));
    return true;
}

void log_write_limited(struct log_rate *rate, enum log_level level, const char *fmt, ...)
{
    if (!rate_take(rate)) {
        atomic_fetch_add_explicit(&rate->held, 1, memory_order_relaxed);
        return;
    }
    uint32_t held = atomic_exchange_explicit(&rate->held, 0, memory_order_relaxed);
    char suffix[48] = "";
    if (held)
        snprintf(suffix, sizeof suffix, " held_back=%u", held);

    va_list args;
    va_start(args, fmt);
    log_emit(level, suffix, fmt, args);
    va_end(args);
}

void log_set_level(enum log_level to_stderr, enum log_level to_file)
{
    level_stderr = (int)to_stderr;
    level_file = (int)to_file;
}

void log_set_file(int fd) { atomic_store(&log_fd, fd); }
