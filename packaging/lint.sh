#!/usr/bin/env bash
# Everything that can be said of the source without running it.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
check() {
    local name=$1
    shift
    echo "lint: $name"
    "$@" || {
        echo "lint: $name found something" >&2
        failed=1
    }
}

formatted() {
    local files
    files=$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 gofmt -l)
    [ -z "$files" ] || {
        echo "$files"
        return 1
    }
}

# Generates into the tree; git then tells whether anything changed.
generated() {
    plugins/proto/generate.sh
    git diff --exit-code --stat -- plugins/proto
}

scripts() {
    local script
    for script in .ci/run $(git ls-files '*.sh'); do
        bash -n "$script" || return 1
    done
}

check gofmt formatted
check "go vet" go vet ./...
check staticcheck go tool staticcheck ./...
check "generated code" generated
check "shell syntax" scripts
exit $failed
