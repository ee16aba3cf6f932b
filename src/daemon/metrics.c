/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * /metrics for Prometheus: the daemon, and each VM by the kernel's word about its process and by
 * its own (the control command counters). A VM that does not answer in time is told without the
 * latter.
 */
#include "base/text.h"
#include "daemon/vms.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ANSWER_MS = 1000, LABELS = 160 };

/* One VM's answer. */
struct sample {
    struct scrape *scrape;
    char id[40];
    json_t *counters; /* NULL: none came */
};

/* Until all have answered, also after the client was: answers may come late. */
struct scrape {
    struct daemon *daemon;
    struct http_request *request; /* NULL: it was answered */
    struct loop_timer *timer;
    struct sample *samples;
    size_t count, waiting;
};

/* ---- text ---- */

static void family(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void single(struct buf *out, const char *name, const char *type, const char *help,
                   uint64_t value)
{
    family(out, name, type, help);
    buf_printf(out, "%s %llu\n", name, (unsigned long long)value);
}

static void daemon_metrics(struct daemon *daemon, struct buf *out)
{
    unsigned defined, running;
    size_t jobs, under_way = 0;
    char path[PATH_MAX + 8];
    struct stat st;
    struct object **list = objects_list(daemon->objects, "jobs", &jobs);
    for (size_t i = 0; i < jobs; i++)
        under_way += !json_object_get(list[i]->json, "ended");
    vms_count(daemon, &defined, &running);
    family(out, "bedplate_build_info", "gauge", "The daemon's release.");
    buf_printf(out, "bedplate_build_info{version=\"%s\"} 1\n", BEDPLATE_VERSION);
    single(out, "bedplate_vms", "gauge", "Virtual machines that are defined.", defined);
    single(out, "bedplate_vms_running", "gauge", "Virtual machines that run.", running);
    single(out, "bedplate_jobs_running", "gauge", "Jobs that are under way.", under_way);
    single(out, "bedplate_http_requests_total", "counter", "Requests to the API.",
           daemon->requests);
    single(out, "bedplate_http_refused_total", "counter",
           "Requests that were refused for who asked.", daemon->refused);
    single(out, "bedplate_uptime_seconds", "gauge", "Since the daemon started.",
           (monotonic_ns() - daemon->started_ns) / 1000000000);
    snprintf(path, sizeof path, "%s/store", daemon->state_dir);
    if (stat(path, &st) == 0)
        single(out, "bedplate_store_size_bytes", "gauge", "File of the store.",
               (uint64_t)st.st_size);
}

/* ---- of one VM ---- */

static double cpu_seconds(pid_t pid)
{
    char path[40];
    unsigned long long user = 0, system = 0;
    AUTO(buf_fini) struct buf text = { 0 };
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (pid <= 0 || file_read(path, 4096, &text, NULL) < 0)
        return 0;
    const char *rest = strrchr((const char *)text.data, ')'); /* fields 14 and 15, proc(5) */
    if (!rest || sscanf(rest, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
                        &system) != 2)
        return 0;
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static double resident_bytes(pid_t pid)
{
    char path[40];
    unsigned long long pages = 0;
    AUTO(buf_fini) struct buf text = { 0 };
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    if (pid <= 0 || file_read(path, 4096, &text, NULL) < 0 ||
        sscanf((const char *)text.data, "%*u %llu", &pages) != 1)
        return 0;
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static double object_number(const struct vm *vm, const char *member)
{
    return json_number_value(json_object_get(vm_object(vm)->json, member));
}

static double up(const struct vm *vm) { return vm->real == UP; }
static double cpu(const struct vm *vm) { return cpu_seconds(vm->pid); }
static double resident(const struct vm *vm) { return resident_bytes(vm->pid); }
static double started(const struct vm *vm) { return object_number(vm, "started"); }
static double restarts(const struct vm *vm) { return object_number(vm, "restarts"); }
static double status_number(const struct vm *vm, const char *member)
{
    return json_number_value(json_object_get(vm->status, member));
}
static double vcpus(const struct vm *vm) { return status_number(vm, "cpus"); }
static double memory(const struct vm *vm) { return status_number(vm, "memory"); }
static double target(const struct vm *vm) { return status_number(vm, "memory-target"); }

static const struct {
    const char *name, *type, *help;
    double (*value)(const struct vm *vm);
    bool only_up;
} vm_metrics[] = {
    { "bedplate_vm_up", "gauge", "Whether it runs.", up, false },
    { "bedplate_vm_restarts_total", "counter", "Starts by its restart policy.", restarts, false },
    { "bedplate_vm_start_time_seconds", "gauge", "When it last started.", started, true },
    { "bedplate_vm_cpu_seconds_total", "counter", "Time of the host's CPUs that it took.", cpu,
      true },
    { "bedplate_vm_resident_memory_bytes", "gauge", "Memory of the host that it takes.", resident,
      true },
    { "bedplate_vm_vcpus", "gauge", "vCPUs.", vcpus, true },
    { "bedplate_vm_memory_bytes", "gauge", "Memory that the guest was given.", memory, true },
    { "bedplate_vm_memory_target_bytes", "gauge", "Memory that the guest is asked to do with.",
      target, true },
};

/* Names are letters, digits and ._- only: nothing to escape. */
static void labels(const struct vm *vm, char out[LABELS])
{
    snprintf(out, LABELS, "vm=\"%s\",id=\"%s\"", object_text(vm_object(vm), "name"), vm->id);
}

static struct vm *sample_vm(const struct scrape *scrape, size_t i)
{
    return objects_get(scrape->daemon->objects, "vms", scrape->samples[i].id)
               ? vm_of(scrape->daemon, scrape->samples[i].id)
               : NULL; /* deleted meanwhile */
}

static void vms_metrics(const struct scrape *scrape, struct buf *out)
{
    char text[LABELS];
    family(out, "bedplate_vm_state", "gauge", "Always 1; the state is a label.");
    for (size_t i = 0; i < scrape->count; i++) {
        const struct vm *vm = sample_vm(scrape, i);
        if (!vm)
            continue;
        labels(vm, text);
        buf_printf(out, "bedplate_vm_state{%s,state=\"%s\"} 1\n", text,
                   object_text(vm_object(vm), "state"));
    }
    for (unsigned m = 0; m < sizeof vm_metrics / sizeof *vm_metrics; m++) {
        family(out, vm_metrics[m].name, vm_metrics[m].type, vm_metrics[m].help);
        for (size_t i = 0; i < scrape->count; i++) {
            const struct vm *vm = sample_vm(scrape, i);
            if (!vm || (vm_metrics[m].only_up && vm->real != UP))
                continue;
            labels(vm, text);
            buf_printf(out, "%s{%s} %.15g\n", vm_metrics[m].name, text, vm_metrics[m].value(vm));
        }
    }
}

/* What only the VM's process knows. */
static void net_metrics(const struct scrape *scrape, struct buf *out)
{
    static const struct {
        const char *name, *help, *member;
    } all[] = {
        { "bedplate_vm_network_sent_frames_total", "Frames that the guest sent.", "sent" },
        { "bedplate_vm_network_received_frames_total", "Frames that the guest got.", "received" },
        { "bedplate_vm_network_dropped_frames_total", "Frames that were dropped.", "dropped" },
    };
    char text[LABELS];
    for (unsigned m = 0; m < 3; m++) {
        family(out, all[m].name, "counter", all[m].help);
        for (size_t i = 0; i < scrape->count; i++) {
            const struct vm *vm = sample_vm(scrape, i);
            const json_t *nets = json_object_get(scrape->samples[i].counters, "nets");
            for (size_t n = 0; vm && n < json_array_size(nets); n++) {
                labels(vm, text);
                buf_printf(
                    out, "%s{%s,card=\"%zu\"} %.15g\n", all[m].name, text, n,
                    json_number_value(json_object_get(json_array_get(nets, n), all[m].member)));
            }
        }
    }
}

/* ---- asking ---- */

static void scrape_free(struct scrape *scrape)
{
    for (size_t i = 0; i < scrape->count; i++)
        json_decref(scrape->samples[i].counters);
    if (scrape->timer)
        loop_timer_destroy(scrape->timer);
    free(scrape->samples);
    free(scrape);
}

static void scrape_answer(struct scrape *scrape)
{
    AUTO(buf_fini) struct buf out = { 0 };
    daemon_metrics(scrape->daemon, &out);
    vms_metrics(scrape, &out);
    net_metrics(scrape, &out);
    http_reply(TAKE(scrape->request), 200, "text/plain; version=0.0.4; charset=utf-8", out.data,
               out.len);
}

static void scrape_late(void *arg) { scrape_answer(arg); }

static void counters_known(void *arg, const json_t *ok, const struct err *err)
{
    struct sample *sample = arg;
    struct scrape *scrape = sample->scrape;
    sample->counters = ok ? json_deep_copy(ok) : NULL;
    if (--scrape->waiting)
        return;
    if (scrape->request)
        scrape_answer(scrape);
    scrape_free(scrape);
}

void metrics_reply(struct daemon *daemon, struct http_request *request)
{
    size_t count;
    struct object **list = objects_list(daemon->objects, "vms", &count);
    struct scrape *scrape = calloc(1, sizeof *scrape);
    if (!scrape || !(scrape->samples = calloc(count + 1, sizeof *scrape->samples)) ||
        loop_timer_create(daemon->loop, scrape_late, scrape, &scrape->timer, NULL) < 0)
        abort();
    scrape->daemon = daemon;
    scrape->request = request;
    scrape->count = count;
    scrape->waiting = 1; /* this call itself */
    for (size_t i = 0; i < count; i++) {
        struct sample *sample = &scrape->samples[i];
        sample->scrape = scrape;
        snprintf(sample->id, sizeof sample->id, "%s", list[i]->id);
    }
    for (size_t i = 0; i < count; i++) {
        struct vm *vm = vm_of(daemon, scrape->samples[i].id);
        if (vm->real != UP || !vm->client)
            continue;
        scrape->waiting++;
        vmm_client_ask(vm->client, "counters", NULL, -1, counters_known, &scrape->samples[i]);
    }
    if (scrape->waiting == 1) {
        scrape_answer(scrape);
        scrape_free(scrape);
        return;
    }
    scrape->waiting--;
    loop_timer_arm(scrape->timer, monotonic_ns() + ANSWER_MS * 1000000ull);
}
