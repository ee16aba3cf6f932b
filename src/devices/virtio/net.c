/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtio network card with one pair of queues and a control queue (VIRTIO 1.2, 5.1).
 *
 * Offloads are always offered: what the back end cannot do, `net` does in software. Frames move
 * synchronously on io_loop, so no buffer stays in flight: what the back end does not take goes back
 * to the ring (virtqueue_unpop) and waits there.
 *
 *  1. `receive` refuses a frame only when the driver will tell us of new buffers (the receive
 * queue's doorbell) or when we are paused (resume); both call net_resume.
 *  2. A card without a driver drops what arrives.
 */
#include "devices/virtio/net.h"

#include "base/checked.h"
#include "devices/virtio/virtio_pci.h"
#include "machine/machine.h"
#include "net/net.h"

#include <endian.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE_RX, QUEUE_TX, QUEUE_CONTROL, QUEUES };
enum { NIC_QUEUE_SIZE = 256, NIC_MACS = 64, NIC_HEADER = sizeof(struct virtio_net_hdr_v1) };

struct nic_regs {
    struct virtio_regs virtio;
    uint64_t guest_offloads; /* feature bits the driver wants used now; io_loop */
    uint8_t mac[6];          /* dev->lock */
    /* 5.1.6.5.1, 5.1.6.5.2: the receive filter; io_loop */
    uint8_t promisc, allmulti, alluni, nomulti, nouni, nobcast;
    uint8_t unicast_count, multicast_count; /* entries of `macs`, unicast ones first */
    uint8_t unicast_overflow, multicast_overflow;
    uint8_t macs[NIC_MACS][6];
};

struct nic {
    struct virtio_device vdev;
    struct nic_regs regs;
    /* io_loop */
    struct net_backend *backend; /* owned */
    unsigned applied;            /* net_feature set at the back end */
    bool tx_blocked;             /* -EAGAIN: wait for `ready` */
    _Atomic bool link_up;        /* written on io_loop */
    struct iovec *iov;           /* owned; scratch for a frame */
    unsigned iov_room;
};

static struct nic *nic_of(struct virtio_device *vdev) { return (struct nic *)vdev; }

static const uint64_t nic_guest_features =
    1ull << VIRTIO_NET_F_GUEST_CSUM | 1ull << VIRTIO_NET_F_GUEST_TSO4 |
    1ull << VIRTIO_NET_F_GUEST_TSO6 | 1ull << VIRTIO_NET_F_GUEST_ECN;

/* ---- Offloads towards the guest ---- */

static void nic_apply_offloads(struct nic *nic)
{
    static const struct {
        unsigned virtio, net;
    } map[] = { { VIRTIO_NET_F_GUEST_CSUM, NET_CSUM },
                { VIRTIO_NET_F_GUEST_TSO4, NET_TSO4 },
                { VIRTIO_NET_F_GUEST_TSO6, NET_TSO6 },
                { VIRTIO_NET_F_GUEST_ECN, NET_TSO_ECN } };
    uint64_t wanted = nic->vdev.regs->driver_features;
    if (virtio_has(&nic->vdev, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))
        wanted &= nic->regs.guest_offloads;
    unsigned features = 0;
    for (unsigned i = 0; i < ARRAY_LEN(map); i++)
        features |= wanted >> map[i].virtio & 1 ? map[i].net : 0;
    if (!(features & NET_CSUM)) /* 5.1.3.1: segmentation needs it */
        features = 0;
    if (features == nic->applied)
        return;
    if (net_set_receive_offloads(nic->backend, features) == 0)
        nic->applied = features;
}

/* ---- To the guest ---- */

/* True: the address is in `count` entries from `first` of the filter. */
static bool nic_listed(const struct nic *nic, unsigned first, unsigned count, const uint8_t *mac)
{
    for (unsigned i = first; i < first + count; i++) {
        if (!memcmp(nic->regs.macs[i], mac, 6))
            return true;
    }
    return false;
}

static bool nic_wants(struct nic *nic, const uint8_t *frame)
{
    static const uint8_t broadcast[6] = { 255, 255, 255, 255, 255, 255 };
    const struct nic_regs *r = &nic->regs;
    if (r->promisc)
        return true;
    if (!memcmp(frame, broadcast, 6))
        return !r->nobcast;
    if (frame[0] & 1)
        return !r->nomulti && (r->allmulti || r->multicast_overflow ||
                               nic_listed(nic, r->unicast_count, r->multicast_count, frame));
    if (r->nouni)
        return false;
    uint8_t mac[6];
    {
        LOCKED(&nic->vdev.pci.dev.lock);
        memcpy(mac, r->mac, 6);
    }
    return !memcmp(frame, mac, 6) || r->alluni || r->unicast_overflow ||
           nic_listed(nic, 0, r->unicast_count, frame);
}

static void nic_header(const struct net_offload *offload, struct virtio_net_hdr_v1 *out)
{
    *out = (struct virtio_net_hdr_v1){ .gso_type = (uint8_t)offload->gso };
    if (offload->needs_csum) {
        out->flags |= VIRTIO_NET_HDR_F_NEEDS_CSUM;
        out->csum_start = htole16(offload->csum_start);
        out->csum_offset = htole16(offload->csum_offset);
    }
    if (offload->csum_valid)
        out->flags |= VIRTIO_NET_HDR_F_DATA_VALID;
    if (offload->gso) {
        out->gso_type |= offload->ecn ? VIRTIO_NET_HDR_GSO_ECN : 0;
        out->gso_size = htole16(offload->gso_size);
        out->hdr_len = htole16(offload->hdr_len);
    }
}

/*
 * Takes buffers for `len` bytes. Answers how many; 0: there are not enough, the doorbell will ring
 * for more; -1: they will never do, or the ring is broken. The doorbell is asked for while all that
 * is there is taken, so anything new rings.
 */
static int nic_take_buffers(struct nic *nic, size_t len, struct virtqueue_elem **elems)
{
    struct virtqueue *vq = &nic->vdev.queues[QUEUE_RX];
    int most = virtio_has(&nic->vdev, VIRTIO_NET_F_MRG_RXBUF) ? NIC_QUEUE_SIZE : 1, count = 0;
    uint64_t room = 0;
    while (room < len && count < most) {
        elems[count] = virtqueue_pop(vq);
        if (elems[count])
            room += elems[count++]->in_bytes;
        else if (vq->starved || !virtqueue_notification(vq, true))
            break;
    }
    /* 5.1.6.3.1: the header lies in the first buffer. */
    if (room >= len && elems[0]->in_bytes >= NIC_HEADER)
        return count;
    bool hopeless = room >= len || count == most || vq->starved || vq->stopped;
    for (int i = count; i-- > 0;)
        virtqueue_unpop(elems[i]);
    return hopeless ? -1 : 0;
}

static void nic_scatter(const struct virtio_net_hdr_v1 *header, const uint8_t *frame, size_t len,
                        struct virtqueue_elem **elems, unsigned count, uint32_t *written)
{
    size_t at = 0;
    for (unsigned i = 0; i < count; i++) {
        size_t head = 0;
        if (i == 0)
            head = iov_from_buf(elems[0]->in, elems[0]->in_count, 0, header, sizeof *header);
        size_t part = elems[i]->in_bytes - head;
        if (part > len - at)
            part = len - at;
        iov_from_buf(elems[i]->in, elems[i]->in_count, head, frame + at, part);
        written[i] = (uint32_t)(head + part);
        at += part;
    }
}

static bool nic_receive(void *arg, const uint8_t *frame, size_t len,
                        const struct net_offload *offload)
{
    struct nic *nic = arg;
    struct virtqueue *vq = &nic->vdev.queues[QUEUE_RX];
    struct virtqueue_elem *elems[NIC_QUEUE_SIZE];
    uint32_t written[NIC_QUEUE_SIZE];
    struct virtio_net_hdr_v1 header;
    if (virtio_lane(&nic->vdev, QUEUE_RX)->paused)
        return false; /* 1 */
    if (!virtio_queue_ready(&nic->vdev, QUEUE_RX) || len < NET_MIN_FRAME || !nic_wants(nic, frame))
        return true; /* 2 */

    int count = nic_take_buffers(nic, len + NIC_HEADER, elems);
    if (count <= 0)
        return count < 0; /* 1 */
    nic_header(offload, &header);
    header.num_buffers = htole16((uint16_t)count);
    nic_scatter(&header, frame, len, elems, (unsigned)count, written);
    virtqueue_push_many(vq, elems, written, (unsigned)count);
    virtqueue_notify(vq);
    virtqueue_notification(vq, false);
    return true;
}

/* ---- From the guest ---- */

/* What the header asks for; false: nothing that was negotiated. */
static bool nic_offload(struct nic *nic, const struct virtio_net_hdr_v1 *h, struct net_offload *out)
{
    *out = (struct net_offload){ 0 };
    unsigned gso = h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;
    if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        out->needs_csum = true;
        out->csum_start = le16toh(h->csum_start);
        out->csum_offset = le16toh(h->csum_offset);
    }
    if (gso == VIRTIO_NET_HDR_GSO_NONE)
        return !out->needs_csum || virtio_has(&nic->vdev, VIRTIO_NET_F_CSUM);
    if (gso == VIRTIO_NET_HDR_GSO_TCPV4 && virtio_has(&nic->vdev, VIRTIO_NET_F_HOST_TSO4))
        out->gso = NET_GSO_TCPV4;
    else if (gso == VIRTIO_NET_HDR_GSO_TCPV6 && virtio_has(&nic->vdev, VIRTIO_NET_F_HOST_TSO6))
        out->gso = NET_GSO_TCPV6;
    else
        return false;
    out->ecn = h->gso_type & VIRTIO_NET_HDR_GSO_ECN;
    out->gso_size = le16toh(h->gso_size);
    out->hdr_len = le16toh(h->hdr_len);
    return true;
}

/* 0, or -EAGAIN. Frames that nobody could send are dropped. */
static int nic_send(struct nic *nic, struct virtqueue_elem *elem)
{
    struct virtio_net_hdr_v1 header;
    struct net_offload offload;
    if (iov_to_buf(elem->out, elem->out_count, 0, &header, sizeof header) != sizeof header ||
        elem->out_bytes - sizeof header > NET_MAX_FRAME || !nic_offload(nic, &header, &offload))
        return 0;
    if (elem->out_count > nic->iov_room) {
        struct iovec *iov = realloc(nic->iov, elem->out_count * sizeof *iov);
        if (!iov)
            abort();
        nic->iov = iov;
        nic->iov_room = elem->out_count;
    }
    unsigned count = iov_part(elem->out, elem->out_count, sizeof header,
                              elem->out_bytes - sizeof header, nic->iov);
    return net_send(nic->backend, nic->iov, count, &offload);
}

static void nic_transmit(struct nic *nic)
{
    struct virtqueue *vq = &nic->vdev.queues[QUEUE_TX];
    unsigned budget = VIRTIO_BATCH;
    nic->tx_blocked = false;
    do {
        virtqueue_notification(vq, false);
        struct virtqueue_elem *elem;
        while (budget && (elem = virtqueue_pop(vq))) {
            if (nic_send(nic, elem) == -EAGAIN) {
                virtqueue_unpop(elem);
                nic->tx_blocked = true;
                break;
            }
            virtqueue_push(elem, 0);
            budget--;
        }
    } while (budget && !nic->tx_blocked && virtqueue_notification(vq, true));
    virtqueue_notify(vq);
    if (!budget)
        virtio_kick(&nic->vdev, QUEUE_TX);
}

static void nic_ready(void *arg)
{
    struct nic *nic = arg;
    if (nic->tx_blocked)
        virtio_kick(&nic->vdev, QUEUE_TX);
}

static void nic_link(void *arg, bool up)
{
    struct nic *nic = arg;
    nic->link_up = up;
    virtio_config_changed(&nic->vdev);
}

static const struct net_receiver nic_receiver = {
    .receive = nic_receive,
    .ready = nic_ready,
    .link = nic_link,
};

/* ---- Control queue (5.1.6.5) ---- */

static size_t control_read(struct virtqueue_elem *elem, size_t at, void *out, size_t len)
{
    return iov_to_buf(elem->out, elem->out_count, sizeof(struct virtio_net_ctrl_hdr) + at, out,
                      len);
}

static bool control_rx(struct nic *nic, uint8_t cmd, struct virtqueue_elem *elem)
{
    uint8_t *modes[] = { &nic->regs.promisc, &nic->regs.allmulti, &nic->regs.alluni,
                         &nic->regs.nomulti, &nic->regs.nouni,    &nic->regs.nobcast };
    uint8_t on;
    if (cmd >= ARRAY_LEN(modes) || control_read(elem, 0, &on, 1) != 1)
        return false;
    *modes[cmd] = on & 1;
    return true;
}

/* Reads one list of addresses at *at and moves on; entries that do not fit set *overflow. */
static bool control_mac_list(struct nic *nic, struct virtqueue_elem *elem, size_t *at,
                             unsigned first, uint8_t *count, uint8_t *overflow)
{
    uint32_t entries;
    if (control_read(elem, *at, &entries, 4) != 4)
        return false;
    entries = le32toh(entries);
    *at += 4;
    if (entries > (elem->out_bytes - sizeof(struct virtio_net_ctrl_hdr) - *at) / 6)
        return false;
    unsigned taken = entries < NIC_MACS - first ? entries : NIC_MACS - first;
    *overflow = taken < entries;
    *count = (uint8_t)taken;
    control_read(elem, *at, nic->regs.macs[first], taken * 6ul);
    *at += entries * 6ul;
    return true;
}

static bool control_mac_table(struct nic *nic, struct virtqueue_elem *elem)
{
    struct nic_regs *r = &nic->regs, old = *r;
    size_t at = 0;
    if (control_mac_list(nic, elem, &at, 0, &r->unicast_count, &r->unicast_overflow) &&
        control_mac_list(nic, elem, &at, r->unicast_count, &r->multicast_count,
                         &r->multicast_overflow))
        return true;
    r->unicast_count = old.unicast_count;
    r->multicast_count = old.multicast_count;
    r->unicast_overflow = old.unicast_overflow;
    r->multicast_overflow = old.multicast_overflow;
    memcpy(r->macs, old.macs, sizeof r->macs);
    return false;
}

static bool control_mac(struct nic *nic, uint8_t cmd, struct virtqueue_elem *elem)
{
    uint8_t mac[6];
    if (cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET)
        return control_mac_table(nic, elem);
    if (cmd != VIRTIO_NET_CTRL_MAC_ADDR_SET || control_read(elem, 0, mac, 6) != 6 || mac[0] & 1)
        return false;
    LOCKED(&nic->vdev.pci.dev.lock);
    memcpy(nic->regs.mac, mac, 6);
    return true;
}

static bool control_offloads(struct nic *nic, uint8_t cmd, struct virtqueue_elem *elem)
{
    uint64_t offloads;
    if (cmd != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET || control_read(elem, 0, &offloads, 8) != 8)
        return false;
    offloads = le64toh(offloads);
    if (offloads & ~(nic->vdev.regs->driver_features & nic_guest_features))
        return false;
    nic->regs.guest_offloads = offloads;
    nic_apply_offloads(nic);
    return true;
}

static void nic_control(struct virtio_device *vdev, struct virtqueue_elem *elem)
{
    struct nic *nic = nic_of(vdev);
    struct virtio_net_ctrl_hdr header;
    bool fine = false;
    if (iov_to_buf(elem->out, elem->out_count, 0, &header, sizeof header) == sizeof header) {
        switch (header.class) {
        case VIRTIO_NET_CTRL_RX: fine = control_rx(nic, header.cmd, elem); break;
        case VIRTIO_NET_CTRL_MAC: fine = control_mac(nic, header.cmd, elem); break;
        case VIRTIO_NET_CTRL_GUEST_OFFLOADS: fine = control_offloads(nic, header.cmd, elem); break;
        }
    }
    uint8_t ack = fine ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
    virtio_complete(vdev, elem, (uint32_t)iov_from_buf(elem->in, elem->in_count, 0, &ack, 1));
}

/* ---- The device ---- */

static void nic_queue(struct virtio_device *vdev, unsigned queue)
{
    struct nic *nic = nic_of(vdev);
    if (queue == QUEUE_TX) {
        nic_transmit(nic);
    } else if (queue == QUEUE_CONTROL) {
        virtio_queue_each(vdev, queue, nic_control);
    } else {
        nic_apply_offloads(nic);
        net_resume(nic->backend);
    }
}

static void nic_config(struct virtio_device *vdev, uint8_t *out)
{
    struct nic *nic = nic_of(vdev);
    struct virtio_net_config config = { .status = htole16(nic->link_up ? VIRTIO_NET_S_LINK_UP : 0),
                                        .max_virtqueue_pairs = htole16(1) };
    memcpy(config.mac, nic->regs.mac, 6);
    memcpy(out, &config, offsetof(struct virtio_net_config, mtu));
}

static void nic_reset(struct virtio_device *vdev)
{
    struct nic *nic = nic_of(vdev);
    struct nic_regs *r = &nic->regs;
    r->guest_offloads = nic_guest_features;
    r->promisc = 1; /* until the driver says what it wants */
    r->allmulti = r->alluni = r->nomulti = r->nouni = r->nobcast = 0;
    r->unicast_count = r->multicast_count = r->unicast_overflow = r->multicast_overflow = 0;
    nic->tx_blocked = false;
}

static void nic_pause(struct virtio_device *vdev, unsigned lane)
{
    net_pause(nic_of(vdev)->backend);
}

static void nic_resume(struct virtio_device *vdev, unsigned lane)
{
    nic_apply_offloads(nic_of(vdev));
    net_resume(nic_of(vdev)->backend);
}

static const struct virtio_ops nic_ops = {
    .id = VIRTIO_ID_NET,
    .class_code = 0x020000,
    .config = nic_config,
    .queue = nic_queue,
    .reset = nic_reset,
    .pause = nic_pause,
    .resume = nic_resume,
};

static void nic_backend_close(void *arg) { net_destroy(arg); }

static void nic_destroy(struct device *dev)
{
    struct nic *nic = nic_of(virtio_of(dev));
    loop_call(dev->machine->io_loop, nic_backend_close, nic->backend);
    virtio_fini(&nic->vdev);
    free(nic->iov);
    free(nic);
}

static int nic_check(const void *state, struct err *err)
{
    const struct nic_regs *r = state;
    if (r->unicast_count + r->multicast_count > NIC_MACS)
        return err_set(err, EINVAL, "a receive filter of more than %d addresses", NIC_MACS);
    if ((r->promisc | r->allmulti | r->alluni | r->nomulti | r->nouni | r->nobcast |
         r->unicast_overflow | r->multicast_overflow) > 1)
        return err_set(err, EINVAL, "a receive mode that is neither 0 nor 1");
    return 0;
}

static const struct state_field nic_fields[] = {
    STATE_STRUCT(struct nic_regs, virtio, &virtio_state),
    STATE_U64(struct nic_regs, guest_offloads),
    STATE_BYTES(struct nic_regs, mac),
    STATE_U8(struct nic_regs, promisc),
    STATE_U8(struct nic_regs, allmulti),
    STATE_U8(struct nic_regs, alluni),
    STATE_U8(struct nic_regs, nomulti),
    STATE_U8(struct nic_regs, nouni),
    STATE_U8(struct nic_regs, nobcast),
    STATE_U8(struct nic_regs, unicast_count),
    STATE_U8(struct nic_regs, multicast_count),
    STATE_U8(struct nic_regs, unicast_overflow),
    STATE_U8(struct nic_regs, multicast_overflow),
    STATE_BYTES(struct nic_regs, macs),
    STATE_END,
};
static const struct state_desc nic_state = {
    .name = "virtio-net",
    .version = 1,
    .base = offsetof(struct nic, regs),
    .size = sizeof(struct nic_regs),
    .fields = nic_fields,
    .check = nic_check,
};
static const struct device_type nic_type = {
    .name = "virtio-net",
    .about = "a virtio network card",
    .destroy = nic_destroy,
    VIRTIO_DEVICE_FUNCTIONS,
    .state = &nic_state,
};

static void nic_attach(void *arg)
{
    struct nic *nic = arg;
    nic_reset(&nic->vdev);
    nic->link_up = nic->backend->up;
    net_set_receiver(nic->backend, &nic_receiver, nic);
}

int virtio_net_create(struct machine *m, const struct virtio_net_options *options,
                      struct pci_device **out, struct err *err)
{
    struct nic *nic = calloc(1, sizeof *nic);
    if (!nic) {
        loop_call(m->io_loop, nic_backend_close, options->take_backend);
        return err_set(err, ENOMEM, "out of memory");
    }
    nic->backend = options->take_backend;
    memcpy(nic->regs.mac, options->mac, 6);
    const struct virtio_params params = {
        .ops = &nic_ops,
        .id = options->id,
        .regs = &nic->regs.virtio,
        .features = nic_guest_features | 1ull << VIRTIO_NET_F_CSUM |
                    1ull << VIRTIO_NET_F_HOST_TSO4 | 1ull << VIRTIO_NET_F_HOST_TSO6 |
                    1ull << VIRTIO_NET_F_HOST_ECN | 1ull << VIRTIO_NET_F_MAC |
                    1ull << VIRTIO_NET_F_STATUS | 1ull << VIRTIO_NET_F_MRG_RXBUF |
                    1ull << VIRTIO_NET_F_CTRL_VQ | 1ull << VIRTIO_NET_F_CTRL_RX |
                    1ull << VIRTIO_NET_F_CTRL_RX_EXTRA | 1ull << VIRTIO_NET_F_CTRL_MAC_ADDR |
                    1ull << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
        .queues = QUEUES,
        .config_len = offsetof(struct virtio_net_config, mtu),
        .queue_size = NIC_QUEUE_SIZE,
    };
    int r = virtio_init(&nic->vdev, m, &nic_type, &params, err);
    if (r < 0) {
        nic_destroy(&nic->vdev.pci.dev);
        return r;
    }
    loop_call(m->io_loop, nic_attach, nic);
    *out = &nic->vdev.pci;
    return 0;
}
