/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * LUKS headers, version 1 and 2: reading, unlocking, making. Used for whole files (luks_image.c)
 * and for the header inside of a qcow2 image, which QEMU writes in version 1.
 *
 * A header is hostile: luks_read checks all of it and bounds what it may ask for; luks_unlock works
 * within a budget (crypt.h).
 */
#ifndef BLOCK_LUKS_H
#define BLOCK_LUKS_H

#include "block/crypt.h"
#include "block/image.h"

enum { LUKS_SLOTS = 32, LUKS_STRIPES = 4000 };

struct luks_slot {
    bool active, argon;
    char hash[16], af_hash[16]; /* hash: of PBKDF2 */
    struct crypt_argon how;
    uint64_t iterations;
    uint8_t salt[CRYPT_SALT_MAX];
    size_t salt_len, key_len, area_key_len;
    uint64_t area; /* where its key material lies */
    size_t stripes;
    char area_cipher[64];
};

struct luks_header {
    unsigned version;
    char uuid[40], cipher[64]; /* "aes-xts-plain64" */
    uint32_t sector_size;
    uint64_t payload, payload_len; /* bytes; a length of 0: up to the end */
    uint64_t first_sector;         /* of the cipher */
    size_t key_len;
    char digest_hash[16];
    uint64_t digest_iterations;
    uint8_t digest[64], digest_salt[CRYPT_SALT_MAX];
    size_t digest_len, digest_salt_len;
    struct luks_slot slots[LUKS_SLOTS];
};

/* Reads the header at `at` of the store, of at most `room` bytes. */
int luks_read(struct store *store, uint64_t at, uint64_t room, struct luks_header *out,
              struct err *err);
/* Tries the passphrase on each slot: -EACCES when it fits none. */
int luks_unlock(struct store *store, uint64_t at, const struct luks_header *header,
                const struct image_options *options, struct crypt_cipher **out, struct err *err);
/* For an image whose key is not given, or may be: a cipher store, or one that refuses. */
int luks_open_store(struct store *store, uint64_t at, const struct luks_header *header,
                    uint64_t start, uint64_t first_sector, const struct image_options *options,
                    struct store **out, struct err *err);
int luks_info(const struct luks_header *header, struct json_t *into);

/* ---- luks_create.c ---- */

/* How many bytes luks_create will take in front of the data; options as of format luks, each name
 * behind `prefix`. */
int luks_create_len(const struct image_create *create, const char *prefix, uint64_t *len,
                    struct err *err);
int luks_create(const struct image_create *create, const char *prefix, struct store *store,
                uint64_t at, struct err *err);

#endif
