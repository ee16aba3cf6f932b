/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A configuration file, or (first byte odd) a command line with a word on each line. */
#include "vmm/options.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    AUTO(options_fini) struct options options = { 0 };
    struct err err = { 0 };
    if (!len || !(data[0] & 1)) {
        options_parse_json((const char *)data + (len ? 1 : 0), len ? len - 1 : 0, &options, &err);
        return 0;
    }
    AUTO(free) char *text = strndup((const char *)data + 1, len - 1);
    char *argv[40] = { (char *)"bedplate-vmm" };
    int argc = 1;
    for (char *rest = text, *word; argc < 39 && (word = strsep(&rest, "\n"));) {
        if (strncmp(word, "--config", 8) == 0) /* would open files */
            return 0;
        argv[argc++] = word;
    }
    options_parse(argc, argv, &options, &err);
    return 0;
}
