/* SPDX-License-Identifier: GPL-2.0-or-later */
/* UUIDs and MAC addresses, as text and as bytes. */
#include "base/ids.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Two hexadecimal digits for each x of `shape`, in order. */
static bool hex_parse(const char *text, const char *shape, uint8_t *out)
{
    size_t len = strlen(shape), digits = 0;
    if (strlen(text) != len)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (shape[i] != 'x' && text[i] != shape[i])
            return false;
        if (shape[i] != 'x')
            continue;
        if (!isxdigit((unsigned char)text[i]))
            return false;
        unsigned value = text[i] <= '9' ? (unsigned)text[i] - '0' : (text[i] | 32u) - 'a' + 10;
        uint8_t high = digits % 2 ? out[digits / 2] : 0;
        out[digits++ / 2] = (uint8_t)(high << 4 | value);
    }
    return true;
}

int uuid_make(uint8_t out[16], struct err *err)
{
    if (getrandom(out, 16, 0) != 16)
        return err_errno(err, errno, "no random numbers for a UUID");
    out[6] = (uint8_t)((out[6] & 0x0f) | 0x40);
    out[8] = (uint8_t)((out[8] & 0x3f) | 0x80);
    return 0;
}

int uuid_parse(const char *text, uint8_t out[16], struct err *err)
{
    uint8_t bytes[16];
    if (!hex_parse(text, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", bytes))
        return err_set(err, EINVAL,
                       "'%.40s' is no UUID; write it like 123e4567-e89b-12d3-a456-426614174000",
                       text);
    memcpy(out, bytes, sizeof bytes);
    return 0;
}

void uuid_print(const uint8_t uuid[16], char out[UUID_TEXT])
{
    char *at = out;
    for (unsigned i = 0; i < 16; i++)
        at += snprintf(at, 4, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid[i]);
}

int mac_make(uint8_t out[6], struct err *err)
{
    static const uint8_t prefix[3] = { 0x52, 0x54, 0x00 };
    memcpy(out, prefix, 3);
    if (getrandom(out + 3, 3, 0) != 3)
        return err_errno(err, errno, "no random numbers for a MAC address");
    return 0;
}

int mac_parse(const char *text, uint8_t out[6], struct err *err)
{
    uint8_t bytes[6];
    if (!hex_parse(text, "xx:xx:xx:xx:xx:xx", bytes))
        return err_set(err, EINVAL, "'%.40s' is no MAC address; write it like 52:54:00:12:34:56",
                       text);
    if (bytes[0] & 1)
        return err_set(err, EINVAL, "%s is a multicast address; take one whose first byte is even",
                       text);
    memcpy(out, bytes, sizeof bytes);
    return 0;
}

void mac_print(const uint8_t mac[6], char out[MAC_TEXT])
{
    snprintf(out, MAC_TEXT, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
             mac[5]);
}
