/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzes the decoder: any bytes in any mode give a length within the bytes, and the same answer
 * when more bytes follow.
 */
#include "engine/soft/insn.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check(const uint8_t *code, unsigned len, int mode)
{
    struct insn whole, part;
    bool gp;
    int r = insn_decode(code, len, mode, ~0ull, 0, &whole, &gp);
    assert(r <= (int)len && r <= 15 && r >= -1 && (!gp || (r == -1 && len >= 15)));
    assert(r != 0 || len < 15);
    if (r <= 0)
        return;
    assert(whole.fn && whole.row < insn_row_count && whole.len == r);
    assert(whole.base <= REG_RIP && whole.index <= REG_NONE && whole.reg < 16 && whole.rm < 16);

    /* One byte less is not enough, and exactly these bytes are. */
    assert(insn_decode(code, r - 1, mode, ~0ull, 0, &part, &gp) == 0);
    memset(&part, 0, sizeof part);
    assert(insn_decode(code, r, mode, ~0ull, 0, &part, &gp) == r && part.row == whole.row &&
           part.disp == whole.disp && part.imm == whole.imm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    insn_table_init();
    for (int mode = MODE_16; mode <= MODE_64; mode++) {
        for (size_t at = 0; at < len; at++) {
            unsigned n = len - at < 16 ? len - at : 16;
            uint8_t *exact = malloc(n); /* a sanitizer sees a read past the end */
            if (!exact)
                abort();
            memcpy(exact, data + at, n);
            check(exact, n, mode);
            free(exact);
        }
    }
    return 0;
}
