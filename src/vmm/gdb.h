/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The remote protocol of gdb, "all-stop": packets in, answers out. What it talks about is behind
 * struct gdb_target, so the protocol is tested and fuzzed without a machine; debugger.c has the
 * target that is one.
 *
 * vCPU n is gdb's thread n + 1. Main loop's thread only.
 */
#ifndef VMM_GDB_H
#define VMM_GDB_H

#include "base/cleanup.h"
#include "base/err.h"
#include "base/text.h"
#include "engine/x86.h"
#include "machine/engine.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GDB_MAX_CPUS = 255, GDB_MAX_POINTS = 64, GDB_MAX_PACKET = 16384 };

enum gdb_action { GDB_HOLD, GDB_CONTINUE, GDB_STEP };

/* All but stop are called while the target stands. They return 0 or -errno. */
struct gdb_target {
    unsigned (*cpus)(void *arg);
    int (*get_state)(void *arg, unsigned cpu, struct arch_state *out);
    int (*set_state)(void *arg, unsigned cpu, const struct arch_state *state);
    int (*read)(void *arg, unsigned cpu, uint64_t gva, void *out, size_t len);
    int (*write)(void *arg, unsigned cpu, uint64_t gva, const void *data, size_t len);
    /* For all vCPUs from now on; an error leaves the old ones. */
    int (*set_points)(void *arg, const struct debug_point *points, unsigned count);
    void (*go)(
        void *arg,
        const enum gdb_action *actions); /* one for each vCPU; gdb_stopped comes some time later */
    void (*stop)(void *arg);             /* returns when it stands */
    void (*detach)(void *arg);           /* no points, everything goes on */
    void (*kill)(void *arg);
};

struct gdb {
    const struct gdb_target *target;
    void *arg;
    struct buf out; /* bytes for the debugger; the carrier sends and empties it */
    bool running;   /* the debugger waits for a stop reply */

    /* private */
    enum { GDB_IDLE, GDB_BODY, GDB_SUM1, GDB_SUM2 } state;
    uint8_t packet[GDB_MAX_PACKET];
    size_t len;
    bool too_long, no_ack, detached;
    uint8_t sum, sum_sent;
    unsigned cpu;      /* that registers and memory are asked of */
    unsigned step_cpu; /* Hc */
    struct {
        struct debug_point point;
        char type; /* '0' to '4' */
    } points[GDB_MAX_POINTS];
    unsigned point_count;
    char last_stop[128];
};

/* A debugger connected; the target stands. */
void gdb_init(struct gdb *gdb, const struct gdb_target *target, void *arg);
void gdb_fini(struct gdb *gdb);
/* Bytes from the debugger. False: it asked to end the connection. */
bool gdb_feed(struct gdb *gdb, const uint8_t *data, size_t len);
/* The target stands again: at a point, after a step, or (hit NULL) because it was stopped. */
void gdb_stopped(struct gdb *gdb, unsigned cpu, const struct debug_hit *hit);
/* The VM ends. */
void gdb_ended(struct gdb *gdb, int status);

#endif
