/* SPDX-License-Identifier: GPL-2.0-or-later */
/* HTTP to the daemon by libcurl on its unix socket. A user's own daemon is started when it is
 * missing. */
#include "cli/cli.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_MAX = 64 << 20, START_MS = 10000, JOB_POLL_MS = 50 };

void cli_say(const char *format, ...)
{
    va_list args;
    AUTO(free) char *text = NULL;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        abort(); /* out of memory */
    va_end(args);
    fputs("bedplate: ", stderr);
    output_plain(stderr, text); /* guests have their words in it */
    fputc('\n', stderr);
}

/* ---- where the daemon is ---- */

/* 0, or why nobody does: an errno. */
static int try_socket(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof addr.sun_path)
        return ENAMETOOLONG;
    strcpy(addr.sun_path, path);
    AUTO(fd_close) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0 ? 0 : errno;
}

static bool listens(const char *path) { return try_socket(path) == 0; }

static void user_socket(char *out, size_t len)
{
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    if (xdg && *xdg == '/')
        snprintf(out, len, "%s/bedplate/api.sock", xdg);
    else
        snprintf(out, len, "/tmp/bedplate-%u/api.sock", (unsigned)geteuid());
}

bool program_find(const char *name, const char *room, char out[PATH_MAX])
{
    char here[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", here, sizeof here - 1);
    if (n <= 0)
        return false;
    here[n] = 0;
    *strrchr(here, '/') = 0;
    snprintf(out, PATH_MAX, "%.4000s/%s", here, name);
    if (access(out, X_OK) == 0)
        return true;
    snprintf(out, PATH_MAX, "%.3900s/../%s/%s", here, room, name);
    return access(out, X_OK) == 0;
}

static int start_daemon(const char *path)
{
    char found[PATH_MAX];
    if (!program_find("bedplated", "daemon", found))
        return -1;
    char *const argv[] = { found, (char *)"--user", NULL };
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    pid_t pid;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
    posix_spawn_file_actions_adddup2(&actions, 0, 1);
    posix_spawn_file_actions_adddup2(&actions, 0,
                                     2); /* whoever reads ours would wait for it, too */
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID);
    int r = posix_spawn(&pid, found, &actions, &attr, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    for (unsigned ms = 0; r == 0 && ms < START_MS; ms += 20) {
        if (listens(path))
            return 0;
        poll(NULL, 0, 20);
    }
    return -1;
}

/* --url, BEDPLATE_URL; --socket, BEDPLATE_SOCKET, the host's daemon, the user's own; with --user
 * only this one. */
static int find_socket(struct cli *cli)
{
    if (!cli->url && !cli->socket && !cli->own)
        cli->url = getenv("BEDPLATE_URL");
    if (cli->url && strncmp(cli->url, "https://", 8) != 0) {
        cli_say("'%s' is no address of a daemon: it begins with https://", cli->url);
        return CLI_USAGE;
    }
    if (cli->url)
        return CLI_OK;
    const char *given = cli->socket ? cli->socket : cli->own ? NULL : getenv("BEDPLATE_SOCKET");
    if (*cli->socket_path)
        return CLI_OK;
    if (given) {
        snprintf(cli->socket_path, sizeof cli->socket_path, "%s", given);
        return CLI_OK;
    }
    if (!cli->own && listens("/run/bedplate/api.sock")) {
        strcpy(cli->socket_path, "/run/bedplate/api.sock");
        return CLI_OK;
    }
    user_socket(cli->socket_path, sizeof cli->socket_path);
    if (listens(cli->socket_path) || (!cli->only_running && start_daemon(cli->socket_path) == 0))
        return CLI_OK;
    if (cli->only_running)
        return CLI_UNREACHABLE;
    cli_say("no daemon answers at %s, and none could be started; bedplated --user tells why",
            cli->socket_path);
    return CLI_UNREACHABLE;
}

/* ---- requests ---- */

static size_t take(char *data, size_t size, size_t count, void *arg)
{
    struct buf *answer = arg;
    if (answer->len + size * count > ANSWER_MAX)
        return 0;
    buf_add(answer, data, size * count);
    return size * count;
}

int client_refused(const json_t *answer, long status)
{
    const json_t *error = json_object_get(answer, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    const char *field = json_string_value(json_object_get(error, "field"));
    const char *hint = json_string_value(json_object_get(error, "hint"));
    if (message)
        cli_say("%s%s%s%s%s", field ? field : "", field ? ": " : "", message, hint ? "; " : "",
                hint ? hint : "");
    else
        cli_say("the daemon answers with status %ld and no reason", status);
    return status == 404 ? CLI_NOT_FOUND : CLI_FAILED;
}

static int perform(CURL *curl, struct cli *cli, const char *method, const char *path,
                   const char *body, struct buf *answer, long *status)
{
    char url[1200];
    char reason[CURL_ERROR_SIZE] = "";
    snprintf(url, sizeof url, "%s%s", cli->url ? cli->url : "http://bedplate", path);
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    headers = curl_slist_append(headers, "Expect:");
    const char *token = getenv("BEDPLATE_TOKEN");
    AUTO(free) char *bearer = NULL;
    if (!cli->url)
        curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, cli->socket_path);
    else if (token && asprintf(&bearer, "Authorization: Bearer %s", token) > 0)
        headers = curl_slist_append(headers, bearer);
    if (cli->url && getenv("BEDPLATE_CA"))
        curl_easy_setopt(curl, CURLOPT_CAINFO, getenv("BEDPLATE_CA"));
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, cli->url ? "https" : "http");
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    if (body)
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    CURLcode code = curl_easy_perform(curl);
    curl_slist_free_all(headers);
    int why = code == CURLE_COULDNT_CONNECT && !cli->url ? try_socket(cli->socket_path) : 0;
    if (why) {
        cli_say("cannot talk to the daemon at %s: %s; %s", cli->socket_path, strerror(why),
                why == EACCES ? "become its user, or use a daemon of your own by --user"
                              : "bedplated serves there when it runs");
        return CLI_UNREACHABLE;
    }
    if (code != CURLE_OK) {
        cli_say("cannot talk to the daemon at %s: %s", cli->url ? cli->url : cli->socket_path,
                *reason ? reason : curl_easy_strerror(code));
        return CLI_UNREACHABLE;
    }
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, status);
    return CLI_OK;
}

static int call_once(struct cli *cli, const char *method, const char *path, const char *body,
                     json_t **out, long *status)
{
    AUTO(buf_fini) struct buf answer = { 0 };
    struct err err;
    CURL *curl = curl_easy_init();
    if (!curl) {
        cli_say("out of memory");
        return CLI_FAILED;
    }
    int r = perform(curl, cli, method, path, body, &answer, status);
    curl_easy_cleanup(curl);
    if (r == CLI_OK && answer.len &&
        json_parse((const char *)answer.data, answer.len, out, &err) < 0) {
        cli_say("the daemon's answer is not JSON: %s", err.text);
        r = CLI_FAILED;
    }
    return r;
}

/* A daemon that has just started looks for its VMs: worth a moment. */
static bool try_again(long status, const json_t *answer, unsigned *tries)
{
    const char *code = json_string_value(json_object_get(json_object_get(answer, "error"), "code"));
    if (status != 503 || !code || strcmp(code, "starting") != 0 ||
        ++*tries > START_MS / JOB_POLL_MS)
        return false;
    poll(NULL, 0, JOB_POLL_MS);
    return true;
}

int client_status(struct cli *cli, const char *method, const char *path, json_t *take_body,
                  json_t **out, long *status)
{
    AUTO(json_decref) json_t *body = take_body;
    AUTO(free) char *text = body ? json_print(body) : NULL;
    unsigned tries = 0;
    *out = NULL;
    int r = find_socket(cli);
    if (r != CLI_OK)
        return r;
    do {
        json_decref(TAKE(*out));
        r = call_once(cli, method, path, text, out, status);
        if (r != CLI_OK)
            return r;
    } while (try_again(*status, *out, &tries));
    return CLI_OK;
}

int client_call(struct cli *cli, const char *method, const char *path, json_t *take_body,
                json_t **out)
{
    AUTO(json_decref) json_t *json = NULL;
    long status = 0;
    if (out)
        *out = NULL;
    int r = client_status(cli, method, path, take_body, &json, &status);
    if (r != CLI_OK)
        return r;
    if (status >= 400)
        return client_refused(json, status);
    if (out)
        *out = TAKE(json);
    return CLI_OK;
}

int client_text(struct cli *cli, const char *path, struct buf *out)
{
    long status = 0;
    int r = find_socket(cli);
    CURL *curl = r == CLI_OK ? curl_easy_init() : NULL;
    if (!curl)
        return r == CLI_OK ? CLI_FAILED : r;
    r = perform(curl, cli, "GET", path, NULL, out, &status);
    curl_easy_cleanup(curl);
    if (r == CLI_OK && status != 200) {
        cli_say("the daemon answers with status %ld", status);
        r = CLI_FAILED;
    }
    buf_add(out, "", 1);
    return r;
}

/* ---- jobs ---- */

static void progress(const struct cli *cli, const json_t *job)
{
    const char *stage = json_string_value(json_object_get(job, "stage"));
    const json_t *percent = json_object_get(job, "progress");
    if (!cli->tty || cli->json || cli->quiet)
        return;
    fprintf(stderr, "\r\033[K%s %s", json_string_value(json_object_get(job, "kind")),
            stage ? stage : "...");
    if (json_is_integer(percent))
        fprintf(stderr, " %lld %%", (long long)json_integer_value(percent));
    fflush(stderr);
}

int client_job(struct cli *cli, const json_t *answer)
{
    const char *id = json_string_value(json_object_get(answer, "id"));
    char path[100];
    bool shown = false;
    if (!id || !json_object_get(answer, "kind") || !cli->wait)
        return CLI_OK;
    snprintf(path, sizeof path, "/v1/jobs/%.60s", id);
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (;;) {
        AUTO(json_decref) json_t *job = NULL;
        int r = client_call(cli, "GET", path, NULL, &job);
        if (r != CLI_OK)
            return r;
        const char *state = json_string_value(json_object_get(job, "state"));
        bool over = state && strcmp(state, "running") != 0 && strcmp(state, "queued") != 0;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (!over && now.tv_sec - start.tv_sec >= 1) {
            progress(cli, job);
            shown = true;
        }
        if (over) {
            if (shown && cli->tty)
                fputs("\r\033[K", stderr);
            return strcmp(state, "done") == 0 ? CLI_OK : client_refused(job, 500);
        }
        poll(NULL, 0, JOB_POLL_MS);
    }
}
