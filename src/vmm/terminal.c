/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ctrl-A begins a sequence; an unknown key after it is dropped together with it. */
#include "vmm/terminal.h"

#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { CTRL_A = 1 };

const char terminal_help[] = "\r\n"
                             "Ctrl-A X       end the VM\r\n"
                             "Ctrl-A H       this help\r\n"
                             "Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n";

bool terminal_find(struct terminal *out, int fd)
{
    *out = (struct terminal){ .fd = fd };
    if (isatty(fd) && tcgetattr(fd, &out->mode) == 0)
        return true;
    out->fd = -1;
    return false;
}

void terminal_raw(struct terminal *terminal)
{
    if (terminal->fd < 0)
        return;
    struct termios raw = terminal->mode;
    cfmakeraw(&raw);
    raw.c_oflag |= OPOST; /* our own messages end their lines with \n alone */
    terminal->is_raw = tcsetattr(terminal->fd, TCSANOW, &raw) == 0;
}

void terminal_restore(struct terminal *terminal)
{
    if (terminal->is_raw)
        tcsetattr(terminal->fd, TCSANOW, &terminal->mode); /* draining could wait for ever */
    terminal->is_raw = false;
}

size_t terminal_filter(struct terminal *terminal, uint8_t *data, size_t len)
{
    size_t kept = 0;
    for (size_t i = 0; i < len; i++) {
        if (!terminal->after_escape) {
            if (data[i] == CTRL_A)
                terminal->after_escape = true;
            else
                data[kept++] = data[i];
            continue;
        }
        terminal->after_escape = false;
        if (data[i] == CTRL_A)
            data[kept++] = CTRL_A;
        else if (data[i] == 'x' || data[i] == 'X')
            terminal->key(terminal->arg, TERMINAL_QUIT);
        else if (data[i] == 'h' || data[i] == 'H' || data[i] == '?')
            terminal->key(terminal->arg, TERMINAL_HELP);
    }
    return kept;
}

bool terminal_size(const struct terminal *terminal, uint16_t *columns, uint16_t *rows)
{
    struct winsize size;
    if (terminal->fd < 0 || ioctl(terminal->fd, TIOCGWINSZ, &size) < 0 || !size.ws_col ||
        !size.ws_row)
        return false;
    *columns = size.ws_col;
    *rows = size.ws_row;
    return true;
}
