/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who asks, and what they may.
 *
 *   unix socket            root and the daemon's own user, as admins
 *   TLS, certificate       the user whose `certificate` is its common name
 *   TLS, bearer token      the token's user, with the token's role at the most and only its VM
 *
 * A role holds for everything; the owner of a VM counts as an operator there. The tables of `api`
 * say which role each request needs. Loop only.
 */
#ifndef DAEMON_ACCESS_H
#define DAEMON_ACCESS_H

#include "daemon/daemon.h"

/* Fills the request's identity; fails with 401 or 403. */
int access_identify(struct daemon *daemon, struct http_request *request, struct api_error *error);
/* object: NULL for lists and creation. */
int access_check(const struct http_request *request, const struct api_resource *resource,
                 enum api_role needed, const struct object *object, struct api_error *error);
/* Does it show in lists, and is it there at all, for who asks? */
bool access_sees(const struct http_request *request, const struct object *object);

/* `take_json`: checked by the table. They answer the request. */
void users_create(struct daemon *daemon, struct http_request *request, json_t *take_json);
void users_patch(struct daemon *daemon, struct http_request *request, struct object *user,
                 json_t *take_json, uint64_t expect);
void users_delete(struct daemon *daemon, struct http_request *request, struct object *user);
/* Also who has not identified: with a user's name and password, which is logging in. */
void tokens_create(struct daemon *daemon, struct http_request *request, json_t *take_json);
void tokens_delete(struct daemon *daemon, struct http_request *request, struct object *token);

#endif
