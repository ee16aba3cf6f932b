/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bedplate: virtual machines from the command line.
 *
 *   bedplate create web --kernel /vmlinuz --memory 1G --disk /web.qcow2
 *   bedplate start web && bedplate console web
 *
 * Options of `create` and `edit` come out of the API's tables. Statuses: 0 done, 1 failed, 2 wrong
 * words, 3 there is no such object, 4 the daemon cannot be reached.
 */
#include "cli/guest.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct api_field *vm_fields(void) { return api_resource_find("vms")->fields; }

/* ---- helpers ---- */

int want_words(const struct command *command, int argc, int min, int max)
{
    if (argc >= min && (max < 0 || argc <= max))
        return CLI_OK;
    cli_say("usage: bedplate %s%s%s", command->name, *command->words ? " " : "", command->words);
    return CLI_USAGE;
}

/* The user's word may hold anything. */
char *path_of(const char *kind, const char *which, const char *action)
{
    char *word = curl_easy_escape(NULL, which, 0), *path = NULL;
    if (!word || !*which ||
        asprintf(&path, "/v1/%s/%s%s%s", kind, word, action ? "/" : "", action ? action : "") < 0)
        path = NULL;
    curl_free(word);
    if (!path)
        cli_say("a name is missing");
    return path;
}

static const struct api_field *action_args(const char *action)
{
    const struct api_action *a = api_action_find(api_resource_find("vms"), action);
    return a ? a->args : NULL;
}

int ask(struct cli *cli, const char *method, const char *kind, const char *which,
        const char *action, json_t *take_body, json_t **out)
{
    AUTO(free) char *path = path_of(kind, which, action);
    if (!path) {
        json_decref(take_body);
        return CLI_USAGE;
    }
    return client_call(cli, method, path, take_body, out);
}

int name_take(json_t *object, const char *word)
{
    if (json_object_get(object, "name")) {
        cli_say("--name: '%s' is the name already", word);
        return CLI_USAGE;
    }
    json_object_set_new(object, "name", json_string(word));
    return CLI_OK;
}

/* ---- commands ---- */

static int act(struct cli *cli, const struct command *command, const json_t *args, int argc,
               char **argv)
{
    int status = want_words(command, argc, 1, -1);
    for (int i = 0; status != CLI_USAGE && i < argc; i++) {
        AUTO(json_decref) json_t *answer = NULL;
        int r = ask(cli, "POST", "vms", argv[i], command->action, json_deep_copy(args), &answer);
        if (r == CLI_OK && cli->json)
            output_json(answer ? answer : json_null());
        if (r == CLI_OK)
            r = client_job(cli, answer);
        if (r != CLI_OK)
            status = r;
    }
    return status;
}

static int do_action(struct cli *cli, const struct command *command, int argc, char **argv)
{
    static const struct api_field none[] = { { .name = NULL } };
    const struct api_field *args = action_args(command->action);
    AUTO(json_decref) json_t *body = json_object();
    int r = args_take(args ? args : none, &argc, argv, body);
    return r == CLI_OK ? act(cli, command, body, argc, argv) : r;
}

static int do_stop(struct cli *cli, const struct command *command, int argc, char **argv)
{
    const struct api_field *args = action_args(command->action);
    AUTO(json_decref) json_t *body = json_object();
    AUTO(json_decref) json_t *own = json_object();
    int r = args_take_own(args, body, command->options, own, &argc, argv);
    if (r != CLI_OK || !json_is_true(json_object_get(own, "all")))
        return r == CLI_OK ? act(cli, command, body, argc, argv) : r;
    if (argc) {
        cli_say("--all takes no names of VMs");
        return CLI_USAGE;
    }
    if (!json_object_get(body, "timeout"))
        json_object_set_new(body, "timeout",
                            json_integer(atoi(api_field_find(args, "timeout")->initial)));
    return stop_all(cli, body);
}

/* What the daemon leaves out of a dry run. */
static void output_planned(json_t *vm)
{
    static const char later[] = "chosen at creation";
    const json_t *nets = json_object_get(vm, "nets");
    json_object_set_new(vm, "id", json_string(later));
    for (size_t i = 0; i < json_array_size(nets); i++)
        if (!json_object_get(json_array_get(nets, i), "mac"))
            json_object_set_new(json_array_get(nets, i), "mac", json_string(later));
    output_object(vm_fields(), vm);
}

static int do_create(struct cli *cli, const struct command *command, int argc, char **argv)
{
    AUTO(json_decref) json_t *vm = json_object();
    AUTO(json_decref) json_t *own = json_object();
    AUTO(json_decref) json_t *answer = NULL;
    int r = args_take_own(vm_fields(), vm, command->options, own, &argc, argv);
    if (r == CLI_OK)
        r = want_words(command, argc, 1, 1);
    if (r == CLI_OK)
        r = name_take(vm, argv[0]);
    if (r != CLI_OK)
        return r;
    bool dry = json_is_true(json_object_get(own, "dry_run"));
    r = client_call(cli, "POST", dry ? "/v1/vms?dry_run=true" : "/v1/vms", json_incref(vm),
                    &answer);
    if (r == CLI_OK && cli->json)
        output_json(answer);
    else if (r == CLI_OK && dry)
        output_planned(answer);
    return r == CLI_OK && !dry ? client_job(cli, answer) : r;
}

static int do_clone(struct cli *cli, const struct command *command, int argc, char **argv)
{
    AUTO(json_decref) json_t *args = json_object();
    AUTO(json_decref) json_t *answer = NULL;
    int r = args_take(command_fields(command), &argc, argv, args);
    if (r == CLI_OK)
        r = want_words(command, argc, 2, 2);
    if (r == CLI_OK)
        r = name_take(args, argv[1]);
    if (r != CLI_OK)
        return r;
    r = ask(cli, "POST", "vms", argv[0], "clone", json_incref(args), &answer);
    if (r == CLI_OK && cli->json)
        output_json(answer);
    return r == CLI_OK ? client_job(cli, answer) : r;
}

static int do_template(struct cli *cli, const struct command *command, int argc, char **argv)
{
    int status = want_words(command, argc, 1, -1);
    for (int i = 0; status != CLI_USAGE && i < argc; i++) {
        int r = ask(cli, "PATCH", "vms", argv[i], NULL, json_pack("{s:b}", "template", 1), NULL);
        status = r == CLI_OK ? status : r;
    }
    return status;
}

static int do_rename(struct cli *cli, const struct command *command, int argc, char **argv)
{
    int r = want_words(command, argc, 2, 2);
    return r == CLI_OK
               ? ask(cli, "PATCH", "vms", argv[0], NULL, json_pack("{s:s}", "name", argv[1]), NULL)
               : r;
}

static int do_delete(struct cli *cli, const struct command *command, int argc, char **argv)
{
    int status = want_words(command, argc, 1, -1);
    for (int i = 0; status != CLI_USAGE && i < argc; i++) {
        AUTO(json_decref) json_t *answer = NULL;
        int r = ask(cli, "DELETE", "vms", argv[i], NULL, NULL, &answer);
        if (r == CLI_OK)
            r = client_job(cli, answer);
        if (r != CLI_OK)
            status = r;
    }
    return status;
}

static void query_add(struct buf *query, const char *name, const char *value)
{
    char *word = curl_easy_escape(NULL, value, 0);
    buf_printf(query, "&%s=%s", name, word ? word : "");
    curl_free(word);
}

int list_fetch(struct cli *cli, const char *kind, const json_t *filters, json_t **out)
{
    AUTO(json_decref) json_t *all = json_array();
    AUTO(free) char *after = NULL;
    for (;;) {
        AUTO(json_decref) json_t *page = NULL;
        AUTO(buf_fini) struct buf path = { 0 };
        const char *key;
        json_t *value;
        buf_printf(&path, "/v1/%s?limit=1000", kind);
        json_object_foreach((json_t *)filters, key, value)
            query_add(&path, key, json_string_value(value));
        if (after)
            query_add(&path, "after", after);
        buf_add(&path, "", 1);
        int r = client_call(cli, "GET", (const char *)path.data, NULL, &page);
        if (r != CLI_OK)
            return r;
        json_array_extend(all, json_object_get(page, "items"));
        const char *next = json_string_value(json_object_get(page, "next"));
        if (!next)
            break;
        free(after);
        after = strdup(next);
    }
    *out = TAKE(all);
    return CLI_OK;
}

static int list_filtered(struct cli *cli, const char *kind, const char *const *columns,
                         const json_t *filters)
{
    AUTO(json_decref) json_t *all = NULL;
    int r = list_fetch(cli, kind, filters, &all);
    if (r != CLI_OK)
        return r;
    if (cli->json)
        output_json(all);
    else if (cli->quiet)
        for (size_t i = 0; i < json_array_size(all); i++)
            puts(json_string_value(json_object_get(json_array_get(all, i), columns[0])));
    else
        output_table(all, columns);
    return CLI_OK;
}

int list(struct cli *cli, const char *kind, const char *const *columns)
{
    return list_filtered(cli, kind, columns, NULL);
}

static int do_list(struct cli *cli, const struct command *command, int argc, char **argv)
{
    static const char *const columns[] = { "name",           "state", "cpus", "memory",
                                           "running_engine", "pid",   NULL };
    AUTO(json_decref) json_t *filters = json_object();
    int r = args_take(command->options, &argc, argv, filters);
    if (r == CLI_OK)
        r = want_words(command, argc, 0, 0);
    return r == CLI_OK ? list_filtered(cli, "vms", columns, filters) : r;
}

static int do_info(struct cli *cli, const struct command *command, int argc, char **argv)
{
    int status = want_words(command, argc, 1, -1);
    for (int i = 0; status != CLI_USAGE && i < argc; i++) {
        AUTO(json_decref) json_t *vm = NULL;
        int r = ask(cli, "GET", "vms", argv[i], NULL, NULL, &vm);
        if (r == CLI_OK && cli->json)
            output_json(vm);
        else if (r == CLI_OK)
            output_object(vm_fields(), vm);
        if (r == CLI_OK && i + 1 < argc)
            puts("");
        status = r == CLI_OK ? status : r;
    }
    return status;
}

static int do_balloon(struct cli *cli, const struct command *command, int argc, char **argv)
{
    AUTO(json_decref) json_t *body = json_object();
    AUTO(json_decref) json_t *answer = NULL;
    const struct api_action *action = api_action_find(api_resource_find("vms"), "balloon");
    int r = args_take(action->args, &argc, argv, body);
    if (r == CLI_OK)
        r = want_words(command, argc, 1, 1);
    if (r == CLI_OK)
        r = ask(cli, "POST", "vms", argv[0], "balloon", TAKE(body), &answer);
    if (r == CLI_OK && cli->json)
        output_json(answer);
    else if (r == CLI_OK)
        output_object(action->answer, answer);
    return r;
}

static int do_logs(struct cli *cli, const struct command *command, int argc, char **argv)
{
    AUTO(json_decref) json_t *answer = NULL;
    AUTO(buf_fini) struct buf text = { 0 };
    bool follow = argc && (strcmp(argv[0], "--follow") == 0 || strcmp(argv[0], "-f") == 0);
    argc -= follow;
    argv += follow;
    int r = want_words(command, argc, 1, 1);
    if (r == CLI_OK && follow)
        return console_follow(cli, argv[0]);
    if (r == CLI_OK)
        r = ask(cli, "POST", "vms", argv[0], "log", NULL, &answer);
    if (r == CLI_OK && cli->json) {
        output_json(answer);
        return r;
    }
    const char *data = json_string_value(json_object_get(answer, "data"));
    if (r == CLI_OK && (!data || base64_parse(data, strlen(data), &text) < 0)) {
        cli_say("the daemon's answer is not base64");
        r = CLI_FAILED;
    }
    if (r == CLI_OK)
        fwrite(text.data, 1, text.len, stdout);
    return r;
}

static int file_make(const char *path, const struct buf *data)
{
    AUTO(fd_close) int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd >= 0 && write_full(fd, data->data, data->len) == 0)
        return CLI_OK;
    cli_say("cannot write %s: %s", path, strerror(errno));
    return CLI_FAILED;
}

/* The text on it, or a picture for a file. */
static int do_screenshot(struct cli *cli, const struct command *command, int argc, char **argv)
{
    AUTO(json_decref) json_t *answer = NULL;
    AUTO(buf_fini) struct buf picture = { 0 };
    int r = want_words(command, argc, 1, 2);
    const char *format = argc == 2 ? "png" : "text";
    if (r == CLI_OK)
        r = ask(cli, "POST", "vms", argv[0], "screenshot", json_pack("{s:s}", "format", format),
                &answer);
    if (r == CLI_OK && argc == 2)
        r = guest_output(answer, "png", &picture);
    if (r == CLI_OK && argc == 2)
        r = file_make(argv[1], &picture);
    else if (r == CLI_OK && cli->json)
        output_json(answer);
    else if (r == CLI_OK)
        fputs(json_string_value(json_object_get(answer, "text")), stdout);
    return r;
}

static void event_print(struct cli *cli, const json_t *event)
{
    AUTO(free)
    char *detail = json_object_get(event, "detail")
                       ? json_dumps(json_object_get(event, "detail"), JSON_COMPACT)
                       : NULL;
    char when[TIME_TEXT];
    if (cli->json) {
        json_dumpf(event, stdout, JSON_COMPACT);
        puts("");
        return;
    }
    output_time(json_object_get(event, "time"), when);
    printf("%s  %-18s %s%s", when, json_string_value(json_object_get(event, "kind")),
           json_string_value(json_object_get(event, "name")), detail ? " " : "");
    output_plain(stdout, detail ? detail : ""); /* reasons have a guest's words */
    puts("");
}

static int do_events(struct cli *cli, const struct command *command, int argc, char **argv)
{
    AUTO(json_decref) json_t *own = json_object();
    unsigned long long last = 0;
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "-f") == 0)
            argv[i] = (char *)"--follow";
    int r = args_take(command->options, &argc, argv, own);
    if (r == CLI_OK)
        r = want_words(command, argc, 0, 1);
    const char *kind = json_string_value(json_object_get(own, "kind"));
    bool follow = json_is_true(json_object_get(own, "follow"));
    AUTO(json_decref) json_t *vm = NULL;
    if (r == CLI_OK && argc)
        r = ask(cli, "GET", "vms", argv[0], NULL, NULL, &vm);
    while (r == CLI_OK) {
        AUTO(json_decref) json_t *page = NULL;
        AUTO(buf_fini) struct buf path = { 0 };
        buf_printf(&path, "/v1/events?limit=1000&after=%llu", last);
        if (kind)
            query_add(&path, "kind", kind);
        if (vm)
            buf_printf(&path, "&object=vms/%s", json_string_value(json_object_get(vm, "id")));
        buf_add(&path, "", 1);
        r = client_call(cli, "GET", (const char *)path.data, NULL, &page);
        const json_t *items = json_object_get(page, "items");
        for (size_t i = 0; i < json_array_size(items); i++) {
            const json_t *event = json_array_get(items, i);
            last = strtoull(json_string_value(json_object_get(event, "id")), NULL, 10);
            event_print(cli, event);
        }
        fflush(stdout);
        if (!follow)
            break;
        poll(NULL, 0, 500);
    }
    return r;
}

static int do_job(struct cli *cli, const struct command *command, int argc, char **argv)
{
    static const char *const columns[] = { "id",   "kind",    "name",  "state",
                                           "user", "created", "ended", NULL };
    AUTO(json_decref) json_t *job = NULL;
    bool cancel = argc == 2 && strcmp(argv[0], "cancel") == 0;
    bool info = argc == 2 && strcmp(argv[0], "info") == 0;
    int r = cancel || info ? CLI_OK : want_words(command, argc, 0, 0);
    if (cancel)
        return ask(cli, "POST", "jobs", argv[1], "cancel", NULL, NULL);
    if (r != CLI_OK || !info)
        return r == CLI_OK ? list(cli, "jobs", columns) : r;
    r = ask(cli, "GET", "jobs", argv[1], NULL, NULL, &job);
    if (r == CLI_OK && cli->json)
        output_json(job);
    else if (r == CLI_OK)
        output_object(api_resource_find("jobs")->fields, job);
    return r;
}

static int do_host(struct cli *cli, const struct command *command, int argc, char **argv)
{
    AUTO(json_decref) json_t *page = NULL;
    bool backup = argc == 2 && strcmp(argv[0], "backup") == 0;
    int r = backup ? CLI_OK : want_words(command, argc, 0, 0);
    if (r == CLI_OK)
        r = client_call(cli, "GET", "/v1/hosts", NULL, &page);
    const json_t *host = json_array_get(json_object_get(page, "items"), 0);
    if (r == CLI_OK && backup)
        return ask(cli, "POST", "hosts", json_string_value(json_object_get(host, "id")), "backup",
                   json_pack("{s:o}", "path", args_path(argv[1])), NULL);
    if (r == CLI_OK && cli->json)
        output_json(host);
    else if (r == CLI_OK)
        output_object(api_resource_find("hosts")->fields, host);
    return r;
}

static int do_version(struct cli *cli, const struct command *command, int argc, char **argv)
{
    int r = want_words(command, argc, 0, 0);
    if (r == CLI_OK)
        printf("bedplate %s\n", BEDPLATE_VERSION);
    return r;
}

/* clang-format off */
#define END { .name = NULL }
#define WORDS(...) (const char *const[]){ __VA_ARGS__, NULL }
static const struct api_field create_options[] = {
    { "dry_run", API_BOOLEAN, 0, "only show what would be made" },
    END
};
static const struct api_field list_options[] = {
    { "state", API_STRING, 0, "only VMs that are so", API_ENUM,
      .choices = WORDS("stopped", "starting", "running", "paused", "stopping", "saving", "saved", "failed", "creating", "deleting") },
    { "owner", API_STRING, 0, "only this user's" },
    END
};
static const struct api_field exec_options[] = {
    { "stdin", API_BOOLEAN, 0, "pass standard input on" },
    { "timeout", API_INTEGER, 0, "seconds to wait for its end, a day at most; then the status is 124, and it goes on" },
    END
};
static const struct api_field cp_options[] = {
    { "recursive", API_BOOLEAN, 0, "folders, too (-r): files, folders and symbolic links; whole or not at all, as a new folder: into one that is there nothing is merged" },
    END
};
static const struct api_field events_options[] = {
    { "follow", API_BOOLEAN, 0, "go on with what happens from now on" },
    { "kind", API_STRING, 0, "only these: \"vm.started\"" },
    END
};
const struct api_field global_fields[] = {
    { "json", API_BOOLEAN, 0, "answers as they are" },
    { "quiet", API_BOOLEAN, 0, "only names and errors" },
    { "no_wait", API_BOOLEAN, 0, "do not wait for jobs" },
    { "user", API_BOOLEAN, 0, "your own daemon, also where the host has one" },
    { "socket", API_STRING, 0, "of the daemon", API_PATH },
    { "url", API_STRING, 0, "of a daemon elsewhere, https://HOST:PORT" },
    END
};
const struct command commands[] = {
    { "run", "IMAGE|NAME [OPTIONS]", "create a VM, start it, and attach to its console", do_run, NULL, "vms", NULL, "images" },
    { "create", "NAME [OPTIONS]", "define a VM", do_create, NULL, "vms", create_options, NULL },
    { "start", "VM...", "start VMs, or let paused ones go on", do_action, "start", NULL, NULL, "vms" },
    { "stop", "[--timeout S] VM... | --all", "ask guests to shut down; kill those that do not in time", do_stop, "stop", NULL, stop_options, "vms" },
    { "restart", "[--timeout S] VM...", "stop, then start", do_action, "restart", NULL, NULL, "vms" },
    { "reset", "VM...", "press the reset button", do_action, "reset", NULL, NULL, "vms" },
    { "pause", "VM...", "let VMs stand still", do_action, "pause", NULL, NULL, "vms" },
    { "resume", "VM...", "go on after a pause", do_action, "resume", NULL, NULL, "vms" },
    { "clone", "VM NAME [--linked]", "make another VM like it, with disks of its own", do_clone, "clone", NULL, NULL, "vms" },
    { "template", "VM...", "let VMs never run, so that linked clones can be made of them", do_template, NULL, NULL, NULL, "vms" },
    { "save", "VM...", "write VMs' state to the disk and end them", do_action, "save", NULL, NULL, "vms" },
    { "restore", "VM...", "go on from the saved state", do_action, "restore", NULL, NULL, "vms" },
    { "kill", "VM...", "end VMs at once, as pulling the plug would; throw saved states away", do_action, "kill", NULL, NULL, "vms" },
    { "delete", "VM...", "forget stopped VMs; their disk files stay", do_delete, NULL, NULL, NULL, "vms" },
    { "list", "[--state S]", "all VMs", do_list, NULL, NULL, list_options, NULL },
    { "info", "VM...", "everything about a VM", do_info, NULL, NULL, NULL, "vms" },
    { "edit", "VM [OPTIONS]", "change a VM; without options in your $EDITOR", do_edit, NULL, "vms", NULL, "vms" },
    { "rename", "VM NAME", "give a VM another name", do_rename, NULL, NULL, NULL, "vms" },
    { "console", "VM", "attach to the serial console; Ctrl-A D detaches", do_console, NULL, NULL, NULL, "vms" },
    { "logs", "[--follow] VM", "what the serial console last said, also of a VM that ended", do_logs, NULL, NULL, NULL, "vms" },
    { "balloon", "VM [--target SIZE]", "how a guest fares with its memory; asks it to do with less", do_balloon, NULL, NULL, NULL, "vms" },
    { "ssh", "VM [COMMAND...]", "log in to a VM that forwards a port to its port 22", do_ssh, NULL, NULL, NULL, "vms" },
    { "exec", "[--stdin] [--timeout S] VM -- COMMAND...", "run a command in a guest (guest agent); the status is its, or 125", do_exec, NULL,
      NULL, exec_options, "vms" },
    { "cp", "[-r] FILE... VM:PATH | [-r] VM:FILE... PATH", "copy files into or out of a guest (guest agent), with their permissions", do_cp,
      NULL, NULL, cp_options, "vms" },
    { "image", "[create NAME --source S | info NAME | delete NAME...]", "disks that VMs begin with", do_image, NULL, "images", NULL, "images" },
    { "disk", "[create NAME --size S | convert NAME NEW | info NAME | resize NAME SIZE | check NAME | snapshot NAME WORD | revert NAME WORD | "
      "delete-snapshot NAME WORD | delete NAME...]", "disks that the daemon keeps, for VMs as disk:NAME; on files (with a slash): bedplate-img",
      do_disk, NULL, NULL, disk_options, "disks" },
    { "screenshot", "VM [FILE]", "the text on a VM's screen, or the screen as a picture (PNG) in a file", do_screenshot, NULL, NULL, NULL, "vms" },
    { "events", "[--follow] [VM]", "what happened", do_events, NULL, NULL, events_options, "vms" },
    { "job", "[info ID | cancel ID]", "long work and what became of it", do_job, NULL, NULL, NULL, "jobs" },
    { "user", "[create NAME --role R | edit NAME ... | delete NAME...]", "who may use the API from elsewhere", do_user, NULL, "users", NULL, "users" },
    { "role", "[list]", "what the roles of users and tokens may", do_role, NULL, NULL, NULL, NULL },
    { "token", "[create NAME --user U | delete NAME...]", "bearer tokens; create prints the secret, once", do_token, NULL, "tokens", NULL, "tokens" },
    { "doctor", "", "what this host has for VMs, and what to do about what it has not", do_doctor, NULL, NULL, NULL, NULL },
    { "audit", "[verify]", "who asked for what; verify finds what was changed or taken out", do_audit, NULL, NULL, NULL, NULL },
    { "top", "[--delay S] [--once]", "what running VMs use", do_top, NULL, NULL, top_options, NULL },
    { "host", "[backup FILE]", "this host; backup copies the daemon's store while it is in use", do_host, NULL, NULL, NULL, NULL },
    { "completion", "bash|zsh|fish", "print what makes your shell complete bedplate's words", do_completion, NULL, NULL, NULL, NULL },
    { "version", "", "print the version", do_version, NULL, NULL, NULL, NULL },
    { .name = NULL },
};
/* clang-format on */
enum { WORDS_WIDTH = 22 };

static void help(void)
{
    printf("usage: bedplate [--json] [--quiet] [--no-wait] [--user | --socket PATH | "
           "--url https://HOST:PORT] COMMAND ...\n\n");
    for (unsigned i = 0; commands[i].name; i++) {
        const struct command *c = &commands[i];
        bool short_words = strlen(c->words) <= WORDS_WIDTH;
        printf("  %-12s %-*s %s\n", c->name, WORDS_WIDTH, short_words ? c->words : "...", c->about);
    }
    printf("\nVMs are named by name, id, or the beginning of either. bedplate COMMAND --help tells "
           "more.\n");
}

const struct api_field *command_fields(const struct command *command)
{
    return command->action   ? action_args(command->action)
           : command->fields ? api_resource_find(command->fields)->fields
                             : NULL;
}

const char *command_named(const struct command *command)
{
    return strstr(command->words, "NAME") && command->run != do_run ? "name" : NULL;
}

static void command_help(const struct command *command)
{
    printf("usage: bedplate %s%s%s\n\n%s\n", command->name, *command->words ? " " : "",
           command->words, command->about);
    if (command->run == do_run)
        printf("%s", run_help);
    if (command->options || command_fields(command))
        puts("");
    args_help(command->options, NULL);
    args_help(command_fields(command), command_named(command));
}

/* The options that stand before the command. */
static int global_options(struct cli *cli, int argc, char **argv, int *at)
{
    for (*at = 1; *at < argc && argv[*at][0] == '-'; ++*at) {
        const char *word = argv[*at];
        if (strcmp(word, "--json") == 0)
            cli->json = true;
        else if (strcmp(word, "--quiet") == 0 || strcmp(word, "-q") == 0)
            cli->quiet = true;
        else if (strcmp(word, "--no-wait") == 0)
            cli->wait = false;
        else if (strcmp(word, "--socket") == 0 && *at + 1 < argc)
            cli->socket = argv[++*at];
        else if (strcmp(word, "--url") == 0 && *at + 1 < argc)
            cli->url = argv[++*at];
        else if (strcmp(word, "--user") == 0)
            cli->own = true;
        else if (strcmp(word, "--only-running") == 0) /* for completion */
            cli->only_running = true;
        else if (strcmp(word, "--help-man") == 0)
            return -2;
        else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
            return -1;
        else if (strcmp(word, "--socket") == 0 || strcmp(word, "--url") == 0) {
            cli_say("%s needs a value", word);
            return CLI_USAGE;
        } else {
            cli_say("unknown option '%s'; bedplate --help lists all", word);
            return CLI_USAGE;
        }
    }
    return CLI_OK;
}

/* --json and --help may stand behind the command, too, but for what is behind "--". True: help. */
static bool late_options(struct cli *cli, int *argc, char **argv)
{
    int left = 0;
    bool help = false, ours = true;
    for (int i = 0; i < *argc; i++) {
        ours &= strcmp(argv[i], "--") != 0;
        help |= ours && strcmp(argv[i], "--help") == 0;
        if (ours && strcmp(argv[i], "--json") == 0)
            cli->json = true;
        else
            argv[left++] = argv[i];
    }
    *argc = left;
    return help;
}

int main(int argc, char **argv)
{
    struct cli cli = { .wait = true, .tty = isatty(STDERR_FILENO) };
    int at, r = global_options(&cli, argc, argv, &at);
    if (r > 0)
        return r;
    if (r == -2) {
        document_man();
        return CLI_OK;
    }
    if (r < 0 || at == argc) {
        help();
        return r < 0 ? CLI_OK : CLI_USAGE;
    }
    for (unsigned i = 0; commands[i].name; i++) {
        if (strcmp(commands[i].name, argv[at]) != 0)
            continue;
        int count = argc - at - 1;
        if (late_options(&cli, &count, argv + at + 1)) {
            command_help(&commands[i]);
            return CLI_OK;
        }
        curl_global_init(CURL_GLOBAL_DEFAULT);
        return commands[i].run(&cli, &commands[i], count, argv + at + 1);
    }
    cli_say("there is no command '%s'; bedplate --help lists all", argv[at]);
    return CLI_USAGE;
}
