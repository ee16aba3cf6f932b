/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The clipboard's protocol against a guest that is made of bytes, and texts in their several forms.
 */
#include "display/vdagent.h"

#include "base/checked.h"
#include "display/cut_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct vdagent *agent;
static struct buf got; /* the last text from the guest */
static unsigned texts;

static void got_text(void *arg, const struct buf *text)
{
    (void)arg;
    buf_fini(&got);
    buf_add(&got, text->data, text->len);
    texts++;
}

static int setup(void **state)
{
    agent = vdagent_create(got_text, NULL);
    texts = 0;
    vdagent_opened(agent);
    return agent ? 0 : -1;
}

static int teardown(void **state)
{
    vdagent_destroy(agent);
    buf_fini(&got);
    return 0;
}

/* ---- the guest ---- */

static void add32(struct buf *out, uint32_t value) { buf_add(out, &value, 4); }

/* A message with these words and bytes, in chunks of `chunk` bytes, given in pieces of `piece`. */
static void say_in(size_t chunk, size_t piece, uint32_t type, const uint32_t *words, size_t count,
                   const void *bytes, size_t len)
{
    AUTO(buf_fini) struct buf message = { 0 }, stream = { 0 };
    add32(&message, 1);
    add32(&message, type);
    add32(&message, 0);
    add32(&message, 0);
    add32(&message, (uint32_t)(4 * count + len));
    buf_add(&message, words, 4 * count);
    buf_add(&message, bytes, len);
    for (size_t at = 0, n; at < message.len; at += n) {
        n = message.len - at < chunk ? message.len - at : chunk;
        add32(&stream, 1);
        add32(&stream, (uint32_t)n);
        buf_add(&stream, message.data + at, n);
    }
    for (size_t at = 0, n; at < stream.len; at += n) {
        n = stream.len - at < piece ? stream.len - at : piece;
        vdagent_input(agent, stream.data + at, n);
    }
}

#define SAY(type, ...)                                    \
    say_in(2048, 4096, type, (uint32_t[]){ __VA_ARGS__ }, \
           ARRAY_LEN(((uint32_t[]){ __VA_ARGS__ })), NULL, 0)

static void say_text(const char *text)
{
    say_in(2048, 4096, 4, (uint32_t[]){ 0, 1 }, 2, text, strlen(text));
}

/* The next message from the host: its type, and its data in `out`. */
static uint32_t heard(struct buf *out)
{
    AUTO(buf_fini) struct buf message = { 0 };
    uint32_t head[5] = { 0 };
    buf_fini(out);
    do {
        const uint8_t *data;
        uint32_t chunk[2];
        size_t len = vdagent_output(agent, &data);
        assert_true(len >= sizeof chunk);
        memcpy(chunk, data, sizeof chunk);
        assert_int_equal(chunk[0], 1);
        assert_in_range(chunk[1], 1, 2048);
        assert_true(len >= sizeof chunk + chunk[1]);
        buf_add(&message, data + sizeof chunk, chunk[1]);
        vdagent_output_taken(agent, sizeof chunk + chunk[1]);
        if (message.len >= sizeof head)
            memcpy(head, message.data, sizeof head);
    } while (message.len < sizeof head + head[4]);
    assert_int_equal(message.len, sizeof head + head[4]);
    assert_int_equal(head[0], 1);
    buf_add(out, message.data + sizeof head, head[4]);
    return head[1];
}

static void hears(uint32_t type, const uint32_t *words, size_t count, const char *text)
{
    AUTO(buf_fini) struct buf data = { 0 };
    assert_int_equal(heard(&data), type);
    assert_int_equal(data.len, 4 * count + strlen(text));
    assert_memory_equal(data.data, words, 4 * count);
    assert_memory_equal(data.data + 4 * count, text, strlen(text));
}

#define HEARS(type, text, ...) \
    hears(type, (uint32_t[]){ __VA_ARGS__ }, ARRAY_LEN(((uint32_t[]){ __VA_ARGS__ })), text)

static void hears_nothing(void)
{
    const uint8_t *data;
    assert_int_equal(vdagent_output(agent, &data), 0);
}

static void offer(const char *text)
{
    struct buf buf = { .data = (uint8_t *)text, .len = strlen(text) };
    vdagent_offer(agent, &buf);
}

static void greet(uint32_t caps)
{
    HEARS(6, "", 1, 0x60);
    SAY(6, 1, caps);
    HEARS(6, "", 0, 0x60);
}

/* ---- */

static void gives_what_people_copy(void **state)
{
    offer("early"); /* before the agent is there */
    greet(0x60);
    HEARS(7, "", 0, 1);
    SAY(8, 0, 1);
    HEARS(4, "early", 0, 1);
    offer("two\nlines");
    HEARS(7, "", 0, 1);
    SAY(8, 0, 1);
    HEARS(4, "two\nlines", 0, 1);
    SAY(8, 0, 2); /* as a picture */
    HEARS(4, "", 0, 0);
    SAY(8, 1, 1); /* of what is marked */
    HEARS(4, "", 1, 0);
    vdagent_opened(agent); /* another program; it is told, too */
    greet(0x60);
    HEARS(7, "", 0, 1);
    SAY(7, 0, 2); /* a picture was copied in the guest: ours is over */
    SAY(8, 0, 1);
    HEARS(4, "", 0, 0);
    hears_nothing();
}

static void lines_end_as_the_guest_has_it(void **state)
{
    greet(0x260);
    offer("two\nlines\n");
    HEARS(7, "", 0, 1);
    SAY(8, 0, 1);
    HEARS(4, "two\r\nlines\r\n", 0, 1);
    SAY(7, 0, 1);
    assert_int_equal(vdagent_ask(agent, 0), -1);
    HEARS(8, "", 0, 1);
    say_text("a\r\nb");
    assert_int_equal(got.len, 3);
    assert_memory_equal(got.data, "a\nb", 3);
}

static void guests_without_selections_and_without_demand(void **state)
{
    greet(0x20);
    offer("text");
    HEARS(7, "", 1);
    SAY(8, 1);
    HEARS(4, "text", 1);
    vdagent_opened(agent);
    greet(0x8); /* nothing is known of such a clipboard */
    offer("other");
    hears_nothing();
}

static void takes_what_the_guest_copies(void **state)
{
    greet(0x60);
    SAY(7, 1, 1); /* marked: not copied */
    assert_int_equal(vdagent_ask(agent, 1000), -1);
    hears_nothing();
    say_text("not asked for");
    SAY(7, 0, 2, 1);
    assert_int_equal(vdagent_ask(agent, 1000), -1);
    HEARS(8, "", 0, 1);
    say_in(11, 3, 4, (uint32_t[]){ 0, 1 }, 2, "gr\xc3\xbc\xc3\x9f", 6);
    assert_int_equal(texts, 1);
    assert_int_equal(got.len, 6);
    offer("gr\xc3\xbc\xc3\x9f"); /* a viewer that says back what it has heard */
    hears_nothing();
    say_text("once more");
    assert_int_equal(texts, 1);

    /* Who copies all the time is asked now and then; the last text counts. */
    SAY(7, 0, 1);
    SAY(7, 0, 1);
    assert_int_equal(vdagent_ask(agent, 1010), VDAGENT_REQUEST_MS - 10);
    assert_int_equal(vdagent_ask(agent, 1000 + VDAGENT_REQUEST_MS), -1);
    HEARS(8, "", 0, 1);
    say_text("\xff");
    assert_int_equal(texts, 1); /* no UTF-8 */
    SAY(7, 0, 1);
    SAY(9, 0); /* let go */
    assert_int_equal(vdagent_ask(agent, 100000), -1);
    hears_nothing();
}

static void other_messages_are_passed_over(void **state)
{
    AUTO(free) char *large = malloc(VDAGENT_TEXT_MAX + 1);
    const uint32_t other_port[] = { 2, 8, 0x12345678, 0 };
    greet(0x60);
    memset(large, 'x', VDAGENT_TEXT_MAX + 1);
    say_in(2048, 4096, 2, NULL, 0, large, 100000);
    vdagent_input(agent, (const uint8_t *)other_port, sizeof other_port);
    SAY(7, 0, 1);
    vdagent_ask(agent, 0);
    HEARS(8, "", 0, 1);
    say_in(2048, 4096, 4, (uint32_t[]){ 0, 1 }, 2, large, VDAGENT_TEXT_MAX + 1);
    assert_int_equal(texts, 0); /* too long */
    say_in(2048, 4096, 4, (uint32_t[]){ 0, 1 }, 2, large, VDAGENT_TEXT_MAX);
    assert_int_equal(texts, 1);
    assert_int_equal(got.len, VDAGENT_TEXT_MAX);
}

static void who_does_not_read_gets_no_answers(void **state)
{
    const uint8_t *data;
    AUTO(free) char *large = malloc(VDAGENT_TEXT_MAX + 1);
    greet(0x60);
    memset(large, 'x', VDAGENT_TEXT_MAX);
    large[VDAGENT_TEXT_MAX] = 0;
    offer(large);
    for (unsigned i = 0; i < 20; i++)
        SAY(8, 0, 1);
    assert_in_range(vdagent_output(agent, &data), VDAGENT_OUTPUT_MAX, 2 * VDAGENT_OUTPUT_MAX);
}

static void texts_in_their_forms(void **state)
{
    static const struct {
        const char *text;
        size_t len;
        const char *good; /* NULL: refused */
    } cases[] = {
        { "a\r\n\rb\n", 6, "a\n\rb\n" },
        { "\r", 1, "\r" },
        { "", 0, "" },
        { "before\0after", 12, "before" },
        { "\xe2\x82\xac\xf0\x9f\x98\x80", 7, "\xe2\x82\xac\xf0\x9f\x98\x80" },
        { "\xe2\x82", 2, NULL },         /* cut off */
        { "\xc0\x80", 2, NULL },         /* longer than needed */
        { "\xe0\x9f\xbf", 3, NULL },     /* the same */
        { "\xed\xa0\x80", 3, NULL },     /* half of a pair */
        { "\xf4\x90\x80\x80", 4, NULL }, /* behind the last */
        { "\x80", 1, NULL },
        { "\xc3(", 2, NULL },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        AUTO(buf_fini) struct buf out = { 0 };
        assert_int_equal(cut_text_from_utf8(cases[i].text, cases[i].len, &out), !!cases[i].good);
        if (cases[i].good) {
            assert_int_equal(out.len, strlen(cases[i].good));
            assert_memory_equal(out.data, cases[i].good, out.len);
        }
    }
    AUTO(buf_fini) struct buf utf8 = { 0 }, latin1 = { 0 }, lines = { 0 };
    cut_text_from_latin1("\xe4\r\n\xff", 4, &utf8);
    assert_int_equal(utf8.len, 5);
    assert_memory_equal(utf8.data, "\xc3\xa4\n\xc3\xbf", 5);
    buf_add(&utf8, "\xe2\x82\xac", 3);
    cut_text_to_latin1(&utf8, &latin1);
    assert_int_equal(latin1.len, 4);
    assert_memory_equal(latin1.data, "\xe4\n\xff?", 4);
    cut_text_to_crlf(&latin1, &lines);
    assert_int_equal(lines.len, 5);
    assert_memory_equal(lines.data, "\xe4\r\n\xff?", 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(gives_what_people_copy, setup, teardown),
        cmocka_unit_test_setup_teardown(lines_end_as_the_guest_has_it, setup, teardown),
        cmocka_unit_test_setup_teardown(guests_without_selections_and_without_demand, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(takes_what_the_guest_copies, setup, teardown),
        cmocka_unit_test_setup_teardown(other_messages_are_passed_over, setup, teardown),
        cmocka_unit_test_setup_teardown(who_does_not_read_gets_no_answers, setup, teardown),
        cmocka_unit_test(texts_in_their_forms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
