# Every target works on a fresh Debian 12 with Go; `make help` lists them.
# CONTRIBUTING.md says what the tiers of tests are and how to run one test.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := all

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
BUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)'

# The tiers, told apart by names: a test that boots a guest is TestGuest..., and
# what needs the S3 server lives in the packages of the S3 store.
GUESTS := ^TestGuest
S3_PACKAGES := ./transport/blob/s3/...
GUEST_PACKAGES = $(shell grep -rl --include='*_test.go' 'func TestGuest' . | xargs -r -n1 dirname | sort -u)
# Both lists are made when they are needed, once.
UNIT_PACKAGES = $(eval UNIT_PACKAGES := $(shell go list ./... | grep -v '/transport/blob/s3'))$(UNIT_PACKAGES)
# What takes many minutes under the race detector: tests that start their own binary
# again and again, as lull or as a plugin, the many lives of a repository, and the
# hundreds of crashes of a merge, which is one goroutine.
# `make test-race` has them too: run it after changes there.
SLOW_RACES = $(eval SLOW_RACES := $(shell go list ./cmd/... ./plugins/plugintest/... ./plugins/writers/postgresql ./plugins/writers/mariadb ./transport/repo ./snapshot/image/merge $(LONG_LOOPS)))$(SLOW_RACES)
# Long loops of one goroutine. Of these, the tests that start others run with the detector as well.
LONG_LOOPS := ./transport/repo/internal/index ./transport/repo/internal/tree
# So many packages are tested at once: many of them wait, for QEMU, databases and disks.
AT_ONCE := $(shell echo $$(($$(nproc) * 3 / 2)))
# So many tests of one package at once where one may wait for a minute: TestOutage does.
SIDE_BY_SIDE := $(shell echo $$(($$(nproc) * 2)))

.PHONY: all build setup setup-build setup-guest setup-s3 setup-bench setup-qemu10 generate lint test test-unit test-race test-guest test-s3 test-qemu10 fuzz bench bench-images bench-blocks bench-peers bench-scale soak sim demo clean help

all: build ## build bin/lull (the default)

build: ## build bin/lull, one static binary
	$(BUILD) -o bin/lull ./cmd/lull

setup: ## install everything that building and testing need
	packaging/setup.sh test

setup-build setup-guest setup-s3 setup-bench setup-qemu10: setup-%:
	@packaging/setup.sh $*

generate: setup-build ## make the generated code anew
	plugins/proto/generate.sh

lint: setup-build ## gofmt, go vet, staticcheck, and is generated code current
	packaging/lint.sh

test: setup ## every tier, real guests and a real S3 server included
	$(MAKE) --no-print-directory test-unit
	$(MAKE) --no-print-directory test-guest
	$(MAKE) --no-print-directory test-s3

test-unit: setup ## units and conformance kits; with the race detector where that takes no minutes
	go test -p $(AT_ONCE) -race -timeout 12m -skip '$(GUESTS)' $(filter-out $(SLOW_RACES),$(UNIT_PACKAGES))
	go test -p $(AT_ONCE) -race -run 'Concurrent|SharedBy' $(LONG_LOOPS)
	go test -p $(AT_ONCE) -parallel $(SIDE_BY_SIDE) -timeout 12m -skip '$(GUESTS)' $(SLOW_RACES)

test-race: setup ## units, all of them with the race detector
	go test -race -timeout 20m -skip '$(GUESTS)' $(UNIT_PACKAGES)

test-guest: setup ## what boots real virtual machines; two at a time
	go test -p 1 -parallel 2 -timeout 12m -run '$(GUESTS)' $(GUEST_PACKAGES)

test-s3: setup-build setup-s3 ## the S3 store against versitygw over TLS
	go test -timeout 12m $(S3_PACKAGES)

test-qemu10: export PATH := $(CURDIR)/.cache/qemu10/bin:$(PATH)
test-qemu10: setup ## what depends on QEMU with version 10 of Debian's backports, which is only unpacked
	qemu-system-x86_64 --version | grep -F 'version 10.'
	go test -timeout 12m ./snapshot/qemu
	go test -timeout 12m -run '^Test(Saver)?Conformance$$' ./snapshot/libvirt
	go test -p 1 -timeout 12m -run '^TestGuest(Night|SavedState|Checkpoint)$$' ./cmd/lull

fuzz: setup-build ## every fuzz target for FUZZTIME (5s)
	packaging/fuzz.sh $(or $(FUZZTIME),5s)

bench: setup build ## measure lull beside zstd and cp, incrementals of large disks, the transaction of many, the freeze window of a real guest, its pause where memory is saved, merges, and how long its writes wait
	packaging/bench.sh
	go test -run '^$$' -bench Incremental -benchtime 3x ./cmd/lull
	go test -run '^$$' -bench Take -benchtime 50x -timeout 30m ./snapshot/qemu
	go test -run '^$$' -bench FreezeWindow -benchtime 50x -timeout 60m ./cmd/lull
	go test -run '^$$' -bench 'Start|Window' -benchtime 100x ./plugins
	go test -run '^$$' -bench SavedState -benchtime 5x ./cmd/lull
	go test -run '^$$' -bench 'Merge' -benchtime 3x ./snapshot/qemu
	go test -run '^$$' -bench GuestWrites -benchtime 3x -timeout 60m ./cmd/lull

bench-images: setup-build setup-bench ## make the disk images of the next two, once, from Debian packages; needs root and 12 GB
	packaging/bench-images.sh

bench-blocks: bench-images ## ways to cut a disk into blocks: what each would store (docs/blocks.md)
	go run ./cmd/lull-bench blocks

bench-peers: bench-images setup-s3 build ## lull beside restic, borg, desync and others; 20 minutes, 30 GB
	go run ./cmd/lull-bench peers -rounds $(or $(ROUNDS),3)

bench-scale: setup-build ## an index of SCALE (100000000) blocks: memory, open, look-ups; 9 GB in SCALE_DIR
	LULL_SCALE=$(or $(SCALE),100000000) LULL_SCALE_DIR=$(SCALE_DIR) go test -run '^$$' -bench '^BenchmarkScale$$' -benchtime 1x -timeout 2h ./transport/repo/internal/index

soak: setup-build ## random lives of a repository for SOAK_MINUTES (10): hosts, prunes, crashes, copies; prints its seeds
	SOAK_MINUTES=$(or $(SOAK_MINUTES),10) go test -count=1 -run '^TestSoak$$' -v -timeout 24h ./transport/repo

sim: setup-build ## play a year of 10,000 hosts that share a repository
	go run ./cmd/lull-sim

demo: setup-guest build ## back up a real VM, destroy it, bring it back elsewhere
	go run ./cmd/lull-demo -lull bin/lull

clean: ## remove what was built; downloads stay in .cache
	rm -rf bin .cache/guest/image-* .cache/guest/partial*

help: ## say this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
