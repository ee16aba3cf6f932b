/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ownership by scope: AUTO(fn) T *p calls fn(p) when p goes out of scope; TAKE(p) hands p on.
 *
 * DEFINE_AUTO(type, fn) once beside the declaration of fn makes AUTO(fn) usable for `type`.
 * Destroyers accept NULL. Do not `goto` past an AUTO declaration.
 */
#ifndef BASE_CLEANUP_H
#define BASE_CLEANUP_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define DEFINE_AUTO(type, fn) \
    static inline void fn##_auto(type *p) { fn(*p); }
#define AUTO(fn) __attribute__((cleanup(fn##_auto)))
#define TAKE(p)                     \
    ({                              \
        __typeof__(p) taken_ = (p); \
        (p) = 0;                    \
        taken_;                     \
    })

static inline void fd_close(int fd)
{
    if (fd >= 0)
        close(fd);
}
static inline void fd_close_auto(int *fd) { fd_close(*fd); }
#define TAKE_FD(fd)        \
    ({                     \
        int taken_ = (fd); \
        (fd) = -1;         \
        taken_;            \
    })

static inline void free_auto(void *p) { free(*(void **)p); }
static inline void file_close(FILE *f)
{
    if (f)
        fclose(f);
}
static inline void file_close_auto(FILE **f) { file_close(*f); }

static inline void mutex_unlock_auto(pthread_mutex_t **m) { pthread_mutex_unlock(*m); }
#define LOCKED_CAT_(a, b) a##b
#define LOCKED_NAME_(line) LOCKED_CAT_(locked_, line)
/* Holds the mutex until the end of the scope. */
#define LOCKED(mutex)                                                                             \
    __attribute__((cleanup(mutex_unlock_auto), unused)) pthread_mutex_t *LOCKED_NAME_(__LINE__) = \
        (pthread_mutex_lock(mutex), (mutex))

#endif
