/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all store engines share: the limits. */
#include "daemon/store.h"

#include <stdlib.h>
#include <string.h>

static bool key_good(const char *key)
{
    size_t len = strlen(key);
    if (len < 2 || len > STORE_KEY_MAX || key[0] != '/' || key[len - 1] == '/' || strstr(key, "//"))
        return false;
    for (; *key; key++)
        if ((unsigned char)*key < 0x20 || *key == 0x7f)
            return false;
    return true;
}

int store_txn_check(const struct store_op *ops, unsigned count, struct err *err)
{
    size_t bytes = 0;
    if (!count || count > STORE_OPS_MAX)
        return err_set(err, E2BIG, "a transaction has 1 to %d operations, not %u", STORE_OPS_MAX,
                       count);
    for (unsigned i = 0; i < count; i++) {
        if (!key_good(ops[i].key))
            return err_set(err, EINVAL, "the key '%.80s' is not valid", ops[i].key);
        for (unsigned j = 0; j < i; j++)
            if (strcmp(ops[i].key, ops[j].key) == 0)
                return err_set(err, EINVAL, "the key %s is in one transaction twice", ops[i].key);
        if (!ops[i].value)
            continue;
        if (ops[i].len > STORE_VALUE_MAX)
            return err_set(err, E2BIG, "the value of %s has %zu bytes; at most %d are allowed",
                           ops[i].key, ops[i].len, STORE_VALUE_MAX);
        bytes += ops[i].len + strlen(ops[i].key);
    }
    return bytes > STORE_BYTES_MAX
               ? err_set(err, E2BIG, "a transaction has at most %d bytes", STORE_BYTES_MAX)
               : 0;
}

int store_follower_copy(struct store_follower *to, const struct store_follower *from,
                        struct err *err)
{
    *to = *from;
    to->prefix = strdup(from->prefix);
    return to->prefix ? 0 : err_set(err, ENOMEM, "out of memory");
}

struct refusal {
    store_done done;
    void *arg;
    struct err err;
};

static void refused(void *arg)
{
    struct refusal *refusal = arg;
    refusal->done(refusal->arg, -refusal->err.code, 0, &refusal->err);
    free(refusal);
}

void store_txn(struct store *store, const struct store_op *ops, unsigned count, store_done done,
               void *arg)
{
    struct err err;
    if (store_txn_check(ops, count, &err) == 0) {
        store->type->txn(store, ops, count, done, arg);
        return;
    }
    struct refusal *refusal = malloc(sizeof *refusal);
    if (!refusal)
        abort();
    *refusal = (struct refusal){ done, arg, err };
    loop_post(store->loop, refused, refusal);
}
