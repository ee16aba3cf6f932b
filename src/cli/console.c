/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A VM's serial console on this terminal.
 *
 * A serial line does not tell how large the terminal at its end is. Where a guest agent runs, a
 * process beside this one has it set the size, at the beginning and when it changes.
 */
#include "base/text.h"
#include "cli/cli.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { CTRL_A = 1, NOBODY = 9, SIZE_MS = 500, SIZE_MAX_MS = 4000, END_MS = 5000, POLL_MS = 50 };

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

/* True: by Ctrl-A D. */
static bool join(int fd, int in, bool terminal)
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
                return true;
            else if (n > 0 && write_full(fd, data, (size_t)n) < 0)
                return false;
        }
        if (polls[1].revents) {
            ssize_t n = read(fd, data, sizeof data);
            if (n <= 0 || write_full(STDOUT_FILENO, data, (size_t)n) < 0)
                return false;
        }
    }
    return false;
}

/* ---- the terminal's size ---- */

static bool agent_there(struct cli *cli, const char *path)
{
    AUTO(json_decref) json_t *vm = NULL;
    long status;
    return client_status(cli, "GET", path, NULL, &vm, &status) == CLI_OK && status == 200 &&
           json_is_true(json_object_get(json_object_get(vm, "now"), "agent"));
}

/* False: nobody in the guest has its end of the line open yet, and what is set would be lost. */
static bool size_set(struct cli *cli, const char *path, const struct winsize *size)
{
    static const char script[] = "[ \"$(stty -F /dev/ttyS0 size)\" != '0 0' ] || exit 9\n"
                                 "exec stty -F /dev/ttyS0 rows $1 cols $2";
    AUTO(json_decref) json_t *answer = NULL;
    char action[300];
    long status;
    snprintf(action, sizeof action, "%.280s/exec", path);
    json_t *words = json_pack("[s, s, s, s, o, o]", "/bin/sh", "-c", script, "sh",
                              json_sprintf("%u", size->ws_row), json_sprintf("%u", size->ws_col));
    return client_status(cli, "POST", action,
                         json_pack("{s:o, s:i}", "command", words, "timeout", 5), &answer,
                         &status) != CLI_OK ||
           json_integer_value(json_object_get(answer, "status")) != NOBODY;
}

/* Until it is killed, which also happens when its parent ends. A guest that cannot is asked once
 * for each size. */
static void size_tell(struct cli *cli, const char *path)
{
    struct winsize told = { 0 }, is;
    for (int ms = SIZE_MS;; poll(NULL, 0, ms)) {
        if (ioctl(STDIN_FILENO, TIOCGWINSZ, &is) < 0 || !is.ws_row || !is.ws_col)
            return;
        if ((is.ws_row == told.ws_row && is.ws_col == told.ws_col) || !agent_there(cli, path))
            continue;
        if (size_set(cli, path, &is))
            told = is;
        else if (ms < SIZE_MAX_MS)
            ms *= 2;
    }
}

/* 0: there is none. */
static pid_t size_teller(struct cli *cli, const char *name)
{
    AUTO(free) char *path = path_of("vms", name, NULL);
    pid_t parent = getpid(), pid = path ? fork() : -1;
    if (pid == 0) {
        int quiet = dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
        if (quiet >= 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent)
            size_tell(cli, path);
        _exit(0);
    }
    return pid > 0 ? pid : 0;
}

/* ---- attaching ---- */

static int console_open(const char *path, const char *name)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (strlen(path) >= sizeof addr.sun_path || fd < 0) {
        cli_say("the console's socket %s cannot be used", path);
    } else {
        strcpy(addr.sun_path, path);
        if (connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0)
            return fd;
        cli_say("the console of %s cannot be reached: %s", name, strerror(errno));
    }
    fd_close(fd);
    return -1;
}

static int console_find(struct cli *cli, const char *name, int *fd)
{
    AUTO(json_decref) json_t *vm = NULL;
    int r = ask(cli, "GET", "vms", name, NULL, NULL, &vm);
    if (r != CLI_OK)
        return r;
    const char *path = json_string_value(json_object_get(vm, "console"));
    if (!json_object_get(vm, "pid")) {
        cli_say("%s is %s; bedplate start %s starts it, bedplate logs %s shows what it last said",
                name, json_string_value(json_object_get(vm, "state")), name, name);
        return CLI_FAILED;
    }
    *fd = console_open(path ? path : "", name);
    return *fd < 0 ? CLI_FAILED : CLI_OK;
}

int console_follow(struct cli *cli, const char *name)
{
    AUTO(fd_close) int fd = -1;
    int r = console_find(cli, name, &fd);
    if (r == CLI_OK)
        join(fd, -1, false);
    return r;
}

/* The console ended by itself: so did the VM, whose end is known in a moment. Ended badly is a
 * failure. */
static int ending(struct cli *cli, const char *name, bool tell)
{
    for (unsigned ms = 0; ms < END_MS; ms += POLL_MS) {
        AUTO(json_decref) json_t *vm = NULL;
        long status;
        AUTO(free) char *path = path_of("vms", name, NULL);
        if (!path || client_status(cli, "GET", path, NULL, &vm, &status) != CLI_OK || status != 200)
            return CLI_OK; /* deleted, or the daemon has gone */
        const char *state = json_string_value(json_object_get(vm, "state"));
        const char *why = json_string_value(json_object_get(vm, "error"));
        bool failed = strcmp(state, "failed") == 0;
        if (failed)
            cli_say("%s has failed: %s", name, why ? why : "its process gave no reason");
        else if (strcmp(state, "stopped") == 0 || strcmp(state, "saved") == 0) {
            if (tell)
                fprintf(stderr, "%s is %s.\n", name, state);
        } else {
            poll(NULL, 0, POLL_MS);
            continue;
        }
        return failed ? CLI_FAILED : CLI_OK;
    }
    return CLI_OK; /* started again */
}

int do_console(struct cli *cli, const struct command *command, int argc, char **argv)
{
    struct terminal terminal = { 0 };
    AUTO(fd_close) int fd = -1;
    int r = want_words(command, argc, 1, 1);
    if (r == CLI_OK)
        r = console_find(cli, argv[0], &fd);
    if (r != CLI_OK)
        return r;
    terminal_raw(&terminal);
    bool tell = terminal.is && !cli->quiet;
    pid_t teller = terminal.is ? size_teller(cli, argv[0]) : 0;
    if (tell)
        fprintf(stderr, "Console of %s; Ctrl-A D detaches.\r\n", argv[0]);
    bool detached = join(fd, STDIN_FILENO, terminal.is);
    terminal_restore(&terminal);
    if (teller) {
        kill(teller, SIGKILL);
        waitpid(teller, NULL, 0);
    }
    if (tell)
        fputs("\n", stderr);
    if (!detached)
        return ending(cli, argv[0], tell);
    if (tell)
        fprintf(stderr, "%s runs on; bedplate console %s comes back, bedplate stop %s ends it.\n",
                argv[0], argv[0], argv[0]);
    return CLI_OK;
}
