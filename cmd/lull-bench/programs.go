package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// role is what a program is measured for.
type role int

const (
	lull      role = iota
	peer           // keeps all three images in one repository, as lull does
	reference      // one file an image: compression or copying alone
)

// program is a program at one setting.
type program struct {
	name, setting string
	role          role
	needs         string // the executable
	timed         bool   // in every round, and restored from; others back up once, for their sizes
	compresses    bool
	fastest       bool // of its program's settings

	prepare func(place) []step
	backup  func(p place, m image) step
	restore func(p place, m image, to string) step // of timed ones; nil: none
}

func (p *program) String() string { return strings.TrimSpace(p.name + " " + p.setting) }

// place is a program's own folder.
type place struct {
	dir  string // everything that it keeps but the repository
	repo string
}

// label names a backup of an image.
func label(m image) string { return strings.TrimSuffix(m.file, ".raw") }

const passphrase = "benchmark"

// programs are all that take part, lull first.
func programs(lullBinary, desyncBinary string, fast bool) []*program {
	all := []*program{lullProgram(lullBinary, "default")}
	if fast {
		best := lullProgram(lullBinary, "best")
		best.timed = false
		all = append(all, lullProgram(lullBinary, "fast"), best)
	}
	all = append(all, resticPrograms()...)
	all = append(all, borgPrograms()...)
	all = append(all, desyncPrograms(desyncBinary)...)
	all = append(all, casyncProgram())
	all = append(all, references()...)
	// Those that are timed come first, close to each other.
	slices.SortStableFunc(all, func(a, b *program) int {
		switch {
		case a.timed == b.timed:
			return 0
		case a.timed:
			return -1
		}
		return 1
	})
	return all
}

// present drops what is not installed, and says so.
func present(all []*program, say func(format string, args ...any)) []*program {
	var here []*program
	for _, p := range all {
		if _, err := exec.LookPath(p.needs); err != nil {
			say("%s: not installed, left out", p)
			continue
		}
		here = append(here, p)
	}
	return here
}

func lullProgram(binary, setting string) *program {
	run := func(p place, args ...string) step {
		args = append([]string{binary, "--quiet", "--config", filepath.Join(p.dir, "lull.yaml"), "--repository", "main"}, args...)
		return step{args: args, env: []string{"LULL_PASSPHRASE=" + passphrase}}
	}
	return &program{
		name: "lull", setting: setting, role: lull, needs: binary, timed: true, compresses: true, fastest: setting == "fast",
		prepare: func(p place) []step { return []step{run(p, "init")} },
		backup: func(p place, m image) step {
			return run(p, "backup", "--image", m.path, "--format", "raw", "--name", m.vm)
		},
		restore: func(p place, m image, to string) step { return run(p, "restore", m.vm, "--to", to) },
	}
}

// resticPrograms read the whole image again for an unchanged backup, as lull does
// of a raw image: --force passes over what the file's time says.
func resticPrograms() []*program {
	with := func(setting string, timed bool, flags ...string) *program {
		run := func(p place, args ...string) step {
			env := []string{"RESTIC_PASSWORD=" + passphrase, "RESTIC_CACHE_DIR=" + filepath.Join(p.dir, "cache"), "HOME=" + p.dir}
			return step{args: append([]string{"restic", "--quiet", "--repo", p.repo}, args...), env: env}
		}
		return &program{
			name: "restic", setting: setting, role: peer, needs: "restic", timed: timed,
			prepare: func(p place) []step { return []step{run(p, "init", "--repository-version", "2")} },
			backup: func(p place, m image) step {
				return run(p, append([]string{"backup", "--force", "--tag", label(m), m.path}, flags...)...)
			},
			restore: func(p place, m image, to string) step {
				return run(p, "restore", "latest", "--tag", label(m), "--target", to)
			},
		}
	}
	byDefault := with("default", true, "--compression", "auto")
	byDefault.compresses = true
	off := with("--compression off", false, "--compression", "off")
	off.fastest = true
	smallest := with("--compression max", false, "--compression", "max", "--pack-size", "64")
	smallest.compresses = true
	return []*program{byDefault, smallest, off}
}

func borgPrograms() []*program {
	with := func(setting string, timed bool, flags ...string) *program {
		run := func(p place, args ...string) step {
			env := []string{"BORG_PASSPHRASE=" + passphrase, "BORG_BASE_DIR=" + p.dir, "BORG_REPO=" + p.repo, "HOME=" + p.dir}
			return step{args: append([]string{"borg"}, args...), env: env, dir: p.dir}
		}
		return &program{
			name: "borg", setting: setting, role: peer, needs: "borg", timed: timed, compresses: true,
			prepare: func(p place) []step { return []step{run(p, "init", "--encryption", "repokey-blake2")} },
			backup: func(p place, m image) step {
				args := append([]string{"create", "--files-cache", "disabled"}, flags...)
				return run(p, append(args, fmt.Sprintf("::%s-{now:%%s%%f}", label(m)), m.path)...)
			},
			restore: func(p place, m image, to string) step {
				s := run(p)
				// The name has a time in it: a shell finds the newest.
				s.args = []string{"sh", "-c", `cd "$1" && borg extract --sparse "::$(borg list --short --glob-archives "$2-*" --last 1)"`, "sh", to, label(m)}
				return s
			},
		}
	}
	byDefault := with("lz4 (default)", true, "--compression", "lz4")
	fixedSize := with("lz4, fixed 4 MiB", true, "--compression", "lz4", "--sparse", "--chunker-params", "fixed,4194304")
	fixedSize.fastest = true
	small := with("zstd 3, 64 KiB", false, "--compression", "zstd,3", "--chunker-params", "buzhash,12,18,16,4095")
	page := with("zstd 3, fixed 16 KiB", false, "--compression", "zstd,3", "--sparse", "--chunker-params", "fixed,16384")
	return []*program{byDefault, fixedSize, small, page}
}

// desyncPrograms encrypt nothing, and make the same index again for an unchanged image.
func desyncPrograms(binary string) []*program {
	with := func(setting string, timed bool, flags ...string) *program {
		run := func(p place, command string, flags []string, args ...string) step {
			words := slices.Concat([]string{binary, command, "--store", filepath.Join(p.repo, "store")}, flags, args)
			return step{args: words, env: []string{"HOME=" + p.dir}}
		}
		index := func(p place, m image) string { return filepath.Join(p.repo, label(m)+".caibx") }
		return &program{
			name: "desync", setting: setting, role: peer, needs: binary, timed: timed, compresses: true,
			prepare: func(p place) []step {
				return []step{{args: []string{"mkdir", filepath.Join(p.repo, "store")}}}
			},
			backup: func(p place, m image) step { return run(p, "make", flags, index(p, m), m.path) },
			restore: func(p place, m image, to string) step {
				return run(p, "extract", nil, index(p, m), filepath.Join(to, m.file))
			},
		}
	}
	return []*program{with("64 KiB (default)", true), with("16 KiB", false, "--chunk-size", "4:16:64")}
}

// casyncProgram keeps chunks in the form of desync's. It encrypts nothing.
func casyncProgram() *program {
	return &program{
		name: "casync", setting: "64 KiB (default)", role: peer, needs: "casync", compresses: true,
		backup: func(p place, m image) step {
			return step{args: []string{"casync", "make", "--store=" + filepath.Join(p.repo, "store.castr"), filepath.Join(p.repo, label(m)+".caibx"), m.path}}
		},
	}
}

func references() []*program {
	shell := func(name, needs string, timed bool, backup string) *program {
		return &program{
			name: name, role: reference, needs: needs, timed: timed, compresses: needs != "cp",
			backup: func(p place, m image) step {
				return step{args: []string{"sh", "-c", backup, "sh", m.path, filepath.Join(p.repo, label(m))}}
			},
		}
	}
	zstd := shell("zstd -1 -T2", "zstd", true, `zstd -q -1 -T2 -c "$1" > "$2"`)
	qemu := shell("qemu-img convert -c", "qemu-img", false, `qemu-img convert -c -f raw -O qcow2 "$1" "$2"`)
	cp := shell("cp --sparse=always, fsync", "cp", true, `cp --sparse=always "$1" "$2" && sync "$2"`)
	// Copying back is the measure for restores.
	cp.restore = func(_ place, m image, to string) step {
		return step{args: []string{"sh", "-c", `cp --sparse=always "$1" "$2" && sync "$2"`, "sh", m.path, filepath.Join(to, m.file)}}
	}
	return []*program{zstd, qemu, cp}
}
