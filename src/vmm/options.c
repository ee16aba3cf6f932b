/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Options from the command line and configuration files, and what no single one can see. In JSON a
 * text may be a number, parts may be an object with the same keys, and what may be repeated may be
 * an array.
 */
#include "vmm/options_table.h"

#include "base/checked.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "display/agent_wire.h"
#include "engine/x86.h"
#include "vmm/exit_status.h"
#include "vmm/options_disk.h"
#include "vmm/options_words.h"

#include <string.h>

/* ---- text ---- */

/* Repeating a key within one disk or card would drop the first without a word; hostfwd adds up. */
static int parts_duplicate(const char *const *seen, unsigned count, const char *key,
                           struct err *err)
{
    for (unsigned i = 0; i < count; i++)
        if (strcmp(seen[i], key) == 0 && strcmp(key, "hostfwd") != 0)
            return err_set(err, EINVAL, "'%s' is given twice", key);
    return 0;
}

static int option_parts(struct options *o, const struct option *option, const char *text,
                        struct err *err)
{
    enum { MAX_PARTS = 32 };
    const char *seen[MAX_PARTS];
    unsigned count = 0;
    AUTO(free) char *copy = strdup(text);
    if (!copy)
        return err_set(err, ENOMEM, "out of memory");
    char *rest = copy;
    int r = option->part(o, option->first, strsep(&rest, ","), err);
    while (r == 0 && rest) {
        char *value = strsep(&rest, ",");
        const char *key = strsep(&value, "=");
        if (!*key)
            return err_set(err, EINVAL, "'%.80s' has a comma with nothing behind it", text);
        if (strcmp(key, option->first) == 0 || count == MAX_PARTS)
            return err_set(err, EINVAL, "'%.80s': the %s comes first and once", text,
                           option->first);
        r = parts_duplicate(seen, count, key, err);
        seen[count++] = key;
        if (r == 0)
            r = option->part(o, key, value, err);
    }
    return r;
}

static int option_set(struct options *o, const struct option *option, const char *value,
                      struct err *err)
{
    int r = option->part ? option_parts(o, option, value, err) : option->set(o, value, err);
    return r;
}

/* ---- JSON ---- */

/* The text form of a scalar, in buf or in the value itself. */
static const char *json_scalar(const json_t *value, char buf[24])
{
    if (json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value))
        return json_string_value(value);
    if (!json_is_integer(value))
        return NULL;
    snprintf(buf, 24, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    return buf;
}

static int json_part(struct options *o, const struct option *option, const char *key,
                     const json_t *value, struct err *err)
{
    char buf[24];
    if (json_is_false(value))
        return 0;
    if (json_is_true(value))
        return option->part(o, key, NULL, err);
    const char *text = json_scalar(value, buf);
    if (!text)
        return err_set(err, EINVAL, "'%.60s' must be a string, a number, true or false", key);
    return option->part(o, key, text, err);
}

static int json_parts(struct options *o, const struct option *option, const json_t *object,
                      struct err *err)
{
    const json_t *first = json_object_get(object, option->first);
    if (!json_is_string(first))
        return err_set(err, EINVAL, "the string '%s' is missing", option->first);
    int r = json_part(o, option, option->first, first, err);

    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        if (r < 0)
            return r;
        if (strcmp(key, option->first) == 0)
            continue;
        if (!json_is_array(value)) {
            r = json_part(o, option, key, value, err);
            continue;
        }
        for (size_t i = 0; r == 0 && i < json_array_size(value); i++)
            r = json_part(o, option, key, json_array_get(value, i), err);
    }
    return r;
}

static int json_option_one(struct options *o, const struct option *option, const json_t *value,
                           struct err *err)
{
    char buf[24];
    if (option->part && json_is_object(value))
        return json_parts(o, option, value, err);
    if (!option->value) {
        if (!json_is_boolean(value))
            return err_set(err, EINVAL, "must be true or false");
        return json_is_true(value) ? option->set(o, NULL, err) : 0;
    }
    const char *text = json_scalar(value, buf);
    if (!text)
        return err_set(err, EINVAL, "must be %s",
                       option->part ? "a string or an object" : "a string or a number");
    return option_set(o, option, text, err);
}

static int json_option(struct options *o, const struct option *option, const json_t *value,
                       struct err *err)
{
    if (!json_is_array(value) || !(option->flags & OPTION_MANY))
        return json_option_one(o, option, value, err);
    int r = 0;
    for (size_t i = 0; r == 0 && i < json_array_size(value); i++)
        r = json_option_one(o, option, json_array_get(value, i), err);
    return r;
}

int options_parse_json(const char *text, size_t len, struct options *options, struct err *err)
{
    AUTO(json_decref) json_t *root = NULL;
    int r = json_parse(text, len, &root, err);
    if (r < 0)
        return r;
    if (!json_is_object(root))
        return err_set(err, EINVAL, "the configuration must be a JSON object");

    uint64_t from_cli = options->given;
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value)
    {
        const struct option *option = option_find(key, strlen(key));
        if (!option)
            return unknown_word(err, "option", "", key, option_name);
        if (option->flags & OPTION_CLI_ONLY)
            return err_set(err, EINVAL, "'%s' belongs on the command line", key);
        if (from_cli & option_bit(option))
            continue;
        r = json_option(options, option, value, err);
        if (r < 0)
            return err_prefix(err, "%s", key);
        if (!json_is_false(value))
            options->given |= option_bit(option);
    }
    return 0;
}

/* ---- command line ---- */

static int option_missing_value(const struct option *option, const char *next, struct err *err)
{
    if (!next)
        return err_set(err, EINVAL, "--%s needs a value: --%s %s", option->name, option->name,
                       option->value);
    return err_set(err, EINVAL,
                   "--%s needs a value: --%s %s (if it shall be '%.40s', write --%s=%.40s)",
                   option->name, option->name, option->value, next, option->name, next);
}

/* Takes one option with its value; *used: how many words. */
static int argument_parse(struct options *o, char *const *argv, int *used, struct err *err)
{
    const char *word = argv[0];
    if (word[0] != '-' || !word[1])
        return err_set(
            err, EINVAL,
            "unexpected argument '%.80s'; a kernel is given by --kernel, a disk by --disk", word);
    const char *name = word + (word[1] == '-' ? 2 : 1);
    size_t len = strcspn(name, "=");
    const struct option *option = word[1] == '-' ? option_find(name, len) : NULL;
    if (!option) {
        char bare[40];
        snprintf(bare, sizeof bare, "%.*s", (int)(len < 39 ? len : 39), name);
        const char *guess = options_guess(bare, option_name);
        if (guess && *guess)
            return err_set(err, EINVAL, "unknown option '%.60s'; did you mean --%s?", word, guess);
        return err_set(err, EINVAL, "unknown option '%.60s'; --help lists all", word);
    }
    if ((o->given & option_bit(option)) && !(option->flags & OPTION_MANY))
        return err_set(err, EINVAL, "--%s is given twice; give it once", option->name);

    const char *value = name[len] ? name + len + 1 : NULL;
    *used = 1;
    if (!option->value && value)
        return err_set(err, EINVAL, "--%s takes no value", option->name);
    if (option->value && !value) {
        value = argv[1];
        if (!value || strncmp(value, "--", 2) == 0)
            return option_missing_value(option, value, err);
        *used = 2;
    }
    o->given |= option_bit(option);
    int r = option_set(o, option, value, err);
    return r < 0 ? err_prefix(err, "--%s", option->name) : 0;
}

static int config_load(struct options *o, struct err *err)
{
    AUTO(buf_fini) struct buf text = { 0 };
    int r = file_read(o->config, JSON_MAX_BYTES, &text, err);
    if (r == 0)
        r = options_parse_json((const char *)text.data, text.len, o, err);
    if (r < 0 && text.data)
        err_prefix(err, "%s", o->config);
    return r;
}

static bool is_pc(const struct options *o) { return strncmp(o->profile, "pc-", 3) == 0; }

/* What a person expects, unless somebody else is at the agent's port. What a saved VM has is known
 * later. */
static int clipboard_default(struct options *o, struct err *err)
{
    const struct viewer_options *v = &o->viewer;
    bool taken = o->port_count == OPTIONS_MAX_PORTS || !is_pc(o);
    for (unsigned i = 0; i < o->port_count; i++)
        taken |= strcmp(o->ports[i].name, CLIPBOARD_PORT) == 0;
    if (o->restore || !v->address || v->no_clipboard || (taken && !v->clipboard))
        return 0;
    int r = options_clipboard_port(o, err);
    return r < 0 ? err_prefix(err, "--display: clipboard") : 0;
}

static int defaults_set(struct options *o, struct err *err)
{
    int r = 0;
    if (!o->engine)
        r = text_set(&o->engine, "auto", err);
    if (r == 0 && !o->profile)
        r = text_set(&o->profile, "pc-1", err);
    if (!o->cpus)
        o->cpus = 1;
    if (!o->memory)
        o->memory = 512ull << 20;
    if (!o->kernel && !o->firmware && !o->restore && o->disk_count)
        r = r < 0 ? r : text_set(&o->firmware, "bios", err);
    if (!*o->boot.order)
        strcpy(o->boot.order, "cdn");
    if (o->boot.menu && !o->boot.timeout_ms)
        o->boot.timeout_ms = 3000;
    if (!options_given(o, "serial") && o->console.kind != STREAM_STDIO)
        o->serial.kind = STREAM_STDIO;
    if (!options_given(o, "video"))
        o->video = o->viewer.address ? VIDEO_VGA : VIDEO_NONE;
    /* Firmware and boot loaders of a PC show something, too. A saved VM brings its own. */
    if (o->video == VIDEO_VIRTIO && r == 0 && is_pc(o) && !o->restore)
        o->video = VIDEO_VIRTIO_VGA;
    if (!options_given(o, "balloon"))
        o->balloon = true;
    /* With a tablet the pointer is where the viewer's is. */
    if (r == 0 && o->viewer.address && !o->restore && !options_given(o, "usb"))
        r = option_set(o, option_find("usb", 3), "tablet", err);
    return r == 0 ? clipboard_default(o, err) : r;
}

/* What no single option can see. */
static int options_check(const struct options *o, struct err *err)
{
    if (o->restore && !o->kernel && (o->initrd || o->cmdline))
        return err_set(
            err, EINVAL,
            "--restore goes on where the saved VM stood; leave out --%s, or give --kernel too",
            o->initrd ? "initrd" : "cmdline");
    if (!o->restore && !o->kernel && !o->firmware)
        return err_set(err, EINVAL,
                       "nothing to boot; give --disk FILE, --kernel FILE, --firmware or --restore "
                       "FILE");
    if (o->kernel && o->firmware && strcmp(o->firmware, "bios") == 0)
        return err_set(err, EINVAL,
                       "--kernel: a BIOS loads no kernel; leave out --firmware, or take uefi");
    if (o->restore_once && !o->restore)
        return err_set(err, EINVAL, "--restore-once is for --restore FILE; give that, too");
    if (o->restore && o->firmware)
        return err_set(err, EINVAL, "--restore brings its firmware along; leave out --firmware");
    if (o->uefi_vars && !o->firmware && !o->restore)
        return err_set(err, EINVAL, "--uefi-vars is for --firmware uefi; give that, too");
    if (options_given(o, "boot") && !o->firmware && !o->restore)
        return err_set(err, EINVAL, "--boot is for firmware; give --firmware bios or uefi, too");
    if (o->memory > OPTIONS_MEMORY_MAX)
        return err_set(err, EINVAL, "too much memory");
    if (o->viewer.address && !o->video)
        return err_set(err, EINVAL,
                       "--display shows the display adapter's screen; leave out --video none");
    for (unsigned i = 0; i < o->disk_count; i++) {
        int r = options_disk_check(&o->disks[i], err);
        if (r < 0)
            return err_prefix(err, "--disk %s", o->disks[i].path ? o->disks[i].path : "none");
    }
    for (unsigned i = 0; i < o->disk_count; i++)
        for (unsigned j = 0; j < i; j++)
            if (o->disks[i].path && o->disks[j].path &&
                strcmp(o->disks[i].path, o->disks[j].path) == 0 &&
                !(o->disks[i].readonly && o->disks[j].readonly))
                return err_set(
                    err, EINVAL,
                    "--disk %s is given twice; a disk that is written belongs to one place",
                    o->disks[i].path);
    return 0;
}

int options_parse(int argc, char *const argv[], struct options *out, struct err *err)
{
    *out = (struct options){ 0 };
    for (int i = 1, used = 1; i < argc; i += used) {
        int r = argument_parse(out, argv + i, &used, err);
        if (r < 0)
            return r;
    }
    if (out->help || out->version || out->man)
        return 0;
    int r = out->config ? config_load(out, err) : 0;
    if (r == 0 && out->check && !out->config && out->given == option_bit(option_find("check", 5)))
        return err_set(err, EINVAL,
                       "--check has nothing to check; add --config FILE or other options");
    if (r == 0)
        r = defaults_set(out, err);
    return r < 0 ? r : options_check(out, err);
}

void options_fini(struct options *o)
{
    char **texts[] = { &o->engine,
                       &o->engine_options,
                       &o->cpu,
                       &o->profile,
                       &o->kernel,
                       &o->firmware,
                       &o->uefi_vars,
                       &o->debug_console.path,
                       &o->initrd,
                       &o->cmdline,
                       &o->run_dir,
                       &o->control,
                       &o->config,
                       &o->save,
                       &o->restore,
                       &o->gdb.unix_path,
                       &o->serial.path,
                       &o->console.path,
                       &o->viewer.address,
                       &o->viewer.keymap,
                       &o->viewer.password_file,
                       &o->viewer.tls_cert,
                       &o->viewer.tls_key,
                       &o->viewer.tls_ca };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        free(*texts[i]);
        *texts[i] = NULL;
    }
    for (unsigned i = 0; i < o->disk_count; i++) {
        options_disk_fini(&o->disks[i]);
    }
    for (unsigned i = 0; i < o->net_count; i++) {
        free(o->nets[i].tap);
        free(o->nets[i].tftp);
        free(o->nets[i].bootfile);
        free(o->nets[i].id);
        for (unsigned j = 0; j < o->nets[i].hostfwd_count; j++)
            free(o->nets[i].hostfwd[j]);
    }
    for (unsigned i = 0; i < o->port_count; i++) {
        free(o->ports[i].name);
        free(o->ports[i].path);
    }
    o->disk_count = o->net_count = o->port_count = 0;
}

/* ---- the host ---- */

/* A line "Name:  123 kB" of /proc/meminfo in bytes; 0 when it is not there. */
static uint64_t meminfo(const char *name)
{
    AUTO(buf_fini) struct buf text = { 0 };
    if (file_read("/proc/meminfo", 1 << 16, &text, NULL) < 0)
        return 0;
    const char *line = strstr((const char *)text.data, name);
    return line ? strtoull(line + strlen(name), NULL, 10) * 1024 : 0;
}

int options_check_host(const struct options *o, struct err *err)
{
    uint64_t total = meminfo("MemTotal:"), available = meminfo("MemAvailable:");
    char want[32], have[32];
    size_print(o->memory, want, sizeof want);
    if (total && o->memory > total)
        return err_set(err, ENOMEM, "--memory: the host has %s, not %s; give the VM less",
                       size_print(total, have, sizeof have), want);
    if (available && o->memory > available)
        log_warning("--memory: only %s of the host's memory is free, the VM may use %s",
                    size_print(available, have, sizeof have), want);
    return 0;
}

/* ---- help ---- */

void options_print_help(FILE *to)
{
    fprintf(to,
            "bedplate-vmm %s runs one virtual machine.\n\n"
            "usage: bedplate-vmm --disk FILE [options]\n"
            "       bedplate-vmm --kernel FILE [options]\n"
            "       bedplate-vmm --restore FILE [options]\n\n",
            BEDPLATE_VERSION);
    for (size_t i = 0; i < option_count; i++) {
        const struct option *option = &option_table[i];
        if (option->flags & OPTION_HIDDEN)
            continue;
        char left[160];
        snprintf(left, sizeof left, "--%s%s%s", option->name, option->value ? " " : "",
                 option->value ? option->value : "");
        if (strlen(left) > 24)
            fprintf(to, "  %s\n%26s %s\n", left, "", option->help);
        else
            fprintf(to, "  %-24s %s\n", left, option->help);
    }
    fprintf(to, "\nexit status: 0 when the guest powered off; the man page bedplate-vmm(1) lists "
                "the others\n");
}

/* Text in roff: a leading dot or quote would be a request, a hyphen is written \-. */
static void man_text(FILE *to, const char *text)
{
    if (*text == '.' || *text == '\'')
        fputs("\\&", to);
    for (; *text; text++) {
        if (*text == '-')
            fputs("\\-", to);
        else if (*text == '\\')
            fputs("\\\\", to);
        else
            fputc(*text, to);
    }
}

static void man_option(FILE *to, const struct option *option)
{
    fputs(".TP\n\\fB\\-\\-", to);
    man_text(to, option->name);
    fputs("\\fR", to);
    if (option->value) {
        fputs(" \\fI", to);
        man_text(to, option->value);
        fputs("\\fR", to);
    }
    fputs("\n", to);
    man_text(to, option->help);
    fputs(".\n", to);
    if (option->more) {
        man_text(to, option->more);
        fputs("\n", to);
    }
}

void options_print_man(FILE *to)
{
    fputs(".TH BEDPLATE\\-VMM 1 \"\" \"Bedplate " BEDPLATE_VERSION "\" \"User Commands\"\n"
          ".SH NAME\nbedplate\\-vmm \\- run one virtual machine\n"
          ".SH SYNOPSIS\n.B bedplate\\-vmm \\-\\-kernel\n.IR FILE \" [options]\"\n.br\n"
          ".B bedplate\\-vmm \\-\\-restore\n.IR FILE \" [options]\"\n"
          ".SH DESCRIPTION\n"
          "bedplate\\-vmm opens everything that its virtual machine needs, gives up all further "
          "rights, and runs it.\n"
          "Each option can also be written as \\fB\\-\\-name=value\\fR.\n"
          ".SH OPTIONS\n",
          to);
    for (size_t i = 0; i < option_count; i++)
        if (!(option_table[i].flags & OPTION_HIDDEN))
            man_option(to, &option_table[i]);
    fputs(".SH CPU MODELS\n", to);
    for (const struct cpu_model *model = cpu_models; model->name; model++) {
        fputs(".TP\n\\fB", to);
        man_text(to, model->name);
        fputs("\\fR\n", to);
        man_text(to, model->about);
        fputs("\n", to);
    }
    fputs(
        ".SH KEYS\nOn a terminal, Ctrl\\-A is followed by a key: X ends the VM, H lists the keys, "
        "Ctrl\\-A sends one "
        "Ctrl\\-A to the guest.\n"
        ".SH SIGNALS\nSIGTERM, SIGINT and SIGHUP end the VM at once, as pulling the plug does, "
        "with all acknowledged "
        "writes kept.\nSIGUSR1 saves the state to the file of \\fB\\-\\-save\\fR and ends the VM.\n"
        ".SH EXIT STATUS\n",
        to);
    for (int i = 0; i < EXIT_STATUS_COUNT; i++) {
        fprintf(to, ".TP\n.B %d\n", i);
        man_text(to, exit_statuses[i].about);
        fprintf(to, " (\\fB%s\\fR).\n", exit_statuses[i].name);
    }
}
