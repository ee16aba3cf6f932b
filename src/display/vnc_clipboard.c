/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The clipboard: texts from viewers go to the guest's agent, and back.
 *
 * Viewers that know the extended clipboard (RFB community specification, "Extended Clipboard
 * Pseudo-Encoding") have UTF-8, others ISO 8859-1. libvncserver reads both kinds. It does not send
 * them: its functions would also write to viewers that have not said their password yet, and would
 * answer a viewer's request for the text in the middle of an update. So each text is provided at
 * once, whatever size the viewer would like to be asked about first.
 */
#include "display/vnc_clipboard.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/text.h"
#include "display/agent_wire.h"
#include "display/cut_text.h"
#include "display/vdagent.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

enum { PERTURB = 1 };

static struct clipboard {
    rfbScreenInfoPtr server;
    int fd;      /* the agent's socket */
    int wake[2]; /* pipe: there is something to do */
    atomic_bool watched;
    pthread_mutex_t lock;
    struct buf offered; /* lock; by viewers, empty: nothing new */
    /* The rest: the thread's */
    struct vdagent *agent;
    uint32_t session; /* 0: none yet */
    uint8_t in[sizeof(struct agent_frame) + AGENT_FRAME_MAX];
    size_t in_len;
    uint8_t out[sizeof(struct agent_frame) + AGENT_FRAME_MAX];
    size_t out_len, out_sent;
} clipboard = { .fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- from viewers; on their threads ---- */

static void clipboard_wake(void)
{
    /* A full pipe wakes, too. */
    if (write(clipboard.wake[1], "", 1) < 0)
        return;
}

static void offer(struct buf *take_text)
{
    {
        LOCKED(&clipboard.lock);
        buf_fini(&clipboard.offered);
        clipboard.offered = *take_text;
    }
    *take_text = (struct buf){ 0 };
    clipboard_wake();
}

static void viewer_cut_latin1(char *text, int len, rfbClientPtr client)
{
    struct buf utf8 = { 0 };
    (void)client;
    cut_text_from_latin1(text, len < 0 ? 0 : (size_t)len, &utf8);
    offer(&utf8);
}

static void viewer_cut_utf8(char *text, int len, rfbClientPtr client)
{
    struct buf utf8 = { 0 };
    (void)client;
    if (cut_text_from_utf8(text, len < 0 ? 0 : (size_t)len, &utf8))
        offer(&utf8);
    buf_fini(&utf8);
}

void vnc_clipboard_watch(bool on)
{
    atomic_store(&clipboard.watched, on);
    if (clipboard.fd >= 0)
        clipboard_wake();
}

/* ---- to viewers ---- */

/* A whole message for those that know the extended clipboard: provide, text. */
static void provide_make(const struct buf *text, struct buf *out)
{
    AUTO(buf_fini) struct buf lines = { 0 }, plain = { 0 };
    cut_text_to_crlf(text, &lines);
    buf_add(&lines, "", 1);
    uint32_t be = htonl((uint32_t)lines.len);
    buf_add(&plain, &be, sizeof be);
    buf_add(&plain, lines.data, lines.len);

    uLongf packed_len = compressBound(plain.len);
    AUTO(free) uint8_t *packed = malloc(packed_len);
    if (!packed || compress(packed, &packed_len, plain.data, plain.len) != Z_OK)
        return;
    uint32_t head[3] = { htonl((uint32_t)rfbServerCutText << 24),
                         htonl(-(uint32_t)(4 + packed_len)), /* negative: the extended form */
                         htonl(rfbExtendedClipboard_Provide | rfbExtendedClipboard_Text) };
    buf_add(out, head, sizeof head);
    buf_add(out, packed, packed_len);
}

static void cut_make(const struct buf *text, struct buf *out)
{
    AUTO(buf_fini) struct buf latin1 = { 0 };
    cut_text_to_latin1(text, &latin1);
    uint32_t head[2] = { htonl((uint32_t)rfbServerCutText << 24), htonl((uint32_t)latin1.len) };
    buf_add(out, head, sizeof head);
    buf_add(out, latin1.data, latin1.len);
}

static void viewer_send(rfbClientPtr client, const struct buf *plain, const struct buf *extended)
{
    if (client->state != RFB_NORMAL)
        return;
    LOCKED(&client->sendMutex); /* not into the middle of an update */
    const struct buf *message = client->enableExtendedClipboard ? extended : plain;
    if (message->len && rfbWriteExact(client, (const char *)message->data, (int)message->len) < 0)
        rfbCloseClient(client);
}

static void guest_text(void *arg, const struct buf *text)
{
    AUTO(buf_fini) struct buf plain = { 0 }, extended = { 0 };
    (void)arg;
    cut_make(text, &plain);
    provide_make(text, &extended);
    rfbClientIteratorPtr all = rfbGetClientIterator(clipboard.server);
    for (rfbClientPtr client; all && (client = rfbClientIteratorNext(all));)
        viewer_send(client, &plain, &extended);
    rfbReleaseClientIterator(all);
}

/* ---- the agent's socket ---- */

static void frame_arrived(const struct agent_frame *frame, const uint8_t *data)
{
    if (frame->session != clipboard.session) {
        clipboard.session = frame->session;
        vdagent_opened(clipboard.agent);
    }
    vdagent_input(clipboard.agent, data, frame->len);
}

/* One frame at most: there may be an answer to each. False: the VMM is gone. */
static bool frame_read(void)
{
    struct agent_frame frame;
    size_t want = sizeof frame;
    if (clipboard.in_len >= sizeof frame) {
        memcpy(&frame, clipboard.in, sizeof frame);
        want += frame.len;
    }
    ssize_t n =
        recv(clipboard.fd, clipboard.in + clipboard.in_len, want - clipboard.in_len, MSG_DONTWAIT);
    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    clipboard.in_len += (size_t)n;
    if (clipboard.in_len < sizeof frame)
        return true;
    memcpy(&frame, clipboard.in, sizeof frame);
    if (frame.len > AGENT_FRAME_MAX)
        return false;
    if (clipboard.in_len == sizeof frame + frame.len) {
        clipboard.in_len = 0;
        frame_arrived(&frame, clipboard.in + sizeof frame);
    }
    return true;
}

static bool output_waits(void)
{
    const uint8_t *data;
    return clipboard.out_sent < clipboard.out_len || vdagent_output(clipboard.agent, &data);
}

static void frame_write(void)
{
    const uint8_t *data;
    size_t len = vdagent_output(clipboard.agent, &data);
    if (clipboard.out_sent == clipboard.out_len && len) {
        len = len < AGENT_FRAME_MAX ? len : AGENT_FRAME_MAX;
        struct agent_frame frame = { clipboard.session, (uint32_t)len };
        memcpy(clipboard.out, &frame, sizeof frame);
        memcpy(clipboard.out + sizeof frame, data, len);
        vdagent_output_taken(clipboard.agent, len);
        clipboard.out_len = sizeof frame + len;
        clipboard.out_sent = 0;
    }
    ssize_t n = send(clipboard.fd, clipboard.out + clipboard.out_sent,
                     clipboard.out_len - clipboard.out_sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0)
        clipboard.out_sent += (size_t)n;
}

/* ---- the thread ---- */

static void offered_take(void)
{
    AUTO(buf_fini) struct buf text = { 0 };
    char drained[64];
    if (read(clipboard.wake[0], drained, sizeof drained) < 0)
        return;
    {
        LOCKED(&clipboard.lock);
        text = clipboard.offered;
        clipboard.offered = (struct buf){ 0 };
    }
    vdagent_offer(clipboard.agent, &text);
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void *clipboard_run(void *arg)
{
    const uint8_t *data;
    (void)arg;
    for (bool there = true; there;) {
        bool fed = vdagent_output(clipboard.agent, &data) <= VDAGENT_OUTPUT_MAX;
        int wait_ms = atomic_load(&clipboard.watched) ? vdagent_ask(clipboard.agent, now_ms()) : -1;
        struct pollfd polls[2] = {
            { .fd = clipboard.wake[0], .events = POLLIN },
            { .fd = clipboard.fd,
              .events = (short)((fed ? POLLIN : 0) | (output_waits() ? POLLOUT : 0)) },
        };
        poll(polls, ARRAY_LEN(polls), wait_ms);
        if (polls[0].revents)
            offered_take();
        if (polls[1].revents & POLLOUT)
            frame_write();
        if (polls[1].revents & (POLLIN | POLLHUP | POLLERR))
            there = frame_read();
    }
    return NULL;
}

int vnc_clipboard_create(int fd, rfbScreenInfoPtr server, struct err *err)
{
    clipboard.agent = vdagent_create(guest_text, NULL);
    if (!clipboard.agent || pipe2(clipboard.wake, O_CLOEXEC | O_NONBLOCK) < 0) {
        close(fd);
        return err_set(err, ENOMEM, "out of memory");
    }
    /* libvncserver hands on as much as a viewer says that it has packed, and not all need be there:
     * what malloc() then left in it is no UTF-8. */
    mallopt(M_PERTURB, PERTURB);
    clipboard.fd = fd;
    clipboard.server = server;
    server->setXCutText = viewer_cut_latin1;
    server->setXCutTextUTF8 = viewer_cut_utf8;
    return 0;
}

int vnc_clipboard_start(struct err *err)
{
    pthread_t thread;
    if (clipboard.fd < 0)
        return 0;
    int r = pthread_create(&thread, NULL, clipboard_run, NULL);
    if (r)
        return err_errno(err, r, "cannot start a thread");
    pthread_detach(thread);
    return 0;
}
