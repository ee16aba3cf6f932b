/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tap interfaces of Linux, opened by name or handed to us. The kernel takes and gives frames with
 * checksums and segmentation left undone (struct virtio_net_hdr), so nothing is done here.
 */
#include "net/tap.h"

#include "base/checked.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>

struct tap {
    struct port port;
};

static int tap_set_offloads(struct net_backend *backend, unsigned features)
{
    struct port *port = CONTAINER_OF(backend, struct port, backend);
    unsigned flags = 0;
    if (features & NET_CSUM) { /* the others need it */
        flags |= TUN_F_CSUM;
        flags |= features & NET_TSO4 ? TUN_F_TSO4 : 0;
        flags |= features & NET_TSO6 ? TUN_F_TSO6 : 0;
        flags |= features & NET_TSO_ECN && flags != TUN_F_CSUM ? TUN_F_TSO_ECN : 0;
    }
    return ioctl(port->fd, TUNSETOFFLOAD, (unsigned long)flags) < 0 ? -errno : 0;
}

static void tap_destroy(struct net_backend *backend)
{
    struct tap *tap = CONTAINER_OF(backend, struct tap, port.backend);
    port_fini(&tap->port);
    free(tap);
}

static const struct net_driver tap_driver = {
    .name = "tap",
    .about = "a tap interface of the host, for bridges",
    .send = port_send,
    .pause = port_pause,
    .set_offloads = tap_set_offloads,
    .destroy = tap_destroy,
};

bool tap_is(int fd)
{
    struct ifreq ifr;
    return !ioctl(fd, TUNGETIFF, &ifr);
}

int tap_create(struct loop *loop, int take_fd, const char *name, struct net_backend **out,
               struct err *err)
{
    AUTO(fd_close) int fd = take_fd;
    struct ifreq ifr;
    if (ioctl(fd, TUNGETIFF, &ifr) < 0)
        return err_errno(err, errno, "is no tap descriptor");
    if (!(ifr.ifr_flags & IFF_TAP))
        return err_set(err, EINVAL, "%s is a tun interface; make a tap: ip tuntap add %s mode tap",
                       ifr.ifr_name, ifr.ifr_name);
    if (!(ifr.ifr_flags & IFF_VNET_HDR))
        return err_set(err, EINVAL, "%s was made without IFF_VNET_HDR (vnet_hdr)", ifr.ifr_name);
    int header = sizeof(struct virtio_net_hdr);
    if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0 || ioctl(fd, TUNSETOFFLOAD, 0ul) < 0)
        return err_errno(err, errno, "%s: cannot set it up", ifr.ifr_name);

    struct tap *tap = calloc(1, sizeof *tap);
    if (!tap)
        return err_set(err, ENOMEM, "out of memory");
    int r = port_init(&tap->port, &tap_driver, loop, name, fd, PORT_TAP, err);
    if (r < 0) {
        tap_destroy(&tap->port.backend);
        return r;
    }
    fd = -1;
    tap->port.backend.takes = NET_CSUM | NET_TSO4 | NET_TSO6 | NET_TSO_ECN;
    *out = &tap->port.backend;
    return 0;
}

static int tap_open(const char *ifname, int *out, struct err *err)
{
    struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
    if (!*ifname || strlen(ifname) >= sizeof ifr.ifr_name)
        return err_set(err, EINVAL, "an interface name has 1 to %zu characters",
                       sizeof ifr.ifr_name - 1);
    strcpy(ifr.ifr_name, ifname);
    AUTO(fd_close) int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, errno, "/dev/net/tun");
    if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
        if (errno == EPERM)
            return err_set(err, EPERM, "not permitted; as root: ip tuntap add %s mode tap user %u",
                           ifname, getuid());
        if (errno == EBUSY)
            return err_set(err, EBUSY, "is in use by another process");
        if (errno == EINVAL)
            return err_set(err, EINVAL, "is no tap interface");
        return err_errno(err, errno, "cannot attach");
    }
    *out = TAKE_FD(fd);
    return 0;
}

int net_tap_create(struct loop *loop, const char *ifname, struct net_backend **out, struct err *err)
{
    char name[64];
    int fd = -1;
    snprintf(name, sizeof name, "tap:%s", ifname);
    int r = tap_open(ifname, &fd, err);
    if (!r)
        r = tap_create(loop, fd, name, out, err);
    return r < 0 ? err_prefix(err, "%s", name) : 0;
}
