/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Users, tokens, roles, and the audit log. */
#include "api/digest.h"
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What users and tokens have in common. */
struct kind {
    const char *name;
    const char *const *columns;
};

static int create(struct cli *cli, const struct kind *kind, const struct command *command, int argc,
                  char **argv)
{
    AUTO(json_decref) json_t *object = json_object();
    AUTO(json_decref) json_t *answer = NULL;
    char path[40];
    snprintf(path, sizeof path, "/v1/%s", kind->name);
    int r = args_take(api_resource_find(kind->name)->fields, &argc, argv, object);
    if (r == CLI_OK)
        r = want_words(command, argc, 1, 1);
    if (r == CLI_OK)
        r = name_take(object, argv[0]);
    if (r != CLI_OK)
        return r;
    r = client_call(cli, "POST", path, json_incref(object), &answer);
    const char *token = json_string_value(json_object_get(answer, "token"));
    if (r == CLI_OK && cli->json)
        output_json(answer);
    else if (r == CLI_OK && token)
        puts(token);
    return r;
}

static int edit(struct cli *cli, const struct kind *kind, const struct command *command, int argc,
                char **argv)
{
    AUTO(json_decref) json_t *patch = json_object();
    int r = args_take(api_resource_find(kind->name)->fields, &argc, argv, patch);
    if (r == CLI_OK)
        r = want_words(command, argc, 1, 1);
    return r == CLI_OK ? ask(cli, "PATCH", kind->name, argv[0], NULL, json_incref(patch), NULL) : r;
}

static int drop(struct cli *cli, const struct kind *kind, const struct command *command, int argc,
                char **argv)
{
    int status = want_words(command, argc, 1, -1);
    for (int i = 0; status != CLI_USAGE && i < argc; i++) {
        int r = ask(cli, "DELETE", kind->name, argv[i], NULL, NULL, NULL);
        status = r == CLI_OK ? status : r;
    }
    return status;
}

static int kind_run(struct cli *cli, const struct kind *kind, const struct command *command,
                    int argc, char **argv)
{
    static const struct {
        const char *word;
        int (*run)(struct cli *cli, const struct kind *kind, const struct command *command,
                   int argc, char **argv);
        unsigned verb;
    } ways[] = { { "create", create, API_CAN_CREATE },
                 { "edit", edit, API_CAN_PATCH },
                 { "delete", drop, API_CAN_DELETE } };
    if (!argc || (argc == 1 && strcmp(argv[0], "list") == 0))
        return list(cli, kind->name, kind->columns);
    for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++)
        if (strcmp(ways[i].word, argv[0]) == 0 &&
            api_resource_find(kind->name)->verbs & ways[i].verb)
            return ways[i].run(cli, kind, command, argc - 1, argv + 1);
    return want_words(command, argc, 0, 0);
}

int do_user(struct cli *cli, const struct command *command, int argc, char **argv)
{
    static const char *const columns[] = { "name", "role", "certificate", "disabled", NULL };
    return kind_run(cli, &(struct kind){ "users", columns }, command, argc, argv);
}

int do_token(struct cli *cli, const struct command *command, int argc, char **argv)
{
    static const char *const columns[] = { "name", "user", "role", "vm", "expires", NULL };
    return kind_run(cli, &(struct kind){ "tokens", columns }, command, argc, argv);
}

/* ---- roles ---- */

static bool has(const json_t *list, const json_t *value)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_equal(json_array_get(list, i), value))
            return true;
    return false;
}

int do_role(struct cli *cli, const struct command *command, int argc, char **argv)
{
    AUTO(json_decref) json_t *page = NULL;
    if (argc > 1 || (argc && strcmp(argv[0], "list") != 0))
        return want_words(command, argc, 0, 0);
    int r = client_call(cli, "GET", "/v1/roles", NULL, &page);
    const json_t *roles = json_object_get(page, "items");
    if (r == CLI_OK && cli->json)
        output_json(roles);
    for (size_t i = 0; r == CLI_OK && !cli->json && i < json_array_size(roles); i++) {
        const json_t *role = json_array_get(roles, i),
                     *requests = json_object_get(role, "requests");
        const json_t *less = i ? json_object_get(json_array_get(roles, i - 1), "requests")
                               : NULL; /* it may these, too */
        printf("%s%s%s\n", json_string_value(json_object_get(role, "name")),
               less && !cli->quiet ? ", beside what the former may" : "", cli->quiet ? "" : ":");
        for (size_t j = 0; !cli->quiet && j < json_array_size(requests); j++)
            if (!has(less, json_array_get(requests, j)))
                printf("  %s\n", json_string_value(json_array_get(requests, j)));
    }
    return r;
}

/* ---- audit ---- */

/* One page behind *last; NULL: there is no more, or *status says why not. */
static json_t *page_next(struct cli *cli, unsigned long long last, int *status)
{
    char path[80];
    json_t *page = NULL;
    snprintf(path, sizeof path, "/v1/audit?limit=1000&after=%llu", last);
    *status = client_call(cli, "GET", path, NULL, &page);
    if (*status == CLI_OK && json_array_size(json_object_get(page, "items")))
        return page;
    json_decref(page);
    return NULL;
}

/* Paths are those who asked's, whoever that was. */
static void record_print(const json_t *record)
{
    const char *user = json_string_value(json_object_get(record, "user"));
    AUTO(free) char *asked = NULL;
    char when[TIME_TEXT];
    output_time(json_object_get(record, "time"), when);
    if (asprintf(&asked, "%s  %-12s %-15s %lld  %-6s %s", when, user && *user ? user : "-",
                 json_string_value(json_object_get(record, "via")),
                 (long long)json_integer_value(json_object_get(record, "status")),
                 json_string_value(json_object_get(record, "method")),
                 json_string_value(json_object_get(record, "path"))) < 0)
        abort(); /* out of memory */
    printf("%6s  ", json_string_value(json_object_get(record, "id")));
    output_plain(stdout, asked);
    puts("");
}

int do_audit(struct cli *cli, const struct command *command, int argc, char **argv)
{
    bool verify = argc == 1 && strcmp(argv[0], "verify") == 0;
    char before[DIGEST_TEXT] = "", hash[DIGEST_TEXT];
    unsigned long long last = 0;
    int status;
    if (argc && !verify)
        return want_words(command, argc, 0, 0);
    for (json_t *page; (page = page_next(cli, last, &status)); json_decref(page)) {
        size_t i;
        const json_t *record;
        json_array_foreach(json_object_get(page, "items"), i, record)
        {
            const char *id = json_string_value(json_object_get(record, "id"));
            const char *told = json_string_value(json_object_get(record, "hash"));
            audit_hash(before, record, hash);
            if (verify &&
                (!id || !told || strtoull(id, NULL, 10) != last + 1 || strcmp(told, hash) != 0)) {
                cli_say("record %llu is not the one that was written behind record %llu", last + 1,
                        last);
                json_decref(page);
                return CLI_FAILED;
            }
            strcpy(before, hash);
            last = strtoull(id ? id : "0", NULL, 10);
            if (!verify && cli->json) {
                json_dumpf(record, stdout, JSON_COMPACT);
                puts("");
            } else if (!verify) {
                record_print(record);
            }
        }
    }
    if (status == CLI_OK && verify)
        printf("%llu records, each as it was written; the last one's hash: %s\n", last,
               last ? before : "none");
    return status;
}
