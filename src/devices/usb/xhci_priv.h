/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside the xHCI controller: its registers, and what xhci.c (registers, ports, life) and
 * xhci_rings.c (rings, commands, transfers) share. Sections are those of the xHCI
 * specification 1.1.
 */
#ifndef DEVICES_USB_XHCI_PRIV_H
#define DEVICES_USB_XHCI_PRIV_H

#include "devices/input.h"
#include "devices/io_work.h"
#include "devices/usb/xhci.h"
#include "machine/machine.h"

enum { XHCI_SLOTS = 8, XHCI_ENDPOINTS = 31, XHCI_PORTS = 8, XHCI_USB2_PORTS = 4 };
enum { /* 5.4 */
       CMD_RUN = 1 << 0,
       CMD_RESET = 1 << 1,
       CMD_INTERRUPTS = 1 << 2,
       CMD_SAVE = 1 << 8,
       CMD_RESTORE = 1 << 9,
       STS_HALTED = 1 << 0,
       STS_ERROR = 1 << 2,
       STS_EVENT = 1 << 3,
       STS_PORT = 1 << 4,
       STS_RESTORE_ERROR = 1 << 10,
       CRCR_STOP = 1 << 1,
       CRCR_ABORT = 1 << 2,
       CRCR_RUNNING = 1 << 3,
       IMAN_PENDING = 1,
       IMAN_ENABLE = 2,
       ERDP_BUSY = 1 << 3,
};
enum xhci_ep_state { EP_DISABLED, EP_RUNNING, EP_HALTED, EP_STOPPED, EP_ERROR };
enum xhci_slot_state { SLOT_DISABLED, SLOT_DEFAULT, SLOT_ADDRESSED, SLOT_CONFIGURED };

struct xhci_ring { /* where the next TRB is, and which cycle bit makes it ours */
    uint64_t at;
    uint8_t cycle;
    uint8_t reserved[7];
};

struct xhci_endpoint {
    struct xhci_ring ring;
    uint8_t state; /* enum xhci_ep_state */
    uint8_t type;  /* as in the endpoint context */
    uint8_t rung;  /* there may be TRBs */
    uint8_t reserved[5];
};

struct xhci_slot {
    uint64_t context; /* gpa of the device context */
    uint8_t enabled, state, port;
    uint8_t reserved[5];
    struct xhci_endpoint endpoints[XHCI_ENDPOINTS]; /* by device context index - 1 */
};

struct xhci_regs {
    struct pci_regs pci;
    /* dev.lock */
    uint64_t dcbaap, erstba, erdp;
    uint32_t usbcmd, usbsts, dnctrl, config, iman, imod, erstsz;
    uint32_t doorbells[XHCI_SLOTS + 1]; /* bit per target; [0]: the command ring */
    uint32_t portsc[XHCI_PORTS];
    uint32_t port_events; /* to be posted, bit per port */
    uint32_t reserved;
    struct hid hids[XHCI_USB2_PORTS];
    /* io_loop */
    struct xhci_ring command;
    uint8_t command_running; /* dev.lock */
    uint8_t event_ready;     /* the event ring's segment was looked up */
    uint8_t event_cycle;
    uint8_t event_reserved[5];
    uint64_t event_base; /* of the segment; size and next in TRBs */
    uint32_t event_size, event_next;
    struct xhci_slot slots[XHCI_SLOTS];
    uint32_t kept; /* CMD_SAVE was given, and CMD_RUN not since; dev.lock */
    uint32_t kept_next;
};

struct xhci_port_input {
    struct xhci *xhci;
    unsigned port;
    struct input_handler handler;
    bool added;         /* main loop */
    atomic_bool posted; /* input_update is on its way to the main loop */
};

struct xhci {
    struct pci_device pci;
    struct xhci_regs regs;
    struct io_work work;
    bool paused;         /* dev.lock: what people do is lost */
    struct input *input; /* borrowed; may be NULL */
    struct xhci_port_input inputs[XHCI_USB2_PORTS];
};

/* xhci_rings.c; io_loop. Everything that there is to do while the controller runs. */
void xhci_run(struct xhci *xhci);
int xhci_rings_check(const struct xhci_regs *regs, struct err *err);
extern const struct state_desc xhci_ring_state, xhci_slot_state;

/* xhci.c; with dev.lock. */
void xhci_update_irq(struct xhci *xhci);
/* An event was posted: an interrupt, unless the driver is at it. */
void xhci_event_posted(struct xhci *xhci);
/* The configuration of a device changed: it takes people's input now, or no longer. */
void xhci_input_changed(struct xhci *xhci, unsigned port);

#endif
