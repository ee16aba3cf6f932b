/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Lines are "NAME:FIRST:COUNT", with the user's name or number. */
#include "base/sub_range.h"

#include "base/cleanup.h"

#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool sub_range(const char *path, unsigned *first, unsigned *count)
{
    const struct passwd *user = getpwuid(geteuid());
    AUTO(file_close) FILE *file = fopen(path, "re");
    char line[300], who[200], number[16];
    snprintf(number, sizeof number, "%u", (unsigned)geteuid());
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "%199[^:]:%u:%u", who, first, count) == 3 && *count &&
            (strcmp(who, number) == 0 || (user && strcmp(who, user->pw_name) == 0)))
            return true;
    return false;
}
