/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The board: RAM and chips in their places, tables that describe them, and a kernel made ready to
 * run.
 *
 *   machine_create, board_create, (devices on board_pci_bus), board_finish, machine_start ...
 * board_destroy after machine_destroy
 *
 * All on the main loop unless said otherwise.
 */
#ifndef BOARD_BOARD_H
#define BOARD_BOARD_H

#include "base/cleanup.h"
#include "base/err.h"
#include "board/firmware.h"

#include <stddef.h>
#include <stdint.h>

struct machine;
struct device;
struct pci_bus;
struct pci_device;
struct board;
struct input;

enum { BOARD_BOOT_MAX = 32, BOARD_PORTS = 4 };

/* What it points to is borrowed until board_destroy: a guest that resets gets its kernel loaded
 * again. */
struct board_config {
    const char *profile; /* "pc-1": all of a PC's chips; "micro-1": no PIC, PIT and RTC */
    /* With firmware: handed to it. -1: none; a VM without firmware can then only be restored, and
     * cannot reset itself. */
    int kernel_fd;
    int initrd_fd;                         /* -1: none */
    const char *kernel_name, *initrd_name; /* paths, for sentences */
    const char *cmdline;                   /* NULL: empty */
    uint8_t uuid[16];
    const char *serial_number; /* for SMBIOS; NULL: none */
    struct board_firmware firmware;
    struct boot_menu menu;  /* of the firmware */
    const char *boot_order; /* "cdn": kinds of board_add_boot, best first; NULL: none */
    /* See devices/pci_port.h. */
    void (*port_power)(void *arg, struct device *port, bool on);
    void *port_arg;
    /* The far end of serial0, see devices/serial.h. */
    void (*serial_output)(void *arg, const uint8_t *data, size_t len);
    void (*serial_room)(void *arg);
    void *serial_arg;
    struct input *input; /* where keyboards and pointers of the board get their events */
};

/* The names above, NULL-terminated. */
extern const char *const board_profiles[];

int board_create(struct machine *m, const struct board_config *config, struct board **out,
                 struct err *err);
/* The firmware may boot from this function: kind 'c' (disk), 'd' (CD) or 'n' (network), tried in
 * the order of config.boot_order and then of adding. `name` and `unit` are constant parts of its
 * Open Firmware path: "scsi" and "/disk@0,0". Before board_finish. */
void board_add_boot(struct board *board, char kind, const struct pci_device *pci, const char *name,
                    const char *unit);
/* Once all devices are there: PCI addresses, tables, kernel, and vCPU 0 at its entry. */
int board_finish(struct board *board, struct err *err);
void board_destroy(struct board *board);
DEFINE_AUTO(struct board *, board_destroy)

struct pci_bus *board_pci_bus(struct board *board);
/* The hot-plug port `n` below BOARD_PORTS; NULL: the profile has none. */
struct device *board_port(struct board *board, unsigned n);
struct device *board_isa_dma(struct board *board); /* for the floppy controller; may be NULL */
/* Kinds of the drives as CMOS memory says them to firmware: 0: none, 4: 1.44 MB, 5: 2.88 MB. */
void board_set_floppies(struct board *board, unsigned first, unsigned second);
struct device *board_serial(struct board *board); /* for serial_input */
/* The VM goes on from a saved state, perhaps not for the first time: the guest is told by a new
 * generation id, and can renew what must be unique. Main loop, before the machine runs. */
void board_restored(struct board *board);
void board_power_button(struct board *board); /* any thread */

#endif
