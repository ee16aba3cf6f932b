/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * --port: virtio-serial ports, each joined with a unix socket. Programs in the guest open them as
 * /dev/virtio-ports/NAME, programs on the host connect; the guest agent speaks over one. The
 * clipboard's port is joined with the display instead.
 */
#include "devices/pci.h"
#include "devices/virtio/console.h"
#include "display/agent_link.h"
#include "display/agent_wire.h"
#include "migrate/snapshot.h"
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

static void port_event(const struct vmm_port *port, bool open)
{
    control_event(
        port->vmm->control, "port",
        json_pack("{s:s, s:b}", "port", port->vmm->options.ports[port->index].name, "open", open));
}

static size_t port_input(void *arg, const uint8_t *data, size_t len)
{
    struct vmm_port *port = arg;
    return virtio_console_input(port->vmm->ports->pci, device_port(port->index), data, len);
}

static void port_output_go(void *arg)
{
    struct vmm_port *port = arg;
    virtio_console_output_room(port->vmm->ports->pci, device_port(port->index));
}

/* ---- joined with a socket ---- */

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

static void port_room(void *arg)
{
    struct vmm_port *port = arg;
    stream_more_room(port->stream);
}

/* io_loop */
static void port_opened(void *arg, bool open)
{
    struct vmm_port *port = arg;
    port_event(port, open);
    stream_more_room(port->stream);
}

/* ---- the clipboard's, joined with the display ---- */

static void agent_output(void *arg, const uint8_t *data, size_t len)
{
    struct vmm_port *port = arg;
    agent_link_output(port->vmm->agent, data, len);
}

static bool agent_output_room(void *arg)
{
    struct vmm_port *port = arg;
    return agent_link_output_room(port->vmm->agent);
}

static void agent_input_room(void *arg)
{
    struct vmm_port *port = arg;
    agent_link_input_room(port->vmm->agent);
}

/* io_loop */
static void agent_opened(void *arg, bool open)
{
    struct vmm_port *port = arg;
    port_event(port, open);
    agent_link_opened(port->vmm->agent, open);
}

/* ---- all of them ---- */

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

int ports_restore(struct vmm *vmm, const struct snapshot_config *config, struct err *err)
{
    struct options *o = &vmm->options;
    const char *saved = config->ports;
    char given[sizeof config->ports];
    size_t len = strlen(saved), own = strlen(CLIPBOARD_PORT);
    int r = 0;
    ports_names(vmm, given, sizeof given);
    if (strcmp(given, saved) != 0 && len >= own && strcmp(saved + len - own, CLIPBOARD_PORT) == 0)
        r = options_clipboard_port(o, err);
    if (r < 0)
        return r;
    ports_names(vmm, given, sizeof given);
    if (strcmp(given, saved) != 0)
        return err_set(err, EINVAL, "the saved VM has %s%s; give the same --port in the same order",
                       *saved ? "the ports " : "no ports", saved);
    if (o->viewer.clipboard && !options_has_clipboard(o))
        return err_set(err, EINVAL,
                       "the saved VM has no port for a clipboard; leave out "
                       "clipboard=on");
    return 0;
}

/* The agent in the guest, and the display's helper, may stand in the middle of a message of which
 * the other end now knows nothing. */
void ports_restored(struct vmm *vmm)
{
    if (options_has_clipboard(&vmm->options))
        virtio_console_hang_up(vmm->ports->pci, device_port(vmm->options.port_count - 1));
}

static int port_open(struct vmm_port *port, struct virtio_console_port *out, struct err *err)
{
    const struct port_options *o = &port->vmm->options.ports[port->index];
    *out = (struct virtio_console_port){ .name = o->name, .arg = port };
    if (!o->path && port->vmm->agent) {
        out->output = agent_output;
        out->output_room = agent_output_room;
        out->input_room = agent_input_room;
        out->opened = agent_opened;
    }
    if (!o->path)
        return 0;
    out->output = port_output;
    out->output_room = port_output_room;
    out->input_room = port_room;
    out->opened = port_opened;
    /* What was said to one client is not for the next. */
    int r = stream_create_unix(port->vmm->loop, o->name, o->path, 0, &port->stream, err);
    if (r == 0)
        vmm_keep_removed(port->vmm, o->path);
    return r;
}

static void port_connect(struct vmm_port *port)
{
    if (port->stream) {
        stream_set_input(port->stream, port_input, port);
        stream_set_output_room(port->stream, port_output_go, port);
    } else if (port->vmm->agent) {
        agent_link_set_port(port->vmm->agent, port_input, port_output_go, port);
    }
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
    int r = 0;
    for (unsigned i = 0; r == 0 && i < o->port_count; i++) {
        vmm->ports->port[i] = (struct vmm_port){ .vmm = vmm, .index = i };
        r = port_open(&vmm->ports->port[i], &ports[device_port(i)], err);
    }
    struct virtio_console_options options = {
        .id = "ports0", .ports = ports, .port_count = device_port(o->port_count), .no_console = true
    };
    if (r == 0)
        r = virtio_console_create(vmm->machine, &options, &vmm->ports->pci, err);
    if (r == 0)
        r = vmm_plug(vmm, vmm->ports->pci, err);
    if (r < 0)
        return err_prefix(err, "--port");
    for (unsigned i = 0; i < o->port_count; i++)
        port_connect(&vmm->ports->port[i]);
    return 0;
}

void ports_close(struct vmm *vmm)
{
    for (unsigned i = 0; vmm->ports && i < OPTIONS_MAX_PORTS; i++)
        stream_destroy(vmm->ports->port[i].stream);
    free(vmm->ports);
    vmm->ports = NULL;
}
