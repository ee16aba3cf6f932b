/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A hostile guest at the port of the clipboard's agent. Each operation is a byte: what happens, or,
 * from 0x80 on, how many bytes of the rest the guest sends.
 */
#include "display/cut_text.h"
#include "display/vdagent.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A text that reaches the viewers is one. */
static void got_text(void *arg, const struct buf *text)
{
    AUTO(buf_fini) struct buf again = { 0 }, latin1 = { 0 };
    (void)arg;
    if (!text->len || text->len > VDAGENT_TEXT_MAX ||
        !cut_text_from_utf8((const char *)text->data, text->len, &again))
        abort();
    cut_text_to_latin1(text, &latin1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct buf offered = { .data = (uint8_t *)"an\noffer", .len = 8 };
    AUTO(vdagent_destroy) struct vdagent *agent = vdagent_create(got_text, NULL);
    const uint8_t *out;
    uint64_t now_ms = 0;
    vdagent_opened(agent);
    for (size_t at = 0; at < size;) {
        uint8_t op = data[at++];
        size_t len = op & 0x7f;
        if (op >= 0x80) {
            len = len < size - at ? len : size - at;
            vdagent_input(agent, data + at, len);
            at += len;
            continue;
        }
        switch (op % 4) {
        case 0: vdagent_opened(agent); break;
        case 1: vdagent_offer(agent, &offered); break;
        case 2: vdagent_ask(agent, now_ms += op); break;
        case 3:
            len = vdagent_output(agent, &out);
            vdagent_output_taken(agent, len < op ? len : op);
            break;
        }
        if (vdagent_output(agent, &out) > 2 * VDAGENT_OUTPUT_MAX)
            abort();
    }
    return 0;
}
