/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Image formats by their magic, at the start or the end of the file. */
#include "block/probe.h"

#include "base/checked.h"
#include "base/text.h"

#include <stdbool.h>
#include <string.h>

struct magic {
    const char *format;
    unsigned offset; /* in the sector */
    unsigned len;
    const char *bytes;
};

/* clang-format off */
static const struct magic first_magics[] = {
    { "qcow2",     0, 4,  "QFI\xfb" },  /* and qcow version 1 */
    { "vmdk",      0, 4,  "KDMV" },
    { "vmdk",      0, 4,  "COWD" },
    { "vhdx",      0, 8,  "vhdxfile" },
    { "vhd",       0, 8,  "conectix" },
    { "vdi",      64, 4,  "\x7f\x10\xda\xbe" },
    { "luks",      0, 6,  "LUKS\xba\xbe" },
    { "qed",       0, 4,  "QED\0" },
    { "parallels", 0, 16, "WithoutFreeSpace" },
    { "parallels", 0, 16, "WithouFreSpacExt" },
    { "bochs",     0, 22, "Bochs Virtual HD Image" },
    { "cloop",     0, 31, "#!/bin/sh\n#V2.0 Format\nmodprobe" },
};
static const struct magic last_magics[] = {
    { "vhd",       0, 8,  "conectix" },
    { "dmg",       0, 4,  "koly" },
};
/* clang-format on */

static const char *probe_table(const struct magic *table, unsigned count, const uint8_t *sector)
{
    for (unsigned i = 0; i < count; i++)
        if (!memcmp(sector + table[i].offset, table[i].bytes, table[i].len))
            return table[i].format;
    return NULL;
}

/*
 * A VMDK descriptor is text. It begins with this line, but readers also accept comments and blank
 * lines before "version=", so those count, too.
 */
static bool probe_vmdk_text(const uint8_t *sector)
{
    static const char first[] = "# Disk DescriptorFile", version[] = "version=";
    if (!memcmp(sector, first, sizeof first - 1))
        return true;
    unsigned at = 0;
    while (at < PROBE_SECTOR) {
        if (at + sizeof version - 1 <= PROBE_SECTOR &&
            !memcmp(sector + at, version, sizeof version - 1))
            return true;
        if (sector[at] == '#') {
            while (at < PROBE_SECTOR && sector[at] != '\n')
                at++;
        } else {
            while (at < PROBE_SECTOR && (sector[at] == ' ' || sector[at] == '\r'))
                at++;
        }
        if (at >= PROBE_SECTOR || sector[at++] != '\n')
            return false;
    }
    return false;
}

const char *probe_first_sector(const uint8_t sector[PROBE_SECTOR])
{
    if (probe_vmdk_text(sector))
        return "vmdk";
    return probe_table(first_magics, ARRAY_LEN(first_magics), sector);
}

const char *probe_last_sector(const uint8_t sector[PROBE_SECTOR])
{
    return probe_table(last_magics, ARRAY_LEN(last_magics), sector);
}

int probe_file(int fd, uint64_t size, const char **out, struct err *err)
{
    /* Aligned and whole sectors: the descriptor may be O_DIRECT. */
    enum { LOOK = 4096 };
    AUTO(free) uint8_t *block = NULL;
    if (posix_memalign((void **)&block, LOOK, 2 * LOOK))
        return err_set(err, ENOMEM, "out of memory");

    memset(block, 0, 2 * LOOK);
    if (pread(fd, block, LOOK, 0) < 0)
        return err_errno(err, errno, "cannot read the first sector");
    const char *format = probe_first_sector(block);
    /* Of whole sectors only, so that a guest cannot place the magic across two of them. */
    if (!format && size >= PROBE_SECTOR && size % PROBE_SECTOR == 0) {
        uint64_t start = round_down(size - PROBE_SECTOR, LOOK);
        memset(block, 0, 2 * LOOK);
        if (pread(fd, block, 2 * LOOK, (off_t)start) < 0)
            return err_errno(err, errno, "cannot read the last sector");
        format = probe_last_sector(block + (size - PROBE_SECTOR - start));
    }
    *out = format;
    return 0;
}
