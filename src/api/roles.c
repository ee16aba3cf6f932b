/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What each role may ask for, out of the tables. */
#include "api/api.h"

#include <string.h>

/* Room for a request's text. */
enum { REQUEST_TEXT = 160 };

static void request_add(json_t *list, bool may, const char *method, const char *resource,
                        const char *rest)
{
    if (may)
        json_array_append_new(list, json_sprintf("%s /v1/%s%s", method, resource, rest));
}

static json_t *requests_of(enum api_role role)
{
    json_t *list = json_array();
    char text[REQUEST_TEXT];
    for (const struct api_resource *r = api_resources; r->name; r++) {
        bool write = role >= r->write_role;
        request_add(list, r->verbs & API_CAN_LIST && role >= r->read_role, "GET", r->name, "");
        request_add(list, r->verbs & API_CAN_READ && role >= r->read_role, "GET", r->name, "/ID");
        request_add(list, r->verbs & API_CAN_CREATE && role >= r->create_role, "POST", r->name, "");
        request_add(list, r->verbs & API_CAN_PATCH && write, "PATCH", r->name, "/ID");
        request_add(list, r->verbs & API_CAN_DELETE && write, "DELETE", r->name, "/ID");
        for (const struct api_action *a = r->actions; a && a->name; a++) {
            snprintf(text, sizeof text, "/ID/%s", a->name);
            request_add(list, role >= a->role, "POST", r->name, text);
        }
    }
    for (const struct api_other *o = api_others; o->path; o++) {
        const char *id = strstr(o->path, "{id}");
        int head = id ? (int)(id - o->path) : (int)strlen(o->path);
        if (role >= o->role)
            json_array_append_new(list, json_sprintf("GET %.*s%s%s", head, o->path, id ? "ID" : "",
                                                     id ? id + strlen("{id}") : ""));
    }
    return list;
}

json_t *api_roles(void)
{
    json_t *roles = json_array();
    for (unsigned i = 0; api_role_names[i]; i++)
        json_array_append_new(roles, json_pack("{s:s, s:s, s:o}", "id", api_role_names[i], "name",
                                               api_role_names[i], "requests",
                                               requests_of((enum api_role)i)));
    return roles;
}
