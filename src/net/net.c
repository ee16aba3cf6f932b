/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all back ends have in common: checks, software offloads, counters; and hostfwd strings. */
#include "net/driver.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/text.h"
#include "net/offload.h"

#include <arpa/inet.h>
#include <string.h>

int net_backend_init(struct net_backend *backend, const struct net_driver *driver,
                     struct loop *loop, const char *name, struct err *err)
{
    backend->driver = driver;
    backend->loop = loop;
    backend->up = true;
    snprintf(backend->name, sizeof backend->name, "%s", name);
    backend->scratch = malloc(NET_MAX_FRAME);
    return backend->scratch ? 0 : err_set(err, ENOMEM, "out of memory");
}

void net_backend_fini(struct net_backend *backend) { free(backend->scratch); }

/* ---- to the outside ---- */

struct net_cut {
    struct net_backend *backend;
    unsigned sent;
};

static int net_send_segment(void *arg, const struct iovec parts[2])
{
    static const struct net_offload complete;
    struct net_cut *cut = arg;
    struct net_backend *backend = cut->backend;
    int r = backend->driver->send(backend, parts, 2, &complete);
    if (!r)
        cut->sent++;
    return r;
}

/* The back end lacks something: complete the frame here. */
static int net_send_software(struct net_backend *backend, const struct iovec *iov, unsigned count,
                             size_t len, const struct net_offload *offload)
{
    uint8_t *at = backend->scratch;
    for (unsigned i = 0; i < count; i++) {
        memcpy(at, iov[i].iov_base, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    if (offload->gso == NET_GSO_NONE) {
        static const struct net_offload complete;
        struct iovec one = { backend->scratch, len };
        int r = offload_checksum(backend->scratch, len, offload);
        return r < 0 ? r : backend->driver->send(backend, &one, 1, &complete);
    }
    /* One that takes large segments, but whole ones, gets them as large as IP can say. */
    unsigned tso = offload->gso == NET_GSO_TCPV4 ? NET_TSO4 : NET_TSO6;
    unsigned size = backend->takes & tso ? UINT16_MAX : offload->gso_size;
    if (offload->gso_size < OFFLOAD_MIN_GSO)
        return -EINVAL;
    struct net_cut cut = { .backend = backend };
    int r = offload_segment(backend->scratch, len, offload, size, net_send_segment, &cut);
    if (r == -EAGAIN && cut.sent) {
        backend->dropped++; /* the rest is lost as on a full wire; TCP sends it again */
        r = 0;
    }
    return r;
}

int net_send(struct net_backend *backend, const struct iovec *iov, unsigned count,
             const struct net_offload *offload)
{
    assert_on_loop(backend->loop);
    uint64_t len = 0;
    for (unsigned i = 0; i < count; i++)
        if (!add_u64(len, iov[i].iov_len, &len))
            len = UINT64_MAX - SIZE_MAX / 2;
    int r;
    if (!backend->up || len < NET_MIN_FRAME || len > NET_MAX_FRAME)
        r = -EINVAL;
    else if (offload_needs(offload) & ~backend->takes)
        r = net_send_software(backend, iov, count, len, offload);
    else
        r = backend->driver->send(backend, iov, count, offload);
    if (r == -EAGAIN)
        return r;
    if (r < 0)
        backend->dropped++;
    else
        backend->sent++;
    return 0;
}

/* ---- to the guest ---- */

bool net_deliver(struct net_backend *backend, uint8_t *frame, size_t len,
                 const struct net_offload *offload)
{
    struct net_offload rest = *offload;
    if (!backend->receiver || len < NET_MIN_FRAME)
        goto drop;
    /* Frames from before the driver's last choice of offloads. */
    if (offload_needs(&rest) & ~backend->delivers) {
        if (rest.gso != NET_GSO_NONE || offload_checksum(frame, len, &rest) < 0)
            goto drop;
        rest = (struct net_offload){ 0 };
    }
    if (!(backend->delivers & NET_CSUM))
        rest.csum_valid = false;
    if (!backend->receiver->receive(backend->receiver_arg, frame, len, &rest)) {
        net_pause(backend);
        return false;
    }
    backend->received++;
    return true;
drop:
    backend->dropped++;
    return true;
}

void net_ready(struct net_backend *backend)
{
    if (backend->receiver && backend->receiver->ready)
        backend->receiver->ready(backend->receiver_arg);
}

void net_link(struct net_backend *backend, bool up)
{
    backend->up = up;
    if (backend->receiver && backend->receiver->link)
        backend->receiver->link(backend->receiver_arg, up);
}

void net_set_receiver(struct net_backend *backend, const struct net_receiver *receiver, void *arg)
{
    backend->receiver = receiver;
    backend->receiver_arg = arg;
    if (backend->up)
        backend->driver->pause(backend, backend->paused || !receiver);
}

void net_pause(struct net_backend *backend)
{
    backend->paused = true;
    if (backend->up)
        backend->driver->pause(backend, true);
}

void net_resume(struct net_backend *backend)
{
    if (!backend->paused)
        return;
    backend->paused = false;
    if (backend->up)
        backend->driver->pause(backend, !backend->receiver);
}

int net_set_receive_offloads(struct net_backend *backend, unsigned features)
{
    int r = backend->driver->set_offloads ? backend->driver->set_offloads(backend, features) : 0;
    if (!r)
        backend->delivers = features;
    return r;
}

void net_destroy(struct net_backend *backend)
{
    if (backend)
        backend->driver->destroy(backend);
}

/* ---- hostfwd ---- */

static int hostfwd_address(const char *text, const char *whose, uint32_t fallback,
                           struct in_addr *out, struct err *err)
{
    if (!*text)
        out->s_addr = htonl(fallback);
    else if (inet_pton(AF_INET, text, out) != 1)
        return err_set(err, EINVAL, "%s address '%s' is no IPv4 address", whose, text);
    return 0;
}

/* "ADDRESS:PORT" of one side; cuts the text. */
static int hostfwd_side(char *text, const char *whose, uint32_t fallback, struct in_addr *addr,
                        uint16_t *port, struct err *err)
{
    char *colon = strrchr(text, ':');
    if (!colon)
        return err_set(err, EINVAL, "the %s side '%s' has no ':' before its port", whose, text);
    *colon = 0;
    int r = hostfwd_address(text, whose, fallback, addr, err);
    if (r < 0)
        return r;
    uint64_t value;
    if (number_parse(colon + 1, 1, 65535, &value, NULL) < 0)
        return err_set(err, EINVAL, "%s port '%s' is no number from 1 to 65535", whose, colon + 1);
    *port = (uint16_t)value;
    return 0;
}

static int hostfwd_parse(char *text, struct net_hostfwd *out, struct err *err)
{
    struct net_hostfwd new = { 0 };
    if (!strncmp(text, "tcp:", 4)) {
        text += 4;
    } else if (!strncmp(text, "udp:", 4)) {
        new.udp = true;
        text += 4;
    } else if (*text >= 'a' && *text <= 'z') {
        return err_set(err, EINVAL, "the protocol is tcp or udp");
    }
    char *dash = strchr(text, '-');
    if (!dash)
        return err_set(err, EINVAL, "there is no '-' between the host and the guest side");
    *dash = 0;
    int r = hostfwd_side(text, "host", INADDR_LOOPBACK, &new.host_addr, &new.host_port, err);
    if (!r)
        r = hostfwd_side(dash + 1, "guest", INADDR_ANY, &new.guest_addr, &new.guest_port, err);
    if (!r)
        *out = new;
    return r;
}

int net_hostfwd_parse(const char *text, struct net_hostfwd *out, struct err *err)
{
    char copy[128];
    if (strlen(text) >= sizeof copy)
        return err_set(err, EINVAL, "hostfwd is too long; write tcp:127.0.0.1:2222-:22");
    strcpy(copy, text);
    int r = hostfwd_parse(copy, out, err);
    return r < 0 ? err_prefix(err, "hostfwd=%s (like tcp:127.0.0.1:2222-:22)", text) : 0;
}
