/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `auto` prefers the first engine of the table that runs here well, and takes one that is merely
 * slow only when there is no other: a KVM that emulates the guest's kernel (no VT-x underneath)
 * loses against our own engine.
 */
#include "vmm/engines.h"

#include <stdio.h>
#include <string.h>

#ifdef HAVE_ENGINE_KVM
extern const struct engine_type engine_kvm;
#endif
#ifdef HAVE_ENGINE_SOFT
extern const struct engine_type engine_soft;
#endif

const struct engine_type *const engine_types[] = {
#ifdef HAVE_ENGINE_KVM
    &engine_kvm,
#endif
#ifdef HAVE_ENGINE_SOFT
    &engine_soft,
#endif
    NULL,
};

static const struct engine_type *engine_find(const char *name)
{
    for (const struct engine_type *const *e = engine_types; *e; e++)
        if (strcmp((*e)->name, name) == 0)
            return *e;
    return NULL;
}

static int engine_named(const char *name, const struct engine_type **out, char *reason, size_t room,
                        struct err *err)
{
    const struct engine_type *engine = engine_find(name);
    if (!engine)
        return err_set(err, ENOSYS, "engine %s is not built into this program", name);
    bool slow = false;
    int r = engine->probe(&slow, err);
    if (r < 0)
        return err_prefix(err, "engine %s cannot run here", name);
    snprintf(reason, room, "%s, as asked%s", name,
             slow ? "; this host emulates the guest's kernel, so it is slow" : "");
    *out = engine;
    return 0;
}

static int engine_auto(const struct engine_type **out, char *reason, size_t room, struct err *err)
{
    const struct engine_type *best = NULL;
    bool best_slow = true;
    char why_not[400] = "";
    struct err why = { 0 };
    for (const struct engine_type *const *e = engine_types; *e && best_slow; e++) {
        bool slow = false;
        why = (struct err){ 0 };
        int r = (*e)->probe(&slow, &why);
        if (r < 0 || slow) {
            size_t at = strlen(why_not);
            snprintf(why_not + at, sizeof why_not - at, "%s%s: %s", at ? "; " : "", (*e)->name,
                     r < 0 ? why.text : "works, but this host emulates the guest's kernel");
        }
        if (r < 0 || (slow && best))
            continue;
        best = *e;
        best_slow = slow;
    }
    if (!best)
        return err_set(err, ENODEV, "no engine can run here (%s)", why_not);
    if (*why_not)
        snprintf(reason, room, "%s (%s)", best->name, why_not);
    else
        snprintf(reason, room, "%s (%s)", best->name, best->about);
    *out = best;
    return 0;
}

int engine_choose(const char *name, const struct engine_type **out, char *reason, size_t room,
                  struct err *err)
{
    if (strcmp(name, "auto") == 0)
        return engine_auto(out, reason, room, err);
    return engine_named(name, out, reason, room, err);
}

int engine_cpu_model(const struct engine_type *engine, const char *name,
                     const struct cpu_model **out, struct err *err)
{
    const struct cpu_model *model = name ? cpu_model_find(name) : NULL;
    if (!name && strcmp(engine->name, "kvm") == 0)
        model = cpu_model_find("host");
    if (!name && !model)
        model = cpu_model_find("x86-64-v2");
    if (!model)
        return err_set(err, EINVAL, "--cpu: there is no CPU model '%s'", name ? name : "x86-64-v2");
    if (!model->entries && strcmp(engine->name, "kvm") != 0)
        return err_set(err, EINVAL,
                       "--cpu: the engine %s cannot show the guest the CPU '%s'; take x86-64-v2",
                       engine->name, model->name);
    *out = model;
    return 0;
}
