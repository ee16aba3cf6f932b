/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bedplate top: what VMs use, out of two looks at the daemon's metrics. */
#include "cli/cli.h"

#include "base/loop.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIRST_MS = 500 };

const struct api_field top_options[] = {
    { "delay", API_INTEGER, 0, "seconds between two looks (2)", .min = 1, .max = 3600 },
    { "once", API_BOOLEAN, 0, "only one table" },
    { .name = NULL },
};

/* {"NAME": {"cpu_seconds_total": 1.5, ...}}: the metrics bedplate_vm_... with no label but vm and
 * id. */
static json_t *parse(const char *text)
{
    json_t *vms = json_object();
    for (const char *line = text; line && *line;
         line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        char metric[80], name[80], id[40];
        double value;
        if (sscanf(line, "bedplate_vm_%79[a-z_]{vm=\"%79[^\"]\",id=\"%39[^\"]\"} %lf", metric, name,
                   id, &value) != 4)
            continue;
        json_t *vm = json_object_get(vms, name);
        if (!vm)
            json_object_set_new(vms, name, vm = json_object());
        json_object_set_new(vm, metric, json_real(value));
    }
    return vms;
}

static double number(const json_t *vm, const char *metric)
{
    return json_number_value(json_object_get(vm, metric));
}

/* A number for programs, a size for people. */
static json_t *bytes_json(double bytes, bool plain)
{
    char text[32];
    return plain ? json_integer((json_int_t)bytes)
                 : json_string(size_print((uint64_t)bytes, text, sizeof text));
}

/* Rows for output_table, those that use most first. */
static json_t *rows(const json_t *before, const json_t *now, double seconds, bool plain)
{
    json_t *list = json_array(), *vm;
    const char *name;
    json_object_foreach((json_t *)now, name, vm)
    {
        const json_t *was = json_object_get(before, name);
        if (number(vm, "up") == 0)
            continue;
        double cpu = number(vm, "cpu_seconds_total") - number(was, "cpu_seconds_total");
        double percent = was && seconds > 0 && cpu > 0 ? cpu / seconds * 100 : 0;
        json_t *row =
            json_pack("{s:s, s:o, s:I, s:o, s:o}", "name", name, "cpu%",
                      json_sprintf("%.1f", percent), "cpus", (json_int_t)number(vm, "vcpus"),
                      "memory", bytes_json(number(vm, "memory_bytes"), plain), "resident",
                      bytes_json(number(vm, "resident_memory_bytes"), plain));
        size_t at = 0;
        while (at < json_array_size(list) &&
               strtod(json_string_value(json_object_get(json_array_get(list, at), "cpu%")), NULL) >=
                   percent)
            at++;
        json_array_insert_new(list, at, row);
    }
    return list;
}

static int look(struct cli *cli, json_t **out)
{
    AUTO(buf_fini) struct buf text = { 0 };
    int r = client_text(cli, "/metrics", &text);
    if (r == CLI_OK)
        *out = parse((const char *)text.data);
    return r;
}

int do_top(struct cli *cli, const struct command *command, int argc, char **argv)
{
    static const char *const columns[] = { "name", "cpu%", "cpus", "memory", "resident", NULL };
    AUTO(json_decref) json_t *own = json_object();
    AUTO(json_decref) json_t *before = NULL;
    int r = args_take(top_options, &argc, argv, own);
    if (r == CLI_OK)
        r = want_words(command, argc, 0, 0);
    int delay_ms = (int)json_integer_value(json_object_get(own, "delay")) * 1000;
    bool once = json_is_true(json_object_get(own, "once")) || !isatty(STDOUT_FILENO);
    if (r == CLI_OK)
        r = look(cli, &before);
    uint64_t then = monotonic_ns();
    for (bool first = true; r == CLI_OK; first = false) {
        AUTO(json_decref) json_t *now = NULL;
        poll(NULL, 0, delay_ms ? delay_ms : first ? FIRST_MS : 2000);
        r = look(cli, &now);
        if (r != CLI_OK)
            break;
        uint64_t time = monotonic_ns();
        AUTO(json_decref) json_t *list = rows(before, now, (double)(time - then) / 1e9, cli->json);
        if (!once)
            printf("\033[H\033[J");
        if (cli->json)
            output_json(list);
        else
            output_table(list, columns);
        fflush(stdout);
        json_decref(before);
        before = TAKE(now);
        then = time;
        if (once)
            break;
    }
    return r;
}
