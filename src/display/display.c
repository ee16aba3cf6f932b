/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The VMM's end of the display: the listening socket, the helper, changed areas to it, keys and
 * pointer from it.
 *
 * A helper that does not read gets one area that covers all it missed, so nothing piles up here.
 */
#include "display/display.h"

#include "base/checked.h"
#include "base/helper.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/text.h"
#include "devices/input.h"
#include "devices/key_queue.h"
#include "devices/screen.h"
#include "display/layouts.h"
#include "display/wire.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { START_MS = 10000, BACKLOG = 16, VNC_PORT = 5900 };

struct display {
    struct screen *screen; /* borrowed */
    struct input *input;   /* borrowed */
    struct key_queue *keys;
    int fd; /* owned; -1: the helper is gone */
    pid_t pid;
    struct loop_watch *watch;
    char address[160];
    unsigned viewers;
    struct display_message in; /* being received */
    size_t in_len;
    /* What could not be sent yet */
    bool resized;
    bool missed;
    uint32_t x0, y0, x1, y1;    /* covers all missed areas */
    struct display_message out; /* half sent: its rest goes first */
    size_t out_left;
};

/* ---- to the helper ---- */

static bool send_rest(struct display *display)
{
    while (display->out_left) {
        const char *rest = (const char *)&display->out + sizeof display->out - display->out_left;
        ssize_t n = send(display->fd, rest, display->out_left, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false; /* a helper that is gone is noticed by reading */
        display->out_left -= (size_t)n;
    }
    return true;
}

static bool send_message(struct display *display, uint32_t kind, uint32_t a, uint32_t b, uint32_t c,
                         uint32_t d)
{
    if (!send_rest(display))
        return false;
    display->out = (struct display_message){ kind, a, b, c, d };
    display->out_left = sizeof display->out;
    send_rest(display);
    return true; /* it goes, now or as the rest */
}

static void send_missed(struct display *display)
{
    if (display->resized && send_message(display, DISPLAY_RESIZED, screen_width(display->screen),
                                         screen_height(display->screen), 0, 0))
        display->resized = false;
    if (display->missed && !display->resized &&
        send_message(display, DISPLAY_CHANGED, display->x0, display->y0, display->x1 - display->x0,
                     display->y1 - display->y0))
        display->missed = false;
    bool waiting = display->out_left || display->resized || display->missed;
    loop_watch_events(display->watch, LOOP_READ | (waiting ? LOOP_WRITE : 0));
}

static void screen_resized(void *arg, unsigned width, unsigned height)
{
    struct display *display = arg;
    (void)width, (void)height; /* asked for when it is sent: only the last size counts */
    display->resized = true;
    display->missed = false;
    if (display->fd >= 0)
        send_missed(display);
}

static void screen_changed(void *arg, unsigned x, unsigned y, unsigned width, unsigned height)
{
    struct display *display = arg;
    if (display->fd < 0)
        return;
    if (!display->missed) {
        display->x0 = display->y0 = UINT32_MAX;
        display->x1 = display->y1 = 0;
    }
    display->missed = true;
    display->x0 = x < display->x0 ? x : display->x0;
    display->y0 = y < display->y0 ? y : display->y0;
    display->x1 = x + width > display->x1 ? x + width : display->x1;
    display->y1 = y + height > display->y1 ? y + height : display->y1;
    send_missed(display);
}

/* ---- from the helper ---- */

static void set_viewers(struct display *display, unsigned viewers)
{
    bool were = display->viewers, are = viewers;
    display->viewers = viewers;
    if (were != are)
        screen_watch(display->screen, are);
    if (were && !are && key_queue_is_empty(display->keys))
        input_release_all(display->input);
}

/* The last viewer may have left before its keys were typed. */
static void keys_typed(void *arg, bool taken)
{
    struct display *display = arg;
    (void)taken;
    if (!display->viewers)
        input_release_all(display->input);
}

/* More than anybody types: the guest has stopped to read. Nothing stays held for ever. */
static void keys_forget(struct display *display)
{
    log_info("display: the guest reads no keys; those that waited are dropped");
    key_queue_clear(display->keys);
    input_release_all(display->input);
}

static void key_arrived(struct display *display, unsigned code, bool down)
{
    if (code > INPUT_KEY_MAX)
        return;
    if (!key_queue_add(display->keys, code, down))
        keys_forget(display);
    key_queue_start(display->keys);
}

static void message_arrived(struct display *display, const struct display_message *m)
{
    if (m->kind != DISPLAY_VIEWERS)
        screen_stir(display->screen);
    switch (m->kind) {
    case DISPLAY_VIEWERS: set_viewers(display, m->a); break;
    case DISPLAY_KEY: key_arrived(display, m->a, m->b & 1); break;
    case DISPLAY_POINTER:
        input_pointer(display->input, m->a, m->b, screen_width(display->screen),
                      screen_height(display->screen), m->c & 7);
        break;
    case DISPLAY_WHEEL: input_wheel(display->input, m->a ? 1 : -1); break;
    case DISPLAY_ASK: screen_ask_size(display->screen, m->a, m->b); break;
    }
}

static void helper_lost(struct display *display)
{
    log_info("display: " DISPLAY_HELPER " has ended; the screen can no longer be looked at");
    loop_watch_destroy(TAKE(display->watch));
    close(display->fd);
    display->fd = -1;
    helper_end(&display->pid);
    set_viewers(display, 0);
}

static void helper_ready(void *arg, unsigned events)
{
    struct display *display = arg;
    enum { BUDGET = 256 };

    for (unsigned i = 0; (events & (LOOP_READ | LOOP_HANGUP)) && i < BUDGET; i++) {
        ssize_t n = recv(display->fd, (char *)&display->in + display->in_len,
                         sizeof display->in - display->in_len, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n <= 0) {
            helper_lost(display);
            return;
        }
        display->in_len += (size_t)n;
        if (display->in_len == sizeof display->in) {
            display->in_len = 0;
            message_arrived(display, &display->in);
        }
    }
    if (send_rest(display))
        send_missed(display);
}

/* ---- start ---- */

static int listen_unix(struct display *display, const char *path, int *out, struct err *err)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct stat st;
    if (strlen(path) >= sizeof addr.sun_path)
        return err_set(err, ENAMETOOLONG, "the socket's path %s is longer than %zu characters",
                       path, sizeof addr.sun_path - 1);
    strcpy(addr.sun_path, path);
    AUTO(fd_close) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_errno(err, errno, "cannot make a socket");
    /* What a killed VM left behind is taken over, a living one's is not. */
    if (stat(path, &st) == 0 && S_ISSOCK(st.st_mode)) {
        if (connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0)
            return err_set(err, EADDRINUSE, "another program listens on %s", path);
        unlink(path);
    }
    mode_t mask = umask(0177);
    int r = bind(fd, (struct sockaddr *)&addr, sizeof addr);
    umask(mask);
    if (r < 0 || listen(fd, BACKLOG) < 0)
        return err_errno(err, errno, "cannot listen on %s", path);
    snprintf(display->address, sizeof display->address, "unix:%s", path);
    *out = TAKE_FD(fd);
    return 0;
}

static int listen_tcp(struct display *display, const char *host, uint16_t port, int *out,
                      struct err *err)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } addr = { 0 };
    socklen_t len = sizeof addr;
    bool v6 = inet_pton(AF_INET6, host, &addr.v6.sin6_addr) == 1;
    if (v6) {
        addr.v6.sin6_family = AF_INET6;
        addr.v6.sin6_port = htons(port);
    } else {
        inet_pton(AF_INET, host, &addr.v4.sin_addr);
        addr.v4.sin_family = AF_INET;
        addr.v4.sin_port = htons(port);
    }
    AUTO(fd_close)
    int fd = socket(addr.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_errno(err, errno, "cannot make a socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
    if (bind(fd, &addr.any, v6 ? sizeof addr.v6 : sizeof addr.v4) < 0 || listen(fd, BACKLOG) < 0)
        return errno == EADDRINUSE
                   ? err_set(err, EADDRINUSE, "port %u of %s is taken; name another, or 0 for any",
                             port, host)
                   : err_errno(err, errno, "cannot listen on %s port %u", host, port);
    if (getsockname(fd, &addr.any, &len) == 0)
        port = ntohs(v6 ? addr.v6.sin6_port : addr.v4.sin_port);
    snprintf(display->address, sizeof display->address, v6 ? "[%s]:%u" : "%s:%u", host, port);
    *out = TAKE_FD(fd);
    return 0;
}

static bool is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0;
}

static int send_setup(struct display *display, int listener, const struct display_options *o,
                      struct err *err)
{
    bool clipboard = o->agent_fd >= 0;
    struct display_message m = { .kind = DISPLAY_SETUP,
                                 .a = screen_width(display->screen),
                                 .b = screen_height(display->screen),
                                 .c = o->resizable,
                                 .d = clipboard };
    int fds[DISPLAY_FDS_MAX] = { screen_fd(display->screen), listener, o->agent_fd };
    size_t len = (2 + clipboard) * sizeof *fds;
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof fds)];
    } control = { 0 };
    struct iovec iov = { &m, sizeof m };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_SPACE(len)
    };
    control.head.cmsg_len = CMSG_LEN(len);
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    memcpy(CMSG_DATA(&control.head), fds, len);
    return sendmsg(display->fd, &msg, MSG_NOSIGNAL) == sizeof m
               ? 0
               : err_errno(err, errno, "cannot talk to " DISPLAY_HELPER);
}

static int start_helper(struct display *display, const struct display_options *o, int listener,
                        struct err *err)
{
    const char *argv[16];
    unsigned n = 0;
    const struct {
        const char *option, *value;
    } given[] = { { "--name", o->name },
                  { "--keymap", o->keymap },
                  { "--password-file", o->password_file },
                  { "--tls-cert", o->tls_cert },
                  { "--tls-key", o->tls_key },
                  { "--tls-ca", o->tls_ca } };
    for (unsigned i = 0; i < ARRAY_LEN(given); i++)
        if (given[i].value) {
            argv[n++] = given[i].option;
            argv[n++] = given[i].value;
        }
    argv[n] = NULL;
    char confined[256];
    int r = helper_start(DISPLAY_HELPER, "display", argv, true, &display->fd, &display->pid, err);
    if (r == 0)
        r = send_setup(display, listener, o, err);
    if (r == 0)
        r = helper_wait(DISPLAY_HELPER, display->fd, START_MS, confined, sizeof confined, err);
    if (r == 0)
        log_info("display: the helper is confined by %s", confined);
    return r;
}

static int check_options(const struct display_options *o, struct err *err)
{
    struct in6_addr any;
    if (!o->unix_path && inet_pton(AF_INET, o->host, &any) != 1 &&
        inet_pton(AF_INET6, o->host, &any) != 1)
        return err_set(err, EINVAL, "\"%s\" is no IP address", o->host);
    if (o->keymap && !layout_find(o->keymap))
        return err_set(err, EINVAL, "keymap '%.60s' is unknown; there are " LAYOUT_NAMES,
                       o->keymap);
    if (!o->tls_cert != !o->tls_key)
        return err_set(err, EINVAL, "tls-cert= and tls-key= go together");
    if (o->tls_ca && !o->tls_cert)
        return err_set(err, EINVAL, "tls-ca= needs tls-cert= and tls-key=");
    if (!o->unix_path && !is_loopback(o->host) && !o->tls_cert)
        return err_set(err, EINVAL,
                       "whoever reaches %s could use the VM's screen and read its traffic; give "
                       "tls-cert= and tls-key=, or listen on 127.0.0.1",
                       o->host);
    if (!o->unix_path && !is_loopback(o->host) && !o->password_file && !o->tls_ca)
        return err_set(err, EINVAL,
                       "whoever reaches %s could use the VM's screen; give password-file= or "
                       "tls-ca=",
                       o->host);
    return 0;
}

int display_create(struct loop *loop, const struct display_options *options, struct screen *screen,
                   struct input *input, struct display **out, struct err *err)
{
    int r = check_options(options, err);
    if (r < 0)
        return r;
    AUTO(display_destroy) struct display *display = calloc(1, sizeof *display);
    AUTO(fd_close) int listener = -1;
    if (!display)
        return err_set(err, ENOMEM, "out of memory");
    display->fd = -1;
    display->screen = screen;
    display->input = input;
    r = options->unix_path ? listen_unix(display, options->unix_path, &listener, err)
                           : listen_tcp(display, options->host, options->port, &listener, err);
    if (r == 0)
        r = key_queue_create(loop, input, 0, keys_typed, display, &display->keys, err);
    if (r == 0)
        r = start_helper(display, options, listener, err);
    if (r == 0)
        r = loop_watch_create(loop, display->fd, LOOP_READ, helper_ready, display, &display->watch,
                              err);
    if (r < 0)
        return r;
    screen_set_sink(screen, &(struct screen_sink){ screen_resized, screen_changed, display });
    *out = TAKE(display);
    return 0;
}

void display_destroy(struct display *display)
{
    if (!display)
        return;
    screen_set_sink(display->screen, &(struct screen_sink){ 0 });
    screen_watch(display->screen, false);
    if (display->watch)
        loop_watch_destroy(display->watch);
    if (display->fd >= 0) {
        shutdown(display->fd, SHUT_RDWR);
        close(display->fd);
    }
    if (display->pid)
        helper_end(&display->pid);
    key_queue_destroy(display->keys);
    free(display);
}

const char *display_address(const struct display *display) { return display->address; }
unsigned display_viewers(const struct display *display) { return display->viewers; }
bool display_alive(const struct display *display) { return display->fd >= 0; }

/* ---- addresses ---- */

int display_address_parse(char *text, struct display_options *out, struct err *err)
{
    uint64_t number;
    if (strncmp(text, "unix:", 5) == 0) {
        out->unix_path = text + 5;
        return *out->unix_path ? 0 : err_set(err, EINVAL, "\"unix:\" needs a path");
    }
    char *colon = strrchr(text, ':');
    if (!colon)
        return err_set(err, EINVAL, "\"%s\" is neither unix:PATH nor ADDRESS:PORT nor :DISPLAY",
                       text);
    if (colon == text) {
        int r = number_parse(colon + 1, 0, UINT16_MAX - VNC_PORT, &number, err);
        out->host = "127.0.0.1";
        out->port = (uint16_t)(VNC_PORT + number);
        return r;
    }
    int r = number_parse(colon + 1, 0, UINT16_MAX, &number, err);
    if (r < 0)
        return r;
    *colon = 0;
    out->host = text;
    out->port = (uint16_t)number;
    if (*text == '[' && colon[-1] == ']') {
        colon[-1] = 0;
        out->host = text + 1;
    }
    return 0;
}
