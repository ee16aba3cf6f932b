/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The order at the lock: the root first, which takes a capability, then the ids, which ends them.
 */
#include "vmm/jail.h"

#include "base/cleanup.h"
#include "base/confine.h"
#include "base/helper.h"
#include "base/text.h"
#include "jail/jail.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>

void jail_begin(struct jail *out)
{
    const char *text = getenv(JAIL_VARIABLE);
    *out = (struct jail){ .uid = -1, .gid = -1, .broker = -1 };
    if (!text ||
        sscanf(text, "%d %d %d %63s", &out->uid, &out->gid, &out->broker, out->spaces) != 4)
        return;
    unsetenv(JAIL_VARIABLE);
    out->in = true;
    if (strcmp(out->spaces, "-") == 0)
        out->spaces[0] = 0;
    if (out->broker >= 0)
        fcntl(out->broker, F_SETFD, FD_CLOEXEC);
    helper_ask(out->broker);
}

bool jail_has_mounts(const struct jail *jail) { return strstr(jail->spaces, "mount") != NULL; }

void jail_lock(struct jail *jail)
{
    helper_ask(-1);
    fd_close(TAKE_FD(jail->broker));
    if (jail_has_mounts(jail))
        jail->empty_root = confine_empty_root("bedplate-vmm");
    if (jail->uid >= 0)
        jail->own_ids = confine_ids((uid_t)jail->uid, (gid_t)jail->gid);
}
