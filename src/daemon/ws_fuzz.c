/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bytes of a hostile WebSocket client, whole and one by one: both ways must come to the same. */
#include "daemon/ws_frame.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct seen {
    size_t data, controls;
    uint64_t sum;
};

static void on_data(void *arg, const uint8_t *data, size_t len)
{
    struct seen *seen = arg;
    seen->data += len;
    for (size_t i = 0; i < len; i++)
        seen->sum = seen->sum * 31 + data[i];
}

static void on_control(void *arg, enum ws_opcode opcode, const uint8_t *data, size_t len)
{
    struct seen *seen = arg;
    if (len > WS_CONTROL_MAX || opcode < WS_CLOSE || opcode > WS_PONG)
        abort();
    seen->controls++;
    for (size_t i = 0; i < len; i++)
        seen->sum = seen->sum * 31 + data[i];
}

static int feed(const uint8_t *data, size_t len, size_t step, struct seen *seen)
{
    static const struct ws_calls calls = { on_data, on_control };
    struct ws_parser parser = { .have = 0 };
    int r = 0;
    uint8_t *copy = malloc(len ? len : 1);
    memcpy(copy, data, len);
    for (size_t at = 0; r == 0 && at < len; at += step)
        r = ws_parse(&parser, copy + at, len - at < step ? len - at : step, &calls, seen);
    free(copy);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct seen whole = { 0 }, split = { 0 };
    int r = feed(data, len, len ? len : 1, &whole);
    if (feed(data, len, 1, &split) != r || memcmp(&whole, &split, sizeof whole) != 0)
        abort();
    return 0;
}
