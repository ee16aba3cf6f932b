/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What exec and cp ask of a guest's agent. All return a status of the program, after they have said
 * what is wrong. */
#ifndef CLI_GUEST_H
#define CLI_GUEST_H

#include "cli/cli.h"

/* A command in the guest that must succeed; *out (may be NULL) gets its output. */
int guest_run(struct cli *cli, const char *vm, json_t *take_command, struct buf *out);
int guest_write(struct cli *cli, const char *vm, const char *path, const void *data, size_t len,
                bool append);
/* Appends what is there, a MiB at most. *end: there is no more for now. */
int guest_read_some(struct cli *cli, const char *vm, const char *path, uint64_t offset,
                    struct buf *out, bool *end);
/* Appends the member of an answer, which is base64. */
int guest_output(const json_t *answer, const char *name, struct buf *out);
json_t *guest_base64(const void *data, size_t len);

#endif
