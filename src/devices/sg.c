/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Lists of guest memory for DMA. */
#include "devices/sg.h"

#include "machine/memory.h"

#include <stdlib.h>

void sg_clear(struct sg *sg)
{
    sg->count = sg->at = 0;
    sg->total = sg->used = 0;
}

void sg_free(struct sg *sg)
{
    free(sg->pieces);
    *sg = (struct sg){ 0 };
}

void sg_add(struct sg *sg, uint64_t gpa, uint64_t len)
{
    if (sg->count == sg->room) {
        sg->room = sg->room ? sg->room * 2 : 16;
        sg->pieces = realloc(sg->pieces, sg->room * sizeof *sg->pieces);
        if (!sg->pieces)
            abort();
    }
    sg->pieces[sg->count++] = (struct sg_piece){ gpa, len };
    sg->total += len;
}

uint64_t sg_left(const struct sg *sg)
{
    uint64_t left = 0;
    for (unsigned i = sg->at; i < sg->count; i++)
        left += sg->pieces[i].len;
    return left - sg->used;
}

/* The next contiguous part of at most `len` bytes; false: the list is used up. */
static bool sg_next(struct sg *sg, uint64_t len, struct sg_piece *part)
{
    while (sg->at < sg->count && sg->used == sg->pieces[sg->at].len) {
        sg->at++;
        sg->used = 0;
    }
    if (sg->at == sg->count)
        return false;
    const struct sg_piece *piece = &sg->pieces[sg->at];
    part->gpa = piece->gpa + sg->used;
    part->len = piece->len - sg->used < len ? piece->len - sg->used : len;
    sg->used += part->len;
    return true;
}

int64_t sg_write(struct machine *m, struct sg *sg, const void *data, uint64_t len)
{
    const uint8_t *bytes = data;
    uint64_t done = 0;
    struct sg_piece part;
    while (done < len && sg_next(sg, len - done, &part)) {
        if (mem_write(m, part.gpa, bytes + done, part.len) < 0)
            return -EFAULT;
        done += part.len;
    }
    return (int64_t)done;
}

int64_t sg_read(struct machine *m, struct sg *sg, void *data, uint64_t len)
{
    uint8_t *bytes = data;
    uint64_t done = 0;
    struct sg_piece part;
    while (done < len && sg_next(sg, len - done, &part)) {
        if (mem_read(m, part.gpa, bytes + done, part.len) < 0)
            return -EFAULT;
        done += part.len;
    }
    return (int64_t)done;
}
