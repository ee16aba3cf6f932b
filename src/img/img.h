/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The disk tool: one table of commands (main.c) feeds parser, help and man page; the commands do
 * their work with block/image.h.
 */
#ifndef IMG_IMG_H
#define IMG_IMG_H

#include "base/err.h"
#include "block/image.h"

#include <stdbool.h>
#include <stdint.h>

enum { FLAG_MAX = 28, ARG_MAX = 16, SECRETS_MAX = 8 };

struct flag {
    char letter;      /* 0: long only */
    const char *name; /* long */
    const char *arg;  /* NULL: takes none */
    const char *about;
};

struct call; /* one run of a command */
struct command {
    const char *name, *args, *about;
    const struct flag *flags; /* ends with a NULL name */
    unsigned args_min, args_max;
    int (*run)(struct call *call); /* the exit status, or -errno with call->err */
};

struct call_secret {
    char id[64];
    struct image_secret secret;
};

struct call {
    const struct command *command;
    const char *values[FLAG_MAX]; /* by flag; "" for one without argument; NULL: not given */
    const char *args[ARG_MAX];
    unsigned count;
    struct call_secret secrets[SECRETS_MAX]; /* of --object and the flags that name key files */
    unsigned secret_count;
    struct err err;
};

/* NULL: not given. The name must be in the command's table. */
const char *call_flag(const struct call *call, const char *name);
bool call_json(const struct call *call); /* --output=json or --json */
bool call_quiet(const struct call *call);
/* A size of flag `name`, or `fallback`. */
int call_size(struct call *call, const char *name, uint64_t fallback, uint64_t *out);
int call_number(struct call *call, const char *name, uint64_t min, uint64_t max, uint64_t *out);

/* image_open with the passphrase given. */
int call_image_open(struct call *call, struct image_options *options, struct image **out);
/* Opens with --format and --force-share as given. */
int call_open(struct call *call, const char *path, const char *format, bool write,
              struct image **out);

/* Closes an image that was changed: r, or what closing it failed with. */
int call_close(struct call *call, struct image *image, int r);

/* ---- passphrases (secret.c) ---- */

int call_add_object(struct call *call, const char *text);
/* For images that are there; NULL: none given. */
int call_secret(struct call *call, const struct image_secret **out);
/* For the image to be made with these options; NULL: none given. */
int call_new_secret(struct call *call, const char *options, const struct image_secret **out);
void call_forget_secrets(struct call *call);

/* ---- progress ---- */

struct progress {
    bool on;
    uint64_t total;
    uint64_t next_ns;
};
void progress_start(struct progress *p, const struct call *call, uint64_t total);
void progress_set(struct progress *p, uint64_t done);
void progress_end(struct progress *p);

/* Walks [0, size) in steps of one kind: `fn` for each extent of image_map; stops at an error. */
int walk_extents(struct image *image, uint64_t size, uint64_t step,
                 int (*fn)(void *arg, uint64_t offset, const struct image_extent *extent,
                           unsigned depth),
                 void *arg);

int img_create(struct call *call);
int img_info(struct call *call);
int img_check(struct call *call);
int img_convert(struct call *call);
int img_resize(struct call *call);
int img_snapshot(struct call *call);
int img_overlay(struct call *call);
int img_bitmap(struct call *call);
int img_commit(struct call *call);
int img_rebase(struct call *call);
int img_compare(struct call *call);
int img_map(struct call *call);
int img_measure(struct call *call);
int img_dd(struct call *call);
int img_bench(struct call *call);
int img_serve(struct call *call);

#endif
