/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bedplate edit: changes by options, or in an editor as JSON. */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EDITED_MAX = 1 << 20 };

static const struct api_field *vm_fields(void) { return api_resource_find("vms")->fields; }

/* What a client may change, as the VM has it. */
static json_t *editable(const json_t *vm)
{
    json_t *out = json_object();
    for (const struct api_field *f = vm_fields(); f->name; f++) {
        json_t *value = json_object_get(vm, f->name);
        if (value && !(f->flags & (API_SERVER | API_FIXED)))
            json_object_set(out, f->name, value);
    }
    return out;
}

static int editor_run(const char *path)
{
    const char *editor = getenv("VISUAL");
    if (!editor || !*editor)
        editor = getenv("EDITOR");
    if (!editor || !*editor)
        editor = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) ? "vi" : NULL;
    if (!editor) {
        cli_say("there is no terminal to edit on; give options (edit --help lists them), or set "
                "EDITOR");
        return CLI_USAGE;
    }
    AUTO(free) char *line = NULL;
    if (asprintf(&line, "%s \"$0\"", editor) < 0)
        return CLI_FAILED;
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", line, path, NULL);
        _exit(127);
    }
    int status = 1;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
        cli_say("the editor '%s' failed; EDITOR names another", editor);
        return CLI_FAILED;
    }
    return CLI_OK;
}

/* A merge patch (RFC 7396) from one to the other: what is gone is null. */
static json_t *difference(const json_t *was, const json_t *is)
{
    json_t *patch = json_object(), *value;
    const char *key;
    json_object_foreach((json_t *)is, key, value)
    {
        json_t *old = json_object_get(was, key);
        if (json_is_object(value) && json_is_object(old)) {
            json_t *below = difference(old, value);
            if (json_object_size(below))
                json_object_set(patch, key, below);
            json_decref(below);
        } else if (!old || !json_equal(old, value)) {
            json_object_set(patch, key, value);
        }
    }
    json_object_foreach((json_t *)was, key, value) if (!json_object_get(is, key))
        json_object_set_new(patch, key, json_null());
    return patch;
}

/* *patch: what is to be changed. */
static int edit_text(const json_t *before, const char *path, json_t **patch)
{
    AUTO(json_decref) json_t *after = NULL;
    struct err err;
    int r = editor_run(path);
    if (r != CLI_OK)
        return r;
    if (json_parse_file(path, &after, &err) < 0 || !json_is_object(after)) {
        cli_say("%s", after ? "the text is no JSON object" : err.text);
        return CLI_FAILED;
    }
    *patch = difference(before, after);
    return CLI_OK;
}

static int edit_in_editor(struct cli *cli, const char *which, json_t **patch)
{
    AUTO(json_decref) json_t *vm = NULL;
    AUTO(json_decref) json_t *before = NULL;
    char path[] = "/tmp/bedplate-edit.XXXXXX";
    int r = ask(cli, "GET", "vms", which, NULL, NULL, &vm);
    if (r != CLI_OK)
        return r;
    before = editable(vm);
    int fd = mkstemp(path);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    if (!file || json_dumpf(before, file, JSON_INDENT(2)) < 0 || fputs("\n", file) < 0 ||
        fclose(file) < 0) {
        cli_say("cannot write %s", path);
        unlink(path);
        return CLI_FAILED;
    }
    r = edit_text(before, path, patch);
    unlink(path);
    return r;
}

static void say_pending(const struct cli *cli, const json_t *vm)
{
    const json_t *pending = json_object_get(vm, "pending");
    const char *why = json_string_value(json_object_get(vm, "change_error"));
    AUTO(buf_fini) struct buf names = { 0 };
    for (size_t i = 0; i < json_array_size(pending); i++)
        buf_printf(&names, "%s%s", i ? ", " : "", json_string_value(json_array_get(pending, i)));
    if (names.len && !cli->quiet)
        cli_say("waits for the guest or for the next start: %.*s", (int)names.len,
                (const char *)names.data);
    if (why && !cli->quiet)
        cli_say("%s", why);
}

int do_edit(struct cli *cli, const struct command *command, int argc, char **argv)
{
    AUTO(json_decref) json_t *patch = json_object();
    AUTO(json_decref) json_t *answer = NULL;
    int r = args_take(vm_fields(), &argc, argv, patch);
    if (r == CLI_OK)
        r = want_words(command, argc, 1, 1);
    if (r == CLI_OK && !json_object_size(patch)) {
        json_decref(TAKE(patch));
        r = edit_in_editor(cli, argv[0], &patch);
        if (r == CLI_OK && !json_object_size(patch)) {
            cli_say("nothing was changed");
            return CLI_OK;
        }
    }
    if (r == CLI_OK)
        r = ask(cli, "PATCH", "vms", argv[0], NULL, json_incref(patch), &answer);
    if (r != CLI_OK)
        return r;
    if (cli->json)
        output_json(answer);
    else
        say_pending(cli, answer);
    return CLI_OK;
}
