#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Fuzzes one parser with clang's libFuzzer and the address and undefined sanitizers:
#   fuzz.sh NAME [SECONDS]       NAME_fuzz.c under src/, seeds from tests/corpus/NAME/
# New inputs stay in .cache/fuzz/NAME; what crashes is written there too. Copy what is worth keeping
# to tests/corpus/NAME, where every ordinary test run replays it.
set -eu
[ $# -ge 1 ] || { sed -n '4s/^# *//p' "$0" >&2; exit 2; }
cd "$(dirname "$0")/.."
source=$(find src -name "$1_fuzz.c" | head -n 1)
[ -n "$source" ] || { echo "fuzz: there is no $1_fuzz.c under src/" >&2; exit 1; }
[ -e build-fuzz/build.ninja ] || CC="ccache clang" meson setup build-fuzz -Dfuzz=true \
    -Db_sanitize=address,undefined -Db_lundef=false
program=${source%.c}
ninja -C build-fuzz "$program"
mkdir -p ".cache/fuzz/$1"
# Entropic costs more than it finds where an input makes a machine.
exec "build-fuzz/$program" -entropic=0 -max_total_time="${2:-60}" -artifact_prefix=".cache/fuzz/$1/" \
    ".cache/fuzz/$1" "tests/corpus/$1"
