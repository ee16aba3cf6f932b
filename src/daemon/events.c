/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The last events, in memory: a follower asks for those after the last one it has seen. */
#include "daemon/daemon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EVENTS_KEPT = 1024 };

static json_t *kept[EVENTS_KEPT];
static void (*follower)(void *arg, const json_t *event);
static void *follower_arg;
static uint64_t first = 1, last; /* numbers of the oldest that is kept and of the newest */

void event_add(const char *kind, const char *object_kind, const char *id, const char *name,
               json_t *take_detail)
{
    char number[24], object[100];
    if (!last) /* rising over restarts, too: a daemon never has a thousand events a second for long
                */
        first = 1 + (last = (uint64_t)(time_now() * 1000));
    json_t **place = &kept[++last % EVENTS_KEPT];
    if (last - first >= EVENTS_KEPT)
        first++;
    snprintf(number, sizeof number, "%llu", (unsigned long long)last);
    snprintf(object, sizeof object, "%s/%s", object_kind, id);
    json_decref(*place);
    *place = json_pack("{s:s, s:f, s:s, s:s, s:s}", "id", number, "time", time_now(), "kind", kind,
                       "object", object, "name", name);
    if (take_detail)
        json_object_set_new(*place, "detail", take_detail);
    if (follower)
        follower(follower_arg, *place);
}

void events_follow(void (*told)(void *arg, const json_t *event), void *arg)
{
    follower = told;
    follower_arg = arg;
}

static bool fits(const json_t *event, const char *member, const char *value)
{
    const char *is = json_string_value(json_object_get(event, member));
    return !value || (is && strcmp(is, value) == 0);
}

json_t *events_after(uint64_t after, size_t limit, const char *kind, const char *object)
{
    json_t *list = json_array();
    bool known =
        after >= first && after <= last; /* else long ago, or by a clock that was set back */
    for (uint64_t n = known ? after + 1 : first; n <= last && limit; n++) {
        json_t *event = kept[n % EVENTS_KEPT];
        if (fits(event, "kind", kind) && fits(event, "object", object)) {
            json_array_append(list, event);
            limit--;
        }
    }
    return list;
}
