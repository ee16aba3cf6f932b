/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The table of exit statuses. Numbers never change their meaning; a new one goes to the end. */
#include "vmm/exit_status.h"

const struct exit_status_info exit_statuses[EXIT_STATUS_COUNT] = {
    [EXIT_POWEROFF] = { "powered-off", "the guest powered off (also: --help, --version, --check)" },
    [EXIT_INTERNAL] = { "internal",
                        "an error that has no status of its own; the message says which" },
    [EXIT_USAGE] = { "usage", "the command line or the configuration file is wrong" },
    [EXIT_FILE] = { "file",
                    "a kernel, initrd, disk, network device, socket or saved state is missing "
                    "or cannot be used" },
    [EXIT_ENGINE] = { "engine", "the engine cannot run here or could not go on" },
    [EXIT_RESET] = { "reset", "the guest asked for a reset and --no-reboot was given" },
    [EXIT_TRIPLE_FAULT] = { "triple-fault", "a vCPU shut down by a triple fault" },
    [EXIT_QUIT] = { "quit", "ended from outside: Ctrl-A X, SIGTERM, SIGINT, SIGHUP or the control "
                            "command quit" },
    [EXIT_SAVED] = { "saved", "the state was saved as asked, and the VM ended" },
    [EXIT_WATCHDOG] = { "watchdog", "the guest's watchdog fired and --watchdog=exit was given" },
};
