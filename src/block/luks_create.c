/* SPDX-License-Identifier: GPL-2.0-or-later */
/* LUKS: new headers of both versions, with the passphrase in the first slot (luks.h). */
#include "block/luks.h"

#include "base/checked.h"
#include "base/text.h"
#include "block/bytes.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>

enum {
    L1_SLOT_ROOM = 504, /* sectors: 4000 stripes of the longest key, in pages */
    L1_PAYLOAD_LEN = 2 << 20,
    L2_COPY = 16 << 10,
    L2_AREA = 32 << 10,
    L2_AREA_LEN = 258048, /* of one slot, as cryptsetup makes it */
    L2_PAYLOAD_LEN = 16 << 20,
    ARGON_PASSES = 4,
    ARGON_KIB = 256 << 10,
    ARGON_LANES = 2,
};

struct recipe {
    unsigned version;
    uint32_t sector_size;
    size_t key_len;
    char hash[16], kdf[16];
    uint64_t iter_ms;
    /* made up along the way */
    uint8_t key[CRYPT_KEY_MAX], slot_key[CRYPT_KEY_MAX];
    uint8_t salt[32], digest_salt[32], digest[32];
    uint64_t iterations, digest_iterations;
    char uuid[40];
};

/* ---- options ---- */

static bool option(const struct image_create *create, const char *prefix, const char *name,
                   char *value, size_t room)
{
    char full[64];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return image_option_get(create->options, full, value, room);
}

static int option_one_of(const struct image_create *create, const char *prefix, const char *name,
                         const char *a, const char *b, bool *second, struct err *err)
{
    char value[24];
    if (!option(create, prefix, name, value, sizeof value))
        return 0;
    *second = b && !strcmp(value, b);
    if (!*second && strcmp(value, a))
        return err_set(err, EINVAL, "%s%s=%s: there is %s%s%s", prefix, name, value, a,
                       b ? " and " : "", b ? b : "");
    return 0;
}

static int recipe_read(const struct image_create *create, const char *prefix, struct recipe *out,
                       struct err *err)
{
    char value[24];
    bool two = false, short_key = false, big = false, pbkdf2 = false, none;
    uint64_t ms = 1000;
    *out = (struct recipe){ .version = 1, .sector_size = CRYPT_SECTOR, .hash = "sha256" };
    int r = option_one_of(create, prefix, "version", "1", "2", &two, err);
    if (r == 0)
        r = option_one_of(create, prefix, "cipher-alg", "aes-256", "aes-128", &short_key, err);
    if (r == 0)
        r = option_one_of(create, prefix, "cipher-mode", "xts", NULL, &none, err);
    if (r == 0)
        r = option_one_of(create, prefix, "ivgen-alg", "plain64", NULL, &none, err);
    if (r == 0)
        r = option_one_of(create, prefix, "sector-size", "512", "4096", &big, err);
    if (r == 0)
        r = option_one_of(create, prefix, "kdf", "argon2id", "pbkdf2", &pbkdf2, err);
    if (r < 0)
        return r;
    option(create, prefix, "hash-alg", out->hash, sizeof out->hash);
    if (!crypt_hash_len(out->hash))
        return err_set(err, EINVAL,
                       "%shash-alg=%s: there is sha1, sha224, sha256, sha384 and sha512", prefix,
                       out->hash);
    if (option(create, prefix, "iter-time", value, sizeof value)) {
        r = number_parse(value, 1, 60000, &ms, err);
        if (r < 0)
            return err_prefix(err, "%siter-time", prefix);
    }
    if (big && !two)
        return err_set(err, EINVAL, "%ssector-size=4096 needs %sversion=2", prefix, prefix);
    if (!create->secret || !create->secret->len)
        return err_set(err, EINVAL,
                       "an encrypted image needs a passphrase: give the file that has it "
                       "(bedplate-img: --key-file FILE)");
    out->version = two ? 2 : 1;
    out->sector_size = big ? 4096 : CRYPT_SECTOR;
    out->key_len = short_key ? 32 : 64;
    out->iter_ms = ms;
    snprintf(out->kdf, sizeof out->kdf, "%s", two && !pbkdf2 ? "argon2id" : "pbkdf2");
    return 0;
}

int luks_create_len(const struct image_create *create, const char *prefix, uint64_t *len,
                    struct err *err)
{
    struct recipe recipe;
    int r = recipe_read(create, prefix, &recipe, err);
    *len = recipe.version == 2 ? L2_PAYLOAD_LEN : L1_PAYLOAD_LEN;
    return r;
}

/* ---- keys ---- */

static int recipe_random(struct recipe *r)
{
    uint8_t id[16];
    if (crypt_random(r->key, r->key_len) < 0 || crypt_random(r->salt, sizeof r->salt) < 0 ||
        crypt_random(r->digest_salt, sizeof r->digest_salt) < 0 || crypt_random(id, 16) < 0)
        return -EIO;
    id[6] = (uint8_t)((id[6] & 0x0f) | 0x40);
    id[8] = (uint8_t)((id[8] & 0x3f) | 0x80);
    snprintf(r->uuid, sizeof r->uuid, "%08x-%04x-%04x-%04x-%04x%08x", be32(id), be16(id + 4),
             be16(id + 6), be16(id + 8), be16(id + 10), be32(id + 12));
    return 0;
}

/* The slot's key by the passphrase, and the digest of the key. */
static int recipe_derive(struct recipe *r, const struct image_secret *secret, size_t digest_len,
                         struct err *err)
{
    struct crypt_budget budget = crypt_budget_default;
    struct crypt_argon argon = { true, ARGON_PASSES, ARGON_KIB, ARGON_LANES };
    r->iterations = crypt_pbkdf2_measure(r->hash, r->key_len, (unsigned)r->iter_ms);
    r->digest_iterations = crypt_pbkdf2_measure(r->hash, digest_len, (unsigned)r->iter_ms / 8 + 1);
    if (recipe_random(r) < 0)
        return err_set(err, EIO, "the host gives no random numbers");
    int e = strcmp(r->kdf, "pbkdf2")
                ? crypt_argon2(&argon, secret->data, secret->len, r->salt, sizeof r->salt,
                               r->slot_key, r->key_len, &budget, err)
                : crypt_pbkdf2(r->hash, secret->data, secret->len, r->salt, sizeof r->salt,
                               r->iterations, r->slot_key, r->key_len, &budget, err);
    if (e < 0)
        return e;
    return crypt_pbkdf2(r->hash, r->key, r->key_len, r->digest_salt, sizeof r->digest_salt,
                        r->digest_iterations, r->digest, digest_len, &budget, err);
}

static int write_slot(struct recipe *r, struct store *store, uint64_t at)
{
    AUTO(crypt_cipher_free) struct crypt_cipher *cipher = NULL;
    size_t len = r->key_len * LUKS_STRIPES;
    AUTO(free) uint8_t *split = malloc(len);
    if (!split)
        return -ENOMEM;
    int e = crypt_af_split(r->hash, r->key, r->key_len, LUKS_STRIPES, split);
    if (e == 0)
        e = crypt_cipher_create("aes-xts-plain64", r->slot_key, r->key_len, &cipher, NULL);
    if (e == 0)
        e = crypt_sectors(cipher, true, split, len, 0, CRYPT_SECTOR);
    if (e == 0)
        e = store_write(store, split, len, at);
    return e;
}

/* ---- version 1 ---- */

static int create1(struct recipe *r, const struct image_secret *secret, struct store *store,
                   uint64_t at, struct err *err)
{
    enum { SLOTS = 8, DIGEST = 20, LEN = 592 };
    uint8_t h[LEN] = "LUKS\xba\xbe";
    int e = recipe_derive(r, secret, DIGEST, err);
    if (e < 0)
        return e;
    set_be16(h + 6, 1);
    memcpy(h + 8, "aes", 4);
    memcpy(h + 40, "xts-plain64", 12);
    snprintf((char *)h + 72, 32, "%s", r->hash);
    set_be32(h + 104, L1_PAYLOAD_LEN / CRYPT_SECTOR);
    set_be32(h + 108, (uint32_t)r->key_len);
    memcpy(h + 112, r->digest, DIGEST);
    memcpy(h + 132, r->digest_salt, 32);
    set_be32(h + 164, (uint32_t)r->digest_iterations);
    memcpy(h + 168, r->uuid, sizeof r->uuid);
    for (uint32_t i = 0; i < SLOTS; i++) {
        uint8_t *slot = h + 208 + 48 * i;
        set_be32(slot, i ? 0x0000dead : 0x00ac71f3);
        set_be32(slot + 4, i ? 0 : (uint32_t)r->iterations);
        if (!i)
            memcpy(slot + 8, r->salt, 32);
        set_be32(slot + 40, 8 + i * L1_SLOT_ROOM);
        set_be32(slot + 44, LUKS_STRIPES);
    }
    e = store_zero(store, at, L1_PAYLOAD_LEN, true);
    if (e == 0)
        e = write_slot(r, store, at + 8 * CRYPT_SECTOR);
    if (e == 0)
        e = store_write(store, h, sizeof h, at);
    return e < 0 ? err_errno(err, -e, "cannot write its LUKS header") : 0;
}

/* ---- version 2 ---- */

static void base64(const uint8_t *data, size_t len, char *out)
{
    EVP_EncodeBlock((uint8_t *)out, data, (int)len);
}

static void text2(const struct recipe *r, struct buf *out)
{
    char salt[64], digest_salt[64], digest[64], kdf[200];
    base64(r->salt, sizeof r->salt, salt);
    base64(r->digest_salt, sizeof r->digest_salt, digest_salt);
    base64(r->digest, sizeof r->digest, digest);
    if (strcmp(r->kdf, "pbkdf2"))
        snprintf(kdf, sizeof kdf,
                 "\"type\":\"argon2id\",\"time\":%d,\"memory\":%d,\"cpus\":%d,\"salt\":\"%s\"",
                 ARGON_PASSES, ARGON_KIB, ARGON_LANES, salt);
    else
        snprintf(kdf, sizeof kdf,
                 "\"type\":\"pbkdf2\",\"hash\":\"%s\",\"iterations\":%" PRIu64 ",\"salt\":\"%s\"",
                 r->hash, r->iterations, salt);
    buf_printf(out,
               "{\"keyslots\":{\"0\":{\"type\":\"luks2\",\"key_size\":%zu,"
               "\"af\":{\"type\":\"luks1\",\"stripes\":4000,\"hash\":\"%s\"},"
               "\"area\":{\"type\":\"raw\",\"offset\":\"%d\",\"size\":\"%d\","
               "\"encryption\":\"aes-xts-plain64\",\"key_size\":%zu},\"kdf\":{%s}}},",
               r->key_len, r->hash, L2_AREA, L2_AREA_LEN, r->key_len, kdf);
    buf_printf(out,
               "\"tokens\":{},\"segments\":{\"0\":{\"type\":\"crypt\",\"offset\":\"%d\","
               "\"size\":\"dynamic\",\"iv_tweak\":\"0\",\"encryption\":\"aes-xts-plain64\","
               "\"sector_size\":%u}},",
               L2_PAYLOAD_LEN, r->sector_size);
    buf_printf(out,
               "\"digests\":{\"0\":{\"type\":\"pbkdf2\",\"keyslots\":[\"0\"],\"segments\":[\"0\"],"
               "\"hash\":\"%s\",\"iterations\":%" PRIu64 ",\"salt\":\"%s\",\"digest\":\"%s\"}},"
               "\"config\":{\"json_size\":\"%d\",\"keyslots_size\":\"%d\"}}",
               r->hash, r->digest_iterations, digest_salt, digest, L2_COPY - 4096,
               L2_PAYLOAD_LEN - L2_AREA);
}

static int write_copy(const struct recipe *r, const struct buf *text, bool second,
                      struct store *store, uint64_t at)
{
    AUTO(free) uint8_t *h = calloc(1, L2_COPY);
    uint64_t offset = second ? L2_COPY : 0;
    uint8_t sum[32];
    if (!h || text->len >= L2_COPY - 4096)
        return -ENOMEM;
    memcpy(h, second ? "SKUL\xba\xbe" : "LUKS\xba\xbe", 6);
    set_be16(h + 6, 2);
    set_be64(h + 8, L2_COPY);
    set_be64(h + 16, 1);
    memcpy(h + 72, "sha256", 7);
    int e = crypt_random(h + 104, 64);
    memcpy(h + 168, r->uuid, sizeof r->uuid);
    set_be64(h + 256, offset);
    memcpy(h + 4096, text->data, text->len);
    if (e == 0)
        e = crypt_hash("sha256", h, L2_COPY, sum);
    memcpy(h + 448, sum, sizeof sum);
    return e < 0 ? e : store_write(store, h, L2_COPY, at + offset);
}

static int create2(struct recipe *r, const struct image_secret *secret, struct store *store,
                   uint64_t at, struct err *err)
{
    AUTO(buf_fini) struct buf text = { 0 };
    int e = recipe_derive(r, secret, sizeof r->digest, err);
    if (e < 0)
        return e;
    text2(r, &text);
    e = store_zero(store, at, L2_PAYLOAD_LEN, true);
    if (e == 0)
        e = write_slot(r, store, at + L2_AREA);
    if (e == 0)
        e = write_copy(r, &text, false, store, at);
    if (e == 0)
        e = write_copy(r, &text, true, store, at);
    return e < 0 ? err_errno(err, -e, "cannot write its LUKS header") : 0;
}

int luks_create(const struct image_create *create, const char *prefix, struct store *store,
                uint64_t at, struct err *err)
{
    struct recipe recipe;
    int r = recipe_read(create, prefix, &recipe, err);
    if (r == 0)
        r = recipe.version == 2 ? create2(&recipe, create->secret, store, at, err)
                                : create1(&recipe, create->secret, store, at, err);
    OPENSSL_cleanse(&recipe, sizeof recipe);
    return r;
}
