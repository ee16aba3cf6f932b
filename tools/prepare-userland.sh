#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Prepares the Debian guest that `make boot` starts:  prepare-userland.sh [FOLDER [SOURCE...]]
# FOLDER (.cache/userland) gets base/ (a link: root.img, vmlinuz, initrd.img, ssh_key, known_hosts) and for each SOURCE
# (basic) a folder source-SOURCE with the packages of userland/source-SOURCE.txt and what they need, for apt in the guest.
#
# A base is never changed once made, because disks are overlays over it. When the recipe changes, a new one is made
# beside it, and the old one goes when no disk of FOLDER (disk.base) uses it. Neither step needs root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$here/../.cache/userland}
[ $# = 0 ] || shift
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
PATH=$PATH:/sbin:/usr/sbin

# Two at once would work on the same names.
exec 9>"$dir/lock"
flock 9

say() { echo "== userland: $*"; }
fail() { echo "prepare-userland: $*" >&2; exit 1; }

. "$here/../src/images/debian.sh"

# ---- the base: kernel, initramfs, root file system ----

PACKAGES=linux-image-cloud-amd64,systemd-sysv,dbus,libpam-systemd,openssh-server,ca-certificates,less,wget,zstd

base_build()
{
    tmp=$dir/base.tmp
    rm -rf "$tmp"
    mkdir -p "$tmp/make"
    sources_write "$tmp/make/sources.list"
    ssh-keygen -q -t ed25519 -N '' -C "root of the guest" -f "$tmp/ssh_key"
    say "making a Debian 12 root file system: downloading and installing some 200 packages"
    proxies >"$tmp/make/apt.conf"
    mmdebstrap --variant=important --include="$PACKAGES" --aptopt="$tmp/make/apt.conf" \
        --customize-hook="$here/userland/customize.sh \"\$1\"" \
        --customize-hook="upload '$tmp/ssh_key.pub' /root/.ssh/authorized_keys" \
        --customize-hook="chroot \"\$1\" chmod 600 /root/.ssh/authorized_keys" \
        --format=tar bookworm "$tmp/make/root.tar" "$tmp/make/sources.list" ||
        fail "mmdebstrap could not make the root file system (its messages are above)"
    say "making its disk"
    disk_make "$tmp/make/root.tar" "$tmp" 8G
    sed 's/^/guest /' "$tmp/host_key.pub" >"$tmp/known_hosts"
    rm "$tmp/host_key.pub"
    rm -rf "$tmp/make"
}

base_prepare()
{
    key=$(cat "$here/prepare-userland.sh" "$here/../src/images/debian.sh" "$here/userland/customize.sh" | sha256sum | cut -c1-12)
    [ -e "$dir/base-$key/known_hosts" ] || {
        base_build
        rm -rf "$dir/base-$key"
        mv "$dir/base.tmp" "$dir/base-$key"
    }
    ln -sfn "base-$key" "$dir/base"
    used=$(cat "$dir/disk.base" 2>/dev/null || true)
    for old in "$dir"/base-*; do
        case ${old##*/} in
        "base-$key" | "$used") ;;
        *) rm -rf "$old" ;;
        esac
    done
}

# ---- package sources ----

# The packages of a list and what the base lacks of their dependencies, as apt resolves them.
source_build()
{
    work=$dir/source.tmp
    rm -rf "$work"
    mkdir -p "$work/apt/etc/apt/preferences.d" "$work/apt/etc/apt/apt.conf.d" "$work/apt/var/lib/apt/lists/partial" \
        "$work/apt/var/cache/apt/archives/partial" "$work/source"
    sources_write "$work/apt/etc/apt/sources.list"
    sed -i '/^deb /{p;s/^deb /deb-src /}' "$work/apt/etc/apt/sources.list"
    cp "$dir/base/status" "$work/apt/status"
    {
        printf '%s "%s";\n' Dir "$work/apt" Dir::State::status "$work/apt/status" APT::Sandbox::User "$(id -un)" \
            Dir::Etc::TrustedParts /etc/apt/trusted.gpg.d APT::Architecture amd64 \
            APT::Install-Recommends false Acquire::Languages none
        proxies
    } >"$work/apt.conf"
    say "fetching the packages of the source '$1'"
    binaries=$(sed -e 's/#.*//' -e '/^src:/d' "$here/userland/source-$1.txt")
    sources=$(sed -n 's/^src://p' "$here/userland/source-$1.txt")
    export APT_CONFIG="$work/apt.conf"
    apt-get -q update || fail "cannot fetch the package lists"
    # shellcheck disable=SC2086 # lists
    apt-get -qq -y --download-only install $binaries </dev/null || fail "cannot fetch packages"
    # shellcheck disable=SC2086
    [ -z "$sources" ] || (cd "$work/source" && apt-get -qq -t bookworm --download-only source $sources) || fail "cannot fetch sources"
    mv "$work/apt/var/cache/apt/archives"/*.deb "$work/source"
    # The indexes are written elsewhere first, for else they would list themselves.
    (
        cd "$work/source"
        apt-ftparchive packages . >"$work/Packages"
        apt-ftparchive sources . >"$work/Sources"
        mv "$work/Packages" "$work/Sources" .
        apt-ftparchive release . >"$work/Release"
        mv "$work/Release" .
    )
    unset APT_CONFIG
    du -sh "$work/source" | while read -r size _; do say "it has $(ls "$work/source"/*.deb | wc -l) packages, $size"; done
    rm -rf "$dir/source-$1"
    mv "$work/source" "$dir/source-$1"
    rm -rf "$work"
}

source_prepare()
{
    [ -e "$here/userland/source-$1.txt" ] || fail "there is no source '$1' (userland/source-$1.txt)"
    key=$(readlink "$dir/base"; cat "$here/userland/source-$1.txt")
    [ "$(cat "$dir/source-$1/key" 2>/dev/null)" != "$key" ] || return 0
    source_build "$1"
    echo "$key" >"$dir/source-$1/key"
}

base_prepare
[ $# != 0 ] || set -- basic
for source; do
    source_prepare "$source"
done
