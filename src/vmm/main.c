/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bedplate-vmm: one virtual machine. Open (vm_open.c), lock down, run, and end with a status that
 * says how.
 */
#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"
#include "board/board.h"
#include "devices/pci.h"
#include "devices/virtio/console.h"
#include "engine/x86.h"
#include "vmm/hostile.h"
#include "vmm/vmm.h"

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

enum { FLUSH_MS = 500 };

/* ---- what happens to the VM ---- */

void vmm_say(const char *fmt, ...)
{
    char text[600];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    log_info("%s", text);
    fprintf(stderr, "bedplate-vmm: %s\n", text);
}

void vmm_event(struct vmm *vmm, const char *what, json_t *take_members)
{
    log_info("event %s", what);
    control_event(vmm->control, what, take_members);
}

void vmm_end(struct vmm *vmm, enum exit_status status, const char *fmt, ...)
{
    if (vmm->ending)
        return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(vmm->reason, sizeof vmm->reason, fmt, args);
    va_end(args);
    vmm->ending = true;
    vmm->status = status;
    loop_stop(vmm->loop, 0);
}

void vmm_pause(struct vmm *vmm, const char *by)
{
    if (vmm->machine->state != MACHINE_RUNNING)
        return;
    machine_pause(vmm->machine);
    snprintf(vmm->paused_by, sizeof vmm->paused_by, "%s", by);
    vmm_event(vmm, "paused", json_pack("{s:s}", "by", by));
}

int vmm_resume(struct vmm *vmm, struct err *err)
{
    if (vmm->saving.active)
        return err_set(err, EBUSY, "the VM is being saved");
    if (vmm->ending || vmm->machine->state == MACHINE_STOPPED)
        return err_set(err, EINVAL, "the VM has ended");
    if (vmm->machine->state == MACHINE_RUNNING)
        return 0;
    if (vmm->machine->state == MACHINE_CREATED)
        machine_start(vmm->machine);
    else
        machine_resume(vmm->machine);
    vmm->paused_by[0] = 0;
    vmm_event(vmm, "running", NULL);
    return 0;
}

int vmm_reset(struct vmm *vmm, struct err *err)
{
    if (vmm->saving.writing)
        return err_set(err, EBUSY, "the VM is being saved");
    if (!vmm->can_reset)
        return err_set(
            err, ENOENT,
            "there is no kernel to start again; restore with --kernel to be able to reset");
    machine_reset_now(vmm->machine);
    vmm_event(vmm, "reset", NULL);
    return 0;
}

static void guest_reset(struct vmm *vmm, enum exit_status status, const char *why)
{
    struct err err = { 0 };
    if (vmm->options.no_reboot)
        vmm_end(vmm, status, "%s", why);
    else if (vmm_reset(vmm, &err) < 0)
        vmm_end(vmm, status, "%s: %s", why, err.text);
}

static void triple_fault(struct vmm *vmm, unsigned vcpu)
{
    struct arch_state state;
    memset(&state, 0, sizeof state);
    vmm_pause(vmm, "triple-fault");
    vmm->engine->get_state(vmm->machine->vcpus[vcpu], &state, NULL);
    vmm_end(vmm, EXIT_TRIPLE_FAULT,
            "triple fault on vCPU %u at rip 0x%" PRIx64 " (cs 0x%x, cr0 0x%" PRIx64
            ", cr2 0x%" PRIx64 ", cr3 0x%" PRIx64 ")",
            vcpu, state.rip, state.seg[S_CS].selector, state.cr0, state.cr2, state.cr3);
}

static void watchdog_fired(struct vmm *vmm, const char *which)
{
    vmm_event(vmm, "watchdog", json_pack("{s:s}", "device", which));
    log_warning("%s: the guest's watchdog fired", which);
    switch (vmm->options.watchdog) {
    case WATCHDOG_RESET: guest_reset(vmm, EXIT_RESET, "the guest's watchdog fired"); break;
    case WATCHDOG_PAUSE: vmm_pause(vmm, "watchdog"); break;
    case WATCHDOG_EXIT: vmm_end(vmm, EXIT_WATCHDOG, "the guest's watchdog fired"); break;
    case WATCHDOG_NONE: break;
    }
}

void vmm_machine_event(struct vmm *vmm, enum machine_event event, unsigned vcpu, const char *detail)
{
    if (vmm->ending)
        return;
    switch (event) {
    case MACHINE_POWEROFF: vmm_end(vmm, EXIT_POWEROFF, "the guest powered off"); break;
    case MACHINE_RESET: guest_reset(vmm, EXIT_RESET, "the guest asked for a reset"); break;
    case MACHINE_TRIPLE_FAULT: triple_fault(vmm, vcpu); break;
    case MACHINE_ENGINE_FAILED: vmm_end(vmm, EXIT_ENGINE, "vCPU %u: %s", vcpu, detail); break;
    case MACHINE_DISK_FULL:
        vmm_pause(vmm, "disk-full");
        vmm_event(vmm, "disk-full", json_pack("{s:s}", "device", detail));
        vmm_say("%s: the host's disk is full; the VM is paused until it is resumed", detail);
        break;
    case MACHINE_DISK_ERROR:
        vmm_pause(vmm, "disk-error");
        vmm_event(vmm, "disk-error", json_pack("{s:s}", "device", detail));
        vmm_say("%s: the host cannot read or write it; the VM is paused until it is resumed",
                detail);
        break;
    case MACHINE_PANICKED:
        vmm_event(vmm, "panicked", json_pack("{s:s}", "detail", detail));
        log_warning("the guest reports a panic: %s", detail);
        break;
    case MACHINE_WATCHDOG: watchdog_fired(vmm, detail); break;
    case MACHINE_DEBUG: debugger_event(vmm->debugger, vcpu); break;
    }
}

/* ---- keys and signals ---- */

static void terminal_key(void *arg, enum terminal_key key)
{
    struct vmm *vmm = arg;
    if (key == TERMINAL_QUIT)
        vmm_end(vmm, EXIT_QUIT, "Ctrl-A X");
    else
        stream_write(vmm->stdio, terminal_help, strlen(terminal_help));
}

static void terminal_resized(struct vmm *vmm)
{
    uint16_t columns, rows;
    if (vmm->console_dev && vmm->console == vmm->stdio &&
        terminal_size(&vmm->terminal, &columns, &rows))
        virtio_console_resize(pci_device_of(vmm->console_dev), columns, rows);
}

static void save_signalled(struct vmm *vmm)
{
    struct err err = { 0 };
    if (vmm_save(vmm, -1, SAVE_THEN_END, NULL, &err) < 0)
        log_warning("save: %s", err.text);
}

static void signal_arrived(void *arg, unsigned events)
{
    struct vmm *vmm = arg;
    struct signalfd_siginfo info;
    if (read(vmm->signal_fd, &info, sizeof info) != sizeof info)
        return;
    switch (info.ssi_signo) {
    case SIGUSR1: save_signalled(vmm); break;
    case SIGWINCH: terminal_resized(vmm); break;
    case SIGCONT: /* a shell may have changed the mode meanwhile */
        if (vmm->terminal.is_raw)
            terminal_raw(&vmm->terminal);
        break;
    default: vmm_end(vmm, EXIT_QUIT, "signal %s", sigabbrev_np((int)info.ssi_signo)); break;
    }
}

static const int handled_signals[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGWINCH, SIGCONT };

static void signals_set(sigset_t *set)
{
    sigemptyset(set);
    for (size_t i = 0; i < sizeof handled_signals / sizeof *handled_signals; i++)
        sigaddset(set, handled_signals[i]);
}

/* Before there are threads, which inherit the mask. */
static int signals_begin(struct vmm *vmm, struct err *err)
{
    sigset_t set;
    signals_set(&set);
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    vmm->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (vmm->signal_fd < 0)
        return err_errno(err, errno, "cannot receive signals");
    struct loop_watch *watch; /* the loop's */
    return loop_watch_create(vmm->loop, vmm->signal_fd, LOOP_READ, signal_arrived, vmm, &watch,
                             err);
}

/* A signal from now on kills: for when the orderly way hangs, on a dead network file system
 * perhaps. */
static void signals_end(void)
{
    sigset_t set;
    signals_set(&set);
    sigdelset(&set, SIGUSR1);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/* ---- the lock ---- */

static void thread_lock(void *arg)
{
    struct sandbox ignored = { 0 };
    sandbox_lock_thread(&ignored);
}

static void vmm_lock(struct vmm *vmm)
{
    struct err err = { 0 };
    char text[SANDBOX_TEXT];
    if (!hostile_without("jail"))
        jail_lock(&vmm->sandbox.jail);
    sandbox_lock_thread(&vmm->sandbox);
    machine_io_each(vmm->machine, thread_lock, NULL);
    if (sandbox_filter(vmm->engine->name, &vmm->sandbox, &err) < 0)
        log_warning("sandbox: %s", err.text);
    sandbox_print(&vmm->sandbox, text);
    log_info("sandbox: %s", text);
}

/* ---- run and end ---- */

static int vmm_run(struct vmm *vmm, struct err *err)
{
    if (vmm->restore) {
        int r = snapshot_load(vmm->restore, vmm->machine, err);
        if (r < 0) {
            vmm->status = EXIT_FILE;
            return err_prefix(err, "--restore: %s", vmm->options.restore);
        }
        snapshot_close(TAKE(vmm->restore));
        board_restored(vmm->board);
        ports_restored(vmm);
        if (vmm->options.restore_once &&
            (r = keeper_rename(&vmm->keeper, KEEPER_RESTORED, err)) < 0) {
            vmm->status = EXIT_FILE;
            return err_prefix(err, "--restore-once: %s", vmm->options.restore);
        }
    }
    if (vmm->options.gdb.wait)
        vmm_say("waiting for a debugger");
    else
        vmm_resume(vmm, NULL);
    loop_run(vmm->loop);
    return 0;
}

/* For who asks later what the guest said last. */
static void serial_keep(struct vmm *vmm)
{
    AUTO(buf_fini) struct buf text = { 0 };
    if (vmm->run_dir.serial_fd < 0 || !vmm->serial)
        return;
    stream_history(vmm->serial, STREAM_HISTORY, &text);
    int r = pwrite_full(vmm->run_dir.serial_fd, text.data, text.len, 0);
    if (r < 0)
        log_error("cannot keep the last output of the serial port: %s", strerror(-r));
}

/* Everybody learns how it ended, and the last output gets out. */
static void vmm_ended(struct vmm *vmm)
{
    struct err err = { 0 };
    if (!vmm->saving.writing) /* that thread reads a machine that is paused */
        machine_stop(vmm->machine);
    vmm_event(vmm, "ended",
              json_pack("{s:i, s:s, s:s}", "status", vmm->status, "name",
                        exit_statuses[vmm->status].name, "reason", vmm->reason));
    debugger_ended(vmm->debugger, vmm->status);
    control_flush(vmm->control, FLUSH_MS);
    serial_keep(vmm);
    if (run_dir_exit_record(&vmm->run_dir, &vmm->keeper, vmm->status, vmm->reason, &err) < 0)
        log_error("%s", err.text);
}

static int vmm_start(struct vmm *vmm, struct err *err)
{
    enum exit_status status;
    int r = vmm_open(vmm, &status, err);
    if (r < 0) {
        vmm->status = (int)status;
        return r;
    }
    vmm->keep.own_mounts = jail_has_mounts(&vmm->sandbox.jail);
    r = keeper_start(&vmm->keep, &vmm->keeper, err);
    if (r < 0)
        return r;
    vmm_lock(vmm);
#ifdef HOSTILE_ACTIONS
    hostile_run(vmm->machine);
    vmm->status = 0;
    return 0;
#endif
    vmm->terminal.key = terminal_key;
    vmm->terminal.arg = vmm;
    if (vmm->keep.has_terminal)
        terminal_raw(&vmm->terminal);
    r = vmm_run(vmm, err);
    if (r == 0)
        vmm_ended(vmm);
    return r;
}

static void vmm_failed(struct vmm *vmm, const struct err *err)
{
    struct err why = { 0 };
    snprintf(vmm->reason, sizeof vmm->reason, "%s", err->text);
    terminal_restore(&vmm->terminal);
    vmm_say("%s", err->text);
    if (run_dir_exit_record(&vmm->run_dir, &vmm->keeper, vmm->status, vmm->reason, &why) < 0)
        log_error("%s", why.text);
}

static int vmm_main(struct vmm *vmm)
{
    struct err err = { 0 };
    vmm->status = EXIT_INTERNAL;
    int r = loop_create(&vmm->loop, &err);
    if (r == 0)
        r = signals_begin(vmm, &err);
    if (r == 0)
        r = vmm_start(vmm, &err);
    if (r < 0)
        vmm_failed(vmm, &err);

    signals_end();
    /* A state that is still being written (to a pipe that nobody reads?) is given up; its thread
     * needs the machine. */
    bool gives_up = vmm->saving.writing;
    if (!gives_up)
        vmm_close(vmm); /* the last of the guest's output goes out here */
    terminal_restore(&vmm->terminal);
    if (r == 0 && vmm->status != EXIT_POWEROFF && *vmm->reason)
        vmm_say("%s", vmm->reason);
    if (gives_up) {
        keeper_end(&vmm->keeper);
        _exit(vmm->status);
    }
    if (vmm->keeper.fd >= 0)
        keeper_end(&vmm->keeper);
    else
        keeper_tidy(&vmm->keep);
    log_set_file(-1);
    run_dir_close(&vmm->run_dir);
    fd_close(vmm->save_fd);
    free(vmm->save_part);
    free(vmm->restored_path);
    loop_destroy(vmm->loop);
    fd_close(vmm->signal_fd);
    return vmm->status;
}

static int options_status(const struct err *err)
{
    /* A configuration file that is not there is a missing file, everything else is usage. */
    return err->code == EINVAL || err->code == EFBIG ? EXIT_USAGE : EXIT_FILE;
}

static int info_run(const struct options *options)
{
    if (options->version)
        printf("bedplate-vmm %s\n", BEDPLATE_VERSION);
    else if (options->man)
        options_print_man(stdout);
    else
        options_print_help(stdout);
    return fflush(stdout) == 0 ? 0 : EXIT_INTERNAL;
}

int main(int argc, char **argv)
{
    static struct vmm vmm = { .run_dir = RUN_DIR_NONE,
                              .keeper = { .fd = -1 },
                              .keep = { .lock_fd = -1 },
                              .terminal = { .fd = -1 },
                              .kernel_fd = -1,
                              .initrd_fd = -1,
                              .firmware = { .board = { .code_fd = -1, .vars_fd = -1 } },
                              .save_fd = -1,
                              .signal_fd = -1 };
    struct err err = { 0 };
    vmm.keeper.config = &vmm.keep;
    sandbox_begin(&vmm.sandbox);
    int status;
    if (options_parse(argc, argv, &vmm.options, &err) < 0) {
        fprintf(stderr, "bedplate-vmm: %s\n", err.text);
        status = options_status(&err);
    } else if (vmm.options.help || vmm.options.version || vmm.options.man) {
        status = info_run(&vmm.options);
    } else if (vmm.options.check) {
        status = options_check_host(&vmm.options, &err) < 0 ? EXIT_USAGE : 0;
        if (status)
            fprintf(stderr, "bedplate-vmm: %s\n", err.text);
    } else {
        status = vmm_main(&vmm);
    }
    options_fini(&vmm.options);
    return status;
}
