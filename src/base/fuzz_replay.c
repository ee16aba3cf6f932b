/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The main of an x_fuzz.c in ordinary builds: runs it over the empty input and over every file of
 * the folders and files given. No input at all is a failure: a corpus that got lost should be
 * noticed.
 */
#include "base/text.h"

#include <dirent.h>
#include <sys/stat.h>

enum { INPUT_MAX = 64 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int replay_file(const char *path)
{
    AUTO(buf_fini) struct buf input = { 0 };
    struct err err = { 0 };
    if (file_read(path, INPUT_MAX, &input, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return -1;
    }
    /* Of its exact size, so that a sanitizer sees a read past the end. */
    uint8_t *exact = malloc(input.len ? input.len : 1);
    if (!exact)
        abort();
    for (size_t i = 0; i < input.len; i++)
        exact[i] = input.data[i];
    LLVMFuzzerTestOneInput(exact, input.len);
    free(exact);
    return 1;
}

static int replay_path(const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0) {
        perror(path);
        return -1;
    }
    if (!S_ISDIR(st.st_mode))
        return replay_file(path);

    struct dirent **names;
    int n = scandir(path, &names, NULL, alphasort);
    if (n < 0) {
        perror(path);
        return -1;
    }
    int ran = 0;
    for (int i = 0; i < n; i++) {
        char file[4096];
        snprintf(file, sizeof file, "%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.' && ran >= 0)
            ran = replay_file(file) < 0 ? -1 : ran + 1;
        free(names[i]);
    }
    free(names);
    return ran;
}

int main(int argc, char **argv)
{
    static const uint8_t nothing[1];
    LLVMFuzzerTestOneInput(nothing, 0);

    int total = 0;
    for (int i = 1; i < argc; i++) {
        int ran = replay_path(argv[i]);
        if (ran < 0)
            return 1;
        total += ran;
    }
    printf("%d inputs\n", total);
    return total ? 0 : 1;
}
