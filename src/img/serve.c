/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * serve: an image as an NBD export.
 *
 * Everything that has a name is opened first; then the process locks itself down, since clients are
 * hostile: no files, no new sockets, no new processes. Without TLS only this host gets in. The
 * socket's file stays behind, out of reach by then; the next server on it takes its place.
 */
#include "img/img.h"

#include "base/checked.h"
#include "base/confine.h"
#include "base/log.h"
#include "base/text.h"
#include "block/nbd_server.h"
#include "block/nbd_wire.h"
#include "block/qcow2.h"
#include "img/tls.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { CONNECTIONS_MAX = 64, WORKERS = 8, SERVE_OPEN_FILES = 256, NAME_LEN_MAX = 255 };

struct serve_conn {
    struct serve *serve;
    int fd; /* -1: free; lock */
    pthread_t thread;
    bool over; /* lock: the thread is about to end */
};

struct serve {
    struct nbd_server *server;
    int listen_fd, signal_fd, wake[2]; /* wake: a connection ended */
    unsigned limit;
    bool persistent, had_client;
    pthread_mutex_t lock;
    struct serve_conn conns[CONNECTIONS_MAX];
};

/* ---- where to listen ---- */

static int listen_unix(const char *path, struct err *err)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct stat st;
    if (!*path || strlen(path) >= sizeof addr.sun_path)
        return err_set(err, EINVAL, "--socket: a path has 1 to %zu bytes",
                       sizeof addr.sun_path - 1);
    strcpy(addr.sun_path, path);
    AUTO(fd_close) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* What a killed server left; one that lives answers. */
    if (fd >= 0 && !lstat(path, &st) && S_ISSOCK(st.st_mode)) {
        if (!connect(fd, (struct sockaddr *)&addr, sizeof addr))
            return err_set(err, EADDRINUSE, "--socket %s: another server is there", path);
        if (errno == ECONNREFUSED)
            unlink(path);
    }
    mode_t mask = umask(0077);
    int r = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&addr, sizeof addr);
    int code = errno;
    umask(mask);
    if (r < 0 || listen(fd, CONNECTIONS_MAX) < 0)
        return err_errno(err, r < 0 ? code : errno, "--socket %s", path);
    return TAKE_FD(fd);
}

static int listen_tcp(const char *address, const char *port, bool tls, struct err *err)
{
    const struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV,
                                    .ai_socktype = SOCK_STREAM };
    struct addrinfo *found;
    uint64_t number;
    int r = number_parse(port, 1, 65535, &number, err);
    if (r < 0)
        return err_prefix(err, "--port");
    bool local = !strncmp(address, "127.", 4) || !strcmp(address, "::1");
    if (!local && !tls)
        return err_set(err, EINVAL,
                       "--bind: without TLS only 127.0.0.1 and ::1 can be had; add "
                       "--tls-certificates or --tls-psk");
    if (getaddrinfo(address, port, &hints, &found))
        return err_set(err, EINVAL, "--bind: '%s' is no address", address);
    AUTO(fd_close) int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    r = fd < 0 ? -1 : bind(fd, found->ai_addr, found->ai_addrlen);
    int code = errno;
    freeaddrinfo(found);
    if (r < 0 || listen(fd, CONNECTIONS_MAX) < 0)
        return err_errno(err, r < 0 ? code : errno, "cannot listen on %s port %s", address, port);
    return TAKE_FD(fd);
}

static int serve_listen(struct call *call, bool tls)
{
    const char *socket_path = call_flag(call, "socket"), *port = call_flag(call, "port");
    const char *address = call_flag(call, "bind");
    if (!socket_path == !port)
        return err_set(&call->err, EINVAL, "serve needs either --socket PATH or --port N");
    if (socket_path && address)
        return err_set(&call->err, EINVAL, "--bind goes with --port");
    return socket_path ? listen_unix(socket_path, &call->err)
                       : listen_tcp(address ? address : "127.0.0.1", port, tls, &call->err);
}

/* ---- lock-down ---- */

/* clang-format off */
static const int calls[] = {
    /* data of the image */
    SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(preadv2), SCMP_SYS(pwritev2),
    SCMP_SYS(fsync), SCMP_SYS(fdatasync), SCMP_SYS(fallocate), SCMP_SYS(ftruncate),
    SCMP_SYS(accept4), SCMP_SYS(setsockopt), SCMP_SYS(getsockopt), SCMP_SYS(getsockname), SCMP_SYS(getpeername),
    /* threads */
    SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(sched_getaffinity), SCMP_SYS(clock_nanosleep), SCMP_SYS(wait4),
};
static const struct confine_call conditional[] = {
    { SCMP_SYS(clone), SCMP_A0_64(SCMP_CMP_MASKED_EQ, 0x10000, 0x10000) }, /* CLONE_THREAD */
    { SCMP_SYS(prctl), SCMP_A0_64(SCMP_CMP_EQ, 15) }, /* PR_SET_NAME */
    { SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_EQ, 0x1277) }, /* BLKDISCARD */
    { SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_EQ, 0x127f) }, /* BLKZEROOUT */
    { SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_EQ, 0x80081272) }, /* BLKGETSIZE64 */
};
/* clang-format on */

static int serve_lock(struct err *err)
{
    const struct confine_plan plan = {
        .name = "bedplate-img",
        .threads = true,
        .open_files = SERVE_OPEN_FILES,
        .calls = calls,
        .call_count = ARRAY_LEN(calls),
        .conditional = conditional,
        .conditional_count = ARRAY_LEN(conditional),
    };
    char summary[64];
    bool own_root;
    int r = confine(&plan, &own_root, summary, sizeof summary, err);
    if (r == 0)
        log_info("serve: confined by %s", summary);
    return r;
}

/* ---- connections ---- */

static void *serve_client(void *arg)
{
    struct serve_conn *conn = arg;
    struct serve *serve = conn->serve;
    nbd_serve(serve->server, conn->fd);
    LOCKED(&serve->lock);
    conn->over = true;
    (void)!write(serve->wake[1], "", 1);
    return NULL;
}

static unsigned conns_reap(struct serve *serve)
{
    unsigned left = 0;
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
        struct serve_conn *conn = &serve->conns[i];
        pthread_mutex_lock(&serve->lock);
        bool over = conn->fd >= 0 && conn->over;
        left += conn->fd >= 0 && !over;
        pthread_mutex_unlock(&serve->lock);
        if (!over)
            continue;
        pthread_join(conn->thread, NULL);
        close(conn->fd);
        conn->fd = -1;
        conn->over = false;
    }
    return left;
}

static void serve_accept(struct serve *serve)
{
    int fd = accept4(serve->listen_fd, NULL, NULL, SOCK_CLOEXEC), on = 1;
    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    unsigned i = 0;
    while (i < serve->limit && serve->conns[i].fd >= 0)
        i++;
    if (i == serve->limit) {
        log_guest("serve: a client is turned away: there are %u connections", serve->limit);
        close(fd);
        return;
    }
    struct serve_conn *conn = &serve->conns[i];
    conn->fd = fd;
    if (pthread_create(&conn->thread, NULL, serve_client, conn)) {
        log_warning("serve: cannot start a thread");
        conn->fd = -1;
        close(fd);
        return;
    }
    serve->had_client = true;
}

static void serve_run(struct serve *serve)
{
    for (;;) {
        struct pollfd polls[] = { { .fd = serve->signal_fd, .events = POLLIN },
                                  { .fd = serve->wake[0], .events = POLLIN },
                                  { .fd = serve->listen_fd, .events = POLLIN } };
        char bytes[64];
        if (poll(polls, ARRAY_LEN(polls), -1) < 0)
            continue;
        if (polls[1].revents)
            (void)!read(serve->wake[0], bytes, sizeof bytes);
        unsigned left = conns_reap(serve);
        if (polls[0].revents || (!serve->persistent && serve->had_client && !left))
            break;
        if (polls[2].revents)
            serve_accept(serve);
    }
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        if (serve->conns[i].fd >= 0)
            shutdown(serve->conns[i].fd, SHUT_RD); /* what was asked for is still answered */
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        if (serve->conns[i].fd >= 0) {
            pthread_join(serve->conns[i].thread, NULL);
            close(serve->conns[i].fd);
        }
}

/* ---- bitmaps ---- */

struct shown {
    struct nbd_dirty list[NBD_DIRTY_MAX];
    unsigned count;
    char *names; /* what list's names point into */
};

static int shown_read(struct call *call, struct image *image, struct shown *out)
{
    const char *text = call_flag(call, "bitmap");
    if (!text)
        return 0;
    if (strcmp(image_format_name(image), "qcow2"))
        return err_set(&call->err, ENOTSUP, "--bitmap: only qcow2 images have bitmaps");
    if (!call_flag(call, "read-only"))
        return err_set(&call->err, EINVAL,
                       "--bitmap needs --read-only: the bits are shown as they are now");
    out->names = strdup(text);
    if (!out->names)
        return err_set(&call->err, ENOMEM, "out of memory");
    char *rest = out->names;
    for (char *name; (name = strsep(&rest, ","));) {
        struct bitmap_bits bits;
        if (out->count == NBD_DIRTY_MAX)
            return err_set(&call->err, EINVAL, "--bitmap: at most %d", NBD_DIRTY_MAX);
        int r = qcow2_bitmap_read(image, name, &bits, &call->err);
        if (r < 0)
            return err_prefix(&call->err, "%s", image_path(image));
        out->list[out->count++] =
            (struct nbd_dirty){ name, bits.data, bits.count, bits.granularity_bits };
    }
    return 0;
}

static void shown_fini(struct shown *bitmaps)
{
    for (unsigned i = 0; i < bitmaps->count; i++)
        free((void *)(uintptr_t)bitmaps->list[i].bits);
    free(bitmaps->names);
}
static void shown_fini_auto(struct shown *bitmaps) { shown_fini(bitmaps); }

/* ---- the command ---- */

static int serve_tls(struct call *call, struct nbd_server_options *options)
{
    const char *certificates = call_flag(call, "tls-certificates"),
               *psk = call_flag(call, "tls-psk");
    struct tls *tls;
    if (!certificates && !psk)
        return 0;
    if (certificates && psk)
        return err_set(&call->err, EINVAL, "give either --tls-certificates or --tls-psk");
    int r = tls_create(certificates, psk, &tls, &call->err);
    if (r < 0)
        return r;
    options->start_tls = tls_start;
    options->arg = tls;
    return 0;
}

static int serve_signals(struct serve *serve, struct err *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    serve->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    if (serve->signal_fd < 0 || pipe2(serve->wake, O_CLOEXEC) < 0)
        return err_errno(err, errno, "cannot wait for signals");
    return 0;
}

static int serve_image(struct call *call, struct serve *serve, struct image *image,
                       const struct shown *bitmaps)
{
    uint64_t workers = WORKERS;
    struct nbd_server_options options = {
        .image = image,
        .name = call_flag(call, "name"),
        .description = call_flag(call, "description"),
        .readonly = call_flag(call, "read-only"),
        .bitmaps = bitmaps->list,
        .bitmap_count = bitmaps->count,
    };
    int r = call_number(call, "parallel", 0, 64, &workers);
    if (r == 0 && options.name && strlen(options.name) > NAME_LEN_MAX)
        r = err_set(&call->err, EINVAL, "--name: at most %d bytes", NAME_LEN_MAX);
    if (r == 0)
        r = serve_tls(call, &options);
    if (r == 0)
        r = serve->listen_fd = serve_listen(call, options.start_tls);
    if (r >= 0)
        r = serve_signals(serve, &call->err);
    if (r == 0)
        r = serve_lock(&call->err);
    options.workers = (unsigned)workers;
    if (r == 0)
        r = nbd_server_create(&options, &serve->server, &call->err);
    if (r < 0)
        return r;
    if (!call_quiet(call)) {
        printf("serving %s\n", call->args[0]);
        fflush(stdout);
    }
    serve_run(serve);
    nbd_server_destroy(serve->server);
    return 0;
}

int img_serve(struct call *call)
{
    struct serve serve = { .listen_fd = -1,
                           .limit = 16,
                           .persistent = call_flag(call, "persistent") };
    AUTO(shown_fini) struct shown bitmaps = { 0 };
    struct image *image;
    uint64_t limit = serve.limit;
    int r = call_number(call, "connections", 1, CONNECTIONS_MAX, &limit);
    if (r < 0)
        return r;
    serve.limit = (unsigned)limit;
    pthread_mutex_init(&serve.lock, NULL);
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        serve.conns[i] = (struct serve_conn){ .serve = &serve, .fd = -1 };
    r = call_open(call, call->args[0], call_flag(call, "format"), !call_flag(call, "read-only"),
                  &image);
    if (r < 0)
        return r;
    r = shown_read(call, image, &bitmaps);
    if (r == 0)
        r = serve_image(call, &serve, image, &bitmaps);
    int flushed = r == 0 ? image_flush(image) : 0, closed = image_close(image);
    if (r == 0 && (flushed < 0 || closed < 0))
        r = err_errno(&call->err, flushed < 0 ? -flushed : -closed, "%s: cannot be closed properly",
                      call->args[0]);
    return r;
}
