/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes and numbers as people write them, growing buffers, whole transfers. */
#include "base/text.h"

#include "base/checked.h"

#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

/* The shift of a size suffix, or -1. */
static int size_shift(char suffix)
{
    switch (toupper((unsigned char)suffix)) {
    case 'B': return 0;
    case 'K': return 10;
    case 'M': return 20;
    case 'G': return 30;
    case 'T': return 40;
    default: return -1;
    }
}

/* Reads the digits at the start of text: strtoull would take signs and white space too. */
static bool digits_parse(const char *text, unsigned base, uint64_t *out, const char **end)
{
    uint64_t n = 0;
    const char *p = text;
    for (; isxdigit((unsigned char)*p); p++) {
        unsigned char c = (unsigned char)*p;
        unsigned digit = (unsigned)(isdigit(c) ? c - '0' : tolower(c) - 'a' + 10);
        if (digit >= base)
            break;
        if (!mul_u64(n, base, &n) || !add_u64(n, digit, &n))
            return false;
    }
    if (p == text)
        return false;
    *out = n;
    *end = p;
    return true;
}

int size_parse(const char *text, uint64_t unit, uint64_t *out, struct err *err)
{
    uint64_t n;
    const char *end;
    if (!digits_parse(text, 10, &n, &end))
        return err_set(err, EINVAL, "'%s' is not a size; write it like 512M or 2G", text);
    if (*end) {
        int shift = size_shift(*end);
        if (shift < 0 || end[1])
            return err_set(err, EINVAL, "'%s' is not a size; write it like 512M or 2G", text);
        unit = 1ull << shift;
    }
    if (!mul_u64(n, unit, &n))
        return err_set(err, EINVAL, "'%s' is larger than 64 bits can count", text);
    *out = n;
    return 0;
}

const char *size_print(uint64_t bytes, char *buf, size_t len)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    unsigned i = 0;
    while (i + 1 < ARRAY_LEN(units) && bytes >> (10 * (i + 1)))
        i++;

    uint64_t whole = bytes >> (10 * i);
    /* The tenths, cut off and not rounded: 1023.99 MiB must not become 1024.0 MiB. */
    uint64_t rest = i ? (bytes >> (10 * (i - 1))) & 1023 : 0;
    unsigned tenths = (unsigned)(rest * 10 / 1024);
    if (tenths)
        snprintf(buf, len, "%" PRIu64 ".%u %s", whole, tenths, units[i]);
    else
        snprintf(buf, len, "%" PRIu64 " %s", whole, units[i]);
    return buf;
}

int number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *out, struct err *err)
{
    uint64_t n;
    const char *end;
    bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    if (!digits_parse(hex ? text + 2 : text, hex ? 16 : 10, &n, &end) || *end)
        return err_set(err, EINVAL, "'%s' is not a number", text);
    if (n < min || n > max)
        return err_set(err, EINVAL, "%s is not between %" PRIu64 " and %" PRIu64, text, min, max);
    *out = n;
    return 0;
}

void buf_fini(struct buf *buf)
{
    free(buf->data);
    *buf = (struct buf){ 0 };
}

/* Room for len more bytes and a NUL behind them. */
static void buf_reserve(struct buf *buf, size_t len)
{
    uint64_t need;
    if (!add_u64(buf->len, len, &need) || !add_u64(need, 1, &need))
        abort();
    if (need <= buf->room)
        return;
    size_t room = buf->room < 64 ? 64 : buf->room;
    while (room < need && room <= SIZE_MAX / 2)
        room *= 2;
    if (room < need)
        room = need;
    buf->data = realloc(buf->data, room);
    if (!buf->data)
        abort();
    buf->room = room;
}

void buf_add(struct buf *buf, const void *data, size_t len)
{
    buf_reserve(buf, len);
    if (len)
        memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    buf->data[buf->len] = 0;
}

void *buf_grow(struct buf *buf, size_t len)
{
    buf_reserve(buf, len);
    void *start = buf->data + buf->len;
    memset(start, 0, len + 1);
    buf->len += len;
    return start;
}

void buf_base64(struct buf *buf, const void *data, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *in = data;
    for (size_t i = 0; i < len; i += 3) {
        size_t rest = len - i;
        uint32_t bits =
            (uint32_t)in[i] << 16 | (rest > 1 ? in[i + 1] << 8 : 0) | (rest > 2 ? in[i + 2] : 0);
        char out[4] = { digits[bits >> 18], digits[bits >> 12 & 63],
                        rest > 1 ? digits[bits >> 6 & 63] : '=',
                        rest > 2 ? digits[bits & 63] : '=' };
        buf_add(buf, out, sizeof out);
    }
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int base64_parse(const char *text, size_t len, struct buf *out)
{
    if (len % 4)
        return -EINVAL;
    for (size_t i = 0; i < len; i += 4) {
        unsigned pad =
            i + 4 == len ? (text[i + 3] == '=') + (text[i + 3] == '=' && text[i + 2] == '=') : 0;
        uint32_t bits = 0;
        for (unsigned j = 0; j < 4; j++) {
            int digit = j < 4 - pad ? base64_digit(text[i + j]) : 0;
            if (digit < 0)
                return -EINVAL;
            bits = bits << 6 | (uint32_t)digit;
        }
        uint8_t bytes[3] = { (uint8_t)(bits >> 16), (uint8_t)(bits >> 8), (uint8_t)bits };
        buf_add(out, bytes, 3 - pad);
    }
    return 0;
}

void buf_printf(struct buf *buf, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (len < 0)
        abort();
    buf_reserve(buf, (size_t)len);
    va_start(args, fmt);
    vsnprintf((char *)buf->data + buf->len, (size_t)len + 1, fmt, args);
    va_end(args);
    buf->len += (size_t)len;
}

/* One step of a transfer: n is what read() or write() returned, at_end what its 0 means. */
static int moved(ssize_t n, size_t *done, int at_end)
{
    if (n == 0)
        return at_end;
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    *done += (size_t)n;
    return 0;
}

int read_full(int fd, void *data, size_t len)
{
    int r = 0;
    for (size_t done = 0; !r && done < len;)
        r = moved(read(fd, (char *)data + done, len - done), &done, -ENODATA);
    return r;
}

int write_full(int fd, const void *data, size_t len)
{
    int r = 0;
    for (size_t done = 0; !r && done < len;)
        r = moved(write(fd, (const char *)data + done, len - done), &done, -EIO);
    return r;
}

int pread_full(int fd, void *data, size_t len, off_t offset)
{
    int r = 0;
    for (size_t done = 0; !r && done < len;)
        r = moved(pread(fd, (char *)data + done, len - done, offset + (off_t)done), &done,
                  -ENODATA);
    return r;
}

int pwrite_full(int fd, const void *data, size_t len, off_t offset)
{
    int r = 0;
    for (size_t done = 0; !r && done < len;)
        r = moved(pwrite(fd, (const char *)data + done, len - done, offset + (off_t)done), &done,
                  -EIO);
    return r;
}

int file_read(const char *path, size_t max_len, struct buf *buf, struct err *err)
{
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, errno, "cannot open %s", path);

    /* Sizes of pipes and of files in /proc are not known, so read until the end. */
    AUTO(buf_fini) struct buf content = { 0 };
    for (;;) {
        buf_reserve(&content, 65536);
        ssize_t n = read(fd, content.data + content.len, content.room - content.len - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, errno, "cannot read %s", path);
        if (n == 0)
            break;
        content.len += (size_t)n;
        if (content.len > max_len)
            return err_set(err, EFBIG, "%s is larger than %zu bytes", path, max_len);
    }
    buf_add(buf, content.data, content.len);
    return 0;
}

bool memory_is_zero(const void *data, size_t len)
{
    const char *p = data;
    return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

int file_write(const char *path, const char *text)
{
    AUTO(fd_close) int fd = open(path, O_WRONLY | O_CLOEXEC);
    size_t len = strlen(text);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, text, len);
    return n < 0 ? -errno : (size_t)n < len ? -EIO : 0;
}
