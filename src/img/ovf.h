/* SPDX-License-Identifier: GPL-2.0-or-later */
/* OVF descriptions (DSP0243): what the disk tool needs to know of one. */
#ifndef IMG_OVF_H
#define IMG_OVF_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { OVF_DISKS_MAX = 64, OVF_ITEMS_MAX = 256, OVF_TEXT = 256 };

struct ovf_disk {
    char id[OVF_TEXT], file[OVF_TEXT], format[OVF_TEXT], compression[32];
    uint64_t capacity; /* bytes */
    bool chunked, parent;
};
struct ovf_item {  /* of the virtual hardware */
    unsigned type; /* CIM resource type: 3 CPU, 4 memory, 10 network, 17 disk */
    char name[OVF_TEXT], subtype[OVF_TEXT], connection[OVF_TEXT];
    uint64_t quantity; /* memory: bytes */
};
struct ovf {
    char name[OVF_TEXT], os[OVF_TEXT];
    struct ovf_disk *disks;
    struct ovf_item *items;
    unsigned disk_count, item_count;
};

struct json_t;

/* Outside bytes; *out is to be freed also when it fails. */
int ovf_parse(const char *text, size_t len, struct ovf *out, struct err *err);
void ovf_free(struct ovf *ovf);
/* {"name", "os", "cpus", "memory", "disks": [...], "hardware": [...]} */
struct json_t *ovf_info(const struct ovf *ovf);

#endif
