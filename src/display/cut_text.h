/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Clipboard texts in the forms in which viewers and guests have them. Between them they are UTF-8
 * with lines ended by LF and without a NUL. Each function appends to `out`.
 */
#ifndef DISPLAY_CUT_TEXT_H
#define DISPLAY_CUT_TEXT_H

#include "base/text.h"

/* From outside bytes, up to the first NUL, with CRLF made LF; false: they are not UTF-8 (RFC 3629).
 */
bool cut_text_from_utf8(const char *text, size_t len, struct buf *out);
/* What a viewer without the extended clipboard sends and gets (RFB, 7.5.6): ISO 8859-1. */
void cut_text_from_latin1(const char *text, size_t len, struct buf *out);
/* With '?' for what it lacks. */
void cut_text_to_latin1(const struct buf *text, struct buf *out);
void cut_text_to_crlf(const struct buf *text, struct buf *out);

#endif
