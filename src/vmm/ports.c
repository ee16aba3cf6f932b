/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * --port: virtio-serial ports, each joined with a unix socket. Programs in the guest open them as
 * /dev/virtio-ports/NAME, programs on the host connect; the guest agent speaks over one.
 */
#include "devices/pci.h"
#include "devices/virtio/console.h"
#include "vmm/vmm.h"

#include <string.h>

struct vmm_port {
    struct vmm *vmm;
    struct stream *stream; /* owned */
    unsigned index;
};

struct vmm_ports {
    struct pci_device *pci; /* the machine's */
    struct vmm_port port[OPTIONS_MAX_PORTS];
};

/* Port 0 of the device would be a console. */
static unsigned device_port(unsigned index) { return index + 1; }

static void port_output(void *arg, const uint8_t *data, size_t len)
{
    struct vmm_port *port = arg;
    stream_write(port->stream, data, len);
}

static bool port_output_room(void *arg)
{
    struct vmm_port *port = arg;
    return stream_output_room(port->stream);
}

static void port_output_go(void *arg)
{
    struct vmm_port *port = arg;
    virtio_console_output_room(port->vmm->ports->pci, device_port(port->index));
}

static void port_room(void *arg)
{
    struct vmm_port *port = arg;
    stream_more_room(port->stream);
}

static size_t port_input(void *arg, const uint8_t *data, size_t len)
{
    struct vmm_port *port = arg;
    return virtio_console_input(port->vmm->ports->pci, device_port(port->index), data, len);
}

/* io_loop */
static void port_opened(void *arg, bool open)
{
    struct vmm_port *port = arg;
    control_event(
        port->vmm->control, "port",
        json_pack("{s:s, s:b}", "port", port->vmm->options.ports[port->index].name, "open", open));
    stream_more_room(port->stream);
}

void ports_names(const struct vmm *vmm, char *out, size_t room)
{
    size_t at = 0;
    *out = 0;
    for (unsigned i = 0; i < vmm->options.port_count && at < room; i++)
        at +=
            (size_t)snprintf(out + at, room - at, "%s%s", i ? "," : "", vmm->options.ports[i].name);
}

json_t *ports_status(const struct vmm *vmm)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < vmm->options.port_count; i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:b}", "name", vmm->options.ports[i].name, "open",
                                        virtio_console_is_open(vmm->ports->pci, device_port(i))));
    return list;
}

int ports_plug(struct vmm *vmm, struct err *err)
{
    const struct options *o = &vmm->options;
    struct virtio_console_port ports[OPTIONS_MAX_PORTS + 1] = { { .name = NULL } };
    if (!o->port_count)
        return 0;
    vmm->ports = calloc(1, sizeof *vmm->ports);
    if (!vmm->ports)
        return err_set(err, ENOMEM, "out of memory");
    for (unsigned i = 0; i < o->port_count; i++) {
        struct vmm_port *port = &vmm->ports->port[i];
        port->vmm = vmm;
        port->index = i;
        /* What was said to one client is not for the next. */
        int r = stream_create_unix(vmm->loop, o->ports[i].name, o->ports[i].path, 0, &port->stream,
                                   err);
        if (r < 0)
            return err_prefix(err, "--port");
        vmm_keep_removed(vmm, o->ports[i].path);
        ports[device_port(i)] = (struct virtio_console_port){ .name = o->ports[i].name,
                                                              .output = port_output,
                                                              .output_room = port_output_room,
                                                              .input_room = port_room,
                                                              .opened = port_opened,
                                                              .arg = port };
    }
    struct virtio_console_options options = {
        .id = "ports0", .ports = ports, .port_count = device_port(o->port_count), .no_console = true
    };
    int r = virtio_console_create(vmm->machine, &options, &vmm->ports->pci, err);
    if (r == 0)
        r = vmm_plug(vmm, vmm->ports->pci, err);
    if (r < 0)
        return err_prefix(err, "--port");
    for (unsigned i = 0; i < o->port_count; i++) {
        struct vmm_port *port = &vmm->ports->port[i];
        stream_set_input(port->stream, port_input, port);
        stream_set_output_room(port->stream, port_output_go, port);
    }
    return 0;
}

void ports_close(struct vmm *vmm)
{
    for (unsigned i = 0; vmm->ports && i < OPTIONS_MAX_PORTS; i++)
        stream_destroy(vmm->ports->port[i].stream);
    free(vmm->ports);
    vmm->ports = NULL;
}
