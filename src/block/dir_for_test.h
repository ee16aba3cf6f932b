/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A directory of its own for a test program, with all that its cases leave in it. */
#ifndef BLOCK_DIR_FOR_TEST_H
#define BLOCK_DIR_FOR_TEST_H

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>

static char dir[64];

static int dir_setup(void **state)
{
    log_set_level(LOG_ERROR, LOG_ERROR);
    snprintf(dir, sizeof dir, "/tmp/bedplate-test-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int dir_teardown(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

#endif
