/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options of the soft engine. */
#include "engine/soft/options.h"

#include "base/checked.h"
#include "base/text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* What can be done without, to find where a wrong answer comes from. */
#define AT(field) offsetof(struct soft_options, field)
static const struct {
    const char *name;
    size_t at;
} switches[] = {
    { "jit", AT(jit) },           /* translated code */
    { "link", AT(link) },         /* blocks joined within a page */
    { "lookup", AT(lookup) },     /* the jump cache in translated code */
    { "quick", AT(quick) },       /* a table for each address space before it */
    { "sse", AT(sse) },           /* SSE and AVX on the host's registers */
    { "x87", AT(x87) },           /* x87 and MMX on the host's unit */
    { "windows", AT(windows) },   /* one check for several accesses */
    { "loops", AT(loops) },       /* jumps inside a block */
    { "pins", AT(pins) },         /* R12 to R15 in host registers in loops */
    { "syscall", AT(syscall) },   /* SYSCALL and SYSRET */
    { "granules", AT(granules) }, /* code is known by 64 bytes */
    { "tsc", AT(tsc) },           /* RDTSC from the host's TSC */
    { "last", AT(last) },         /* checks that remember a page */
    { "stack", AT(stack) },       /* RSP follows several pushes and pops at once */
};

static bool *switch_at(struct soft_options *o, unsigned n)
{
    return (bool *)((char *)o + switches[n].at);
}

static int unknown(const char *word, struct err *err)
{
    AUTO(buf_fini) struct buf names = { 0 };
    for (unsigned n = 0; n < ARRAY_LEN(switches); n++)
        buf_printf(&names, "%s=off, ", switches[n].name);
    return err_set(err, EINVAL,
                   "engine soft: option \"%s\" is not known; there are %.*sjit=block, hot=N, "
                   "code=SIZE or SIZE-MOST, trace=FILE and perf=on",
                   word, (int)names.len, (const char *)names.data);
}

static bool switch_off(const char *word, struct soft_options *o)
{
    for (unsigned n = 0; n < ARRAY_LEN(switches); n++) {
        size_t len = strlen(switches[n].name);
        if (strncmp(word, switches[n].name, len) == 0 && strcmp(word + len, "=off") == 0) {
            *switch_at(o, n) = false;
            return true;
        }
    }
    return false;
}

/* SIZE or SIZE-MOST */
static int code_parse(const char *text, struct soft_options *o, struct err *err)
{
    char first[24];
    const char *end = strchrnul(text, '-');
    snprintf(first, sizeof first, "%.*s", (int)(end - text), text);
    int r = size_parse(first, 1, &o->code, err);
    o->code_most = o->code;
    if (r == 0 && *end)
        r = size_parse(end + 1, 1, &o->code_most, err);
    if (r == 0 && (o->code < 128 << 10 || o->code_most < o->code || o->code_most > 1u << 30))
        r = err_set(err, EINVAL, "sizes are from 128K to 1G, the first no larger than the second");
    return r;
}

int soft_options_parse(const char *text, struct soft_options *out, struct err *err)
{
    struct soft_options o = { .translate_after = 16 };
    for (unsigned n = 0; n < ARRAY_LEN(switches); n++)
        *switch_at(&o, n) = true;
    while (text && *text) {
        const char *end = strchrnul(text, ',');
        char word[sizeof o.trace + 8];
        int r = 0;
        snprintf(word, sizeof word, "%.*s", (int)(end - text), text);
        if (strncmp(word, "hot=", 4) == 0)
            r = number_parse(word + 4, 0, 65000, &o.translate_after, err);
        else if (strncmp(word, "code=", 5) == 0)
            r = code_parse(word + 5, &o, err);
        else if (strncmp(word, "trace=", 6) == 0 && word[6])
            snprintf(o.trace, sizeof o.trace, "%s", word + 6);
        else if (strcmp(word, "perf=on") == 0)
            o.perf = true;
        else if (strcmp(word, "jit=block") == 0)
            o.jit = true;
        else if (!switch_off(word, &o))
            return unknown(word, err);
        if (r < 0)
            return err_prefix(err, "engine soft: option \"%s\"", word);
        text = *end ? end + 1 : end;
    }
    *out = o;
    return 0;
}
