/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Limits on what a disk may do each second: bytes and operations, read, written and together.
 *
 * A limit is a leaky bucket: each operation pours in what it costs, the bucket leaks `rate` a
 * second, and who finds it fuller than its size waits. Without a burst the size is a tenth of a
 * second's worth; with one, the rate may be exceeded up to `burst` a second for `burst_s` seconds.
 *
 * Nodes of one group share its limits. Within a queue reads and writes keep their own order and do
 * not wait for each other. A flush never waits, and a block_drain lets everything pass. Bytes are
 * those of reads, writes and zeros written; a discard counts as one operation.
 */
#ifndef BLOCK_THROTTLE_H
#define BLOCK_THROTTLE_H

#include "block/block.h"

enum throttle_kind {
    THROTTLE_BPS,
    THROTTLE_BPS_READ,
    THROTTLE_BPS_WRITE,
    THROTTLE_IOPS,
    THROTTLE_IOPS_READ,
    THROTTLE_IOPS_WRITE,
    THROTTLE_KINDS,
};

struct throttle_limit {
    uint64_t rate;    /* a second; 0: no limit */
    uint64_t burst;   /* a second; 0: no burst, otherwise at least rate */
    uint64_t burst_s; /* how long, from 1 on; 0: 1 */
};

struct throttle_limits {
    struct throttle_limit of[THROTTLE_KINDS];
};

enum { THROTTLE_MAX_BURST_S = 3600 };
#define THROTTLE_MAX_RATE (1ull << 50)

/* What users call a kind: "bps", "bps-rd", "bps-wr", "iops", "iops-rd", "iops-wr". */
extern const char *const throttle_names[THROTTLE_KINDS];

/* 0, or -EINVAL with a sentence. */
int throttle_check(const struct throttle_limits *limits, struct err *err);

/* Any thread. The name, which may be NULL, is for throttle_group_name alone. */
struct throttle_group;
int throttle_group_create(const char *name, const struct throttle_limits *limits,
                          struct throttle_group **out, struct err *err);
struct throttle_group *throttle_group_ref(struct throttle_group *group);
void throttle_group_unref(struct throttle_group *group);
DEFINE_AUTO(struct throttle_group *, throttle_group_unref)
const char *throttle_group_name(const struct throttle_group *group);
/* What waits is looked at again with the new limits (which were checked). */
void throttle_group_set(struct throttle_group *group, const struct throttle_limits *limits);
void throttle_group_get(struct throttle_group *group, struct throttle_limits *out);

/* A node in front of another, which it takes, on failure too. Refers to the group. */
int throttle_open(struct block_node *take_child, struct throttle_group *group,
                  struct block_node **out, struct err *err);

#endif
