/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a helper process locks itself down before it looks at anything hostile: no new privileges, a
 * root of its own with nothing in it but copies of the files named (or Landlock, where name spaces
 * are refused), no capabilities, limits, a seccomp filter. It keeps the host's network.
 *
 * confine() is called once, while the process has one thread. Needs libseccomp: its users link
 * confine_dep.
 */
#ifndef BASE_CONFINE_H
#define BASE_CONFINE_H

#include "base/err.h"

#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct confine_file {
    const char *path; /* a file of at most 1 MiB, or a directory when `directory` */
    const char *name; /* where the root of its own has it: "etc/hosts" */
    bool directory;   /* not copied but bound, read-only: for sockets in it */
    bool read;        /* of a directory: the files below it can be read, too */
    const char *text; /* the content instead of a copy of `path` (which may be NULL) */
};

struct confine_call {
    int call;
    struct scmp_arg_cmp arg;
};

struct confine_plan {
    const char *name; /* the program */
    pid_t parent;     /* whose death is ours; 0: nobody's */
    const struct confine_file *files;
    unsigned file_count;
    bool keep_ids;       /* stay who we are: a socket lets only us in */
    bool files_are_ours; /* the same where there is no root of its own: only we can read them */
    bool threads;        /* more of them will be made */
    unsigned open_files;
    const int *calls; /* allowed besides those that every program needs */
    unsigned call_count;
    const struct confine_call *conditional; /* allowed when the argument matches */
    unsigned conditional_count;
};

/* *summary: what was put on, for the parent's log; *own_root: are the files at their new names?
 * Fails only where seccomp does, and when the parent is gone. */
int confine(const struct confine_plan *plan, bool *own_root, char *summary, size_t len,
            struct err *err);

/* ---- single layers, for processes that confine themselves in steps ---- */

/* The root becomes an empty directory that cannot be written, for all threads and for the mount
 * name space, which must be ours: nothing else is left in it. */
bool confine_empty_root(const char *name);
/* Into a filter. Return 0 or -errno. */
int confine_allow(scmp_filter_ctx filter, const int *calls, unsigned count);
int confine_allow_some(scmp_filter_ctx filter, const struct confine_call *calls, unsigned count);
/* One id in the user name space of process `pid` ("self"), as anybody may map it. */
bool confine_map_self(const char *pid, uid_t uid, uid_t host_uid, gid_t gid, gid_t host_gid);
/* For good, on all threads. */
bool confine_ids(uid_t uid, gid_t gid);
/* Gives up all of them, on this thread. */
bool confine_capabilities(void);

#endif
