/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The clipboard by the VDAgent protocol.
 *
 * The stream is cut into chunks, {port, size}, and the chunks of one port hold messages, {protocol,
 * type, opaque, size}, cut anywhere; all numbers are little-endian. Messages that have no meaning
 * here (resolutions, files, volumes) are passed over by their size, as are chunks of another port.
 */
#include "display/vdagent.h"

#include "display/cut_text.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_HEAD = 8, CHUNK_MAX = 2048, CLIENT_PORT = 1 };
enum { MESSAGE_HEAD = 20, PROTOCOL = 1, SELECTION_HEAD = 4, SELECTION_CLIPBOARD = 0 };
enum message {
    CLIPBOARD = 4,
    ANNOUNCE_CAPABILITIES = 6,
    CLIPBOARD_GRAB = 7,
    CLIPBOARD_REQUEST = 8,
    CLIPBOARD_RELEASE = 9,
};
enum { TYPE_NONE = 0, TYPE_UTF8 = 1 };
enum { CAP_BY_DEMAND = 5, CAP_SELECTION = 6, CAP_CRLF = 9 };

/* A head that is being gathered. */
struct head {
    uint8_t bytes[MESSAGE_HEAD];
    unsigned len;
};

struct vdagent {
    void (*text)(void *arg, const struct buf *text);
    void *arg;
    uint32_t caps;          /* the guest's; 0: not announced */
    struct head chunk;      /* of the chunk that comes next */
    uint32_t chunk_left;    /* of the one that has begun */
    bool chunk_skipped;     /* it is another port's */
    struct head head;       /* of the message that comes next */
    uint32_t message_left;  /* of the one that has begun */
    struct buf message;     /* its data, if they matter */
    struct buf ours;        /* the text that people offer; empty: none */
    bool ours_known;        /* the guest knows of it */
    struct buf theirs;      /* the guest's, as long as it has the clipboard; empty: none */
    bool wanted, requested; /* the guest's text */
    uint64_t next_ms;       /* no request before */
    struct buf out;
    size_t out_taken; /* of `out` */
};

static uint32_t get32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return le32toh(value);
}

static void add32(struct buf *out, uint32_t value)
{
    value = htole32(value);
    buf_add(out, &value, sizeof value);
}

static bool can(const struct vdagent *agent, unsigned cap) { return agent->caps >> cap & 1; }

/* ---- to the guest ---- */

/* A guest that asks on and on without reading gets no answers. */
static void send_message(struct vdagent *agent, enum message type, const void *data, size_t len)
{
    AUTO(buf_fini) struct buf whole = { 0 };
    if (agent->out.len - agent->out_taken > VDAGENT_OUTPUT_MAX)
        return;
    add32(&whole, PROTOCOL);
    add32(&whole, type);
    add32(&whole, 0);
    add32(&whole, 0);
    add32(&whole, (uint32_t)len);
    buf_add(&whole, data, len);
    for (size_t at = 0, size; at < whole.len; at += size) {
        size = whole.len - at < CHUNK_MAX ? whole.len - at : CHUNK_MAX;
        add32(&agent->out, CLIENT_PORT);
        add32(&agent->out, (uint32_t)size);
        buf_add(&agent->out, whole.data + at, size);
    }
}

static void send_hello(struct vdagent *agent, bool ask)
{
    AUTO(buf_fini) struct buf data = { 0 };
    add32(&data, ask);
    add32(&data, 1u << CAP_BY_DEMAND | 1u << CAP_SELECTION);
    send_message(agent, ANNOUNCE_CAPABILITIES, data.data, data.len);
}

/* A clipboard message: which selection, if the guest tells them apart; a type; data. */
static void send_clipboard(struct vdagent *agent, enum message message, uint8_t selection,
                           uint32_t type, const struct buf *text)
{
    AUTO(buf_fini) struct buf data = { 0 };
    if (can(agent, CAP_SELECTION))
        add32(&data, selection);
    add32(&data, type);
    if (text)
        buf_add(&data, text->data, text->len);
    send_message(agent, message, data.data, data.len);
}

static void grab(struct vdagent *agent)
{
    if (!can(agent, CAP_BY_DEMAND) || !agent->ours.len || agent->ours_known)
        return;
    agent->ours_known = true;
    agent->wanted = agent->requested = false; /* the guest's is over */
    send_clipboard(agent, CLIPBOARD_GRAB, SELECTION_CLIPBOARD, TYPE_UTF8, NULL);
}

/* ---- from the guest ---- */

static void got_capabilities(struct vdagent *agent, const uint8_t *data, size_t len)
{
    if (len < 8)
        return;
    agent->caps = get32(data + 4);
    if (get32(data))
        send_hello(agent, false);
    grab(agent);
}

static void got_grab(struct vdagent *agent, const uint8_t *types, size_t len)
{
    buf_fini(&agent->ours);
    buf_fini(&agent->theirs);
    agent->wanted = agent->requested = false;
    for (size_t at = 0; at + 4 <= len; at += 4)
        agent->wanted |= get32(types + at) == TYPE_UTF8;
}

static void got_request(struct vdagent *agent, uint8_t selection, const uint8_t *data, size_t len)
{
    AUTO(buf_fini) struct buf lines = { 0 };
    const struct buf *text = &agent->ours;
    if (len < 4)
        return;
    if (selection != SELECTION_CLIPBOARD || get32(data) != TYPE_UTF8 || !text->len) {
        send_clipboard(agent, CLIPBOARD, selection, TYPE_NONE, NULL); /* it waits for an answer */
        return;
    }
    if (can(agent, CAP_CRLF)) {
        cut_text_to_crlf(text, &lines);
        text = &lines;
    }
    send_clipboard(agent, CLIPBOARD, selection, TYPE_UTF8, text);
}

static void got_text(struct vdagent *agent, const uint8_t *data, size_t len)
{
    if (!agent->requested)
        return;
    agent->requested = false;
    buf_fini(&agent->theirs);
    if (len > 4 && get32(data) == TYPE_UTF8 &&
        cut_text_from_utf8((const char *)data + 4, len - 4, &agent->theirs) && agent->theirs.len)
        agent->text(agent->arg, &agent->theirs);
}

static bool matters(uint32_t type)
{
    return type == ANNOUNCE_CAPABILITIES || (type >= CLIPBOARD_GRAB && type <= CLIPBOARD_RELEASE) ||
           type == CLIPBOARD;
}

static void got_message(struct vdagent *agent)
{
    uint32_t type = get32(agent->head.bytes + 4);
    const uint8_t *data = agent->message.data;
    size_t len = agent->message.len;
    if (len < get32(agent->head.bytes + 16))
        return; /* it was passed over */
    if (type == ANNOUNCE_CAPABILITIES) {
        got_capabilities(agent, data, len);
        return;
    }
    uint8_t selection = SELECTION_CLIPBOARD;
    if (can(agent, CAP_SELECTION)) {
        if (len < SELECTION_HEAD)
            return;
        selection = data[0];
        data += SELECTION_HEAD;
        len -= SELECTION_HEAD;
    }
    if (type == CLIPBOARD_REQUEST)
        got_request(agent, selection, data, len);
    else if (selection != SELECTION_CLIPBOARD)
        return; /* what is merely marked with the mouse stays in the guest */
    else if (type == CLIPBOARD_GRAB)
        got_grab(agent, data, len);
    else if (type == CLIPBOARD)
        got_text(agent, data, len);
    else
        agent->wanted = agent->requested = false;
}

static void message_end(struct vdagent *agent)
{
    if (matters(get32(agent->head.bytes + 4)))
        got_message(agent);
    agent->head.len = 0;
    buf_fini(&agent->message);
}

/* Bytes of a head; answers how many were taken. */
static size_t gather(struct head *head, unsigned want, const uint8_t *data, size_t len)
{
    size_t take = want - head->len < len ? want - head->len : len;
    memcpy(head->bytes + head->len, data, take);
    head->len += (unsigned)take;
    return take;
}

/* Bytes of messages, from chunks of our port. */
static void messages_input(struct vdagent *agent, const uint8_t *data, size_t len)
{
    while (len) {
        size_t take;
        if (agent->head.len < MESSAGE_HEAD) {
            take = gather(&agent->head, MESSAGE_HEAD, data, len);
            agent->message_left =
                agent->head.len == MESSAGE_HEAD ? get32(agent->head.bytes + 16) : 0;
        } else {
            take = agent->message_left < len ? agent->message_left : len;
            if (matters(get32(agent->head.bytes + 4)) &&
                get32(agent->head.bytes + 16) <= VDAGENT_TEXT_MAX + 2 * SELECTION_HEAD)
                buf_add(&agent->message, data, take);
            agent->message_left -= (uint32_t)take;
        }
        data += take;
        len -= take;
        if (agent->head.len == MESSAGE_HEAD && !agent->message_left)
            message_end(agent);
    }
}

void vdagent_input(struct vdagent *agent, const uint8_t *data, size_t len)
{
    while (len) {
        size_t take;
        if (agent->chunk_left) {
            take = agent->chunk_left < len ? agent->chunk_left : len;
            if (!agent->chunk_skipped)
                messages_input(agent, data, take);
            agent->chunk_left -= (uint32_t)take;
        } else {
            take = gather(&agent->chunk, CHUNK_HEAD, data, len);
            if (agent->chunk.len == CHUNK_HEAD) {
                agent->chunk_skipped = get32(agent->chunk.bytes) != CLIENT_PORT;
                agent->chunk_left = get32(agent->chunk.bytes + 4);
                agent->chunk.len = 0;
            }
        }
        data += take;
        len -= take;
    }
}

/* ---- the caller's side ---- */

void vdagent_opened(struct vdagent *agent)
{
    agent->caps = 0;
    agent->chunk.len = agent->head.len = 0;
    agent->chunk_left = agent->message_left = 0;
    agent->ours_known = agent->wanted = agent->requested = false;
    buf_fini(&agent->message);
    buf_fini(&agent->theirs);
    buf_fini(&agent->out);
    agent->out_taken = 0;
    send_hello(agent, true);
}

static bool same(const struct buf *a, const struct buf *b)
{
    return a->len == b->len && memcmp(a->data, b->data, a->len) == 0;
}

void vdagent_offer(struct vdagent *agent, const struct buf *text)
{
    if (!text->len || text->len > VDAGENT_TEXT_MAX || same(text, &agent->theirs))
        return;
    buf_fini(&agent->theirs);
    buf_fini(&agent->ours);
    buf_add(&agent->ours, text->data, text->len);
    agent->ours_known = false;
    grab(agent);
}

int vdagent_ask(struct vdagent *agent, uint64_t now_ms)
{
    if (!agent->wanted || agent->requested)
        return -1;
    if (now_ms < agent->next_ms)
        return (int)(agent->next_ms - now_ms);
    agent->wanted = false;
    agent->requested = true;
    agent->next_ms = now_ms + VDAGENT_REQUEST_MS;
    send_clipboard(agent, CLIPBOARD_REQUEST, SELECTION_CLIPBOARD, TYPE_UTF8, NULL);
    return -1;
}

size_t vdagent_output(const struct vdagent *agent, const uint8_t **data)
{
    *data = agent->out.data + agent->out_taken;
    return agent->out.len - agent->out_taken;
}

void vdagent_output_taken(struct vdagent *agent, size_t len)
{
    agent->out_taken += len;
    if (agent->out_taken * 2 < agent->out.len)
        return;
    agent->out.len -= agent->out_taken;
    memmove(agent->out.data, agent->out.data + agent->out_taken, agent->out.len);
    agent->out_taken = 0;
}

struct vdagent *vdagent_create(void (*text)(void *arg, const struct buf *text), void *arg)
{
    struct vdagent *agent = calloc(1, sizeof *agent);
    if (!agent)
        return NULL;
    agent->text = text;
    agent->arg = arg;
    return agent;
}

void vdagent_destroy(struct vdagent *agent)
{
    if (!agent)
        return;
    buf_fini(&agent->message);
    buf_fini(&agent->ours);
    buf_fini(&agent->theirs);
    buf_fini(&agent->out);
    free(agent);
}
