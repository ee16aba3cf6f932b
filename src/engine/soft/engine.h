/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The soft engine: Bedplate's own x86-64 on x86-64. Everything about it is behind machine/engine.h.
 */
#ifndef ENGINE_SOFT_ENGINE_H
#define ENGINE_SOFT_ENGINE_H

#include "machine/engine.h"

extern const struct engine_type engine_soft;

#endif
