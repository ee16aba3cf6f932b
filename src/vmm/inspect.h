/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The state of devices and vCPUs as JSON, by their state tables. Main loop, machine not running. */
#ifndef VMM_INSPECT_H
#define VMM_INSPECT_H

#include "base/json.h"
#include "machine/machine.h"

json_t *inspect_state(const struct state_desc *desc, const void *state);
json_t *inspect_devices(struct machine *m); /* [{"id", "type", "about"}] */
int inspect_device(struct machine *m, const char *id, json_t **out, struct err *err);
int inspect_vcpu(struct machine *m, unsigned index, json_t **out, struct err *err);

#endif
