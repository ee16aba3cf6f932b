/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bedplate-img: the table of commands, the command line, help and man page.
 *
 * Letters and meanings are qemu-img's where it has them. A mistake is answered with one sentence
 * and status 1.
 */
#include "img/img.h"

#include "base/checked.h"
#include "base/loop.h"
#include "base/text.h"
#include "img/ova.h"

#include <string.h>

/* ---- the table ---- */

/* clang-format off */
#define F_FORMAT { 'f', "format", "FORMAT", "format of FILE; without it, its magic decides" }
#define F_QUIET  { 'q', "quiet", NULL, "print nothing but errors" }
#define F_SHARE  { 'U', "force-share", NULL, "take no lock: look at an image that a VM is using" }
#define F_OUTPUT { 0, "output", "human|json", "how to print" }, { 0, "json", NULL, "the same as --output=json" }
#define F_PROGRESS { 'p', "progress", NULL, "show progress also when stderr is no terminal" }
#define F_CACHE  { 't', "cache", "MODE", "accepted for qemu-img's sake; the host's cache is used and flushed at the end" }
#define F_KEY { 0, "key-file", "FILE", "the passphrase of encrypted images, and nothing else" }, \
              { 0, "object", "secret,id=ID,file=FILE", "the same, in qemu-img's words; may be repeated" }
#define F_DISK { 0, "disk", "ID|N", "which disk of an OVA" }
#define F_END    { 0, NULL, NULL, NULL }

static const struct flag create_flags[] = {
    { 'f', "format", "FORMAT", "format to create (raw)" },
    { 'b', "backing", "FILE", "read what was never written from FILE" },
    { 'F', "backing-format", "FORMAT", "format of the backing file" },
    { 'o', "options", "NAME=VALUE,...", "options of the format; -o help lists them" },
    { 'u', "unsafe", NULL, "do not look for the backing file; needs SIZE" },
    F_QUIET, F_KEY, F_END };
static const struct flag info_flags[] = {
    F_FORMAT, F_OUTPUT, F_SHARE, { 0, "backing-chain", NULL, "of all images below, too" }, F_KEY, F_END };
static const struct flag check_flags[] = {
    F_FORMAT, { 'r', "repair", "leaks|all", "put right what is safe to" }, F_OUTPUT, F_QUIET, F_SHARE, F_KEY, F_END };
static const struct flag convert_flags[] = {
    F_FORMAT, F_DISK, { 'O', "target-format", "FORMAT", "format of TARGET (raw)" },
    { 'o', "options", "NAME=VALUE,...", "options of the target's format" },
    { 'c', "compress", NULL, "pack clusters" },
    { 'b', "backing", "FILE", "store in TARGET only what differs from FILE" },
    { 'B', "target-backing", "FILE", "the same as -b" },
    { 'F', "backing-format", "FORMAT", "format of that file" },
    { 'l', "snapshot", "NAME", "convert this internal snapshot" },
    { 'm', "parallel", "N", "workers (two for each CPU, 8 to 16)" },
    { 'W', "out-of-order", NULL, "accepted: writes are always out of order" },
    { 'n', "no-create", NULL, "TARGET exists; write over it" },
    { 'S', "sparse", "SIZE", "zeros of this length stay unwritten (4K); 0: write all" },
    { 'T', "source-cache", "MODE", "accepted, as -t" },
    F_CACHE, F_PROGRESS, F_QUIET, F_SHARE, F_KEY,
    { 0, "target-key-file", "FILE", "the passphrase of TARGET, if it is another one" }, F_END };
static const struct flag resize_flags[] = {
    F_FORMAT, { 0, "shrink", NULL, "allow the disk to lose its end" },
    { 0, "preallocation", "MODE", "off, metadata, falloc or full, for the new part" }, F_QUIET, F_KEY, F_END };
static const struct flag snapshot_flags[] = {
    F_FORMAT, { 'l', "list", NULL, "list the snapshots (the default)" }, { 'c', "create", "NAME", "make one" },
    { 'a', "apply", "NAME", "go back to it; what was written since is lost" },
    { 'd', "delete", "NAME", "delete it" },
    { 0, "overlay", "NEW", "make a qcow2 NEW over FILE instead; dirty bitmaps move there" }, F_OUTPUT, F_QUIET, F_SHARE, F_KEY, F_END };
static const struct flag bitmap_flags[] = {
    F_FORMAT, { 0, "add", NULL, "make a dirty bitmap" }, { 0, "remove", NULL, "remove it" },
    { 'g', "granularity", "SIZE", "bytes for each bit (64K)" }, F_QUIET, F_KEY, F_END };
static const struct flag commit_flags[] = {
    F_FORMAT, { 'b', "base", "FILE", "the image below to write into (the next)" },
    { 'd', "keep", NULL, "do not empty FILE afterwards" },
    { 0, "resume", NULL, "go on where a commit that was killed left off; the base is as it left it" }, F_CACHE, F_PROGRESS, F_QUIET, F_KEY, F_END };
static const struct flag rebase_flags[] = {
    F_FORMAT, { 'b', "backing", "FILE", "the new backing file; \"\": none, all data moves into FILE" },
    { 'F', "backing-format", "FORMAT", "its format" },
    { 'u', "unsafe", NULL, "change only the name: the content below must be the same" },
    F_CACHE, F_PROGRESS, F_QUIET, F_KEY, F_END };
static const struct flag compare_flags[] = {
    F_FORMAT, F_DISK, { 'F', "second-format", "FORMAT", "format of the second image" },
    { 's', "strict", NULL, "sizes and allocation count, too" }, F_PROGRESS, F_QUIET, F_SHARE, F_KEY, F_END };
static const struct flag map_flags[] = { F_FORMAT, F_DISK, F_OUTPUT, F_SHARE, F_KEY, F_END };
static const struct flag measure_flags[] = {
    F_FORMAT, F_DISK, { 'O', "target-format", "FORMAT", "format to measure for (raw)" },
    { 'o', "options", "NAME=VALUE,...", "options of that format" },
    { 0, "size", "SIZE", "of a new, empty disk instead of FILE" }, F_OUTPUT, F_SHARE, F_KEY, F_END };
static const struct flag dd_flags[] = {
    F_FORMAT, { 'O', "target-format", "FORMAT", "format of the output (raw)" }, F_SHARE, F_KEY, F_END };
static const struct flag bench_flags[] = {
    F_FORMAT, { 'c', "count", "N", "requests (75000)" }, { 'd', "depth", "N", "at once (64)" },
    { 0, "queues", "N", "that many at once in each of N queues, each with a thread (1)" },
    { 's', "buffer-size", "SIZE", "of each request (4K)" }, { 'S', "step-size", "SIZE", "from one to the next (the buffer's)" },
    { 'o', "offset", "SIZE", "where to begin (0)" }, { 'w', "write", NULL, "write instead of reading: destroys the content" },
    { 0, "random", NULL, "at random places instead" }, { 't', "cache", "MODE", "none: go around the host's cache" },
    { 0, "no-uring", NULL, "use threads although io_uring works" }, F_OUTPUT, F_QUIET, F_SHARE, F_KEY, F_END };
static const struct flag serve_flags[] = {
    F_FORMAT, { 0, "socket", "PATH", "listen on a Unix socket that only we may use" },
    { 0, "port", "N", "listen on 127.0.0.1" }, { 0, "bind", "ADDRESS", "listen there instead; needs TLS unless it is of this host" },
    { 0, "name", "NAME", "of the export (the empty name)" }, { 0, "description", "TEXT", "for clients that ask" },
    { 'r', "read-only", NULL, "clients may not write" },
    { 0, "persistent", NULL, "go on after the last client has left, until a signal" },
    { 0, "connections", "N", "at most, at once (16)" }, { 'm', "parallel", "N", "workers (8); 0: one request of each client at a time" },
    { 0, "bitmap", "NAME,...", "show dirty bitmaps as qemu:dirty-bitmap:NAME" },
    { 0, "tls-certificates", "DIRECTORY", "clients must use TLS; server-cert.pem, server-key.pem; with ca-cert.pem they need certificates, too" },
    { 0, "tls-psk", "FILE", "clients must use TLS with a key of FILE, lines USER:HEXKEY" }, F_QUIET, F_SHARE, F_KEY, F_END };

static const struct command commands[] = {
    { "create", "FILE [SIZE]", "make an image", create_flags, 1, 2, img_create },
    { "info", "FILE", "print what an image is", info_flags, 1, 1, img_info },
    { "check", "FILE", "look for damage; status 2: found, 3: only leaks", check_flags, 1, 1, img_check },
    { "convert", "SOURCE TARGET", "copy into another format", convert_flags, 2, 2, img_convert },
    { "resize", "FILE [+|-]SIZE", "grow or shrink", resize_flags, 2, 2, img_resize },
    { "snapshot", "FILE", "snapshots inside of an image, or an overlay over it", snapshot_flags, 1, 1, img_snapshot },
    { "bitmap", "FILE NAME", "persistent dirty bitmaps", bitmap_flags, 2, 2, img_bitmap },
    { "commit", "FILE", "write an image's changes into the one below", commit_flags, 1, 1, img_commit },
    { "rebase", "FILE", "change the backing file", rebase_flags, 1, 1, img_rebase },
    { "compare", "FIRST SECOND", "compare content; status 1: it differs", compare_flags, 2, 2, img_compare },
    { "map", "FILE", "print where data lies", map_flags, 1, 1, img_map },
    { "measure", "[FILE]", "print how much room a conversion takes", measure_flags, 0, 1, img_measure },
    { "dd", "if=FILE of=FILE [bs=SIZE] [count=N] [skip=N]", "copy a part", dd_flags, 2, 8, img_dd },
    { "serve", "FILE", "make an image an NBD export", serve_flags, 1, 1, img_serve },
    { "bench", "FILE", "measure requests per second", bench_flags, 1, 1, img_bench },
};
/* clang-format on */

/* ---- what the command line says ---- */

const char *call_flag(const struct call *call, const char *name)
{
    for (unsigned i = 0; call->command->flags[i].name; i++)
        if (!strcmp(call->command->flags[i].name, name))
            return call->values[i];
    return NULL;
}

bool call_json(const struct call *call)
{
    const char *output = call_flag(call, "output");
    return call_flag(call, "json") || (output && !strcmp(output, "json"));
}

bool call_quiet(const struct call *call) { return call_flag(call, "quiet"); }

int call_size(struct call *call, const char *name, uint64_t fallback, uint64_t *out)
{
    const char *text = call_flag(call, name);
    *out = fallback;
    if (!text)
        return 0;
    int r = size_parse(text, 1, out, &call->err);
    return r < 0 ? err_prefix(&call->err, "--%s", name) : 0;
}

int call_number(struct call *call, const char *name, uint64_t min, uint64_t max, uint64_t *out)
{
    const char *text = call_flag(call, name);
    if (!text)
        return 0;
    int r = number_parse(text, min, max, out, &call->err);
    return r < 0 ? err_prefix(&call->err, "--%s", name) : 0;
}

int call_image_open(struct call *call, struct image_options *options, struct image **out)
{
    int r = call_secret(call, &options->secret);
    return r < 0 ? r : image_open(options, out, &call->err);
}

int call_open(struct call *call, const char *path, const char *format, bool write,
              struct image **out)
{
    struct image_options options = {
        .path = path,
        .format = format,
        .readonly = !write,
        .no_lock = call_flag(call, "force-share") != NULL,
    };
    bool archive = format ? !strcmp(format, "ova") : ova_probe(path);
    if (!archive)
        return call_image_open(call, &options, out);
    if (write)
        return err_set(&call->err, EROFS, "%s: an OVA can only be read; convert it", path);
    struct ova *ova;
    int r = ova_open(path, &ova, &call->err);
    return r < 0 ? r : ova_open_disk(ova, call_flag(call, "disk"), out, &call->err);
}

/* ---- progress ---- */

void progress_start(struct progress *p, const struct call *call, uint64_t total)
{
    *p = (struct progress){ .total = total ? total : 1 };
    p->on = !call_quiet(call) && (call_flag(call, "progress") || isatty(STDERR_FILENO));
}

void progress_set(struct progress *p, uint64_t done)
{
    enum { WIDTH = 40 };
    if (!p->on || monotonic_ns() < p->next_ns)
        return;
    p->next_ns = monotonic_ns() + 100000000;
    double part = (double)done / (double)p->total;
    char bar[WIDTH + 1];
    memset(bar, '.', WIDTH);
    memset(bar, '#', (size_t)(part * WIDTH));
    bar[WIDTH] = 0;
    fprintf(stderr, "\r[%s] %5.1f %%", bar, part * 100);
}

void progress_end(struct progress *p)
{
    p->next_ns = 0;
    progress_set(p, p->total);
    if (p->on)
        fputc('\n', stderr);
}

/* ---- shared by commands ---- */

int walk_extents(struct image *image, uint64_t size, uint64_t step,
                 int (*fn)(void *arg, uint64_t offset, const struct image_extent *extent,
                           unsigned depth),
                 void *arg)
{
    for (uint64_t at = 0; at < size;) {
        struct image_extent extent;
        unsigned depth;
        uint64_t len = size - at < step ? size - at : step;
        int r = image_map(image, at, len, &extent, &depth);
        if (r == 0)
            r = fn(arg, at, &extent, depth);
        if (r < 0)
            return r;
        at += extent.len;
    }
    return 0;
}

/* ---- the command line ---- */

static void print_flag(const struct flag *f)
{
    char text[80];
    snprintf(text, sizeof text, "%c%c%c --%s%s%s", f->letter ? '-' : ' ',
             f->letter ? f->letter : ' ', f->letter ? ',' : ' ', f->name, f->arg ? " " : "",
             f->arg ? f->arg : "");
    printf("  %-36s %s\n", text, f->about);
}

static void help_command(const struct command *c)
{
    printf("bedplate-img %s [OPTION...] %s\n%s.\n\n", c->name, c->args, c->about);
    for (const struct flag *f = c->flags; f->name; f++)
        print_flag(f);
}

static void help(void)
{
    printf("bedplate-img COMMAND [OPTION...] ...: disk images\n\n");
    for (unsigned i = 0; i < ARRAY_LEN(commands); i++)
        printf("  %-10s %-46s %s\n", commands[i].name, commands[i].args, commands[i].about);
    printf("\nFormats:\n");
    for (unsigned i = 0; image_formats()[i]; i++)
        printf("  %-10s %s\n", image_formats()[i]->name, image_formats()[i]->about);
    printf("  %-10s %s\n", "ova", "virtual appliances; disks of them can be read");
    printf("\nbedplate-img COMMAND --help lists a command's options.\n");
}

static void help_man(void)
{
    printf(".TH BEDPLATE-IMG 1\n.SH NAME\nbedplate-img \\- create, check and convert disk images\n"
           ".SH SYNOPSIS\n.B bedplate-img\nCOMMAND [OPTION...] ...\n.SH COMMANDS\n");
    for (unsigned i = 0; i < ARRAY_LEN(commands); i++) {
        printf(".SS %s %s\n%s.\n", commands[i].name, commands[i].args, commands[i].about);
        for (const struct flag *f = commands[i].flags; f->name; f++) {
            printf(".TP\n.B ");
            if (f->letter)
                printf("\\-%c, ", f->letter);
            printf("\\-\\-%s%s%s\n%s.\n", f->name, f->arg ? " " : "", f->arg ? f->arg : "",
                   f->about);
        }
    }
    printf(".SH FORMATS\n");
    for (unsigned i = 0; image_formats()[i]; i++) {
        const struct image_format *format = image_formats()[i];
        printf(".SS %s\n%s.\n", format->name, format->about);
        for (const struct image_option *o = format->options; o && o->name; o++)
            printf(".TP\n.B %s\n%s.\n", o->name, o->about);
    }
    printf(".SH EXIT STATUS\n0: success. 1: a mistake or an error (compare: the images differ). "
           "check: 2 damage, 3 only leaks. compare: 2 an error.\n");
}

static int flag_give(struct call *call, unsigned i, const char *given, const char *value,
                     char **argv, int argc, int *at)
{
    const struct flag *f = &call->command->flags[i];
    if (!f->arg && value)
        return err_set(&call->err, EINVAL, "%s takes no value", given);
    if (f->arg && !value) {
        if (*at + 1 >= argc)
            return err_set(&call->err, EINVAL, "%s needs %s", given, f->arg);
        value = argv[++*at];
    }
    call->values[i] = value ? value : "";
    return strcmp(f->name, "object") ? 0 : call_add_object(call, value);
}

static int parse_long(struct call *call, char **argv, int argc, int *at)
{
    const char *name = argv[*at] + 2;
    size_t len = strcspn(name, "=");
    for (unsigned i = 0; call->command->flags[i].name; i++)
        if (strlen(call->command->flags[i].name) == len &&
            !strncmp(call->command->flags[i].name, name, len))
            return flag_give(call, i, argv[*at], name[len] ? name + len + 1 : NULL, argv, argc, at);
    return err_set(&call->err, EINVAL, "%s has no option --%.*s; see: bedplate-img %s --help",
                   call->command->name, (int)len, name, call->command->name);
}

static int parse_short(struct call *call, char **argv, int argc, int *at)
{
    const char *arg = argv[*at];
    for (unsigned k = 1; arg[k]; k++) {
        unsigned i = 0;
        while (call->command->flags[i].name && call->command->flags[i].letter != arg[k])
            i++;
        const struct flag *f = &call->command->flags[i];
        char given[3] = { '-', arg[k], 0 };
        if (!f->name)
            return err_set(&call->err, EINVAL, "%s has no option %s; see: bedplate-img %s --help",
                           call->command->name, given, call->command->name);
        bool rest = f->arg && arg[k + 1];
        int r = flag_give(call, i, given, rest ? arg + k + 1 : NULL, argv, argc, at);
        if (r < 0 || f->arg)
            return r;
    }
    return 0;
}

static int parse(struct call *call, int argc, char **argv)
{
    bool only_args = false;
    for (int i = 0; i < argc; i++) {
        int r = 0;
        if (!only_args && !strcmp(argv[i], "--"))
            only_args = true;
        else if (!only_args && !strncmp(argv[i], "--", 2))
            r = parse_long(call, argv, argc, &i);
        /* "-10G" is a size for resize. */
        else if (!only_args && argv[i][0] == '-' && argv[i][1] && !strchr("0123456789", argv[i][1]))
            r = parse_short(call, argv, argc, &i);
        else if (call->count == call->command->args_max)
            r = err_set(&call->err, EINVAL, "%s: unexpected argument %s", call->command->name,
                        argv[i]);
        else
            call->args[call->count++] = argv[i];
        if (r < 0)
            return r;
    }
    const char *output = call_flag(call, "output");
    if (output && strcmp(output, "json") && strcmp(output, "human"))
        return err_set(&call->err, EINVAL, "--output=%s: there is human and json", output);
    if (call->count < call->command->args_min)
        return err_set(&call->err, EINVAL, "%s needs: %s", call->command->name,
                       call->command->args);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        help();
        return argc < 2;
    }
    if (!strcmp(argv[1], "--help-man")) {
        help_man();
        return 0;
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
        printf("bedplate-img %s\n", BEDPLATE_VERSION);
        return 0;
    }
    struct call call = { 0 };
    for (unsigned i = 0; i < ARRAY_LEN(commands); i++)
        if (!strcmp(commands[i].name, argv[1]))
            call.command = &commands[i];
    if (!call.command) {
        fprintf(stderr, "bedplate-img: there is no command %s; see: bedplate-img --help\n",
                argv[1]);
        return 1;
    }
    for (int i = 2; i < argc; i++)
        if (!strcmp(argv[i], "--help")) {
            help_command(call.command);
            return 0;
        }
    int r = parse(&call, argc - 2, argv + 2);
    bool mistake = r < 0;
    if (r == 0)
        r = call.command->run(&call);
    call_forget_secrets(&call);
    if (r < 0) {
        fprintf(stderr, "bedplate-img: %s\n", call.err.code ? call.err.text : strerror(-r));
        return !mistake && !strcmp(call.command->name, "compare") ? 2 : 1;
    }
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "bedplate-img: cannot write the output: %s\n", strerror(errno));
        return 1;
    }
    return r;
}
