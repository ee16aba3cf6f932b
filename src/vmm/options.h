/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The options of bedplate-vmm: one table drives the command line, --config, --help and the man
 * page.
 *
 * Parsing only looks at the words. Whether a file is there or the host has that much memory is
 * checked where the thing is opened, except for options_check_host(). Main thread.
 */
#ifndef VMM_OPTIONS_H
#define VMM_OPTIONS_H

#include "base/cleanup.h"
#include "base/err.h"
#include "block/throttle.h"
#include "block/zeroes.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum {
    OPTIONS_MAX_DISKS = 16,
    OPTIONS_MAX_NETS = 8,
    OPTIONS_MAX_HOSTFWD = 16,
    OPTIONS_MAX_USB = 4,
    OPTIONS_MAX_PORTS = 7,
    OPTIONS_MAX_QUEUES = 16,
    IO_THREAD_NAME = 12, /* with its end */
};

enum disk_bus { DISK_VIRTIO, DISK_SATA, DISK_IDE, DISK_FLOPPY };

struct disk_options {
    char *path; /* NULL: an empty drive */
    enum disk_bus bus;
    bool cdrom;
    char *format;   /* NULL: found out by its magic */
    char *key_file; /* NULL: it is not encrypted */
    bool readonly;
    unsigned queues;            /* 0: the device's default */
    unsigned cache;             /* enum block_cache */
    unsigned discard;           /* 0: unmap, 1: ignore */
    unsigned copy_on_read;      /* 0: off, 1: on */
    unsigned detect_zeroes;     /* enum zeroes_detect */
    unsigned on_full, on_error; /* enum virtio_blk_policy */
    char *io_thread;            /* names, with '+' between; NULL: "0", "1" and so on, one a queue */
    char *serial;               /* NULL: the disk's name */
    struct throttle_limits limits;
    char *throttle_group; /* NULL: the limits are this disk's own */
    unsigned port;        /* hot-plug slot it is in; 0: none, it was there from the start */
    char *id;             /* of one in a slot; NULL: it has none of its own */
};

enum net_model { NET_VIRTIO, NET_E1000E, NET_MODELS };
enum net_kind { NET_OPTION_USER, NET_OPTION_TAP, NET_OPTION_FD };
struct net_options {
    enum net_kind kind;
    enum net_model model;
    char *tap; /* NET_OPTION_TAP: interface */
    int fd;    /* NET_OPTION_FD */
    bool has_mac;
    uint8_t mac[6];
    char *hostfwd[OPTIONS_MAX_HOSTFWD]; /* "tcp:127.0.0.1:2222-:22", checked */
    unsigned hostfwd_count;
    char *tftp, *bootfile; /* NET_OPTION_USER; NULL: none */
    uint64_t rom_size;     /* of its expansion ROM, once it has one; 0: none */
    unsigned port;         /* as of a disk */
    char *id;
};

enum stream_kind { STREAM_NONE, STREAM_STDIO, STREAM_FILE, STREAM_UNIX };
struct stream_options {
    enum stream_kind kind;
    char *path;
};

struct port_options {
    char *name; /* in the guest: /dev/virtio-ports/NAME */
    char *path; /* of the socket; NULL: joined with the display, which speaks with the agent */
};

struct boot_options {
    char order[4]; /* 'd' CD, 'c' disk, 'n' network, best first */
    bool menu;
    unsigned timeout_ms; /* of the menu's prompt */
};

/* --display */
struct viewer_options {
    char *address;                /* of the VNC server, see display_address_parse(); NULL: none */
    char *keymap;                 /* NULL: us */
    bool clipboard, no_clipboard; /* asked for; not wanted */
    char *password_file, *tls_cert, *tls_key, *tls_ca;
};

enum watchdog_action { WATCHDOG_RESET, WATCHDOG_PAUSE, WATCHDOG_EXIT, WATCHDOG_NONE };

struct gdb_options {
    char *unix_path;   /* NULL: tcp */
    uint16_t tcp_port; /* on 127.0.0.1; 0 with no unix_path: no stub */
    bool wait;         /* do not start before a debugger says so */
};

enum video_adapter { VIDEO_NONE, VIDEO_VGA, VIDEO_VIRTIO, VIDEO_VIRTIO_VGA };

struct options {
    char *engine;         /* "auto", "kvm" or "soft" */
    char *engine_options; /* NULL or what followed the first comma */
    char *cpu;            /* NULL: the engine's default */
    unsigned cpus;
    uint64_t memory; /* bytes */
    char *profile;
    bool has_uuid;
    uint8_t uuid[16]; /* in the order of its text form */
    char *kernel, *initrd, *cmdline;
    char *firmware; /* "bios", "uefi" or a path; NULL: none */
    char *uefi_vars;
    struct boot_options boot;
    struct disk_options disks[OPTIONS_MAX_DISKS];
    unsigned disk_count;
    struct net_options nets[OPTIONS_MAX_NETS];
    unsigned net_count;
    struct stream_options serial, console, debug_console;
    struct port_options ports[OPTIONS_MAX_PORTS];
    unsigned port_count;
    struct viewer_options viewer;
    enum video_adapter video;
    bool balloon;          /* a memory balloon */
    unsigned virtio_input; /* bit of each enum virtio_input_kind: 2 tablet, 4 keyboard */
    bool usb;              /* there is a USB controller */
    unsigned usb_devices[OPTIONS_MAX_USB]; /* enum hid_kind: what is plugged in */
    unsigned usb_count;
    enum watchdog_action watchdog;
    char *run_dir;
    char *control; /* path of the socket; NULL: none, or the run directory's */
    char *config;
    char *save, *restore;
    struct gdb_options gdb;
    char *debug_exit; /* hidden: see the table */
    bool restore_once;
    bool check, no_reboot, version, help, man;
    uint64_t given; /* bit of each entry of the table that the user gave, see options_given() */
};

/* Fills *out from the command line and, where --config is there, from its file; what stands on the
 * command line wins over the file. -EINVAL and one sentence when something is wrong. options_fini
 * also after a failure. */
int options_parse(int argc, char *const argv[], struct options *out, struct err *err);
void options_fini(struct options *options);
static inline void options_fini_auto(struct options *options) { options_fini(options); }

/* Was --name given, on the command line or in the file? */
bool options_given(const struct options *options, const char *name);

/* A configuration file's text. For options_parse and the fuzzer; *options holds what the command
 * line gave. */
int options_parse_json(const char *text, size_t len, struct options *options, struct err *err);

/* Refuses more memory than the host has; warns (in the log) when it is more than is free. */
int options_check_host(const struct options *options, struct err *err);

/* The names of enum disk_bus and enum net_model, NULL behind the last. */
const char *options_net_model(size_t i);
/* The names of enum hid_kind: "none", "tablet", "keyboard". */
const char *options_usb_device(size_t i);
/* Adds the port of the clipboard's agent. */
int options_clipboard_port(struct options *o, struct err *err);
/* Is the last port that one? */
bool options_has_clipboard(const struct options *o);
const char *options_video(size_t i); /* names by enum video_adapter; NULL behind the last */
const char *options_disk_bus(size_t i);

void options_print_help(FILE *to);
void options_print_man(FILE *to);

/* The candidate that `word` probably means, or NULL. `get` answers the i-th candidate, NULL behind
 * the last. */
const char *options_guess(const char *word, const char *(*get)(size_t i));
/* The name of the n-th thread that serves a disk's queues; false: there are fewer. */
bool options_disk_thread(const struct disk_options *disk, unsigned n, char out[IO_THREAD_NAME]);

#endif
