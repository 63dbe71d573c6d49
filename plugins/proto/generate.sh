#!/bin/sh
# Makes writer.pb.go and writer_grpc.pb.go again from writer.proto, with Debian's
# protoc and the generators that go.mod pins. The output does not depend on the
# machine but for protoc's version, which is part of it.
set -eu
cd "$(dirname "$0")"

command -v protoc >/dev/null || {
	echo "generate.sh: protoc is missing: install the Debian package protobuf-compiler" >&2
	exit 1
}

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
for tool in protoc-gen-go protoc-gen-go-grpc; do
	printf '#!/bin/sh\nexec go tool %s "$@"\n' "$tool" >"$bin/$tool"
	chmod +x "$bin/$tool"
done

PATH="$bin:$PATH" protoc --proto_path=. \
	--go_out=. --go_opt=paths=source_relative \
	--go-grpc_out=. --go-grpc_opt=paths=source_relative \
	writer.proto
