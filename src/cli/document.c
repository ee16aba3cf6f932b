/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The commands' table as documents: the man page, and completion for three shells. Names of objects
 * are asked of a daemon that runs; none is started for it.
 */
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

/* ---- the man page ---- */

/* roff takes - for a hyphen, and . and ' at the beginning of a line for requests. */
static void roff(const char *text)
{
    if (*text == '.' || *text == '\'')
        printf("\\&");
    for (; *text; text++)
        printf(*text == '-' ? "\\-" : *text == '\\' ? "\\e" : "%c", *text);
}

static void roff_value(const struct api_field *f)
{
    char text[400] = "";
    FILE *to = fmemopen(text, sizeof text - 1, "w");
    if (!to)
        return;
    args_value(to, f, f->type == API_LIST ? f->element : f->type);
    fclose(to);
    roff(text);
}

static void man_fields(const struct api_field *fields, const char *but)
{
    for (const struct api_field *f = fields; f && f->name; f++) {
        char name[64];
        if (f->flags & API_SERVER || (but && strcmp(f->name, but) == 0))
            continue;
        args_option_name(f, name);
        printf(".TP\n\\fB\\-\\-");
        roff(name);
        printf("\\fR ");
        roff_value(f);
        puts("");
        roff(f->about);
        printf("%s", f->type == API_LIST ? "; may be repeated" : "");
        if (f->initial && f->type != API_LIST) {
            printf("; default ");
            roff(f->initial);
        }
        puts(".");
        if (f->type == API_OBJECT || (f->type == API_LIST && f->element == API_OBJECT))
            for (const struct api_field *g = f->fields; g->name; g++) {
                args_option_name(g, name);
                printf(".br\n\\fI");
                roff(name);
                printf("\\fR: ");
                roff(g->about);
                puts(".");
            }
    }
}

void document_man(void)
{
    printf(
        ".TH BEDPLATE 1 \"\" \"Bedplate %s\" \"Bedplate\"\n.SH NAME\nbedplate \\- virtual machines "
        "from the command line\n.SH SYNOPSIS\n.B bedplate\n[\\fIoptions\\fR] \\fIcommand\\fR ...\n"
        ".SH DESCRIPTION\nThe client of \\fBbedplated\\fR, which keeps virtual machines. Without "
        "privileges the user\\(aqs own daemon is started when none answers. VMs are named by "
        "name, id, or the beginning of either.\n.SH OPTIONS\n",
        BEDPLATE_VERSION);
    man_fields(global_fields, NULL);
    printf(".SH COMMANDS\n");
    for (const struct command *c = commands; c->name; c++) {
        printf(".SS ");
        roff(c->name);
        printf(" ");
        roff(c->words);
        puts("");
        roff(c->about);
        puts(".");
        man_fields(c->options, NULL);
        if (c->fields && strcmp(c->fields, "vms") == 0 && strcmp(c->name, "create") != 0)
            puts("Options as of \\fBcreate\\fR.");
        else
            man_fields(command_fields(c), command_named(c));
    }
    printf(
        ".SH EXIT STATUS\n0 done, 1 failed, 2 wrong words, 3 there is no such object, 4 the daemon "
        "cannot be reached.\n.SH ENVIRONMENT\n.TP\n.B BEDPLATE_SOCKET\nthe daemon\\(aqs socket.\n"
        ".TP\n.B EDITOR\nfor \\fBedit\\fR.\n.SH SEE ALSO\n.BR bedplate\\-vmm (1),\n"
        ".BR bedplate\\-img (1)\n");
}

/* ---- completion ---- */

#define NAMES "bedplate --only-running --quiet %s 2>/dev/null"

/* The command that lists objects of a resource. */
static const char *lister(const char *resource)
{
    return strcmp(resource, "vms") == 0      ? "list"
           : strcmp(resource, "images") == 0 ? "image"
           : strcmp(resource, "users") == 0  ? "user"
           : strcmp(resource, "tokens") == 0 ? "token"
                                             : "job";
}

static void option_words(const struct api_field *fields)
{
    for (const struct api_field *f = fields; f && f->name; f++) {
        char name[64];
        args_option_name(f, name);
        if (!(f->flags & API_SERVER))
            printf(" --%s", name);
    }
}

static void value_words(const struct api_field *f)
{
    if (f->format == API_ENUM)
        for (const char *const *c = f->choices; c && *c; c++)
            printf(" %s", *c);
}

static bool is_file(const struct api_field *f)
{
    return f->format == API_PATH || f->format == API_IMAGE ||
           (f->type == API_LIST && f->element == API_OBJECT && f->fields->format == API_IMAGE);
}

static void bash_values(const struct api_field *fields, const char *command)
{
    for (const struct api_field *f = fields; f && f->name; f++) {
        char name[64];
        args_option_name(f, name);
        if (f->flags & API_SERVER || (!is_file(f) && f->format != API_ENUM))
            continue;
        printf("    %s:--%s) ", command, name);
        if (is_file(f)) {
            puts("COMPREPLY=($(compgen -f -- \"$word\")); return ;;");
        } else {
            printf("COMPREPLY=($(compgen -W \"");
            value_words(f);
            puts("\" -- \"$word\")); return ;;");
        }
    }
}

static void bash(void)
{
    printf("_bedplate() {\n    local word=${COMP_WORDS[COMP_CWORD]} "
           "before=${COMP_WORDS[COMP_CWORD-1]} "
           "command= i\n    COMPREPLY=()\n"
           "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
           "        case ${COMP_WORDS[i]} in --socket) i=$((i + 1)) ;; -*) ;; *) "
           "command=${COMP_WORDS[i]}; break ;; esac\n    done\n"
           "    if [ -z \"$command\" ]; then\n        COMPREPLY=($(compgen -W \"");
    for (const struct command *c = commands; c->name; c++)
        printf("%s ", c->name);
    option_words(global_fields);
    printf("\" -- \"$word\"))\n        return\n    fi\n    case $command:$before in\n");
    for (const struct command *c = commands; c->name; c++) {
        bash_values(command_fields(c), c->name);
        bash_values(c->options, c->name);
    }
    printf("    esac\n    case $command in\n");
    for (const struct command *c = commands; c->name; c++) {
        printf("    %s) case $word in -*) COMPREPLY=($(compgen -W \"--help --json", c->name);
        option_words(command_fields(c));
        option_words(c->options);
        printf("\" -- \"$word\")); return ;; esac");
        if (c->takes)
            printf("; COMPREPLY=($(compgen -W \"$(" NAMES ")\" -- \"$word\"))", lister(c->takes));
        printf(" ;;\n");
    }
    printf("    esac\n}\ncomplete -F _bedplate bedplate\n");
}

/* Single quotes end, an escaped one comes, they begin again. */
static void quoted(const char *text)
{
    putchar('\'');
    for (; *text; text++)
        printf(*text == '\'' ? "'\\''" : "%c", *text);
    putchar('\'');
}

static void fish_fields(const struct api_field *fields, const char *command)
{
    for (const struct api_field *f = fields; f && f->name; f++) {
        char name[64];
        if (f->flags & API_SERVER)
            continue;
        args_option_name(f, name);
        printf("complete -c bedplate");
        if (command)
            printf(" -n '__fish_seen_subcommand_from %s'", command);
        printf(" -l %s -d ", name);
        quoted(f->about);
        if (f->format == API_ENUM) {
            printf(" -x -a '");
            value_words(f);
            printf("'");
        } else if (f->type != API_BOOLEAN) {
            printf(is_file(f) ? " -r -F" : " -x");
        }
        puts("");
    }
}

static void fish(void)
{
    puts("complete -c bedplate -f");
    fish_fields(global_fields, NULL);
    for (const struct command *c = commands; c->name; c++) {
        printf("complete -c bedplate -n __fish_use_subcommand -a %s -d ", c->name);
        quoted(c->about);
        puts("");
        fish_fields(command_fields(c), c->name);
        fish_fields(c->options, c->name);
        if (c->takes)
            printf("complete -c bedplate -n '__fish_seen_subcommand_from %s' -a '(" NAMES ")'\n",
                   c->name, lister(c->takes));
    }
}

/* zsh takes : and [ ] for its own in descriptions. */
static void zsh_text(const char *text)
{
    for (; *text; text++)
        printf(*text == '\'' ? "'\\''" : strchr(":[]\\", *text) ? "\\%c" : "%c", *text);
}

static void zsh_fields(const struct api_field *fields)
{
    for (const struct api_field *f = fields; f && f->name; f++) {
        char name[64];
        if (f->flags & API_SERVER)
            continue;
        args_option_name(f, name);
        printf(" \\\n            '%s--%s[", f->type == API_LIST ? "*" : "", name);
        zsh_text(f->about);
        printf("]");
        if (f->format == API_ENUM) {
            printf(":value:(");
            value_words(f);
            printf(")");
        } else if (f->type != API_BOOLEAN) {
            printf(is_file(f) ? ":file:_files" : ":value: ");
        }
        printf("'");
    }
}

static void zsh(void)
{
    printf("#compdef bedplate\n_bedplate_names() { compadd -- ${(f)\"$(bedplate --only-running "
           "--quiet $1 2>/dev/null)\"} }\n"
           "_bedplate() {\n    local -a words_of\n    if (( CURRENT == 2 )); then\n"
           "        words_of=(");
    for (const struct command *c = commands; c->name; c++) {
        printf("'%s:", c->name);
        zsh_text(c->about);
        printf("' ");
    }
    printf(
        ")\n        _describe command words_of\n        return\n    fi\n    case ${words[2]} in\n");
    for (const struct command *c = commands; c->name; c++) {
        printf(
            "        %s) shift words; (( CURRENT-- )); _arguments '--help[tell more]' '--json[the "
            "answer as it is]'",
            c->name);
        zsh_fields(command_fields(c));
        zsh_fields(c->options);
        if (c->takes)
            printf(" '*:name:_bedplate_names %s'", lister(c->takes));
        printf(" ;;\n");
    }
    printf("    esac\n}\ncompdef _bedplate bedplate\n");
}

int do_completion(struct cli *cli, const struct command *command, int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*print)(void);
    } shells[] = { { "bash", bash }, { "zsh", zsh }, { "fish", fish } };
    for (unsigned i = 0; argc == 1 && i < 3; i++)
        if (strcmp(shells[i].name, argv[0]) == 0) {
            shells[i].print();
            return CLI_OK;
        }
    return want_words(command, 0, 1, 1);
}
