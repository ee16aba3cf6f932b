/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The files of a VM's firmware: the package's image, and the VM's own file of UEFI variables, which
 * is made from the package's template when it is first named.
 *
 * A VM that is restored needs neither image nor template: both memories are in its saved state, so
 * a package upgrade does not change it.
 */
#include "vmm/firmware.h"

#include "base/text.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define BIOS_PATH "/usr/share/seabios/bios-256k.bin"
#define VGA_BIOS_PATH "/usr/share/seabios/vgabios-"
#define UEFI_PATH "/usr/share/OVMF/OVMF_CODE_4M.fd"
#define UEFI_VARS_PATH "/usr/share/OVMF/OVMF_VARS_4M.fd"

enum { VGA_BIOS_MAX = 64 << 10 };

static int image_open(const char *path, const char *package, int *out, uint64_t *size,
                      struct err *err)
{
    struct stat st;
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT && package)
        return err_set(err, ENOENT, "%s is not there; install the package %s, or name a file", path,
                       package);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(err, errno, "cannot open %s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "%s is not a regular file", path);
    *size = (uint64_t)st.st_size;
    *out = TAKE_FD(fd);
    return 0;
}

static int code_open(const struct options *o, struct board_firmware *firmware, struct err *err)
{
    bool bios = !strcmp(o->firmware, "bios"), uefi = !strcmp(o->firmware, "uefi");
    const char *path = bios ? BIOS_PATH : uefi ? UEFI_PATH : o->firmware;
    int r = image_open(path,
                       bios   ? "seabios"
                       : uefi ? "ovmf"
                              : NULL,
                       &firmware->code_fd, &firmware->code_size, err);
    if (r < 0)
        return r;
    firmware->kind = firmware_probe(firmware->code_fd, firmware->code_size);
    if (firmware->kind == FIRMWARE_NONE)
        return err_set(
            err, EINVAL,
            "%s is no firmware image; it has neither a reset vector of a PC's BIOS nor a "
            "UEFI firmware volume, or not 64 KiB to 16 MiB in whole pages",
            path);
    return 0;
}

/* Where the template of the image's variables is: named alike, as the package does. */
static int template_path(const struct options *o, char *out, size_t len, struct err *err)
{
    if (!strcmp(o->firmware, "uefi"))
        return snprintf(out, len, "%s", UEFI_VARS_PATH) < 0 ? -EINVAL : 0;
    const char *name = strrchr(o->firmware, '/'), *code;
    code = strstr(name ? name : o->firmware, "CODE");
    if (!code || (size_t)snprintf(out, len, "%.*sVARS%s", (int)(code - o->firmware), o->firmware,
                                  code + 4) >= len)
        return err_set(err, EINVAL,
                       "%s: its name does not say where the template of UEFI variables is (CODE in "
                       "it would become VARS)",
                       o->firmware);
    char *rest = strstr(out, ".secboot");
    if (rest)
        memmove(rest, rest + 8, strlen(rest + 8) + 1);
    return 0;
}

static int template_read(const struct options *o, uint8_t **out, uint64_t *size, struct err *err)
{
    char path[4096];
    AUTO(fd_close) int fd = -1;
    int r = template_path(o, path, sizeof path, err);
    if (r == 0)
        r = image_open(path, "ovmf", &fd, size, err);
    if (r < 0)
        return r;
    if (!*size || *size > FIRMWARE_VARS_MAX || *size % FIRMWARE_ALIGN)
        return err_set(err, EINVAL, "%s is no template of UEFI variables", path);
    AUTO(free) uint8_t *data = malloc(*size);
    if (!data)
        return err_set(err, ENOMEM, "out of memory");
    r = pread_full(fd, data, *size, 0);
    if (r < 0)
        return err_errno(err, -r, "cannot read %s", path);
    *out = TAKE(data);
    return 0;
}

/* A file appears whole or not at all, whatever happens meanwhile. */
static int vars_make(const char *path, const uint8_t *data, uint64_t size, struct err *err)
{
    AUTO(free) char *part = NULL;
    if (asprintf(&part, "%s.part", path) < 0)
        return err_set(err, ENOMEM, "out of memory");
    AUTO(fd_close) int fd = open(part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_errno(err, errno, "cannot create %s", part);
    int r = write_full(fd, data, size);
    if (r == 0 && (fsync(fd) < 0 || (link(part, path) < 0 && errno != EEXIST)))
        r = -errno;
    unlink(part);
    return r < 0 ? err_errno(err, -r, "cannot create %s", path) : 0;
}

static int vars_open(const char *path, uint64_t wanted, int *out, struct err *err)
{
    struct stat st;
    AUTO(fd_close) int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(err, errno, "cannot open %s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "%s is not a regular file", path);
    if ((uint64_t)st.st_size != wanted)
        return err_set(err, EINVAL,
                       "%s has %lld bytes, the variables of this firmware %llu; name another file, "
                       "or the firmware that it was made for",
                       path, (long long)st.st_size, (unsigned long long)wanted);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return err_set(err, EBUSY, "%s is in use by another VM; each needs a file of its own",
                       path);
    *out = TAKE_FD(fd);
    return 0;
}

static int uefi_open(const struct options *o, const uint8_t *template, uint64_t size, int *vars_fd,
                     struct err *err)
{
    if (!o->uefi_vars)
        return 0;
    int r = 0;
    if (access(o->uefi_vars, F_OK) < 0 && errno == ENOENT)
        r = vars_make(o->uefi_vars, template, size, err);
    if (r == 0)
        r = vars_open(o->uefi_vars, size, vars_fd, err);
    return r < 0 ? err_prefix(err, "--uefi-vars") : 0;
}

int vmm_firmware_open(const struct options *o, struct vmm_firmware *out, struct err *err)
{
    struct board_firmware *firmware = &out->board;
    if (!o->firmware)
        return 0;
    int r = code_open(o, firmware, err);
    if (r == 0 && firmware->kind == FIRMWARE_UEFI)
        r = template_read(o, &out->vars, &firmware->vars_size, err);
    if (r < 0)
        return err_prefix(err, "--firmware");
    if (o->uefi_vars && firmware->kind != FIRMWARE_UEFI)
        return err_set(err, EINVAL, "--uefi-vars: the firmware is a BIOS and keeps no variables");
    firmware->vars = out->vars;
    bool is_virtio = o->video == VIDEO_VIRTIO_VGA;
    if ((o->video == VIDEO_VGA || is_virtio) && firmware->kind == FIRMWARE_BIOS) {
        r = file_read(is_virtio ? VGA_BIOS_PATH "virtio.bin" : VGA_BIOS_PATH "stdvga.bin",
                      VGA_BIOS_MAX, &out->vga_bios, err);
        if (r < 0)
            return err_prefix(err, "--video needs the package seabios");
        firmware->vga_bios = &out->vga_bios;
        firmware->vga_bios_name = is_virtio ? "pci1af4,1050.rom" : "pci1234,1111.rom";
    }
    return uefi_open(o, out->vars, firmware->vars_size, &firmware->vars_fd, err);
}

int vmm_firmware_restore(const struct options *o, const struct snapshot_config *saved,
                         struct vmm_firmware *out, struct err *err)
{
    struct board_firmware *firmware = &out->board;
    firmware->kind = !saved->firmware_size ? FIRMWARE_NONE
                     : saved->vars_size    ? FIRMWARE_UEFI
                                           : FIRMWARE_BIOS;
    firmware->code_size = saved->firmware_size;
    firmware->vars_size = saved->vars_size;
    if (!o->uefi_vars)
        return 0;
    if (!saved->vars_size)
        return err_set(err, EINVAL, "--uefi-vars: the saved VM has no UEFI variables");
    AUTO(free) uint8_t *blank = malloc(saved->vars_size);
    if (!blank)
        return err_set(err, ENOMEM, "out of memory");
    memset(blank, 0xff, saved->vars_size); /* until the saved ones are loaded */
    return uefi_open(o, blank, saved->vars_size, &firmware->vars_fd, err);
}

void vmm_firmware_close(struct vmm_firmware *firmware)
{
    fd_close(firmware->board.code_fd);
    fd_close(firmware->board.vars_fd);
    free(firmware->vars);
    buf_fini(&firmware->vga_bios);
}
