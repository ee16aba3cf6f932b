/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The instruction table, assembled from the .def files.
 */
#include "engine/soft/insn.h"

#define ROW(map, opcode, pfx, mod, ext, rm, name, args, size, attr, feature, reads, writes, \
            undefined, handler)                                                             \
    extern const struct op handler;
#include "engine/soft/insn_all.def"
#undef ROW

const struct insn_row insn_rows[] = {
#define ROW(map, opcode, pfx, mod, ext, rm, name, args, size, attr, feature, reads, writes, \
            undefined, handler)                                                             \
    { name, map,     opcode, pfx,   mod,    ext,       rm,      ARGS_LIST args,             \
      size, feature, attr,   reads, writes, undefined, &handler },
#include "engine/soft/insn_all.def"
#undef ROW
};
_Static_assert(sizeof insn_rows / sizeof *insn_rows <= INSN_ROWS_MAX, "insn.row has room");
const unsigned insn_row_count = sizeof insn_rows / sizeof *insn_rows;
