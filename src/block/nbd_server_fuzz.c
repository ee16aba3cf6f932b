/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hostile NBD clients: the input is all that a client sends, to a server of a small image in
 * memory (the first byte says whether it is read-only and has a bitmap). It ends, hangs nobody, and
 * a read-only image stays as it was.
 */
#include "base/checked.h"
#include "base/log.h"
#include "block/image.h"
#include "block/nbd_server.h"

#include <assert.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { IMAGE_SIZE = 256 << 10, FILL = 0x5a };

struct client { /* on its thread: sends the input, takes the answers */
    int fd;
    const uint8_t *data;
    size_t len;
};

static void *client_run(void *arg)
{
    struct client *client = arg;
    char answers[4096];
    for (bool open = true; open;) {
        struct pollfd poll_fd = { .fd = client->fd, .events = POLLIN };
        poll_fd.events = (short)(POLLIN | (client->len ? POLLOUT : 0));
        if (poll(&poll_fd, 1, -1) < 0)
            continue;
        if (poll_fd.revents & (POLLIN | POLLHUP))
            open = recv(client->fd, answers, sizeof answers, MSG_DONTWAIT) > 0;
        if (open && client->len && poll_fd.revents & POLLOUT) {
            ssize_t n = send(client->fd, client->data, client->len, MSG_DONTWAIT | MSG_NOSIGNAL);
            client->data += n > 0 ? n : 0;
            client->len -= n > 0 ? (size_t)n : n < 0 && errno != EAGAIN ? client->len : 0;
            if (!client->len)
                shutdown(client->fd, SHUT_WR);
        }
    }
    return NULL;
}

static struct image *image_make(bool readonly)
{
    const struct image_create create = { .path = "fuzz", .format = "raw", .size = IMAGE_SIZE };
    const struct image_options options = { .path = "fuzz", .format = "raw", .no_lock = true };
    static uint8_t fill[IMAGE_SIZE];
    struct store *store;
    struct image *image;
    struct err err;
    memset(fill, FILL, sizeof fill);
    int r = store_open_memory("", 0, 2 * IMAGE_SIZE, &store, &err);
    if (r == 0)
        r = image_create_store(&create, store, &err);
    if (r == 0)
        r = image_open_store(&options, store, &image, &err);
    if (r == 0 && readonly)
        r = image_write(image, fill, sizeof fill, 0);
    assert(r == 0);
    return image;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const uint8_t bits[8] = { 0x0f, 0, 1 };
    static const struct nbd_dirty bitmap = {
        .name = "bits", .bits = bits, .count = 64, .granularity_bits = 12
    };
    bool readonly = len && data[0] & 1;
    struct image *image = image_make(readonly);
    const struct nbd_server_options options = {
        .image = image,
        .name = "disk",
        .description = "a disk",
        .readonly = readonly,
        .bitmaps = &bitmap,
        .bitmap_count = len && data[0] & 2,
    };
    struct client client = { .data = data + !!len, .len = len - !!len };
    struct nbd_server *server;
    struct err err;
    pthread_t thread;
    int pair[2];
    log_set_level((enum log_level) - 1, (enum log_level) - 1);
    if (nbd_server_create(&options, &server, &err) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
        abort();
    client.fd = pair[1];
    if (!client.len)
        shutdown(pair[1], SHUT_WR);
    if (pthread_create(&thread, NULL, client_run, &client))
        abort();
    nbd_serve(server, pair[0]);
    pthread_join(thread, NULL);
    close(pair[0]);
    close(pair[1]);
    nbd_server_destroy(server);
    uint8_t sector[512];
    for (uint64_t at = 0; readonly && at < IMAGE_SIZE; at += sizeof sector) {
        assert(image_read(image, sector, sizeof sector, at) == 0);
        for (unsigned i = 0; i < sizeof sector; i++)
            assert(sector[i] == FILL);
    }
    image_close(image);
    return 0;
}
