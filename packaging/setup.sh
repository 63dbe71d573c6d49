#!/usr/bin/env bash
# Installs what building, testing and the demo need on Debian 12 that is not
# there yet. Go itself is expected. It is safe to run again, and fast when
# nothing is missing: then it asks neither for root nor for the network.
#
#   packaging/setup.sh PART...    parts: build, guest, s3, qemu10, test (all of these; the default), bench (for bench-peers)
set -euo pipefail
cd "$(dirname "$0")/.."

# What each part installs with apt-get.
# ca-certificates: Go fetches modules over TLS.
build_packages=(ca-certificates git make protobuf-compiler)
guest_packages=(ca-certificates qemu-system-x86 qemu-utils busybox-static e2fsprogs)
s3_packages=(ca-certificates openssl)
test_packages=(gcc libc6-dev python3 python3-argon2 python3-cryptography python3-grpcio python3-libvhdi python3-protobuf python3-zstandard qemu-block-extra ovmf nbdkit libnbd-bin libvirt-clients libvirt-daemon libvirt-daemon-driver-qemu mount swtpm swtpm-tools zstd xfsprogs sqlite3 time) # gcc: the race detector
bench_packages=(mmdebstrap e2fsprogs util-linux restic borgbackup casync zstd qemu-utils debian-archive-keyring)

# The module that is the S3 server of the tests.
versitygw=github.com/versity/versitygw/cmd/versitygw@v1.8.0

say() { echo "setup: $*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        say "must be root, or have sudo, to run: $*"
        return 1
    fi
}

# Package lists may name versions that the mirror has dropped since, so they
# are fetched anew, once, when anything is missing.
update_lists_once() {
    [ -z "${updated:-}" ] || return 0
    as_root apt-get -qq -o DPkg::Lock::Timeout=300 update
    updated=yes
}

install_missing() {
    local package missing=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    update_lists_once
    say "installing ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 install "${missing[@]}" >/dev/null
}

# The guest's kernel and agent are only unpacked, never installed on this host.
download_guest() {
    local dir=.cache/guest kernel partial
    if compgen -G "$dir/linux-image-*-cloud-amd64_*.deb" >/dev/null &&
        compgen -G "$dir/qemu-guest-agent_*.deb" >/dev/null; then
        return 0
    fi
    update_lists_once
    kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2; exit}')
    if [ -z "$kernel" ]; then
        say "the package lists do not name a kernel for linux-image-cloud-amd64; run apt-get update"
        return 1
    fi
    mkdir -p "$dir"
    partial=$(mktemp -d "$dir/partial.XXXXXX")
    say "downloading $kernel and qemu-guest-agent for the test guests"
    (cd "$partial" && apt-get -qq -o APT::Sandbox::User=root download "$kernel" qemu-guest-agent)
    mv "$partial"/*.deb "$dir/"
    rmdir "$partial"
}

# The databases of the test guests: what apt would install for them on an empty
# system, but for what only installs and configures, Perl, and PostgreSQL's LLVM.
database_roots=(postgresql-15 mariadb-server-core mariadb-client-core qemu-guest-agent util-linux coreutils dash)
not_needed='perl|libperl|.*-perl$|libdb5|libgdbm|libllvm|libz3|gcc-.*-base|dpkg$|tar$|usrmerge|init-system-helpers|sysvinit-utils|debconf|passwd|adduser|lsb-base|netbase|ssl-cert|sensible-utils|ucf$|postgresql-(client-)?common|mariadb-common|mysql-common|locales|libc-l10n|libc-bin|openssl|readline-common|libsemanage|libsepol|libpam-modules|.*-common$|util-linux-extra|tzdata'

download_databases() {
    local dir=.cache/guest/databases partial packages
    [ "$(cat "$dir/roots" 2>/dev/null)" != "${database_roots[*]}" ] || return 0
    update_lists_once
    packages=$(apt-get -s -o Dir::State::status=/dev/null --no-install-recommends install "${database_roots[@]}" |
        awk '/^Inst / {print $2}' | sort -u | grep -Ev "^($not_needed)")
    mkdir -p .cache/guest
    partial=$(mktemp -d .cache/guest/partial.XXXXXX)
    chmod 755 "$partial"
    say "downloading PostgreSQL and MariaDB for the test guests"
    # shellcheck disable=SC2086 # names of packages have no spaces
    (cd "$partial" && apt-get -qq -o APT::Sandbox::User=root download $packages)
    echo "${database_roots[*]}" >"$partial/roots"
    rm -rf "$dir"
    mv -T "$partial" "$dir"
}

# apt_of SUITE FOLDER sets own to the options with which apt finds, verifies and downloads
# packages of another Debian, by a list and folders of its own, which the host's apt does not
# see. What is downloaded so is only unpacked, that of unstable with its own libc, and never
# installed.
apt_of() {
    mkdir -p "$2/lists/partial" "$2/archives/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $1 main" >"$2/sources.list"
    : >"$2/status"
    own=(-qq -o Dir::Etc::SourceList="$2/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State="$2"
        -o Dir::State::status="$2/status" -o Dir::Cache="$2" -o APT::Sandbox::User=root -o Acquire::Languages=none
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o APT::Architectures=amd64)
    apt-get "${own[@]}" update
}

# MySQL is in no stable Debian: unstable has it.
mysql_roots=(mysql-server-core mysql-client-core)
not_needed_by_mysql='perl|libperl|libdb5|libgdbm|gcc-.*-base|openssl-provider-legacy|libc-gconv-modules|libsasl2-modules-db|.*-common$'

download_mysql() {
    local dir=.cache/guest/mysql partial packages own
    [ "$(cat "$dir/roots" 2>/dev/null)" != "${mysql_roots[*]}" ] || return 0
    mkdir -p .cache/guest
    partial=$(mktemp -d "$PWD/.cache/guest/partial.XXXXXX")
    chmod 755 "$partial"
    say "downloading MySQL of Debian unstable for the tests"
    apt_of sid "$partial/apt"
    packages=$(apt-get "${own[@]}" -s --no-install-recommends install "${mysql_roots[@]}" |
        awk '/^Inst / {print $2}' | sort -u | grep -Ev "^($not_needed_by_mysql)")
    # shellcheck disable=SC2086 # names of packages have no spaces
    (cd "$partial" && apt-get "${own[@]}" download $packages)
    rm -rf "$partial/apt"
    echo "${mysql_roots[*]}" >"$partial/roots"
    rm -rf "$dir"
    mv -T "$partial" "$dir"
}

# desync is in no stable Debian either.
download_desync() {
    local dir=${LULL_BENCH_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/lull-bench} partial own deb
    [ ! -x "$dir/desync/desync" ] || return 0
    mkdir -p "$dir"
    partial=$(mktemp -d "$(realpath "$dir")/partial.XXXXXX")
    mkdir "$partial/desync"
    say "downloading desync of Debian unstable"
    apt_of sid "$partial/apt"
    (cd "$partial" && apt-get "${own[@]}" download desync libc6)
    for deb in "$partial"/*.deb; do dpkg-deb -x "$deb" "$partial/desync/root"; done
    cat >"$partial/desync/desync" <<'SCRIPT'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/root
lib=$(echo "$root"/usr/lib/*-linux-gnu)
exec "$lib"/ld-linux*.so.* --library-path "$lib" "$root/usr/bin/desync" "$@"
SCRIPT
    chmod 755 "$partial/desync/desync"
    rm -rf "$dir/desync"
    mv -T "$partial/desync" "$dir/desync"
    rm -rf "$partial"
}

# A QEMU newer than Debian 12's, with all its modules: those that
# Debian 12's QEMU has on this host it would take for its own, and end.
newer_qemu=(qemu-system-x86 qemu-system-common qemu-system-data qemu-system-gui qemu-system-modules-opengl
    qemu-system-modules-spice qemu-block-extra qemu-utils seabios)

download_newer_qemu() {
    local dir=.cache/qemu10 partial own package program
    [ "$(cat "$dir/packages" 2>/dev/null)" != "${newer_qemu[*]}" ] || return 0
    partial=$(mktemp -d "$PWD/.cache/partial.XXXXXX")
    say "downloading QEMU 10 of Debian's backports for the tests"
    apt_of bookworm-backports "$partial/apt"
    (cd "$partial" && apt-get "${own[@]}" download "${newer_qemu[@]}")
    for package in "$partial"/*.deb; do dpkg-deb -x "$package" "$partial/root"; done
    mkdir "$partial/root/bin"
    for program in "$partial"/root/usr/bin/qemu-*; do
        cat >"$partial/root/bin/${program##*/}" <<'SCRIPT'
#!/bin/sh
QEMU_MODULE_DIR=$(echo "${0%/*}"/../usr/lib/*/qemu) exec "${0%/*}/../usr/bin/${0##*/}" "$@"
SCRIPT
    done
    chmod 755 "$partial"/root/bin/*
    echo "${newer_qemu[*]}" >"$partial/root/packages"
    rm -rf "$dir"
    mv -T "$partial/root" "$dir"
    rm -rf "$partial"
}

build_s3_server() {
    [ ! -x .cache/bin/versitygw ] || return 0
    mkdir -p .cache/bin
    say "building $versitygw"
    GOBIN=$PWD/.cache/bin go install "$versitygw"
}

setup_part() {
    case $1 in
    build) install_missing "${build_packages[@]}" ;;
    guest)
        install_missing "${guest_packages[@]}"
        download_guest
        download_databases
        download_mysql
        ;;
    s3)
        install_missing "${s3_packages[@]}"
        build_s3_server
        ;;
    bench)
        install_missing "${bench_packages[@]}"
        download_desync
        ;;
    test)
        setup_part build
        install_missing "${guest_packages[@]}" "${test_packages[@]}"
        setup_part guest
        setup_part s3
        setup_part qemu10
        ;;
    qemu10)
        install_missing "${guest_packages[@]}"
        download_newer_qemu
        ;;
    *)
        say "unknown part \"$1\": use build, guest, s3, test, bench or qemu10"
        return 2
        ;;
    esac
}

[ $# -gt 0 ] || set -- test
command -v go >/dev/null || {
    say "Go is missing: install Go 1.26 or newer from https://go.dev/dl and put it on PATH"
    exit 1
}
mkdir -p .cache
exec 9>.cache/setup.lock
flock 9 # one at a time: two runs would fight over dpkg's lock
for part in "$@"; do
    setup_part "$part"
done
