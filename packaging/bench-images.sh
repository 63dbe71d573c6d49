#!/usr/bin/env bash
# Makes the three disk images that the benchmarks measure, from real Debian packages:
#
#   a.raw    VM A: a server with a compiler, a 1 GiB database, a day of logs
#   b.raw    VM B: the same distribution, other packages
#   a2.raw   VM A a day later: what Debian has upgraded since its last point release is
#            upgraded in place, packages come and go, 3.5 % of the database's
#            pages are rewritten, and its log is written over
#
# Usage: packaging/bench-images.sh [FOLDER]
#   FOLDER           default: $LULL_BENCH_DIR/images, else ${XDG_CACHE_HOME:-~/.cache}/lull-bench/images
#   LULL_BENCH_RELEASE   Debian release (bookworm)
#
# Images that are there already stay. They take some 10 GB. The packages are what
# the mirror has today; everything else is the same in every run. Needs root: the
# images are mounted, in a mount and process namespace of their own, so that
# mounts, loop devices and processes end with the script, however it ends.
set -euo pipefail
cd "$(dirname "$0")/.."

images=$(realpath -m "${1:-${LULL_BENCH_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/lull-bench}/images}")
release=${LULL_BENCH_RELEASE:-bookworm}
mirror=http://deb.debian.org/debian
size=8G

both=(linux-image-amd64 grub-pc-bin openssh-server locales vim-nox git curl rsync python3 ca-certificates tmux htop man-db)
only_a=(build-essential gdb postgresql nginx python3-numpy python3-scipy openjdk-17-jre-headless nodejs subversion)
only_b=(build-essential apache2 php php-mysql mariadb-server samba bind9 python3-django ruby-full imagemagick)
come=(redis-server php-cli libboost-dev)
go_away=(subversion gdb)

say() { echo "bench-images: $*" >&2; }

# make_image NAME SEED PACKAGE...: a Debian system on a new file system.
make_image() {
    local name=$1 seed=$2 list
    shift 2
    list=$(IFS=,; echo "$*")
    truncate -s "$size" "$images/$name.partial"
    mke2fs -q -F -t ext4 -U "6c756c6c-0000-4000-8000-00000000000$seed" -E "hash_seed=6c756c6c-0000-4000-8000-00000000000$seed" \
        "$images/$name.partial"
    inside "$images/$name.partial" trimmed mmdebstrap --quiet --mode=root --variant=important --include="$list" \
        --aptopt='Apt::Install-Recommends "true"' "$release" /mnt "deb $mirror $release main"
}

# inside IMAGE COMMAND...: with the image mounted on /mnt, where nobody else sees it.
# The loop device goes with the mount, the mount with the namespace.
inside() {
    setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --propagation private \
        bash -c 'set -euo pipefail; mount -o loop "$0" /mnt; "$@"; sync -f /mnt; umount /mnt' "$@"
}

# a_day runs inside: apt-get as an administrator would, then the day's writes.
a_day() {
    local file
    for file in proc dev; do mount --rbind "/$file" "/mnt/$file"; done
    printf '#!/bin/sh\nexit 101\n' > /mnt/usr/sbin/policy-rc.d # no service starts
    chmod 755 /mnt/usr/sbin/policy-rc.d
    cp /etc/resolv.conf /mnt/etc/resolv.conf
    cat > /mnt/etc/apt/sources.list <<SOURCES
deb $mirror $release main
deb $mirror $release-updates main
deb $mirror-security $release-security main
SOURCES
    in_guest apt-get -qq update
    in_guest apt-get -qq -y dist-upgrade
    in_guest apt-get -qq -y remove "${go_away[@]}"
    in_guest apt-get -qq -y autoremove
    in_guest apt-get -qq -y install "${come[@]}"
    rm /mnt/usr/sbin/policy-rc.d
    umount -R /mnt/proc /mnt/dev
    "$fill" fill -root /mnt -day 1
}

in_guest() {
    DEBIAN_FRONTEND=noninteractive LC_ALL=C chroot /mnt "$@" < /dev/null > "$images/$1.log" 2>&1 || {
        tail -n 20 "$images/$1.log" >&2
        return 1
    }
}

# trimmed runs inside: what installing left behind and deleted is no content. A day
# later nobody has trimmed yet.
trimmed() {
    "$@"
    fstrim /mnt
}

done_with() { # the image is whole: give it its name
    mv "$images/$1.partial" "$images/$1"
    say "$1: $(($(stat -c '%b * %B' "$images/$1") / 1000000)) MB in use"
}

if [ -s "$images/a.raw" ] && [ -s "$images/b.raw" ] && [ -s "$images/a2.raw" ]; then
    exit 0
fi
[ "$(id -u)" = 0 ] || { say "must be root, to mount the images"; exit 1; }
mkdir -p "$images"
rm -f "$images"/*.partial
fill=$images/lull-bench
go build -o "$fill" ./cmd/lull-bench
export images release mirror fill
export -f a_day in_guest say trimmed

if [ ! -s "$images/a.raw" ]; then
    say "making a.raw (minutes)"
    make_image a.raw 1 "${both[@]}" "${only_a[@]}"
    inside "$images/a.raw.partial" "$fill" fill -root /mnt -day 0
    done_with a.raw
fi
if [ ! -s "$images/b.raw" ]; then
    say "making b.raw (minutes)"
    make_image b.raw 2 "${both[@]}" "${only_b[@]}"
    done_with b.raw
fi
say "living through a day: a2.raw"
cp --sparse=always "$images/a.raw" "$images/a2.raw.partial"
inside "$images/a2.raw.partial" bash -c "come=(${come[*]}) go_away=(${go_away[*]}); set -euo pipefail; a_day"
done_with a2.raw
rm -f "$fill" "$images"/*.log
