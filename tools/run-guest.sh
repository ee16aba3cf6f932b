#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Boots the small Linux guest on this terminal:  run-guest.sh BUILD [more arguments of bedplate-vmm]
set -eu
[ $# -ge 1 ] || { sed -n '3s/^# //p' "$0" >&2; exit 2; }
vmm=$1/src/vmm/bedplate-vmm
shift
[ -x "$vmm" ] || { echo "run-guest: $vmm is not built" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
guest=$here/../.cache/guest
"$here/prepare-guest.sh" "$guest"
guest=$(cd "$guest" && pwd)

cmdline="console=ttyS0 quiet"
size=$(stty size 2>/dev/null || true)
case $size in
"" | "0 "*) ;;
*) cmdline="$cmdline bp.rows=${size% *} bp.cols=${size#* }" ;;
esac
echo "== starting the guest"
exec "$vmm" --engine auto --cpus 1 --memory 512M --kernel "$guest/vmlinuz" \
    --initrd "$guest/initrd.cpio" --disk "$guest/disk.img,format=raw" --net user --serial stdio \
    --cmdline "$cmdline" "$@"
