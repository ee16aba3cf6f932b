/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Saving runs on a thread of its own while the machine is paused, so that the control socket keeps
 * answering.
 *
 * --save's file is written under another name, synced, and renamed by the keeper: it is there whole
 * or not at all. A VM saved to it ends, since otherwise two VMs could go on from one state with the
 * same disks.
 */
#include "base/log.h"
#include "vmm/vmm.h"

#include <fcntl.h>
#include <string.h>

static void save_progress(void *arg, uint64_t done, uint64_t total)
{
    struct vmm *vmm = arg;
    control_event(vmm->control, "save-progress",
                  json_pack("{s:I, s:I}", "done", (json_int_t)done, "total", (json_int_t)total));
}

static int save_finish(struct vmm *vmm)
{
    struct saving *s = &vmm->saving;
    if (s->result < 0)
        return s->result;
    return s->to_file ? keeper_rename(&vmm->keeper, KEEPER_SAVE, &s->err) : 0;
}

static void save_ended(struct vmm *vmm)
{
    struct saving *s = &vmm->saving;
    s->active = s->writing = false;
    int r = save_finish(vmm);
    if (!s->to_file)
        close(s->fd);
    if (r < 0) {
        log_error("save: %s", s->err.text);
        vmm_event(vmm, "save-failed", json_pack("{s:s}", "text", s->err.text));
    } else {
        vmm_event(vmm, "saved", NULL);
    }
    if (s->request)
        control_finish(TAKE(s->request), NULL, r < 0 ? &s->err : NULL);
    if (vmm->ending)
        return;
    hotplug_catch_up(vmm);
    if (r == 0 && s->then == SAVE_THEN_END)
        vmm_end(vmm, EXIT_SAVED, "saved");
    else if (s->was_running && (r < 0 || s->then == SAVE_THEN_RESUME))
        vmm_resume(vmm, NULL);
}

static void save_done(void *arg)
{
    struct vmm *vmm = arg;
    pthread_join(vmm->saving.thread, NULL);
    save_ended(vmm);
}

static void *save_thread(void *arg)
{
    struct vmm *vmm = arg;
    struct saving *s = &vmm->saving;
    s->result = snapshot_save(vmm->machine, &s->config, s->fd, save_progress, vmm, &s->err);
    loop_post(vmm->loop, save_done, vmm);
    return NULL;
}

/* What the guest asked for until it was paused (a reset, to power off) was posted before this, so
 * it is done. */
static void save_write(void *arg)
{
    struct vmm *vmm = arg;
    struct saving *s = &vmm->saving;
    if (vmm->ending) {
        s->active = false;
        err_set(&s->err, EINVAL, "the VM has ended: %s", vmm->reason);
        if (s->request)
            control_finish(TAKE(s->request), NULL, &s->err);
        if (!s->to_file)
            close(s->fd);
        return;
    }
    vmm_snapshot_config(vmm, &s->config);
    s->writing = true;
    int code = pthread_create(&s->thread, NULL, save_thread, vmm);
    if (code) {
        s->result = err_errno(&s->err, code, "cannot create a thread");
        save_ended(vmm);
    }
}

static int save_begin(struct vmm *vmm, int fd, int then, struct control_request *request,
                      struct err *err)
{
    struct saving *s = &vmm->saving;
    if (s->active)
        return err_set(err, EBUSY, "the VM is being saved already");
    if (vmm->ending)
        return err_set(err, EINVAL, "the VM has ended");
    if (fd < 0 && vmm->save_fd < 0)
        return err_set(err, EINVAL,
                       "there is no file to save to; start with --save FILE or send a descriptor");
    /* What an earlier try left. */
    if (fd < 0 && (ftruncate(vmm->save_fd, 0) < 0 || lseek(vmm->save_fd, 0, SEEK_SET) < 0))
        return err_errno(err, errno, "--save");
    *s = (struct saving){ .active = true,
                          .request = request,
                          .fd = fd < 0 ? vmm->save_fd : fd,
                          .to_file = fd < 0,
                          .then = (unsigned)then };
    s->was_running = vmm->machine->state == MACHINE_RUNNING;
    vmm_pause(vmm, "save");
    loop_post(vmm->loop, save_write, vmm);
    return 0;
}

int vmm_save(struct vmm *vmm, int take_fd, int then, struct control_request *request,
             struct err *err)
{
    int r = save_begin(vmm, take_fd, then, request, err);
    if (r < 0)
        fd_close(take_fd);
    return r;
}
