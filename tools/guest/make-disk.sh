#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Makes a raw 64 MiB ext4 disk with a few files and their checksums:  make-disk.sh FILE
set -eu
[ $# = 1 ] || { sed -n '3s/^# //p' "$0" >&2; exit 2; }
PATH=$PATH:/sbin:/usr/sbin
tmp=$1.tmp.$$
trap 'rm -rf "$tmp" "$tmp.files"' EXIT

mkdir -p "$tmp.files/folder"
echo "This file lies on the guest's disk." >"$tmp.files/hello.txt"
# Some MiB that are the same everywhere, and a file with a hole.
seq 1 500000 >"$tmp.files/folder/numbers"
echo end | dd of="$tmp.files/folder/sparse" bs=1 seek=3000000 2>/dev/null
(cd "$tmp.files" && sha256sum hello.txt folder/* >SHA256SUMS)

rm -f "$tmp"
truncate -s 64M "$tmp"
mke2fs -q -t ext4 -L bedplate -E root_owner=0:0,lazy_itable_init=0 -d "$tmp.files" "$tmp"
mv "$tmp" "$1"
