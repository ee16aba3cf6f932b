/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ciphers over sectors, keys from passphrases, a store of plain text; see crypt.h. */
#include "block/crypt.h"

#include "base/checked.h"
#include "base/loop.h"
#include "block/bytes.h"

#include <argon2.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/random.h>

enum { CRYPT_CHUNK = 256 << 10 };

const struct crypt_budget crypt_budget_default = {
    .iterations = 128u << 20,
    .memory_kib = 1u << 20,
    .argon_passes = 64u << 20,
};

/* The configuration file of libcrypto is not ours to be changed by; once, before any use. */
static void crypt_start(void)
{
    OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, NULL);
}

/* ---- ciphers ---- */

enum iv_kind { IV_PLAIN, IV_PLAIN64, IV_ESSIV };

struct crypt_cipher {
    const EVP_CIPHER *kind;
    enum iv_kind iv;
    uint8_t key[CRYPT_KEY_MAX], essiv[32];
};

static const struct {
    const char *mode;
    size_t key_len;
    const EVP_CIPHER *(*kind)(void);
} ciphers[] = {
    { "aes-xts", 32, EVP_aes_128_xts }, { "aes-xts", 64, EVP_aes_256_xts },
    { "aes-cbc", 16, EVP_aes_128_cbc }, { "aes-cbc", 24, EVP_aes_192_cbc },
    { "aes-cbc", 32, EVP_aes_256_cbc },
};

/* XTS takes two keys, and libcrypto refuses equal ones. */
static bool key_is_usable(const char *mode, const uint8_t *key, size_t len)
{
    return strcmp(mode, "aes-xts") || CRYPTO_memcmp(key, key + len / 2, len / 2);
}

static int cipher_iv(struct crypt_cipher *cipher, const char *iv, const uint8_t *key,
                     size_t key_len, struct err *err)
{
    if (!strcmp(iv, "plain64"))
        cipher->iv = IV_PLAIN64;
    else if (!strcmp(iv, "plain"))
        cipher->iv = IV_PLAIN;
    else if (!strcmp(iv, "essiv:sha256"))
        cipher->iv = IV_ESSIV;
    else
        return err_set(err, ENOTSUP,
                       "its sectors are numbered in the way %s; known are plain64, plain and "
                       "essiv:sha256",
                       iv);
    return cipher->iv == IV_ESSIV ? crypt_hash("sha256", key, key_len, cipher->essiv) : 0;
}

int crypt_cipher_create(const char *spec, const uint8_t *key, size_t key_len,
                        struct crypt_cipher **out, struct err *err)
{
    char mode[64];
    const char *dash = strchr(spec, '-');
    dash = dash ? strchr(dash + 1, '-') : NULL;
    size_t len = dash ? (size_t)(dash - spec) : 0, i = 0;
    if (!dash || len >= sizeof mode)
        return err_set(err, ENOTSUP, "its cipher %s is not known", spec);
    memcpy(mode, spec, len);
    mode[len] = 0;
    while (i < ARRAY_LEN(ciphers) &&
           (strcmp(ciphers[i].mode, mode) || ciphers[i].key_len != key_len))
        i++;
    if (i == ARRAY_LEN(ciphers))
        return err_set(
            err, ENOTSUP,
            "is encrypted with %s and a key of %zu bits; known are aes-xts (256, 512) and "
            "aes-cbc (128, 192, 256), so convert it with: qemu-img convert",
            spec, key_len * 8);
    if (!key_is_usable(mode, key, key_len))
        return err_set(err, EINVAL, "its key is broken");
    crypt_start();
    AUTO(crypt_cipher_free) struct crypt_cipher *cipher = calloc(1, sizeof *cipher);
    if (!cipher)
        return err_set(err, ENOMEM, "out of memory");
    cipher->kind = ciphers[i].kind();
    memcpy(cipher->key, key, key_len);
    int r = cipher_iv(cipher, dash + 1, key, key_len, err);
    if (r == 0)
        *out = TAKE(cipher);
    return r;
}

void crypt_cipher_free(struct crypt_cipher *cipher)
{
    if (cipher)
        OPENSSL_cleanse(cipher, sizeof *cipher);
    free(cipher);
}

static bool cipher_make_iv(const struct crypt_cipher *cipher, EVP_CIPHER_CTX *essiv,
                           uint64_t sector, uint8_t iv[16])
{
    uint8_t plain[16] = { 0 };
    int len = 0;
    memset(iv, 0, 16);
    set_le64(plain, cipher->iv == IV_PLAIN ? (uint32_t)sector : sector);
    if (cipher->iv == IV_ESSIV)
        return EVP_EncryptUpdate(essiv, iv, &len, plain, sizeof plain) && len == 16;
    memcpy(iv, plain, 16);
    return true;
}

static bool sectors_run(const struct crypt_cipher *cipher, EVP_CIPHER_CTX *ctx,
                        EVP_CIPHER_CTX *essiv, int encrypt, uint8_t *data, size_t len,
                        uint64_t sector, uint32_t size)
{
    if (!EVP_CipherInit_ex(ctx, cipher->kind, NULL, cipher->key, NULL, encrypt) ||
        !EVP_CIPHER_CTX_set_padding(ctx, 0))
        return false;
    if (essiv && (!EVP_EncryptInit_ex(essiv, EVP_aes_256_ecb(), NULL, cipher->essiv, NULL) ||
                  !EVP_CIPHER_CTX_set_padding(essiv, 0)))
        return false;
    for (size_t at = 0; at < len; at += size) {
        uint8_t iv[16];
        int done = 0;
        if (!cipher_make_iv(cipher, essiv, sector + at / CRYPT_SECTOR, iv) ||
            !EVP_CipherInit_ex(ctx, NULL, NULL, NULL, iv, -1) ||
            !EVP_CipherUpdate(ctx, data + at, &done, data + at, (int)size) || done != (int)size)
            return false;
    }
    return true;
}

int crypt_sectors(const struct crypt_cipher *cipher, bool encrypt, uint8_t *data, size_t len,
                  uint64_t sector, uint32_t sector_size)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    EVP_CIPHER_CTX *essiv = cipher->iv == IV_ESSIV ? EVP_CIPHER_CTX_new() : NULL;
    bool good = ctx && (essiv || cipher->iv != IV_ESSIV) &&
                sectors_run(cipher, ctx, essiv, encrypt, data, len, sector, sector_size);
    EVP_CIPHER_CTX_free(ctx);
    EVP_CIPHER_CTX_free(essiv);
    return good ? 0 : -EIO;
}

/* ---- hashes and keys ---- */

static const EVP_MD *hash_find(const char *name)
{
    static const struct {
        const char *name;
        const EVP_MD *(*kind)(void);
    } hashes[] = { { "sha1", EVP_sha1 },
                   { "sha224", EVP_sha224 },
                   { "sha256", EVP_sha256 },
                   { "sha384", EVP_sha384 },
                   { "sha512", EVP_sha512 } };
    crypt_start();
    for (unsigned i = 0; i < ARRAY_LEN(hashes); i++)
        if (!strcmp(hashes[i].name, name))
            return hashes[i].kind();
    return NULL;
}

size_t crypt_hash_len(const char *hash)
{
    const EVP_MD *md = hash_find(hash);
    return md ? (size_t)EVP_MD_get_size(md) : 0;
}

int crypt_hash(const char *hash, const void *data, size_t len, uint8_t *out)
{
    const EVP_MD *md = hash_find(hash);
    return md && EVP_Digest(data, len, out, NULL, md, NULL) ? 0 : -EIO;
}

int crypt_pbkdf2(const char *hash, const void *secret, size_t secret_len, const uint8_t *salt,
                 size_t salt_len, uint64_t iterations, uint8_t *out, size_t out_len,
                 struct crypt_budget *budget, struct err *err)
{
    const EVP_MD *md = hash_find(hash);
    if (!md)
        return err_set(err, ENOTSUP,
                       "uses the hash %s; known are sha1, sha224, sha256, sha384 and sha512", hash);
    uint64_t size = (uint64_t)EVP_MD_get_size(md), blocks = (out_len + size - 1) / size;
    if (!iterations || iterations > INT32_MAX || iterations > budget->iterations / blocks)
        return err_set(
            err, E2BIG,
            "asks for %llu rounds of its key derivation, which would take too long; give "
            "its passphrase fewer with: cryptsetup luksConvertKey",
            (unsigned long long)iterations);
    budget->iterations -= iterations * blocks;
    return PKCS5_PBKDF2_HMAC(secret, (int)secret_len, salt, (int)salt_len, (int)iterations, md,
                             (int)out_len, out)
               ? 0
               : err_set(err, EIO, "its key cannot be derived");
}

uint64_t crypt_pbkdf2_measure(const char *hash, size_t out_len, unsigned ms)
{
    enum { FIRST = 2000, LEAST = 1000 };
    struct crypt_budget budget = crypt_budget_default;
    uint8_t out[CRYPT_KEY_MAX];
    uint64_t rounds = FIRST, took;
    for (;;) {
        uint64_t start = monotonic_ns();
        if (crypt_pbkdf2(hash, "passphrase", 10, (const uint8_t *)"salt", 4, rounds, out, out_len,
                         &budget, NULL) < 0)
            return LEAST;
        took = monotonic_ns() - start + 1;
        if (took > 20000000 || rounds > 1 << 22)
            break;
        rounds *= 4;
    }
    uint64_t want = (uint64_t)((double)rounds * ms * 1e6 / (double)took);
    return want < LEAST ? LEAST : want > 16u << 20 ? 16u << 20 : want;
}

int crypt_argon2(const struct crypt_argon *how, const void *secret, size_t secret_len,
                 const uint8_t *salt, size_t salt_len, uint8_t *out, size_t out_len,
                 struct crypt_budget *budget, struct err *err)
{
    uint64_t work;
    if (!how->passes || how->memory_kib < 8 || !how->lanes || how->lanes > 16 || salt_len < 8 ||
        !mul_u64(how->passes, how->memory_kib, &work))
        return err_set(err, EINVAL, "its key derivation makes no sense");
    if (how->memory_kib > budget->memory_kib || work > budget->argon_passes)
        return err_set(
            err, E2BIG,
            "asks for %llu MiB of memory and %llu passes for its key derivation, which is "
            "too much; give its passphrase less with: cryptsetup luksConvertKey",
            (unsigned long long)how->memory_kib >> 10, (unsigned long long)how->passes);
    budget->argon_passes -= work;
    argon2_context context = {
        .out = out,
        .outlen = (uint32_t)out_len,
        .pwd = (uint8_t *)secret,
        .pwdlen = (uint32_t)secret_len,
        .salt = (uint8_t *)salt,
        .saltlen = (uint32_t)salt_len,
        .t_cost = (uint32_t)how->passes,
        .m_cost = (uint32_t)how->memory_kib,
        .lanes = (uint32_t)how->lanes,
        .threads = (uint32_t)how->lanes,
        .version = ARGON2_VERSION_13,
    };
    int r = argon2_ctx(&context, how->id ? Argon2_id : Argon2_i);
    return r == ARGON2_OK ? 0
                          : err_set(err, r == ARGON2_MEMORY_ALLOCATION_ERROR ? ENOMEM : EIO,
                                    "its key cannot be derived: %s", argon2_error_message(r));
}

int crypt_random(void *out, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = getrandom((char *)out + at, len - at, 0);
        if (n < 0 && errno != EINTR)
            return -errno;
        at += n < 0 ? 0 : (size_t)n;
    }
    return 0;
}

/* ---- the anti-forensic splitter (LUKS1 specification, 2.4) ---- */

/* Each piece of the length of a hash becomes hash(number, piece). */
static int af_diffuse(const char *hash, uint8_t *block, size_t len)
{
    size_t size = crypt_hash_len(hash);
    for (size_t at = 0, i = 0; at < len; at += size, i++) {
        uint8_t in[4 + 64], out[64];
        size_t part = len - at < size ? len - at : size;
        set_be32(in, (uint32_t)i);
        memcpy(in + 4, block + at, part);
        if (crypt_hash(hash, in, 4 + part, out) < 0)
            return -EIO;
        memcpy(block + at, out, part);
    }
    return 0;
}

/* What all stripes but the last one come to. */
static int af_fold(const char *hash, const uint8_t *split, size_t key_len, size_t stripes,
                   uint8_t *block)
{
    int r = 0;
    memset(block, 0, key_len);
    for (size_t s = 0; r == 0 && s + 1 < stripes; s++) {
        for (size_t i = 0; i < key_len; i++)
            block[i] ^= split[s * key_len + i];
        r = af_diffuse(hash, block, key_len);
    }
    return r;
}

int crypt_af_merge(const char *hash, const uint8_t *split, size_t key_len, size_t stripes,
                   uint8_t *key)
{
    int r = af_fold(hash, split, key_len, stripes, key);
    for (size_t i = 0; i < key_len; i++)
        key[i] ^= split[(stripes - 1) * key_len + i];
    return r;
}

int crypt_af_split(const char *hash, const uint8_t *key, size_t key_len, size_t stripes,
                   uint8_t *split)
{
    uint8_t block[CRYPT_KEY_MAX];
    int r = crypt_random(split, (stripes - 1) * key_len);
    if (r == 0)
        r = af_fold(hash, split, key_len, stripes, block);
    for (size_t i = 0; i < key_len; i++)
        split[(stripes - 1) * key_len + i] = block[i] ^ key[i];
    OPENSSL_cleanse(block, sizeof block);
    return r;
}

/* ---- a store of plain text ---- */

struct crypt_store {
    struct store store;
    struct store *below;
    struct crypt_cipher *cipher;
    uint64_t start, first_sector;
    uint32_t sector_size;
    pthread_mutex_t lock; /* parts of sectors: read, change, write */
};

static struct crypt_store *crypt_of(struct store *store)
{
    return CONTAINER_OF(store, struct crypt_store, store);
}

/* Whole sectors, in place in `data`. */
static int crypt_fetch(struct crypt_store *c, uint8_t *data, size_t len, uint64_t offset)
{
    int r = store_read(c->below, data, len, c->start + offset);
    return r < 0 ? r
                 : crypt_sectors(c->cipher, false, data, len,
                                 c->first_sector + offset / CRYPT_SECTOR, c->sector_size);
}

static int crypt_read(struct store *store, void *data, size_t len, uint64_t offset)
{
    struct crypt_store *c = crypt_of(store);
    if (!c->cipher)
        return -EACCES;
    AUTO(free) uint8_t *whole = NULL;
    for (size_t at = 0; at < len;) {
        uint64_t from = round_down(offset + at, c->sector_size);
        size_t skip = offset + at - from, part = len - at;
        part = part < CRYPT_CHUNK - skip ? part : CRYPT_CHUNK - skip;
        uint64_t to = round_up(from + skip + part, c->sector_size);
        bool aligned = !skip && to == from + part;
        if (!aligned && !whole && !(whole = malloc(CRYPT_CHUNK + c->sector_size)))
            return -ENOMEM;
        uint8_t *into = aligned ? (uint8_t *)data + at : whole;
        int r = crypt_fetch(c, into, to - from, from);
        if (r < 0)
            return r;
        if (!aligned)
            memcpy((uint8_t *)data + at, whole + skip, part);
        at += part;
    }
    return 0;
}

/* Within one chunk. */
static int crypt_write_part(struct crypt_store *c, uint8_t *whole, const uint8_t *data, size_t len,
                            uint64_t offset)
{
    uint64_t from = round_down(offset, c->sector_size), to = round_up(offset + len, c->sector_size);
    bool aligned = from == offset && to == offset + len;
    if (!aligned)
        pthread_mutex_lock(&c->lock);
    int r = aligned ? 0 : crypt_fetch(c, whole, to - from, from);
    memcpy(whole + (offset - from), data, len);
    if (r == 0)
        r = crypt_sectors(c->cipher, true, whole, to - from, c->first_sector + from / CRYPT_SECTOR,
                          c->sector_size);
    if (r == 0)
        r = store_write(c->below, whole, to - from, c->start + from);
    if (!aligned)
        pthread_mutex_unlock(&c->lock);
    return r;
}

static int crypt_write(struct store *store, const void *data, size_t len, uint64_t offset)
{
    struct crypt_store *c = crypt_of(store);
    if (!c->cipher)
        return -EACCES;
    AUTO(free) uint8_t *whole = malloc(CRYPT_CHUNK + 2 * (size_t)c->sector_size);
    if (!whole)
        return -ENOMEM;
    for (size_t at = 0, part; at < len; at += part) {
        part = CRYPT_CHUNK - (offset + at) % c->sector_size;
        part = part < len - at ? part : len - at;
        int r = crypt_write_part(c, whole, (const uint8_t *)data + at, part, offset + at);
        if (r < 0)
            return r;
    }
    return 0;
}

static int crypt_flush(struct store *store) { return store_flush(crypt_of(store)->below); }

static int crypt_truncate(struct store *store, uint64_t size)
{
    return store_truncate(crypt_of(store)->below, crypt_of(store)->start + size);
}

static int crypt_size(struct store *store, uint64_t *out)
{
    struct crypt_store *c = crypt_of(store);
    int r = store_size(c->below, out);
    *out = *out > c->start ? *out - c->start : 0;
    return r;
}

static void crypt_close(struct store *store)
{
    struct crypt_store *c = crypt_of(store);
    crypt_cipher_free(c->cipher);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static const struct store_ops crypt_ops = {
    .read = crypt_read,
    .write = crypt_write,
    .flush = crypt_flush,
    .truncate = crypt_truncate,
    .size = crypt_size,
    .close = crypt_close,
};

int crypt_store_open(struct store *below, uint64_t start, uint32_t sector_size,
                     uint64_t first_sector, struct crypt_cipher *take_cipher, struct store **out)
{
    struct crypt_store *c = calloc(1, sizeof *c);
    if (!c) {
        crypt_cipher_free(take_cipher);
        return -ENOMEM;
    }
    c->store = (struct store){ &crypt_ops, -1 };
    c->below = below;
    c->cipher = take_cipher;
    c->start = start;
    c->first_sector = first_sector;
    c->sector_size = sector_size;
    pthread_mutex_init(&c->lock, NULL);
    *out = &c->store;
    return 0;
}
