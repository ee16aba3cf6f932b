/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The catalog of images, and virtual machines out of them. */
#include "cli/cli.h"

#include <arpa/inet.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RECIPE "debian-12" /* what the daemon can make by itself */
enum { RUN_MEMORY = 1 << 30, NAME_TRIES = 1000 };

const char run_help[] =
    "\nThe word is an image's name, like " RECIPE
    ", which is made if it is not there: the VM is called after\n"
    "it unless --name tells, lets your ssh keys in, and forwards a port of this host to its port "
    "22.\n"
    "With --kernel, --disk, --cdrom, --firmware or --image it is the VM's name.\n";

/* ---- image ---- */

static int image_create(struct cli *cli, const struct command *command, int argc, char **argv)
{
    AUTO(json_decref) json_t *image = json_object();
    AUTO(json_decref) json_t *answer = NULL;
    const char *source;
    int r = args_take(api_resource_find("images")->fields, &argc, argv, image);
    if (r == CLI_OK)
        r = want_words(command, argc, 1, 1);
    if (r == CLI_OK)
        r = name_take(image, argv[0]);
    if (r != CLI_OK)
        return r;
    source = json_string_value(json_object_get(image, "source"));
    if (!source && strcmp(argv[0], RECIPE) == 0)
        json_object_set_new(image, "source", json_string(RECIPE));
    /* Files are named from here. */
    static const char *const files[] = { "source", "sums", "signature" };
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        const char *file = json_string_value(json_object_get(image, files[i]));
        AUTO(free) char *whole = file && access(file, F_OK) == 0 ? realpath(file, NULL) : NULL;
        if (whole)
            json_object_set_new(image, files[i], json_string(whole));
    }
    r = client_call(cli, "POST", "/v1/images", json_incref(image), &answer);
    if (r == CLI_OK && cli->json)
        output_json(answer);
    return r == CLI_OK ? client_job(cli, answer) : r;
}

static int image_delete(struct cli *cli, const struct command *command, int argc, char **argv)
{
    int status = want_words(command, argc, 1, -1);
    for (int i = 0; status != CLI_USAGE && i < argc; i++) {
        int r = ask(cli, "DELETE", "images", argv[i], NULL, NULL, NULL);
        status = r == CLI_OK ? status : r;
    }
    return status;
}

static int image_info(struct cli *cli, const struct command *command, int argc, char **argv)
{
    AUTO(json_decref) json_t *image = NULL;
    int r = want_words(command, argc, 1, 1);
    if (r == CLI_OK)
        r = ask(cli, "GET", "images", argv[0], NULL, NULL, &image);
    if (r == CLI_OK && cli->json)
        output_json(image);
    else if (r == CLI_OK)
        output_object(api_resource_find("images")->fields, image);
    return r;
}

int do_image(struct cli *cli, const struct command *command, int argc, char **argv)
{
    static const char *const columns[] = { "name", "state", "size", "bytes", "source", NULL };
    static const struct {
        const char *word;
        int (*run)(struct cli *cli, const struct command *command, int argc, char **argv);
    } ways[] = { { "create", image_create }, { "delete", image_delete }, { "info", image_info } };
    if (!argc || strcmp(argv[0], "list") == 0) {
        int r = argc > 1 ? want_words(command, argc, 0, 1) : CLI_OK;
        return r == CLI_OK ? list(cli, "images", columns) : r;
    }
    for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++)
        if (strcmp(ways[i].word, argv[0]) == 0)
            return ways[i].run(cli, command, argc - 1, argv + 1);
    return want_words(command, argc, 0, 0);
}

/* ---- run ---- */

/* CLI_NOT_FOUND: there is none, and nothing has been said. */
static int object_exists(struct cli *cli, const char *kind, const char *name)
{
    char path[200];
    AUTO(json_decref) json_t *page = NULL;
    snprintf(path, sizeof path, "/v1/%s?name=%.64s&fields=name", kind, name);
    int r = client_call(cli, "GET", path, NULL, &page);
    if (r == CLI_OK && !json_array_size(json_object_get(page, "items")))
        r = CLI_NOT_FOUND;
    return r;
}

static int image_want(struct cli *cli, const struct command *command, char *name)
{
    if (strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") !=
        strlen(name)) {
        cli_say("'%s' cannot be an image's name", name);
        return CLI_USAGE;
    }
    int r = object_exists(cli, "images", name);
    if (r != CLI_NOT_FOUND)
        return r;
    if (strcmp(name, RECIPE) != 0 && object_exists(cli, "vms", name) == CLI_OK) {
        cli_say("there is no image '%s', but a VM: bedplate start %s starts it, and bedplate "
                "console %s attaches to it",
                name, name, name);
        return CLI_NOT_FOUND;
    }
    if (strcmp(name, RECIPE) != 0) {
        cli_say("there is no image '%s'; bedplate image lists those that there are, and bedplate "
                "image create "
                "%s --source FILE makes one",
                name, name);
        return CLI_NOT_FOUND;
    }
    if (!cli->quiet)
        cli_say("making the image %s, once; it takes some minutes", name);
    char *words[] = { name };
    bool json = cli->json;
    cli->json = false; /* the answer to this command is the VM */
    r = image_create(cli, command, 1, words);
    cli->json = json;
    return r;
}

/* The public keys of who runs this. */
static json_t *own_keys(void)
{
    const char *home = getenv("HOME");
    char pattern[4096], line[8192];
    glob_t found = { 0 };
    json_t *keys = json_array();
    snprintf(pattern, sizeof pattern, "%s/.ssh/id_*.pub", home ? home : "");
    glob(pattern, 0, NULL, &found);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        FILE *file = fopen(found.gl_pathv[i], "re");
        if (file && fgets(line, sizeof line, file)) {
            line[strcspn(line, "\r\n")] = 0;
            json_array_append_new(keys, json_string(line));
        }
        if (file)
            fclose(file);
    }
    globfree(&found);
    return keys;
}

/* One that nobody uses now; -1: none. */
static int port_free(void)
{
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof addr;
    int port = -1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&addr, len) == 0 &&
        getsockname(fd, (struct sockaddr *)&addr, &len) == 0)
        port = ntohs(addr.sin_port);
    if (fd >= 0)
        close(fd);
    return port;
}

/* What a VM from an image has unless it is told otherwise. */
static int run_defaults(struct cli *cli, const char *image, json_t *vm)
{
    char name[80];
    int r = CLI_NOT_FOUND;
    json_object_set_new(vm, "image", json_string(image));
    snprintf(name, sizeof name, "%.63s", image);
    for (unsigned i = 2; !json_object_get(vm, "name"); i++) {
        r = object_exists(cli, "vms", name);
        if (r == CLI_NOT_FOUND)
            json_object_set_new(vm, "name", json_string(name));
        else if (r != CLI_OK)
            return r;
        else if (i == NAME_TRIES) {
            cli_say("too many VMs are called after '%s'; name this one by --name", image);
            return CLI_FAILED;
        }
        snprintf(name, sizeof name, "%.57s-%u", image, i);
    }
    if (!json_object_get(vm, "memory"))
        json_object_set_new(vm, "memory", json_integer(RUN_MEMORY));
    if (!json_object_get(vm, "cloud_init"))
        json_object_set_new(vm, "cloud_init", json_pack("{s:o}", "ssh_keys", own_keys()));
    int port = json_object_get(vm, "nets") ? -1 : port_free();
    if (port > 0)
        json_object_set_new(vm, "nets",
                            json_pack("[{s:s, s:[o]}]", "backend", "user", "forwards",
                                      json_sprintf("tcp:127.0.0.1:%d-:22", port)));
    return CLI_OK;
}

int do_run(struct cli *cli, const struct command *command, int argc, char **argv)
{
    static const char *const own[] = { "kernel", "disks", "cdrom", "firmware", "image" };
    AUTO(json_decref) json_t *vm = json_object();
    AUTO(json_decref) json_t *made = NULL;
    AUTO(json_decref) json_t *started = NULL;
    bool whole = false;
    int r = args_take(api_resource_find("vms")->fields, &argc, argv, vm);
    if (r == CLI_OK)
        r = want_words(command, argc, 1, 1);
    if (r != CLI_OK)
        return r;
    for (unsigned i = 0; i < sizeof own / sizeof *own; i++)
        whole |= json_object_get(vm, own[i]) != NULL;
    if (whole)
        r = name_take(vm, argv[0]);
    else if ((r = image_want(cli, command, argv[0])) == CLI_OK)
        r = run_defaults(cli, argv[0], vm);
    if (r == CLI_OK)
        r = client_call(cli, "POST", "/v1/vms", json_incref(vm), &made);
    if (r == CLI_OK)
        r = client_job(cli, made);
    char *name = (char *)json_string_value(json_object_get(vm, "name"));
    if (r == CLI_OK)
        r = ask(cli, "POST", "vms", name, "start", NULL, &started);
    if (r == CLI_OK)
        r = client_job(cli, started);
    return r == CLI_OK ? do_console(cli, command, 1, &name) : r;
}

/* ---- ssh ---- */

/* "tcp:127.0.0.1:2222-:22": the address and port of this host. */
static bool forward_find(const json_t *vm, char address[64], char port[8])
{
    size_t i, j;
    const json_t *net, *forward;
    json_array_foreach(json_object_get(vm, "nets"), i, net)
    {
        json_array_foreach(json_object_get(net, "forwards"), j, forward)
        {
            const char *text = json_string_value(forward), *end = strrchr(text, '-');
            const char *guest = end ? strrchr(end, ':') : NULL;
            if (strncmp(text, "udp:", 4) == 0 || !guest || strcmp(guest, ":22") != 0)
                continue;
            text += strncmp(text, "tcp:", 4) == 0 ? 4 : 0;
            const char *colon = memchr(text, ':', (size_t)(end - text));
            if (!colon || colon - text >= 64 || end - colon > 6)
                continue;
            snprintf(address, 64, "%.*s", (int)(colon - text), text);
            snprintf(port, 8, "%.*s", (int)(end - colon - 1), colon + 1);
            if (!*address || strcmp(address, "0.0.0.0") == 0)
                strcpy(address, "127.0.0.1");
            return true;
        }
    }
    return false;
}

int do_ssh(struct cli *cli, const struct command *command, int argc, char **argv)
{
    AUTO(json_decref) json_t *vm = NULL;
    char address[64], port[8], alias[100];
    int r = want_words(command, argc, 1, -1);
    if (r == CLI_OK)
        r = ask(cli, "GET", "vms", argv[0], NULL, NULL, &vm);
    if (r != CLI_OK)
        return r;
    if (!forward_find(vm, address, port)) {
        cli_say("%s forwards no port to its port 22; bedplate edit %s --net "
                "user,forward=tcp:127.0.0.1:2222-:22 "
                "makes it, from its next start",
                argv[0], argv[0]);
        return CLI_FAILED;
    }
    const char *user =
        json_string_value(json_object_get(json_object_get(vm, "cloud_init"), "user"));
    snprintf(alias, sizeof alias, "HostKeyAlias=bedplate-%.60s",
             json_string_value(json_object_get(vm, "id")));
    char **words = calloc((size_t)argc + 12, sizeof *words);
    if (!words)
        return CLI_FAILED;
    const char *const first[] = { "ssh",
                                  "-o",
                                  alias,
                                  "-o",
                                  "StrictHostKeyChecking=accept-new",
                                  "-p",
                                  port,
                                  "-l",
                                  user ? user : "debian",
                                  address };
    memcpy(words, first, sizeof first);
    for (int i = 1; i < argc; i++)
        words[sizeof first / sizeof *first - 1 + (size_t)i] = argv[i];
    execvp("ssh", words);
    cli_say("the program ssh is missing; install it (Debian's package openssh-client)");
    free(words);
    return CLI_FAILED;
}
