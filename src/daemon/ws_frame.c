/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/ws_frame.h"

#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

enum { FIN = 0x80, RESERVED = 0x70, MASKED = 0x80 };

static unsigned length_bytes(const struct ws_parser *p)
{
    unsigned len = p->header[1] & 0x7f;
    return len == 127 ? 8 : len == 126 ? 2 : 0;
}

static const uint8_t *mask_of(const struct ws_parser *p) { return p->header + 2 + length_bytes(p); }

/* The first two bytes are there. */
static int begin_check(struct ws_parser *p)
{
    unsigned opcode = p->header[0] & 0xf, len = p->header[1] & 0x7f;
    bool control = opcode >= WS_CLOSE, fin = p->header[0] & FIN;
    if (p->header[0] & RESERVED || !(p->header[1] & MASKED))
        return -1;
    if (control)
        return opcode > WS_PONG || !fin || len > WS_CONTROL_MAX ? -1 : 0;
    return opcode > WS_BINARY || (opcode == WS_MORE) != p->in_message ? -1 : 0;
}

/* The whole header is there. */
static int header_over(struct ws_parser *p)
{
    uint64_t len = p->header[1] & 0x7f;
    unsigned more = length_bytes(p), opcode = p->header[0] & 0xf;
    if (more)
        len = 0;
    for (unsigned i = 0; i < more; i++)
        len = len << 8 | p->header[2 + i];
    if (len >> 63)
        return -1;
    if (opcode < WS_CLOSE)
        p->in_message = !(p->header[0] & FIN);
    p->left = len;
    p->mask_at = p->control_len = 0;
    p->in_payload = true;
    return 0;
}

static void payload_over(struct ws_parser *p, const struct ws_calls *calls, void *arg)
{
    unsigned opcode = p->header[0] & 0xf;
    p->in_payload = false;
    p->have = 0;
    if (opcode >= WS_CLOSE)
        calls->control(arg, (enum ws_opcode)opcode, p->control, p->control_len);
}

static void payload_take(struct ws_parser *p, uint8_t *bytes, size_t len,
                         const struct ws_calls *calls, void *arg)
{
    const uint8_t *mask = mask_of(p);
    for (size_t i = 0; i < len; i++)
        bytes[i] ^= mask[p->mask_at++ & 3];
    p->left -= len;
    if ((p->header[0] & 0xf) >= WS_CLOSE) {
        memcpy(p->control + p->control_len, bytes, len);
        p->control_len += (unsigned)len;
    } else if (len) {
        calls->data(arg, bytes, len);
    }
}

int ws_parse(struct ws_parser *p, uint8_t *bytes, size_t len, const struct ws_calls *calls,
             void *arg)
{
    for (size_t at = 0; at < len;) {
        if (!p->in_payload) {
            p->header[p->have++] = bytes[at++];
            if (p->have == 2 && begin_check(p) < 0)
                return -1;
            if (p->have < 2 || p->have < 2 + length_bytes(p) + 4)
                continue;
            if (header_over(p) < 0)
                return -1;
        } else {
            size_t n = len - at < p->left ? len - at : (size_t)p->left;
            payload_take(p, bytes + at, n, calls, arg);
            at += n;
        }
        if (p->in_payload && !p->left)
            payload_over(p, calls, arg);
    }
    return 0;
}

size_t ws_header(uint8_t out[WS_HEADER_MAX], enum ws_opcode opcode, uint64_t len)
{
    unsigned more = len < 126 ? 0 : len < 65536 ? 2 : 8;
    out[0] = (uint8_t)(FIN | opcode);
    out[1] = (uint8_t)(more == 8 ? 127 : more == 2 ? 126 : len);
    for (unsigned i = 0; i < more; i++)
        out[2 + i] = (uint8_t)(len >> 8 * (more - 1 - i));
    return 2 + more;
}

bool ws_accept(const char *key, char out[WS_KEY_TEXT])
{
    char text[64];
    unsigned char sum[SHA_DIGEST_LENGTH];
    if (!key || strlen(key) != 24) /* 16 bytes as base64 */
        return false;
    int len = snprintf(text, sizeof text, "%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    SHA1((const unsigned char *)text, (size_t)len, sum);
    EVP_EncodeBlock((unsigned char *)out, sum, sizeof sum);
    return true;
}
