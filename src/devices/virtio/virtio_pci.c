/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Virtio over PCI, modern devices only (VIRTIO 1.2, 2.1 to 2.6 and 4.1).
 *
 * A reset is finished on the queues' loops (virtio_lanes.c), when nothing is in flight any more:
 * until then status keeps its value, and the driver waits for it to read 0 (4.1.4.3.2). While the
 * reset is pending, other writes are ignored. Firmware that does not wait meets no pending reset:
 * its device was never live.
 *
 * Left out: the legacy and transitional interface, and notification data; no driver that
 * matters needs them.
 */
#include "devices/virtio/virtio_lanes.h"

#include "base/checked.h"
#include "base/log.h"
#include "machine/machine.h"

#include <assert.h>
#include <endian.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

enum { VIRTIO_PCI_VENDOR = 0x1af4, VIRTIO_PCI_DEVICE_BASE = 0x1040, VIRTIO_PCI_SUBSYSTEM = 0x1100 };
enum { NOTIFY_MULTIPLIER = 4 };
enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };

/* 4.1.4.3; the kernel's struct ends before queue_notify_data. */
struct common_config {
    struct virtio_pci_common_cfg c;
    uint16_t queue_notify_data, queue_reset;
};

static const uint64_t transport_features =
    1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX |
    1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_F_RING_PACKED |
    1ull << VIRTIO_F_RING_RESET;

/* ---- Interrupts ---- */

/* dev->lock held. */
static void virtio_interrupt(struct virtio_device *vdev, uint32_t vector, uint8_t isr)
{
    if (pci_msix_enabled(&vdev->pci)) {
        if (vector != VIRTIO_MSI_NO_VECTOR)
            pci_msix_notify(&vdev->pci, vector);
        return;
    }
    vdev->regs->isr |= isr;
    pci_intx_set(&vdev->pci, true);
}

static void virtio_queue_interrupt(void *arg, unsigned queue)
{
    struct virtio_device *vdev = arg;
    LOCKED(&vdev->pci.dev.lock);
    virtio_interrupt(vdev, vdev->regs->queues[queue].vector, ISR_QUEUE);
}

void virtio_config_changed(struct virtio_device *vdev)
{
    LOCKED(&vdev->pci.dev.lock);
    vdev->regs->config_generation++;
    if (vdev->regs->status & VIRTIO_CONFIG_S_DRIVER_OK)
        virtio_interrupt(vdev, vdev->regs->config_vector, ISR_CONFIG);
}

void virtio_broken(struct virtio_device *vdev, const char *why)
{
    log_guest("%s: the driver broke the rules, device needs reset: %s", vdev->pci.dev.id, why);
    LOCKED(&vdev->pci.dev.lock);
    if (!vdev->live || vdev->regs->reset_pending)
        return;
    vdev->regs->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    if (vdev->regs->status & VIRTIO_CONFIG_S_DRIVER_OK)
        virtio_interrupt(vdev, vdev->regs->config_vector, ISR_CONFIG);
}

static void virtio_queue_broken(void *arg, const char *why) { virtio_broken(arg, why); }

/* ---- Reset ---- */

void virtio_regs_reset(struct virtio_device *vdev)
{
    struct virtio_regs *r = vdev->regs;
    r->driver_features = 0;
    r->device_feature_select = r->driver_feature_select = 0;
    r->queue_select = 0;
    r->config_vector = VIRTIO_MSI_NO_VECTOR;
    r->status = r->isr = r->reset_pending = 0;
    for (unsigned i = 0; i < vdev->queue_count; i++)
        virtqueue_regs_reset(&r->queues[i], vdev->queue_size);
    vdev->live = false;
    pci_intx_set(&vdev->pci, false);
}

void virtio_reset(struct device *dev)
{
    struct virtio_device *vdev = virtio_of(dev);
    pci_reset(&vdev->pci);
    lanes_reset(vdev);
}

/* ---- Common configuration: vCPU threads, dev->lock held ---- */

static struct virtqueue_regs *virtio_selected(struct virtio_device *vdev)
{
    struct virtio_regs *r = vdev->regs;
    return r->queue_select < vdev->queue_count ? &r->queues[r->queue_select] : NULL;
}

static void common_fill_queue(const struct virtio_device *vdev, const struct virtqueue_regs *q,
                              struct common_config *out)
{
    out->c.queue_size = htole16((uint16_t)q->size);
    out->c.queue_msix_vector = htole16((uint16_t)q->vector);
    out->c.queue_enable = htole16(q->enabled);
    out->c.queue_notify_off = htole16(vdev->regs->queue_select);
    out->c.queue_desc_lo = htole32((uint32_t)q->desc);
    out->c.queue_desc_hi = htole32((uint32_t)(q->desc >> 32));
    out->c.queue_avail_lo = htole32((uint32_t)q->driver);
    out->c.queue_avail_hi = htole32((uint32_t)(q->driver >> 32));
    out->c.queue_used_lo = htole32((uint32_t)q->device);
    out->c.queue_used_hi = htole32((uint32_t)(q->device >> 32));
    out->queue_reset = htole16(q->reset_pending);
}

static uint32_t feature_word(uint64_t features, uint32_t select)
{
    return select < 2 ? (uint32_t)(features >> 32 * select) : 0;
}

static void common_fill(struct virtio_device *vdev, struct common_config *out)
{
    const struct virtio_regs *r = vdev->regs;
    *out = (struct common_config){
        .c.device_feature_select = htole32(r->device_feature_select),
        .c.device_feature = htole32(feature_word(vdev->features, r->device_feature_select)),
        .c.guest_feature_select = htole32(r->driver_feature_select),
        .c.guest_feature = htole32(feature_word(r->driver_features, r->driver_feature_select)),
        .c.msix_config = htole16(r->config_vector),
        .c.num_queues = htole16((uint16_t)vdev->queue_count),
        .c.device_status = r->status,
        .c.config_generation = r->config_generation,
        .c.queue_select = htole16(r->queue_select),
    };
    const struct virtqueue_regs *q = virtio_selected(vdev);
    if (q)
        common_fill_queue(vdev, q, out);
}

static void status_write(struct virtio_device *vdev, uint8_t value)
{
    struct virtio_regs *r = vdev->regs;
    if (!value) {
        if (!vdev->live) {
            virtio_regs_reset(vdev);
        } else {
            lanes_ask_reset(vdev);
        }
        return;
    }
    /* Bits are only added, and NEEDS_RESET is ours. */
    uint8_t added = value & ~r->status & ~VIRTIO_CONFIG_S_NEEDS_RESET;
    bool features_fine = !(r->driver_features & ~vdev->features) &&
                         (r->driver_features & 1ull << VIRTIO_F_VERSION_1);
    if ((added & VIRTIO_CONFIG_S_FEATURES_OK) && !features_fine)
        added &= ~VIRTIO_CONFIG_S_FEATURES_OK; /* 3.1.1 step 6: the driver reads it back */
    if (!((r->status | added) & VIRTIO_CONFIG_S_FEATURES_OK))
        added &= ~VIRTIO_CONFIG_S_DRIVER_OK;
    r->status |= added;
    if (added & VIRTIO_CONFIG_S_DRIVER_OK) {
        vdev->live = true;
        lanes_kick(vdev); /* doorbells may have come early */
    }
}

static void driver_feature_write(struct virtio_device *vdev, uint32_t value)
{
    struct virtio_regs *r = vdev->regs;
    if (r->status & VIRTIO_CONFIG_S_FEATURES_OK || r->driver_feature_select > 1)
        return;
    unsigned shift = 32 * r->driver_feature_select;
    r->driver_features = (r->driver_features & ~(0xffffffffull << shift)) | (uint64_t)value
                                                                                << shift;
}

static uint16_t vector_checked(const struct virtio_device *vdev, uint64_t value)
{
    return value < vdev->pci.msix_vectors ? (uint16_t)value : VIRTIO_MSI_NO_VECTOR;
}

static void address_write(uint64_t *address, bool high, uint64_t value)
{
    unsigned shift = high ? 32 : 0;
    *address = (*address & ~(0xffffffffull << shift)) | (value & 0xffffffff) << shift;
}

static void queue_size_write(struct virtio_device *vdev, struct virtqueue_regs *q, uint64_t value)
{
    bool packed = vdev->regs->driver_features & 1ull << VIRTIO_F_RING_PACKED;
    if (value && value <= vdev->queue_size && (packed || is_power_of_two(value)))
        q->size = (uint16_t)value;
}

static void queue_reset_write(struct virtio_device *vdev, struct virtqueue_regs *q, uint64_t value)
{
    if (value != 1 || !q->enabled || !(vdev->regs->driver_features & 1ull << VIRTIO_F_RING_RESET))
        return;
    q->reset_pending = 1;
    lanes_settle_soon(vdev);
}

static void queue_enable_write(struct virtio_device *vdev, struct virtqueue_regs *q, uint64_t value)
{
    if (value != 1 || !(vdev->regs->status & VIRTIO_CONFIG_S_FEATURES_OK))
        return;
    q->enabled = 1;
    vdev->live = true;
    virtio_kick(vdev, vdev->regs->queue_select);
}

/* Registers of the selected queue. Size and addresses are fixed while it is enabled. */
static void common_write_queue(struct virtio_device *vdev, unsigned offset, unsigned size,
                               uint64_t value)
{
    struct virtqueue_regs *q = virtio_selected(vdev);
    if (!q || q->reset_pending)
        return;
    if (offset == VIRTIO_PCI_COMMON_Q_MSIX && size == 2)
        q->vector = vector_checked(vdev, value);
    else if (offset == VIRTIO_PCI_COMMON_Q_RESET && size == 2)
        queue_reset_write(vdev, q, value);
    else if (q->enabled)
        return;
    else if (offset == VIRTIO_PCI_COMMON_Q_SIZE && size == 2)
        queue_size_write(vdev, q, value);
    else if (offset == VIRTIO_PCI_COMMON_Q_ENABLE && size == 2)
        queue_enable_write(vdev, q, value);
    else if (size == 4 && offset >= VIRTIO_PCI_COMMON_Q_DESCLO &&
             offset <= VIRTIO_PCI_COMMON_Q_USEDHI && offset % 4 == 0) {
        uint64_t *areas[] = { &q->desc, &q->driver, &q->device };
        address_write(areas[(offset - VIRTIO_PCI_COMMON_Q_DESCLO) / 8], offset & 4, value);
    }
}

static void common_write(struct virtio_device *vdev, unsigned offset, unsigned size, uint64_t value)
{
    struct virtio_regs *r = vdev->regs;
    if (size == 8) {
        common_write(vdev, offset, 4, value & 0xffffffff);
        common_write(vdev, offset + 4, 4, value >> 32);
        return;
    }
    if (r->reset_pending)
        return;
    if (offset == VIRTIO_PCI_COMMON_DFSELECT && size == 4)
        r->device_feature_select = (uint32_t)value;
    else if (offset == VIRTIO_PCI_COMMON_GFSELECT && size == 4)
        r->driver_feature_select = (uint32_t)value;
    else if (offset == VIRTIO_PCI_COMMON_GF && size == 4)
        driver_feature_write(vdev, (uint32_t)value);
    else if (offset == VIRTIO_PCI_COMMON_MSIX && size == 2)
        r->config_vector = vector_checked(vdev, value);
    else if (offset == VIRTIO_PCI_COMMON_STATUS && size == 1)
        status_write(vdev, (uint8_t)value);
    else if (offset == VIRTIO_PCI_COMMON_Q_SELECT && size == 2)
        r->queue_select = (uint16_t)value;
    else
        common_write_queue(vdev, offset, size, value);
}

/* ---- The BAR ---- */

/* `size` little-endian bytes at `offset` of a structure of `len` bytes; zero behind it. */
static uint64_t bytes_read(const void *data, size_t len, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    if (range_fits(offset, size, len))
        memcpy(&value, (const uint8_t *)data + offset, size);
    return le64toh(value);
}

static uint64_t isr_read(struct virtio_device *vdev)
{
    uint8_t isr = vdev->regs->isr;
    vdev->regs->isr = 0;
    pci_intx_set(&vdev->pci, false);
    return isr;
}

uint64_t virtio_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct virtio_device *vdev = virtio_of(dev);
    if (region != vdev->bar || offset < vdev->bar_offset)
        return UINT64_MAX;
    offset -= vdev->bar_offset;
    if (offset < VIRTIO_BAR_ISR) {
        struct common_config common;
        common_fill(vdev, &common);
        return bytes_read(&common, sizeof common, offset, size);
    }
    if (offset < VIRTIO_BAR_DEVICE)
        return offset == VIRTIO_BAR_ISR ? isr_read(vdev) : 0;
    if (offset < VIRTIO_BAR_NOTIFY) {
        uint8_t config[VIRTIO_MAX_CONFIG] = { 0 };
        if (vdev->ops->config)
            vdev->ops->config(vdev, config);
        return bytes_read(config, vdev->config_len, offset - VIRTIO_BAR_DEVICE, size);
    }
    return 0;
}

void virtio_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                  uint64_t value)
{
    struct virtio_device *vdev = virtio_of(dev);
    if (region != vdev->bar || offset < vdev->bar_offset)
        return;
    offset -= vdev->bar_offset;
    if (offset < VIRTIO_BAR_ISR) {
        common_write(vdev, (unsigned)offset, size, value);
    } else if (offset >= VIRTIO_BAR_DEVICE && offset < VIRTIO_BAR_NOTIFY) {
        offset -= VIRTIO_BAR_DEVICE;
        if (vdev->ops->config_write && !vdev->regs->reset_pending &&
            range_fits(offset, size, vdev->config_len))
            vdev->ops->config_write(vdev, (unsigned)offset, size, value);
    } else if (offset >= VIRTIO_BAR_NOTIFY && offset < VIRTIO_BAR_MSIX_TABLE) {
        uint64_t queue = (offset - VIRTIO_BAR_NOTIFY) / NOTIFY_MULTIPLIER;
        if (queue < vdev->queue_count) /* other widths than the doorbell's */
            virtio_kick(vdev, (unsigned)queue);
    }
}

/* ---- PCI configuration space ---- */

/* 4.1.4.9: the window in configuration space through which firmware reaches the BAR. */
static bool cfg_window(struct pci_device *pci, unsigned offset, unsigned size, uint32_t *bar_offset,
                       uint32_t *len, uint8_t **data)
{
    unsigned cap = PCI_CAPABILITY_LIST, next = pci->regs->config[cap];
    while (next && pci->regs->config[next + 3] != VIRTIO_PCI_CAP_PCI_CFG)
        next = pci->regs->config[next + 1];
    cap = next;
    if (!cap || !ranges_overlap(offset, size, cap + sizeof(struct virtio_pci_cap), 4))
        return false;
    struct virtio_pci_cap at;
    memcpy(&at, &pci->regs->config[cap], sizeof at);
    *bar_offset = le32toh(at.offset);
    *len = le32toh(at.length);
    *data = &pci->regs->config[cap + sizeof at];
    const struct virtio_device *vdev = (struct virtio_device *)pci;
    return at.bar == vdev->bar && (*len == 1 || *len == 2 || *len == 4) &&
           *bar_offset % *len == 0 &&
           range_fits(*bar_offset, *len, vdev->bar_offset + VIRTIO_BAR_SIZE);
}

static void virtio_config_read(struct pci_device *pci, unsigned offset, unsigned size)
{
    uint32_t at, len;
    uint8_t *data;
    if (!cfg_window(pci, offset, size, &at, &len, &data))
        return;
    uint64_t value = htole64(device_read(&pci->dev, ((struct virtio_device *)pci)->bar, at, len));
    memcpy(data, &value, len);
}

static void virtio_config_written(struct pci_device *pci, unsigned offset, unsigned size)
{
    uint32_t at, len;
    uint8_t *data;
    if (cfg_window(pci, offset, size, &at, &len, &data)) {
        uint64_t value = 0;
        memcpy(&value, data, len);
        device_write(&pci->dev, ((struct virtio_device *)pci)->bar, at, len, le64toh(value));
    }
    if (ranges_overlap(offset, size, PCI_COMMAND, 2))
        lanes_kick((struct virtio_device *)pci); /* perhaps a bus master now */
}

static void virtio_bar_mapped(struct pci_device *pci, unsigned bar, uint64_t address, bool mapped)
{
    struct virtio_device *vdev = (struct virtio_device *)pci;
    struct machine *m = pci->dev.machine;
    if (bar != vdev->bar) {
        if (vdev->ops->bar_mapped)
            vdev->ops->bar_mapped(vdev, bar, address, mapped);
        return;
    }
    for (unsigned i = 0; i < vdev->queue_count; i++) {
        uint64_t at = address + vdev->bar_offset + VIRTIO_BAR_NOTIFY + i * NOTIFY_MULTIPLIER;
        struct err err = { 0 };
        if (!mapped)
            doorbell_remove(m, SPACE_MEMORY, at, vdev->doorbells[i].fd);
        else if (doorbell_add(m, SPACE_MEMORY, at, 2, vdev->doorbells[i].fd, &err) < 0)
            log_guest("%s: queue %u rings through its register: %s", pci->dev.id, i, err.text);
    }
}

static const struct pci_ops virtio_pci_ops = {
    .config_read = virtio_config_read,
    .config_written = virtio_config_written,
    .bar_mapped = virtio_bar_mapped,
};

static void virtio_add_cap(struct virtio_device *vdev, uint8_t type, unsigned extra,
                           uint32_t offset, uint32_t length)
{
    struct pci_device *pci = &vdev->pci;
    unsigned len = sizeof(struct virtio_pci_cap) + extra;
    unsigned at = pci_add_capability(pci, PCI_CAP_VENDOR, len);
    bool window = type == VIRTIO_PCI_CAP_PCI_CFG;
    pci_config_init(pci, at + VIRTIO_PCI_CAP_LEN, 1, len, 0);
    pci_config_init(pci, at + VIRTIO_PCI_CAP_CFG_TYPE, 1, type, 0);
    pci_config_init(pci, at + VIRTIO_PCI_CAP_BAR, 1, vdev->bar, window ? 0xff : 0);
    pci_config_init(pci, at + VIRTIO_PCI_CAP_OFFSET, 4, vdev->bar_offset + offset,
                    window ? 0xffffffff : 0);
    pci_config_init(pci, at + VIRTIO_PCI_CAP_LENGTH, 4, length, window ? 0xffffffff : 0);
    if (type == VIRTIO_PCI_CAP_NOTIFY_CFG)
        pci_config_init(pci, at + VIRTIO_PCI_NOTIFY_CAP_MULT, 4, NOTIFY_MULTIPLIER, 0);
    if (window)
        pci_config_init(pci, at + sizeof(struct virtio_pci_cap), 4, 0, 0xffffffff);
}

static void virtio_add_caps(struct virtio_device *vdev)
{
    struct pci_device *pci = &vdev->pci;
    unsigned at = vdev->bar_offset;
    pci_bar_add(pci, vdev->bar, at + VIRTIO_BAR_SIZE, PCI_BAR_64);
    pci_msix_init(pci, vdev->bar, at + VIRTIO_BAR_MSIX_TABLE, at + VIRTIO_BAR_MSIX_PBA,
                  vdev->queue_count + 1);
    virtio_add_cap(vdev, VIRTIO_PCI_CAP_COMMON_CFG, 0, VIRTIO_BAR_COMMON,
                   sizeof(struct common_config));
    virtio_add_cap(vdev, VIRTIO_PCI_CAP_ISR_CFG, 0, VIRTIO_BAR_ISR, 1);
    if (vdev->config_len)
        virtio_add_cap(vdev, VIRTIO_PCI_CAP_DEVICE_CFG, 0, VIRTIO_BAR_DEVICE, vdev->config_len);
    virtio_add_cap(vdev, VIRTIO_PCI_CAP_NOTIFY_CFG, 4, VIRTIO_BAR_NOTIFY,
                   vdev->queue_count * NOTIFY_MULTIPLIER);
    virtio_add_cap(vdev, VIRTIO_PCI_CAP_PCI_CFG, 4, 0, 0);
}

/* ---- State ---- */

static int virtio_loaded_queue(struct virtio_device *vdev, unsigned queue, uint32_t slots,
                               uint32_t elems, struct err *err)
{
    const struct virtio_regs *r = vdev->regs;
    const struct virtqueue_regs *q = &r->queues[queue];
    bool packed = r->driver_features & 1ull << VIRTIO_F_RING_PACKED;
    if (q->size > vdev->queue_size ||
        (q->vector != VIRTIO_MSI_NO_VECTOR && q->vector >= vdev->pci.msix_vectors))
        return err_set(err, EINVAL, "queue %u has a size or vector that this device lacks", queue);
    if (slots > q->size || (slots && !q->enabled))
        return err_set(err, EINVAL, "queue %u has more requests in flight than entries", queue);
    uint16_t taken = (uint16_t)(q->avail_idx - q->used_idx);
    if (!packed && (taken < elems || taken > q->size)) /* more than elems: the ring was broken */
        return err_set(err, EINVAL, "queue %u has indices that do not fit its requests", queue);
    return 0;
}

int virtio_loaded(struct device *dev, struct err *err)
{
    struct virtio_device *vdev = virtio_of(dev);
    struct virtio_regs *r = vdev->regs;
    uint32_t slots[VIRTIO_MAX_QUEUES] = { 0 }, elems[VIRTIO_MAX_QUEUES] = { 0 };
    int ret = pci_loaded(&vdev->pci, err);
    if (ret < 0)
        return ret;
    if (r->driver_features & ~vdev->features && r->status & VIRTIO_CONFIG_S_FEATURES_OK)
        return err_set(err, EINVAL, "the driver uses features that this device lacks: 0x%llx",
                       (unsigned long long)(r->driver_features & ~vdev->features));
    if (virtqueue_inflight_check(r->inflight, r->inflight_len, vdev->queue_count, slots, elems,
                                 err) < 0)
        return -err->code;
    for (unsigned i = 0; i < vdev->queue_count; i++) {
        ret = virtio_loaded_queue(vdev, i, slots[i], elems[i], err);
        if (ret < 0)
            return ret;
        vdev->live |= r->queues[i].enabled;
    }
    vdev->live |= !!(r->status & VIRTIO_CONFIG_S_DRIVER_OK);
    pci_intx_set(&vdev->pci, r->isr && !pci_msix_enabled(&vdev->pci));
    return lanes_loaded(vdev, err);
}

static int virtio_check(const void *state, struct err *err)
{
    const struct virtio_regs *r = state;
    if (r->reset_pending > 1)
        return err_set(err, EINVAL, "reset_pending is neither 0 nor 1");
    if (r->isr & ~(ISR_QUEUE | ISR_CONFIG))
        return err_set(err, EINVAL, "unknown bits in isr");
    return 0;
}

enum { INFLIGHT_MAX = 64 << 20 };

static const struct state_field virtio_fields[] = {
    STATE_STRUCT(struct virtio_regs, pci, &pci_state),
    STATE_U64(struct virtio_regs, driver_features),
    STATE_U32(struct virtio_regs, device_feature_select),
    STATE_U32(struct virtio_regs, driver_feature_select),
    STATE_U16(struct virtio_regs, queue_select),
    STATE_U16(struct virtio_regs, config_vector),
    STATE_U8(struct virtio_regs, status),
    STATE_U8(struct virtio_regs, config_generation),
    STATE_U8(struct virtio_regs, isr),
    STATE_U8(struct virtio_regs, reset_pending),
    STATE_STRUCTS(struct virtio_regs, queues, &virtqueue_state),
    STATE_VARBYTES(struct virtio_regs, inflight, inflight_len, INFLIGHT_MAX),
    STATE_END,
};
const struct state_desc virtio_state = {
    .name = "virtio",
    .version = 1,
    .size = sizeof(struct virtio_regs),
    .fields = virtio_fields,
    .check = virtio_check,
};

/* ---- Create and destroy ---- */

int virtio_init(struct virtio_device *vdev, struct machine *m, const struct device_type *type,
                const struct virtio_params *params, struct err *err)
{
    const struct virtio_ops *ops = params->ops;
    struct pci_ids ids = { .vendor = VIRTIO_PCI_VENDOR,
                           .device = (uint16_t)(VIRTIO_PCI_DEVICE_BASE + ops->id),
                           .subsystem_vendor = VIRTIO_PCI_VENDOR,
                           .subsystem = VIRTIO_PCI_SUBSYSTEM,
                           .class_code = ops->class_code,
                           .revision = 1,
                           .interrupt_pin = 1 };
    assert(params->queues && params->queues <= VIRTIO_MAX_QUEUES &&
           params->config_len <= VIRTIO_MAX_CONFIG && is_power_of_two(params->queue_size) &&
           params->queue_size <= VIRTQUEUE_MAX_SIZE);

    vdev->ops = ops;
    vdev->regs = params->regs;
    vdev->features = params->features | transport_features;
    vdev->queue_count = params->queues;
    vdev->queue_size = params->queue_size;
    vdev->config_len = params->config_len;
    vdev->bar = params->bar;
    vdev->bar_offset = params->bar_offset;
    lanes_init(vdev, m, params);
    pci_device_init(&vdev->pci, m, type, params->id, &ids, &virtio_pci_ops, &params->regs->pci);
    vdev->whole = true;
    virtio_add_caps(vdev);
    for (unsigned i = 0; i < vdev->queue_count; i++) {
        struct virtqueue *vq = &vdev->queues[i];
        virtqueue_init(vq, m, i, &vdev->regs->queues[i]);
        vq->broken = virtio_queue_broken;
        vq->interrupt = virtio_queue_interrupt;
        vq->arg = vdev;
    }
    int r = lanes_open(vdev, err);
    if (r < 0)
        return r;
    LOCKED(&vdev->pci.dev.lock);
    virtio_regs_reset(vdev);
    return 0;
}

void virtio_fini(struct virtio_device *vdev)
{
    if (!vdev->whole)
        return;
    lanes_close(vdev);
    pci_device_fini(&vdev->pci); /* removes the doorbells */
    for (unsigned i = 0; i < vdev->queue_count; i++)
        fd_close(vdev->doorbells[i].fd);
    free(vdev->regs->inflight);
}
