/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/seed.h"

#include "base/cleanup.h"
#include "base/json.h"

#include <archive.h>
#include <archive_entry.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *text_of(const json_t *object, const char *field)
{
    const char *text = json_string_value(json_object_get(object, field));
    return text && *text ? text : NULL;
}

static int file_add(struct archive *iso, const char *name, const char *text)
{
    struct archive_entry *entry = archive_entry_new();
    size_t len = strlen(text);
    archive_entry_set_pathname(entry, name);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0400);
    archive_entry_set_size(entry, (la_int64_t)len);
    int r = archive_write_header(iso, entry);
    if (r == ARCHIVE_OK && archive_write_data(iso, text, len) != (la_ssize_t)len)
        r = ARCHIVE_FATAL;
    archive_entry_free(entry);
    return r;
}

/* JSON is YAML, too. */
static char *user_data(const json_t *vm)
{
    const json_t *asked = json_object_get(vm, "cloud_init");
    const char *own = text_of(asked, "user_data"), *user = text_of(asked, "user");
    json_t *keys = json_object_get(asked, "ssh_keys");
    AUTO(json_decref) json_t *config = json_object();
    if (own)
        return strdup(own);
    if (user)
        json_object_set_new(config, "users",
                            json_pack("[{s:s, s:s, s:s, s:O*}]", "name", user, "shell", "/bin/bash",
                                      "sudo", "ALL=(ALL) NOPASSWD:ALL", "ssh_authorized_keys",
                                      keys));
    else if (keys)
        json_object_set(config, "ssh_authorized_keys", keys);
    AUTO(free) char *text = json_print(config);
    char *out;
    return asprintf(&out, "#cloud-config\n%s\n", text) < 0 ? NULL : out;
}

static char *meta_data(const json_t *vm)
{
    const char *host = text_of(json_object_get(vm, "cloud_init"), "hostname");
    AUTO(json_decref)
    json_t *meta = json_pack("{s:s, s:s}", "instance-id", text_of(vm, "id"), "local-hostname",
                             host ? host : text_of(vm, "name"));
    return json_print(meta);
}

int seed_write(const char *path, const json_t *vm, struct err *err)
{
    char part[PATH_MAX + 8];
    AUTO(free) char *user = user_data(vm);
    AUTO(free) char *meta = meta_data(vm);
    struct archive *iso = archive_write_new();
    if (!iso || !user || !meta)
        abort();
    snprintf(part, sizeof part, "%s.part", path);
    int r = archive_write_set_format_iso9660(iso);
    if (r == ARCHIVE_OK)
        r = archive_write_set_options(iso, "volume-id=cidata,rockridge=useful,joliet");
    if (r == ARCHIVE_OK)
        r = archive_write_open_filename(iso, part);
    if (r == ARCHIVE_OK)
        r = file_add(iso, "meta-data", meta);
    if (r == ARCHIVE_OK)
        r = file_add(iso, "user-data", user);
    if (r == ARCHIVE_OK)
        r = archive_write_close(iso);
    int result = 0;
    if (r != ARCHIVE_OK)
        result = err_set(err, EIO, "cannot write %s: %s", part, archive_error_string(iso));
    archive_write_free(iso);
    if (result == 0 && rename(part, path) < 0)
        result = err_errno(err, errno, "cannot write %s", path);
    if (result < 0)
        unlink(part);
    return result;
}
