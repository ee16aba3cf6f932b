#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Debian 12 on this terminal, kept by the user's own daemon:  run-debian.sh BUILD [options of `bedplate run`]
# The first time its image and the VM are made; later the VM goes on, and options change it.
set -eu
[ $# -ge 1 ] || { sed -n '3,4s/^# //p' "$0" >&2; exit 2; }
program=$1/src/cli/bedplate
shift
name=debian-12

bedplate() { "$program" --user "$@"; }

echo "== starting $name; Ctrl-A D leaves it running, poweroff in it ends it"
echo "== from another terminal: $program --user ssh $name, list, stop $name, delete $name, ..."
if bedplate --quiet list | grep -qx "$name"; then
    [ $# = 0 ] || bedplate edit "$name" "$@"
    bedplate start "$name"
    bedplate console "$name"
else
    bedplate run "$name" "$@"
fi
