/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the API does by the guest agent: commands, files, freezing, addresses, time.
 *
 * An operation is a request of a client with its steps: questions to the agent, one after the
 * other. It ends with its answer, with the agent's refusal, or with the VM. Answers of the guest
 * are rebuilt from what was looked at, and never handed on as they came.
 */
#include "daemon/agent.h"
#include "daemon/vms.h"

#include <stdlib.h>
#include <string.h>

enum {
    ASK_MS = 10000,
    FREEZE_MS = 60000, /* it flushes disks */
    POLL_MIN_MS = 10,  /* for a command's end */
    POLL_MAX_MS = 500,
    TEXT_MAX = 64,
    LIST_MAX = 64,
};

struct operation {
    struct operation *next; /* the VM's */
    struct vm *vm;
    struct http_request *request;
    json_t *args;      /* owned */
    json_int_t handle; /* of the file, or the process */
    uint64_t deadline_ns;
    unsigned poll_ms;
    struct loop_timer *timer; /* owned; NULL: does not poll */
    json_t *result;           /* owned; while the file is being closed */
};

struct agent_action {
    const char *name;
    void (*begin)(struct operation *op);
};

/* ---- an operation ---- */

static void operation_free(struct operation *op)
{
    struct operation **at = &op->vm->operations;
    while (*at != op)
        at = &(*at)->next;
    *at = op->next;
    if (op->timer)
        loop_timer_destroy(op->timer);
    json_decref(op->args);
    json_decref(op->result);
    free(op);
}

static void operation_done(struct operation *op, json_t *take_result)
{
    if (json_object_size(take_result))
        http_reply_json(op->request, 200, take_result);
    else
        http_reply(op->request, 204, "", NULL, 0);
    operation_free(op);
}

static void operation_fail(struct operation *op, const struct err *err)
{
    struct api_error error = { 0 };
    if (err->code == EREMOTEIO)
        api_fail(&error, 409, "refused", "", "%s", err->text);
    else
        api_fail(&error, err->code == ETIMEDOUT ? 504 : 502, "agent", "", "%s", err->text);
    reply_error(op->request, &error);
    operation_free(op);
}

/* The agent's answer has not the form that it must have. */
static void operation_nonsense(struct operation *op)
{
    struct err err;
    err_set(&err, EPROTO, "the guest agent's answer makes no sense");
    operation_fail(op, &err);
}

static void operation_ask(struct operation *op, const char *command, json_t *take_args,
                          unsigned timeout_ms, agent_done done)
{
    agent_ask(op->vm->agent, command, take_args, timeout_ms, done, op);
}

static const json_t *arg_of(const struct operation *op, const char *name)
{
    return json_object_get(op->args, name);
}

/* ---- commands in the guest ---- */

/* Base64, or nothing where there was no output. False: neither. */
static bool exec_output(const json_t *answer, const char *from, json_t *to, const char *name)
{
    const json_t *value = json_object_get(answer, from);
    AUTO(buf_fini) struct buf data = { 0 };
    if (value && (!json_is_string(value) ||
                  base64_parse(json_string_value(value), json_string_length(value), &data) < 0))
        return false;
    json_object_set_new(to, name, json_string(value ? json_string_value(value) : ""));
    return true;
}

static void exec_status(void *arg, const json_t *answer, const struct err *err)
{
    struct operation *op = arg;
    struct err late;
    if (!answer) {
        operation_fail(op, err);
        return;
    }
    if (!json_is_true(json_object_get(answer, "exited"))) {
        uint64_t now = monotonic_ns();
        if (now >= op->deadline_ns) {
            err_set(&late, ETIMEDOUT, "the command still runs in the guest, as process %lld",
                    (long long)op->handle);
            operation_fail(op, &late);
            return;
        }
        loop_timer_arm(op->timer, now + op->poll_ms * 1000000ull);
        op->poll_ms = op->poll_ms * 2 < POLL_MAX_MS ? op->poll_ms * 2 : POLL_MAX_MS;
        return;
    }
    const json_t *code = json_object_get(answer, "exitcode"),
                 *signal = json_object_get(answer, "signal");
    json_t *result = json_object();
    if (!exec_output(answer, "out-data", result, "out") ||
        !exec_output(answer, "err-data", result, "err")) {
        json_decref(result);
        operation_nonsense(op);
        return;
    }
    /* As a shell has it. */
    json_int_t status = json_is_integer(code)     ? json_integer_value(code) & 255
                        : json_is_integer(signal) ? 128 + (json_integer_value(signal) & 127)
                                                  : 255;
    json_object_set_new(result, "status", json_integer(status));
    json_object_set_new(result, "truncated",
                        json_boolean(json_is_true(json_object_get(answer, "out-truncated")) ||
                                     json_is_true(json_object_get(answer, "err-truncated"))));
    operation_done(op, result);
}

static void exec_poll(void *arg)
{
    struct operation *op = arg;
    operation_ask(op, "guest-exec-status", json_pack("{s:I}", "pid", op->handle), ASK_MS,
                  exec_status);
}

static void exec_begun(void *arg, const json_t *answer, const struct err *err)
{
    struct operation *op = arg;
    const json_t *pid = json_object_get(answer, "pid");
    struct err failed;
    if (!answer) {
        operation_fail(op, err);
    } else if (!json_is_integer(pid)) {
        operation_nonsense(op);
    } else if (loop_timer_create(op->vm->daemon->loop, exec_poll, op, &op->timer, &failed) < 0) {
        operation_fail(op, &failed);
    } else {
        op->handle = json_integer_value(pid);
        op->poll_ms = POLL_MIN_MS;
        exec_poll(op);
    }
}

static void exec_begin(struct operation *op)
{
    const json_t *command = arg_of(op, "command"), *input = arg_of(op, "input");
    json_t *rest = json_array();
    for (size_t i = 1; i < json_array_size(command); i++)
        json_array_append(rest, json_array_get(command, i));
    op->deadline_ns =
        monotonic_ns() + (uint64_t)json_integer_value(arg_of(op, "timeout")) * 1000000000ull;
    json_t *args = json_pack("{s:O, s:o, s:b}", "path", json_array_get(command, 0), "arg", rest,
                             "capture-output", 1);
    if (input)
        json_object_set(args, "input-data", (json_t *)input);
    operation_ask(op, "guest-exec", args, ASK_MS, exec_begun);
}

/* ---- files in the guest ---- */

static void guest_file_closed(void *arg, const json_t *answer, const struct err *err)
{
    struct operation *op = arg;
    if (answer)
        operation_done(op, TAKE(op->result));
    else
        operation_fail(op, err);
}

static void guest_file_close(struct operation *op)
{
    operation_ask(op, "guest-file-close", json_pack("{s:I}", "handle", op->handle), ASK_MS,
                  guest_file_closed);
}

/* What went wrong is told at once; whether closing works then does not matter. */
static void guest_file_fail(struct operation *op, const struct err *err)
{
    agent_ask(op->vm->agent, "guest-file-close", json_pack("{s:I}", "handle", op->handle), ASK_MS,
              NULL, NULL);
    operation_fail(op, err);
}

static void guest_file_read(void *arg, const json_t *answer, const struct err *err)
{
    struct operation *op = arg;
    const json_t *data = json_object_get(answer, "buf-b64");
    AUTO(buf_fini) struct buf bytes = { 0 };
    struct err nonsense;
    err_set(&nonsense, EPROTO, "the guest agent's answer makes no sense");
    if (!answer) {
        guest_file_fail(op, err);
    } else if (!json_is_string(data) ||
               base64_parse(json_string_value(data), json_string_length(data), &bytes) < 0) {
        guest_file_fail(op, &nonsense);
    } else {
        bool end = json_is_true(json_object_get(answer, "eof"));
        op->result = json_pack("{s:s, s:b}", "data", json_string_value(data), "end", end);
        guest_file_close(op);
    }
}

static void guest_file_sought(void *arg, const json_t *answer, const struct err *err)
{
    struct operation *op = arg;
    if (!answer)
        guest_file_fail(op, err);
    else
        operation_ask(op, "guest-file-read",
                      json_pack("{s:I, s:O}", "handle", op->handle, "count", arg_of(op, "bytes")),
                      ASK_MS, guest_file_read);
}

static void guest_file_written(void *arg, const json_t *answer, const struct err *err)
{
    struct operation *op = arg;
    const json_t *text = arg_of(op, "data");
    AUTO(buf_fini) struct buf data = { 0 };
    struct err part;
    if (!answer) {
        guest_file_fail(op, err);
    } else if (base64_parse(json_string_value(text), json_string_length(text), &data) < 0 ||
               (size_t)json_integer_value(json_object_get(answer, "count")) != data.len) {
        err_set(&part, EREMOTEIO, "the guest agent wrote only a part of it");
        guest_file_fail(op, &part);
    } else {
        guest_file_close(op);
    }
}

static void guest_file_opened(void *arg, const json_t *answer, const struct err *err)
{
    struct operation *op = arg;
    if (!answer) {
        operation_fail(op, err);
        return;
    }
    if (!json_is_integer(answer)) {
        operation_nonsense(op);
        return;
    }
    op->handle = json_integer_value(answer);
    if (arg_of(op, "data"))
        operation_ask(op, "guest-file-write",
                      json_pack("{s:I, s:O}", "handle", op->handle, "buf-b64", arg_of(op, "data")),
                      ASK_MS, guest_file_written);
    else
        operation_ask(op, "guest-file-seek",
                      json_pack("{s:I, s:O, s:i}", "handle", op->handle, "offset",
                                arg_of(op, "offset"), "whence", 0),
                      ASK_MS, guest_file_sought);
}

static void guest_file_open(struct operation *op, const char *mode)
{
    operation_ask(op, "guest-file-open",
                  json_pack("{s:O, s:s}", "path", arg_of(op, "path"), "mode", mode), ASK_MS,
                  guest_file_opened);
}

static void read_begin(struct operation *op) { guest_file_open(op, "r"); }
static void write_begin(struct operation *op)
{
    guest_file_open(op, json_is_true(arg_of(op, "append")) ? "a" : "w");
}

/* ---- freezing, time ---- */

static void freeze_done(void *arg, const json_t *answer, const struct err *err)
{
    struct operation *op = arg;
    if (!answer)
        operation_fail(op, err);
    else if (!json_is_integer(answer))
        operation_nonsense(op);
    else
        operation_done(op, json_pack("{s:I}", "filesystems", json_integer_value(answer)));
}

static void freeze_begin(struct operation *op)
{
    operation_ask(op, "guest-fsfreeze-freeze", NULL, FREEZE_MS, freeze_done);
}

static void thaw_begin(struct operation *op)
{
    operation_ask(op, "guest-fsfreeze-thaw", NULL, FREEZE_MS, freeze_done);
}

static void plain_done(void *arg, const json_t *answer, const struct err *err)
{
    struct operation *op = arg;
    if (answer)
        operation_done(op, NULL);
    else
        operation_fail(op, err);
}

static void time_begin(struct operation *op)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    json_int_t ns = (json_int_t)now.tv_sec * 1000000000 + now.tv_nsec;
    operation_ask(op, "guest-set-time", json_pack("{s:I}", "time", ns), ASK_MS, plain_done);
}

/* ---- addresses ---- */

/* Short and printable, or NULL. */
static const char *plain_text(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    if (!text || strlen(text) > TEXT_MAX)
        return NULL;
    for (const char *c = text; *c; c++)
        if (*c < ' ' || *c > '~')
            return NULL;
    return text;
}

static json_t *interface_json(const json_t *from)
{
    const char *name = plain_text(from, "name"), *mac = plain_text(from, "hardware-address");
    const json_t *list = json_object_get(from, "ip-addresses");
    json_t *addresses = json_array();
    for (size_t i = 0; i < json_array_size(list) && i < LIST_MAX; i++) {
        const json_t *item = json_array_get(list, i);
        const char *address = plain_text(item, "ip-address");
        if (address)
            json_array_append_new(
                addresses, json_sprintf("%s/%d", address,
                                        (int)json_integer_value(json_object_get(item, "prefix"))));
    }
    return json_pack("{s:s, s:s*, s:o}", "name", name ? name : "", "mac", mac, "addresses",
                     addresses);
}

static void addresses_done(void *arg, const json_t *answer, const struct err *err)
{
    struct operation *op = arg;
    if (!answer) {
        operation_fail(op, err);
        return;
    }
    json_t *interfaces = json_array();
    for (size_t i = 0; i < json_array_size(answer) && i < LIST_MAX; i++)
        json_array_append_new(interfaces, interface_json(json_array_get(answer, i)));
    operation_done(op, json_pack("{s:o}", "interfaces", interfaces));
}

static void addresses_begin(struct operation *op)
{
    operation_ask(op, "guest-network-get-interfaces", NULL, ASK_MS, addresses_done);
}

/* ---- for the other files ---- */

static const struct agent_action actions[] = {
    { "exec", exec_begin },     { "file-read", read_begin }, { "file-write", write_begin },
    { "freeze", freeze_begin }, { "thaw", thaw_begin },      { "addresses", addresses_begin },
    { "set-time", time_begin },
};

static int agent_need(struct vm *vm, struct api_error *error)
{
    char path[PATH_MAX];
    struct err err;
    if (!vm->agent_open) {
        api_fail(error, 409, "no-agent", "", "no guest agent runs in the guest");
        api_hint(error, "install qemu-guest-agent in the guest, and give the VM \"agent\": true");
        return -1;
    }
    vm_run_path(vm, "agent.sock", path);
    if (!vm->agent && agent_create(vm->daemon->loop, path, &vm->agent, &err) < 0)
        return api_fail(error, 500, "agent", "", "%s", err.text);
    return 0;
}

bool vm_agent_action(struct vm *vm, struct http_request *request, const char *action,
                     const json_t *args)
{
    struct api_error error = { 0 };
    const struct agent_action *found = NULL;
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++)
        if (strcmp(actions[i].name, action) == 0)
            found = &actions[i];
    if (!found)
        return false;
    if (agent_need(vm, &error) < 0) {
        reply_error(request, &error);
        return true;
    }
    struct operation *op = calloc(1, sizeof *op);
    if (!op)
        abort();
    *op = (struct operation){
        .next = vm->operations, .vm = vm, .request = request, .args = json_deep_copy(args)
    };
    vm->operations = op;
    found->begin(op);
    return true;
}

void vm_agent_port(struct vm *vm, const char *port, bool open)
{
    if (port && strcmp(port, AGENT_PORT) == 0)
        vm->agent_open = open;
}

void vm_agent_status(struct vm *vm, const json_t *status)
{
    const json_t *ports = json_object_get(status, "ports");
    for (size_t i = 0; i < json_array_size(ports); i++) {
        const json_t *port = json_array_get(ports, i);
        vm_agent_port(vm, json_string_value(json_object_get(port, "name")),
                      json_is_true(json_object_get(port, "open")));
    }
}

void vm_agent_shutdown(struct vm *vm)
{
    struct api_error error = { 0 };
    if (vm->agent_open && agent_need(vm, &error) == 0) /* it answers only when it will not */
        agent_ask(vm->agent, "guest-shutdown", json_pack("{s:s}", "mode", "powerdown"), ASK_MS,
                  NULL, NULL);
}

void vm_agent_forget(struct vm *vm)
{
    struct err err;
    vm->agent_open = false;
    agent_destroy(TAKE(vm->agent));
    err_set(&err, ECONNRESET, "the VM does not run any more");
    while (vm->operations) /* those that wait for a command's end */
        operation_fail(vm->operations, &err);
}
