/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Viewers of a stream: history, several at once, slow ones, input from all of them. */
#include "vmm/stream.h"

#include "base/text.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

enum { LIMIT_MS = 5000, PORT_ROOM = 64 };

struct rig {
    struct loop *loop;
    pthread_t thread;
    struct stream *stream;
    char path[64];
    /* the port */
    pthread_mutex_t lock;
    char typed[1 << 16];
    size_t typed_len, room; /* lock */
    unsigned goes;          /* lock: output_goes() calls */
};

static void *loop_thread(void *arg)
{
    loop_run(((struct rig *)arg)->loop);
    return NULL;
}

static size_t port_take(void *arg, const uint8_t *data, size_t len)
{
    struct rig *rig = arg;
    LOCKED(&rig->lock);
    size_t n = len < rig->room ? len : rig->room;
    memcpy(rig->typed + rig->typed_len, data, n);
    rig->typed_len += n;
    rig->room -= n;
    return n;
}

static void stream_make(void *arg)
{
    struct rig *rig = arg;
    assert_int_equal(
        stream_create_unix(rig->loop, "test", rig->path, STREAM_TAIL, &rig->stream, NULL), 0);
    stream_set_input(rig->stream, port_take, rig);
}

static void rig_open(struct rig *rig)
{
    memset(rig, 0, sizeof *rig);
    pthread_mutex_init(&rig->lock, NULL);
    snprintf(rig->path, sizeof rig->path, "/tmp/bedplate-stream-%d", (int)getpid());
    assert_int_equal(loop_create(&rig->loop, NULL), 0);
    assert_int_equal(pthread_create(&rig->thread, NULL, loop_thread, rig), 0);
    loop_call(rig->loop, stream_make, rig);
}

static void rig_stop(void *arg) { loop_stop(((struct rig *)arg)->loop, 0); }

static void rig_close(struct rig *rig)
{
    loop_post(rig->loop, rig_stop, rig);
    pthread_join(rig->thread, NULL);
    stream_destroy(rig->stream);
    loop_destroy(rig->loop);
    unlink(rig->path);
}

static int look(struct rig *rig)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    strcpy(addr.sun_path, rig->path);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    return fd;
}

/* Reads up to len bytes until they are there, or the other side closes. */
static size_t read_some(int fd, uint8_t *out, size_t len)
{
    size_t got = 0;
    while (got < len) {
        struct pollfd wait = { .fd = fd, .events = POLLIN };
        assert_int_equal(poll(&wait, 1, LIMIT_MS), 1);
        ssize_t n = read(fd, out + got, len - got);
        if (n <= 0)
            break;
        got += (size_t)n;
    }
    return got;
}

static void expect_text(int fd, const char *text)
{
    uint8_t data[256];
    assert_int_equal(read_some(fd, data, strlen(text)), strlen(text));
    assert_memory_equal(data, text, strlen(text));
}

static void say(struct rig *rig, const char *text)
{
    stream_write(rig->stream, text, strlen(text));
}

static void expect_typed(struct rig *rig, const char *text)
{
    for (unsigned i = 0; i < LIMIT_MS; i++) {
        {
            LOCKED(&rig->lock);
            if (rig->typed_len == strlen(text) && memcmp(rig->typed, text, strlen(text)) == 0)
                return;
        }
        usleep(1000);
    }
    fail_msg("%s was not typed", text);
}

static void room(struct rig *rig, size_t bytes)
{
    {
        LOCKED(&rig->lock);
        rig->room = bytes;
    }
    stream_more_room(rig->stream);
}

static void test_viewers(void **state)
{
    struct rig rig;
    rig_open(&rig);
    say(&rig, "before ");
    int first = look(&rig);
    expect_text(first, "before ");
    int second = look(&rig);
    expect_text(second, "before ");
    say(&rig, "both");
    expect_text(first, "both");
    expect_text(second, "both");

    room(&rig, 1000);
    assert_int_equal(write(second, "a", 1), 1);
    expect_typed(&rig, "a");
    assert_int_equal(write(first, "b", 1), 1);
    expect_typed(&rig, "ab");

    /* who closes his mouth goes on looking */
    shutdown(first, SHUT_WR);
    say(&rig, "still");
    expect_text(first, "still");
    expect_text(second, "still");
    close(second);
    say(&rig, " one");
    expect_text(first, " one");
    rig_close(&rig);
    expect_text(first, "");
    uint8_t byte;
    assert_int_equal(read(first, &byte, 1), 0);
    close(first);
}

/* Positions as text, so that a gap shows. */
static void flood(struct rig *rig, size_t from, size_t to)
{
    char line[17];
    for (size_t at = from; at < to; at += 16) {
        snprintf(line, sizeof line, "%015zu\n", at);
        stream_write(rig->stream, line, 16);
    }
}

static void test_slow(void **state)
{
    enum { MUCH = 3 * STREAM_HISTORY };
    struct rig rig;
    rig_open(&rig);
    int slow = look(&rig), quick = look(&rig);
    uint8_t *data = malloc(MUCH);
    assert_non_null(data);
    for (size_t at = 0; at < MUCH; at += 65536) {
        flood(&rig, at, at + 65536);
        assert_int_equal(read_some(quick, data, 65536), 65536);
        assert_int_equal(strtoull((char *)data, NULL, 10), at);
    }
    assert_int_equal(stream_lost(rig.stream), 0); /* somebody has seen it */
    /* the slow one misses something, and gets the last of it */
    size_t got = 0;
    while (got < 16 || strtoull((char *)data + got - 16, NULL, 10) != MUCH - 16)
        got += read_some(slow, data + got, 16);
    assert_in_range(got, STREAM_HISTORY, MUCH - 65536);

    /* a new one gets the tail and no more */
    int late = look(&rig);
    assert_int_equal(read_some(late, data, STREAM_TAIL), STREAM_TAIL);
    assert_int_equal(strtoull((char *)data, NULL, 10), MUCH - STREAM_TAIL);
    say(&rig, "!");
    expect_text(late, "!");

    struct buf history = { 0 };
    assert_int_equal(stream_history(rig.stream, 17, &history), MUCH + 1 - 17);
    assert_int_equal(history.len, 17);
    assert_int_equal(history.data[16], '!');
    buf_fini(&history);
    assert_int_equal(stream_history(rig.stream, 8u << 20, &history), MUCH + 1 - STREAM_HISTORY);
    assert_int_equal(history.len, STREAM_HISTORY);
    buf_fini(&history);
    free(data);
    close(slow);
    close(quick);
    close(late);
    rig_close(&rig);
}

static void output_goes(void *arg)
{
    struct rig *rig = arg;
    LOCKED(&rig->lock);
    rig->goes++;
}

static unsigned goes(struct rig *rig)
{
    LOCKED(&rig->lock);
    return rig->goes;
}

/* A port that asks whether there is room waits for a slow viewer, who then misses nothing. */
static void test_waits(void **state)
{
    enum { MUCH = 3 * STREAM_HISTORY, PIECE = 4096 };
    struct rig rig;
    rig_open(&rig);
    stream_set_output_room(rig.stream, output_goes, &rig);
    assert_true(stream_output_room(rig.stream)); /* without viewers it never waits */
    int slow = look(&rig);
    say(&rig, "hello");
    expect_text(slow, "hello");
    uint8_t data[PIECE];
    size_t written = 0, got = 0;
    while (written < MUCH && stream_output_room(rig.stream)) {
        flood(&rig, written, written + PIECE);
        written += PIECE;
    }
    assert_in_range(written, STREAM_HISTORY / 2, STREAM_HISTORY - PIECE);
    assert_int_equal(goes(&rig), 0);
    for (; got < written; got += PIECE) {
        assert_int_equal(read_some(slow, data, PIECE), PIECE);
        assert_int_equal(strtoull((char *)data, NULL, 10), got);
    }
    assert_int_equal(goes(&rig), 1);
    while (stream_output_room(rig.stream)) {
        flood(&rig, written, written + PIECE);
        written += PIECE;
    }
    close(slow); /* who goes away is waited for no longer */
    for (unsigned ms = 0; goes(&rig) < 2; ms++) {
        assert_true(ms < LIMIT_MS);
        poll(NULL, 0, 1);
    }
    assert_true(stream_output_room(rig.stream));
    rig_close(&rig);
}

static void test_nobody(void **state)
{
    struct rig rig;
    rig_open(&rig);
    flood(&rig, 0, STREAM_HISTORY + 160);
    assert_int_equal(stream_lost(rig.stream), 160);
    rig_close(&rig);
}

/* Input waits for room, also of a viewer that has gone; and gives way where viewers are too many.
 */
static void test_input_waits(void **state)
{
    struct rig rig;
    rig_open(&rig);
    int fd = look(&rig), typist = look(&rig);
    assert_int_equal(write(typist, "last words", 10), 10);
    close(typist);
    room(&rig, 4);
    expect_typed(&rig, "last");
    room(&rig, 100);
    expect_typed(&rig, "last words");

    int fds[STREAM_VIEWERS];
    room(&rig, 0);
    for (unsigned i = 1; i < STREAM_VIEWERS; i++)
        fds[i] = look(&rig);
    uint8_t byte;
    int refused = look(&rig);
    assert_int_equal(read_some(refused, &byte, 1), 0);
    close(refused);
    assert_int_equal(write(fds[5], "x", 1), 1);
    close(fds[5]);
    fds[5] = look(&rig);
    say(&rig, "now");
    expect_text(fds[5], "now");
    for (unsigned i = 1; i < STREAM_VIEWERS; i++)
        close(fds[i]);
    close(fd);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_viewers),     cmocka_unit_test(test_slow),
        cmocka_unit_test(test_waits),       cmocka_unit_test(test_nobody),
        cmocka_unit_test(test_input_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
