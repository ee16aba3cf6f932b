/* SPDX-License-Identifier: GPL-2.0-or-later */
/* WebSocket frames (RFC 6455, section 5), as a server has them: what comes in is masked, what goes
 * out is not. Any thread. */
#ifndef DAEMON_WS_FRAME_H
#define DAEMON_WS_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ws_opcode { WS_MORE, WS_TEXT, WS_BINARY, WS_CLOSE = 8, WS_PING, WS_PONG };
enum { WS_HEADER_MAX = 10, WS_CONTROL_MAX = 125, WS_KEY_TEXT = 29 };
enum { WS_NORMAL = 1000, WS_GOING = 1001, WS_PROTOCOL = 1002, WS_TOO_SLOW = 1008 };

struct ws_parser {
    uint8_t header[14]; /* as far as it is there */
    unsigned have;
    bool in_payload, in_message;
    uint64_t left; /* of the payload */
    unsigned mask_at;
    uint8_t control[WS_CONTROL_MAX];
    unsigned control_len;
};

struct ws_calls {
    /* Of text and binary messages, in pieces as they come: who uses this has a stream of bytes. */
    void (*data)(void *arg, const uint8_t *data, size_t len);
    void (*control)(void *arg, enum ws_opcode opcode, const uint8_t *data, size_t len);
};

/* Unmasks `bytes` in place. Returns -1 where they break the protocol; nothing more may come then.
 */
int ws_parse(struct ws_parser *parser, uint8_t *bytes, size_t len, const struct ws_calls *calls,
             void *arg);
/* The header of a whole message; its length. */
size_t ws_header(uint8_t out[WS_HEADER_MAX], enum ws_opcode opcode, uint64_t len);
/* Sec-WebSocket-Accept for a Sec-WebSocket-Key (section 4.2.2); false: that is none. */
bool ws_accept(const char *key, char out[WS_KEY_TEXT]);

#endif
