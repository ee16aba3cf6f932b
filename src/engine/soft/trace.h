/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the engine can write down for whoever debugs it: executed blocks, and a map of translated
 * code for perf. Files are opened when the engine is created, for the VMM locks itself out of the
 * file system afterwards.
 */
#ifndef ENGINE_SOFT_TRACE_H
#define ENGINE_SOFT_TRACE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct block;
struct soft_vcpu;
struct trace;

/* path: of the trace of blocks, or NULL; perf: write /tmp/perf-PID.map. */
int trace_create(const char *path, bool perf, struct trace **out, struct err *err);
void trace_destroy(struct trace *t);
/* Any vCPU thread; both do nothing where t is NULL or not asked for. */
void trace_block(struct trace *t, const struct soft_vcpu *v, const struct block *b);
void trace_translated(struct trace *t, const struct soft_vcpu *v, const uint8_t *code, size_t size);

#endif
