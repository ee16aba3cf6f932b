/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a format lies in: a growable row of bytes with blocking calls, from any thread.
 *
 * A file in real life; memory, a recorder or a liar in tests. Ranges that overlap while one of them
 * is written are the caller's to order. Reading past the end gives zeros; writing there grows.
 */
#ifndef BLOCK_STORE_H
#define BLOCK_STORE_H

#include "base/cleanup.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store;

struct store_ops { /* all return 0 or -errno */
    int (*read)(struct store *store, void *data, size_t len, uint64_t offset);
    int (*write)(struct store *store, const void *data, size_t len, uint64_t offset);
    int (*flush)(struct store *store);
    /* NULL: zeros are written, and punching does nothing. */
    int (*zero)(struct store *store, uint64_t offset, uint64_t len, bool keep);
    int (*punch)(struct store *store, uint64_t offset, uint64_t len);
    int (*truncate)(struct store *store, uint64_t size);
    int (*size)(struct store *store, uint64_t *out);
    /* Does [offset, offset + *len) surely read as zeros? Shortens *len to where that holds. NULL:
     * no. */
    int (*status)(struct store *store, uint64_t offset, uint64_t *len, bool *zero);
    void (*close)(struct store *store);
};

struct store { /* embedded by each kind; fixed at create */
    const struct store_ops *ops;
    int fd;        /* the file behind it, borrowed; -1: none */
    bool no_flush; /* store_flush does nothing: a power cut may lose anything */
};

/* Takes the descriptor. `locked`: lock_image was called on it. */
int store_open_fd(int take_fd, bool locked, struct store **out, struct err *err);
/* Starts with `len` bytes copied; writes past max_size fail with ENOSPC. */
int store_open_memory(const void *data, size_t len, uint64_t max_size, struct store **out,
                      struct err *err);
void store_close(struct store *store);
DEFINE_AUTO(struct store *, store_close)

int store_read(struct store *store, void *data, size_t len, uint64_t offset);
int store_write(struct store *store, const void *data, size_t len, uint64_t offset);
int store_flush(struct store *store);
/* The range reads as zeros afterwards; `keep` its space. */
int store_zero(struct store *store, uint64_t offset, uint64_t len, bool keep);
/* A hint: the content is no longer needed. */
void store_punch(struct store *store, uint64_t offset, uint64_t len);
int store_truncate(struct store *store, uint64_t size);
int store_size(struct store *store, uint64_t *out);
int store_status(struct store *store, uint64_t offset, uint64_t *len, bool *zero);

#endif
