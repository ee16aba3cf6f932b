/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What parses must print, and parse again to an equal value. */
#include "base/json.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct err err = { 0 };
    AUTO(json_decref) json_t *value = NULL;
    if (json_parse((const char *)data, len, &value, &err) < 0) {
        assert(!value && err.code && err.text[0]);
        return 0;
    }
    const char *string;
    uint64_t n;
    bool flag;
    (void)json_get_string(value, "a", &string, NULL);
    (void)json_get_u64(value, "a", 1, 100, &n, NULL);
    (void)json_get_bool(value, "a", &flag, NULL);
    (void)json_only(value, (const char *const[]){ "a", NULL }, NULL);

    char *text = json_print(value);
    AUTO(json_decref) json_t *again = NULL;
    int r = json_parse(text, strlen(text), &again, &err);
    /* Compact text can be longer than what was read: \u escapes become UTF-8, numbers get digits.
     */
    assert(r == 0 || err.code == EFBIG);
    assert(r < 0 || json_equal(value, again));
    free(text);
    return 0;
}
