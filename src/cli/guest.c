/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What bedplate does inside a guest by its agent: exec and cp.
 *
 * A file arrives under another name beside its place and is moved there when it is complete, so
 * that an interrupted copy replaces nothing. The agent knows no permissions: in the guest they are
 * read and set by the guest's own stat, chmod and mv.
 */
#include "base/cleanup.h"
#include "base/text.h"
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* As `timeout` and container tools have them; other statuses are the command's. */
enum { EXEC_TIMED_OUT = 124, EXEC_FAILED = 125 };
/* INPUT_MAX: what base64 makes the API's limit of. */
enum { INPUT_MAX = 512 << 10, READ_MAX = 1 << 20, CHUNK = 512 << 10 };

/* ---- exec ---- */

/* One more byte than may be shows that there are too many. */
static int input_read(struct buf *in)
{
    uint8_t data[65536];
    ssize_t n;
    while (in->len <= INPUT_MAX && (n = read(STDIN_FILENO, data, sizeof data)) > 0)
        buf_add(in, data, (size_t)n);
    if (in->len <= INPUT_MAX)
        return CLI_OK;
    cli_say("standard input is longer than %d KiB; bedplate cp it into the guest first",
            INPUT_MAX >> 10);
    return CLI_FAILED;
}

static json_t *base64_json(const void *data, size_t len)
{
    AUTO(buf_fini) struct buf text = { 0 };
    buf_base64(&text, data, len);
    return json_stringn(text.len ? (const char *)text.data : "", text.len);
}

static int stream_write(const json_t *answer, const char *name, FILE *to)
{
    const json_t *text = json_object_get(answer, name);
    AUTO(buf_fini) struct buf data = { 0 };
    if (!json_is_string(text) ||
        base64_parse(json_string_value(text), json_string_length(text), &data) < 0) {
        cli_say("the daemon's answer is not base64");
        return CLI_FAILED;
    }
    if (fwrite(data.data, 1, data.len, to) == data.len && fflush(to) == 0)
        return CLI_OK;
    cli_say("cannot write the command's output: %s", strerror(errno));
    return CLI_FAILED;
}

static int exec_answered(struct cli *cli, const json_t *answer)
{
    if (cli->json) {
        output_json(answer);
    } else if (stream_write(answer, "out", stdout) != CLI_OK ||
               stream_write(answer, "err", stderr) != CLI_OK) {
        return EXEC_FAILED;
    } else if (json_is_true(json_object_get(answer, "truncated"))) {
        cli_say("there was more output than the guest agent keeps");
        return EXEC_FAILED;
    }
    return (int)json_integer_value(json_object_get(answer, "status"));
}

int do_exec(struct cli *cli, const struct command *command, int argc, char **argv)
{
    AUTO(json_decref) json_t *body = json_object();
    AUTO(json_decref) json_t *answer = NULL;
    AUTO(buf_fini) struct buf in = { 0 };
    long status = 0;
    int r = args_take(command->options, &argc, argv, body);
    if (r == CLI_OK)
        r = want_words(command, argc, 2, -1);
    if (r == CLI_OK && json_is_true(json_object_get(body, "stdin")))
        r = input_read(&in);
    json_object_del(body, "stdin");
    AUTO(free) char *path = r == CLI_OK ? path_of("vms", argv[0], "exec") : NULL;
    if (!path)
        return EXEC_FAILED;
    json_t *words = json_array();
    for (int i = 1; i < argc; i++)
        json_array_append_new(words, json_string(argv[i]));
    json_object_set_new(body, "command", words);
    if (in.len)
        json_object_set_new(body, "input", base64_json(in.data, in.len));
    if (client_status(cli, "POST", path, TAKE(body), &answer, &status) != CLI_OK)
        return EXEC_FAILED;
    if (status == 200)
        return exec_answered(cli, answer);
    client_refused(answer, status);
    return status == 504 ? EXEC_TIMED_OUT : EXEC_FAILED;
}

/* ---- cp ---- */

/* A word of cp: a file here, or with vm one of a guest. */
struct place {
    const char *vm, *path;
};

/* "VM:PATH"; a colon behind a slash belongs to a file's name. */
static void place_parse(char *word, struct place *place)
{
    char *colon = strchr(word, ':'), *slash = strchr(word, '/');
    *place = (struct place){ NULL, word };
    if (!colon || colon == word || (slash && slash < colon))
        return;
    *colon = 0;
    *place = (struct place){ word, colon + 1 };
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* A command in the guest that must succeed; *out (may be NULL) gets its output as a text. */
static int guest_run(struct cli *cli, const char *vm, json_t *take_command, struct buf *out)
{
    AUTO(json_decref) json_t *answer = NULL;
    int r =
        ask(cli, "POST", "vms", vm, "exec", json_pack("{s:o}", "command", take_command), &answer);
    if (r != CLI_OK)
        return r;
    AUTO(buf_fini) struct buf said = { 0 };
    const char *text = json_string_value(json_object_get(answer, "err"));
    if (json_integer_value(json_object_get(answer, "status")) != 0) {
        if (text && base64_parse(text, strlen(text), &said) == 0)
            cli_say("in %s: %.*s", vm, (int)strcspn((char *)said.data, "\n"), (char *)said.data);
        return CLI_FAILED;
    }
    text = json_string_value(json_object_get(answer, "out"));
    if (out && (!text || base64_parse(text, strlen(text), out) < 0))
        return CLI_FAILED;
    return CLI_OK;
}

static void copy_progress(const struct cli *cli, const char *name, uint64_t done, uint64_t size)
{
    if (cli->tty && !cli->quiet && size > CHUNK)
        fprintf(stderr, "\r\033[K%s %llu %%%s", name, (unsigned long long)(done * 100 / size),
                done >= size ? "\n" : "");
}

/* What is written where: it is complete, and now takes its place. */
static int guest_finish(struct cli *cli, const struct place *to, const char *path, const char *part,
                        mode_t mode)
{
    static const char script[] = "chmod \"$1\" -- \"$2\" && mv -f -- \"$2\" \"$3\"";
    return guest_run(cli, to->vm,
                     json_pack("[s, s, s, s, o, s, s]", "/bin/sh", "-c", script, "sh",
                               json_sprintf("%o", (unsigned)mode & 07777), part, path),
                     NULL);
}

/* A directory takes the file under its own name. */
static int guest_target(struct cli *cli, const struct place *to, const char *name, struct buf *path)
{
    static const char script[] = "if [ -d \"$1\" ]; then echo yes; fi";
    AUTO(buf_fini) struct buf answer = { 0 };
    int r =
        guest_run(cli, to->vm,
                  json_pack("[s, s, s, s, s]", "/bin/sh", "-c", script, "sh", to->path), &answer);
    if (r != CLI_OK)
        return r;
    buf_printf(path, "%s", to->path);
    if (answer.len)
        buf_printf(path, "%s%s", path->data[path->len - 1] == '/' ? "" : "/", name);
    buf_add(path, "", 1);
    return CLI_OK;
}

static int guest_write(struct cli *cli, const char *vm, const char *path, const void *data,
                       size_t len, bool append)
{
    return ask(cli, "POST", "vms", vm, "file-write",
               json_pack("{s:s, s:o, s:b}", "path", path, "data", base64_json(data, len), "append",
                         append),
               NULL);
}

static int copy_in(struct cli *cli, const char *from, const struct place *to)
{
    AUTO(fd_close) int fd = open(from, O_RDONLY | O_CLOEXEC);
    AUTO(free) uint8_t *data = malloc(CHUNK);
    AUTO(buf_fini) struct buf path = { 0 }, part = { 0 };
    struct stat st;
    if (fd < 0 || !data || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        cli_say("%s: %s", from, fd < 0 ? strerror(errno) : "only files are copied");
        return CLI_FAILED;
    }
    int r = guest_target(cli, to, base_name(from), &path);
    if (r != CLI_OK)
        return r;
    buf_printf(&part, "%s.bedplate-part", (char *)path.data);
    buf_add(&part, "", 1);
    const char *name = (char *)part.data;
    uint64_t done = 0;
    for (ssize_t n = 1; r == CLI_OK && n > 0;) {
        n = read(fd, data, CHUNK);
        if (n < 0) {
            cli_say("%s: %s", from, strerror(errno));
            r = CLI_FAILED;
        } else if (n > 0 || !done) {
            r = guest_write(cli, to->vm, name, data, (size_t)n, done > 0);
            done += (uint64_t)n;
            copy_progress(cli, from, done, (uint64_t)st.st_size);
        }
    }
    if (r == CLI_OK)
        return guest_finish(cli, to, (char *)path.data, name, st.st_mode);
    if (done)
        guest_run(cli, to->vm, json_pack("[s, s, s, s]", "rm", "-f", "--", name), NULL);
    return r;
}

/* Its permissions and size. */
static int guest_stat(struct cli *cli, const struct place *from, mode_t *mode, uint64_t *size)
{
    AUTO(buf_fini) struct buf text = { 0 };
    unsigned type, permissions;
    unsigned long long bytes;
    int r = guest_run(
        cli, from->vm,
        json_pack("[s, s, s, s, s, s]", "stat", "-L", "-c", "%f %a %s", "--", from->path), &text);
    if (r != CLI_OK)
        return r;
    buf_add(&text, "", 1);
    if (sscanf((char *)text.data, "%x %o %llu", &type, &permissions, &bytes) != 3) {
        cli_say("what stat in %s says of %s makes no sense", from->vm, from->path);
        return CLI_FAILED;
    }
    if (!S_ISREG(type)) {
        cli_say("%s:%s: only files are copied", from->vm, from->path);
        return CLI_FAILED;
    }
    *mode = permissions & 0777; /* what runs as somebody else there shall not do so here */
    *size = bytes;
    return CLI_OK;
}

/* The guest may go on without end: no more than it said comes. */
static int guest_read(struct cli *cli, const struct place *from, uint64_t size, int fd)
{
    uint64_t done = 0;
    bool end = false;
    while (!end && done <= size) {
        AUTO(json_decref) json_t *answer = NULL;
        AUTO(buf_fini) struct buf data = { 0 };
        int r = ask(cli, "POST", "vms", from->vm, "file-read",
                    json_pack("{s:s, s:I, s:i}", "path", from->path, "offset", (json_int_t)done,
                              "bytes", READ_MAX),
                    &answer);
        if (r != CLI_OK)
            return r;
        const char *text = json_string_value(json_object_get(answer, "data"));
        if (!text || base64_parse(text, strlen(text), &data) < 0) {
            cli_say("the daemon's answer is not base64");
            return CLI_FAILED;
        }
        if (write_full(fd, data.data, data.len) < 0) {
            cli_say("cannot write: %s", strerror(errno));
            return CLI_FAILED;
        }
        done += data.len;
        end = json_is_true(json_object_get(answer, "end")) || !data.len;
        copy_progress(cli, from->path, done, size);
    }
    if (done == size)
        return CLI_OK;
    cli_say("%s:%s changed while it was copied", from->vm, from->path);
    return CLI_FAILED;
}

static int copy_out(struct cli *cli, const struct place *from, const char *to)
{
    AUTO(buf_fini) struct buf path = { 0 }, part = { 0 };
    struct stat st;
    mode_t mode;
    uint64_t size;
    int r = guest_stat(cli, from, &mode, &size);
    if (r != CLI_OK)
        return r;
    bool dir = stat(to, &st) == 0 && S_ISDIR(st.st_mode);
    buf_printf(&path, "%s%s%s", to, dir ? "/" : "", dir ? base_name(from->path) : "");
    buf_add(&path, "", 1);
    buf_printf(&part, "%s.bedplate-part", (char *)path.data);
    buf_add(&part, "", 1);
    const char *name = (char *)part.data;
    AUTO(fd_close) int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        cli_say("%s: %s", name, strerror(errno));
        return CLI_FAILED;
    }
    r = guest_read(cli, from, size, fd);
    if (r == CLI_OK && (fchmod(fd, mode) < 0 || rename(name, (char *)path.data) < 0)) {
        cli_say("%s: %s", (char *)path.data, strerror(errno));
        r = CLI_FAILED;
    }
    if (r != CLI_OK)
        unlink(name);
    return r;
}

int do_cp(struct cli *cli, const struct command *command, int argc, char **argv)
{
    static const struct api_field none[] = { { .name = NULL } };
    AUTO(json_decref) json_t *nothing = json_object();
    struct place to;
    int status = args_take(none, &argc, argv, nothing);
    if (status == CLI_OK)
        status = want_words(command, argc, 2, -1);
    if (status != CLI_OK)
        return status;
    place_parse(argv[argc - 1], &to);
    for (int i = 0; i + 1 < argc; i++) {
        struct place from;
        int r = CLI_USAGE;
        place_parse(argv[i], &from);
        if (!from.vm == !to.vm)
            cli_say("one of the two must be a file of a guest, VM:PATH, and the other one of this "
                    "host");
        else
            r = to.vm ? copy_in(cli, from.path, &to) : copy_out(cli, &from, to.path);
        status = r != CLI_OK ? r : status;
    }
    return status;
}
