/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which engine and CPU model a VM gets. Main thread. */
#ifndef VMM_ENGINES_H
#define VMM_ENGINES_H

#include "engine/x86.h"
#include "machine/engine.h"

#include <stdbool.h>
#include <stddef.h>

/* `name`: "auto", "kvm" or "soft". `reason` (always filled): why this one, or what to know about
 * it. */
int engine_choose(const char *name, const struct engine_type **out, char *reason, size_t room,
                  struct err *err);
/* The model called `name`, or the engine's default for NULL. */
int engine_cpu_model(const struct engine_type *engine, const char *name,
                     const struct cpu_model **out, struct err *err);

#endif
