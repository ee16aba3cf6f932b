#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds components of Debian's installer from their sources, for a mirror that does not have them all:
#     build-udebs.sh MIRROR RELEASE FOLDER SOURCE...
# FOLDER gets the udebs of the source packages, for install.py --udeb. Needs mmdebstrap, and root or user namespaces.
set -eu
[ $# -ge 4 ] || { sed -n '4s/^# *//p' "$0" >&2; exit 2; }
mirror=$1 release=$2 folder=$3
shift 3
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What apt fetched has been compared with the signed index. A detached signature of upstream's may be missing: then
# apt-get fails, and there is still all that is built from.
cat >"$work/build.sh" <<'END'
set -eu
export DEB_BUILD_OPTIONS="nocheck parallel=2" DEB_BUILD_PROFILES="nocheck nodoc" DEBIAN_FRONTEND=noninteractive
echo "$SOURCE_LINE" | sed 'p;s/^deb/deb-src/' >/etc/apt/sources.list
apt-get -q update
mkdir /udebs
for source; do
    apt-get -q -y build-dep --no-install-recommends "$source/$RELEASE"
    mkdir -p "/build/$source/tree"
    cd "/build/$source"
    apt-get -q --download-only --only-source source "$source/$RELEASE" || ls ./*.tar.*
    # A source of Debian's own is one archive, the others have theirs of upstream and Debian's on top of it.
    if [ -e ./*.debian.tar.?z ]; then
        tar -C tree --strip-components=1 -xf ./*.orig.tar.?z
        tar -C tree -xf ./*.debian.tar.?z
    else
        tar -C tree --strip-components=1 -xf ./*.tar.?z
    fi
    (cd tree && dpkg-buildpackage -us -uc -b)
    cp ./*.udeb /udebs
done
END
line="deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main"
mmdebstrap --variant=buildd --format=null --customize-hook="upload '$work/build.sh' /build.sh" \
    --customize-hook="chroot \"\$1\" env RELEASE=$release SOURCE_LINE='$line' sh /build.sh $*" \
    --customize-hook="sync-out /udebs '$folder'" "$release" /dev/null "$line"
