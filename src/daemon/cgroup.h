/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Control groups: how much of the host a VM's processes may take.
 *
 * Each VM has a group named by its id below the daemon's own, of every controller that the host
 * offers: version 2, or version 1, or some of each on a hybrid host. Where systemd runs, groups are
 * its business, and each VM is one of its scopes. Where neither can be had, VMs are not limited,
 * and cgroups_missing() says so. Loop only.
 */
#ifndef DAEMON_CGROUP_H
#define DAEMON_CGROUP_H

#include "base/loop.h"
#include "base/text.h"

#include <stdbool.h>
#include <sys/types.h>

struct cgroup_limits {
    unsigned cpu_limit;  /* percent of one CPU; 0: none */
    unsigned cpu_weight; /* 1 to 10000; 100 is usual */
    unsigned io_weight;
    uint64_t memory; /* bytes */
    unsigned tasks;  /* processes and threads */
};

enum { CGROUP_WORDS = 24 };

/* Finds out what the host offers, once, and says so in the log. */
void cgroups_begin(struct loop *loop, bool user);
void cgroups_end(void);
/* "cgroup v1: cpu memory io pids", "systemd". */
const char *cgroups_about(void);
/* A sentence, where a VM cannot be held to something; "": it can to all. */
const char *cgroups_missing(void);
bool cgroups_limit_cpu(void);
bool cgroups_weigh_io(void);

/* Makes the group, and fills `words` with what goes before bedplate-jail (*before) and behind it,
 * NULL-terminated; they are the caller's to free. */
int cgroup_make(const char *id, const struct cgroup_limits *limits, char *words[CGROUP_WORDS],
                unsigned *before, struct err *err);
/* pid: of a process in the group. 1: it is not known yet, `done` is going to be called with "" or
 * with what went wrong. */
int cgroup_limit(const char *id, pid_t pid, const struct cgroup_limits *limits,
                 void (*done)(void *arg, const char *wrong), void *arg, struct err *err);
/* Also this process, where `in` of the VM is; where it cannot be, that is logged. A scope of
 * systemd has it a little later. */
void cgroup_add(const char *id, pid_t in, pid_t pid);
/* When its processes have ended; what is left of them after a while is killed. */
void cgroup_remove(const char *id);

#endif
