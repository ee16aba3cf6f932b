/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The files of test_disk.h. */
#include "block/test_disk.h"

#include <assert.h>
#include <string.h>

static struct disk *disk_used; /* whose image is being created or opened */

struct file *disk_add(struct disk *disk, const char *name)
{
    assert(disk->count < DISK_FILES);
    struct file *file = &disk->files[disk->count++];
    *file = (struct file){ 0 };
    snprintf(file->name, sizeof file->name, "%s", name);
    recorder_init(&file->recorder, &file->content);
    file->recorder.clock = &disk->clock;
    file->recorder.off = true;
    return file;
}

void disk_fini(struct disk *disk)
{
    for (unsigned i = 0; i < disk->count; i++) {
        recorder_fini(&disk->files[i].recorder);
        buf_fini(&disk->files[i].content);
        buf_fini(&disk->files[i].durable);
    }
    disk->count = 0;
}

void disk_record(struct disk *disk)
{
    for (unsigned i = 0; i < disk->count; i++) {
        struct file *file = &disk->files[i];
        buf_add(&file->durable, file->content.data, file->content.len);
        file->recorder.off = false;
    }
}

void disk_copy(const struct disk *from, struct disk *to)
{
    for (unsigned i = 0; i < from->count; i++) {
        const struct file *file = &from->files[i];
        buf_add(&disk_add(to, file->name)->content, file->content.data, file->content.len);
    }
}

bool disk_cut(struct disk *disk, size_t when, unsigned choice, uint64_t *seed, struct disk *out)
{
    bool open = false;
    while (out->count < disk->count)
        disk_add(out, disk->files[out->count].name);
    for (unsigned i = 0; i < disk->count; i++) {
        struct file *file = &disk->files[i];
        open |= recorder_cut(&file->recorder, recorder_count_at(&file->recorder, when),
                             &file->durable, &file->from, choice, seed, &out->files[i].content);
    }
    return open;
}

int disk_use(struct disk *disk, struct store **out)
{
    disk_used = disk;
    return recorder_open(&disk->files[0].recorder, out);
}

/* Linked (--wrap) over the functions that open and create the further files of an image. */
int __wrap_image_open_part(const struct image *image, const char *name, struct store **out,
                           struct err *err);
int __wrap_image_open_part(const struct image *image, const char *name, struct store **out,
                           struct err *err)
{
    for (unsigned i = 1; i < disk_used->count; i++)
        if (!strcmp(disk_used->files[i].name, name))
            return recorder_open(&disk_used->files[i].recorder, out);
    return err_set(err, ENOENT, "%s: there is no such file", name);
}

int __wrap_image_create_part(const struct image_create *create, const char *name,
                             struct store **out, struct err *err);
int __wrap_image_create_part(const struct image_create *create, const char *name,
                             struct store **out, struct err *err)
{
    return recorder_open(&disk_add(disk_used, name)->recorder, out);
}
