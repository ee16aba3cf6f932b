/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Invariants of loading:
 *
 *  1. A section is read whole and its checksum compared before a byte of it is looked at; its
 * length is limited by its kind before memory is taken for it.
 *  2. Every vCPU, every device with state and the clock come exactly once, else the load fails.
 *  3. Devices and vCPUs are installed only after the whole file was read: `loaded` of a device may
 * look at memory and at other devices.
 */
#include "migrate/snapshot.h"

#include "base/checked.h"
#include "base/json.h"
#include "base/text.h"
#include "engine/x86.h"
#include "migrate/crc32c.h"

#include <assert.h>
#include <endian.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

static const char magic[8] = "BEDPLATE";

enum {
    NAME_SIZE = 32,
    HEAD_SIZE = 4 + 4 + 8 + NAME_SIZE,
    WINDOW_PAGES = 256,
    WINDOW_SIZE = WINDOW_PAGES * 4096,
    BITMAP_SIZE = WINDOW_PAGES / 8,
    CONF_MAX = 64 << 10,
    STATE_MAX = 64 << 20, /* one device: a virtio device may list a lot that is in flight */
    PROGRESS_STEP = 16,   /* windows */
};

/* ---- the configuration ---- */

static json_t *config_json(const struct snapshot_config *config)
{
    json_t *disks = json_array(), *nets = json_array();
    for (unsigned i = 0; i < config->disk_count; i++) {
        const struct snapshot_disk *disk = &config->disks[i];
        json_array_append_new(
            disks, json_pack("{s:s, s:s, s:I, s:b, s:i, s:i, s:s}", "format", disk->format, "bus",
                             disk->bus, "size", (json_int_t)disk->size, "readonly", disk->readonly,
                             "queues", (int)disk->queues, "port", (int)disk->port, "id", disk->id));
    }
    for (unsigned i = 0; i < config->net_count; i++) {
        const uint8_t *mac = config->nets[i].mac;
        char text[18];
        snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
                 mac[4], mac[5]);
        json_array_append_new(nets, json_pack("{s:s, s:i, s:s, s:s, s:I}", "mac", text, "port",
                                              (int)config->nets[i].port, "id", config->nets[i].id,
                                              "model", config->nets[i].model, "rom",
                                              (json_int_t)config->nets[i].rom_size));
    }
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:i, s:I, s:I, s:b, s:b, s:s*, s:b, s:b, s:s*, s:I, s:I, s:I, s:o, "
        "s:o}",
        "version", BEDPLATE_VERSION, "engine", config->engine, "cpu", config->cpu, "profile",
        config->profile, "cpus", (int)config->cpus, "memory", (json_int_t)config->memory, "tsc_khz",
        (json_int_t)config->tsc_khz, "console", config->console, "video", config->video,
        "video_model", config->video ? config->video_model : NULL, "usb", config->usb, "balloon",
        config->balloon, "ports", *config->ports ? config->ports : NULL, "virtio_input",
        (json_int_t)config->virtio_input, "firmware", (json_int_t)config->firmware_size,
        "uefi_vars", (json_int_t)config->vars_size, "disks", disks, "nets", nets);
}

static int config_string(const json_t *object, const char *name, char *out, size_t room,
                         struct err *err)
{
    const char *text = NULL;
    int r = json_get_string(object, name, &text, err);
    if (r < 0)
        return r;
    if (r == 0)
        return err_set(err, EINVAL, "'%s' is missing", name);
    if (!*text || strlen(text) >= room)
        return err_set(err, EINVAL, "'%s' is empty or too long", name);
    strcpy(out, text);
    return 0;
}

static int config_number(const json_t *object, const char *name, uint64_t min, uint64_t max,
                         uint64_t *out, struct err *err)
{
    int r = json_get_u64(object, name, min, max, out, err);
    return r == 0 ? err_set(err, EINVAL, "'%s' is missing", name) : r < 0 ? r : 0;
}

/* Where a device is plugged in; older states know of no slots. */
static int config_slot(const json_t *object, uint32_t *port, char *id, size_t room, struct err *err)
{
    uint64_t number = 0;
    int r = 0;
    if (json_object_get(object, "port"))
        r = config_number(object, "port", 0, 255, &number, err);
    if (r >= 0 && number)
        r = config_string(object, "id", id, room, err);
    *port = (uint32_t)number;
    return r;
}

static int config_disk(const json_t *object, struct snapshot_disk *disk, struct err *err)
{
    uint64_t queues = 0;
    int r = config_string(object, "format", disk->format, sizeof disk->format, err);
    if (r == 0)
        r = config_number(object, "size", 0, INT64_MAX, &disk->size, err);
    if (r == 0)
        r = json_get_bool(object, "readonly", &disk->readonly, err);
    strcpy(disk->bus, "virtio"); /* the only one there once was */
    if (r >= 0 && json_object_get(object, "bus"))
        r = config_string(object, "bus", disk->bus, sizeof disk->bus, err);
    if (r >= 0)
        r = config_number(object, "queues", 0, 255, &queues, err);
    disk->queues = (uint32_t)queues;
    return r < 0 ? r : config_slot(object, &disk->port, disk->id, sizeof disk->id, err);
}

static int config_net(const json_t *object, struct snapshot_net *net, struct err *err)
{
    char text[18];
    int r = config_string(object, "mac", text, sizeof text, err);
    strcpy(net->model, "virtio"); /* the only one there once was */
    if (r == 0 && json_object_get(object, "model"))
        r = config_string(object, "model", net->model, sizeof net->model, err);
    if (r == 0 && json_object_get(object, "rom"))
        r = config_number(object, "rom", 0, SNAPSHOT_MAX_ROM, &net->rom_size, err);
    if (r == 0 && net->rom_size && (!is_power_of_two(net->rom_size) || net->rom_size < PAGE_SIZE))
        r = err_set(err, EINVAL, "'rom' is no size of a ROM");
    if (r == 0)
        r = config_slot(object, &net->port, net->id, sizeof net->id, err);
    if (r < 0)
        return r;
    unsigned bytes[6];
    int end = 0;
    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &bytes[0], &bytes[1], &bytes[2], &bytes[3],
               &bytes[4], &bytes[5], &end) != 6 ||
        text[end])
        return err_set(err, EINVAL, "'mac' is no MAC address");
    for (int i = 0; i < 6; i++)
        net->mac[i] = (uint8_t)bytes[i];
    return 0;
}

/* The array `name` with at most `max` entries. */
static int config_array(const json_t *object, const char *name, size_t max, const json_t **out,
                        struct err *err)
{
    *out = json_object_get(object, name);
    if (!json_is_array(*out) || json_array_size(*out) > max)
        return err_set(err, EINVAL, "'%s' must be an array of at most %zu", name, max);
    return 0;
}

static int config_from_json(const json_t *object, struct snapshot_config *out, struct err *err)
{
    uint64_t cpus = 0;
    const json_t *disks = NULL, *nets = NULL;
    int r = json_is_object(object) ? 0 : err_set(err, EINVAL, "it is no JSON object");
    if (r == 0)
        r = config_string(object, "engine", out->engine, sizeof out->engine, err);
    if (r == 0)
        r = config_string(object, "cpu", out->cpu, sizeof out->cpu, err);
    if (r == 0)
        r = config_string(object, "profile", out->profile, sizeof out->profile, err);
    if (r == 0)
        r = config_number(object, "cpus", 1, 255, &cpus, err);
    if (r == 0)
        r = config_number(object, "memory", 1 << 20, 1ull << 40, &out->memory, err);
    if (r == 0)
        r = config_number(object, "tsc_khz", 1000, 100000000, &out->tsc_khz, err);
    if (r == 0)
        r = json_get_bool(object, "console", &out->console, err);
    if (r >= 0 && json_object_get(object, "firmware"))
        r = config_number(object, "firmware", 0, 16 << 20, &out->firmware_size, err);
    if (r >= 0 && json_object_get(object, "uefi_vars"))
        r = config_number(object, "uefi_vars", 0, 8 << 20, &out->vars_size, err);
    if (r >= 0)
        r = json_get_bool(object, "video", &out->video, err);
    strcpy(out->video_model, "vga"); /* the only one there once was */
    if (r >= 0 && json_object_get(object, "video_model"))
        r = config_string(object, "video_model", out->video_model, sizeof out->video_model, err);
    if (r >= 0)
        r = json_get_bool(object, "usb", &out->usb, err);
    if (r >= 0)
        r = json_get_bool(object, "balloon", &out->balloon, err);
    if (r >= 0 && json_object_get(object, "ports"))
        r = config_string(object, "ports", out->ports, sizeof out->ports, err);
    if (r >= 0)
        r = json_get_u64(object, "virtio_input", 0, 6, &out->virtio_input, err);
    if (r >= 0)
        r = config_array(object, "disks", SNAPSHOT_MAX_DISKS, &disks, err);
    if (r == 0)
        r = config_array(object, "nets", SNAPSHOT_MAX_NETS, &nets, err);
    if (r == 0 && (out->memory | out->firmware_size | out->vars_size) % PAGE_SIZE)
        r = err_set(err, EINVAL, "a memory is not a whole number of pages");
    for (size_t i = 0; r == 0 && i < json_array_size(disks); i++)
        r = config_disk(json_array_get(disks, i), &out->disks[i], err);
    for (size_t i = 0; r == 0 && i < json_array_size(nets); i++)
        r = config_net(json_array_get(nets, i), &out->nets[i], err);
    if (r < 0)
        return r;
    out->cpus = (unsigned)cpus;
    out->disk_count = (unsigned)json_array_size(disks);
    out->net_count = (unsigned)json_array_size(nets);
    return 0;
}

int snapshot_config_parse(const char *text, size_t len, struct snapshot_config *out,
                          struct err *err)
{
    AUTO(json_decref) json_t *root = NULL;
    struct snapshot_config config = { 0 };
    int r = json_parse(text, len, &root, err);
    if (r == 0)
        r = config_from_json(root, &config, err);
    if (r == 0)
        *out = config;
    return r;
}

/* ---- saving ---- */

struct saver {
    int fd;
    uint64_t sections;
    uint64_t done, total; /* bytes of memory */
    snapshot_progress progress;
    void *arg;
};

static int saver_error(int r, struct err *err)
{
    return r < 0 ? err_errno(err, -r, "cannot write the saved state") : 0;
}

static int section_write(struct saver *s, const char *kind, uint32_t index, const char *name,
                         const void *payload, size_t len, struct err *err)
{
    uint8_t head[HEAD_SIZE] = { 0 };
    uint32_t le_index = htole32(index), crc;
    uint64_t le_len = htole64(len);
    memcpy(head, kind, 4);
    memcpy(head + 4, &le_index, 4);
    memcpy(head + 8, &le_len, 8);
    memcpy(head + 16, name, strnlen(name, NAME_SIZE - 1));
    crc = htole32(crc32c(crc32c(0, head, sizeof head), payload, len));
    int r = write_full(s->fd, head, sizeof head);
    if (r == 0)
        r = write_full(s->fd, payload, len);
    if (r == 0)
        r = write_full(s->fd, &crc, sizeof crc);
    s->sections++;
    return saver_error(r, err);
}

static int clock_write(struct saver *s, struct machine *m, struct err *err)
{
    uint64_t payload[2] = { htole64(guest_now_ns(m)), htole64(guest_epoch_ns(m)) };
    return section_write(s, "cloc", 0, "", payload, sizeof payload, err);
}

static int vcpu_write(struct saver *s, struct vcpu *v, struct err *err)
{
    AUTO(buf_fini) struct buf buf = { 0 };
    struct arch_state state;
    memset(&state, 0, sizeof state);
    int r = v->engine->type->get_state(v, &state, err);
    if (r < 0)
        return err_prefix(err, "vCPU %u", v->index);
    state_encode(&arch_state_desc, &state, &buf);
    return section_write(s, "vcpu", v->index, "", buf.data, buf.len, err);
}

static int device_save(struct saver *s, struct device *dev, struct err *err)
{
    AUTO(buf_fini) struct buf buf = { 0 };
    state_encode(dev->type->state, (char *)dev + dev->type->state->base, &buf);
    return section_write(s, "devi", 0, dev->id, buf.data, buf.len, err);
}

static bool page_is_zero(const uint8_t *page)
{
    const uint64_t *words = (const uint64_t *)page;
    return !words[0] && memcmp(page, page + 8, PAGE_SIZE - 8) == 0;
}

static int window_write(struct saver *s, const struct ram *ram, uint64_t window, struct buf *buf,
                        struct err *err)
{
    uint8_t bitmap[BITMAP_SIZE] = { 0 };
    buf->len = 0;
    buf_grow(buf, BITMAP_SIZE);
    uint64_t start = window * WINDOW_SIZE;
    for (unsigned i = 0; i < WINDOW_PAGES && start + i * PAGE_SIZE < ram->size; i++) {
        const uint8_t *page = ram->hva + start + i * PAGE_SIZE;
        if (page_is_zero(page))
            continue;
        bitmap[i / 8] |= (uint8_t)(1 << i % 8);
        buf_add(buf, page, PAGE_SIZE);
    }
    if (buf->len == BITMAP_SIZE)
        return 0;
    memcpy(buf->data, bitmap, BITMAP_SIZE);
    return section_write(s, "ram ", (uint32_t)window, ram->name, buf->data, buf->len, err);
}

/* The next window with data in it, from `window` on. Looking at a hole through the mapping would
 * fill it with a page. */
static uint64_t window_next(const struct ram *ram, uint64_t window)
{
    off_t data = lseek(ram->fd, (off_t)(window * WINDOW_SIZE), SEEK_DATA);
    if (data < 0)
        return errno == ENXIO ? UINT64_MAX : window;
    return (uint64_t)data / WINDOW_SIZE;
}

static int ram_write(struct saver *s, const struct ram *ram, struct err *err)
{
    AUTO(buf_fini) struct buf buf = { 0 };
    uint64_t before = s->done, reported = 0;
    for (uint64_t w = window_next(ram, 0); w < (ram->size + WINDOW_SIZE - 1) / WINDOW_SIZE;
         w = window_next(ram, w + 1)) {
        int r = window_write(s, ram, w, &buf, err);
        if (r < 0)
            return r;
        s->done = before + w * WINDOW_SIZE;
        if (s->progress && w >= reported + PROGRESS_STEP) {
            s->progress(s->arg, s->done, s->total);
            reported = w;
        }
    }
    s->done = before + ram->size;
    return 0;
}

int snapshot_save(struct machine *m, const struct snapshot_config *config, int fd,
                  snapshot_progress progress, void *arg, struct err *err)
{
    assert(m->state == MACHINE_CREATED || m->state == MACHINE_PAUSED);
    struct saver s = { .fd = fd, .progress = progress, .arg = arg };
    for (unsigned i = 0; i < m->ram_count; i++)
        s.total += m->rams[i]->size;

    uint32_t format = htole32(SNAPSHOT_FORMAT);
    int r = write_full(fd, magic, sizeof magic);
    if (r == 0)
        r = write_full(fd, &format, sizeof format);
    r = saver_error(r, err);

    AUTO(json_decref) json_t *json = config_json(config);
    AUTO(free) char *text = json_print(json);
    if (r == 0)
        r = section_write(&s, "conf", 0, "", text, strlen(text), err);
    if (r == 0)
        r = clock_write(&s, m, err);
    for (unsigned i = 0; r == 0 && i < m->cpus; i++)
        r = vcpu_write(&s, m->vcpus[i], err);
    for (struct device *dev = m->devices; r == 0 && dev; dev = dev->next)
        if (dev->type->state)
            r = device_save(&s, dev, err);
    for (unsigned i = 0; r == 0 && i < m->ram_count; i++)
        r = ram_write(&s, m->rams[i], err);
    uint64_t sections = htole64(s.sections);
    if (r == 0)
        r = section_write(&s, "end ", 0, "", &sections, sizeof sections, err);
    /* EINVAL: a pipe or a socket */
    if (r == 0 && fsync(fd) < 0 && errno != EINVAL && errno != EROFS)
        r = err_errno(err, errno, "cannot write the saved state");
    if (r == 0 && progress)
        progress(arg, s.total, s.total);
    return r;
}

/* ---- loading ---- */

struct section_read {
    char kind[5];
    uint32_t index;
    char name[NAME_SIZE];
    uint8_t *payload; /* in snapshot->buf */
    size_t len;
};

struct pending { /* decoded, not installed yet */
    struct pending *next;
    struct device *dev; /* the machine's, which may be gone when this is freed */
    const struct state_desc *desc;
    void *scratch;
};

struct snapshot {
    int fd;
    uint64_t sections;
    struct buf buf;
    struct snapshot_config config;

    /* while loading */
    struct arch_state *vcpus;
    uint8_t seen_vcpu[256];
    bool seen_clock;
    uint64_t guest_ns, epoch_ns;
    struct pending *devices;
};

static int read_error(int r, struct err *err)
{
    if (r == -ENODATA)
        return err_set(err, EINVAL, "the file ends too early; it was cut off");
    return r < 0 ? err_errno(err, -r, "cannot read it") : 0;
}

static uint64_t section_limit(const char *kind)
{
    static const struct {
        const char *kind;
        uint64_t max;
    } limits[] = {
        { "conf", CONF_MAX },  { "cloc", 16 }, { "vcpu", 1 << 20 },
        { "devi", STATE_MAX }, { "end ", 8 },  { "ram ", BITMAP_SIZE + WINDOW_SIZE },
    };
    for (size_t i = 0; i < ARRAY_LEN(limits); i++)
        if (strcmp(kind, limits[i].kind) == 0)
            return limits[i].max;
    return 0;
}

static int section_next(struct snapshot *snapshot, struct section_read *out, struct err *err)
{
    uint8_t head[HEAD_SIZE];
    int r = read_error(read_full(snapshot->fd, head, sizeof head), err);
    if (r < 0)
        return r;
    uint64_t len;
    uint32_t crc;
    *out = (struct section_read){ 0 };
    memcpy(out->kind, head, 4);
    memcpy(&out->index, head + 4, 4);
    memcpy(&len, head + 8, 8);
    memcpy(out->name, head + 16, NAME_SIZE);
    out->index = le32toh(out->index);
    len = le64toh(len);
    if (len > section_limit(out->kind) || out->name[NAME_SIZE - 1]) /* 1 */
        return err_set(err, EINVAL, "section %" PRIu64 " makes no sense; the file is damaged",
                       snapshot->sections);
    snapshot->buf.len = 0;
    out->payload = buf_grow(&snapshot->buf, len);
    out->len = len;
    r = read_full(snapshot->fd, out->payload, len);
    if (r == 0)
        r = read_full(snapshot->fd, &crc, sizeof crc);
    if (r < 0)
        return read_error(r, err);
    if (le32toh(crc) != crc32c(crc32c(0, head, sizeof head), out->payload, len))
        return err_set(err, EINVAL, "section %" PRIu64 " has a wrong checksum; the file is damaged",
                       snapshot->sections);
    snapshot->sections++;
    return 0;
}

int snapshot_open(int take_fd, struct snapshot **out, struct err *err)
{
    AUTO(snapshot_close) struct snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (!snapshot) {
        close(take_fd);
        return err_set(err, ENOMEM, "out of memory");
    }
    snapshot->fd = take_fd;

    char head[sizeof magic];
    uint32_t format;
    int r = read_full(take_fd, head, sizeof head);
    if (r == -ENODATA || (r == 0 && memcmp(head, magic, sizeof magic) != 0))
        return err_set(err, EINVAL, "this is no saved VM");
    if (r == 0)
        r = read_full(take_fd, &format, sizeof format);
    if (r < 0)
        return read_error(r, err);
    if (le32toh(format) != SNAPSHOT_FORMAT)
        return err_set(err, EINVAL,
                       "it has format %u, this program knows %d; use the version that saved it",
                       le32toh(format), SNAPSHOT_FORMAT);

    struct section_read section;
    r = section_next(snapshot, &section, err);
    if (r < 0)
        return r;
    if (strcmp(section.kind, "conf") != 0)
        return err_set(err, EINVAL, "it does not begin with a configuration; the file is damaged");
    r = snapshot_config_parse((const char *)section.payload, section.len, &snapshot->config, err);
    if (r < 0)
        return err_prefix(err, "its configuration");
    *out = TAKE(snapshot);
    return 0;
}

const struct snapshot_config *snapshot_config(const struct snapshot *snapshot)
{
    return &snapshot->config;
}

static void pending_free(struct pending *p)
{
    if (p->scratch)
        state_fini(p->desc, p->scratch);
    free(p->scratch);
    free(p);
}

void snapshot_close(struct snapshot *snapshot)
{
    if (!snapshot)
        return;
    while (snapshot->devices) {
        struct pending *p = snapshot->devices;
        snapshot->devices = p->next;
        pending_free(p);
    }
    free(snapshot->vcpus);
    buf_fini(&snapshot->buf);
    fd_close(snapshot->fd);
    free(snapshot);
}

static int load_clock(struct snapshot *s, const struct section_read *section, struct err *err)
{
    uint64_t values[2];
    if (section->len != sizeof values || s->seen_clock)
        return err_set(err, EINVAL, "the clock is damaged or there twice");
    memcpy(values, section->payload, sizeof values);
    s->guest_ns = le64toh(values[0]);
    s->epoch_ns = le64toh(values[1]);
    s->seen_clock = true;
    /* Three centuries: sums of the two must not overflow. */
    if (s->guest_ns > INT64_MAX || s->epoch_ns > INT64_MAX)
        return err_set(err, EINVAL, "the clock is out of range");
    return 0;
}

static int load_vcpu(struct snapshot *s, struct machine *m, const struct section_read *section,
                     struct err *err)
{
    if (section->index >= m->cpus || s->seen_vcpu[section->index])
        return err_set(err, EINVAL, "vCPU %u is too many or there twice", section->index);
    int r = state_decode(&arch_state_desc, section->payload, section->len,
                         &s->vcpus[section->index], err);
    if (r < 0)
        return err_prefix(err, "vCPU %u", section->index);
    s->seen_vcpu[section->index] = 1;
    return 0;
}

static bool device_pending(const struct snapshot *s, const struct device *dev)
{
    for (const struct pending *p = s->devices; p; p = p->next)
        if (p->dev == dev)
            return true;
    return false;
}

static int load_device(struct snapshot *s, struct machine *m, const struct section_read *section,
                       struct err *err)
{
    struct device *dev = machine_find_device(m, section->name);
    if (!dev || !dev->type->state)
        return err_set(
            err, EINVAL,
            "the saved VM has a device '%s' which this one has not; give the same options",
            section->name);
    if (device_pending(s, dev))
        return err_set(err, EINVAL, "device '%s' is there twice", section->name);
    const struct state_desc *desc = dev->type->state;
    struct pending *p = calloc(1, sizeof *p);
    void *scratch = calloc(1, desc->size);
    if (!p || !scratch) {
        free(p);
        free(scratch);
        return err_set(err, ENOMEM, "out of memory");
    }
    int r = state_decode(desc, section->payload, section->len, scratch, err);
    if (r < 0) {
        free(p);
        free(scratch);
        return err_prefix(err, "device '%s'", section->name);
    }
    *p = (struct pending){ .next = s->devices, .dev = dev, .desc = desc, .scratch = scratch };
    s->devices = p;
    return 0;
}

static struct ram *ram_find(struct machine *m, const char *name)
{
    for (unsigned i = 0; i < m->ram_count; i++)
        if (strcmp(m->rams[i]->name, name) == 0)
            return m->rams[i];
    return NULL;
}

static int load_window(struct machine *m, const struct section_read *section, struct err *err)
{
    struct ram *ram = ram_find(m, section->name);
    if (!ram)
        return err_set(err, EINVAL, "the saved VM has memory '%s' which this one has not",
                       section->name);
    uint64_t start = (uint64_t)section->index * WINDOW_SIZE;
    if (section->len < BITMAP_SIZE || start >= ram->size)
        return err_set(err, EINVAL, "memory '%s' is damaged", section->name);
    const uint8_t *page = section->payload + BITMAP_SIZE;
    uint64_t left = section->len - BITMAP_SIZE;
    for (unsigned i = 0; i < WINDOW_PAGES; i++) {
        if (!(section->payload[i / 8] >> i % 8 & 1))
            continue;
        uint64_t offset = start + i * PAGE_SIZE;
        if (left < PAGE_SIZE || !range_fits(offset, PAGE_SIZE, ram->size))
            return err_set(err, EINVAL, "memory '%s' is damaged", section->name);
        if (copy_to_hva(ram->hva + offset, page, PAGE_SIZE) < 0)
            return err_set(err, ENOMEM, "the host has no memory left for the guest's");
        page += PAGE_SIZE;
        left -= PAGE_SIZE;
    }
    return left ? err_set(err, EINVAL, "memory '%s' is damaged", section->name) : 0;
}

/* All pages that the file does not name are zero, whatever the board put there. */
static int rams_clear(struct machine *m, struct err *err)
{
    for (unsigned i = 0; i < m->ram_count; i++)
        if (fallocate(m->rams[i]->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                      (off_t)m->rams[i]->size) < 0)
            return err_errno(err, errno, "cannot clear the guest's memory");
    return 0;
}

static int load_sections(struct snapshot *s, struct machine *m, struct err *err)
{
    for (;;) {
        struct section_read section;
        int r = section_next(s, &section, err);
        if (r < 0)
            return r;
        if (strcmp(section.kind, "ram ") == 0) {
            r = load_window(m, &section, err);
        } else if (strcmp(section.kind, "devi") == 0) {
            r = load_device(s, m, &section, err);
        } else if (strcmp(section.kind, "vcpu") == 0) {
            r = load_vcpu(s, m, &section, err);
        } else if (strcmp(section.kind, "cloc") == 0) {
            r = load_clock(s, &section, err);
        } else if (strcmp(section.kind, "end ") == 0) {
            uint64_t count = 0;
            memcpy(&count, section.payload, section.len);
            if (section.len != 8 || le64toh(count) != s->sections - 1)
                return err_set(err, EINVAL, "sections are missing; the file is damaged");
            return 0;
        } else {
            r = err_set(err, EINVAL, "a second configuration; the file is damaged");
        }
        if (r < 0)
            return r;
    }
}

static int load_complete(const struct snapshot *s, struct machine *m, struct err *err)
{
    if (!s->seen_clock)
        return err_set(err, EINVAL, "the clock is missing");
    for (unsigned i = 0; i < m->cpus; i++)
        if (!s->seen_vcpu[i])
            return err_set(err, EINVAL, "vCPU %u is missing", i);
    for (struct device *dev = m->devices; dev; dev = dev->next)
        if (dev->type->state && !dev->type->late && !device_pending(s, dev))
            return err_set(err, EINVAL, "the saved VM has no device '%s'; give the same options",
                           dev->id);
    return 0;
}

static void device_install(struct pending *p)
{
    const struct state_desc *desc = p->desc;
    void *state = (char *)p->dev + desc->base;
    state_fini(desc, state);
    memcpy(state, p->scratch, desc->size);
    free(TAKE(p->scratch));
}

/* The guest's clocks go on where they stood; its calendar shows today. */
static void clock_install(struct snapshot *s, struct machine *m)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t wall = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    bool later = wall > s->epoch_ns + s->guest_ns;
    clock_set(m, s->guest_ns, later ? wall - s->guest_ns : s->epoch_ns);
}

int snapshot_load(struct snapshot *s, struct machine *m, struct err *err)
{
    assert(m->state == MACHINE_CREATED);
    if (m->cpus != s->config.cpus || m->main_ram->size != s->config.memory)
        return err_set(err, EINVAL,
                       "the saved VM has another number of vCPUs or another memory size");
    s->vcpus = calloc(m->cpus, sizeof *s->vcpus);
    if (!s->vcpus)
        return err_set(err, ENOMEM, "out of memory");
    int r = rams_clear(m, err);
    if (r == 0)
        r = load_sections(s, m, err);
    if (r == 0)
        r = load_complete(s, m, err);
    if (r < 0)
        return r;

    clock_install(s, m); /* 3 */
    for (struct pending *p = s->devices; p; p = p->next)
        device_install(p);
    for (unsigned i = 0; r == 0 && i < m->cpus; i++) {
        r = m->engine->type->set_state(m->vcpus[i], &s->vcpus[i], err);
        if (r < 0)
            err_prefix(err, "vCPU %u", i);
    }
    /* In the order of the machine: buses come before what sits on them. */
    for (struct device *dev = m->devices; r == 0 && dev; dev = dev->next) {
        if (!dev->type->loaded)
            continue;
        r = dev->type->loaded(dev, err);
        if (r < 0)
            err_prefix(err, "device '%s'", dev->id);
    }
    return r;
}
