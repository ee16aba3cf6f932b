/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The two halves of bedplate cp: files, and folders made of them. All return a status of the
 * program, after they have said what is wrong. */
#ifndef CLI_COPY_H
#define CLI_COPY_H

#include "cli/guest.h"

/* A word of cp: a file here, or with vm one of a guest. */
struct place {
    const char *vm, *path;
};

/* ---- copy.c ---- */

#define PART ".bedplate-part" /* behind the name of what is not complete yet */

/* The whole of an open file, for one in the guest. name: for people. */
int copy_send(struct cli *cli, int fd, const char *name, uint64_t size, const char *vm,
              const char *path);
/* The guest may go on without end: no more than `size` comes. */
int copy_receive(struct cli *cli, const struct place *from, uint64_t size, int fd);
/* Where it arrives: a directory takes it under its own name. Texts with their NUL. */
int copy_guest_target(struct cli *cli, const struct place *to, const char *name, struct buf *path);
int copy_target(const char *to, const char *name, struct buf *path);

/* ---- copy_tree.c ---- */

int copy_tree_in(struct cli *cli, const char *from, const struct place *to);
int copy_tree_out(struct cli *cli, const struct place *from, const char *to);

#endif
