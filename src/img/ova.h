/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * OVA: a tar archive of an OVF description (XML), disks and perhaps a manifest. Read only, and only
 * by the disk tool: no VM parses XML.
 *
 * A disk is read in place, as an image over a part of the archive; one that is packed with gzip is
 * unpacked into a temporary file without a name, of a bounded size. The archive is hostile: sizes,
 * counts and names are bounded and checked, the XML may have no document type (so no entities), and
 * nothing is ever written by a name from it.
 */
#ifndef IMG_OVA_H
#define IMG_OVA_H

#include "block/image.h"

struct ova;
struct json_t;

/* Does the file begin as an OVA does? False also where it cannot be read. */
bool ova_probe(const char *path);
int ova_open(const char *path, struct ova **out, struct err *err);
/* The same over a store, which it takes; for the fuzzer. */
int ova_open_store(struct store *take_store, struct ova **out, struct err *err);
void ova_close(struct ova *ova);
DEFINE_AUTO(struct ova *, ova_close)

unsigned ova_disk_count(const struct ova *ova);
/* `which`: a disk's id, its file, or its number from 1 on; NULL: the only one. The image owns the
 * archive from now on, also when this fails. */
int ova_open_disk(struct ova *take_ova, const char *which, struct image **out, struct err *err);
/* Disks, name, hardware. */
struct json_t *ova_info(const struct ova *ova);
/* Compares the members with the manifest's digests: *checked says how many there were. `report`
 * gets a sentence for each that differs; *bad counts those. */
int ova_check(struct ova *ova, void (*report)(void *arg, const char *text), void *arg,
              unsigned *checked, unsigned *bad, struct err *err);

#endif
