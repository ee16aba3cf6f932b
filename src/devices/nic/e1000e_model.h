/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The network card as its test and its fuzzer use it: its cable ends in a socket. */
#ifndef DEVICES_NIC_E1000E_MODEL_H
#define DEVICES_NIC_E1000E_MODEL_H

#include "devices/device_fuzz.h"
#include "devices/nic/e1000e.h"
#include "net/net.h"

#include <sys/socket.h>
#include <unistd.h>

enum { E1000E_AT = 0xc0000000, E1000E_IO = 0xc000 };

static struct pci_bus *e1000e_bus;
static struct pci_device *e1000e_pci;
static int e1000e_cable = -1;

struct e1000e_plug {
    struct machine *m;
    int fd;
    struct net_backend *backend;
};

static inline void e1000e_make_backend(void *arg)
{
    struct e1000e_plug *plug = arg;
    struct err err = { 0 };
    if (net_fd_create(plug->m->io_loop, plug->fd, &plug->backend, &err) < 0)
        fail_msg("%s", err.text);
}

static inline void e1000e_model_create(struct machine *m)
{
    struct err err = { 0 };
    const struct pci_windows windows = {
        .mem32 = E1000E_AT, .mem32_size = 0x100000, .io = E1000E_IO, .io_size = 0x1000
    };
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        fail_msg("no sockets");
    e1000e_cable = pair[1];
    struct e1000e_plug plug = { .m = m, .fd = pair[0] };
    loop_call(m->io_loop, e1000e_make_backend, &plug);
    struct e1000e_options options = { .id = "net0",
                                      .mac = { 0x52, 0x54, 0, 1, 2, 3 },
                                      .take_backend = plug.backend };
    if (pci_bus_create(&e1000e_bus, &err) < 0 ||
        e1000e_create(m, &options, &e1000e_pci, &err) < 0 ||
        pci_bus_add(e1000e_bus, e1000e_pci, 1, &err) < 0)
        fail_msg("%s", err.text);
    machine_add_device(m, &e1000e_pci->dev);
    if (pci_bus_assign(e1000e_bus, &windows, &err) < 0)
        fail_msg("%s", err.text);
}

static inline void e1000e_model_destroy(void)
{
    pci_bus_destroy(e1000e_bus);
    close(e1000e_cable);
}

/* A frame comes by the cable, or what was sent is taken off it. */
static inline void e1000e_model_event(unsigned what, uint32_t value)
{
    uint8_t frame[1600] = { 255, 255, 255, 255, 255, 255, [12] = 8 };
    if (what & 1)
        memcpy(frame, "\x52\x54\0\1\2\3", 6);
    if (what & 2)
        memcpy(frame + 12, "\x81\0\0\5", 4);
    for (unsigned i = 0; i < 4 && !(what & 4); i++)
        send(e1000e_cable, frame, 14 + value % 1500, MSG_DONTWAIT);
    while (recv(e1000e_cable, frame, sizeof frame, MSG_DONTWAIT) > 0)
        ;
    fuzz_settle();
}

static const struct fuzz_target e1000e_targets[] = {
    { SPACE_MEMORY, E1000E_AT, 0x3fff },
    { SPACE_MEMORY, E1000E_AT, 0x200 },
    { SPACE_MEMORY, E1000E_AT + 0x2800, 0x200 },
    { SPACE_MEMORY, E1000E_AT + 0x3800, 0x200 },
    { SPACE_MEMORY, E1000E_AT + 0x5000, 0x1000 },
    { SPACE_MEMORY, E1000E_AT + 0x40000, 0x100 },
    { SPACE_IO, E1000E_IO, 8 },
    { SPACE_MEMORY, E1000E_AT + 0xc0, 0x30 },
    { SPACE_MEMORY, E1000E_AT + 0x400, 4 },
    { SPACE_MEMORY, E1000E_AT + 0x100, 4 },
};
static const struct fuzz_model e1000e_model = {
    .create = e1000e_model_create,
    .destroy = e1000e_model_destroy,
    .event = e1000e_model_event,
    .targets = e1000e_targets,
    .target_count = ARRAY_LEN(e1000e_targets),
};

#endif
