package main

import (
	"slices"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/transport/repo"
)

// compression is how hard backups into r compress: as the flag says, else as the
// configuration does.
func (in *invocation) compression(r config.Repository) (repo.Compression, error) {
	if in.flags.compression == "" {
		return repo.Compression(r.Compression), nil
	}
	c := repo.Compression(in.flags.compression)
	if !slices.Contains(repo.Compressions(), c) {
		return "", withHint(usagef("--compression %s: unknown", in.flags.compression), "use auto, fast or best")
	}
	return c, nil
}
