/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bedplate exec: a command in a guest, with its output while it runs, its input, signals and
 * status.
 *
 * The guest's agent runs commands but tells their output at their end. So the command's output goes
 * into files of a new folder below the guest's /tmp, which are read while it runs, and its input
 * comes through a FIFO there: each piece is given to a `cat` of its own, which ends when the piece
 * was taken, so no more is under way than the command reads. A process that holds the FIFO open
 * lets go of it at our end of file, when somebody opens another FIFO, `hold`, for writing. Three
 * threads: one waits for the command's end, one passes input on, the first shows output and passes
 * signals on.
 *
 * A guest without a shell and mktemp (Windows), and --json, have the agent's own way: output at the
 * end, and as much input as one request holds.
 */
#include "base/cleanup.h"
#include "base/text.h"
#include "cli/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* As `timeout` and container tools have them; other statuses are the command's. */
enum { EXEC_TIMED_OUT = 124, EXEC_FAILED = 125, EXEC_SIGNALLED = 128 };
enum {
    INPUT_MAX = 512 << 10, /* what base64 makes the API's limit of */
    PIECE = 256 << 10,
    TIMEOUT_MAX_S = 86400, /* the API's */
    IDLE_MIN_MS = 20,      /* between looks at the output */
    IDLE_MAX_MS = 500,
    SIGNALS_MAX = 3, /* the last of so many ends us without the command */
};

/* ---- requests ---- */

/* take_input may be NULL. *status: HTTP's. */
static int exec_ask(struct cli *cli, const char *vm, json_t *take_command, json_t *take_input,
                    long long timeout_s, json_t **answer, long *status)
{
    AUTO(free) char *path = path_of("vms", vm, "exec");
    json_t *body =
        json_pack("{s:o, s:I}", "command", take_command, "timeout", (json_int_t)timeout_s);
    if (take_input)
        json_object_set_new(body, "input", take_input);
    if (path)
        return client_status(cli, "POST", path, body, answer, status);
    json_decref(body);
    return CLI_USAGE;
}

static json_t *script_words(const char *script, const char *dir)
{
    return json_pack("[s, s, s, s, s]", "/bin/sh", "-c", script, "sh", dir);
}

static json_t *command_words(int argc, char **argv)
{
    json_t *words = json_array();
    for (int i = 0; i < argc; i++)
        json_array_append_new(words, json_string(argv[i]));
    return words;
}

static int refused(const json_t *answer, long status)
{
    client_refused(answer, status);
    return status == 504 ? EXEC_TIMED_OUT : EXEC_FAILED;
}

/* ---- the agent's own way ---- */

/* One more byte than may be shows that there are too many. */
static int input_read(struct buf *in)
{
    uint8_t data[65536];
    ssize_t n;
    while (in->len <= INPUT_MAX && (n = read(STDIN_FILENO, data, sizeof data)) > 0)
        buf_add(in, data, (size_t)n);
    if (in->len <= INPUT_MAX)
        return CLI_OK;
    cli_say("standard input is longer than %d KiB; bedplate cp it into the guest first",
            INPUT_MAX >> 10);
    return CLI_FAILED;
}

static int output_write(const json_t *answer, const char *name, FILE *to)
{
    AUTO(buf_fini) struct buf data = { 0 };
    if (guest_output(answer, name, &data) != CLI_OK)
        return CLI_FAILED;
    if (fwrite(data.data, 1, data.len, to) == data.len && fflush(to) == 0)
        return CLI_OK;
    cli_say("cannot write the command's output: %s", strerror(errno));
    return CLI_FAILED;
}

static int exec_at_end(struct cli *cli, const char *vm, json_t *take_command, bool input,
                       long long timeout_s)
{
    AUTO(json_decref) json_t *command = take_command;
    AUTO(json_decref) json_t *answer = NULL;
    AUTO(buf_fini) struct buf in = { 0 };
    long status = 0;
    if (input && input_read(&in) != CLI_OK)
        return EXEC_FAILED;
    if (exec_ask(cli, vm, TAKE(command), in.len ? guest_base64(in.data, in.len) : NULL, timeout_s,
                 &answer, &status) != CLI_OK)
        return EXEC_FAILED;
    if (status != 200)
        return refused(answer, status);
    if (cli->json) {
        output_json(answer);
    } else if (output_write(answer, "out", stdout) != CLI_OK ||
               output_write(answer, "err", stderr) != CLI_OK) {
        return EXEC_FAILED;
    } else if (json_is_true(json_object_get(answer, "truncated"))) {
        cli_say("there was more output than the guest agent keeps");
        return EXEC_FAILED;
    }
    return (int)json_integer_value(json_object_get(answer, "status"));
}

/* ---- while it runs ---- */

static int wake[2]; /* a byte: a signal's number, or 0: the command is over */

static void on_signal(int number)
{
    int saved = errno;
    char byte = (char)number;
    ssize_t n = write(wake[1], &byte, 1);
    (void)n; /* full: there are enough */
    errno = saved;
}

struct session {
    struct cli *cli;
    const char *vm;
    char *dir; /* in the guest */
    json_t *words;
    long long timeout_s;
    pthread_t waiter, feeder;
    bool feeding;
    /* The waiter's result; valid when `over` is seen. */
    atomic_bool over;
    json_t *answer;
    int result;
    long status;
};

static void *wait_for_it(void *arg)
{
    struct session *s = arg;
    char byte = 0;
    s->result = exec_ask(s->cli, s->vm, TAKE(s->words), NULL, s->timeout_s, &s->answer, &s->status);
    atomic_store(&s->over, true);
    ssize_t n = write(wake[1], &byte, 1);
    (void)n; /* full: somebody reads it anyway */
    return NULL;
}

/* The command may have ended: then nobody takes it, and that is all. */
static bool feed(struct session *s, const void *data, size_t len)
{
    static const char piece[] = "cat >\"$1/in\"", end[] = ": >\"$1/hold\"";
    AUTO(json_decref) json_t *answer = NULL;
    long status = 0;
    return exec_ask(s->cli, s->vm, script_words(len ? piece : end, s->dir),
                    len ? guest_base64(data, len) : NULL, TIMEOUT_MAX_S, &answer,
                    &status) == CLI_OK &&
           status == 200 && json_integer_value(json_object_get(answer, "status")) == 0;
}

static void *feed_it(void *arg)
{
    struct session *s = arg;
    uint8_t *data = malloc(PIECE);
    ssize_t n;
    if (!data)
        abort();
    while ((n = read(STDIN_FILENO, data, PIECE)) > 0 && feed(s, data, (size_t)n))
        ;
    if (n <= 0)
        feed(s, NULL, 0);
    free(data);
    return NULL;
}

/* What a file of the output has beyond what was shown. False: it cannot be shown. */
static bool show(struct session *s, const char *name, uint64_t *shown, int to, bool *any)
{
    AUTO(free) char *path = NULL;
    bool end = false;
    if (asprintf(&path, "%s/%s", s->dir, name) < 0)
        abort();
    while (!end) {
        AUTO(buf_fini) struct buf data = { 0 };
        if (guest_read_some(s->cli, s->vm, path, *shown, &data, &end) != CLI_OK)
            return false;
        *shown += data.len;
        *any |= data.len > 0;
        if (write_full(to, data.data, data.len) < 0) {
            cli_say("cannot write the command's output: %s", strerror(errno));
            return false;
        }
    }
    return true;
}

/* Its whole group, where it leads one. */
static void pass_on(struct session *s, int number)
{
    static const char script[] = "p=$(cat \"$1/pid\") && { kill -\"$2\" -- \"-$p\" 2>/dev/null || "
                                 "kill -\"$2\" \"$p\" 2>/dev/null; } || true";
    json_t *words = script_words(script, s->dir);
    json_array_append_new(words, json_sprintf("%d", number));
    guest_run(s->cli, s->vm, words, NULL);
}

/* Shows output until the command is over. 0, or a signal's number: enough of it. */
static int follow(struct session *s, bool *shown)
{
    uint64_t out = 0, err = 0;
    unsigned signals = 0;
    int idle = IDLE_MIN_MS;
    *shown = true;
    for (;;) {
        bool over = atomic_load(&s->over), any = false; /* in this order: no last words are lost */
        if (*shown)
            *shown = show(s, "out", &out, STDOUT_FILENO, &any) &&
                     show(s, "err", &err, STDERR_FILENO, &any);
        if (over)
            return 0;
        if (!*shown && !signals++)
            pass_on(s, SIGPIPE); /* as it would meet on this host */
        idle = any ? IDLE_MIN_MS : idle * 2 < IDLE_MAX_MS ? idle * 2 : IDLE_MAX_MS;
        struct pollfd fd = { .fd = wake[0], .events = POLLIN };
        char number = 0;
        if (poll(&fd, 1, idle) <= 0 || read(wake[0], &number, 1) != 1 || !number)
            continue;
        if (++signals >= SIGNALS_MAX)
            return number;
        pass_on(s, number);
    }
}

/* A folder for it. CLI_FAILED: the guest has not what it takes; another status: it was said why. */
static int prepare(struct session *s, bool input)
{
    static const char script[] =
        "d=$(umask 077; mktemp -d) && : >\"$d/out\" && : >\"$d/err\" && echo \"$d\"",
                      fifos[] = "d=$(umask 077; mktemp -d) && mkfifo \"$d/in\" \"$d/hold\" && : "
                                ">\"$d/out\" && : >\"$d/err\" && echo \"$d\"";
    AUTO(json_decref) json_t *answer = NULL;
    AUTO(buf_fini) struct buf said = { 0 };
    long status = 0;
    int r = exec_ask(s->cli, s->vm, script_words(input ? fifos : script, ""), NULL, 60, &answer,
                     &status);
    if (r != CLI_OK)
        return EXEC_FAILED;
    const char *code = json_string_value(json_object_get(json_object_get(answer, "error"), "code"));
    if (status != 200)
        return code && strcmp(code, "refused") == 0 ? CLI_FAILED : refused(answer, status);
    if (json_integer_value(json_object_get(answer, "status")) != 0)
        return CLI_FAILED;
    if (guest_output(answer, "out", &said) != CLI_OK)
        return EXEC_FAILED;
    buf_add(&said, "", 1);
    said.data[strcspn((char *)said.data, "\n")] = 0;
    AUTO(json_decref) json_t *utf8 = json_string((char *)said.data);
    if (!utf8 || said.data[0] != '/')
        return CLI_FAILED;
    s->dir = strdup((char *)said.data);
    return s->dir ? CLI_OK : EXEC_FAILED;
}

/* Whoever still waits at a FIFO is let go. */
static void tidy(struct session *s)
{
    static const char script[] =
        "if [ -p \"$1/in\" ]; then : <>\"$1/in\" 3<>\"$1/hold\"; fi; rm -rf -- \"$1\"";
    guest_run(s->cli, s->vm, script_words(script, s->dir), NULL);
}

static void begin(struct session *s, const json_t *command, bool input)
{
#define BEGIN "d=$1; shift; echo $$ >\"$d/pid\"; read -r a b c e group f </proc/$$/stat; "
/* In a group of its own, for signals; the agents of some versions see to that themselves. */
#define OWN_GROUP \
    "if [ \"$group\" != $$ ] && command -v setsid >/dev/null; then set -- setsid \"$@\"; fi; "
    static const char plain[] = BEGIN OWN_GROUP "exec \"$@\" </dev/null >>\"$d/out\" 2>>\"$d/err\"";
    static const char fed[] = BEGIN "(: <\"$d/hold\") >\"$d/in\" 2>/dev/null & " OWN_GROUP
                                    "exec \"$@\" <\"$d/in\" >>\"$d/out\" 2>>\"$d/err\"";
    static const int passed_on[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
    s->words = script_words(input ? fed : plain, s->dir);
    json_array_extend(s->words, (json_t *)command);
    if (pipe2(wake, O_CLOEXEC | O_NONBLOCK) < 0)
        abort(); /* no descriptors */
    signal(SIGPIPE, SIG_IGN);
    for (unsigned i = 0; i < sizeof passed_on / sizeof *passed_on; i++)
        signal(passed_on[i], on_signal);
    s->feeding = input;
    if (pthread_create(&s->waiter, NULL, wait_for_it, s) != 0 ||
        (input && pthread_create(&s->feeder, NULL, feed_it, s) != 0))
        abort(); /* out of memory */
}

/* Threads may be in the middle of requests that nobody waits for any more. */
__attribute__((noreturn)) static void leave(int status)
{
    fflush(NULL);
    _exit(status);
}

static int exec_live(struct cli *cli, const char *vm, json_t *take_command, bool input,
                     long long timeout_s)
{
    AUTO(json_decref) json_t *command = take_command;
    struct session s = { .cli = cli, .vm = vm, .timeout_s = timeout_s ? timeout_s : TIMEOUT_MAX_S };
    bool shown;
    int r = prepare(&s, input);
    if (r == CLI_FAILED)
        return exec_at_end(cli, vm, TAKE(command), input, timeout_s ? timeout_s : 60);
    if (r != CLI_OK)
        return r;
    begin(&s, command, input);
    int number = follow(&s, &shown);
    tidy(&s);
    if (number) {
        cli_say("the command goes on in %s", vm);
        leave(EXEC_SIGNALLED + number);
    }
    int status = s.result != CLI_OK ? EXEC_FAILED
                 : s.status != 200  ? refused(s.answer, s.status)
                 : shown            ? (int)json_integer_value(json_object_get(s.answer, "status"))
                                    : EXEC_FAILED;
    if (s.feeding)
        leave(status);
    pthread_join(s.waiter, NULL);
    json_decref(s.answer);
    free(s.dir);
    return status;
}

int do_exec(struct cli *cli, const struct command *command, int argc, char **argv)
{
    AUTO(json_decref) json_t *own = json_object();
    int r = args_take(command->options, &argc, argv, own);
    if (r == CLI_OK)
        r = want_words(command, argc, 2, -1);
    if (r != CLI_OK)
        return EXEC_FAILED;
    json_t *words = command_words(argc - 1, argv + 1);
    bool input = json_is_true(json_object_get(own, "stdin"));
    long long timeout_s = json_integer_value(json_object_get(own, "timeout"));
    return cli->json ? exec_at_end(cli, argv[0], words, input, timeout_s ? timeout_s : 60)
                     : exec_live(cli, argv[0], words, input, timeout_s);
}
