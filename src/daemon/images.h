/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The catalog of images: disks that many VMs begin with. Each VM writes to an overlay of its own,
 * so an image is never changed once it is ready, and stays as long as a VM was made from it.
 *
 *   STATE/images/ID   disk.qcow2, and vmlinuz and initrd.img where the image boots directly
 *
 * They are made by the program bedplate-make-image, in a job; a daemon that was killed meanwhile
 * starts it again, and it goes on with what is there. Loop only.
 */
#ifndef DAEMON_IMAGES_H
#define DAEMON_IMAGES_H

#include "daemon/daemon.h"

/* After the objects were loaded: goes on with what was under way. */
int images_start(struct daemon *daemon, struct err *err);
void images_stop(void); /* lets them run on */
/* `take_json`: checked by the table. Answers the request. */
void images_create(struct daemon *daemon, struct http_request *request, json_t *take_json);
void images_delete(struct daemon *daemon, struct http_request *request, struct object *image);
/* Fails where it is too late. */
void image_job_cancel(struct daemon *daemon, struct object *job, struct api_error *error);

/* The image of this name, when VMs can be made from it; NULL: *error says why not. */
struct object *image_ready(struct daemon *daemon, const char *name, struct api_error *error);
/* A file of it, or with "" its folder. */
void image_path(const struct daemon *daemon, const char *id, const char *name, char out[PATH_MAX]);

#endif
