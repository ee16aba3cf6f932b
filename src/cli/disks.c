/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bedplate disk: the disks that the daemon keeps. A word with a slash is a file of this host
 * instead, and then bedplate-img does what is asked for.
 */
#include "cli/cli.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct api_field *disk_fields(void) { return api_resource_find("disks")->fields; }

/* POST to the disk; waits, and prints what came of it where that is something. */
static int act(struct cli *cli, const char *disk, const char *action, json_t *take_args)
{
    AUTO(json_decref) json_t *answer = NULL;
    AUTO(json_decref) json_t *job = NULL;
    int r = ask(cli, "POST", "disks", disk, action, take_args, &answer);
    if (r == CLI_OK)
        r = client_job(cli, answer);
    const char *id = json_string_value(json_object_get(answer, "id"));
    if (r == CLI_OK && id && cli->wait)
        r = ask(cli, "GET", "jobs", id, NULL, NULL, &job);
    const json_t *result = id ? json_object_get(job, "result") : answer;
    if (r == CLI_OK && (cli->json || result))
        output_json(result ? result : answer);
    return r;
}

static int create(struct cli *cli, const struct command *command, json_t *options, int argc,
                  char **argv)
{
    AUTO(json_decref) json_t *answer = NULL;
    const char *source = json_string_value(json_object_get(options, "source"));
    int r = want_words(command, argc, 1, 1);
    if (r != CLI_OK)
        return r;
    if (source)
        json_object_set_new(options, "source", args_path(source));
    json_object_set_new(options, "name", json_string(argv[0]));
    r = client_call(cli, "POST", "/v1/disks", json_incref(options), &answer);
    if (r == CLI_OK && cli->json)
        output_json(answer);
    return r == CLI_OK ? client_job(cli, answer) : r;
}

/* Another disk with the same content, in another format. */
static int convert(struct cli *cli, const struct command *command, json_t *options, int argc,
                   char **argv)
{
    AUTO(json_decref) json_t *from = NULL;
    int r = want_words(command, argc, 2, 2);
    if (r == CLI_OK)
        r = ask(cli, "GET", "disks", argv[0], NULL, NULL, &from);
    if (r == CLI_OK)
        json_object_set(options, "source", json_object_get(from, "path"));
    return r == CLI_OK ? create(cli, command, options, 1, argv + 1) : r;
}

static int info(struct cli *cli, const struct command *command, json_t *options, int argc,
                char **argv)
{
    AUTO(json_decref) json_t *disk = NULL;
    AUTO(json_decref) json_t *file = NULL;
    int r = want_words(command, argc, 1, 1);
    if (r == CLI_OK)
        r = ask(cli, "GET", "disks", argv[0], NULL, NULL, &disk);
    if (r == CLI_OK)
        r = ask(cli, "POST", "disks", argv[0], "info", NULL, &file);
    if (r == CLI_OK && cli->json) {
        json_object_set(disk, "file", file);
        output_json(disk);
    } else if (r == CLI_OK) {
        output_object(disk_fields(), disk);
        puts("file:");
        output_json(file);
    }
    return r;
}

static int resize(struct cli *cli, const struct command *command, json_t *options, int argc,
                  char **argv)
{
    int r = want_words(command, argc, 2, 2);
    if (r != CLI_OK)
        return r;
    json_object_set_new(options, "size", json_string(argv[1]));
    return act(cli, argv[0], "resize", json_incref(options));
}

static int check(struct cli *cli, const struct command *command, json_t *options, int argc,
                 char **argv)
{
    int r = want_words(command, argc, 1, 1);
    return r == CLI_OK ? act(cli, argv[0], "check", NULL) : r;
}

static int snapshot_act(struct cli *cli, const struct command *command, const char *action,
                        int argc, char **argv)
{
    int r = want_words(command, argc, 2, 2);
    return r == CLI_OK ? act(cli, argv[0], action, json_pack("{s:s}", "name", argv[1])) : r;
}

static int snapshot(struct cli *cli, const struct command *command, json_t *options, int argc,
                    char **argv)
{
    return snapshot_act(cli, command, "snapshot", argc, argv);
}

static int revert(struct cli *cli, const struct command *command, json_t *options, int argc,
                  char **argv)
{
    return snapshot_act(cli, command, "revert", argc, argv);
}

static int delete_snapshot(struct cli *cli, const struct command *command, json_t *options,
                           int argc, char **argv)
{
    return snapshot_act(cli, command, "delete-snapshot", argc, argv);
}

static int drop(struct cli *cli, const struct command *command, json_t *options, int argc,
                char **argv)
{
    int status = want_words(command, argc, 1, -1);
    for (int i = 0; status != CLI_USAGE && i < argc; i++) {
        int r = ask(cli, "DELETE", "disks", argv[i], NULL, NULL, NULL);
        status = r == CLI_OK ? status : r;
    }
    return status;
}

/* Does not return when it can be run. The options are its own. */
static int file_command(int argc, char **argv)
{
    char program[PATH_MAX];
    char **words = calloc((size_t)argc + 2, sizeof *words);
    if (words && program_find("bedplate-img", "img", program)) {
        words[0] = program;
        memcpy(words + 1, argv, (size_t)argc * sizeof *argv);
        execv(program, words);
    }
    free(words);
    cli_say("the program bedplate-img is missing; it is installed with this one");
    return CLI_FAILED;
}

const struct api_field disk_options[] = {
    { "format", API_STRING, 0, "of the new disk's file: raw, qcow2, vmdk, vhd or vhdx" },
    { "size", API_SIZE, 0, "of a new disk" },
    { "source", API_STRING, 0, "an image of any format, that a new disk is a copy of" },
    { "description", API_STRING, 0, "of a new disk, for people" },
    { "shrink", API_BOOLEAN, 0, "it may lose its end when it is resized" },
    { .name = NULL },
};

int do_disk(struct cli *cli, const struct command *command, int argc, char **argv)
{
    static const char *const columns[] = { "name", "state", "format", "size", "path", NULL };
    static const struct {
        const char *word;
        int (*run)(struct cli *cli, const struct command *command, json_t *options, int argc,
                   char **argv);
    } ways[] = { { "create", create }, { "convert", convert },
                 { "info", info },     { "resize", resize },
                 { "check", check },   { "snapshot", snapshot },
                 { "revert", revert }, { "delete-snapshot", delete_snapshot },
                 { "delete", drop } };
    AUTO(json_decref) json_t *options = json_object();
    if (!argc || (argc == 1 && strcmp(argv[0], "list") == 0))
        return list(cli, "disks", columns);
    for (int i = 1; i < argc; i++)
        if (argv[i][0] != '-' && strchr(argv[i], '/') && strcmp(argv[i - 1], "--source") != 0)
            return file_command(argc, argv);
    int count = argc - 1;
    for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (strcmp(ways[i].word, argv[0]) != 0)
            continue;
        int r = args_take(command->options, &count, argv + 1, options);
        return r == CLI_OK ? ways[i].run(cli, command, options, count, argv + 1) : r;
    }
    return want_words(command, argc, 0, 0);
}
