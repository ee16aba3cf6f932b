/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bedplate: what its files share.
 *
 *   main.c     the commands, and which of them is meant
 *   client.c   HTTP to the daemon, which is started when missing
 *   args.c     options out of the API's tables
 *   output.c   tables and sizes for people
 *   console.c  a VM's serial console on this terminal
 *   doctor.c   what this host has
 *   access.c   users, tokens, audit
 *   edit.c     changing a VM, by options or in an editor
 *   top.c      what VMs use
 *   stop.c     stop --all, for a host that goes down
 *   document.c man page and completion out of the commands' table
 *   disks.c    disks that the daemon keeps, and disk files
 *   guest.c    what is asked of a guest's agent
 *   exec.c     a command in a guest, while it runs
 *   copy.c     files into and out of a guest; copy_tree.c: folders
 *   images.c   the catalog of images, and VMs out of them: image, run, ssh
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "api/api.h"

#include <limits.h>
#include <stdio.h>

enum cli_status { CLI_OK, CLI_FAILED, CLI_USAGE, CLI_NOT_FOUND, CLI_UNREACHABLE };

struct cli {
    bool json;                /* answers as they are */
    bool quiet;               /* only names and errors */
    bool wait;                /* for jobs; the default */
    const char *socket, *url; /* url: of a daemon elsewhere; with BEDPLATE_TOKEN and BEDPLATE_CA */
    bool only_running;        /* no daemon is started */
    bool own;                 /* the user's own daemon, also where the host has one */
    char socket_path[200];
    bool tty; /* standard output is a terminal: colours and progress */
};

struct command {
    const char *name, *words, *about;
    int (*run)(struct cli *cli, const struct command *command, int argc, char **argv);
    const char *action;              /* of the API, for the simple ones */
    const char *fields;              /* the resource whose fields are options; NULL: none */
    const struct api_field *options; /* of its own; NULL: none */
    const char *takes;               /* the resource whose objects its words name; NULL: none */
};
extern const struct command commands[];        /* ends with a NULL name */
extern const struct api_field global_fields[]; /* the options before the command */
/* All options of a command: of an action, of a resource. NULL: none. */
const struct api_field *command_fields(const struct command *command);
/* The field that is a word of the command and no option; NULL: none. */
const char *command_named(const struct command *command);

/* ---- main.c ---- */

/* So many words are left behind the options; max < 0: any number. */
int want_words(const struct command *command, int argc, int min, int max);
/* The word is the name of what is to be made, which an option cannot give once more. */
int name_take(json_t *object, const char *word);
/* A request about one object: /v1/KIND/WHICH[/ACTION]. */
int ask(struct cli *cli, const char *method, const char *kind, const char *which,
        const char *action, json_t *take_body, json_t **out);
/* All objects of a kind, page by page. filters: names and values; NULL: none. */
int list_fetch(struct cli *cli, const char *kind, const json_t *filters, json_t **out);
int list(struct cli *cli, const char *kind, const char *const *columns);
/* The path of such a request; the caller frees. NULL: it has been said why. */
char *path_of(const char *kind, const char *which, const char *action);

/* ---- edit.c, top.c, document.c ---- */

int do_edit(struct cli *cli, const struct command *command, int argc, char **argv);
int do_top(struct cli *cli, const struct command *command, int argc, char **argv);
extern const struct api_field top_options[];
int do_completion(struct cli *cli, const struct command *command, int argc, char **argv);
void document_man(void); /* the man page of all commands */

/* ---- stop.c ---- */

/* Stops all VMs that run; args: those of the action `stop`. */
int stop_all(struct cli *cli, const json_t *args);
extern const struct api_field stop_options[];

/* ---- images.c ---- */

extern const char run_help[];
int do_image(struct cli *cli, const struct command *command, int argc, char **argv);
int do_run(struct cli *cli, const struct command *command, int argc, char **argv);
int do_ssh(struct cli *cli, const struct command *command, int argc, char **argv);

/* ---- exec.c, copy.c ---- */

int do_exec(struct cli *cli, const struct command *command, int argc, char **argv);
int do_cp(struct cli *cli, const struct command *command, int argc, char **argv);

/* ---- disks.c ---- */

int do_disk(struct cli *cli, const struct command *command, int argc, char **argv);
extern const struct api_field disk_options[];

/* ---- doctor.c ---- */

int do_doctor(struct cli *cli, const struct command *command, int argc, char **argv);

/* ---- access.c ---- */

int do_user(struct cli *cli, const struct command *command, int argc, char **argv);
int do_token(struct cli *cli, const struct command *command, int argc, char **argv);
int do_role(struct cli *cli, const struct command *command, int argc, char **argv);
int do_audit(struct cli *cli, const struct command *command, int argc, char **argv);

/* ---- client.c ---- */

/* The body of an answer as it is: /metrics is no JSON. The caller frees. */
int client_text(struct cli *cli, const char *path, struct buf *out);
/* Sends a request; *out gets the JSON of the answer, which may be an error's: *status tells, and
 * nothing was said about it. */
int client_status(struct cli *cli, const char *method, const char *path, json_t *take_body,
                  json_t **out, long *status);
/* Sends a request; *out (may be NULL) gets the JSON of the answer. Returns CLI_OK, or another
 * status after it has said why. */
int client_call(struct cli *cli, const char *method, const char *path, json_t *take_body,
                json_t **out);
/* Says what an answer of such a status has as its reason; the status of the program. */
int client_refused(const json_t *answer, long status);
/* Waits for the job in `answer` (an answer to a request) with progress on a terminal. */
int client_job(struct cli *cli, const json_t *answer);
/* A program that is installed beside this one, or built in another room. */
bool program_find(const char *name, const char *room, char out[PATH_MAX]);
void cli_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- args.c ---- */

/* Takes options that stand for `fields` out of argv and puts them into `object`; others are left,
 * in order, and *argc tells how many. A word that begins with -- and is no field's fails. */
int args_take(const struct api_field *fields, int *argc, char **argv, json_t *object);
/* The same with options of the command's own, which go into `own`. */
int args_take_own(const struct api_field *fields, json_t *object, const struct api_field *options,
                  json_t *own, int *argc, char **argv);
/* The daemon has another working directory: paths go there as absolute ones. */
json_t *args_path(const char *text);
/* The options' help, a line each. but: a field that is none here; may be NULL. */
void args_help(const struct api_field *fields, const char *but);
/* How the option of a field is called, and how its value is written. */
void args_option_name(const struct api_field *f, char out[64]);
void args_value(FILE *to, const struct api_field *f, enum api_type type);

/* ---- output.c ---- */

void output_json(const json_t *value);
/* Control characters of others' texts, which would reach the terminal, as question marks. */
void output_plain(FILE *to, const char *text);
enum { TIME_TEXT = 32 };
void output_time(const json_t *value, char out[TIME_TEXT]);
/* A table of these fields, NULL-terminated. */
void output_table(const json_t *items, const char *const *columns);
void output_object(const struct api_field *fields, const json_t *object);

/* ---- console.c ---- */

int do_console(struct cli *cli, const struct command *command, int argc, char **argv);
/* Only looks: nothing is typed, and the terminal stays as it is. */
int console_follow(struct cli *cli, const char *name);

#endif
