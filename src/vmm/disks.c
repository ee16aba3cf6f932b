/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The VM's disks: opening them, each behind a throttle whose limits can change while it runs. */
#include "vmm/vmm.h"

#include "block/image.h"

#include <string.h>

/* The limits of an earlier disk that is in the same group, or this disk's own. */
static int disk_throttle(struct vmm *vmm, unsigned index, struct err *err)
{
    const struct disk_options *disk = &vmm->options.disks[index];
    const char *name = disk->throttle_group;
    static const struct throttle_limits none;
    for (unsigned i = 0; name && i < index; i++) {
        const char *other = vmm->options.disks[i].throttle_group;
        if (!other || strcmp(other, name))
            continue;
        if (memcmp(&disk->limits, &none, sizeof none) != 0)
            return err_set(err, EINVAL, "the group %s has its limits from %s; give them there only",
                           name, vmm->options.disks[i].path);
        vmm->throttles[index] = throttle_group_ref(vmm->throttles[i]);
        return 0;
    }
    return throttle_group_create(name, &disk->limits, &vmm->throttles[index], err);
}

static int disk_open(struct vmm *vmm, unsigned index, struct err *err)
{
    const struct disk_options *disk = &vmm->options.disks[index];
    struct block_options options = {
        .path = disk->path, .format = disk->format, .readonly = disk->readonly, .cache = disk->cache
    };
    const struct zeroes_options zeroes = { .detect = disk->detect_zeroes,
                                           .keep_space = disk->discard };
    int r = disk_throttle(vmm, index, err);
    if (r < 0)
        return err_prefix(err, "%s", disk->path ? disk->path : "none");
    if (!disk->path)
        return 0;
    struct image_secret secret = { 0 };
    r = disk->key_file ? image_secret_read(disk->key_file, &secret, err) : 0;
    if (r < 0)
        return err_prefix(err, "%s: key-file", disk->path);
    options.copy_on_read = disk->copy_on_read;
    options.live = !disk->cdrom;
    options.secret = disk->key_file ? &secret : NULL;
    struct block_node *node;
    r = block_open(&options, &node, err);
    image_secret_free(&secret); /* the node has the key */
    if (r == 0)
        r = zeroes_open(node, &zeroes, &node, err);
    return r < 0 ? r : throttle_open(node, vmm->throttles[index], &vmm->disks[index], err);
}

int disks_open(struct vmm *vmm, struct err *err)
{
    for (unsigned i = 0; i < vmm->options.disk_count; i++) {
        int r = disk_open(vmm, i, err);
        if (r < 0)
            return err_prefix(err, vmm->options.disks[i].cdrom ? "--cdrom" : "--disk");
    }
    return 0;
}

void disks_close(struct vmm *vmm)
{
    for (unsigned i = 0; i < vmm->options.disk_count; i++) {
        block_close(vmm->disks[i]);
        throttle_group_unref(vmm->throttles[i]);
    }
}
