/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Answers of a guest agent. The first byte says whether the guest synchronises as it should before
 * it sends the rest, and in pieces of what size it comes. Every question must end exactly once.
 */
#include "daemon/agent.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { QUESTIONS = 3, TURNS = 3 };

static struct {
    struct loop *loop;
    int listener;
    struct sockaddr_un addr;
} rig;

static void socket_remove(void) { unlink(rig.addr.sun_path); }

static void rig_open(void)
{
    rig.addr.sun_family = AF_UNIX;
    snprintf(rig.addr.sun_path, sizeof rig.addr.sun_path, "/tmp/agent-fuzz-%d", (int)getpid());
    unlink(rig.addr.sun_path);
    rig.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int r = bind(rig.listener, (struct sockaddr *)&rig.addr, sizeof rig.addr);
    assert(r == 0);
    r = atexit(socket_remove);
    assert(r == 0);
    r = listen(rig.listener, 16);
    assert(r == 0);
    r = loop_create(&rig.loop, NULL);
    assert(r == 0);
}

static void count(void *arg, const json_t *result, const struct err *err)
{
    assert(!result == !!err);
    ++*(unsigned *)arg;
}

static void turn_ends(void *arg) { loop_stop(arg, 0); }

/* Lets timers and sockets have their turn. */
static void turn(void)
{
    for (unsigned i = 0; i < TURNS; i++) {
        loop_post(rig.loop, turn_ends, rig.loop);
        loop_run(rig.loop);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct agent *agent;
    unsigned ended[QUESTIONS] = { 0 };
    if (!rig.loop)
        rig_open();
    if (!len)
        return 0;
    int r = agent_create(rig.loop, rig.addr.sun_path, &agent, NULL);
    assert(r == 0);
    for (unsigned i = 0; i < QUESTIONS; i++)
        agent_ask(agent, "guest-info", NULL, 1000, count, &ended[i]);
    turn();
    int fd = accept(rig.listener, NULL, NULL);
    if (data[0] & 1)
        agent_received(agent, (const uint8_t *)"\xff{\"return\": 1}\n", 15);
    size_t piece = 1 + (data[0] >> 1);
    for (size_t at = 1; at < len; at += piece) {
        agent_received(agent, data + at, piece < len - at ? piece : len - at);
        if (at % 64 < piece)
            turn();
    }
    agent_destroy(agent);
    for (unsigned i = 0; i < QUESTIONS; i++)
        assert(ended[i] == 1);
    if (fd >= 0)
        close(fd);
    while ((fd = accept(rig.listener, NULL, NULL)) >= 0)
        close(fd);
    return 0;
}
