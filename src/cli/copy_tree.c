/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Folders into and out of a guest: its agent knows files, so it is asked for one after the other.
 * What is in a folder is listed by the guest's find; its folders, links and permissions are made by
 * its mkdir, ln and chmod, many at a time.
 *
 *  1. A folder arrives under another name, and gets its own when all of it is there.
 *  2. The guest's list is hostile. Everything from it is made below a folder that is ours alone and
 *     new, name by name from that folder's descriptor and never through a symbolic link, so that
 *     nothing outside can be reached, in whatever order a list has them. What is there already is
 *     not written to.
 */
#include "base/cleanup.h"
#include "cli/copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MERGES \
    ", and a folder is not merged into it: move it away, or name another folder to copy to"

enum { LIST_MAX = 64 << 20, WORDS_MAX = 200, WORDS_BYTES_MAX = 128 << 10, WALK_FDS = 16 };

struct entry {
    char type;     /* 'd', 'f', 'l' */
    unsigned mode; /* permissions */
    uint64_t size;
    char *name;   /* "a/b", from the folder on; "": itself */
    char *target; /* of a link */
};

struct tree {
    struct entry *entries; /* folders come before what is in them */
    size_t count, room;
    size_t left_out; /* what is neither of the three */
};

static void tree_fini(struct tree *tree)
{
    for (size_t i = 0; i < tree->count; i++) {
        free(tree->entries[i].name);
        free(tree->entries[i].target);
    }
    free(tree->entries);
}
static void tree_fini_auto(struct tree *tree) { tree_fini(tree); }

static void tree_add(struct tree *tree, char type, unsigned mode, uint64_t size, const char *name,
                     const char *target)
{
    if (tree->count == tree->room) {
        tree->room = tree->room ? tree->room * 2 : 64;
        tree->entries = realloc(tree->entries, tree->room * sizeof *tree->entries);
    }
    struct entry e = { type, mode, size, strdup(name), strdup(target) };
    if (!tree->entries || !e.name || !e.target)
        abort();
    tree->entries[tree->count++] = e;
}

static void tree_progress(const struct cli *cli, const struct tree *tree, size_t done)
{
    if (cli->tty && !cli->quiet)
        fprintf(stderr, "\r\033[K%zu of %zu%s", done, tree->count, done < tree->count ? "" : "\n");
}

static void tree_tell_left_out(const struct tree *tree, const char *of)
{
    if (tree->left_out)
        cli_say("%s: %zu left out, which are no files, folders or symbolic links", of,
                tree->left_out);
}

/* ---- into a guest ---- */

/* What nftw() walks over, which takes no argument. */
static struct {
    struct tree *tree;
    size_t skip; /* the length of the folder's own path */
    bool failed;
} walk;

static int walked(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    char target[PATH_MAX] = "";
    const char *name = path + walk.skip + (path[walk.skip] == '/');
    AUTO(json_decref) json_t *utf8 = json_string(name);
    if (type == FTW_DNR || type == FTW_NS || !utf8) {
        cli_say("%s: %s", path, utf8 ? "cannot be read" : "its name is no UTF-8");
        walk.failed = true;
        return 1;
    }
    if (type == FTW_SL && readlink(path, target, sizeof target - 1) < 0)
        return -1;
    if (type == FTW_D || type == FTW_SL || S_ISREG(st->st_mode))
        tree_add(walk.tree,
                 type == FTW_D    ? 'd'
                 : type == FTW_SL ? 'l'
                                  : 'f',
                 st->st_mode & 07777, (uint64_t)st->st_size, name, target);
    else
        walk.tree->left_out++;
    return 0;
}

static int tree_walk(const char *from, struct tree *tree)
{
    walk.tree = tree;
    walk.skip = strlen(from);
    walk.failed = false;
    int r = nftw(from, walked, WALK_FDS, FTW_PHYS);
    if (r < 0)
        cli_say("%s: %s", from, strerror(errno));
    return r ? CLI_FAILED : CLI_OK;
}

/* Words for a script in the guest, which are sent when there are enough. */
struct batch {
    struct cli *cli;
    const char *vm, *root, *script;
    json_t *words;
    size_t bytes;
};

static int batch_send(struct batch *b)
{
    if (!json_array_size(b->words))
        return CLI_OK;
    json_t *command = json_pack("[s, s, s, s, s]", "/bin/sh", "-c", b->script, "sh", b->root);
    json_array_extend(command, b->words);
    json_array_clear(b->words);
    b->bytes = 0;
    return guest_run(b->cli, b->vm, command, NULL);
}

static int batch_add(struct batch *b, json_t *take_word)
{
    b->bytes += json_string_length(take_word);
    json_array_append_new(b->words, take_word);
    /* Pairs stay together. */
    return json_array_size(b->words) % 2 == 0 &&
                   (json_array_size(b->words) >= WORDS_MAX || b->bytes >= WORDS_BYTES_MAX)
               ? batch_send(b)
               : CLI_OK;
}

enum make { MAKE_FOLDERS, MAKE_LINKS, MAKE_MODES };

/* Pairs of what and where. Deeper ones get their permissions first: a folder's may forbid it. */
static int guest_make(struct cli *cli, const char *vm, const char *root, const struct tree *tree,
                      enum make make)
{
    static const char *const scripts[] = {
        "cd \"$1\" && shift && while [ $# -gt 0 ]; do mkdir \"./$2\" || exit; shift 2; done",
        "cd \"$1\" && shift && while [ $# -gt 0 ]; do ln -s -- \"$1\" \"./$2\" || exit; shift 2; "
        "done",
        "cd \"$1\" && shift && while [ $# -gt 0 ]; do chmod \"$1\" \"./$2\" || exit; shift 2; done",
    };
    AUTO(json_decref) json_t *words = json_array();
    struct batch b = { cli, vm, root, scripts[make], words, 0 };
    int r = CLI_OK;
    for (size_t i = 0; r == CLI_OK && i < tree->count; i++) {
        const struct entry *e = &tree->entries[make == MAKE_MODES ? tree->count - 1 - i : i];
        bool wanted = make == MAKE_FOLDERS ? e->type == 'd' && *e->name
                      : make == MAKE_LINKS ? e->type == 'l'
                                           : e->type != 'l';
        if (!wanted)
            continue;
        batch_add(&b, make == MAKE_MODES ? json_sprintf("%o", e->mode) : json_string(e->target));
        r = batch_add(&b, json_string(e->name));
    }
    return r == CLI_OK ? batch_send(&b) : r;
}

static int files_send(struct cli *cli, const char *from, const char *vm, const char *root,
                      const struct tree *tree)
{
    int r = CLI_OK;
    for (size_t i = 0; r == CLI_OK && i < tree->count; i++) {
        const struct entry *e = &tree->entries[i];
        AUTO(free) char *here = NULL;
        AUTO(free) char *there = NULL;
        tree_progress(cli, tree, i + 1);
        if (e->type != 'f')
            continue;
        if (asprintf(&here, "%s/%s", from, e->name) < 0 ||
            asprintf(&there, "%s/%s", root, e->name) < 0)
            abort();
        AUTO(fd_close) int fd = open(here, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0) {
            cli_say("%s: %s", here, strerror(errno));
            return CLI_FAILED;
        }
        r = copy_send(cli, fd, here, e->size, vm, there);
    }
    return r;
}

static int guest_script(struct cli *cli, const char *vm, const char *script, const char *first,
                        const char *second)
{
    return guest_run(cli, vm,
                     json_pack("[s, s, s, s, s, s]", "/bin/sh", "-c", script, "sh", first, second),
                     NULL);
}

int copy_tree_in(struct cli *cli, const char *from, const struct place *to)
{
    static const char begin[] =
        "if [ -e \"$2\" ] || [ -L \"$2\" ]; then echo \"$2 is there already" MERGES
        "\" >&2; exit 1; fi; "
        "rm -rf -- \"$1\" && mkdir -- \"$1\"";
    static const char finish[] =
        "if [ -e \"$2\" ]; then echo \"$2 is there now" MERGES "\" >&2; exit 1; fi; "
        "mv -- \"$1\" \"$2\"";
    AUTO(tree_fini) struct tree tree = { 0 };
    AUTO(buf_fini) struct buf path = { 0 }, part = { 0 };
    int r = tree_walk(from, &tree);
    if (r == CLI_OK)
        r = copy_guest_target(cli, to, from, &path);
    if (r != CLI_OK)
        return r;
    buf_printf(&part, "%s" PART, (char *)path.data);
    buf_add(&part, "", 1);
    const char *root = (char *)part.data;
    r = guest_script(cli, to->vm, begin, root, (char *)path.data);
    if (r != CLI_OK)
        return r;
    r = guest_make(cli, to->vm, root, &tree, MAKE_FOLDERS);
    if (r == CLI_OK)
        r = files_send(cli, from, to->vm, root, &tree);
    if (r == CLI_OK)
        r = guest_make(cli, to->vm, root, &tree, MAKE_LINKS);
    if (r == CLI_OK)
        r = guest_make(cli, to->vm, root, &tree, MAKE_MODES);
    if (r == CLI_OK)
        r = guest_script(cli, to->vm, finish, root, (char *)path.data);
    if (r != CLI_OK)
        guest_run(cli, to->vm, json_pack("[s, s, s, s]", "rm", "-rf", "--", root), NULL);
    tree_tell_left_out(&tree, from);
    return r;
}

/* ---- out of a guest ---- */

/* Its folders have names of one or more plain parts (2). */
static bool name_plain(const char *name)
{
    for (const char *part = name; *part;) {
        size_t len = strcspn(part, "/");
        if (!len || len > NAME_MAX || (len == 1 && part[0] == '.') ||
            (len == 2 && memcmp(part, "..", 2) == 0))
            return false;
        part += len;
        if (*part && !*++part)
            return false; /* ends with a slash */
    }
    return strlen(name) < PATH_MAX / 2;
}

/* "f 644 123", "./a/b" and a link's target, each with a NUL behind it. */
static int list_parse(const struct place *from, const struct buf *list, struct tree *tree)
{
    const char *at = (const char *)list->data, *end = at + list->len;
    while (at < end) {
        const char *texts[3];
        char type = 0, more;
        unsigned mode = 0;
        unsigned long long size = 0;
        for (unsigned i = 0; i < 3; i++) {
            const char *stop = at < end ? memchr(at, 0, (size_t)(end - at)) : NULL;
            texts[i] = stop ? at : NULL;
            at = stop ? stop + 1 : end;
        }
        const char *name = texts[2] && texts[1][0] == '.' ? texts[1] + 1 : NULL;
        bool root = name && !*name;
        name = root || !name ? name : *name == '/' ? name + 1 : NULL;
        AUTO(json_decref) json_t *utf8 = name ? json_string(name) : NULL;
        if (!utf8 || sscanf(texts[0], "%c %o %llu%c", &type, &mode, &size, &more) != 3 ||
            (!root && (!*name || !name_plain(name))) || root != (tree->count == 0) ||
            (root && type != 'd') || size > INT64_MAX) {
            cli_say("%s:%s: what find in %s says of a file there makes no sense, or its name is no "
                    "UTF-8",
                    from->vm, from->path, from->vm);
            return CLI_FAILED;
        }
        if (type == 'd' || type == 'f' || type == 'l')
            tree_add(tree, type, mode & 0777, size, name, texts[2]);
        else
            tree->left_out++;
    }
    if (tree->count)
        return CLI_OK;
    cli_say("%s:%s: find in %s lists nothing", from->vm, from->path, from->vm);
    return CLI_FAILED;
}

/* By a file of its own in the guest, since a command's output has its limits. */
static int guest_list(struct cli *cli, const struct place *from, struct tree *tree)
{
    static const char script[] =
        "[ -e \"$1\" ] || { echo \"$1: No such file or directory\" >&2; exit 1; }\n"
        "cd \"$1\" && f=$(umask 077; mktemp) || exit\n"
        "echo \"$f\"\n"
        "if find . -maxdepth 0 -printf '' 2>/dev/null; then\n"
        "  find . -printf '%y %m %s\\0%p\\0%l\\0' >\"$f\"\n"
        "else\n"
        "  find . -exec sh -c 'for n do\n"
        "    if [ -L \"$n\" ]; then t=l; elif [ -d \"$n\" ]; then t=d; elif [ -f \"$n\" ]; then "
        "t=f; else t=o; fi\n"
        "    printf \"%s %s\\\\0%s\\\\0%s\\\\0\" $t \"$(stat -c \"%a %s\" -- \"$n\")\" \"$n\" "
        "\"$([ $t = l ] && readlink -- \"$n\")\"\n"
        "  done' sh {} + >\"$f\"\n"
        "fi";
    AUTO(buf_fini) struct buf said = { 0 }, list = { 0 };
    int r =
        guest_run(cli, from->vm,
                  json_pack("[s, s, s, s, s]", "/bin/sh", "-c", script, "sh", from->path), &said);
    if (r != CLI_OK)
        return r;
    buf_add(&said, "", 1);
    char *file = (char *)said.data;
    file[strcspn(file, "\n")] = 0;
    AUTO(json_decref) json_t *utf8 = json_string(file);
    bool end = false;
    if (!utf8 || *file != '/') {
        cli_say("what mktemp in %s says makes no sense", from->vm);
        return CLI_FAILED;
    }
    while (r == CLI_OK && !end && list.len < LIST_MAX)
        r = guest_read_some(cli, from->vm, file, list.len, &list, &end);
    guest_run(cli, from->vm, json_pack("[s, s, s, s]", "rm", "-f", "--", file), NULL);
    if (r == CLI_OK && !end) {
        cli_say("%s:%s: there are too many files", from->vm, from->path);
        r = CLI_FAILED;
    }
    return r == CLI_OK ? list_parse(from, &list, tree) : r;
}

/* The folder that `name` lies in, part by part (2); *last is its last part. */
static int parent_open(int root, const char *name, const char **last)
{
    int at = fcntl(root, F_DUPFD_CLOEXEC, 0);
    for (const char *slash; at >= 0 && (slash = strchr(name, '/')); name = slash + 1) {
        char part[NAME_MAX + 1];
        snprintf(part, sizeof part, "%.*s", (int)(slash - name), name);
        int next = openat(at, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        close(at);
        at = next;
    }
    *last = name;
    return at;
}

static int said_why(const struct entry *e)
{
    cli_say("%s: %s", e->name, strerror(errno));
    return CLI_FAILED;
}

static int file_make(struct cli *cli, const struct place *from, const struct entry *e, int dir,
                     const char *name)
{
    AUTO(free) char *there = NULL;
    AUTO(fd_close)
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return said_why(e);
    if (asprintf(&there, "%s/%s", from->path, e->name) < 0)
        abort();
    int r = copy_receive(cli, &(struct place){ from->vm, there }, e->size, fd);
    return r == CLI_OK && fchmod(fd, e->mode) < 0 ? said_why(e) : r;
}

static int entry_make(struct cli *cli, const struct place *from, const struct entry *e, int root)
{
    const char *name;
    AUTO(fd_close) int dir = parent_open(root, e->name, &name);
    if (dir < 0)
        return said_why(e);
    if (e->type == 'f')
        return file_make(cli, from, e, dir, name);
    int r = e->type == 'd' ? mkdirat(dir, name, 0700) : symlinkat(e->target, dir, name);
    return r < 0 ? said_why(e) : CLI_OK;
}

/* When all is in them; the folder itself is the first, and last here. */
static int modes_set(const struct tree *tree, int root)
{
    for (size_t i = tree->count; i-- > 0;) {
        const struct entry *e = &tree->entries[i];
        const char *name;
        if (e->type != 'd')
            continue;
        AUTO(fd_close) int dir = parent_open(root, e->name, &name);
        AUTO(fd_close)
        int fd = dir < 0 || !*name
                     ? -1
                     : openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fchmod(*name ? fd : dir, e->mode) < 0)
            return said_why(e);
    }
    return CLI_OK;
}

static int tree_make(struct cli *cli, const struct place *from, const struct tree *tree, int root)
{
    int r = CLI_OK;
    for (size_t i = 1; r == CLI_OK && i < tree->count; i++) {
        tree_progress(cli, tree, i + 1);
        r = entry_make(cli, from, &tree->entries[i], root);
    }
    return r == CLI_OK ? modes_set(tree, root) : r;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

int copy_tree_out(struct cli *cli, const struct place *from, const char *to)
{
    AUTO(tree_fini) struct tree tree = { 0 };
    AUTO(buf_fini) struct buf path = { 0 }, part = { 0 };
    struct stat st;
    int r = copy_target(to, from->path, &path);
    if (r != CLI_OK)
        return r;
    const char *final = (char *)path.data;
    if (lstat(final, &st) == 0) {
        cli_say("%s is there already" MERGES, final);
        return CLI_FAILED;
    }
    r = guest_list(cli, from, &tree);
    if (r != CLI_OK)
        return r;
    buf_printf(&part, "%s" PART, final);
    buf_add(&part, "", 1);
    const char *name = (char *)part.data;
    nftw(name, remove_one, WALK_FDS, FTW_PHYS | FTW_DEPTH); /* of one that was interrupted */
    AUTO(fd_close) int root = -1;
    if (mkdir(name, 0700) < 0 ||
        (root = open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0) {
        cli_say("%s: %s", name, strerror(errno));
        return CLI_FAILED;
    }
    r = tree_make(cli, from, &tree, root);
    if (r == CLI_OK && rename(name, final) < 0) {
        cli_say("%s: %s", final, strerror(errno));
        r = CLI_FAILED;
    }
    if (r != CLI_OK)
        nftw(name, remove_one, WALK_FDS, FTW_PHYS | FTW_DEPTH);
    tree_tell_left_out(&tree, from->path);
    return r;
}
