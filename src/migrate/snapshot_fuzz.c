/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A saved VM out of hostile hands. Checksums would stop a fuzzer at the door, so the input is a
 * list of sections without them: kind (a digit), index, length of name, length of payload (2
 * bytes), name, payload. An input that begins with "BEDPLATE" goes in as it is.
 */
#include "migrate/toy_machine.h"

#include "base/text.h"
#include "migrate/crc32c.h"

#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void section_add(struct buf *file, const char *kind, uint32_t index, const uint8_t *name,
                        size_t name_len, const void *payload, uint64_t len)
{
    size_t start = file->len;
    uint8_t padded[32] = { 0 };
    memcpy(padded, name, name_len < 31 ? name_len : 31);
    buf_add(file, kind, 4);
    buf_add(file, &index, 4);
    buf_add(file, &len, 8);
    buf_add(file, padded, 32);
    buf_add(file, payload, len);
    uint32_t crc = crc32c(0, file->data + start, file->len - start);
    buf_add(file, &crc, 4);
}

static void file_make(struct buf *file, const uint8_t *data, size_t len)
{
    static const char *const kinds[] = { "conf", "cloc", "vcpu", "devi", "ram ", "end ", "none" };
    static const char conf[] = "{\"engine\":\"fake\",\"cpu\":\"c\",\"profile\":\"p\",\"cpus\":2,"
                               "\"memory\":3145728,\"tsc_khz\":1000000,"
                               "\"disks\":[],\"nets\":[]}";
    uint32_t format = SNAPSHOT_FORMAT;
    buf_add(file, "BEDPLATE", 8);
    buf_add(file, &format, 4);
    if (!len || data[0] != 'c') /* 'c': the input has a configuration of its own */
        section_add(file, "conf", 0, NULL, 0, conf, sizeof conf - 1);
    for (size_t at = 1; at + 5 <= len;) {
        const uint8_t *head = data + at;
        size_t name_len = head[2] % 32, payload_len = head[3] | (size_t)head[4] << 8;
        at += 5;
        name_len = name_len < len - at ? name_len : len - at;
        const uint8_t *name = data + at;
        at += name_len;
        payload_len = payload_len < len - at ? payload_len : len - at;
        section_add(file, kinds[head[0] % 7], head[1], name, name_len, data + at, payload_len);
        at += payload_len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    AUTO(buf_fini) struct buf file = { 0 };
    if (len >= 8 && memcmp(data, "BEDPLATE", 8) == 0)
        buf_add(&file, data, len);
    else
        file_make(&file, data, len);
    int fd = memfd_create("saved", MFD_CLOEXEC);
    if (fd < 0 || pwrite_full(fd, file.data, file.len, 0) < 0)
        abort();
    AUTO(snapshot_close) struct snapshot *snapshot = NULL;
    struct err err = { 0 };
    if (snapshot_open(fd, &snapshot, &err) < 0)
        return 0;
    struct machine *m = toy_machine_create();
    if (snapshot_load(snapshot, m, &err) < 0 && !err.text[0])
        abort();
    fake_machine_destroy(m);
    return 0;
}
