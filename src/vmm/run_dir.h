/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The run directory: lock, log, control socket, exit record, last output. One VM uses it at a time.
 * Main thread.
 */
#ifndef VMM_RUN_DIR_H
#define VMM_RUN_DIR_H

#include "base/err.h"
#include "vmm/keeper.h"

struct run_dir {
    int lock_fd, log_fd, exit_fd; /* owned; -1: there is no directory */
    int serial_fd;                /* as these; what the serial port last said, once the VM ended */
    char *control_path;           /* owned */
    char *exit_part, *exit_path;  /* owned */
};

#define RUN_DIR_NONE                                                \
    {                                                               \
        .lock_fd = -1, .log_fd = -1, .exit_fd = -1, .serial_fd = -1 \
    }

/* Makes and locks it. -EBUSY names the process that holds it. path NULL: no directory, nothing is
 * written. */
int run_dir_open(const char *path, struct run_dir *out, struct err *err);
/* {"status": 0, "name": "powered-off", "reason": "...", "time": "..."}, put in place as a whole. */
int run_dir_exit_record(struct run_dir *dir, struct keeper *keeper, int status, const char *reason,
                        struct err *err);
void run_dir_close(struct run_dir *dir);

#endif
