/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The Intel 82574L network card, for guests and boot firmware without drivers for virtio.
 */
#ifndef DEVICES_NIC_E1000E_H
#define DEVICES_NIC_E1000E_H

#include "devices/pci.h"

struct net_backend;

struct e1000e_options {
    const char *id; /* "net0" */
    uint8_t mac[6];
    struct net_backend *take_backend; /* also on failure */
};

/* The caller plugs it in (pci_bus_add, machine_add_device) and owns it until then. */
int e1000e_create(struct machine *m, const struct e1000e_options *options, struct pci_device **out,
                  struct err *err);

#endif
