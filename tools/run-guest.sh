#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Boots a Linux guest on this terminal:  run-guest.sh BUILD userland|small [more arguments of bedplate-vmm]
# userland is a Debian 12, small an initramfs with busybox.
set -eu
[ $# -ge 2 ] || { sed -n '3,4s/^# //p' "$0" >&2; exit 2; }
vmm=$1/src/vmm/bedplate-vmm
img=$1/src/img/bedplate-img
guest=$2
shift 2
[ -x "$vmm" ] || { echo "run-guest: $vmm is not built" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
cache=$here/../.cache

cmdline="console=ttyS0 quiet"
size=$(stty size 2>/dev/null || true)
case $size in
"" | "0 "*) ;;
*) cmdline="$cmdline bp.rows=${size% *} bp.cols=${size#* }" ;;
esac

run_small()
{
    "$here/prepare-guest.sh" "$cache/guest"
    dir=$(cd "$cache/guest" && pwd)
    echo "== starting the guest"
    exec "$vmm" --engine auto --cpus 1 --memory 512M --kernel "$dir/vmlinuz" \
        --initrd "$dir/initrd.cpio" --disk "$dir/disk.img,format=raw" --net user --serial stdio \
        --cmdline "$cmdline" "$@"
}

# The first port from 2222 on where nobody listens.
port_free()
{
    python3 -c 'import socket, sys
for port in range(2222, 2322):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            continue
        sys.exit(print(port))
sys.exit("run-guest: all ports from 2222 to 2321 are taken")'
}

run_userland()
{
    "$here/prepare-userland.sh" "$cache/userland"
    dir=$(cd "$cache/userland" && pwd)
    # The disk is an overlay over the base that was current then, and stays with that one's kernel.
    if [ ! -e "$dir/disk.qcow2" ]; then
        echo "== userland: making disk.qcow2, an overlay over its disk"
        readlink "$dir/base" >"$dir/disk.base"
        "$img" create -q -f qcow2 -b "$(cat "$dir/disk.base")/root.img" -F raw "$dir/disk.qcow2.tmp"
        mv "$dir/disk.qcow2.tmp" "$dir/disk.qcow2"
    fi
    base=$(cat "$dir/disk.base")
    [ "$base" = "$(readlink "$dir/base")" ] ||
        echo "== userland: disk.qcow2 is of an older recipe; remove $dir/disk.qcow2 for a new one"
    dir_base=$dir/$base

    port=$(port_free)
    cat >"$dir/ssh_config" <<END
Host guest
    HostName 127.0.0.1
    Port $port
    User root
    IdentityFile $dir_base/ssh_key
    IdentitiesOnly yes
    UserKnownHostsFile $dir_base/known_hosts
    HostKeyAlias guest
END
    # The server of packages ends with this process, which becomes the VMM.
    rm -f "$dir/port"
    mkfifo "$dir/port"
    "$here/userland/serve.py" "$dir/source-basic" >"$dir/port" &
    read -r source_port <"$dir/port"
    rm "$dir/port"
    echo "== starting Debian 12; poweroff ends it, Ctrl-A X pulls the plug, the disk is kept"
    echo "== by ssh:  ssh -F .cache/userland/ssh_config guest      (port $port)"
    echo "== in it:   apt-get update && apt-get install htop       ($(ls "$dir"/source-basic/*.deb | wc -l) packages)"
    exec "$vmm" --engine auto --cpus 2 --memory 1G --kernel "$dir_base/vmlinuz" \
        --initrd "$dir_base/initrd.img" --disk "$dir/disk.qcow2,format=qcow2" \
        --net "user,hostfwd=tcp:127.0.0.1:$port-:22" --serial stdio \
        --cmdline "$cmdline root=/dev/vda bp.source=http://10.0.2.2:$source_port" "$@"
}

case $guest in
small | userland) "run_$guest" "$@" ;;
*)
    echo "run-guest: no guest '$guest'; there are userland and small" >&2
    exit 2
    ;;
esac
