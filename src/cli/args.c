/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Options out of the API's tables: a field `disk_size` is --disk-size, a list `disks` takes --disk
 * once for each entry. Objects are written as parts with commas: --disk path=/d.qcow2,readonly. The
 * first part may leave out its name.
 */
#include "cli/cli.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

/* The option of a field: _ becomes -, lists lose their last s. */
void args_option_name(const struct api_field *f, char out[64])
{
    size_t len = (size_t)snprintf(out, 64, "%s", f->name);
    for (char *c = out; *c; c++)
        if (*c == '_')
            *c = '-';
    if ((f->type == API_LIST || f->type == API_MAP) && !(f->flags & API_PLURAL) && len > 1 &&
        out[len - 1] == 's')
        out[len - 1] = 0;
}

static const struct api_field *field_of(const struct api_field *fields, const char *option,
                                        size_t len)
{
    for (const struct api_field *f = fields; f->name; f++) {
        char name[64];
        args_option_name(f, name);
        if (!(f->flags & API_SERVER) && strlen(name) == len && strncmp(name, option, len) == 0)
            return f;
    }
    return NULL;
}

static json_t *parts(const struct api_field *fields, char *text, const char *option);

json_t *args_path(const char *text)
{
    char here[PATH_MAX];
    if (*text == '/' || strstr(text, "://") || strncmp(text, "disk:", 5) == 0 ||
        !getcwd(here, sizeof here))
        return json_string(text);
    return json_sprintf("%s/%s", here, text);
}

/* NULL: it has been said why. */
static json_t *value_of(const struct api_field *f, enum api_type type, const char *text,
                        const char *option)
{
    char *end;
    switch (type) {
    case API_INTEGER: {
        long long n = strtoll(text, &end, 10);
        if (!*text || *end) {
            cli_say("--%s needs a whole number, not '%s'", option, text);
            return NULL;
        }
        return json_integer(n);
    }
    case API_BOOLEAN:
        if (strcmp(text, "true") == 0 || strcmp(text, "yes") == 0 || strcmp(text, "on") == 0)
            return json_true();
        if (strcmp(text, "false") == 0 || strcmp(text, "no") == 0 || strcmp(text, "off") == 0)
            return json_false();
        cli_say("--%s is yes or no, not '%s'", option, text);
        return NULL;
    case API_TIME: return json_real(strtod(text, &end));
    case API_OBJECT: {
        AUTO(free) char *copy = strdup(text);
        return copy ? parts(f->fields, copy, option) : NULL;
    }
    default: {
        bool path = type == API_STRING && (f->format == API_PATH || f->format == API_IMAGE);
        json_t *value = path ? args_path(text) : json_string(text);
        if (!value)
            cli_say("--%s: the text is not UTF-8", option);
        return value;
    }
    }
}

/* "a=1,b": each part sets a field; the first without a name is the first field. */
static json_t *parts(const struct api_field *fields, char *text, const char *option)
{
    json_t *object = json_object();
    bool first = true;
    for (char *part; (part = strsep(&text, ",")); first = false) {
        char *equals = strchr(part, '=');
        const struct api_field *f = NULL;
        size_t len = equals ? (size_t)(equals - part) : strlen(part);
        f = field_of(fields, part, len);
        const char *value = equals ? equals + 1 : "true";
        if (first && (!f || (!equals && f->type != API_BOOLEAN))) {
            f = fields;
            value = part;
        }
        if (!f) {
            cli_say("--%s has no part '%.*s'; --help lists them", option, (int)len, part);
            json_decref(object);
            return NULL;
        }
        json_t *json = f->type == API_LIST
                           ? json_pack("[o]", value_of(f, f->element, value, option))
                           : value_of(f, f->type, value, option);
        if (!json) {
            json_decref(object);
            return NULL;
        }
        json_t *list = json_object_get(object, f->name);
        if (f->type == API_LIST && list) {
            json_array_extend(list, json);
            json_decref(json);
        } else {
            json_object_set_new(object, f->name, json);
        }
    }
    return object;
}

static int set(const struct api_field *f, const char *option, const char *text, json_t *object)
{
    json_t *old = json_object_get(object, f->name);
    if (f->type == API_LIST) {
        if (!old)
            json_object_set_new(object, f->name, old = json_array());
        if (strcmp(text, "none") == 0)
            return CLI_OK; /* an empty list */
        json_t *value = value_of(f, f->element, text, option);
        if (!value)
            return CLI_USAGE;
        json_array_append_new(old, value);
    } else if (f->type == API_MAP) {
        const char *equals = strchr(text, '=');
        char key[80];
        if (!equals || equals - text >= (long)sizeof key) {
            cli_say("--%s needs NAME=VALUE", option);
            return CLI_USAGE;
        }
        snprintf(key, sizeof key, "%.*s", (int)(equals - text), text);
        if (!old)
            json_object_set_new(object, f->name, old = json_object());
        json_object_set_new(old, key, equals[1] ? json_string(equals + 1) : json_null());
    } else {
        json_t *value = value_of(f, f->type, text, option);
        if (!value)
            return CLI_USAGE;
        if (f->type == API_OBJECT && old) {
            json_object_update(old, value);
            json_decref(value);
        } else {
            json_object_set_new(object, f->name, value);
        }
    }
    return CLI_OK;
}

/* From the terminal, unseen, or the first line of standard input: the words of a command can be
 * read by everybody. NULL: there is none. */
static char *secret_read(const char *name)
{
    struct termios was, quiet;
    char *line = NULL;
    size_t room = 0;
    bool terminal = tcgetattr(STDIN_FILENO, &was) == 0;
    if (terminal) {
        fprintf(stderr, "%s: ", name);
        quiet = was;
        quiet.c_lflag &= ~(tcflag_t)ECHO;
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
    }
    ssize_t len = getline(&line, &room, stdin);
    if (terminal) {
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &was);
        fputc('\n', stderr);
    }
    if (len <= 0) {
        free(line);
        return NULL;
    }
    line[strcspn(line, "\n")] = 0;
    return line;
}

int args_take_own(const struct api_field *fields, json_t *object, const struct api_field *options,
                  json_t *own, int *argc, char **argv)
{
    int left = 0;
    for (int i = 0; i < *argc; i++) {
        char *word = argv[i];
        if (strcmp(word, "--") == 0) {
            while (++i < *argc)
                argv[left++] = argv[i];
            break;
        }
        if (strncmp(word, "--", 2) != 0) {
            argv[left++] = word;
            continue;
        }
        size_t len = strcspn(word + 2, "=");
        const char *option = word + 2, *value = option[len] ? option + len + 1 : NULL;
        const struct api_field *f = field_of(fields, option, len);
        bool no = !f && strncmp(option, "no-", 3) == 0 &&
                  (f = field_of(fields, option + 3, len - 3)) && f->type == API_BOOLEAN;
        json_t *into = object;
        if (!f && options && (f = field_of(options, option, len)))
            into = own;
        if (!f || (no && value)) {
            cli_say("unknown option '%s'; --help lists all", word);
            return CLI_USAGE;
        }
        char name[64];
        args_option_name(f, name);
        if (f->type == API_BOOLEAN && !value)
            value = no ? "no" : "yes";
        AUTO(free) char *secret = NULL;
        if (f->flags & API_SECRET) {
            if (value) {
                cli_say("--%s takes no value: it is asked for, or read from standard input", name);
                return CLI_USAGE;
            }
            value = secret = secret_read(name);
        } else if (!value && i + 1 < *argc) {
            value = argv[++i];
        }
        if (!value) {
            cli_say("--%s needs a value", name);
            return CLI_USAGE;
        }
        int r = set(f, name, value, into);
        if (r != CLI_OK)
            return r;
    }
    *argc = left;
    return CLI_OK;
}

int args_take(const struct api_field *fields, int *argc, char **argv, json_t *object)
{
    return args_take_own(fields, object, NULL, NULL, argc, argv);
}

void args_value(FILE *to, const struct api_field *f, enum api_type type)
{
    static const char *const words[] = {
        [API_STRING] = "TEXT", [API_INTEGER] = "N",      [API_SIZE] = "SIZE",
        [API_BOOLEAN] = "",    [API_TIME] = "TIME",      [API_OBJECT] = "",
        [API_LIST] = "",       [API_MAP] = "NAME=VALUE", [API_ANY] = "JSON",
    };
    if (type == API_STRING && f->format == API_ENUM) {
        for (const char *const *c = f->choices; *c; c++)
            fprintf(to, "%s%s", c == f->choices ? "" : "|", *c);
    } else if (type == API_STRING && f->format == API_PATH) {
        fprintf(to, "FILE");
    } else if (type == API_OBJECT) {
        char name[64];
        args_option_name(f->fields, name);
        fprintf(to, f->fields[1].name ? "[%s=]VALUE[,PART=VALUE...]" : "[%s=]VALUE", name);
    } else {
        fprintf(to, "%s", words[type]);
    }
}

/* The parts of an object behind its first, in lines of a terminal's width. */
static void parts_help(const struct api_field *fields)
{
    enum { WIDTH = 78 };
    size_t at = WIDTH;
    for (const struct api_field *f = fields + 1; fields->name && f->name; f++) {
        char name[64];
        args_option_name(f, name);
        if (at + strlen(name) + 2 > WIDTH)
            at = (size_t)printf("%s", f == fields + 1 ? "        parts: " : "\n          ") - 1;
        at += (size_t)printf("%s%s", name, f[1].name ? ", " : "\n");
    }
}

static void default_help(const struct api_field *f)
{
    char size[32];
    if (!f->initial || f->type == API_LIST || strcmp(f->initial, "false") == 0)
        return;
    if (f->type == API_SIZE)
        printf("; default %s", size_print(strtoull(f->initial, NULL, 10), size, sizeof size));
    else if (f->type == API_BOOLEAN)
        printf("; default yes");
    else
        printf("; default %.*s", (int)strcspn(f->initial + (*f->initial == '"'), "\""),
               f->initial + (*f->initial == '"'));
}

void args_help(const struct api_field *fields, const char *but)
{
    for (const struct api_field *f = fields; f && f->name; f++) {
        enum api_type type = f->type == API_LIST ? f->element : f->type;
        char name[64];
        if (f->flags & API_SERVER || (but && strcmp(f->name, but) == 0))
            continue;
        args_option_name(f, name);
        printf("  --%s%s", name, type == API_BOOLEAN ? "" : " ");
        if (f->flags & API_SECRET)
            printf("(is asked for, or read from standard input)");
        else
            args_value(stdout, f, type);
        printf("\n        %s%s", f->about, f->type == API_LIST ? "; may be repeated" : "");
        default_help(f);
        puts("");
        if (type == API_OBJECT)
            parts_help(f->fields);
    }
}
