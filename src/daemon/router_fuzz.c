/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests to every path of the API's table with every method that it has there, through
 * identities, roles, validation and the handlers behind them.
 *
 * An input has lines: letters that say who asks and how the world is, and perhaps a number, for
 * only one of the paths (which is over sooner); a query; the name of an object; a value for
 * headers; all the rest is a body. Each is tried on an object that is there and on that of the
 * input's name, deletions last. Every request must be answered once, a refusal with its reason, and
 * no answer may be the daemon's own fault (500).
 */
#include "daemon/router_rig.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { LINES = 4, LINE_MAX_BYTES = 200, PATH_ROOM = 512, TOKEN_ROOM = 160 };

struct input {
    char lines[LINES][LINE_MAX_BYTES]; /* who and how; query; name; headers */
    const uint8_t *body;
    size_t len;
};

static void input_split(struct input *in, const uint8_t *data, size_t len)
{
    *in = (struct input){ 0 };
    for (unsigned i = 0; i < LINES; i++) {
        const uint8_t *end = len ? memchr(data, '\n', len) : NULL;
        size_t n = end ? (size_t)(end - data) : len, keep = 0;
        for (size_t j = 0; j < n && keep + 1 < LINE_MAX_BYTES; j++)
            if (data[j]) /* what libmicrohttpd hands on are strings */
                in->lines[i][keep++] = (char)data[j];
        data += end ? n + 1 : n;
        len -= end ? n + 1 : n;
    }
    in->body = data;
    in->len = len;
}

static bool has(const struct input *in, char letter) { return strchr(in->lines[0], letter); }

/* ---- what is there ---- */

struct scene {
    struct daemon daemon;
    char token[TOKEN_ROOM]; /* of who asks; "": the daemon's own user */
    char token_id[40];
    char host[256];
};

static void make(struct scene *scene, const char *path, const char *body)
{
    const struct rig_ask ask = {
        .method = "POST", .path = path, .body = body, .len = strlen(body)
    };
    AUTO(json_decref) json_t *answer = NULL;
    unsigned status = rig_request(&scene->daemon, &ask, &answer);
    assert(status < 300);
    const char *token = json_string_value(json_object_get(answer, "token"));
    if (!token)
        return;
    snprintf(scene->token, sizeof scene->token, "%s", token);
    snprintf(scene->token_id, sizeof scene->token_id, "%s",
             json_string_value(json_object_get(answer, "id")));
}

static void scene_make(struct scene *scene, const struct input *in)
{
    gethostname(scene->host, sizeof scene->host - 1);
    make(scene, "/v1/vms", "{\"name\":\"thing\",\"memory\":33554432,\"disks\":[]}");
    make(scene, "/v1/disks", "{\"name\":\"thing\",\"size\":1048576}");
    make(scene, "/v1/images", "{\"name\":\"thing\",\"source\":\"/nonexistent\"}");
    make(scene, "/v1/users",
         "{\"name\":\"thing\",\"role\":\"admin\",\"password\":\"correct horse\"}");
    rig_settle(&scene->daemon);
    make(scene, "/v1/tokens",
         has(in, 'o')   ? "{\"user\":\"thing\",\"role\":\"operator\"}"
         : has(in, 'v') ? "{\"user\":\"thing\",\"role\":\"viewer\"}"
         : has(in, 'l') ? "{\"user\":\"thing\",\"vm\":\"thing\"}"
                        : "{\"user\":\"thing\"}");
    if (has(in, 'n'))
        strcpy(scene->token, "bedplate_nobody's");
    else if (!has(in, 'o') && !has(in, 'v') && !has(in, 'l'))
        scene->token[0] = 0;
    rig_world = (struct rig_world){ .programs_fail = has(in, 'p'), .store_fails = has(in, 's') };
}

static const char *object_of(const struct scene *scene, const char *path)
{
    return strncmp(path, "/v1/jobs", 8) == 0      ? "1"
           : strncmp(path, "/v1/tokens", 10) == 0 ? scene->token_id
           : strncmp(path, "/v1/hosts", 9) == 0   ? scene->host
                                                  : "thing";
}

/* ---- the walk ---- */

static void try(struct scene *scene, const struct input *in, const char *method, const char *path,
                const char *object)
{
    const char *braces = strstr(path, "{id}");
    char whole[PATH_ROOM], query[LINE_MAX_BYTES], upper[8] = "";
    if (braces)
        snprintf(whole, sizeof whole, "%.*s%.200s%s", (int)(braces - path), path, object,
                 braces + strlen("{id}"));
    else
        snprintf(whole, sizeof whole, "%s", path);
    for (unsigned i = 0; method[i]; i++)
        upper[i] = (char)(method[i] - 'a' + 'A');
    strcpy(query, in->lines[1]);
    const char *header = in->lines[3][0] ? in->lines[3] : NULL;
    const struct rig_ask ask = {
        .method = upper,
        .path = whole,
        .query = query,
        .precondition = header,
        .key = has(in, 'k') ? header : NULL,
        .token = scene->token[0] ? scene->token : NULL,
        .upgrade_key = has(in, 'w') ? header ? header : "dGhlIHNhbXBsZSBub25jZQ==" : NULL,
        .body = in->body,
        .len = in->len,
    };
    AUTO(json_decref) json_t *answer = NULL;
    unsigned status = rig_request(&scene->daemon, &ask, &answer);
    if (status == 500)
        fprintf(stderr, "%s %s: %s\n", upper, whole, json_print(answer));
    assert(status != 500 || rig_world.store_fails);
}

static void walk_path(struct scene *scene, const struct input *in, const char *path,
                      const json_t *item, bool deleting)
{
    const char *method;
    const json_t *operation;
    json_object_foreach((json_t *)item, method, operation)
    {
        if ((strcmp(method, "delete") == 0) != deleting)
            continue;
        try(scene, in, method, path, object_of(scene, path));
        if (strstr(path, "{id}") && in->lines[2][0])
            try(scene, in, method, path, in->lines[2]);
    }
}

static void walk(struct scene *scene, const struct input *in, const json_t *paths, bool deleting)
{
    const char *path, *digits = strpbrk(in->lines[0], "0123456789");
    const json_t *item;
    size_t only = digits ? strtoul(digits, NULL, 10) % json_object_size(paths) : 0, number = 0;
    json_object_foreach((json_t *)paths, path, item)
    {
        if (!digits || number == only)
            walk_path(scene, in, path, item, deleting);
        number++;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static json_t *document;
    static struct scene scene;
    struct input in;
    char dir[64];
    if (!document)
        document = api_openapi("0");
    const json_t *paths = json_object_get(document, "paths");
    assert(json_object_size(paths) > 40);
    input_split(&in, data, len);
    snprintf(dir, sizeof dir, "%s/router-fuzz-%d", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm",
             (int)getpid());
    rig_begin(&scene.daemon, dir);
    scene_make(&scene, &in);
    walk(&scene, &in, paths, false);
    for (const struct api_other *o = api_others; o->path; o++)
        if (!o->type) /* WebSockets, which the document has not */
            try(&scene, &in, "get", o->path, "thing");
    rig_settle(&scene.daemon);
    walk(&scene, &in, paths, true);
    rig_end(&scene.daemon);
    rmdir(dir);
    return 0;
}
