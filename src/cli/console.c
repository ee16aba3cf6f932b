/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A VM's serial console on this terminal. */
#include "cli/cli.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

enum { CTRL_A = 1 };

struct terminal {
    bool is, raw;
    struct termios mode;
};

static void terminal_raw(struct terminal *t)
{
    struct termios raw;
    t->is = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &t->mode) == 0;
    if (!t->is)
        return;
    raw = t->mode;
    cfmakeraw(&raw);
    t->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

static void terminal_restore(const struct terminal *t)
{
    if (t->raw)
        tcsetattr(STDIN_FILENO, TCSANOW, &t->mode);
}

/* Takes Ctrl-A and the key after it out of what was typed; false: detach. */
static bool filter(char *data, ssize_t *len, bool *armed)
{
    ssize_t out = 0;
    for (ssize_t i = 0; i < *len; i++) {
        if (*armed) {
            *armed = false;
            if (data[i] == 'd' || data[i] == 'D')
                return false;
            if (data[i] == CTRL_A)
                data[out++] = data[i];
        } else if (data[i] == CTRL_A) {
            *armed = true;
        } else {
            data[out++] = data[i];
        }
    }
    *len = out;
    return true;
}

static bool write_all(int fd, const char *data, ssize_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, (size_t)len);
        if (n <= 0)
            return false;
        data += n;
        len -= n;
    }
    return true;
}

static void join(int fd, int in, bool terminal)
{
    struct pollfd polls[2] = { { .fd = in, .events = POLLIN }, { .fd = fd, .events = POLLIN } };
    bool armed = false;
    char data[8192];
    while (poll(polls, 2, -1) > 0) {
        if (polls[0].revents) {
            ssize_t n = read(STDIN_FILENO, data, sizeof data);
            if (n <= 0)
                polls[0].fd = -1; /* a script's input is over: its output goes on */
            else if (terminal && !filter(data, &n, &armed))
                return;
            else if (n > 0 && !write_all(fd, data, n))
                return;
        }
        if (polls[1].revents) {
            ssize_t n = read(fd, data, sizeof data);
            if (n <= 0 || !write_all(STDOUT_FILENO, data, n))
                return;
        }
    }
}

int console_attach(struct cli *cli, const char *path, const char *name, bool only_look)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct terminal terminal = { 0 };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (strlen(path) >= sizeof addr.sun_path || fd < 0) {
        cli_say("the console's socket %s cannot be used", path);
        return CLI_FAILED;
    }
    strcpy(addr.sun_path, path);
    if (connect(fd, (struct sockaddr *)&addr, sizeof addr) < 0) {
        cli_say("the console of %s cannot be reached; is it running?", name);
        close(fd);
        return CLI_FAILED;
    }
    if (!only_look)
        terminal_raw(&terminal);
    if (terminal.is && !cli->quiet)
        fprintf(stderr, "Console of %s; Ctrl-A D detaches.\r\n", name);
    join(fd, only_look ? -1 : STDIN_FILENO, terminal.is);
    terminal_restore(&terminal);
    if (terminal.is && !cli->quiet)
        fputs("\n", stderr);
    close(fd);
    return CLI_OK;
}
