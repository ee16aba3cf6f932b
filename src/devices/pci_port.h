/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A PCI Express root port with one slot, into which a function can be plugged while the machine
 * runs (native hot-plug, PCI Express 3.0, 6.7).
 */
#ifndef DEVICES_PCI_PORT_H
#define DEVICES_PCI_PORT_H

#include "devices/pci.h"

struct pci_port_config {
    const char *id;
    unsigned devfn;  /* on the root bus */
    unsigned number; /* of its slot, for people: 1 and up */
    /* Main loop; the machine may run. on: the guest switched the power of a full slot on; what is
     * there shall be reset, then pci_port_power_good. off: it let go of what pci_port_ask asked
     * for. */
    void (*power)(void *arg, struct device *port, bool on);
    void *arg;
};

/* Adds it to the machine, which owns it. Main loop, before the machine runs. */
int pci_port_create(struct machine *m, struct pci_bus *bus, const struct pci_port_config *config,
                    struct device **out, struct err *err);

/* The rest: main loop. */
struct pci_device *pci_port_occupant(struct device *port); /* NULL: empty */
/* Puts a function into the empty slot. In a machine that has not run it has power; otherwise the
 * guest is told and switches that on, and `power` is called. The model keeps owning it. */
int pci_port_plug(struct device *port, struct pci_device *pci, struct err *err);
/* Takes it out; the guest sees it gone. The caller destroys it. */
struct pci_device *pci_port_unplug(struct device *port);
/* Asks the guest to let go of it, as the attention button does: it answers by switching the power
 * off, and `power` is called. -EBUSY: it is at it already. A guest that does not listen (its driver
 * is still taking the device in) can be asked again. */
int pci_port_ask(struct device *port, struct err *err);
/* Looks again whether `power` is to be called, after its owner had no time for it. */
void pci_port_check(struct device *port);
/* From `power`, once what is in the slot has been reset: the guest sees it. */
void pci_port_power_good(struct device *port);

#endif
