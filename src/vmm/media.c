/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Drives that are not virtio: the controllers they hang on, and changing the media of those that
 * have a tray. A medium that is inserted while the VM runs comes as a descriptor, because nothing
 * can be opened any more; it has no files beside it.
 */
#include "base/log.h"
#include "board/board.h"
#include "devices/disk/ahci.h"
#include "devices/disk/fdc.h"
#include "devices/disk/ide.h"
#include "devices/pci.h"
#include "vmm/vmm.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

void media_bus_name(const struct disk_options *disk, char *out, size_t room)
{
    snprintf(out, room, "%s%s", options_disk_bus(disk->bus), disk->cdrom ? "-cdrom" : "");
}

/* How many of the same kind come before it. */
static unsigned drive_number(const struct vmm *vmm, unsigned index)
{
    const struct disk_options *disks = vmm->options.disks;
    unsigned before = 0;
    for (unsigned i = 0; i < index; i++)
        before += disks[i].cdrom == disks[index].cdrom &&
                  (disks[i].cdrom || disks[i].bus == disks[index].bus);
    return before;
}

/* Drives with a tray are counted by their own, disks by their place among all. */
void media_name(const struct vmm *vmm, unsigned index, char *out, size_t room)
{
    if (vmm->options.disks[index].id) {
        snprintf(out, room, "%s", vmm->options.disks[index].id);
        return;
    }
    const struct disk_options *disks = vmm->options.disks;
    if (disks[index].cdrom)
        snprintf(out, room, "cdrom%u", drive_number(vmm, index));
    else if (disks[index].bus == DISK_FLOPPY)
        snprintf(out, room, "floppy%u", drive_number(vmm, index));
    else
        snprintf(out, room, "disk%u", index);
}

int media_check_saved(const struct vmm *vmm, unsigned index, const struct snapshot_disk *saved,
                      struct err *err)
{
    const struct disk_options *disk = &vmm->options.disks[index];
    char bus[sizeof saved->bus], name[16];
    media_bus_name(disk, bus, sizeof bus);
    media_name(vmm, index, name, sizeof name);
    if (strcmp(bus, saved->bus) != 0)
        return err_set(err, EINVAL,
                       "--restore: drive %u of the saved VM is of the kind %s, not %s; give the "
                       "same in the same order",
                       index, saved->bus, bus);
    if (!vmm->disks[index] && saved->size)
        return err_set(err, EINVAL,
                       "--restore: a medium of %llu bytes was in %s; give it with --%s",
                       (unsigned long long)saved->size, name, disk->cdrom ? "cdrom" : "disk");
    if (vmm->disks[index] && !saved->size)
        return err_set(err, EINVAL, "--restore: %s was empty; give --%s", name,
                       disk->cdrom ? "cdrom none" : "disk none,bus=floppy");
    return 0;
}

/* ---- controllers ---- */

/* On a board with an ICH9 it is a part of that. */
static int sata_place(struct vmm *vmm, struct pci_device *pci, struct err *err)
{
    enum { ICH9_SATA = 31 << 3 | 2 };
    if (strcmp(vmm->options.profile, "pc-1") != 0)
        return vmm_plug(vmm, pci, err);
    int r = pci_bus_add_at(board_pci_bus(vmm->board), pci, ICH9_SATA, err);
    if (r < 0)
        device_destroy(&pci->dev);
    else
        machine_add_device(vmm->machine, &pci->dev);
    return r;
}

/* The drives of one controller. */
struct drives {
    struct ata_drive_config configs[AHCI_PORTS];
    char names[AHCI_PORTS][16];
    unsigned disks[AHCI_PORTS]; /* their places among all */
    unsigned count;
};

/* -ENOSPC: there are more than `most`. */
static int drives_collect(const struct vmm *vmm, enum disk_bus bus, unsigned most,
                          struct drives *out)
{
    *out = (struct drives){ .count = 0 };
    for (unsigned i = 0; i < vmm->options.disk_count; i++) {
        const struct disk_options *disk = &vmm->options.disks[i];
        unsigned n = out->count;
        if (disk->bus != bus)
            continue;
        if (n == most)
            return -ENOSPC;
        media_name(vmm, i, out->names[n], sizeof out->names[n]);
        out->configs[n] = (struct ata_drive_config){ .id = out->names[n],
                                                     .node = vmm->disks[i],
                                                     .serial = disk->serial,
                                                     .cdrom = disk->cdrom,
                                                     .readonly = disk->readonly };
        out->disks[out->count++] = i;
    }
    return 0;
}

static void drives_found(struct vmm *vmm, const struct drives *drives, struct pci_device *pci,
                         struct ata_drive *(*drive)(struct pci_device *pci, unsigned n))
{
    for (unsigned n = 0; n < drives->count; n++)
        if (drives->configs[n].cdrom)
            vmm->drives[drives->disks[n]] = drive(pci, n);
}

static int sata_plug(struct vmm *vmm, struct err *err)
{
    static const char *const units[] = { "/drive@0/disk@0", "/drive@1/disk@0", "/drive@2/disk@0",
                                         "/drive@3/disk@0", "/drive@4/disk@0", "/drive@5/disk@0" };
    struct drives drives;
    struct pci_device *pci;
    if (drives_collect(vmm, DISK_SATA, AHCI_PORTS, &drives) < 0)
        return err_set(err, ENOSPC, "the SATA controller has %d ports; use bus=virtio", AHCI_PORTS);
    if (!drives.count)
        return 0;
    int r = ahci_create(vmm->machine, "ahci0", drives.configs, &pci, err);
    if (r < 0)
        return r;
    drives_found(vmm, &drives, pci, ahci_drive);
    r = sata_place(vmm, pci, err);
    for (unsigned port = 0; r == 0 && port < drives.count; port++)
        board_add_boot(vmm->board, drives.configs[port].cdrom ? 'd' : 'c', pci, "pci8086,2922",
                       units[port]);
    return r;
}

static int ide_plug(struct vmm *vmm, struct err *err)
{
    struct drives drives;
    struct pci_device *pci;
    if (drives_collect(vmm, DISK_IDE, IDE_DRIVES, &drives) < 0)
        return err_set(err, ENOSPC, "IDE has places for %d drives; use bus=sata or bus=virtio",
                       IDE_DRIVES);
    if (!drives.count)
        return 0;
    int r = ide_create(vmm->machine, "ide0", drives.configs, &pci, err);
    if (r < 0)
        return r;
    drives_found(vmm, &drives, pci, ide_drive);
    return vmm_plug(vmm, pci, err);
}

static int floppy_plug(struct vmm *vmm, struct err *err)
{
    enum { CMOS_1440 = 4, CMOS_2880 = 5 };
    struct fdc_drive_config drives[FDC_DRIVES] = { 0 };
    char names[FDC_DRIVES][16];
    unsigned count = 0, kinds[FDC_DRIVES] = { 0 };
    for (unsigned i = 0; i < vmm->options.disk_count; i++) {
        const struct disk_options *disk = &vmm->options.disks[i];
        const struct block_node *node = vmm->disks[i];
        if (disk->bus != DISK_FLOPPY)
            continue;
        if (count == FDC_DRIVES)
            return err_set(err, ENOSPC, "a VM has at most %d floppy drives", FDC_DRIVES);
        media_name(vmm, i, names[count], sizeof names[count]);
        kinds[count] = node && block_size(node) > 2 << 20 ? CMOS_2880 : CMOS_1440;
        drives[count] = (struct fdc_drive_config){ .id = names[count],
                                                   .node = vmm->disks[i],
                                                   .readonly = disk->readonly };
        count++;
    }
    if (!count)
        return 0;
    if (!board_isa_dma(vmm->board))
        return err_set(err, EINVAL, "the profile %s has no floppy drives", vmm->options.profile);
    board_set_floppies(vmm->board, kinds[0], kinds[1]);
    int r = fdc_create(vmm->machine, board_isa_dma(vmm->board), drives, &vmm->fdc, err);
    return r < 0 ? err_prefix(err, "--disk") : 0;
}

int media_plug(struct vmm *vmm, struct err *err)
{
    int r = sata_plug(vmm, err);
    if (r == 0)
        r = ide_plug(vmm, err);
    return r < 0 ? r : floppy_plug(vmm, err);
}

/* ---- changing media ---- */

/* The index of a drive that can change its medium now. */
static int drive_find(struct vmm *vmm, const char *name, struct err *err)
{
    char other[16];
    if (vmm->saving.active)
        return err_set(err, EBUSY, "the VM is being saved; try again when that is done");
    for (unsigned i = 0; i < vmm->options.disk_count; i++) {
        media_name(vmm, i, other, sizeof other);
        if (strcmp(name, other) != 0)
            continue;
        if (!vmm->drives[i] && vmm->options.disks[i].bus != DISK_FLOPPY)
            return err_set(err, EINVAL, "the medium of %s cannot be changed", name);
        return (int)i;
    }
    return err_set(err, ENOENT, "there is no drive '%.40s'; status lists the drives", name);
}

int media_eject(struct vmm *vmm, const char *drive, bool force, struct err *err)
{
    int index = drive_find(vmm, drive, err);
    if (index < 0)
        return index;
    if (vmm->disks[index])
        disk_jobs_end(vmm, vmm->disks[index]);
    int r = vmm->drives[index] ? ata_medium_eject(vmm->drives[index], force, err)
                               : fdc_eject(vmm->fdc, drive_number(vmm, (unsigned)index), err);
    if (r < 0)
        return r;
    block_close(TAKE(vmm->disks[index]));
    log_info("%s: the medium was ejected", drive);
    return 0;
}

struct fd_opener {
    struct block_opener opener;
    int *fd; /* -1 once it was taken */
};

static int fd_opener_open(const struct block_opener *opener, const char *path, int flags, int *fd,
                          struct err *err)
{
    struct fd_opener *self = (struct fd_opener *)opener;
    if (*self->fd < 0)
        return err_set(err, EINVAL, "it needs a second file, %s; insert a whole image", path);
    *fd = TAKE_FD(*self->fd);
    return 0;
}

static int medium_check_fd(int fd, bool readonly, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_errno(err, errno, "the descriptor cannot be looked at");
    if (!S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "the descriptor is not of a regular file; send an image's");
    int mode = fcntl(fd, F_GETFL) & O_ACCMODE;
    if (mode == O_WRONLY || (mode == O_RDONLY && !readonly))
        return err_set(err, EINVAL, "the descriptor can only be %s; open the image to %s",
                       mode == O_WRONLY ? "written" : "read",
                       readonly ? "read" : "read and write, or give readonly");
    return 0;
}

/* A pool of threads reads it: a new ring cannot be had any more. */
static int medium_open(struct vmm *vmm, unsigned index, const char *label, const char *format,
                       bool readonly, int *fd, struct block_node **out, struct err *err)
{
    struct fd_opener opener = { .opener = { .open = fd_opener_open }, .fd = fd };
    struct block_options options = { .path = label,
                                     .format = format,
                                     .readonly = readonly,
                                     .no_uring = true,
                                     .live = !readonly,
                                     .opener = &opener.opener };
    struct block_node *node;
    int r = medium_check_fd(*fd, readonly, err);
    if (r == 0)
        r = block_open(&options, &node, err);
    return r < 0 ? r : throttle_open(node, vmm->throttles[index], out, err);
}

int media_open_fd(struct vmm *vmm, unsigned index, int *fd, struct err *err)
{
    const struct disk_options *disk = &vmm->options.disks[index];
    return medium_open(vmm, index, disk->path, disk->format, disk->readonly, fd, &vmm->disks[index],
                       err);
}

int media_insert(struct vmm *vmm, const char *drive, const char *label, const char *format,
                 int take_fd, struct err *err)
{
    AUTO(fd_close) int fd = take_fd;
    int index = drive_find(vmm, drive, err);
    if (index < 0)
        return index;
    if (vmm->disks[index])
        return err_set(err, EBUSY, "%s has a medium; eject that first", drive);
    struct block_node *node = NULL;
    bool readonly = vmm->drives[index] || (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
    int r = medium_open(vmm, (unsigned)index, label, format, readonly, &fd, &node, err);
    if (r == 0)
        r = vmm->drives[index]
                ? ata_medium_insert(vmm->drives[index], node, err)
                : fdc_insert(vmm->fdc, drive_number(vmm, (unsigned)index), node, readonly, err);
    if (r < 0) {
        block_close(node);
        return r;
    }
    vmm->disks[index] = node;
    log_info("%s: %s was inserted", drive, label);
    return 0;
}
