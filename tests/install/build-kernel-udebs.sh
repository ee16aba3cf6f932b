#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Makes the kernel's components of Debian's installer from the kernel's package, for a mirror that does not have them:
#     build-kernel-udebs.sh MIRROR RELEASE KERNEL FOLDER
# KERNEL is the installer's, as its log says (6.12.107+deb13). FOLDER gets the udebs for install.py --udeb: the modules of
# linux-image-KERNEL-amd64, divided by Debian's kernel-wedge as the source package linux-signed-amd64 says.
set -eu
[ $# = 4 ] || { sed -n '4s/^# *//p' "$0" >&2; exit 2; }
mirror=$1 release=$2 kernel=$3
mkdir -p "$4"
folder=$(cd "$4" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/sbin:/usr/sbin
fail() { echo "build-kernel-udebs: $*" >&2; exit 1; }
. "$here/../../src/images/debian.sh"
for tool in kernel-wedge depmod dpkg-gencontrol; do
    command -v $tool >/dev/null || fail "$tool is missing; install kernel-wedge, kmod and dpkg-dev"
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

mkdir -p apt/etc/apt/preferences.d apt/etc/apt/apt.conf.d apt/var/lib/apt/lists/partial apt/var/cache/apt/archives/partial
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" |
    sed 'p;s/^deb/deb-src/' >apt/etc/apt/sources.list
{
    printf '%s "%s";\n' Dir "$work/apt" Dir::State::status /dev/null APT::Sandbox::User "$(id -un)" APT::Architecture amd64
    proxies
} >apt.conf
export APT_CONFIG="$work/apt.conf"
apt-get -q update
apt-get -q download "linux-image-$kernel-amd64"
package=$(echo linux-image-*.deb)
# As in build-udebs.sh: a mirror may lack the description of a source whose archive it has.
apt-get -q --download-only --only-source source \
    "linux-signed-amd64=$(dpkg-deb -W --showformat '${source:Version}' "$package")" || ls linux-signed-amd64_*.tar.*
unset APT_CONFIG

dpkg-deb -x "$package" image
[ -d image/lib/modules ] || ln -s usr/lib image/lib # where kernel-wedge looks
mkdir source
tar -C source --strip-components=1 -xf linux-signed-amd64_*.tar.*
cd source
export KW_DEFCONFIG_DIR=debian/installer KW_CONFIG_DIR=debian/installer SOURCEDIR="$work/image"
kernel-wedge copy-modules "$kernel" amd64 "$kernel-amd64"
version=$(dpkg-deb -f "../$package" Version)
for tree in debian/*-modules-*-di; do
    name=${tree#debian/}
    mkdir "$tree/DEBIAN"
    dpkg-gencontrol -p"$name" -P"$tree" -v"$version" -n"${name}_${version}_amd64.udeb"
    dpkg-deb -Zxz -z1 --root-owner-group --build "$tree" "$folder/${name}_${version}_amd64.udeb"
done
