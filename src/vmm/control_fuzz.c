/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a client says, through a real socket pair and loop. */
#include "vmm/control.h"

#include <string.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct control_request *waiting;

static int do_echo(void *arg, struct control_request *request, const json_t *args, json_t **result,
                   struct err *err)
{
    *result = json_deep_copy(args);
    return 0;
}
static int do_later(void *arg, struct control_request *request, const json_t *args, json_t **result,
                    struct err *err)
{
    if (waiting)
        control_finish(waiting, NULL, NULL);
    waiting = request;
    return CONTROL_LATER;
}
static const char *const members[] = { "x", "y", NULL };
static const struct control_command commands[] = { { "echo", "", members, do_echo },
                                                   { "later", "", NULL, do_later },
                                                   { NULL, NULL, NULL, NULL } };

static void stop(void *arg) { loop_stop(arg, 0); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const char hello[] = "{\"hello\":{\"protocol\":1}}\n";
    AUTO(loop_destroy) struct loop *loop = NULL;
    AUTO(control_destroy) struct control *control = NULL;
    int pair[2];
    if (loop_create(&loop, NULL) < 0 || control_create(loop, commands, NULL, &control, NULL) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0 ||
        control_add_client(control, pair[0], NULL) < 0)
        abort();
    control_event(control, "one", NULL);
    /* An odd first byte: with the greeting, so that what follows is requests. */
    if (len && data[0] & 1 && send(pair[1], hello, sizeof hello - 1, MSG_NOSIGNAL) < 0)
        abort();
    for (size_t at = 1; at < len; at += 4096) {
        size_t n = len - at < 4096 ? len - at : 4096;
        if (send(pair[1], data + at, n, MSG_NOSIGNAL) < 0)
            break;
        loop_post(loop, stop, loop);
        loop_run(loop);
    }
    for (int i = 0; i < 4; i++) {
        struct loop_timer *timer;
        if (loop_timer_create(loop, stop, loop, &timer, NULL) < 0)
            abort();
        loop_timer_arm(timer, 0);
        loop_run(loop);
        loop_timer_destroy(timer);
    }
    close(pair[1]);
    waiting = NULL;
    return 0;
}
