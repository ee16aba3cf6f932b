/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What exec and cp ask of a guest's agent. */
#include "cli/guest.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { READ_MAX = 1 << 20 };

json_t *guest_base64(const void *data, size_t len)
{
    AUTO(buf_fini) struct buf text = { 0 };
    buf_base64(&text, data, len);
    return json_stringn(text.len ? (const char *)text.data : "", text.len);
}

int guest_output(const json_t *answer, const char *name, struct buf *out)
{
    const json_t *text = json_object_get(answer, name);
    if (json_is_string(text) &&
        base64_parse(json_string_value(text), json_string_length(text), out) == 0)
        return CLI_OK;
    cli_say("the daemon's answer is not base64");
    return CLI_FAILED;
}

int guest_run(struct cli *cli, const char *vm, json_t *take_command, struct buf *out)
{
    AUTO(json_decref) json_t *answer = NULL;
    AUTO(buf_fini) struct buf said = { 0 };
    int r =
        ask(cli, "POST", "vms", vm, "exec", json_pack("{s:o}", "command", take_command), &answer);
    if (r != CLI_OK)
        return r;
    if (json_integer_value(json_object_get(answer, "status")) == 0)
        return out ? guest_output(answer, "out", out) : CLI_OK;
    if (guest_output(answer, "err", &said) == CLI_OK) {
        buf_add(&said, "", 1);
        cli_say("in %s: %.*s", vm, (int)strcspn((char *)said.data, "\n"), (char *)said.data);
    }
    return CLI_FAILED;
}

int guest_write(struct cli *cli, const char *vm, const char *path, const void *data, size_t len,
                bool append)
{
    return ask(cli, "POST", "vms", vm, "file-write",
               json_pack("{s:s, s:o, s:b}", "path", path, "data", guest_base64(data, len), "append",
                         append),
               NULL);
}

int guest_read_some(struct cli *cli, const char *vm, const char *path, uint64_t offset,
                    struct buf *out, bool *end)
{
    AUTO(json_decref) json_t *answer = NULL;
    size_t before = out->len;
    int r = ask(
        cli, "POST", "vms", vm, "file-read",
        json_pack("{s:s, s:I, s:i}", "path", path, "offset", (json_int_t)offset, "bytes", READ_MAX),
        &answer);
    if (r == CLI_OK)
        r = guest_output(answer, "data", out);
    *end = json_is_true(json_object_get(answer, "end")) || out->len == before;
    return r;
}
