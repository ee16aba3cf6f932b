/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packers in a free list, so that making one (some hundred KiB) is not paid for each block.
 *
 * Deflate is packed by ISA-L, some fifteen times as fast as zlib at a size that is 8 % larger on
 * programs and texts; who wants it smaller takes zstd. It is unpacked by zlib: what an image holds
 * may be hostile, and assembly is not where that should go.
 */
#include "block/codec.h"

#include "base/cleanup.h"

#include <errno.h>
#include <isa-l.h>
#include <stdint.h>
#include <zlib.h>
#include <zstd.h>

enum { WINDOW_BITS = 12 }; /* what qcow2's readers have; deflate without a header */

struct codec { /* each part made when first needed */
    struct codec *next;
    struct isal_zstream deflate;
    uint8_t *deflate_memory;
    z_stream inflate;
    bool has_inflate;
    ZSTD_CCtx *pack;
    ZSTD_DCtx *unpack;
};

struct codecs {
    bool zstd; /* fixed at create */
    pthread_mutex_t lock;
    struct codec *idle; /* lock */
};

static struct codec *codec_take(struct codecs *codecs)
{
    pthread_mutex_lock(&codecs->lock);
    struct codec *codec = codecs->idle;
    if (codec)
        codecs->idle = codec->next;
    pthread_mutex_unlock(&codecs->lock);
    return codec ? codec : calloc(1, sizeof *codec);
}

static void codec_put(struct codecs *codecs, struct codec *codec)
{
    LOCKED(&codecs->lock);
    codec->next = codecs->idle;
    codecs->idle = codec;
}

/* ---- zlib ---- */

static size_t zlib_pack(struct codec *codec, const void *in, size_t len, void *out, size_t room)
{
    if (!codec->deflate_memory && !(codec->deflate_memory = malloc(ISAL_DEF_LVL3_DEFAULT)))
        return 0;
    struct isal_zstream *z = &codec->deflate;
    isal_deflate_stateless_init(z);
    z->level = 3;
    z->level_buf = codec->deflate_memory;
    z->level_buf_size = ISAL_DEF_LVL3_DEFAULT;
    z->hist_bits = WINDOW_BITS;
    z->end_of_stream = 1;
    z->flush = NO_FLUSH;
    z->next_in = (uint8_t *)(uintptr_t)in;
    z->avail_in = (uint32_t)len;
    z->next_out = out;
    z->avail_out = (uint32_t)room;
    return isal_deflate_stateless(z) == COMP_OK ? z->total_out : 0;
}

static int zlib_unpack(struct codec *codec, const void *in, size_t in_len, void *out,
                       size_t out_len)
{
    z_stream *z = &codec->inflate;
    if (!codec->has_inflate && inflateInit2(z, -WINDOW_BITS))
        return -ENOMEM;
    codec->has_inflate = true;
    inflateReset(z);
    z->next_in = (Bytef *)(uintptr_t)in;
    z->avail_in = (uInt)in_len;
    z->next_out = out;
    z->avail_out = (uInt)out_len;
    int r = inflate(z, Z_FINISH);
    /* Bytes behind the stream belong to the next one. */
    return (r == Z_STREAM_END || r == Z_BUF_ERROR) && z->avail_out == 0 ? 0 : -EIO;
}

/* ---- zstd ---- */

static size_t zstd_pack(struct codec *codec, const void *in, size_t len, void *out, size_t room)
{
    if (!codec->pack && !(codec->pack = ZSTD_createCCtx()))
        return 0;
    size_t n = ZSTD_compressCCtx(codec->pack, out, room, in, len, ZSTD_CLEVEL_DEFAULT);
    return ZSTD_isError(n) ? 0 : n;
}

/* As a stream, since nothing says where it ends. */
static int zstd_unpack(struct codec *codec, const void *in, size_t in_len, void *out,
                       size_t out_len)
{
    if (!codec->unpack && !(codec->unpack = ZSTD_createDCtx()))
        return -ENOMEM;
    ZSTD_DCtx_reset(codec->unpack, ZSTD_reset_session_only);
    ZSTD_inBuffer src = { in, in_len, 0 };
    ZSTD_outBuffer dst = { out, out_len, 0 };
    while (dst.pos < dst.size) {
        size_t before = src.pos + dst.pos;
        size_t r = ZSTD_decompressStream(codec->unpack, &dst, &src);
        if (ZSTD_isError(r) || src.pos + dst.pos == before)
            break;
    }
    return dst.pos == dst.size ? 0 : -EIO;
}

/* ---- both ---- */

size_t codecs_pack(struct codecs *codecs, const void *in, size_t len, void *out, size_t room)
{
    struct codec *codec = codec_take(codecs);
    if (!codec)
        return 0;
    size_t n = (codecs->zstd ? zstd_pack : zlib_pack)(codec, in, len, out, room);
    codec_put(codecs, codec);
    return n;
}

int codecs_unpack(struct codecs *codecs, const void *in, size_t in_len, void *out, size_t out_len)
{
    struct codec *codec = codec_take(codecs);
    if (!codec)
        return -ENOMEM;
    int r = (codecs->zstd ? zstd_unpack : zlib_unpack)(codec, in, in_len, out, out_len);
    codec_put(codecs, codec);
    return r;
}

struct codecs *codecs_create(bool zstd)
{
    struct codecs *codecs = calloc(1, sizeof *codecs);
    if (!codecs)
        return NULL;
    codecs->zstd = zstd;
    pthread_mutex_init(&codecs->lock, NULL);
    return codecs;
}

void codecs_destroy(struct codecs *codecs)
{
    struct codec *codec;
    if (!codecs)
        return;
    while ((codec = codecs->idle)) {
        codecs->idle = codec->next;
        free(codec->deflate_memory);
        if (codec->has_inflate)
            inflateEnd(&codec->inflate);
        ZSTD_freeCCtx(codec->pack);
        ZSTD_freeDCtx(codec->unpack);
        free(codec);
    }
    pthread_mutex_destroy(&codecs->lock);
    free(codecs);
}
