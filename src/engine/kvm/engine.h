/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The KVM engine: the host's hardware virtualization. Everything about it is behind
 * machine/engine.h. */
#ifndef ENGINE_KVM_ENGINE_H
#define ENGINE_KVM_ENGINE_H

#include "machine/engine.h"

extern const struct engine_type engine_kvm;

#endif
