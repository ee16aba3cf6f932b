/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bodies of requests against every resource and action, as new objects and as patches. */
#include "api/api.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void as_new(const struct api_field *fields, const json_t *body)
{
    struct api_error error = { 0 };
    json_t *object = NULL;
    if (api_check_new(fields, body, &object, &error) < 0) {
        json_t *json = api_error_json(&error);
        assert(json && error.status);
        json_decref(json);
        return;
    }
    bool live;
    json_t *changed = NULL;
    if (api_check_patch(fields ? fields : api_resources[0].fields, object, body, &changed, &live,
                        &error) == 0)
        json_decref(changed);
    if (fields) {
        json_t *shown = NULL;
        struct buf text = { 0 };
        assert(api_show(fields, object, NULL, &text, &error) == 0);
        assert(json_parse((const char *)text.data, text.len, &shown, NULL) == 0);
        json_decref(shown);
        buf_fini(&text);
    }
    json_decref(object);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct err err;
    json_t *body = NULL;
    if (json_parse((const char *)data, len, &body, &err) < 0)
        return 0;
    for (const struct api_resource *r = api_resources; r->name; r++) {
        as_new(r->fields, body);
        for (const struct api_action *a = r->actions; a && a->name; a++)
            as_new(a->args, body);
    }
    json_decref(body);
    return 0;
}
