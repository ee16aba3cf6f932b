/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disks and network cards that come and go while the VM runs: virtio functions in the slots of the
 * root ports. What is plugged stands at the end of the options' disks or nets, with its id and
 * port, so everything that lists them (status, saved states, closing) finds it there.
 *
 * A device is made and destroyed while the machine is paused: the guest notices a few hundred
 * microseconds at most. Files come as descriptors, because nothing can be opened any more.
 */
#include "base/checked.h"
#include "base/log.h"
#include "board/board.h"
#include "devices/pci_port.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/net.h"
#include "vmm/options_disk.h"
#include "vmm/vmm.h"

#include <ctype.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

static bool pause_begin(struct vmm *vmm)
{
    bool running = vmm->machine->state == MACHINE_RUNNING;
    if (running)
        machine_pause(vmm->machine);
    return running;
}

static void pause_end(struct vmm *vmm, bool running)
{
    if (running)
        machine_resume(vmm->machine);
}

static int busy(const struct vmm *vmm, struct err *err)
{
    if (vmm->saving.active)
        return err_set(err, EBUSY, "the VM is being saved; try again when that is done");
    return 0;
}

bool hotplug_id_good(const char *id)
{
    size_t len = strlen(id);
    bool good =
        len >= 1 && len < sizeof((struct snapshot_disk *)0)->id && islower((unsigned char)*id);
    for (size_t i = 0; good && i < len; i++)
        good = islower((unsigned char)id[i]) || isdigit((unsigned char)id[i]) || id[i] == '-';
    return good;
}

/* ---- finding places ---- */

static struct device *port_of(struct vmm *vmm, unsigned number)
{
    return number >= 1 && number <= BOARD_PORTS ? board_port(vmm->board, number - 1) : NULL;
}

static int place_find(struct vmm *vmm, const char *id, unsigned *port, struct err *err)
{
    int r = busy(vmm, err);
    if (r < 0)
        return r;
    if (!hotplug_id_good(id))
        return err_set(err, EINVAL,
                       "'%.40s' is no id; take 1 to 23 small letters, digits and hyphens, a letter "
                       "first",
                       id);
    if (machine_find_device(vmm->machine, id))
        return err_set(err, EEXIST, "there is a device '%s' already; take another id", id);
    for (unsigned n = 1; n <= BOARD_PORTS; n++) {
        struct device *dev = port_of(vmm, n);
        if (dev && !pci_port_occupant(dev)) {
            *port = n;
            return 0;
        }
    }
    if (!port_of(vmm, 1))
        return err_set(err, ENOTSUP, "the profile %s has no slots", vmm->options.profile);
    return err_set(err, ENOSPC, "all %d slots are full; remove a device first", BOARD_PORTS);
}

int hotplug_plug(struct vmm *vmm, struct pci_device *pci, unsigned port, struct err *err)
{
    struct device *dev = port_of(vmm, port);
    int r = dev ? 0 : err_set(err, EINVAL, "there is no slot %u", port);
    if (r == 0 && pci_port_occupant(dev))
        r = err_set(err, EINVAL, "slot %u has two devices", port);
    if (r == 0)
        r = pci_port_plug(dev, pci, err);
    if (r < 0)
        device_destroy(&pci->dev);
    else
        machine_add_device(vmm->machine, &pci->dev);
    return r;
}

/* ---- adding ---- */

static void disk_forget(struct vmm *vmm, unsigned index)
{
    struct options *o = &vmm->options;
    if (vmm->disks[index])
        disk_jobs_end(vmm, vmm->disks[index]);
    block_close(vmm->disks[index]);
    throttle_group_unref(vmm->throttles[index]);
    options_disk_fini(&o->disks[index]);
    unsigned after = --o->disk_count - index;
    memmove(&o->disks[index], &o->disks[index + 1], after * sizeof o->disks[0]);
    memmove(&vmm->disks[index], &vmm->disks[index + 1], after * sizeof vmm->disks[0]);
    memmove(&vmm->throttles[index], &vmm->throttles[index + 1], after * sizeof vmm->throttles[0]);
    memmove(&vmm->drives[index], &vmm->drives[index + 1], after * sizeof vmm->drives[0]);
    memmove(&vmm->disk_devices[index], &vmm->disk_devices[index + 1],
            after * sizeof vmm->disk_devices[0]);
    vmm->disks[o->disk_count] = NULL;
    vmm->throttles[o->disk_count] = NULL;
    vmm->drives[o->disk_count] = NULL;
    vmm->disk_devices[o->disk_count] = NULL;
}

/* Texts or numbers, as a configuration has them. Others need files, or threads of their own. */
static int disk_parts(struct disk_options *disk, const json_t *options, struct err *err)
{
    static const char *const known[] = { "serial", "queues", "on-full", "on-error" };
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)options, key, value)
    {
        char number[32];
        bool found = strncmp(key, "iops", 4) == 0 || strncmp(key, "bps", 3) == 0;
        for (size_t i = 0; i < ARRAY_LEN(known); i++)
            found |= strcmp(known[i], key) == 0;
        if (!found || !(json_is_string(value) || json_is_integer(value)))
            return err_set(err, EINVAL,
                           "the option '%.40s' cannot be given to a disk that is plugged in", key);
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
        int r = options_disk_part(disk, key, json_string_value(value) ?: number, err);
        if (r < 0)
            return r;
    }
    return options_disk_check(disk, err);
}

static int disk_create(struct vmm *vmm, const char *id, unsigned index, unsigned port,
                       struct err *err)
{
    const struct disk_options *disk = &vmm->options.disks[index];
    struct virtio_blk_options options = { .id = id,
                                          .node = vmm->disks[index],
                                          .readonly = disk->readonly,
                                          .queues = disk->queues,
                                          .serial = disk->serial,
                                          .on_full = disk->on_full,
                                          .on_error = disk->on_error };
    struct pci_device *pci;
    bool running = pause_begin(vmm);
    int r = virtio_blk_create(vmm->machine, &options, &pci, err);
    if (r == 0)
        r = hotplug_plug(vmm, pci, port, err);
    if (r == 0)
        vmm->disk_devices[index] = pci;
    pause_end(vmm, running);
    return r;
}

int hotplug_add_disk(struct vmm *vmm, const struct hotplug_disk *disk, int take_fd, unsigned *port,
                     struct err *err)
{
    struct options *o = &vmm->options;
    AUTO(fd_close) int fd = take_fd;
    int r = place_find(vmm, disk->id, port, err);
    if (r == 0 && o->disk_count == OPTIONS_MAX_DISKS)
        r = err_set(err, ENOSPC, "a VM has at most %d disks", OPTIONS_MAX_DISKS);
    if (r < 0)
        return r;
    unsigned index = o->disk_count;
    struct disk_options *new = &o->disks[index];
    *new = (struct disk_options){ .bus = DISK_VIRTIO,
                                  .readonly = disk->readonly,
                                  .port = *port,
                                  .id = strdup(disk->id),
                                  .path = strdup(disk->name),
                                  .format = disk->format ? strdup(disk->format) : NULL };
    o->disk_count++;
    if (!new->id || !new->path || (disk->format && !new->format))
        r = err_set(err, ENOMEM, "out of memory");
    if (r == 0)
        r = disk_parts(new, disk->options, err);
    if (r == 0)
        r = throttle_group_create(NULL, &new->limits, &vmm->throttles[index], err);
    if (r == 0)
        r = media_open_fd(vmm, index, &fd, err);
    if (r == 0)
        r = disk_create(vmm, disk->id, index, *port, err);
    if (r < 0)
        disk_forget(vmm, index);
    else
        log_info("%s: %s was plugged into slot %u", disk->id, disk->name, *port);
    return r;
}

struct net_making {
    struct loop *loop;
    int fd;
    struct net_backend *net;
    int result;
    struct err *err;
};

static void net_make(void *arg)
{
    struct net_making *making = arg;
    making->result = net_fd_create(making->loop, making->fd, &making->net, making->err);
}

static void net_forget(struct vmm *vmm, unsigned index)
{
    struct options *o = &vmm->options;
    free(o->nets[index].id);
    unsigned after = --o->net_count - index;
    memmove(&o->nets[index], &o->nets[index + 1], after * sizeof o->nets[0]);
    memmove(&vmm->nets[index], &vmm->nets[index + 1], after * sizeof vmm->nets[0]);
    vmm->nets[o->net_count] = NULL;
}

int hotplug_add_net(struct vmm *vmm, const char *id, const uint8_t mac[6], int take_fd,
                    unsigned *port, struct err *err)
{
    struct options *o = &vmm->options;
    AUTO(fd_close) int fd = take_fd;
    int r = place_find(vmm, id, port, err);
    if (r == 0 && o->net_count == OPTIONS_MAX_NETS)
        r = err_set(err, ENOSPC, "a VM has at most %d network cards", OPTIONS_MAX_NETS);
    if (r < 0)
        return r;
    struct net_making making = { .loop = vmm->machine->io_loop, .fd = TAKE_FD(fd), .err = err };
    loop_call(making.loop, net_make, &making);
    if (making.result < 0)
        return making.result;
    struct virtio_net_options options = { .id = id, .take_backend = making.net };
    memcpy(options.mac, mac, 6);
    struct pci_device *pci;
    bool running = pause_begin(vmm);
    r = virtio_net_create(vmm->machine, &options, &pci, err);
    if (r == 0)
        r = hotplug_plug(vmm, pci, *port, err);
    pause_end(vmm, running);
    if (r < 0)
        return r;
    unsigned index = o->net_count++;
    o->nets[index] = (struct net_options){
        .kind = NET_OPTION_FD, .fd = -1, .has_mac = true, .port = *port, .id = strdup(id)
    };
    memcpy(o->nets[index].mac, mac, 6);
    vmm->nets[index] = making.net;
    log_info("%s: a network card was plugged into slot %u", id, *port);
    return 0;
}

/* ---- removing ---- */

static unsigned port_find(const struct vmm *vmm, const char *id)
{
    const struct options *o = &vmm->options;
    for (unsigned i = 0; i < o->disk_count; i++)
        if (o->disks[i].id && !strcmp(o->disks[i].id, id))
            return o->disks[i].port;
    for (unsigned i = 0; i < o->net_count; i++)
        if (o->nets[i].id && !strcmp(o->nets[i].id, id))
            return o->nets[i].port;
    return 0;
}

static void slot_empty(struct vmm *vmm, struct device *port)
{
    struct options *o = &vmm->options;
    bool running = pause_begin(vmm);
    struct pci_device *pci = pci_port_unplug(port);
    char id[sizeof pci->dev.id];
    snprintf(id, sizeof id, "%s", pci->dev.id);
    machine_remove_device(vmm->machine, &pci->dev);
    device_destroy(&pci->dev);
    for (unsigned i = 0; i < o->disk_count; i++)
        if (o->disks[i].id && !strcmp(o->disks[i].id, id))
            disk_forget(vmm, i);
    for (unsigned i = 0; i < o->net_count; i++)
        if (o->nets[i].id && !strcmp(o->nets[i].id, id))
            net_forget(vmm, i);
    pause_end(vmm, running);
    log_info("%s: removed", id);
    vmm_event(vmm, "device-removed", json_pack("{s:s}", "device", id));
}

int hotplug_remove(struct vmm *vmm, const char *id, bool force, struct err *err)
{
    int r = busy(vmm, err);
    if (r < 0)
        return r;
    struct device *port = port_of(vmm, port_find(vmm, id));
    if (!port)
        return err_set(err, ENOENT,
                       "there is no device '%.40s' that can be removed; only what device-add "
                       "brought can",
                       id);
    if (!force)
        return pci_port_ask(port, err);
    slot_empty(vmm, port);
    return 0;
}

void hotplug_power(void *arg, struct device *port, bool on)
{
    struct vmm *vmm = arg;
    struct pci_device *pci = pci_port_occupant(port);
    if (!pci || vmm->ending || vmm->saving.active)
        return; /* hotplug_catch_up comes back to it */
    if (!on) {
        slot_empty(vmm, port);
        return;
    }
    bool running = pause_begin(vmm);
    if (pci->dev.type->reset)
        pci->dev.type->reset(&pci->dev);
    pci_port_power_good(port);
    pause_end(vmm, running);
}

void hotplug_catch_up(struct vmm *vmm)
{
    for (unsigned n = 0; n < BOARD_PORTS; n++)
        if (board_port(vmm->board, n))
            pci_port_check(board_port(vmm->board, n));
}
