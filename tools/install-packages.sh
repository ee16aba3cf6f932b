#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Compares packages.txt with what is installed. As root it installs what is missing; otherwise it
# prints the one command that does, and fails.
set -eu
cd "$(dirname "$0")/.."

wanted=$(sed 's/#.*//' packages.txt | tr -s ' \t\n' ' ')
missing=
for package in $wanted; do
    case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) in
    installed*) ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "Packages are missing. Install them with this command, then try again:" >&2
    echo "    sudo apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
echo "== installing$missing"
export DEBIAN_FRONTEND=noninteractive
install_missing()
{
    # shellcheck disable=SC2086 # a list
    apt-get install -y --no-install-recommends $missing
}
# The package lists may be absent or too old: then fetch them and try once more.
install_missing || { echo "== fetching the package lists" && apt-get update && install_missing; }
