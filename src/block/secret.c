/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Passphrases of encrypted images: read from a file, so that no command line shows them. */
#include "block/image.h"

#include "base/text.h"

#include <string.h>

enum { SECRET_MAX = 1 << 20 };

int image_secret_read(const char *path, struct image_secret *out, struct err *err)
{
    AUTO(buf_fini) struct buf buf = { 0 };
    int r = file_read(path, SECRET_MAX, &buf, err);
    if (r < 0)
        return r;
    if (!buf.len)
        return err_set(err, EINVAL, "%s is empty; it shall hold the passphrase and nothing else",
                       path);
    out->len = buf.len;
    out->data = TAKE(buf.data);
    return 0;
}

void image_secret_free(struct image_secret *secret)
{
    if (secret->data)
        explicit_bzero((void *)secret->data, secret->len);
    free((void *)secret->data);
    *secret = (struct image_secret){ 0 };
}
