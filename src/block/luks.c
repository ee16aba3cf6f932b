/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * LUKS: reading and unlocking headers.
 *
 * Version 1 ("LUKS On-Disk Format Specification 1.2.3"): a binary header with eight key slots,
 * big-endian. Version 2 ("LUKS2 On-Disk Format Specification 1.1.1"): a binary header with a
 * checksum and a JSON text, in two copies, the one with the higher seqid counts.
 */
#include "block/luks.h"

#include "base/checked.h"
#include "base/json.h"
#include "base/text.h"
#include "block/bytes.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>

enum { /* version 1 */
       L1_CIPHER = 8,
       L1_MODE = 40,
       L1_HASH = 72,
       L1_PAYLOAD = 104,
       L1_KEY_LEN = 108,
       L1_DIGEST = 112,
       L1_DIGEST_SALT = 132,
       L1_DIGEST_ITERATIONS = 164,
       L1_UUID = 168,
       L1_SLOTS = 208,
       L1_SLOT_LEN = 48,
       L1_SLOT_COUNT = 8,
       L1_LEN = 592,
       L1_ACTIVE = 0x00ac71f3,
       L1_DIGEST_LEN = 20,
       L1_SALT_LEN = 32,
};
enum { /* version 2 */
       L2_SIZE = 8,
       L2_SEQID = 16,
       L2_CHECKSUM_ALG = 72,
       L2_UUID = 168,
       L2_OFFSET = 256,
       L2_CHECKSUM = 448,
       L2_CHECKSUM_LEN = 64,
       L2_LEN = 4096,
       L2_SIZE_MIN = 16 << 10,
       L2_SIZE_MAX = 4 << 20,
};
static const uint8_t magic_first[6] = { 'L', 'U', 'K', 'S', 0xba, 0xbe };
static const uint8_t magic_second[6] = { 'S', 'K', 'U', 'L', 0xba, 0xbe };

static bool text_copy(char *out, size_t room, const void *text, size_t max)
{
    size_t len = strnlen(text, max);
    if (!len || len == max || len >= room)
        return false;
    memcpy(out, text, len + 1);
    return true;
}

/* ---- version 1 ---- */

static int slot1_read(const uint8_t *p, const struct luks_header *h, uint64_t room,
                      struct luks_slot *out, struct err *err)
{
    if (be32(p) != L1_ACTIVE)
        return 0;
    struct luks_slot slot = { .active = true, .iterations = be32(p + 4), .salt_len = L1_SALT_LEN };
    memcpy(slot.salt, p + 8, L1_SALT_LEN);
    slot.area = be32(p + 40) * (uint64_t)CRYPT_SECTOR;
    slot.stripes = be32(p + 44);
    slot.key_len = slot.area_key_len = h->key_len;
    snprintf(slot.hash, sizeof slot.hash, "%s", h->digest_hash);
    snprintf(slot.af_hash, sizeof slot.af_hash, "%s", h->digest_hash);
    snprintf(slot.area_cipher, sizeof slot.area_cipher, "%s", h->cipher);
    if (!slot.stripes || slot.stripes > LUKS_STRIPES || slot.area < L1_LEN ||
        !range_fits(slot.area, slot.stripes * h->key_len, room))
        return err_set(err, EINVAL, "a key slot of its LUKS header makes no sense");
    *out = slot;
    return 0;
}

static int luks1_read(struct store *store, uint64_t at, uint64_t room, struct luks_header *h,
                      struct err *err)
{
    uint8_t p[L1_LEN];
    char cipher[32], mode[32];
    int r = store_read(store, p, sizeof p, at);
    if (r < 0)
        return err_errno(err, -r, "cannot read its LUKS header");
    if (!text_copy(cipher, sizeof cipher, p + L1_CIPHER, 32) ||
        !text_copy(mode, sizeof mode, p + L1_MODE, 32) ||
        !text_copy(h->digest_hash, sizeof h->digest_hash, p + L1_HASH, 32))
        return err_set(err, EINVAL, "its LUKS header names no cipher or hash that is known");
    snprintf(h->cipher, sizeof h->cipher, "%s-%s", cipher, mode);
    text_copy(h->uuid, sizeof h->uuid, p + L1_UUID, sizeof h->uuid);
    h->version = 1;
    h->sector_size = CRYPT_SECTOR;
    h->payload = be32(p + L1_PAYLOAD) * (uint64_t)CRYPT_SECTOR;
    h->key_len = be32(p + L1_KEY_LEN);
    h->digest_iterations = be32(p + L1_DIGEST_ITERATIONS);
    memcpy(h->digest, p + L1_DIGEST, L1_DIGEST_LEN);
    memcpy(h->digest_salt, p + L1_DIGEST_SALT, L1_SALT_LEN);
    h->digest_len = L1_DIGEST_LEN;
    h->digest_salt_len = L1_SALT_LEN;
    if (!h->key_len || h->key_len > CRYPT_KEY_MAX || h->payload < L1_LEN)
        return err_set(err, EINVAL, "its LUKS header makes no sense");
    for (unsigned i = 0; r == 0 && i < L1_SLOT_COUNT; i++)
        r = slot1_read(p + L1_SLOTS + i * L1_SLOT_LEN, h, room, &h->slots[i], err);
    return r;
}

/* ---- version 2 ---- */

/* A copy of the header: its size, or 0 when it is not good. */
static int luks2_copy(struct store *store, uint64_t at, uint64_t offset, uint64_t room,
                      uint8_t **out, uint64_t *seqid)
{
    uint8_t p[L2_LEN], sum[64];
    *out = NULL;
    if (!range_fits(offset, L2_LEN, room) || store_read(store, p, sizeof p, at + offset) < 0)
        return 0;
    uint64_t size = be64(p + L2_SIZE);
    if (memcmp(p, offset ? magic_second : magic_first, 6) || be16(p + 6) != 2 ||
        size < L2_SIZE_MIN || size > L2_SIZE_MAX || !is_power_of_two(size) ||
        be64(p + L2_OFFSET) != offset || (offset && size != offset) ||
        !range_fits(offset, size, room) || strncmp((char *)p + L2_CHECKSUM_ALG, "sha256", 32))
        return 0;
    AUTO(free) uint8_t *whole = malloc(size + 1);
    if (!whole || store_read(store, whole, size, at + offset) < 0)
        return 0;
    memset(whole + L2_CHECKSUM, 0, L2_CHECKSUM_LEN);
    if (crypt_hash("sha256", whole, size, sum) < 0 || memcmp(sum, p + L2_CHECKSUM, 32))
        return 0;
    whole[size] = 0;
    *seqid = be64(p + L2_SEQID);
    *out = TAKE(whole);
    return (int)size;
}

/* Numbers of 64 bits are strings there. */
static bool json_number(const json_t *object, const char *name, uint64_t max, uint64_t *out)
{
    const json_t *value = json_object_get(object, name);
    if (json_is_integer(value) && json_integer_value(value) >= 0)
        *out = (uint64_t)json_integer_value(value);
    else if (!json_is_string(value) ||
             number_parse(json_string_value(value), 0, max, out, NULL) < 0)
        return false;
    return *out <= max;
}

static bool json_text(const json_t *object, const char *name, char *out, size_t room)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text && text_copy(out, room, text, room);
}

static bool json_is(const json_t *object, const char *name, const char *want)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text && !strcmp(text, want);
}

/* Base64: its length, or 0. */
static size_t json_bytes(const json_t *object, const char *name, uint8_t *out, size_t room)
{
    const char *text = json_string_value(json_object_get(object, name));
    size_t len = text ? strlen(text) : 0, pad = 0;
    uint8_t decoded[192];
    if (!len || len % 4 || len / 4 * 3 > sizeof decoded)
        return 0;
    int n = EVP_DecodeBlock(decoded, (const uint8_t *)text, (int)len);
    while (pad < 2 && text[len - 1 - pad] == '=')
        pad++;
    if (n < 0 || (size_t)n - pad > room)
        return 0;
    memcpy(out, decoded, (size_t)n - pad);
    return (size_t)n - pad;
}

static bool kdf_read(const json_t *kdf, struct luks_slot *slot)
{
    uint64_t most = UINT32_MAX;
    slot->salt_len = json_bytes(kdf, "salt", slot->salt, sizeof slot->salt);
    if (!slot->salt_len)
        return false;
    if (json_is(kdf, "type", "pbkdf2"))
        return json_text(kdf, "hash", slot->hash, sizeof slot->hash) &&
               json_number(kdf, "iterations", most, &slot->iterations);
    slot->argon = true;
    slot->how.id = json_is(kdf, "type", "argon2id");
    return (slot->how.id || json_is(kdf, "type", "argon2i")) &&
           json_number(kdf, "time", most, &slot->how.passes) &&
           json_number(kdf, "memory", most, &slot->how.memory_kib) &&
           json_number(kdf, "cpus", most, &slot->how.lanes);
}

static bool slot2_read(const json_t *json, uint64_t room, struct luks_slot *out)
{
    const json_t *area = json_object_get(json, "area"), *af = json_object_get(json, "af");
    uint64_t key_len, area_key, size, stripes;
    struct luks_slot slot = { .active = true };
    if (!json_is(json, "type", "luks2") || !json_is(area, "type", "raw") ||
        !json_is(af, "type", "luks1") || !json_number(json, "key_size", CRYPT_KEY_MAX, &key_len) ||
        !json_number(af, "stripes", LUKS_STRIPES, &stripes) ||
        !json_text(af, "hash", slot.af_hash, sizeof slot.af_hash) ||
        !json_number(area, "offset", room, &slot.area) || !json_number(area, "size", room, &size) ||
        !json_number(area, "key_size", CRYPT_KEY_MAX, &area_key) ||
        !json_text(area, "encryption", slot.area_cipher, sizeof slot.area_cipher) ||
        !kdf_read(json_object_get(json, "kdf"), &slot))
        return false;
    slot.key_len = key_len;
    slot.area_key_len = area_key;
    slot.stripes = stripes;
    if (!key_len || !area_key || !stripes || stripes * key_len > size ||
        !range_fits(slot.area, size, room))
        return false;
    *out = slot;
    return true;
}

static int segment_read(const json_t *json, struct luks_header *h, struct err *err)
{
    const json_t *segment = json_object_get(json, "0");
    uint64_t sector;
    if (json_object_size(json) != 1 || !json_is(segment, "type", "crypt"))
        return err_set(err, ENOTSUP,
                       "has several LUKS2 segments, or one of an unknown kind; is it being "
                       "reencrypted? finish that with: cryptsetup reencrypt");
    if (json_object_get(segment, "integrity"))
        return err_set(err, ENOTSUP, "has LUKS2 integrity tags, which are not supported");
    if (!json_number(segment, "offset", 1ull << 60, &h->payload) ||
        !json_number(segment, "sector_size", 4096, &sector) ||
        !json_number(segment, "iv_tweak", INT64_MAX, &h->first_sector) ||
        !json_text(segment, "encryption", h->cipher, sizeof h->cipher) ||
        !is_power_of_two(sector) || sector < CRYPT_SECTOR)
        return err_set(err, EINVAL, "its LUKS2 segment makes no sense");
    h->sector_size = (uint32_t)sector;
    if (!json_is(segment, "size", "dynamic") &&
        (!json_number(segment, "size", 1ull << 60, &h->payload_len) || !h->payload_len))
        return err_set(err, EINVAL, "its LUKS2 segment makes no sense");
    return 0;
}

static int digest_read(const json_t *json, struct luks_header *h, struct err *err)
{
    const char *key;
    json_t *one, *named;
    size_t i;
    json_object_foreach((json_t *)json, key, one)
    {
        bool ours = false;
        json_array_foreach(json_object_get(one, "segments"), i, named) ours |=
            json_is_string(named) && !strcmp(json_string_value(named), "0");
        if (!ours || !json_is(one, "type", "pbkdf2"))
            continue;
        h->digest_len = json_bytes(one, "digest", h->digest, sizeof h->digest);
        h->digest_salt_len = json_bytes(one, "salt", h->digest_salt, sizeof h->digest_salt);
        if (h->digest_len && h->digest_salt_len &&
            json_text(one, "hash", h->digest_hash, sizeof h->digest_hash) &&
            json_number(one, "iterations", UINT32_MAX, &h->digest_iterations))
            return 0;
    }
    return err_set(err, EINVAL, "its LUKS2 header has no digest that is known");
}

static int luks2_take(const json_t *json, uint64_t room, struct luks_header *h, struct err *err)
{
    const char *key;
    json_t *one;
    unsigned count = 0;
    const json_t *config = json_object_get(json, "config");
    const json_t *required = json_object_get(json_object_get(config, "requirements"), "mandatory");
    if (json_array_size(required))
        return err_set(err, ENOTSUP,
                       "has LUKS2 requirements that are not supported (%s); finish what is under "
                       "way with: cryptsetup reencrypt",
                       json_is_string(json_array_get(required, 0))
                           ? json_string_value(json_array_get(required, 0))
                           : "?");
    int r = segment_read(json_object_get(json, "segments"), h, err);
    if (r == 0)
        r = digest_read(json_object_get(json, "digests"), h, err);
    if (r < 0)
        return r;
    json_object_foreach(json_object_get(json, "keyslots"), key, one)
    {
        struct luks_slot *slot = &h->slots[count];
        if (count == LUKS_SLOTS || !slot2_read(one, room, slot))
            continue; /* of another kind: another slot may fit */
        count++;
        h->key_len = slot->key_len;
    }
    return count ? 0 : err_set(err, ENOTSUP, "its LUKS2 header has no key slot of a known kind");
}

static int luks2_read(struct store *store, uint64_t at, uint64_t room, struct luks_header *h,
                      struct err *err)
{
    AUTO(free) uint8_t *best = NULL;
    uint64_t best_id = 0, best_size = 0;
    /* The second copy may lie at each power of two. */
    for (uint64_t offset = 0; offset <= L2_SIZE_MAX;
         offset = offset ? offset * 2 : (uint64_t)L2_SIZE_MIN) {
        uint8_t *copy;
        uint64_t id = 0;
        int size = luks2_copy(store, at, offset, room, &copy, &id);
        if (!size || (best && id <= best_id)) {
            free(copy);
            continue;
        }
        free(best);
        best = copy;
        best_id = id;
        best_size = (uint64_t)size;
    }
    if (!best)
        return err_set(err, EINVAL,
                       "both copies of its LUKS2 header are damaged; restore it with: "
                       "cryptsetup luksHeaderRestore");
    const char *text = (char *)best + L2_LEN;
    AUTO(json_decref) json_t *json = NULL;
    text_copy(h->uuid, sizeof h->uuid, best + L2_UUID, sizeof h->uuid);
    h->version = 2;
    int r = json_parse(text, strnlen(text, best_size - L2_LEN), &json, err);
    return r < 0 ? err_prefix(err, "its LUKS2 header") : luks2_take(json, room, h, err);
}

/* ---- both ---- */

int luks_read(struct store *store, uint64_t at, uint64_t room, struct luks_header *out,
              struct err *err)
{
    uint8_t p[8];
    *out = (struct luks_header){ 0 };
    int r = room < L1_LEN ? -ENODATA : store_read(store, p, sizeof p, at);
    if (r < 0)
        return err_errno(err, -r, "cannot read its LUKS header");
    /* With the first header gone the second one is found by its place. */
    if (memcmp(p, magic_first, 6))
        return luks2_read(store, at, room, out, NULL) == 0
                   ? 0
                   : err_set(err, EINVAL, "has no LUKS header");
    if (be16(p + 6) == 1)
        return luks1_read(store, at, room, out, err);
    if (be16(p + 6) == 2)
        return luks2_read(store, at, room, out, err);
    return err_set(err, ENOTSUP, "has a LUKS header of version %u; known are 1 and 2", be16(p + 6));
}

/* ---- unlocking ---- */

struct unlock {
    const struct image_secret *secret;
    struct crypt_budget budget;
    uint8_t slot_key[CRYPT_KEY_MAX], key[CRYPT_KEY_MAX];
};

static int slot_derive(struct unlock *u, const struct luks_slot *slot, struct err *err)
{
    return slot->argon
               ? crypt_argon2(&slot->how, u->secret->data, u->secret->len, slot->salt,
                              slot->salt_len, u->slot_key, slot->area_key_len, &u->budget, err)
               : crypt_pbkdf2(slot->hash, u->secret->data, u->secret->len, slot->salt,
                              slot->salt_len, slot->iterations, u->slot_key, slot->area_key_len,
                              &u->budget, err);
}

/* The key that the passphrase gives by this slot, right or wrong, into u->key. */
static int slot_open(struct unlock *u, struct store *store, uint64_t at,
                     const struct luks_slot *slot, struct err *err)
{
    AUTO(crypt_cipher_free) struct crypt_cipher *cipher = NULL;
    size_t len = slot->key_len * slot->stripes, whole = round_up(len, CRYPT_SECTOR);
    AUTO(free) uint8_t *split = malloc(whole);
    if (!split)
        return err_set(err, ENOMEM, "out of memory");
    if (!crypt_hash_len(slot->af_hash))
        return err_set(err, ENOTSUP, "uses the hash %s, which is not known", slot->af_hash);
    int r = slot_derive(u, slot, err);
    if (r == 0)
        r = crypt_cipher_create(slot->area_cipher, u->slot_key, slot->area_key_len, &cipher, err);
    if (r < 0)
        return r;
    r = store_read(store, split, whole, at + slot->area);
    if (r == 0)
        r = crypt_sectors(cipher, false, split, whole, 0, CRYPT_SECTOR);
    if (r == 0)
        r = crypt_af_merge(slot->af_hash, split, slot->key_len, slot->stripes, u->key);
    OPENSSL_cleanse(split, whole);
    return r < 0 ? err_errno(err, -r, "cannot read a key slot") : 0;
}

static int key_is_right(struct unlock *u, const struct luks_header *h, size_t key_len,
                        struct err *err)
{
    uint8_t digest[64];
    int r = crypt_pbkdf2(h->digest_hash, u->key, key_len, h->digest_salt, h->digest_salt_len,
                         h->digest_iterations, digest, h->digest_len, &u->budget, err);
    return r < 0 ? r : !CRYPTO_memcmp(digest, h->digest, h->digest_len);
}

static int unlock_slots(struct unlock *u, struct store *store, uint64_t at,
                        const struct luks_header *h, struct crypt_cipher **out, struct err *err)
{
    struct err why = { 0 };
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        const struct luks_slot *slot = &h->slots[i];
        if (!slot->active)
            continue;
        int r = slot_open(u, store, at, slot, &why);
        if (r == 0)
            r = key_is_right(u, h, slot->key_len, &why);
        if (r > 0)
            return crypt_cipher_create(h->cipher, u->key, slot->key_len, out, err);
        if (r == -E2BIG || r == -ENOMEM)
            break; /* the budget is for all slots */
    }
    return why.code ? err_set(err, why.code, "%s", why.text)
                    : err_set(err, EACCES, "no key slot fits the passphrase given; try another");
}

int luks_unlock(struct store *store, uint64_t at, const struct luks_header *header,
                const struct image_options *options, struct crypt_cipher **out, struct err *err)
{
    struct unlock u = { .secret = options->secret,
                        .budget = options->budget ? *options->budget : crypt_budget_default };
    int r = unlock_slots(&u, store, at, header, out, err);
    OPENSSL_cleanse(&u, sizeof u);
    return r;
}

int luks_open_store(struct store *store, uint64_t at, const struct luks_header *header,
                    uint64_t start, uint64_t first_sector, const struct image_options *options,
                    struct store **out, struct err *err)
{
    struct crypt_cipher *cipher = NULL;
    if (!options->secret && !options->no_key)
        return err_set(err, EACCES,
                       "is encrypted; give the file that has its passphrase as key-file "
                       "(bedplate-img: --key-file FILE)");
    int r = options->secret ? luks_unlock(store, at, header, options, &cipher, err) : 0;
    if (r < 0)
        return r;
    r = crypt_store_open(store, start, header->sector_size, first_sector, cipher, out);
    return r < 0 ? err_set(err, ENOMEM, "out of memory") : 0;
}

int luks_info(const struct luks_header *h, json_t *into)
{
    unsigned active = 0;
    for (unsigned i = 0; i < LUKS_SLOTS; i++)
        active += h->slots[i].active;
    json_object_set_new(into, "luks-version", json_integer(h->version));
    json_object_set_new(into, "cipher", json_string(h->cipher));
    json_object_set_new(into, "key-bits", json_integer((json_int_t)h->key_len * 8));
    json_object_set_new(into, "uuid", json_string(h->uuid));
    json_object_set_new(into, "key-slots", json_integer(active));
    json_object_set_new(into, "sector-size", json_integer(h->sector_size));
    json_object_set_new(into, "payload-offset", json_integer((json_int_t)h->payload));
    return 0;
}
