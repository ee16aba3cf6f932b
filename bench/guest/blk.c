/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Block device reads with O_DIRECT, checked against the image made by mkdisk. */
#define _GNU_SOURCE
#include "bench.h"
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define SEQ (256u << 10)
#define RND 4096u
static int fd = -1;
static uint64_t size;
static uint64_t *buf;

static int blk_setup(void)
{
    const char *dev = getenv("BENCH_BLK");
    if (!dev || !*dev)
        dev = "/dev/vda";
    fd = open(dev, O_RDONLY | O_DIRECT);
    if (fd < 0)
        return SETUP_SKIP;
    size = (uint64_t)lseek(fd, 0, SEEK_END);
    if (size < SEQ || posix_memalign((void **)&buf, 4096, SEQ))
        return SETUP_SKIP;
    return SETUP_OK;
}

static void rd(uint64_t off, size_t len)
{
    if (pread(fd, buf, len, (off_t)off) != (ssize_t)len)
        bench_fail("read at %lu", (unsigned long)off);
    if (buf[0] != off || buf[len / 8 - 1] != off + len - 8)
        bench_fail("data at %lu", (unsigned long)off);
}

static void seq_run(uint64_t n)
{
    static uint64_t at;
    for (uint64_t i = 0; i < n; i++) {
        if (at + SEQ > size)
            at = 0;
        rd(at, SEQ);
        at += SEQ;
    }
}

static void rnd_run(uint64_t n)
{
    static uint64_t s = 1234567;
    for (uint64_t i = 0; i < n; i++)
        rd(rng_next(&s) % (size / RND) * RND, RND);
}

const struct bench blk_benches[] = {
    { "blk_seq", "MB/s", SEQ / 1e6, blk_setup, seq_run, NULL },
    { "blk_rand4k", "ops/s", 1, blk_setup, rnd_run, NULL },
    { 0 },
};
