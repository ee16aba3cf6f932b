/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Names that machines carry: UUIDs (RFC 4122) and MAC addresses. Any thread. */
#ifndef BASE_IDS_H
#define BASE_IDS_H

#include "base/err.h"

#include <stdint.h>

enum { UUID_TEXT = 37, MAC_TEXT = 18 }; /* with their zeros */

/* Random ones (section 4.4); out in the order of the text form. */
int uuid_make(uint8_t out[16], struct err *err);
int uuid_parse(const char *text, uint8_t out[16], struct err *err);
void uuid_print(const uint8_t uuid[16], char out[UUID_TEXT]);

/* 52:54:00 and three random bytes. */
int mac_make(uint8_t out[6], struct err *err);
/* Refuses multicast addresses, which no card can have. */
int mac_parse(const char *text, uint8_t out[6], struct err *err);
void mac_print(const uint8_t mac[6], char out[MAC_TEXT]);

#endif
