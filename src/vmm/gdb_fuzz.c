/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bytes of a hostile debugger. To get past the checksums, each line of the input is made a packet;
 * a line that begins with a space goes in as it is. */
#include "vmm/gdb.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct arch_state cpus[3];
static uint8_t memory[65536];

static unsigned toy_cpus(void *arg) { return 3; }
static int toy_get(void *arg, unsigned cpu, struct arch_state *out)
{
    *out = cpus[cpu];
    return 0;
}
static int toy_set(void *arg, unsigned cpu, const struct arch_state *state)
{
    cpus[cpu] = *state;
    return 0;
}
static int toy_read(void *arg, unsigned cpu, uint64_t gva, void *out, size_t len)
{
    if (gva >= sizeof memory || len > sizeof memory - gva)
        return -EFAULT;
    memcpy(out, memory + gva, len);
    return 0;
}
static int toy_write(void *arg, unsigned cpu, uint64_t gva, const void *in, size_t len)
{
    if (gva >= sizeof memory || len > sizeof memory - gva)
        return -EFAULT;
    memcpy(memory + gva, in, len);
    return 0;
}
static int toy_points(void *arg, const struct debug_point *points, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (points[i].len != 1 && points[i].len != 2 && points[i].len != 4 && points[i].len != 8)
            abort();
    return count > 40 ? -ENOSPC : 0;
}
static void toy_go(void *arg, const enum gdb_action *actions) {}
static void toy_nothing(void *arg) {}

static const struct gdb_target toy_target = {
    .cpus = toy_cpus,
    .get_state = toy_get,
    .set_state = toy_set,
    .read = toy_read,
    .write = toy_write,
    .set_points = toy_points,
    .go = toy_go,
    .stop = toy_nothing,
    .kill = toy_nothing,
};

static bool feed_packet(struct gdb *gdb, const uint8_t *body, size_t len)
{
    uint8_t sum = 0;
    char tail[4];
    for (size_t i = 0; i < len; i++)
        sum = (uint8_t)(sum + body[i]);
    snprintf(tail, sizeof tail, "#%02x", sum);
    return gdb_feed(gdb, (const uint8_t *)"$", 1) && gdb_feed(gdb, body, len) &&
           gdb_feed(gdb, (const uint8_t *)tail, 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct gdb gdb; /* large */
    gdb_init(&gdb, &toy_target, NULL);
    bool stays = true;
    for (size_t at = 0; at < len && stays;) {
        const uint8_t *end = memchr(data + at, '\n', len - at);
        size_t n = end ? (size_t)(end - (data + at)) : len - at;
        stays = n && data[at] == ' ' ? gdb_feed(&gdb, data + at + 1, n - 1)
                                     : feed_packet(&gdb, data + at, n);
        if (gdb.running)
            gdb_stopped(&gdb, 1, &(struct debug_hit){ .point = (int)(n % 50) });
        at += n + 1;
    }
    gdb_fini(&gdb);
    return 0;
}
