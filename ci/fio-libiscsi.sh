#!/usr/bin/env bash
# Makes an fio that speaks iSCSI itself: Debian builds its own without libiscsi's engine. The source is Debian's;
# the program is kept in .cache/fio and not built again. Prints its path.
# Usage: ci/fio-libiscsi.sh
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$PWD/.cache/fio
fio=$cache/bin/fio
if [ -x "$fio" ]; then
    echo "$fio"
    exit 0
fi
{
    mkdir -p "$cache/apt/lists/partial" "$cache/bin"
    sudo=""
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    missing=()
    for p in gcc make pkg-config dpkg-dev libc6-dev libiscsi-dev zlib1g-dev libaio-dev; do
        dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        DEBIAN_FRONTEND=noninteractive $sudo apt-get update -q
        DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q --no-install-recommends "${missing[@]}"
    fi
    # Sources come from wherever this machine gets its packages; the system's own lists stay as they are.
    : >"$cache/apt/sources.list"
    for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -f "$list" ] && sed -n 's/^deb /deb-src /p' "$list" >>"$cache/apt/sources.list"
    done
    rm -rf "$cache/apt/parts"
    mkdir -p "$cache/apt/parts"
    for list in /etc/apt/sources.list.d/*.sources; do
        [ -f "$list" ] && sed 's/^Types:.*/Types: deb-src/' "$list" >"$cache/apt/parts/${list##*/}"
    done
    apt=(-q -o "Dir::Etc::sourcelist=$cache/apt/sources.list" -o "Dir::Etc::sourceparts=$cache/apt/parts"
        -o "Dir::State::lists=$cache/apt/lists" -o "Dir::Cache::srcpkgcache=" -o "Dir::Cache::pkgcache="
        -o "APT::Sandbox::User=root")
    apt-get "${apt[@]}" update
    rm -rf "$cache/src"
    mkdir -p "$cache/src"
    (cd "$cache/src" && apt-get "${apt[@]}" source fio)
    source=$(find "$cache/src" -mindepth 1 -maxdepth 1 -type d -name 'fio-*' | head -n 1)
    [ -n "$source" ] || { echo "fio-libiscsi: no source was fetched"; exit 1; }
    (
        cd "$source"
        ./configure --enable-libiscsi --disable-native
        grep -q '^CONFIG_LIBISCSI=y' config-host.mak || { echo "fio-libiscsi: configured without libiscsi"; exit 1; }
        make -j"$(nproc)" fio
    )
    cp "$source/fio" "$fio.new"
    "$fio.new" --enghelp | grep -q libiscsi || { echo "fio-libiscsi: built without the engine"; exit 1; }
    mv "$fio.new" "$fio"
    rm -rf "$cache/src" "$cache/apt"
} >&2
echo "$fio"
