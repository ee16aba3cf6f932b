/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Hostile OVA archives: opened, described, checked, and each disk read at both ends. */
#include "base/json.h"
#include "base/log.h"
#include "img/ova.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { ARCHIVE_MAX = 16 << 20 };

static void read_disk(const uint8_t *data, size_t len, unsigned number)
{
    static uint8_t buf[64 << 10];
    struct store *store;
    struct ova *ova;
    struct image *image;
    struct err err;
    char which[16];
    snprintf(which, sizeof which, "%u", number);
    if (store_open_memory(data, len, ARCHIVE_MAX, &store, &err) < 0 ||
        ova_open_store(store, &ova, &err) < 0 || ova_open_disk(ova, which, &image, &err) < 0)
        return;
    size_t n = image_size(image) < sizeof buf ? image_size(image) : sizeof buf;
    image_read(image, buf, n, 0);
    image_read(image, buf, n, image_size(image) - n);
    image_close(image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct store *store;
    struct ova *ova;
    struct err err;
    unsigned checked, bad;
    log_set_level(LOG_ERROR - 1, LOG_ERROR - 1);
    if (store_open_memory(data, len, ARCHIVE_MAX, &store, &err) < 0 ||
        ova_open_store(store, &ova, &err) < 0)
        return 0;
    json_decref(ova_info(ova));
    ova_check(ova, NULL, NULL, &checked, &bad, &err);
    unsigned count = ova_disk_count(ova) < 3 ? ova_disk_count(ova) : 3;
    ova_close(ova);
    for (unsigned i = 1; i <= count; i++)
        read_disk(data, len, i);
    return 0;
}
