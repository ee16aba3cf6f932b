/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How hard ZRLE compresses.
 *
 * libvncserver opens the compressor of a viewer's ZRLE stream with deflateInit at zlib's default
 * level and has no setting for it; the search for long matches is then half of what the helper does
 * while a screen scrolls. deflateInit is only used there (Tight and Zlib open theirs with
 * deflateInit2), and a program's own definition goes before that of a library it is linked with
 * (ELF, "Shared Object Dependencies": the executable is searched first).
 */
#include <zlib.h>

enum { ZRLE_LEVEL = 1, WINDOW_BITS = 15, MEMORY_LEVEL = 8 }; /* the last two as deflateInit has */

int deflateInit_(z_streamp stream, int level, const char *version, int size)
{
    (void)level;
    return deflateInit2_(stream, ZRLE_LEVEL, Z_DEFLATED, WINDOW_BITS, MEMORY_LEVEL,
                         Z_DEFAULT_STRATEGY, version, size);
}
