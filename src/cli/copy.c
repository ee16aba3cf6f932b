/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bedplate cp: files into and out of a guest by its agent; folders are copy_tree.c's.
 *
 * A file arrives under another name beside its place and is moved there when it is complete, so
 * that an interrupted copy replaces nothing. The agent knows no permissions: in the guest they are
 * read and set by the guest's own stat, chmod and mv.
 */
#include "cli/copy.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 512 << 10 };
static const char not_a_file[] = "is no file; folders are copied with -r";

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

/* The last name in a path; "" where that has none, and "." and ".." are none. */
static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ? "" : name;
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

static int target_add(struct buf *path, const char *to, bool dir, const char *name)
{
    if (dir && !*name) {
        cli_say("%s is a folder; say under which name it arrives there", to);
        return CLI_USAGE;
    }
    buf_printf(path, "%s", to);
    if (dir)
        buf_printf(path, "%s%s", path->data[path->len - 1] == '/' ? "" : "/", name);
    buf_add(path, "", 1);
    return CLI_OK;
}

int copy_target(const char *to, const char *name, struct buf *path)
{
    struct stat st;
    return target_add(path, to, stat(to, &st) == 0 && S_ISDIR(st.st_mode), base_name(name));
}

int copy_guest_target(struct cli *cli, const struct place *to, const char *name, struct buf *path)
{
    static const char script[] = "if [ -d \"$1\" ]; then echo yes; fi";
    AUTO(buf_fini) struct buf answer = { 0 };
    int r =
        guest_run(cli, to->vm,
                  json_pack("[s, s, s, s, s]", "/bin/sh", "-c", script, "sh", to->path), &answer);
    if (r != CLI_OK)
        return r;
    return target_add(path, to->path, answer.len, base_name(name));
}

int copy_send(struct cli *cli, int fd, const char *name, uint64_t size, const char *vm,
              const char *path)
{
    AUTO(free) uint8_t *data = malloc(CHUNK);
    int r = CLI_OK;
    uint64_t done = 0;
    if (!data)
        abort();
    for (ssize_t n = 1; r == CLI_OK && n > 0;) {
        n = read(fd, data, CHUNK);
        if (n < 0) {
            cli_say("%s: %s", name, strerror(errno));
            r = CLI_FAILED;
        } else if (n > 0 || !done) {
            r = guest_write(cli, vm, path, data, (size_t)n, done > 0);
            done += (uint64_t)n;
            copy_progress(cli, name, done, size);
        }
    }
    return r;
}

static int copy_in(struct cli *cli, const char *from, const struct place *to)
{
    AUTO(fd_close) int fd = open(from, O_RDONLY | O_CLOEXEC);
    AUTO(buf_fini) struct buf path = { 0 }, part = { 0 };
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        cli_say("%s: %s", from, fd < 0 ? strerror(errno) : not_a_file);
        return CLI_FAILED;
    }
    int r = copy_guest_target(cli, to, from, &path);
    if (r != CLI_OK)
        return r;
    buf_printf(&part, "%s" PART, (char *)path.data);
    buf_add(&part, "", 1);
    const char *name = (char *)part.data;
    r = copy_send(cli, fd, from, (uint64_t)st.st_size, to->vm, name);
    if (r == CLI_OK)
        return guest_finish(cli, to, (char *)path.data, name, st.st_mode);
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
        cli_say("%s:%s: %s", from->vm, from->path, not_a_file);
        return CLI_FAILED;
    }
    *mode = permissions & 0777; /* what runs as somebody else there shall not do so here */
    *size = bytes;
    return CLI_OK;
}

int copy_receive(struct cli *cli, const struct place *from, uint64_t size, int fd)
{
    uint64_t done = 0;
    bool end = false;
    while (!end && done <= size) {
        AUTO(buf_fini) struct buf data = { 0 };
        int r = guest_read_some(cli, from->vm, from->path, done, &data, &end);
        if (r != CLI_OK)
            return r;
        if (write_full(fd, data.data, data.len) < 0) {
            cli_say("cannot write: %s", strerror(errno));
            return CLI_FAILED;
        }
        done += data.len;
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
    mode_t mode;
    uint64_t size;
    int r = guest_stat(cli, from, &mode, &size);
    if (r == CLI_OK)
        r = copy_target(to, from->path, &path);
    if (r != CLI_OK)
        return r;
    buf_printf(&part, "%s" PART, (char *)path.data);
    buf_add(&part, "", 1);
    const char *name = (char *)part.data;
    AUTO(fd_close) int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        cli_say("%s: %s", name, strerror(errno));
        return CLI_FAILED;
    }
    r = copy_receive(cli, from, size, fd);
    if (r == CLI_OK && (fchmod(fd, mode) < 0 || rename(name, (char *)path.data) < 0)) {
        cli_say("%s: %s", (char *)path.data, strerror(errno));
        r = CLI_FAILED;
    }
    if (r != CLI_OK)
        unlink(name);
    return r;
}

static int copy(struct cli *cli, const struct place *from, const struct place *to, bool folders)
{
    struct stat st;
    if (to->vm)
        return folders && stat(from->path, &st) == 0 && S_ISDIR(st.st_mode)
                   ? copy_tree_in(cli, from->path, to)
                   : copy_in(cli, from->path, to);
    return folders ? copy_tree_out(cli, from, to->path) : copy_out(cli, from, to->path);
}

/* "site/" is "site". */
static void slashes_cut(char *path)
{
    for (size_t len = strlen(path); len > 1 && path[len - 1] == '/'; len--)
        path[len - 1] = 0;
}

int do_cp(struct cli *cli, const struct command *command, int argc, char **argv)
{
    AUTO(json_decref) json_t *own = json_object();
    struct place to;
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "-r") == 0)
            argv[i] = (char *)"--recursive";
    int status = args_take(command->options, &argc, argv, own);
    if (status == CLI_OK)
        status = want_words(command, argc, 2, -1);
    if (status != CLI_OK)
        return status;
    bool folders = json_is_true(json_object_get(own, "recursive"));
    place_parse(argv[argc - 1], &to);
    for (int i = 0; i + 1 < argc; i++) {
        struct place from;
        int r = CLI_USAGE;
        if (folders)
            slashes_cut(argv[i]);
        place_parse(argv[i], &from);
        if (!from.vm == !to.vm)
            cli_say("one of the two must be a file of a guest, VM:PATH, and the other one of this "
                    "host");
        else
            r = copy(cli, &from, &to, folders);
        status = r != CLI_OK ? r : status;
    }
    return status;
}
