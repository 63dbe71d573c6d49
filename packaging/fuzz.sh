#!/usr/bin/env bash
# Runs every fuzz target of the module for a while, one after another.
#   packaging/fuzz.sh [TIME]     (5s for each)
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:-5s}
found=0
while IFS=: read -r file target; do
    echo "fuzz: $target in $(dirname "$file")"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$(dirname "$file")" </dev/null
    found=$((found + 1))
done < <(git grep -o --untracked -E '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | sed 's/:func /:/')
echo "fuzz: $found targets, $time each, nothing found"
