/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bedplate-display: a VM's screen by VNC, in a process that holds its pixels and nothing else of
 * it.
 *
 * libvncserver parses what viewers send, so this process is confined before the first viewer: no
 * privileges, no files, no sockets but those it was given. The main thread listens to the VMM and
 * for viewers; libvncserver has two threads for each viewer, so that one that stops in the middle
 * of a message holds up nobody else (those over TLS have one more, see vnc_tls.c). The clipboard
 * has a thread of its own (vnc_clipboard.c).
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/confine.h"
#include "base/helper.h"
#include "base/log.h"
#include "base/text.h"
#include "devices/input.h"
#include "devices/screen.h"
#include "display/keys.h"
#include "display/vnc_clipboard.h"
#include "display/vnc_tls.h"
#include "display/wire.h"

#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <rfb/rfb.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MAX_VIEWERS = 32,
    VIEWER_WAIT_MS = 20000, /* then a viewer that does not read is dropped */
    DEFER_MS = 4,           /* areas that change together are sent together */
    MAX_FILES = 256,
    PASSWORD_MAX = 8, /* VNC's DES key: what is longer is not looked at */
};
enum { ENCODING_EXTENDED_KEYS = -258, MESSAGE_QEMU = 255 };

struct viewer {
    uint32_t wheel;    /* wheel "buttons" held */
    int width, height; /* that it was told last, or earlier */
};

struct settings {
    const char *name, *keymap, *password_file, *tls_cert, *tls_key, *tls_ca;
    pid_t parent;
};

static struct helper {
    rfbScreenInfoPtr server;
    const struct layout *layout; /* the guest's, for viewers that send keysyms */
    int listener;
    int agent; /* the guest agent's socket; -1: no clipboard */
    void *pixels;
    struct vnc_tls *tls;
    pthread_mutex_t lock; /* of viewers, and of sending to the VMM */
    unsigned viewers;
    char password[64];
    char *passwords[2];
    struct display_message in;
    size_t in_len;
} helper = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- to the VMM ---- */

/* helper.lock held. */
static void tell_locked(uint32_t kind, uint32_t a, uint32_t b, uint32_t c)
{
    struct display_message m = { kind, a, b, c, 0 };
    if (write_full(HELPER_FD, &m, sizeof m) < 0)
        _exit(0); /* the VMM is gone */
}

static void tell(uint32_t kind, uint32_t a, uint32_t b, uint32_t c)
{
    LOCKED(&helper.lock);
    tell_locked(kind, a, b, c);
}

/* ---- viewers; on their threads ---- */

static void viewer_gone(rfbClientPtr client)
{
    free(client->clientData);
    LOCKED(&helper.lock);
    tell_locked(DISPLAY_VIEWERS, --helper.viewers, 0, 0);
    vnc_clipboard_watch(helper.viewers);
}

static enum rfbNewClientAction viewer_new(rfbClientPtr client)
{
    struct viewer *viewer = calloc(1, sizeof *viewer);
    LOCKED(&helper.lock);
    if (!viewer || helper.viewers == MAX_VIEWERS) {
        free(viewer);
        return RFB_CLIENT_REFUSE;
    }
    viewer->width = helper.server->width;
    viewer->height = helper.server->height;
    client->clientData = viewer;
    client->clientGoneHook = viewer_gone;
    tell_locked(DISPLAY_VIEWERS, ++helper.viewers, 0, 0);
    vnc_clipboard_watch(true);
    return RFB_CLIENT_ACCEPT;
}

/* Before each update. A size that changes before a viewer has said that it wants to hear of sizes
 * would otherwise never be told. */
static void viewer_update(rfbClientPtr client)
{
    struct viewer *viewer = client->clientData;
    LOCKED(&client->updateMutex);
    if (!client->useNewFBSize ||
        (viewer->width == client->screen->width && viewer->height == client->screen->height))
        return;
    viewer->width = client->screen->width;
    viewer->height = client->screen->height;
    client->newFBSizePending = TRUE;
}

static void key_event(rfbBool down, rfbKeySym keysym, rfbClientPtr client)
{
    unsigned key = key_of_keysym(helper.layout, keysym);
    (void)client;
    if (key)
        tell(DISPLAY_KEY, key, !!down, 0);
}

static void pointer_event(int buttons, int x, int y, rfbClientPtr client)
{
    enum { WHEEL_UP = 8, WHEEL_DOWN = 16 };
    struct viewer *viewer = client->clientData;
    uint32_t held = (buttons & rfbButton1Mask ? INPUT_BUTTON_LEFT : 0) |
                    (buttons & rfbButton2Mask ? INPUT_BUTTON_MIDDLE : 0) |
                    (buttons & rfbButton3Mask ? INPUT_BUTTON_RIGHT : 0);
    uint32_t wheel = (uint32_t)buttons & (WHEEL_UP | WHEEL_DOWN), pressed = wheel & ~viewer->wheel;

    viewer->wheel = wheel;
    tell(DISPLAY_POINTER, x < 0 ? 0 : (uint32_t)x, y < 0 ? 0 : (uint32_t)y, held);
    if (pressed)
        tell(DISPLAY_WHEEL, !!(pressed & WHEEL_UP), 0, 0);
}

/* A viewer's wish (SetDesktopSize). The guest takes it or not: a size that comes is told to all. */
static int size_asked(int width, int height, int screens, struct rfbExtDesktopScreen *list,
                      rfbClientPtr client)
{
    (void)list, (void)client;
    if (width < 1 || height < 1 || width > SCREEN_MAX_WIDTH || height > SCREEN_MAX_HEIGHT ||
        screens != 1)
        return rfbExtDesktopSize_InvalidScreenLayout;
    tell(DISPLAY_ASK, (uint32_t)width, (uint32_t)height, 0);
    return rfbExtDesktopSize_Success;
}

/* ---- "QEMU Extended Key Event" of the RFB community specification ---- */

/* The server says that it knows them by an empty rectangle of that encoding. */
static rfbBool extended_keys_enable(rfbClientPtr client, void **data, int encoding)
{
    uint8_t update[16] = { rfbFramebufferUpdate, 0, 0, 1 };
    uint32_t be = htonl((uint32_t)ENCODING_EXTENDED_KEYS);
    (void)data;
    if (encoding != ENCODING_EXTENDED_KEYS)
        return FALSE;
    memcpy(update + 12, &be, 4);
    LOCKED(&client->sendMutex); /* not into the middle of an update */
    rfbWriteExact(client, (const char *)update, sizeof update);
    return TRUE;
}

static rfbBool extended_message(rfbClientPtr client, void *data,
                                const rfbClientToServerMsg *message)
{
    uint8_t rest[11]; /* sub-type, down (2), keysym (4), scan code (4) */
    (void)data;
    if (message->type != MESSAGE_QEMU)
        return FALSE;
    if (rfbReadExact(client, (char *)rest, 1) <= 0 || rest[0] != 0 ||
        rfbReadExact(client, (char *)rest + 1, sizeof rest - 1) <= 0) {
        rfbCloseClient(client); /* of unknown length: the stream cannot be followed further */
        return TRUE;
    }
    unsigned scancode = (unsigned)rest[7] << 24 | rest[8] << 16 | rest[9] << 8 | rest[10];
    unsigned key = key_of_scancode(scancode);
    if (key)
        tell(DISPLAY_KEY, key, rest[1] || rest[2], 0);
    return TRUE;
}

static int extended_encodings[] = { ENCODING_EXTENDED_KEYS, 0 };
static rfbProtocolExtension extended_keys = {
    .pseudoEncodings = extended_encodings,
    .enablePseudoEncoding = extended_keys_enable,
    .handleMessage = extended_message,
};

/* ---- from the VMM ---- */

static void resized(uint32_t width, uint32_t height)
{
    if (!width || !height || width > SCREEN_MAX_WIDTH || height > SCREEN_MAX_HEIGHT)
        _exit(1);
    rfbNewFramebuffer(helper.server, helper.pixels, (int)width, (int)height, 8, 3, 4);
    helper.server->serverFormat.redShift = 16;
    helper.server->serverFormat.greenShift = 8;
    helper.server->serverFormat.blueShift = 0;
}

static void changed(const struct display_message *m)
{
    uint32_t width = (uint32_t)helper.server->width, height = (uint32_t)helper.server->height;
    if (m->a < width && m->b < height && m->c <= width - m->a && m->d <= height - m->b)
        rfbMarkRectAsModified(helper.server, (int)m->a, (int)m->b, (int)(m->a + m->c),
                              (int)(m->b + m->d));
}

static void messages_read(void)
{
    enum { BUDGET = 256 };
    for (unsigned i = 0; i < BUDGET; i++) {
        ssize_t n = recv(HELPER_FD, (char *)&helper.in + helper.in_len,
                         sizeof helper.in - helper.in_len, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0)
            _exit(0);
        helper.in_len += (size_t)n;
        if (helper.in_len < sizeof helper.in)
            continue;
        helper.in_len = 0;
        if (helper.in.kind == DISPLAY_RESIZED)
            resized(helper.in.a, helper.in.b);
        else if (helper.in.kind == DISPLAY_CHANGED)
            changed(&helper.in);
    }
}

/* ---- the loop ---- */

/*
 * libvncserver looks whether a viewer begins with a WebSocket's handshake before it greets, and on
 * this thread waits for ever for the fourth byte of one who has sent fewer. So it greets a socket
 * on which nobody speaks, and the viewer's takes that one's place. Takes fd.
 */
static rfbClientPtr viewer_greet(int fd)
{
    AUTO(fd_close) int viewer_fd = fd, silent = -1;
    char greeting[sz_rfbProtocolVersionMsg];
    int pair[2], on = 1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return NULL;
    silent = pair[1];
    rfbClientPtr viewer = rfbNewClient(helper.server, pair[0]); /* takes it, on failure, too */
    if (!viewer || read_full(silent, greeting, sizeof greeting) < 0)
        return viewer;
    setsockopt(viewer_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* as it does; not for unix */
    fcntl(viewer_fd, F_SETFL, fcntl(viewer_fd, F_GETFL) | O_NONBLOCK);
    if (write_full(viewer_fd, greeting, sizeof greeting) < 0 ||
        dup3(viewer_fd, pair[0], O_CLOEXEC) < 0)
        shutdown(pair[0], SHUT_RDWR); /* who is gone already is noticed as others are */
    return viewer;
}

static void viewer_accept(void)
{
    struct err err;
    int fd = accept4(helper.listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (helper.tls && vnc_tls_accept(helper.tls, fd, &fd, &err) < 0) {
        log_info("display: a viewer was turned away: %s", err.text);
        return;
    }
    rfbClientPtr viewer = viewer_greet(fd);
    if (viewer && !viewer->onHold)
        rfbStartOnHoldClient(viewer);
}

static void helper_round(void)
{
    struct pollfd polls[2] = {
        { .fd = HELPER_FD, .events = POLLIN },
        { .fd = helper.listener, .events = POLLIN },
    };
    poll(polls, ARRAY_LEN(polls), -1);
    if (polls[0].revents)
        messages_read();
    if (polls[1].revents & POLLIN)
        viewer_accept();
}

/* ---- start ---- */

static int setup_receive(struct err *err)
{
    struct display_message m;
    int fds[DISPLAY_FDS_MAX];
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof fds)];
    } control;
    struct iovec iov = { &m, sizeof m };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control
    };
    if (recvmsg(HELPER_FD, &msg, MSG_CMSG_CLOEXEC | MSG_WAITALL) != sizeof m ||
        m.kind != DISPLAY_SETUP || msg.msg_controllen < CMSG_LEN((2 + !!m.d) * sizeof *fds))
        return err_set(err, EPROTO, "the VMM sent no set-up");
    memcpy(fds, CMSG_DATA(&control.head), (2 + !!m.d) * sizeof *fds);
    helper.listener = fds[1];
    helper.agent = m.d ? fds[2] : -1;
    helper.pixels = mmap(NULL, SCREEN_BYTES, PROT_READ, MAP_SHARED, fds[0], 0);
    close(fds[0]);
    if (helper.pixels == MAP_FAILED)
        return err_errno(err, errno, "cannot map the screen");
    helper.in = m;
    return 0;
}

static int password_read(const char *path, struct err *err)
{
    AUTO(buf_fini) struct buf text = { 0 };
    int r = file_read(path, sizeof helper.password - 1, &text, err);
    if (r < 0)
        return r;
    size_t len = strcspn((const char *)text.data, "\r\n");
    len = len < text.len ? len : text.len;
    if (!len)
        return err_set(err, EINVAL, "%s holds no password in its first line", path);
    if (len > PASSWORD_MAX)
        return err_set(err, EINVAL,
                       "the password in %s is longer than %d characters, which is all that VNC "
                       "compares; make it shorter, or use tls-ca=",
                       path, PASSWORD_MAX);
    memcpy(helper.password, text.data, len);
    explicit_bzero(text.data, text.len);
    helper.passwords[0] = helper.password;
    return 0;
}

static void quiet(const char *format, ...) { (void)format; }

static int server_start(const struct settings *settings, struct err *err)
{
    int no_args = 0;
    rfbLog = rfbErr = quiet;
    rfbScreenInfoPtr server =
        rfbGetScreen(&no_args, NULL, (int)helper.in.a, (int)helper.in.b, 8, 3, 4);
    if (!server)
        return err_set(err, ENOMEM, "libvncserver does not start");
    helper.server = server;
    server->frameBuffer = helper.pixels;
    server->desktopName = settings->name ? settings->name : "Bedplate";
    server->alwaysShared = TRUE;
    server->autoPort = FALSE;
    server->port = server->ipv6port = -1;
    server->deferUpdateTime = DEFER_MS;
    server->maxClientWait = VIEWER_WAIT_MS;
    server->backgroundLoop = TRUE; /* threads for viewers; accepting them is ours */
    server->permitFileTransfer = FALSE;
    server->cursor = NULL; /* the guest draws its own */
    server->newClientHook = viewer_new;
    server->displayHook = viewer_update;
    server->kbdAddEvent = key_event;
    server->ptrAddEvent = pointer_event;
    if (helper.in.c)
        server->setDesktopSizeHook = size_asked;
    if (settings->password_file) {
        server->authPasswdData = helper.passwords;
        server->passwordCheck = rfbCheckPasswordByList;
    }
    rfbRegisterProtocolExtension(&extended_keys);
    resized(helper.in.a, helper.in.b);
    helper.in_len = 0;
    return 0;
}

/* clang-format off */
static const int allowed_calls[] = {
    SCMP_SYS(recvfrom), SCMP_SYS(recvmsg), SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(poll), SCMP_SYS(ppoll),
    SCMP_SYS(select), SCMP_SYS(pselect6), SCMP_SYS(accept), SCMP_SYS(accept4), SCMP_SYS(getsockname),
    SCMP_SYS(getpeername), SCMP_SYS(setsockopt), SCMP_SYS(getsockopt), SCMP_SYS(shutdown), SCMP_SYS(socketpair),
    SCMP_SYS(pipe), SCMP_SYS(pipe2), SCMP_SYS(fcntl), SCMP_SYS(dup3), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(sched_yield),
};
static const struct confine_call conditional_calls[] = {
    { SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD) },
};
/* clang-format on */

static int helper_confine(pid_t parent, char *summary, size_t len, struct err *err)
{
    const struct confine_plan plan = {
        .name = DISPLAY_HELPER,
        .threads = true,
        .parent = parent,
        .open_files = MAX_FILES,
        .calls = allowed_calls,
        .call_count = ARRAY_LEN(allowed_calls),
        .conditional = conditional_calls,
        .conditional_count = ARRAY_LEN(conditional_calls),
    };
    bool own_root;
    return confine(&plan, &own_root, summary, len, err);
}

static int settings_parse(int argc, char **argv, struct settings *out, struct err *err)
{
    static const struct option options[] = {
        { "parent", required_argument, NULL, 'p' },
        { "name", required_argument, NULL, 'n' },
        { "keymap", required_argument, NULL, 'm' },
        { "password-file", required_argument, NULL, 'w' },
        { "tls-cert", required_argument, NULL, 'c' },
        { "tls-key", required_argument, NULL, 'k' },
        { "tls-ca", required_argument, NULL, 'a' },
        { NULL, 0, NULL, 0 },
    };
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'p': out->parent = atoi(optarg); break;
        case 'n': out->name = optarg; break;
        case 'm': out->keymap = optarg; break;
        case 'w': out->password_file = optarg; break;
        case 'c': out->tls_cert = optarg; break;
        case 'k': out->tls_key = optarg; break;
        case 'a': out->tls_ca = optarg; break;
        default: return err_set(err, EINVAL, "unknown option");
        }
    }
    return optind < argc ? err_set(err, EINVAL, "unexpected '%s'", argv[optind]) : 0;
}

static int start(int argc, char **argv, char *summary, size_t len, struct err *err)
{
    struct settings settings = { 0 };
    int r = settings_parse(argc, argv, &settings, err);
    if (r == 0)
        r = setup_receive(err);
    helper.layout = settings.keymap ? layout_find(settings.keymap) : &layout_us;
    if (r == 0 && !helper.layout)
        r = err_set(err, EINVAL, "keymap '%s' is unknown", settings.keymap);
    if (r == 0 && settings.password_file)
        r = password_read(settings.password_file, err);
    if (r == 0 && settings.tls_cert)
        r = vnc_tls_create(settings.tls_cert, settings.tls_key, settings.tls_ca,
                           settings.password_file != NULL, &helper.tls, err);
    if (r == 0)
        r = server_start(&settings, err);
    if (r == 0 && helper.agent >= 0)
        r = vnc_clipboard_create(helper.agent, helper.server, err);
    if (r == 0)
        r = helper_confine(settings.parent, summary, len, err);
    return r == 0 ? vnc_clipboard_start(err) : r;
}

int main(int argc, char **argv)
{
    struct err err;
    char summary[256], hello[520];
    struct stat st;

    if (fstat(HELPER_FD, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        fprintf(stderr,
                DISPLAY_HELPER " is started by bedplate-vmm --display vnc=..., not by hand\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    int r = start(argc, argv, summary, sizeof summary, &err);
    snprintf(hello, sizeof hello, "%s%s\n", r < 0 ? "" : HELPER_HELLO, r < 0 ? err.text : summary);
    if (write_full(HELPER_FD, hello, strlen(hello)) < 0 || r < 0)
        return 1;
    for (;;)
        helper_round();
}
