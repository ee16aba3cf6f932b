/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside the virtio transport: what happens to queues on their loops.
 *
 * virtio_pci.c has the registers and calls these; a device's lanes run beside each other and meet
 * only in the registers, under dev->lock. Nobody who is on one lane's loop waits for another's.
 */
#ifndef DEVICES_VIRTIO_VIRTIO_LANES_H
#define DEVICES_VIRTIO_VIRTIO_LANES_H

#include "devices/virtio/virtio_pci.h"

/* In virtio_pci.c: the registers as after power-on. dev->lock held. */
void virtio_regs_reset(struct virtio_device *vdev);

/* The fields; no descriptor is open yet. */
void lanes_init(struct virtio_device *vdev, struct machine *m, const struct virtio_params *params);
/* Doorbells. On failure lanes_close tidies up. */
int lanes_open(struct virtio_device *vdev, struct err *err);
void lanes_close(struct virtio_device *vdev);

void lanes_kick(struct virtio_device *vdev); /* every queue. Any thread */
/* The driver wants the whole device reset; dev->lock held. */
void lanes_ask_reset(struct virtio_device *vdev);
/* Finishes resets as far as they can be, soon. Any thread. */
void lanes_settle_soon(struct virtio_device *vdev);

/* ---- main loop, while no vCPU runs ---- */

/* As if the driver had asked, and at once unless a request hangs. */
void lanes_reset(struct virtio_device *vdev);
/* The registers were loaded: the queues begin where those say. */
int lanes_loaded(struct virtio_device *vdev, struct err *err);

#endif
