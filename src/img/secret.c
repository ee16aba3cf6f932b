/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Passphrases of encrypted images: --key-file FILE, or qemu-img's --object secret,id=ID,file=FILE.
 * A secret on the command line itself (data=...) is refused: everybody on the host could read it.
 */
#include "img/img.h"

#include "base/text.h"

#include <string.h>

int call_add_object(struct call *call, const char *text)
{
    char id[64], file[1024];
    struct err *err = &call->err;
    if (strncmp(text, "secret,", 7))
        return err_set(err, EINVAL, "--object: there is only secret,id=ID,file=FILE");
    text += 7;
    if (image_option_get(text, "data", file, sizeof file))
        return err_set(
            err, EPERM,
            "--object secret: data= would show the passphrase to everybody on this host; "
            "put it into a file and say file=");
    if (!image_option_get(text, "id", id, sizeof id) ||
        !image_option_get(text, "file", file, sizeof file))
        return err_set(err, EINVAL, "--object secret needs id=ID and file=FILE");
    if (call->secret_count == SECRETS_MAX)
        return err_set(err, E2BIG, "--object secret: there are at most %d", SECRETS_MAX);
    struct call_secret *secret = &call->secrets[call->secret_count];
    int r = image_secret_read(file, &secret->secret, err);
    if (r < 0)
        return err_prefix(err, "--object secret");
    snprintf(secret->id, sizeof secret->id, "%s", id);
    call->secret_count++;
    return 0;
}

/* A file named by a flag is kept like an object whose id is the flag. */
static int secret_of_flag(struct call *call, const char *flag, const struct image_secret **out)
{
    const char *path = call_flag(call, flag);
    *out = NULL;
    if (!path)
        return 0;
    for (unsigned i = 0; i < call->secret_count; i++)
        if (!strcmp(call->secrets[i].id, flag)) {
            *out = &call->secrets[i].secret;
            return 0;
        }
    if (call->secret_count == SECRETS_MAX)
        return err_set(&call->err, E2BIG, "--%s: there are at most %d secrets", flag, SECRETS_MAX);
    struct call_secret *secret = &call->secrets[call->secret_count];
    int r = image_secret_read(path, &secret->secret, &call->err);
    if (r < 0)
        return err_prefix(&call->err, "--%s", flag);
    snprintf(secret->id, sizeof secret->id, "%s", flag);
    call->secret_count++;
    *out = &secret->secret;
    return 0;
}

int call_secret(struct call *call, const struct image_secret **out)
{
    int r = secret_of_flag(call, "key-file", out);
    if (r == 0 && !*out && call->secret_count)
        *out = &call->secrets[0].secret;
    return r;
}

int call_new_secret(struct call *call, const char *options, const struct image_secret **out)
{
    char id[64];
    *out = NULL;
    if (image_option_get(options, "key-secret", id, sizeof id) ||
        image_option_get(options, "encrypt.key-secret", id, sizeof id)) {
        for (unsigned i = 0; i < call->secret_count; i++)
            if (!strcmp(call->secrets[i].id, id))
                *out = &call->secrets[i].secret;
        return *out ? 0 : err_set(&call->err, ENOENT, "there is no --object secret,id=%s", id);
    }
    int r =
        !strcmp(call->command->name, "convert") ? secret_of_flag(call, "target-key-file", out) : 0;
    return r < 0 || *out ? r : call_secret(call, out);
}

void call_forget_secrets(struct call *call)
{
    for (unsigned i = 0; i < call->secret_count; i++)
        image_secret_free(&call->secrets[i].secret);
}
