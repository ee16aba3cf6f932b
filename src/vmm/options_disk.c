/* SPDX-License-Identifier: GPL-2.0-or-later */
/* --disk PATH,name=value,...: three tables, of choices, of texts and of limits. */
#include "vmm/options_disk.h"

#include "base/checked.h"
#include "base/text.h"
#include "block/nbd_client.h"
#include "vmm/options_words.h"

#include <ctype.h>
#include <string.h>

enum { SERIAL_MAX = 20 };

/* clang-format off */
static const struct disk_choice {
    const char *key;
    size_t field; /* an unsigned of struct disk_options */
    const char *words[4];
} choices[] = {
    { "cache", offsetof(struct disk_options, cache), { "writeback", "none", "unsafe" } }, /* enum block_cache */
    { "discard", offsetof(struct disk_options, discard), { "unmap", "ignore" } },
    { "copy-on-read", offsetof(struct disk_options, copy_on_read), { "off", "on" } },
    { "detect-zeroes", offsetof(struct disk_options, detect_zeroes), { "off", "on", "unmap" } },
    { "on-full", offsetof(struct disk_options, on_full), { "report", "pause", "ignore" } },
    { "on-error", offsetof(struct disk_options, on_error), { "report", "pause", "ignore" } },
};

static const struct disk_text {
    const char *key, *example;
    size_t field; /* a char * of struct disk_options */
} texts[] = {
    { "format", "format=raw", offsetof(struct disk_options, format) },
    { "key-file", "key-file=/etc/bedplate/root.key", offsetof(struct disk_options, key_file) },
    { "io-thread", "io-thread=fast", offsetof(struct disk_options, io_thread) },
    { "serial", "serial=DISK-1", offsetof(struct disk_options, serial) },
    { "throttle-group", "throttle-group=slow", offsetof(struct disk_options, throttle_group) },
};
/* clang-format on */

static const char *disk_key(size_t i)
{
    enum { CHOICES = ARRAY_LEN(choices), TEXTS = CHOICES + ARRAY_LEN(texts) };
    enum { LIMITS = TEXTS + THROTTLE_KINDS };
    static const char *const rest[] = { "readonly",         "bus",          "queues",
                                        "tls-certificates", "tls-psk-file", NULL };
    if (i < CHOICES)
        return choices[i].key;
    if (i < TEXTS)
        return texts[i - CHOICES].key;
    return i < LIMITS ? throttle_names[i - TEXTS] : rest[i - LIMITS];
}

static int disk_choose(struct disk_options *disk, const struct disk_choice *choice,
                       const char *value, struct err *err)
{
    char list[64] = "";
    for (unsigned i = 0; choice->words[i]; i++) {
        if (value && !strcmp(choice->words[i], value)) {
            *(unsigned *)((char *)disk + choice->field) = i;
            return 0;
        }
        size_t len = strlen(list);
        snprintf(list + len, sizeof list - len, "%s'%s'", i ? ", " : "", choice->words[i]);
    }
    return err_set(err, EINVAL, "%s is one of %s", choice->key, list);
}

/* "iops", "bps-wr-burst", "iops-rd-burst-s": 1 when it is one of those. */
static int disk_limit(struct disk_options *disk, const char *key, const char *value,
                      struct err *err)
{
    for (unsigned kind = THROTTLE_KINDS; kind-- > 0;) { /* longer names come first */
        size_t len = strlen(throttle_names[kind]);
        struct throttle_limit *limit = &disk->limits.of[kind];
        const char *rest = key + len;
        if (strncmp(key, throttle_names[kind], len))
            continue;
        uint64_t *field = !*rest                      ? &limit->rate
                          : !strcmp(rest, "-burst")   ? &limit->burst
                          : !strcmp(rest, "-burst-s") ? &limit->burst_s
                                                      : NULL;
        if (!field)
            continue;
        int r = value_needed(key, value, "iops=1000 or bps=20M", err);
        if (r == 0 && kind < THROTTLE_IOPS && field != &limit->burst_s)
            r = size_parse(value, 1, field, err);
        else if (r == 0)
            r = number_parse(value, 0, UINT64_MAX, field, err);
        return r < 0 ? err_prefix(err, "%s", key) : 1;
    }
    return 0;
}

/* Parameters of an NBD address can be written as parts, where a comma is easier than '&'. */
static int disk_tls(struct disk_options *disk, const char *key, const char *value, struct err *err)
{
    AUTO(buf_fini) struct buf uri = { 0 };
    int r = value_needed(key, value, "tls-certificates=DIRECTORY", err);
    if (r < 0)
        return r;
    if (!nbd_is_uri(disk->path))
        return err_set(err, EINVAL, "'%s' goes with nbds://... only", key);
    buf_printf(&uri, "%s%c%s=", disk->path, strchr(disk->path, '?') ? '&' : '?', key);
    for (const char *p = value; *p; p++)
        if (isalnum((unsigned char)*p) || strchr("/.-_", *p))
            buf_add(&uri, p, 1);
        else
            buf_printf(&uri, "%%%02x", (unsigned char)*p);
    buf_add(&uri, "", 1);
    return text_set(&disk->path, (const char *)uri.data, err);
}

static int disk_queues(struct disk_options *disk, const char *value, struct err *err)
{
    uint64_t n;
    int r = value_needed("queues", value, "queues=4", err);
    if (r == 0)
        r = number_parse(value, 1, OPTIONS_MAX_QUEUES, &n, err);
    if (r < 0)
        return err_prefix(err, "queues");
    disk->queues = (unsigned)n;
    return 0;
}

int options_disk_part(struct disk_options *disk, const char *key, const char *value,
                      struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(choices); i++)
        if (!strcmp(choices[i].key, key))
            return disk_choose(disk, &choices[i], value, err);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        if (!strcmp(texts[i].key, key)) {
            int r = value_needed(key, value, texts[i].example, err);
            return r < 0 ? r : text_set((char **)((char *)disk + texts[i].field), value, err);
        }
    if (!strcmp(key, "readonly")) {
        disk->readonly = true;
        return flag_value(key, value, err);
    }
    if (!strcmp(key, "bus")) {
        int r = choice_set("bus", value ? value : "", options_disk_bus, err);
        disk->bus = r < 0 ? disk->bus : (enum disk_bus)r;
        if (r == DISK_FLOPPY && disk->path && !strcmp(disk->path, "none"))
            free(TAKE(disk->path)); /* an empty drive */
        return r < 0 ? r : 0;
    }
    if (!strcmp(key, "queues"))
        return disk_queues(disk, value, err);
    if (!strncmp(key, "tls-", 4))
        return disk_tls(disk, key, value, err);
    int r = disk_limit(disk, key, value, err);
    return r < 0 ? r : r > 0 ? 0 : unknown_word(err, "disk option", "", key, disk_key);
}

bool options_disk_thread(const struct disk_options *disk, unsigned n, char out[IO_THREAD_NAME])
{
    const char *at = disk->io_thread;
    if (!at) { /* queue n of every disk by one thread */
        snprintf(out, IO_THREAD_NAME, "%u", n);
        return n < (disk->queues ? disk->queues : 1);
    }
    for (; n && at; n--) {
        at = strchr(at, '+');
        at = at ? at + 1 : NULL;
    }
    if (at)
        snprintf(out, IO_THREAD_NAME, "%.*s", (int)strcspn(at, "+"), at);
    return at;
}

static int disk_check_threads(const struct disk_options *disk, struct err *err)
{
    unsigned count = 0, queues = disk->queues ? disk->queues : 1;
    for (const char *at = disk->io_thread; at; count++) {
        size_t len = strcspn(at, "+/");
        if (!len || len >= IO_THREAD_NAME || at[len] == '/')
            return err_set(
                err, EINVAL,
                "io-thread is a name of at most %d letters, or several of them with '+' between",
                IO_THREAD_NAME - 1);
        at = at[len] ? at + len + 1 : NULL;
    }
    if (count > queues)
        return err_set(err, EINVAL, "io-thread names %u threads for %u queue%s; add queues=%u",
                       count, queues, queues == 1 ? "" : "s", count);
    return 0;
}

int options_disk_check(const struct disk_options *disk, struct err *err)
{
    if (disk->serial && strlen(disk->serial) > SERIAL_MAX)
        return err_set(err, EINVAL, "serial has more than %d letters", SERIAL_MAX);
    if (disk->discard && disk->detect_zeroes == ZEROES_UNMAP)
        return err_set(err, EINVAL,
                       "detect-zeroes=unmap gives space back, which discard=ignore "
                       "forbids; take detect-zeroes=on");
    int r = disk_check_threads(disk, err);
    if (r < 0)
        return r;
    if (disk->bus != DISK_VIRTIO &&
        (disk->on_full || disk->on_error || disk->queues || disk->io_thread))
        return err_set(err, EINVAL,
                       "on-full, on-error, queues and io-thread work with bus=virtio only");
    return throttle_check(&disk->limits, err);
}

void options_disk_fini(struct disk_options *disk)
{
    char *all[] = { disk->path,      disk->format,         disk->key_file, disk->serial,
                    disk->io_thread, disk->throttle_group, disk->id };
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
}
