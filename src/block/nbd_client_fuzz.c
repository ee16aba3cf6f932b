/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hostile answers to an NBD client: the input is what the peer sends while a read, a write, a
 * look at what is allocated and a flush are under way. Each of them ends, once, and nothing outside
 * its buffers changes.
 */
#include "base/checked.h"
#include "base/log.h"
#include "block/nbd_client.h"

#include <assert.h>
#include <semaphore.h>
#include <string.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { READ_LEN = 64, GUARD = 32, REQUESTS = 4, GUARD_BYTE = 0xa5 };

struct
try {
    struct nbd_request req;
    unsigned ends;
};

static sem_t all_ended;

static void ended(struct nbd_request *req, int result)
{
    struct try *try = CONTAINER_OF(req, struct try, req);
    try->ends++;
    assert(result <= 0);
    sem_post(&all_ended);
    if (!result && req->command == NBD_CMD_BLOCK_STATUS)
        assert(req->status_len && req->status_len <= req->len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static uint8_t memory[GUARD + READ_LEN + GUARD], source[READ_LEN];
    const struct nbd_export export = { .size = 1 << 20, .align = 1, .max_transfer = 1 << 20 };
    struct nbd_client *client;
    int pair[2];
    sem_init(&all_ended, 0, 0);
    memset(memory, GUARD_BYTE, sizeof memory);
    log_set_level((enum log_level) - 1, (enum log_level) - 1);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
        abort();

    /* Two pieces, so that a cut inside a chunk is met, too. */
    struct iovec in[2] = { { memory + GUARD, 10 }, { memory + GUARD + 10, READ_LEN - 10 } };
    struct iovec out = { source, sizeof source };
    struct try tries[REQUESTS] = {
        { .req = { .command = NBD_CMD_READ,
                   .offset = 512,
                   .len = READ_LEN,
                   .iov = in,
                   .iov_count = 2 } },
        { .req = { .command = NBD_CMD_WRITE, .len = READ_LEN, .iov = &out, .iov_count = 1 } },
        { .req = { .command = NBD_CMD_BLOCK_STATUS, .offset = 512, .len = 65536 } },
        { .req = { .command = NBD_CMD_FLUSH } },
    };
    struct err err;
    int r = nbd_client_create(pair[0], &export, "fuzz", &client, &err);
    assert(r == 0);
    for (unsigned i = 0; i < REQUESTS; i++) {
        tries[i].req.done = ended;
        nbd_submit(client, &tries[i].req);
    }
    for (size_t at = 0; at < len;) { /* until it hangs up on us */
        ssize_t n = send(pair[1], data + at, len - at, MSG_NOSIGNAL);
        if (n < 0)
            break;
        at += (size_t)n;
    }
    shutdown(pair[1], SHUT_WR);
    for (unsigned i = 0; i < REQUESTS; i++)
        sem_wait(&all_ended);
    nbd_client_close(client);
    for (unsigned i = 0; i < REQUESTS; i++)
        assert(tries[i].ends == 1);
    for (unsigned i = 0; i < GUARD; i++)
        assert(memory[i] == GUARD_BYTE && memory[GUARD + READ_LEN + i] == GUARD_BYTE);
    close(pair[1]);
    return 0;
}
