/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The tables are sound, and requests are held against them. */
#include "api/api.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void check_fields(const char *where, const struct api_field *fields)
{
    for (const struct api_field *f = fields; f && f->name; f++) {
        char path[200];
        snprintf(path, sizeof path, "%s.%s", where, f->name);
        assert_true(f - fields < API_FIELDS_MAX);
        for (const struct api_field *g = fields; g != f; g++)
            if (strcmp(f->name, g->name) == 0)
                fail_msg("%s is there twice", path);
        if (!f->about || !*f->about || f->about[strlen(f->about) - 1] == '.')
            fail_msg("%s: about is one clause without a full stop", path);
        bool string = f->type == API_STRING || (f->type == API_LIST && f->element == API_STRING);
        if (string && (f->format == API_ENUM) != (f->choices != NULL))
            fail_msg("%s: choices go with API_ENUM", path);
        bool nested = f->type == API_OBJECT || (f->type == API_LIST && f->element == API_OBJECT);
        if (nested != (f->fields != NULL))
            fail_msg("%s: fields go with objects", path);
        if ((f->flags & API_SERVER) &&
            (f->flags & ~(unsigned)(API_SERVER | API_FILTER | API_SECRET)))
            fail_msg("%s: the server's fields are filters and secrets at most", path);
        if (f->initial) {
            AUTO(json_decref) json_t *in = json_object();
            AUTO(json_decref) json_t *out = NULL;
            struct api_error error;
            struct api_field alone[2] = { *f, { .name = NULL } };
            json_object_set_new(in, f->name, json_loads(f->initial, JSON_DECODE_ANY, NULL));
            if (api_check_new(alone, in, &out, &error) < 0)
                fail_msg("%s: its default: %s", path, error.message);
            assert_true(json_equal(in, out));
        }
        check_fields(path, f->fields);
    }
}

/* Texts are JSON, in the table's order, whatever the object's is. */
static void shown_as_text(void **state)
{
    const struct api_field *fields = api_resource_find("vms")->fields;
    struct api_error error;
    AUTO(json_decref)
    json_t *vm = json_pack("{s:[{s:i, s:s}, {}], s:s, s:n, s:{}, s:{s:s}, s:s}", "disks", "iops", 7,
                           "path", "/a", "name", "x", "error", "now", "labels", "k",
                           "a \"b\"\n\\\x01 \xc3\xa4", "unknown", "u");
    AUTO(buf_fini) struct buf text = { 0 };
    assert_int_equal(api_show(fields, vm, NULL, &text, &error), 0);
    AUTO(json_decref) json_t *again = NULL;
    assert_int_equal(json_parse((const char *)text.data, text.len, &again, NULL), 0);
    json_object_del(vm, "unknown");
    assert_true(json_equal(vm, again));
    assert_true(strstr((const char *)text.data, "\"name\"") <
                strstr((const char *)text.data, "\"disks\""));
}

static void tables_are_sound(void **state)
{
    for (const struct api_resource *r = api_resources; r->name; r++) {
        check_fields(r->name, r->fields);
        assert_non_null(api_field_find(r->fields, "id"));
        assert_ptr_equal(api_resource_find(r->name), r);
        for (const struct api_action *a = r->actions; a && a->name; a++) {
            check_fields(a->name, a->args);
            check_fields(a->name, a->answer);
        }
    }
}

static int check(const char *resource, const char *text, json_t **out, struct api_error *error)
{
    AUTO(json_decref) json_t *in = json_loads(text, JSON_DECODE_ANY, NULL);
    memset(error, 0, sizeof *error);
    assert_non_null(in);
    return api_check_new(api_resource_find(resource)->fields, in, out, error);
}

static void bad_requests_name_the_field(void **state)
{
    static const struct {
        const char *body, *field, *message, *hint;
    } cases[] = {
        { "[]", "", "JSON object", "" },
        { "{}", "name", "required", "" },
        { "{\"name\": 5}", "name", "must be a string", "" },
        { "{\"name\": \"a/b\"}", "name", "letters, digits", "" },
        { "{\"name\": \"\"}", "name", "letters, digits", "" },
        { "{\"name\": \"x\", \"cpsu\": 2}", "cpsu", "no field", "did you mean 'cpus'?" },
        { "{\"name\": \"x\", \"cpus\": 0}", "cpus", "from 1 to 255", "" },
        { "{\"name\": \"x\", \"cpus\": 2.5}", "cpus", "whole number", "" },
        { "{\"name\": \"x\", \"memory\": \"lots\"}", "memory", "size like", "" },
        { "{\"name\": \"x\", \"memory\": \"1K\"}", "memory", "from 2 MiB", "" },
        { "{\"name\": \"x\", \"memory\": \"9000T\"}", "memory", "508 GiB", "" },
        { "{\"name\": \"x\", \"disks\": {}}", "disks", "list", "" },
        { "{\"name\": \"x\", \"disks\": [{}]}", "disks[0].path", "required", "" },
        { "{\"name\": \"x\", \"disks\": [{\"path\": \"/a\", \"bus\": \"scsi\"}]}", "disks[0].bus",
          "virtio, sata, ide or floppy", "" },
        { "{\"name\": \"x\", \"kernel\": \"etc/x\"}", "kernel", "absolute", "" },
        { "{\"name\": \"x\", \"kernel\": \"/etc/../x\"}", "kernel", "..", "" },
        { "{\"name\": \"x\", \"state\": \"running\"}", "state", "set by the server", "" },
        { "{\"name\": \"x\", \"nets\": [{\"backend\": \"user\", \"mac\": \"1\"}]}", "nets[0].mac",
          "MAC address", "" },
        { "{\"name\": \"x\", \"labels\": {\"a\": 1}}", "labels", "must be a string", "" },
        { "{\"name\": \"x\", \"cmdline\": \"a\\u0000b\"}", "cmdline", "NUL", "" },
        { "{\"name\": \"x\", \"cmdline\": \"a\\u0007b\"}", "cmdline", "control", "" },
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct api_error error;
        json_t *out = NULL, *in = json_loads(cases[i].body, JSON_ALLOW_NUL, NULL);
        memset(&error, 0, sizeof error);
        assert_non_null(in);
        if (api_check_new(api_resource_find("vms")->fields, in, &out, &error) == 0)
            fail_msg("%s was taken", cases[i].body);
        assert_null(out);
        assert_int_equal(error.status, 422);
        assert_string_equal(error.field, cases[i].field);
        assert_string_equal(error.hint, cases[i].hint);
        if (!strstr(error.message, cases[i].message))
            fail_msg("%s: %s", cases[i].body, error.message);
        AUTO(json_decref) json_t *json = api_error_json(&error);
        assert_non_null(json_object_get(json_object_get(json, "error"), "message"));
        json_decref(in);
    }
}

static void defaults_and_sizes(void **state)
{
    struct api_error error;
    AUTO(json_decref) json_t *vm = NULL;
    assert_int_equal(
        check("vms", "{\"name\": \"x\", \"memory\": \"2G\", \"cdrom\": null}", &vm, &error), 0);
    assert_int_equal(json_integer_value(json_object_get(vm, "memory")), 2ll << 30);
    assert_int_equal(json_integer_value(json_object_get(vm, "cpus")), 1);
    assert_int_equal(json_array_size(json_object_get(vm, "nets")), 1);
    assert_null(json_object_get(vm, "cdrom"));
}

static void patches(void **state)
{
    const struct api_field *fields = api_resource_find("vms")->fields;
    struct api_error error;
    bool live;
    AUTO(json_decref) json_t *old = NULL;
    assert_int_equal(
        check("vms", "{\"name\": \"x\", \"labels\": {\"a\": \"1\", \"b\": \"2\"}}", &old, &error),
        0);
    json_object_set_new(old, "state", json_string("running"));

    AUTO(json_decref)
    json_t *patch = json_loads("{\"labels\": {\"a\": null, \"c\": \"3\"}}", 0, NULL);
    AUTO(json_decref) json_t *new = NULL;
    assert_int_equal(api_check_patch(fields, old, patch, &new, &live, &error), 0);
    assert_true(live);
    AUTO(json_decref) json_t *labels = json_loads("{\"b\": \"2\", \"c\": \"3\"}", 0, NULL);
    assert_true(json_equal(json_object_get(new, "labels"), labels));
    assert_string_equal(json_string_value(json_object_get(new, "state")), "running");

    AUTO(json_decref) json_t *cpus = json_loads("{\"cpus\": 4}", 0, NULL);
    AUTO(json_decref) json_t *more = NULL;
    assert_int_equal(api_check_patch(fields, new, cpus, &more, &live, &error), 0);
    assert_false(live);

    static const char *const bad[] = { "{\"name\": null}", "{\"state\": \"stopped\"}",
                                       "{\"profile\": \"micro-1\"}", "{\"cpus\": \"x\"}", "3" };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        AUTO(json_decref) json_t *p = json_loads(bad[i], JSON_DECODE_ANY, NULL);
        json_t *out = NULL;
        assert_int_equal(api_check_patch(fields, old, p, &out, &live, &error), -1);
    }
}

static void secrets_stay(void **state)
{
    static const struct api_field inner[] = {
        { "user", API_STRING, 0, "an account", API_NAME },
        { "password", API_STRING, API_SECRET, "of it" },
        { .name = NULL },
    };
    static const struct api_field fields[] = {
        { "login", API_OBJECT, 0, "who", .fields = inner },
        { "logins", API_LIST, 0, "all", .element = API_OBJECT, .fields = inner },
        { .name = NULL },
    };
    struct api_error error;
    AUTO(json_decref)
    json_t *in = json_loads("{\"login\": {\"user\": \"u\", \"password\": \"geheim\"},"
                            " \"logins\": [{\"user\": \"v\", \"password\": \"geheim\"}]}",
                            0, NULL);
    AUTO(json_decref) json_t *object = NULL;
    assert_int_equal(api_check_new(fields, in, &object, &error), 0);
    AUTO(buf_fini) struct buf shown = { 0 };
    assert_int_equal(api_show(fields, object, NULL, &shown, &error), 0);
    const char *text = (const char *)shown.data;
    assert_null(strstr(text, "geheim"));
    assert_non_null(strstr(text, "\"user\":\"v\""));
}

static void selections(void **state)
{
    const struct api_field *fields = api_resource_find("vms")->fields;
    struct api_error error;
    AUTO(json_decref) json_t *vm = NULL;
    assert_int_equal(check("vms", "{\"name\": \"x\"}", &vm, &error), 0);
    AUTO(buf_fini) struct buf text = { 0 };
    assert_int_equal(api_show(fields, vm, "cpus,name", &text, &error), 0);
    assert_string_equal((const char *)text.data, "{\"name\":\"x\",\"cpus\":1}");
    assert_int_equal(api_show(fields, vm, "name,nonsense", &text, &error), -1);
    assert_int_equal(api_filter(fields, vm, "name", "x", &error), 1);
    assert_int_equal(api_filter(fields, vm, "name", "y", &error), 0);
    assert_int_equal(api_filter(fields, vm, "memory", "1", &error), -1);
    assert_non_null(strstr(error.hint, "name"));
}

static void documents(void **state)
{
    AUTO(json_decref) json_t *openapi = api_openapi("1");
    assert_non_null(openapi);
    const json_t *paths = json_object_get(openapi, "paths");
    assert_non_null(json_object_get(json_object_get(paths, "/v1/vms/{id}/start"), "post"));
    AUTO(buf_fini) struct buf page = { 0 };
    api_reference(&page);
    assert_true(page.len > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_sound),   cmocka_unit_test(bad_requests_name_the_field),
        cmocka_unit_test(defaults_and_sizes), cmocka_unit_test(patches),
        cmocka_unit_test(secrets_stay),       cmocka_unit_test(selections),
        cmocka_unit_test(shown_as_text),      cmocka_unit_test(documents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
