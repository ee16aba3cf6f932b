/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The control protocol over socket pairs, with commands that belong to the test. */
#include "vmm/control.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static struct loop *loop;
static struct control *control;
static struct control_request *later;
static unsigned runs;
static int got_fd;

static int do_count(void *arg, struct control_request *request, const json_t *args, json_t **result,
                    struct err *err)
{
    runs++;
    *result = json_pack("{s:i}", "runs", (int)runs);
    return 0;
}
static int do_fail(void *arg, struct control_request *request, const json_t *args, json_t **result,
                   struct err *err)
{
    return err_set(err, ENOENT, "no such thing");
}
static int do_later(void *arg, struct control_request *request, const json_t *args, json_t **result,
                    struct err *err)
{
    later = request;
    return CONTROL_LATER;
}
static int do_fd(void *arg, struct control_request *request, const json_t *args, json_t **result,
                 struct err *err)
{
    got_fd = control_take_fd(request);
    return got_fd < 0 ? err_set(err, EBADF, "no descriptor") : 0;
}
static const char *const fd_members[] = { "number", NULL };
static const struct control_command commands[] = {
    { "count", "counts", NULL, do_count },
    { "fail", "fails", NULL, do_fail },
    { "later", "answers later", NULL, do_later },
    { "fd", "takes a descriptor", fd_members, do_fd },
    { NULL, NULL, NULL, NULL },
};

static void stop(void *arg) { loop_stop(loop, 0); }

/* Lets the loop see what is there: once for the descriptors, once more for what that posted. */
static void settle(void)
{
    struct loop_timer *timer;
    assert_int_equal(loop_timer_create(loop, stop, NULL, &timer, NULL), 0);
    loop_timer_arm(timer, monotonic_ns() + 5000000);
    loop_run(loop);
    loop_timer_destroy(timer);
}

static int client_new(void)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    assert_int_equal(control_add_client(control, pair[0], NULL), 0);
    return pair[1];
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* All there is to read, as one text. */
static const char *hear(int fd)
{
    static char text[1 << 20];
    settle();
    ssize_t n = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
    text[n > 0 ? n : 0] = 0;
    return text;
}

static int client_greeted(void)
{
    int fd = client_new();
    say(fd, "{\"hello\": {\"protocol\": 1}}\n");
    hear(fd);
    return fd;
}

static int begin(void **state)
{
    runs = 0;
    later = NULL;
    return loop_create(&loop, NULL) || control_create(loop, commands, NULL, &control, NULL);
}
static int end(void **state)
{
    control_destroy(control);
    loop_destroy(loop);
    return 0;
}

static void greeting(void **state)
{
    int fd = client_new();
    assert_non_null(strstr(hear(fd), "{\"bedplate-vmm\":{\"protocol\":1,"));
    say(fd, "{\"hello\":{\"protocol\":1}}\n{\"id\":1,\"do\":\"count\"}\n");
    assert_string_equal(hear(fd), "{\"hello\":{\"protocol\":1}}\n{\"id\":1,\"ok\":{\"runs\":1}}\n");
    close(fd);
}

static void no_greeting(void **state)
{
    int fd = client_new();
    hear(fd);
    say(fd, "{\"id\":1,\"do\":\"count\"}\n");
    assert_non_null(strstr(hear(fd), "EPROTO"));
    assert_int_equal(recv(fd, (char[1]){ 0 }, 1, 0), 0); /* closed */
    close(fd);
    fd = client_new();
    hear(fd);
    say(fd, "{\"hello\":{\"protocol\":2}}\n");
    assert_non_null(strstr(hear(fd), "EPROTONOSUPPORT"));
    assert_int_equal(runs, 0);
    close(fd);
}

static void mistakes(void **state)
{
    int fd = client_greeted();
    static const struct {
        const char *line, *answer;
    } cases[] = {
        { "nonsense\n", "\"id\":null,\"error\":{\"code\":\"EINVAL\"" },
        { "[]\n", "a message is a JSON object" },
        { "{\"do\":\"count\"}\n", "'id' must be" },
        { "{\"id\":1}\n", "'do' is missing" },
        { "{\"id\":1,\"do\":\"dance\"}\n", "ENOSYS" },
        { "{\"id\":1,\"do\":\"count\",\"x\":1}\n", "unknown member 'x'" },
        { "{\"id\":\"\",\"do\":\"count\"}\n", "1 to 128 bytes" },
        { "{\"id\":1,\"do\":\"fail\"}\n",
          "{\"id\":1,\"error\":{\"code\":\"ENOENT\",\"text\":\"no such thing\"}}" },
        { "{\"id\":1,\"do\":\"events\",\"after\":-1}\n", "'after'" },
        { "{\"id\":1,\"do\":\"outcome\"}\n", "'of' is missing" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        say(fd, cases[i].line);
        const char *heard = hear(fd);
        if (!strstr(heard, cases[i].answer))
            fail_msg("%s -> %s", cases[i].line, heard);
    }
    assert_int_equal(runs, 0);
    close(fd);
}

static void outcomes(void **state)
{
    int fd = client_greeted();
    say(fd, "{\"id\":\"a\",\"do\":\"later\"}\n");
    assert_string_equal(hear(fd), "");
    close(fd);
    settle(); /* the client is gone, its request is not */
    fd = client_greeted();
    say(fd, "{\"id\":1,\"do\":\"outcome\",\"of\":\"a\"}\n");
    assert_non_null(strstr(hear(fd), "\"state\":\"running\""));
    assert_non_null(later);
    control_finish(later, json_pack("{s:i}", "x", 5), NULL);
    say(fd, "{\"id\":1,\"do\":\"outcome\",\"of\":\"a\"}\n");
    assert_non_null(
        strstr(hear(fd), "\"state\":\"done\",\"reply\":{\"id\":\"a\",\"ok\":{\"x\":5}}"));
    say(fd, "{\"id\":\"a\",\"do\":\"count\"}\n");
    assert_non_null(strstr(hear(fd), "EEXIST"));
    assert_int_equal(runs, 0);
    say(fd, "{\"id\":2,\"do\":\"outcome\",\"of\":\"zz\"}\n");
    assert_non_null(strstr(hear(fd), "unknown"));
    close(fd);
}

/* The table is a ring; ids of long ago are free again. */
static void outcomes_are_forgotten(void **state)
{
    int fd = client_greeted();
    for (int i = 0; i < CONTROL_OUTCOMES + 1; i++) {
        char line[64];
        snprintf(line, sizeof line, "{\"id\":\"n%d\",\"do\":\"count\"}\n", i);
        say(fd, line);
    }
    hear(fd);
    assert_int_equal(runs, CONTROL_OUTCOMES + 1);
    say(fd, "{\"id\":\"n0\",\"do\":\"count\"}\n");
    assert_non_null(strstr(hear(fd), "\"ok\""));
    close(fd);
}

static void events(void **state)
{
    int a = client_greeted(), b = client_greeted();
    control_event(control, "first", json_pack("{s:i}", "x", 1));
    say(a, "{\"id\":1,\"do\":\"events\",\"after\":0}\n");
    const char *heard = hear(a);
    assert_non_null(
        strstr(heard, "{\"id\":1,\"ok\":{\"last\":1,\"oldest\":1,\"lost\":false}}\n{\"event\":1,"));
    assert_non_null(strstr(heard, "\"what\":\"first\",\"x\":1}"));
    control_event(control, "second", NULL);
    assert_non_null(strstr(hear(a), "{\"event\":2,"));
    assert_string_equal(hear(b), ""); /* does not follow */
    for (int i = 0; i < CONTROL_EVENTS; i++)
        control_event(control, "more", NULL);
    say(b, "{\"id\":1,\"do\":\"events\",\"after\":1}\n");
    heard = hear(b);
    assert_non_null(strstr(heard, "\"oldest\":3,\"lost\":true"));
    assert_null(strstr(heard, "{\"event\":2,"));
    assert_non_null(strstr(heard, "{\"event\":3,"));
    close(a);
    close(b);
}

static void descriptors(void **state)
{
    int fd = client_greeted();
    const char *line = "{\"id\":1,\"do\":\"fd\"}\n";
    int pipe_fds[2];
    assert_int_equal(pipe(pipe_fds), 0);
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } space = { 0 };
    struct iovec iov = { .iov_base = (void *)line, .iov_len = strlen(line) };
    struct msghdr msg = { .msg_iov = &iov,
                          .msg_iovlen = 1,
                          .msg_control = space.bytes,
                          .msg_controllen = sizeof space.bytes };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &pipe_fds[1], sizeof(int));
    assert_int_equal(sendmsg(fd, &msg, 0), strlen(line));
    assert_non_null(strstr(hear(fd), "\"ok\""));
    assert_int_equal(write(got_fd, "x", 1), 1);
    close(got_fd);
    say(fd, line);
    assert_non_null(strstr(hear(fd), "EBADF"));

    /* Descriptors that no request takes are a bounded burden. */
    iov.iov_base = (void *)"\n";
    iov.iov_len = 1;
    for (int i = 0; i <= CONTROL_MAX_FDS; i++)
        assert_int_equal(sendmsg(fd, &msg, 0), 1);
    settle();
    settle();
    assert_int_equal(recv(fd, (char[1]){ 0 }, 1, 0), 0);
    close(fd);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void hostile_clients(void **state)
{
    int fd = client_greeted();
    static char long_line[CONTROL_MAX_LINE + 8192];
    memset(long_line, 'x', sizeof long_line);
    for (size_t done = 0; done < sizeof long_line;) {
        ssize_t n =
            send(fd, long_line + done, sizeof long_line - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN)
            break;
        done += n > 0 ? (size_t)n : 0;
        settle();
    }
    settle();
    hear(fd);
    assert_int_equal(recv(fd, (char[1]){ 0 }, 1, 0), 0);
    close(fd);

    /* One that asks and never reads is dropped; others are served meanwhile. */
    int deaf = client_greeted(), other = client_greeted();
    char batch[8192] = "";
    for (int i = 0; i < 200; i++)
        strcat(batch, "{\"id\":1,\"do\":\"commands\"}\n");
    for (int i = 0; i < 400; i++) {
        if (send(deaf, batch, strlen(batch), MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EPIPE)
            break;
        settle();
    }
    assert_int_equal(send(deaf, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT), -1);
    assert_int_equal(errno, EPIPE);
    say(other, "{\"id\":1,\"do\":\"count\"}\n");
    assert_non_null(strstr(hear(other), "\"ok\""));
    close(deaf);
    close(other);

    int fds[CONTROL_MAX_CLIENTS];
    settle();
    for (int i = 0; i < CONTROL_MAX_CLIENTS; i++)
        fds[i] = client_new();
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(control_add_client(control, pair[0], NULL), -EBUSY);
    close(pair[1]);
    for (int i = 0; i < CONTROL_MAX_CLIENTS; i++)
        close(fds[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(greeting, begin, end),
        cmocka_unit_test_setup_teardown(no_greeting, begin, end),
        cmocka_unit_test_setup_teardown(mistakes, begin, end),
        cmocka_unit_test_setup_teardown(outcomes, begin, end),
        cmocka_unit_test_setup_teardown(outcomes_are_forgotten, begin, end),
        cmocka_unit_test_setup_teardown(events, begin, end),
        cmocka_unit_test_setup_teardown(descriptors, begin, end),
        cmocka_unit_test_setup_teardown(hostile_clients, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
