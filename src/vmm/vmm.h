/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The per-VM process: what its files share. Everything here belongs to the main loop's thread.
 *
 *   main.c      open, lock down, run; how it ends        commands.c  what the control socket can do
 *   vm_open.c   makes the machine from the options       save.c      saving the state
 *   debugger.c  gdb's target                             inspect.c   states as JSON
 *   video.c     screen and keyboard                      hotplug.c   what comes and goes
 *   media.c     drives whose media change                usb.c       USB devices
 *   disks.c     opening and closing disks                firmware.c  opening firmware's files
 *   balloon.c   memory given back                    ports.c     virtio-serial ports
 *   disk_jobs.c commands that change disks and their chains
 */
#ifndef VMM_VMM_H
#define VMM_VMM_H

#include "base/err.h"
#include "base/loop.h"
#include "block/block.h"
#include "block/throttle.h"
#include "devices/input.h"
#include "machine/machine.h"
#include "migrate/snapshot.h"
#include "net/net.h"
#include "vmm/control.h"
#include "vmm/exit_status.h"
#include "vmm/firmware.h"
#include "vmm/keeper.h"
#include "vmm/options.h"
#include "vmm/run_dir.h"
#include "vmm/sandbox.h"
#include "vmm/stream.h"
#include "vmm/terminal.h"

#include <pthread.h>
#include <stdbool.h>

struct ata_drive;
struct board;
struct debugger;
struct disk_job;
struct pci_device;
struct agent_link;
struct display;
struct pci_device;
struct screen;
struct typing;
struct vmm_balloon;
struct vmm_ports;

struct saving {
    bool active;  /* from the request to its end */
    bool writing; /* the thread runs: the machine must stay as it is */
    pthread_t thread;
    struct control_request *request; /* NULL: by signal */
    int fd;                          /* being written; owned if from a client */
    bool to_file;                    /* --save's own file */
    bool was_running;
    enum { SAVE_THEN_END, SAVE_THEN_PAUSE, SAVE_THEN_RESUME } then;
    struct snapshot_config config;
    struct err err;
    int result;
};

struct vmm {
    struct options options;
    struct loop *loop;
    int signal_fd; /* owned */
    struct run_dir run_dir;
    struct keeper_config keep;
    struct keeper keeper;
    struct terminal terminal;
    /* Owned; all of them may be stdio. */
    struct stream *stdio, *serial, *console, *debug_console;
    struct device *serial_dev, *console_dev; /* the machine's */

    const struct engine_type *engine;
    char engine_reason[512];
    const char *cpu_name;
    struct machine *machine;
    struct board *board;
    struct device *fdc;          /* the machine's; NULL: there is none */
    struct pci_device *usb;      /* the machine's; NULL: there is none */
    struct input *input;         /* keys and pointer on their way to the guest */
    struct screen *screen;       /* NULL: no display adapter */
    struct display *display;     /* NULL: nobody can look */
    struct agent_link *agent;    /* of the clipboard; NULL: none */
    struct typing *typing;       /* keys of a control request on their way; NULL: none */
    struct vmm_balloon *balloon; /* NULL: there is none */
    struct vmm_ports *ports;     /* NULL: there are none */
    struct block_node *disks[OPTIONS_MAX_DISKS];
    struct throttle_group *throttles[OPTIONS_MAX_DISKS]; /* of each disk */
    struct pci_device *disk_devices[OPTIONS_MAX_DISKS];  /* virtio disks; the machine's */
    struct disk_job *jobs;                               /* disk_jobs.c */
    unsigned job_last;
    struct ata_drive *drives[OPTIONS_MAX_DISKS]; /* the machine's; NULL: the medium stays */
    struct net_backend *nets[OPTIONS_MAX_NETS];
    struct snapshot *restore;
    struct sandbox sandbox;
    bool can_reset; /* there is something to boot again */

    struct control *control;
    struct debugger *debugger;
    struct saving saving;
    int kernel_fd, initrd_fd; /* owned; -1 */
    struct vmm_firmware firmware;
    struct ram *net_roms[NET_MODELS]; /* the machine's; by enum net_model */
    int save_fd;                      /* owned: --save's unfinished file; -1 */
    char *save_part;                  /* owned: its path */
    char *restored_path; /* owned: what the file of --restore becomes; NULL: it stays */
    char paused_by[32];

    bool ending;
    int status; /* enum exit_status */
    char reason[480];
};

/* Ends the VM; the first call counts. The loop stops, main.c does the rest. */
void vmm_end(struct vmm *vmm, enum exit_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Prints "bedplate-vmm: ..." to standard error and into the log. */
void vmm_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Pausing and resuming with their events; `by` says who: "user", "disk-full", "debugger", "save",
 * "watchdog". */
void vmm_pause(struct vmm *vmm, const char *by);
int vmm_resume(struct vmm *vmm, struct err *err);
int vmm_reset(struct vmm *vmm, struct err *err);
void vmm_event(struct vmm *vmm, const char *what, json_t *take_members);

/* vm_open.c: everything that needs paths; on failure *status says which kind. */
int vmm_open(struct vmm *vmm, enum exit_status *status, struct err *err);
void vmm_close(struct vmm *vmm);
/* What the configuration of this VM is, for a saved state. */
void vmm_snapshot_config(const struct vmm *vmm, struct snapshot_config *out);

void vmm_machine_event(struct vmm *vmm, enum machine_event event, unsigned vcpu,
                       const char *detail);

/* media.c: drives that are not virtio; those of CDs change their media. */
int media_plug(struct vmm *vmm, struct err *err);
/* "virtio", "sata-cdrom": what a saved state records of a drive. */
void media_bus_name(const struct disk_options *disk, char *out, size_t room);
int media_check_saved(const struct vmm *vmm, unsigned index, const struct snapshot_disk *saved,
                      struct err *err);
/* The drive's name for people and the control socket: "disk0", "cdrom1". */
void media_name(const struct vmm *vmm, unsigned index, char *out, size_t room);
int media_eject(struct vmm *vmm, const char *drive, bool force, struct err *err);
/* Takes fd; `label` stands for the path in messages. */
int media_insert(struct vmm *vmm, const char *drive, const char *label, const char *format,
                 int take_fd, struct err *err);

/* Opens disk `index` of the options from a descriptor, which is taken if all goes well. */
int media_open_fd(struct vmm *vmm, unsigned index, int *fd, struct err *err);

/* hotplug.c */
struct hotplug_disk {
    const char *id, *name, *format; /* format NULL: found out */
    bool readonly;
    const json_t *options; /* parts of --disk; NULL: none */
};
bool hotplug_id_good(const char *id);
/* Into a free slot, *port. They take fd. */
int hotplug_add_disk(struct vmm *vmm, const struct hotplug_disk *disk, int take_fd, unsigned *port,
                     struct err *err);
int hotplug_add_net(struct vmm *vmm, const char *id, const uint8_t mac[6], int take_fd,
                    unsigned *port, struct err *err);
/* Asks the guest; the event device-removed tells the end. force: at once, whatever the guest does.
 */
int hotplug_remove(struct vmm *vmm, const char *id, bool force, struct err *err);
/* Into that slot and into the machine; also on failure `pci` is gone. */
int hotplug_plug(struct vmm *vmm, struct pci_device *pci, unsigned port, struct err *err);
void hotplug_power(void *arg, struct device *port, bool on); /* the board's port_power */
void hotplug_catch_up(struct vmm *vmm);                      /* after a save */

/* usb.c */
int usb_plug(struct vmm *vmm, struct err *err);
int virtio_inputs_plug(struct vmm *vmm, struct err *err);
int usb_attach(struct vmm *vmm, const char *device, json_t **result, struct err *err);
int usb_detach(struct vmm *vmm, unsigned port, struct err *err);
json_t *usb_status(const struct vmm *vmm); /* an array: what is plugged in where */

/* disks.c */
int disks_open(struct vmm *vmm, struct err *err);
void disks_close(struct vmm *vmm);

/* disk_jobs.c. Before a disk goes (NULL: all of them): its jobs are cancelled, which loses nothing.
 */
void disk_jobs_end(struct vmm *vmm, const struct block_node *disk);
CONTROL_COMMAND(do_disk_snapshot);
CONTROL_COMMAND(do_disk_resize);
CONTROL_COMMAND(do_disk_rebase);
CONTROL_COMMAND(do_disk_stream);
CONTROL_COMMAND(do_disk_commit);
CONTROL_COMMAND(do_disk_mirror);
CONTROL_COMMAND(do_disk_backup);
CONTROL_COMMAND(do_disk_throttle);
CONTROL_COMMAND(do_job_list);
CONTROL_COMMAND(do_job_pause);
CONTROL_COMMAND(do_job_resume);
CONTROL_COMMAND(do_job_cancel);
CONTROL_COMMAND(do_job_complete);
CONTROL_COMMAND(do_job_speed);

/* ports.c */
int ports_plug(struct vmm *vmm, struct err *err);
void ports_close(struct vmm *vmm);
json_t *ports_status(const struct vmm *vmm); /* an array */
/* "a,b": what a saved state records of them. */
void ports_names(const struct vmm *vmm, char *out, size_t room);
/* Are the ports that are given those that were saved? The clipboard's is added. */
int ports_restore(struct vmm *vmm, const struct snapshot_config *saved, struct err *err);
/* The saved state is loaded. */
void ports_restored(struct vmm *vmm);

/* balloon.c */
int balloon_plug(struct vmm *vmm, struct err *err);
void balloon_close(struct vmm *vmm);
uint64_t balloon_target(
    const struct vmm *vmm); /* bytes that the guest shall do with; there is one */
CONTROL_COMMAND(do_balloon);

/* For device models on PCI: onto the bus and into the machine, which owns it then; also on failure
 * `pci` is gone. */
int vmm_plug(struct vmm *vmm, struct pci_device *pci, struct err *err);

/* A file to remove when the process is gone, however it ends. `path` is borrowed. */
void vmm_keep_removed(struct vmm *vmm, const char *path);

/* boot_rom.c: gives the card its ROM, if it is to have one; before it joins the bus */
int boot_rom_plug(struct vmm *vmm, struct net_options *net, struct pci_device *pci,
                  struct err *err);

/* video.c */
int video_open(struct vmm *vmm, struct err *err); /* before the devices */
int video_plug(struct vmm *vmm, struct err *err);
void video_close(struct vmm *vmm);
json_t *video_status(const struct vmm *vmm);
int video_screenshot(struct vmm *vmm, struct control_request *request, const json_t *args,
                     json_t **result, struct err *err);
int video_send_keys(struct vmm *vmm, struct control_request *request, const json_t *args,
                    struct err *err);
int video_send_pointer(struct vmm *vmm, const json_t *args, struct err *err);

/* commands.c */
extern const struct control_command vmm_commands[];

/* save.c. fd -1: the file of --save; takes fd. -errno: not begun. */
int vmm_save(struct vmm *vmm, int take_fd, int then, struct control_request *request,
             struct err *err);

/* debugger.c */
int debugger_create(struct vmm *vmm, struct debugger **out,
                    struct err *err); /* listens as the options say */
void debugger_destroy(struct debugger *debugger);
bool debugger_event(struct debugger *debugger, unsigned vcpu); /* MACHINE_DEBUG; NULL is fine */
/* The VM was made to run, or ends. */
void debugger_ended(struct debugger *debugger, int status);

#endif
