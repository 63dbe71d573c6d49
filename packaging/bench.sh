#!/usr/bin/env bash
# Measures lull beside zstd and cp in one run on this machine and prints ratios.
# Usage: packaging/bench.sh [FOLDER]     (called by `make bench`)
#
# The image is a raw ext4 file system filled with this machine's own /usr, so its
# content is real; its size is printed. Every program reads it from the page
# cache. Numbers from different runs or machines do not compare; the ratios do.
set -euo pipefail

lull=$(realpath "${LULL:-bin/lull}")
work=$(mktemp -d "${1:-${TMPDIR:-/tmp}}/lull-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
export LULL_PASSPHRASE=benchmark XDG_CACHE_HOME="$work/cache" XDG_STATE_HOME="$work/state"
image="$work/disk.raw" size_mib=${LULL_BENCH_MIB:-8192}

say() { printf '%s\n' "$*"; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

# measure NAME COMMAND...: wall seconds, processor seconds and peak memory (MiB)
# into the variables wall, cpu and peak.
measure() {
  local name=$1; shift
  sync
  /usr/bin/time -f '%e %U %S %M' -o "$work/time" "$@" > "$work/out" 2> "$work/err" || { say "$name failed:"; cat "$work/err"; exit 1; }
  read -r wall user system kib < <(tail -n 1 "$work/time")
  cpu=$(awk -v u="$user" -v s="$system" 'BEGIN { printf "%.2f", u + s }')
  peak=$((kib / 1024))
  printf '  %-34s %8s s wall %8s s cpu %6s MiB\n' "$name" "$wall" "$cpu" "$peak"
}

say "Image: ext4 with /usr of this machine, $size_mib MiB raw"
truncate -s "${size_mib}M" "$image"
mke2fs -q -F -t ext4 -d /usr "$image" 2> "$work/mke2fs.err" || { cat "$work/mke2fs.err"; exit 1; }
used=$(du -B1 "$image" | cut -f1)
cat "$image" > /dev/null
say "  $((used / 1000000)) MB in use"
say

say "Full backup into a directory"
measure "zstd -1 -T2 image > file" sh -c 'zstd -q -1 -T2 -c "$1" > "$2"' sh "$image" "$work/disk.zst"
zstd_wall=$wall zstd_cpu=$cpu zstd_size=$(stat -c %s "$work/disk.zst")
rm "$work/disk.zst"
"$lull" init --quiet --repo "$work/repo"
measure "lull backup (first)" "$lull" backup --quiet --repo "$work/repo" --image "$image" --format raw --name disk
full_wall=$wall full_cpu=$cpu full_peak=$peak full_size=$(du -sB1 "$work/repo" | cut -f1)
measure "lull backup (unchanged)" "$lull" backup --quiet --repo "$work/repo" --image "$image" --format raw --name disk
again_wall=$wall again_size=$(du -sB1 "$work/repo" | cut -f1)
"$lull" init --quiet --repo "$work/fast"
measure "lull backup --compression fast" "$lull" backup --quiet --compression fast --repo "$work/fast" --image "$image" --format raw --name disk
fast_wall=$wall fast_cpu=$cpu fast_size=$(du -sB1 "$work/fast" | cut -f1)
rm -rf "$work/fast"
say

say "Restore"
measure "cp --sparse=always, then fsync" sh -c 'cp --sparse=always "$1" "$2" && sync "$2"' sh "$image" "$work/copy.raw"
cp_wall=$wall
rm "$work/copy.raw"
measure "lull restore" "$lull" restore disk --quiet --repo "$work/repo" --to "$work/out-dir"
restore_wall=$wall restore_peak=$peak
cmp "$image" "$work/out-dir/disk.raw"
say "  restored bytes are equal"
say

say "| measure | result |"
say "|---|---:|"
say "| full backup, wall, to \`zstd -1 -T2\` | $(ratio "$full_wall" "$zstd_wall") |"
say "| full backup, processor time, to \`zstd -1 -T2\` | $(ratio "$full_cpu" "$zstd_cpu") |"
say "| full backup, stored bytes to \`zstd -1\` | $(ratio "$full_size" "$zstd_size") |"
say "| full backup, MB a processor second | $(awk -v b="$used" -v c="$full_cpu" 'BEGIN { printf "%.0f", b / 1e6 / c }') |"
say "| full backup, \`--compression fast\`, wall and processor time, to \`zstd -1 -T2\` | $(ratio "$fast_wall" "$zstd_wall"), $(ratio "$fast_cpu" "$zstd_cpu") |"
say "| full backup, \`--compression fast\`, stored bytes to \`zstd -1\` | $(ratio "$fast_size" "$zstd_size") |"
say "| second backup, wall, to the first | $(ratio "$again_wall" "$full_wall") |"
say "| second backup, bytes added | $((again_size - full_size)) |"
say "| restore, wall, to \`cp --sparse=always\` | $(ratio "$restore_wall" "$cp_wall") |"
say "| peak memory, backup and restore, MiB | $full_peak, $restore_peak |"
