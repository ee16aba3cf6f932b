/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disks that the daemon keeps: files of their own, which VMs name as disk:NAME among their disks.
 *
 *   STATE/disks/ID/disk.FORMAT
 *
 * bedplate-img does what is to be done with them, in jobs, one after the other; a running VM that
 * has the disk does it itself, by its control socket, where it can. A daemon that was killed
 * meanwhile makes a disk anew; other work it calls failed, for nobody knows how far it came. Loop
 * only.
 */
#ifndef DAEMON_DISKS_H
#define DAEMON_DISKS_H

#include "daemon/daemon.h"

/* After the objects were loaded. */
int disks_start(struct daemon *daemon, struct err *err);
void disks_stop(void); /* lets the programs run on */
/* `take_json`: checked by the table. Answers the request. */
void disks_create(struct daemon *daemon, struct http_request *request, json_t *take_json);
void disks_delete(struct daemon *daemon, struct http_request *request, struct object *disk);
void disks_action(struct daemon *daemon, struct http_request *request, struct object *disk,
                  const struct api_action *action, const json_t *args);
/* Fails where it is too late. */
void disk_job_cancel(struct daemon *daemon, struct object *job, struct api_error *error);

/* Puts the files of disk:NAME into a VM's disks. */
int disks_resolve(struct daemon *daemon, json_t *vm, struct api_error *error);

#endif
