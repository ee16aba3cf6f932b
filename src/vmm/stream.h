/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A stream of bytes between a guest's port (serial, virtio console) and the outside: the terminal
 * or pipes of the process, a file, or a unix socket that several viewers connect to.
 *
 * The last STREAM_HISTORY bytes of output are kept. A viewer gets the tail of them first, then what
 * comes; all of them may type. Output never blocks a vCPU, nor one viewer another: who reads too
 * slowly misses the oldest output, and where nobody has read it the log says so. A port that can
 * wait asks stream_output_room() before it writes, and then nobody misses anything. Input is
 * offered to the port and kept (up to one read) while the port has no room.
 */
#ifndef VMM_STREAM_H
#define VMM_STREAM_H

#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    STREAM_HISTORY = 1 << 20,
    STREAM_TAIL = 64 << 10, /* of it, for a new viewer */
    STREAM_VIEWERS = 16,
};

struct buf;
struct stream;

/* Standard input and output. `in` is watched by the loop, `out` written by the thread; borrowed,
 * and never switched to O_NONBLOCK, since other processes share them. */
int stream_create(struct loop *loop, const char *name, int in, int out, struct stream **result,
                  struct err *err);
int stream_create_file(struct loop *loop, const char *name, const char *path,
                       struct stream **result, struct err *err);
/* tail: whoever connects first gets this much of the history, STREAM_TAIL or 0. */
int stream_create_unix(struct loop *loop, const char *name, const char *path, size_t tail,
                       struct stream **result, struct err *err);
/* Gives the rest of the output a second to go out. */
void stream_destroy(struct stream *stream);
DEFINE_AUTO(struct stream *, stream_destroy)

/* Any thread, locks may be held; never blocks. */
void stream_write(struct stream *stream, const void *data, size_t len);

/* On the loop: `input` takes up to len bytes and answers how many it took. */
void stream_set_input(struct stream *stream,
                      size_t (*input)(void *arg, const uint8_t *data, size_t len), void *arg);
/* On the loop: looks at all input first, changes it in place and answers how much is left of it.
 * From then on input is read although the port takes none, and lost beyond some KiB. */
void stream_set_filter(struct stream *stream,
                       size_t (*filter)(void *arg, uint8_t *data, size_t len), void *arg);
/* Any thread: shall more output come now? False: a viewer is half the history behind, and `go` will
 * be called on the loop when he has caught up. */
bool stream_output_room(struct stream *stream);
void stream_set_output_room(struct stream *stream, void (*go)(void *arg), void *arg);
/* Any thread: the port has room again. */
void stream_more_room(struct stream *stream);

/* Bytes that left the history before anybody had read them. */
uint64_t stream_lost(struct stream *stream);
/* Appends the last `most` bytes of output, as far as they are kept; answers how many came before
 * them. Any thread. */
uint64_t stream_history(struct stream *stream, size_t most, struct buf *out);

/* Listens on a socket file; what a dead process left there is replaced, a live one refused. Returns
 * the descriptor. */
int stream_listen(const char *path, struct err *err);

#endif
