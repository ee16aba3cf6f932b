/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What encrypted disks are made of, by libcrypto and libargon2: ciphers over sectors, keys from
 * passphrases, and the anti-forensic splitter of LUKS.
 *
 * How much work a header may ask for is bounded by the caller's budget, because headers are
 * hostile.
 */
#ifndef BLOCK_CRYPT_H
#define BLOCK_CRYPT_H

#include "base/cleanup.h"
#include "base/err.h"
#include "block/store.h"

enum { CRYPT_KEY_MAX = 64, CRYPT_SECTOR = 512, CRYPT_SALT_MAX = 64 };

/* ---- sectors ---- */

struct crypt_cipher; /* fixed once made; any thread */

/* `spec` as in dm-crypt: "aes-xts-plain64", "aes-cbc-essiv:sha256". Copies the key. */
int crypt_cipher_create(const char *spec, const uint8_t *key, size_t key_len,
                        struct crypt_cipher **out, struct err *err);
void crypt_cipher_free(struct crypt_cipher *cipher);
DEFINE_AUTO(struct crypt_cipher *, crypt_cipher_free)
/* In place; len is a multiple of `sector_size`. `sector` counts units of 512 bytes. */
int crypt_sectors(const struct crypt_cipher *cipher, bool encrypt, uint8_t *data, size_t len,
                  uint64_t sector, uint32_t sector_size);

/* ---- keys ---- */

struct crypt_budget {      /* what is left of it */
    uint64_t iterations;   /* of PBKDF2, times blocks of the hash */
    uint64_t memory_kib;   /* of Argon2, at once */
    uint64_t argon_passes; /* KiB of memory times passes over it */
};
/* Enough for what cryptsetup and QEMU make by themselves; a minute and 1 GiB at most. */
extern const struct crypt_budget crypt_budget_default;

/* 0 for a hash that is unknown (or too old for libcrypto). */
size_t crypt_hash_len(const char *hash);
int crypt_hash(const char *hash, const void *data, size_t len, uint8_t *out);
int crypt_pbkdf2(const char *hash, const void *secret, size_t secret_len, const uint8_t *salt,
                 size_t salt_len, uint64_t iterations, uint8_t *out, size_t out_len,
                 struct crypt_budget *budget, struct err *err);
/* How many iterations take about that long here. */
uint64_t crypt_pbkdf2_measure(const char *hash, size_t out_len, unsigned ms);
struct crypt_argon {
    bool id; /* Argon2id; otherwise Argon2i */
    uint64_t passes, memory_kib, lanes;
};
int crypt_argon2(const struct crypt_argon *how, const void *secret, size_t secret_len,
                 const uint8_t *salt, size_t salt_len, uint8_t *out, size_t out_len,
                 struct crypt_budget *budget, struct err *err);
/* The anti-forensic splitter: `stripes` times key_len bytes stand for a key. */
int crypt_af_merge(const char *hash, const uint8_t *split, size_t key_len, size_t stripes,
                   uint8_t *key);
int crypt_af_split(const char *hash, const uint8_t *key, size_t key_len, size_t stripes,
                   uint8_t *split);
int crypt_random(void *out, size_t len);

/* ---- a store ---- */

/*
 * The plain text of what `below` (borrowed) holds from `start` on. Sector 0 of the cipher is at
 * `start`, plus `first_sector`. take_cipher: NULL for one that nobody may look at: reading and
 * writing fail with EACCES.
 */
int crypt_store_open(struct store *below, uint64_t start, uint32_t sector_size,
                     uint64_t first_sector, struct crypt_cipher *take_cipher, struct store **out);

#endif
