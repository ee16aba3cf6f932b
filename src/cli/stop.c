/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bedplate stop --all: whatever runs, the way a host that goes down needs it.
 *
 * VMs without autostart come first, then the others against the order in which the host starts
 * them. VMs of one order are asked together; those of the next one when all of them have ended, so
 * that each has the whole time limit.
 */
#include "base/loop.h"
#include "cli/cli.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum { BUSY_POLL_MS = 100 };

/* clang-format off */
const struct api_field stop_options[] = {
    { "all", API_BOOLEAN, 0, "all VMs that run; those with autostart one after the other, the last first" },
    { .name = NULL }
};
/* clang-format on */

/* Is there a process, or will one come by itself? */
static bool is_up(const json_t *vm)
{
    static const char *const states[] = { "starting", "running", "paused", "stopping", "saving" };
    const char *state = json_string_value(json_object_get(vm, "state"));
    bool up = false;
    for (unsigned i = 0; i < sizeof states / sizeof *states; i++)
        up |= state && strcmp(state, states[i]) == 0;
    return up;
}

/* Higher ones stop first. */
static json_int_t rank(const json_t *vm)
{
    const json_t *autostart = json_object_get(vm, "autostart");
    return json_is_true(json_object_get(autostart, "enabled"))
               ? json_integer_value(json_object_get(autostart, "order"))
               : INT64_MAX;
}

static int by_rank(const void *a, const void *b)
{
    json_int_t x = rank(*(json_t *const *)a), y = rank(*(json_t *const *)b);
    return x > y ? -1 : x < y;
}

/* The job becomes *job; NULL: there is nothing to wait for. *busy: another one is under way. */
static int ask_end(struct cli *cli, const json_t *vm, const char *action, const json_t *body,
                   json_t **job, bool *busy)
{
    AUTO(json_decref) json_t *answer = NULL;
    AUTO(free)
    char *path = path_of("vms", json_string_value(json_object_get(vm, "id")), action);
    long status = 0;
    *job = NULL;
    *busy = false;
    int r = client_status(cli, "POST", path, json_deep_copy(body), &answer, &status);
    if (r != CLI_OK)
        return r;
    const char *code = json_string_value(json_object_get(json_object_get(answer, "error"), "code"));
    *busy = code && strcmp(code, "busy") == 0;
    if (status < 400)
        *job = TAKE(answer);
    else if (!*busy && status != 404 && !(code && strcmp(code, "saved") == 0))
        return client_refused(answer, status);
    return CLI_OK; /* it has gone or was saved meanwhile, where nothing is to be done */
}

/* What is under way for a VM may end until then. */
static int end_busy(struct cli *cli, const json_t *vm, const json_t *args, uint64_t until,
                    json_t **job)
{
    bool busy = true;
    int r = CLI_OK;
    *job = NULL;
    while (r == CLI_OK && busy && cli->wait && monotonic_ns() < until) {
        poll(NULL, 0, BUSY_POLL_MS);
        r = ask_end(cli, vm, "stop", args, job, &busy);
    }
    return r == CLI_OK && busy ? ask_end(cli, vm, "kill", NULL, job, &busy) : r;
}

/* VMs of one rank: all are asked, then all are waited for. */
static int end_together(struct cli *cli, json_t *const *vms, size_t count, const json_t *args)
{
    AUTO(json_decref) json_t *jobs = json_array();
    AUTO(json_decref) json_t *later = json_array();
    uint64_t limit_s = (uint64_t)json_integer_value(json_object_get(args, "timeout"));
    uint64_t until = monotonic_ns() + limit_s * 1000000000ull;
    json_t *job, *vm;
    size_t i;
    int status = CLI_OK;
    for (i = 0; i < count; i++) {
        bool busy;
        int r = ask_end(cli, vms[i], "stop", args, &job, &busy);
        json_array_append_new(jobs, job);
        if (busy)
            json_array_append(later, vms[i]);
        status = r == CLI_OK ? status : r;
    }
    json_array_foreach(later, i, vm)
    {
        int r = end_busy(cli, vm, args, until, &job);
        json_array_append_new(jobs, job);
        status = r == CLI_OK ? status : r;
    }
    json_array_foreach(jobs, i, job)
    {
        int r = client_job(cli, job);
        status = r == CLI_OK ? status : r;
    }
    return status;
}

int stop_all(struct cli *cli, const json_t *args)
{
    AUTO(json_decref) json_t *all = NULL;
    int status = list_fetch(cli, "vms", NULL, &all);
    size_t count = 0;
    json_t **vms = malloc((json_array_size(all) + 1) * sizeof *vms);
    if (!vms)
        abort();
    for (size_t i = 0; i < json_array_size(all); i++)
        if (is_up(json_array_get(all, i)))
            vms[count++] = json_array_get(all, i);
    qsort(vms, count, sizeof *vms, by_rank);
    for (size_t from = 0, to; from < count; from = to) {
        for (to = from + 1; to < count && rank(vms[to]) == rank(vms[from]);)
            to++;
        int r = end_together(cli, vms + from, to - from, args);
        status = r == CLI_OK ? status : r;
    }
    free(vms);
    return status;
}
